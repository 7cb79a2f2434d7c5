"""Recipes for proxy data (digits, and pretraining on CIFAR-10 instead of ImageNet), and the default recipe.

These settings are not from a paper. The `digits_...` recipes run the methods of S. Han et al., "Animal face
classification based on deep learning", on data that need no download.
"""

import dataclasses
from typing import Any

from train.recipe import (
    Augmentation,
    ModelOptions,
    Normalization,
    Optimizer,
    Pixels,
    Plateau,
    Recipe,
    Stage,
    with_values,
)
from train.recipes import afhq

# Handwritten digits are slanted and shifted, hence the augmentation. Halving the learning rate on a plateau removes the
# noise that a constant rate leaves.
DIGITS = Recipe(
    name="digits",
    model="sam_alexnet_tiny",
    model_options=ModelOptions(norm_momentum=0.9, dropout_rate=0.1),
    dataset="digits",
    batch_size=32,
    stages=(
        Stage(
            epochs=20,
            optimizer=Optimizer(learning_rate=1e-3),
            plateau=Plateau(factor=0.5, patience=2),
            augment=Augmentation(rotation=10, shift_x=0.08, shift_y=0.08),
        ),
    ),
)
# Optax's Adam with Keras's default learning rate, betas and epsilon. (Keras adds epsilon before the bias correction,
# like `keras_adam`, which is used in the recipes of papers that trained in Keras.)
DEFAULT = dataclasses.replace(
    DIGITS,
    name="default",
    model_options=ModelOptions(),
    stages=(Stage(epochs=10, optimizer=Optimizer(learning_rate=1e-3)),),
)

# Pretraining on CIFAR-10, as a proxy for ImageNet weights.
PRETRAINING = Stage(
    name="pretraining",
    epochs=5,
    optimizer=Optimizer(learning_rate=2e-3, schedule="cosine"),
    augment=Augmentation(flip=True, shift_x=0.1, shift_y=0.1),
)
PRETRAINING_BATCH_SIZE = 64

# Digits resized to 28x28, as MNIST, with pixels in [0, 1] and the Bernoulli likelihood that VaDE's paper uses for such
# data. At the original 8x8, the likelihood of 64 pixels is small compared to the KL terms, whose weight does not depend
# on the image size: VaDE then gains nothing over k-means (78.7 and 78.5% of the training images, seed 0), and GMVAE
# collapses to 3.7 effective clusters of 10 (33%).
DIGITS_PIXELS: dict[str, Any] = {
    "dataset": "digits",
    "image_size": 28,
    "features": Pixels(),
    "normalization": Normalization(),
    "feature_scaling": "none",
}
DIGITS_CLUSTERING = {
    **DIGITS_PIXELS,
    "model_options": ModelOptions(likelihood="bernoulli"),
    "stages.*.optimizer.learning_rate": 1e-3,
    "stages.*.epochs": 50,
}
DIGITS_IMAGES: dict[str, Any] = {
    "dataset": "digits",
    "image_size": 32,
    "model_options": ModelOptions(input_shape=(32, 32, 3), widths=(16, 32, 64), bottleneck=64),
}

DIGITS_VADE = with_values(afhq.VADE, {"name": "digits_vade", **DIGITS_CLUSTERING})
DIGITS_GMVAE = with_values(afhq.GMVAE, {"name": "digits_gmvae", **DIGITS_CLUSTERING})
DIGITS_CAE = with_values(afhq.CAE, {"name": "digits_cae", **DIGITS_IMAGES})
