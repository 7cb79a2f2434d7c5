"""Miniatures: any recipe of a paper in seconds, through the same code.

What makes a run long goes: the model becomes the tiny one of its family, the data eight digits of each class,
the epochs one per stage. What makes it that run stays: stages and their starts, objectives, frozen parts,
optimizers, augmentation, probes, noise, and what it takes over from other rows.
"""

import dataclasses
from collections.abc import Mapping

from train.recipe import JobWeights, ModelOptions, Pixels, Recipe, RunFeatures, Stage


@dataclasses.dataclass(frozen=True)
class Miniature:
    """The tiny model that takes the place of another."""

    model: str
    image_size: int
    options: ModelOptions = dataclasses.field(default_factory=ModelOptions)  # make it the same net
    # Freezing patterns of the large model: about the same share of the tiny one.
    freeze: Mapping[str, str] = dataclasses.field(default_factory=dict)


_CIFAR_ALEXNET = Miniature(
    "deconv_alexnet_tiny",
    28,
    ModelOptions(deconv_widths=(), deconv_kernels=(), norm=False),
)
_DECONV_ALEXNET = Miniature("deconv_alexnet_tiny", 28)
_VGG = Miniature("vgg_tiny", 32)
_RESNET = Miniature("resnet_tiny", 64)

# Every model of a paper's rows and grids, those of their proxies included.
MINIATURES: dict[str, Miniature] = {
    "sam_alexnet": Miniature("sam_alexnet_tiny", 64),
    "pig_alexnet": Miniature("sam_alexnet_tiny", 64, ModelOptions(attention=False)),
    "alexnet": Miniature("alexnet_tiny", 67),
    "cifar_alexnet_1": _CIFAR_ALEXNET,
    "cifar_alexnet_2": _CIFAR_ALEXNET,
    "deconv_alexnet_1": _DECONV_ALEXNET,
    "deconv_alexnet_2": _DECONV_ALEXNET,
    "vgg16": _VGG,
    "vgg_tiny": _VGG,
    "resnet50": _RESNET,
    "resnet_tiny": _RESNET,
    # Seven children in place of nineteen.
    "mobilenet_v2": Miniature("mobilenet_v2_tiny", 32, freeze={"features.:14": "features.:5"}),
    "conv_autoencoder": Miniature("conv_autoencoder_tiny", 32),
    "vade": Miniature("vade_tiny", 8),
    "gmvae": Miniature("gmvae_tiny", 8),
}
# Options that give the sizes of a net; the others are a family's, and a tiny variant has them, too.
SIZES = {
    "bottleneck",
    "head_widths",
    "input_shape",
    "input_size",
    "last_width",
    "latent_size",
    "prior_widths",
    "stem_width",
    "table",
    "w_size",
    "width",
    "widths",
}


def smoke(recipe: Recipe) -> Recipe:
    """The miniature of a recipe, without published weights.

    Raises KeyError for a model that has none.
    """
    if recipe.model not in MINIATURES:
        raise KeyError(f"no tiny model takes the place of {recipe.model}: add it to MINIATURES")
    miniature = MINIATURES[recipe.model]
    own = {name: value for name, value in recipe.model_options.items() if name not in SIZES}
    of_row = isinstance(recipe.features, RunFeatures) and isinstance(
        recipe.features.run, JobWeights
    )
    return dataclasses.replace(
        recipe,
        model=miniature.model,
        model_options=ModelOptions(own | miniature.options),
        pretrained=recipe.pretrained if isinstance(recipe.pretrained, JobWeights) else None,
        dataset="digits",
        data_dir=None,
        # Images whose features another row's net computes are of that net's size.
        image_size=None if of_row else miniature.image_size,
        batch_size=16,
        images_per_class=8,
        features=recipe.features if of_row or recipe.features is None else Pixels(),
        stages=tuple(_short(stage, miniature) for stage in recipe.stages),
    )


def _short(stage: Stage, miniature: Miniature) -> Stage:
    augment = dataclasses.replace(
        stage.augment, crops_per_image=min(stage.augment.crops_per_image, 2)
    )
    freeze = tuple(miniature.freeze.get(pattern, pattern) for pattern in stage.freeze)
    return dataclasses.replace(stage, epochs=1, freeze=freeze, augment=augment)
