"""Miniatures: any recipe of a document in seconds, through the same code.

What makes a run long goes: the model becomes the tiny one of its family, the data eight digits of each class,
the epochs one a stage. What makes it that run stays: stages and their starts, objectives, frozen parts,
optimisers, augmentation, probes, noise, and what it takes over from other rows.
"""

import dataclasses
import re

from train.recipe import Recipe, Stage

# Its tiny variant, that one's image size, and what else makes it the same net.
TINY: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "sam_alexnet": ("sam_alexnet_tiny", 64, ()),
    "pig_alexnet": ("sam_alexnet_tiny", 64, ("attention=False",)),
    "alexnet": ("alexnet_tiny", 67, ()),
    "cifar_alexnet": (
        "deconv_alexnet_tiny",
        28,
        ("deconv_widths=()", "deconv_kernels=()", "norm=False"),
    ),
    "deconv_alexnet": ("deconv_alexnet_tiny", 28, ()),
    "vgg": ("vgg_tiny", 32, ()),
    "resnet": ("resnet_tiny", 64, ()),
    "mobilenet_v2": ("mobilenet_v2_tiny", 32, ()),
    "conv_autoencoder": ("conv_autoencoder_tiny", 32, ()),
    "vade": ("vade_tiny", 8, ()),
    "gmvae": ("gmvae_tiny", 8, ()),
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
# Of mobilenet_v2_tiny's seven children, about as many as features.:14 are of nineteen.
FROZEN_CHILDREN = "features.:5"


def smoke(recipe: Recipe) -> Recipe:
    """The miniature of a recipe; what it takes from published weights, it goes without.

    Raises KeyError for a model of no family that is known here.
    """
    family = max((name for name in TINY if recipe.model.startswith(name)), key=len, default=None)
    if family is None:
        raise KeyError(f"no tiny model stands in for {recipe.model}: add its family to TINY")
    model, size, options = TINY[family]
    own = tuple(o for o in recipe.model_options if o.partition("=")[0].strip() not in SIZES)
    features = recipe.features
    if features and not features.startswith("row:"):
        features = "pixels"
    pretrained = recipe.pretrained
    if pretrained and not pretrained.startswith("row:"):
        pretrained = None
    return dataclasses.replace(
        recipe,
        model=model,
        model_options=(*own, *options),
        pretrained=pretrained,
        dataset="digits",
        data_dir=None,
        # The images of a net whose features are taken are of that net's size.
        image_size=None if features and features != "pixels" else size,
        batch_size=16,
        images_per_class=8,
        features=features,
        stages=tuple(_short(stage) for stage in recipe.stages),
    )


def _short(stage: Stage) -> Stage:
    augment = dataclasses.replace(
        stage.augment, crops_per_image=min(stage.augment.crops_per_image, 2)
    )
    freeze = tuple(re.sub(r"^features\.:\d+$", FROZEN_CHILDREN, part) for part in stage.freeze)
    return dataclasses.replace(stage, epochs=1, freeze=freeze, augment=augment)
