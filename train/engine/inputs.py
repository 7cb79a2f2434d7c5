"""Model inputs: images with their resize rule and normalization, or vectors.

Each class defines how the host loads the samples of a split (`train_samples`, `eval_samples`) and how the compiled step
preprocesses them (`preprocess_train`, `preprocess_eval`).
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
from train.recipe import Augmentation, InputError, Normalization, Stage, flag_of
from zoo.common.resize import ResizeRule

# Fields of an Augmentation that control how images are loaded, not how they are transformed.
LOADING_FIELDS = frozenset(["resize", "crops_per_image"])


@dataclasses.dataclass(frozen=True)
class ImageInputs:
    """Images of one size. `preprocessing` is used in evaluation and stored in `best/`; see `image_inputs`."""

    preprocessing: zoo.Preprocessing
    decoder: Literal["exact", "fast"] = "exact"  # of training images; evaluation is always exact

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of one image."""
        return (*self.preprocessing.input_size, 3)

    def eval_samples(self, split: Any) -> Samples:
        """Images of a split as loaded for evaluation: uint8 [H, W, 3]."""
        return ImageSamples(split, self.preprocessing.rule)

    def train_samples(self, split: Any, augmentation: Augmentation) -> Samples:
        """Images of a split as loaded for training: uint8 [H, W, 3], or larger if the step takes random windows."""
        return ImageSamples(
            split, train_resize_rule(self.preprocessing.rule, augmentation), self.decoder
        )

    def preprocess_train(
        self, images: jax.Array, index: jax.Array, key: jax.Array, augmentation: Augmentation
    ) -> jax.Array:
        """Augment and normalize loaded images, uint8 [B, ...], to float32 [B, H, W, 3].

        The augmentation of an image depends only on the key and on its sample number in `index`, int32 [B].
        """
        return normalize(self.augment(images, index, key, augmentation), self.preprocessing)

    def augment(
        self, images: jax.Array, index: jax.Array, key: jax.Array, augmentation: Augmentation
    ) -> jax.Array:
        """Augment loaded images as `preprocess_train` does, without normalization: float32 [B, H, W, 3] in 0..255."""
        changes = {
            k: v for k, v in dataclasses.asdict(augmentation).items() if k not in LOADING_FIELDS
        }
        size = self.preprocessing.input_size
        return augment(images, example_keys(key, index), size, **changes).astype(jnp.float32)

    def preprocess_eval(self, images: jax.Array) -> jax.Array:
        """Normalize loaded images, uint8 [B, H, W, 3], to float32."""
        return normalize(images.astype(jnp.float32), self.preprocessing)

    def to_json(self) -> dict[str, Any]:
        """The preprocessing as plain data, for `best/`."""
        return self.preprocessing.to_json()


@dataclasses.dataclass(frozen=True)
class VectorInputs:
    """Vectors, or features of any shape, which the model takes without preprocessing."""

    shape: tuple[int, ...]  # of one sample

    def eval_samples(self, split: Any) -> Samples:
        """Return the split."""
        assert isinstance(split, VectorSplit)
        return split

    def train_samples(self, split: Any, augmentation: Augmentation) -> Samples:
        """Return the split."""
        return self.eval_samples(split)

    def preprocess_train(
        self, vectors: jax.Array, index: jax.Array, key: jax.Array, augmentation: Augmentation
    ) -> jax.Array:
        """Return the vectors, float32 [B, ...]."""
        return vectors

    def preprocess_eval(self, vectors: jax.Array) -> jax.Array:
        """Return the vectors, float32 [B, ...]."""
        return vectors.astype(jnp.float32)

    def to_json(self) -> None:
        """None: vectors have no preprocessing."""


Inputs = ImageInputs | VectorInputs


def normalize(images: jax.Array, preprocessing: zoo.Preprocessing) -> jax.Array:
    """Apply the channel order, scale, mean and std of the weights to RGB images [B, H, W, 3] in 0..255."""
    if preprocessing.channel_order == "bgr":
        images = images[..., ::-1]
    mean = jnp.asarray(preprocessing.mean, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(preprocessing.std, jnp.float32).reshape(1, 1, 1, 3)
    return (images * preprocessing.scale - mean) / std


def normalized(preprocessing: zoo.Preprocessing, given: Normalization) -> zoo.Preprocessing:
    """Replace the mean, std and crop of the weights' preprocessing by the given ones."""
    if given.crop_fraction is not None:
        rule = dataclasses.replace(preprocessing.rule, crop_fraction=given.crop_fraction)
        preprocessing = dataclasses.replace(preprocessing, rule=rule)
    if not given.mean:
        return preprocessing
    (red, green, blue), (of_red, of_green, of_blue) = given.mean, given.std
    return zoo.Preprocessing(
        preprocessing.rule, mean=(red, green, blue), std=(of_red, of_green, of_blue)
    )


def image_inputs(
    preprocessing: zoo.Preprocessing,
    stages: tuple[Stage, ...] = (),
    decoder: Literal["exact", "fast"] = "exact",
    field_name: Callable[[str], str] = flag_of,
) -> ImageInputs:
    """Create the inputs for weights with this preprocessing, at the same scale in training and evaluation.

    A stage with `augment.resize` n loads images of n x n pixels, and its training step takes random windows of the
    model's size. Evaluation takes the central window, cropped as in the stage that crops most.

    Args:
      preprocessing: that of the weights.
      stages: the recipe's stages.
      decoder: of training images.
      field_name: maps the path of a recipe field to its name in messages; see `train.setup.resolve`.

    Raises:
      InputError: a stage would load images smaller than the model's input.
    """
    height, width = preprocessing.input_size
    fraction = preprocessing.rule.crop_fraction
    for index, stage in enumerate(stages):
        size = stage.augment.resize
        if size is None:
            continue
        if size < height:
            raise InputError(
                f"{field_name(f'stages.{index}.augment.resize')} is {size}, less than the model's {height}x{width}:"
                f" use at least {height}"
            )
        fraction = min(fraction, height / size)
    rule = dataclasses.replace(preprocessing.rule, crop_fraction=fraction)
    return ImageInputs(dataclasses.replace(preprocessing, rule=rule), decoder)


def train_resize_rule(rule: ResizeRule, augmentation: Augmentation) -> ResizeRule:
    """Derive the resize rule of training images from that of evaluation.

    Loaded at n instead of the model's m pixels, an image covers n / m times as much of the original along each side, so
    that objects appear at the same scale as in evaluation.
    """
    height, width = rule.size
    loaded = augmentation.resize or height
    if loaded == height:
        return rule
    # Rounded, so that 28/32 * 32/28 is exactly 1, which leaves the image unscaled.
    fraction = min(1.0, round(rule.crop_fraction * loaded / height, 9))
    size = (loaded, round(loaded * width / height))
    return dataclasses.replace(rule, size=size, crop_fraction=fraction)
