"""Smoke versions of a paper's recipes: the same code, in seconds.

The model is replaced by the tiny one of its family, the data by eight digits per class, and each stage trains for one
epoch. Stages and their starts, objectives, frozen parameters, optimizers, augmentation, probes, noise and weights from
other rows stay the same.
"""

import dataclasses
from collections.abc import Mapping

from train.recipe import (
    JobWeights,
    ModelOptions,
    Normalization,
    Pixels,
    Recipe,
    RunFeatures,
    Stage,
)


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """The tiny model that replaces another in smoke runs."""

    model: str
    image_size: int
    options: ModelOptions = dataclasses.field(
        default_factory=ModelOptions
    )  # match the architecture
    # Freezing patterns of the large model -> patterns that freeze about the same fraction of the tiny one.
    freeze: Mapping[str, str] = dataclasses.field(default_factory=dict)


_CIFAR_ALEXNET = TinyModel(
    "deconv_alexnet_tiny",
    28,
    ModelOptions(deconv_widths=(), deconv_kernels=(), norm=False),
)
_DECONV_ALEXNET = TinyModel("deconv_alexnet_tiny", 28)
_VGG = TinyModel("vgg_tiny", 32)
_RESNET = TinyModel("resnet_tiny", 64)

# Every model of a paper's rows and grids, including those of their proxies.
TINY_MODELS: dict[str, TinyModel] = {
    "sam_alexnet": TinyModel("sam_alexnet_tiny", 64),
    "pig_alexnet": TinyModel("sam_alexnet_tiny", 64, ModelOptions(attention=False)),
    "alexnet": TinyModel("alexnet_tiny", 67),
    "alexnet_original": TinyModel("alexnet_original_tiny", 67),
    "cifar_alexnet_1": _CIFAR_ALEXNET,
    "cifar_alexnet_2": _CIFAR_ALEXNET,
    "deconv_alexnet_1": _DECONV_ALEXNET,
    "deconv_alexnet_2": _DECONV_ALEXNET,
    "vgg16": _VGG,
    "vgg_tiny": _VGG,
    "resnet50": _RESNET,
    "resnet_tiny": _RESNET,
    # `features` has 7 children instead of 19.
    "mobilenet_v2": TinyModel("mobilenet_v2_tiny", 32, freeze={"features.:14": "features.:5"}),
    "conv_autoencoder": TinyModel("conv_autoencoder_tiny", 32),
    "vade": TinyModel("vade_tiny", 8),
    "gmvae": TinyModel("gmvae_tiny", 8),
}
# Options that set the size of a net. All other options are shared by the whole family, including the tiny variant.
SIZE_OPTIONS = {
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


def smoke_recipe(recipe: Recipe) -> Recipe:
    """Return the smoke version of a recipe, without published weights.

    Raises KeyError for a model without a tiny counterpart.
    """
    if recipe.model not in TINY_MODELS:
        raise KeyError(f"{recipe.model} has no tiny counterpart: add it to TINY_MODELS")
    tiny = TINY_MODELS[recipe.model]
    options = {k: v for k, v in recipe.model_options.items() if k not in SIZE_OPTIONS}
    features_of_row = isinstance(recipe.features, RunFeatures) and isinstance(
        recipe.features.run, JobWeights
    )
    return dataclasses.replace(
        recipe,
        model=tiny.model,
        model_options=ModelOptions(options | tiny.options),
        pretrained=recipe.pretrained if isinstance(recipe.pretrained, JobWeights) else None,
        dataset="digits",
        data_dir=None,
        # Features from another row's net need images of that net's size.
        image_size=None if features_of_row else tiny.image_size,
        batch_size=16,
        images_per_class=8,
        validation_fraction=0.1,
        features=recipe.features if features_of_row or recipe.features is None else Pixels(),
        normalization=recipe.normalization if recipe.features is None else Normalization(),
        stages=tuple(_smoke_stage(stage, tiny) for stage in recipe.stages),
    )


def _smoke_stage(stage: Stage, tiny: TinyModel) -> Stage:
    augment = dataclasses.replace(
        stage.augment, crops_per_image=min(stage.augment.crops_per_image, 2)
    )
    freeze = tuple(tiny.freeze.get(pattern, pattern) for pattern in stage.freeze)
    return dataclasses.replace(stage, epochs=1, batch_size=None, freeze=freeze, augment=augment)
