"""Random changes of images, on the device: jitted, batched, one key an image.

All geometric changes of an image are one affine map, so that it is resampled once.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def random_affine(
    images: jax.Array,
    keys: jax.Array,
    *,
    rotation: float = 0.0,
    shift_x: float = 0.0,
    shift_y: float = 0.0,
    flip: bool = False,
) -> jax.Array:
    """Rotate, shift and mirror each image at random, as Keras's ImageDataGenerator does.

    Args:
      images: float [B, H, W, C].
      keys: one typed PRNG key an image, [B]; an image's changes depend on its key alone.
      rotation: largest angle to either side, in degrees, about the centre.
      shift_x, shift_y: largest shift to either side, as a share of the width and of the height.
      flip: mirror left and right with probability one half.

    Returns images of the same shape and dtype, bilinearly sampled; beyond the border the nearest pixel
    continues. With nothing asked for, the images come back as they are.
    """
    if not (rotation or shift_x or shift_y):
        return jax.vmap(_random_flip)(images, keys) if flip else images

    def transform(image: jax.Array, key: jax.Array) -> jax.Array:
        flip_key, key = jax.random.split(key)
        angle, dx, dy = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
        height, width = image.shape[:2]
        matrix, offset = affine_map(
            (height, width),
            angle * jnp.deg2rad(rotation),
            dx * shift_x * width,
            dy * shift_y * height,
            jax.random.bernoulli(flip_key) if flip else False,
        )
        return sample_affine(image, matrix, offset)

    return jax.vmap(transform)(images, keys)


def _random_flip(image: jax.Array, key: jax.Array) -> jax.Array:
    flip_key, _ = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)


def affine_map(
    size: tuple[int, int], angle: ArrayLike, dx: ArrayLike, dy: ArrayLike, mirror: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Where output pixels are read from: `(row, column) -> matrix @ (row, column) + offset`.

    The image turns by `angle` (radians, counter-clockwise as displayed) about its centre, then moves by
    `dx` pixels to the right and `dy` down; `mirror` reads it from right to left.
    """
    height, width = size
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    sign = jnp.where(mirror, -1.0, 1.0)
    matrix = jnp.array([[cos, sin], [-sign * sin, sign * cos]])
    return matrix, centre - matrix @ (centre + jnp.array([dy, dx]))


def sample_affine(image: jax.Array, matrix: jax.Array, offset: jax.Array) -> jax.Array:
    """Bilinear samples of one image [H, W, C] at an affine grid; the nearest pixel continues outside."""
    height, width, channels = image.shape
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :]
    y = jnp.clip(matrix[0, 0] * rows + matrix[0, 1] * columns + offset[0], 0, height - 1)
    x = jnp.clip(matrix[1, 0] * rows + matrix[1, 1] * columns + offset[1], 0, width - 1)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]

    # Whole pixels are gathered from a flat view: a third of the work of one gather a channel.
    flat = image.reshape(height * width, channels)

    def pixel(row: jax.Array, column: jax.Array) -> jax.Array:
        return flat[row * width + column]

    upper = pixel(top, left) * (1 - across) + pixel(top, right) * across
    lower = pixel(bottom, left) * (1 - across) + pixel(bottom, right) * across
    return (upper * (1 - down) + lower * down).astype(image.dtype)
