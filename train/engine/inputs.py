"""What a model is given: images, with their resize rule and arithmetic, or vectors.

Either says how the host loads a split (`training`, `evaluation`) and what the compiled step does to what was loaded
(`for_training`, `for_evaluation`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

import zoo
from datasets.dataset import VectorSplit
from datasets.images.augment import augment, example_keys
from datasets.pipeline import ImageSamples, Samples
from train.recipe import Augmentation, InputError, Stage, flag_of
from zoo.common.resize import ResizeRule

# Fields of an Augmentation that say how images are fed, not how they are changed.
FEEDING = frozenset(["resize", "crops_per_image"])


@dataclasses.dataclass(frozen=True)
class ImageInputs:
    """Images of one size. `preprocessing` is that of evaluation and of `best/`: see `image_inputs`."""

    preprocessing: zoo.Preprocessing
    decoder: Literal["exact", "fast"] = "exact"  # of training images; evaluation is always exact

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image: height, width, channels."""
        return (*self.preprocessing.input_size, 3)

    def evaluation(self, split: Any) -> Samples:
        """The images of a split as the host loads them for evaluation: uint8 [H, W, 3]."""
        return ImageSamples(split, self.preprocessing.rule)

    def training(self, split: Any, augmentation: Augmentation) -> Samples:
        """The images of a split as the host loads them for a training step: uint8 [H, W, 3], or larger where the
        step takes random windows."""
        return ImageSamples(
            split, training_rule(self.preprocessing.rule, augmentation), self.decoder
        )

    def for_training(
        self, images: jax.Array, index: jax.Array, key: jax.Array, augmentation: Augmentation
    ) -> jax.Array:
        """What the model sees in a training step, float32 [B, H, W, 3], of loaded images uint8 [B, ...].

        An image's changes depend on the key and on the visit's number in `index` alone.
        """
        return normalize(self.augmented(images, index, key, augmentation), self.preprocessing)

    def augmented(
        self, images: jax.Array, index: jax.Array, key: jax.Array, augmentation: Augmentation
    ) -> jax.Array:
        """`for_training` before the arithmetic: float32 [B, H, W, 3] in 0..255."""
        changes = {k: v for k, v in dataclasses.asdict(augmentation).items() if k not in FEEDING}
        size = self.preprocessing.input_size
        return augment(images, example_keys(key, index), size, **changes).astype(jnp.float32)

    def for_evaluation(self, images: jax.Array) -> jax.Array:
        """What the model sees in evaluation: float32 [B, H, W, 3], of loaded images uint8 [B, H, W, 3]."""
        return normalize(images.astype(jnp.float32), self.preprocessing)

    def to_json(self) -> dict[str, Any]:
        """The preprocessing as plain data, for `best/`."""
        return self.preprocessing.to_json()


@dataclasses.dataclass(frozen=True)
class VectorInputs:
    """Vectors, or arrays of features of any shape, which go into the model as they are."""

    shape: tuple[int, ...]  # of one sample

    def evaluation(self, split: Any) -> Samples:
        """The split itself."""
        assert isinstance(split, VectorSplit)
        return split

    def training(self, split: Any, augmentation: Augmentation) -> Samples:
        """The split itself."""
        return self.evaluation(split)

    def for_training(
        self, vectors: jax.Array, index: jax.Array, key: jax.Array, augmentation: Augmentation
    ) -> jax.Array:
        """The vectors, float32 [B, ...]."""
        return vectors

    def for_evaluation(self, vectors: jax.Array) -> jax.Array:
        """The vectors, float32 [B, ...]."""
        return vectors.astype(jnp.float32)

    def to_json(self) -> None:
        """`best/` has no preprocessing of vectors."""


Inputs = ImageInputs | VectorInputs


def normalize(images: jax.Array, preprocessing: zoo.Preprocessing) -> jax.Array:
    """The arithmetic that belongs to the weights: [B, H, W, 3] in 0..255 to what the model expects."""
    if preprocessing.channel_order == "bgr":
        images = images[..., ::-1]
    mean = jnp.asarray(preprocessing.mean, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(preprocessing.std, jnp.float32).reshape(1, 1, 1, 3)
    return (images * preprocessing.scale - mean) / std


def image_inputs(
    preprocessing: zoo.Preprocessing,
    stages: tuple[Stage, ...] = (),
    decoder: Literal["exact", "fast"] = "exact",
    called: Callable[[str], str] = flag_of,
) -> ImageInputs:
    """Inputs for weights of this preprocessing, with one scale for training and evaluation.

    A stage whose `augment.resize` is n has images of n x n pixels loaded, of which the training step takes a window
    of the model's size at a random place. Evaluation takes the window in the middle, small enough for every stage.

    Raises InputError for images that would be smaller than the model's, with the name by which the user knows
    the field of the recipe: see `train.setup.resolve`.
    """
    height, width = preprocessing.input_size
    fraction = preprocessing.rule.crop_fraction
    for index, stage in enumerate(stages):
        size = stage.augment.resize
        if size is None:
            continue
        if size < height:
            raise InputError(
                f"{called(f'stages.{index}.augment.resize')} is {size}, less than the model's {height}x{width}:"
                f" give at least {height}"
            )
        fraction = min(fraction, height / size)
    rule = dataclasses.replace(preprocessing.rule, crop_fraction=fraction)
    return ImageInputs(dataclasses.replace(preprocessing, rule=rule), decoder)


def training_rule(rule: ResizeRule, augmentation: Augmentation) -> ResizeRule:
    """The resize rule of training images; `rule` is that of evaluation.

    At n instead of the model's m pixels the images show n / m times as much along each side, so that things are as
    large as in evaluation.
    """
    height, width = rule.size
    loaded = augmentation.resize or height
    if loaded == height:
        return rule
    # Rounded, so that 28 / 32 of 32 / 28 is 1: the image as it is.
    fraction = min(1.0, round(rule.crop_fraction * loaded / height, 9))
    size = (loaded, round(loaded * width / height))
    return dataclasses.replace(rule, size=size, crop_fraction=fraction)
