"""Random image augmentation on the device: jitted, batched, with one key per image.

All geometric transformations of an image are combined into one affine map, so that the image is resampled once. Flips,
and crops of the output's size, only copy pixels, without interpolation.

The augmentation of an image depends only on its key, and each transformation uses its own random draws: adding one does
not affect the others. Images are [B, H, W, C] of any real dtype with values in 0..255; augmented images are float32 in
that range, not rounded.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# The random draws of an image, in order. Append new ones at the end, so that the others do not change.
_DRAWS = (
    ("flip", "flip_vertical", "rotation", "shift_x", "shift_y", "zoom", "aspect", "area")
    + ("window_row", "window_column", "brightness", "contrast", "cutout_row", "cutout_column")
    + ("noise",)
)
_GRAY = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow


def example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """Derive one typed key per sample, [B], from a key and sample numbers, [B].

    If `key` does not depend on the epoch, as with `jax.random.key(seed)`, a sample is always augmented in the same way,
    as required for noise on test images.
    """
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(index)


def augment(
    images: jax.Array,
    keys: jax.Array,
    size: tuple[int, int] | None = None,
    *,
    rotation: float = 0.0,
    shift_x: float = 0.0,
    shift_y: float = 0.0,
    zoom: float = 0.0,
    aspect: float = 0.0,
    crop_area: float = 1.0,
    flip: bool = False,
    flip_vertical: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
    noise_share: float = 0.0,
    noise_sigma: float = 25.5,
    cutout: float = 0.0,
    cutout_fill: int | None = None,
) -> jax.Array:
    """Apply geometric transformations, then colors, noise and cutout. By default, images are returned unchanged.

    The arguments are those of `random_geometry`, `random_colors`, `add_noise` (prefix `noise_`) and `cut_out`
    (`cutout` is its `share`, `cutout_fill` its `fill`).
    """
    images = random_geometry(
        images,
        keys,
        size,
        rotation=rotation,
        shift_x=shift_x,
        shift_y=shift_y,
        zoom=zoom,
        aspect=aspect,
        crop_area=crop_area,
        flip=flip,
        flip_vertical=flip_vertical,
    )
    images = random_colors(images, keys, brightness=brightness, contrast=contrast)
    images = add_noise(images, keys, noise_share, noise_sigma)
    return cut_out(images, keys, cutout, cutout_fill)


def random_geometry(
    images: jax.Array,
    keys: jax.Array,
    size: tuple[int, int] | None = None,
    *,
    rotation: float = 0.0,
    shift_x: float = 0.0,
    shift_y: float = 0.0,
    zoom: float = 0.0,
    aspect: float = 0.0,
    crop_area: float = 1.0,
    flip: bool = False,
    flip_vertical: bool = False,
) -> jax.Array:
    """Randomly crop, flip, stretch, rotate and shift each image.

    Interpolation is bilinear; pixels outside the image repeat the nearest border pixel.

    Args:
      images: [B, H, W, C].
      keys: one typed PRNG key per image, [B].
      size: height and width of the output; default: those of the images. Smaller outputs are random crops at
        whole-pixel offsets.
      rotation: maximum angle about the center in either direction, in degrees.
      shift_x, shift_y: maximum shift in either direction, as a fraction of the output's width and height.
      zoom: maximum relative change of scale: 0.1 is a factor from 0.9 to 1.1.
      aspect: maximum relative change of the ratio of width to height: 0.25 is a factor from 4/5 to 5/4, symmetric in
        the logarithm.
      crop_area: minimum area of a random crop, as a fraction of the image's. Below 1, crops have a random position and
        a random area between this and 1, and are scaled to `size`.
      flip, flip_vertical: flip horizontally, vertically, with probability 1/2.
    """
    height, width = images.shape[1:3]
    out_height, out_width = size = size or (height, width)
    windowed = crop_area < 1
    if not windowed and (out_height > height or out_width > width):
        raise ValueError(
            f"images of {height}x{width} are too small for a crop of {out_height}x{out_width}"
        )
    resampled = windowed or any((rotation, shift_x, shift_y, zoom, aspect))
    if not (resampled or flip or flip_vertical or size != (height, width)):
        return images
    draws = _draws(keys)
    for name, enabled in (("flip", flip), ("flip_vertical", flip_vertical)):
        draws[name] = (draws[name] < 0.5) & enabled

    def crop_corner(draw: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Top and left in 0..n. The minimum is needed because a draw just below 1, times n + 1, may round to n + 1."""
        top = jnp.floor(draw["window_row"] * (height - out_height + 1)).astype(jnp.int32)
        left = jnp.floor(draw["window_column"] * (width - out_width + 1)).astype(jnp.int32)
        return jnp.minimum(top, height - out_height), jnp.minimum(left, width - out_width)

    def copied(image: jax.Array, draw: dict[str, jax.Array]) -> jax.Array:
        if size != (height, width):
            start = (*crop_corner(draw), 0)
            image = jax.lax.dynamic_slice(image, start, (*size, image.shape[2]))
        if flip:
            image = jnp.where(draw["flip"], image[:, ::-1], image)
        if flip_vertical:
            image = jnp.where(draw["flip_vertical"], image[::-1], image)
        return image.astype(jnp.float32)

    def sampled(image: jax.Array, draw: dict[str, jax.Array]) -> jax.Array:
        stretch = jnp.exp(_symmetric(draw["aspect"]) * jnp.log1p(aspect) / 2)
        if windowed:
            area = 1 - draw["area"] * (1 - crop_area)
            rows = jnp.minimum(height * jnp.sqrt(area) / stretch, height)
            columns = jnp.minimum(width * jnp.sqrt(area) * stretch, width)
            top = draw["window_row"] * (height - rows)
            left = draw["window_column"] * (width - columns)
        else:
            # A stretched crop may extend beyond the image, rather than show less of it.
            rows, columns = out_height / stretch, out_width * stretch
            top, left = crop_corner(draw)
            top, left = top + (out_height - rows) / 2, left + (out_width - columns) / 2
        matrix, offset = affine_map(
            size,
            (top, left, rows, columns),
            angle=_symmetric(draw["rotation"]) * jnp.deg2rad(rotation),
            dx=_symmetric(draw["shift_x"]) * shift_x * out_width,
            dy=_symmetric(draw["shift_y"]) * shift_y * out_height,
            zoom=1 + _symmetric(draw["zoom"]) * zoom,
            mirror=draw["flip"],
            upside_down=draw["flip_vertical"],
        )
        return sample_affine(image, matrix, offset, size)

    return jax.vmap(sampled if resampled else copied)(images, draws)


def random_colors(
    images: jax.Array, keys: jax.Array, *, brightness: float = 0.0, contrast: float = 0.0
) -> jax.Array:
    """Scale brightness, then contrast, by random factors, as Pillow's ImageEnhance does. Each result is clipped to
    0..255.

    Args:
      images: [B, H, W, 3].
      keys: one typed PRNG key per image, [B].
      brightness: maximum change of the brightness factor: 0.2 is a factor from 0.8 to 1.2.
      contrast: maximum change of the contrast factor, which scales differences from the image's mean gray.
    """
    if not (brightness or contrast):
        return images
    draws = _draws(keys)
    images = images.astype(jnp.float32)
    if brightness:
        factor = 1 + _symmetric(draws["brightness"]) * brightness
        images = jnp.clip(images * _per_image(factor), 0, 255)
    if contrast:
        factor = 1 + _symmetric(draws["contrast"]) * contrast
        color = jnp.mean(images, axis=(1, 2))
        mean = _per_image(jnp.sum(color * jnp.array([_GRAY]), axis=1))
        images = jnp.clip(mean + (images - mean) * _per_image(factor), 0, 255)
    return images


def add_noise(images: jax.Array, keys: jax.Array, share: float, sigma: float = 25.5) -> jax.Array:
    """Add Gaussian noise to some images, and clip them to 0..255.

    This is the robustness test of Han et al., "Animal face classification based on deep learning".

    Args:
      images: [B, H, W, C].
      keys: one typed PRNG key per image, [B]. With `example_keys(jax.random.key(seed), index)`, noisy images and their
        noise do not depend on the batches, and a larger share includes the noisy images of a smaller one.
      share: probability that an image is noisy.
      sigma: standard deviation in gray levels (0..255).
    """
    if not (share and sigma):
        return images
    noisy = _draws(keys)["noise"] < share
    # These must differ from the keys in `_draws`: equal keys would give equal bits.
    pixel_keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(pixel_keys)
    images = images.astype(jnp.float32)
    return jnp.where(_per_image(noisy), jnp.clip(images + sigma * noise, 0, 255), images)


def cut_out(images: jax.Array, keys: jax.Array, share: float, fill: int | None = None) -> jax.Array:
    """Fill a square of each image (DeVries and Taylor 2017, "Cutout").

    Args:
      images: [B, H, W, C].
      keys: one typed PRNG key per image, [B].
      share: side of the square as a fraction of the image's shorter side. The center is a random pixel, so that the
        square may extend beyond the image.
      fill: gray level; default: the image's mean color.
    """
    if not share:
        return images
    height, width = images.shape[1:3]
    side = max(1, round(share * min(height, width)))
    draws = _draws(keys)

    def inside(draw: jax.Array, length: int) -> jax.Array:
        """Return which of `length` pixels the square covers: bool [B, length]."""
        first = jnp.floor(draw * length) - side // 2
        place = jnp.arange(length)[None] - first[:, None]
        return (place >= 0) & (place < side)

    rows, columns = inside(draws["cutout_row"], height), inside(draws["cutout_column"], width)
    hidden = (rows[:, :, None] & columns[:, None, :])[..., None]
    images = images.astype(jnp.float32)
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    return jnp.where(hidden, mean if fill is None else jnp.float32(fill), images)


def _draws(keys: jax.Array) -> dict[str, jax.Array]:
    """Draw uniform numbers in [0, 1), by name: [B] each."""
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (len(_DRAWS),)))(keys)
    return {name: drawn[:, place] for place, name in enumerate(_DRAWS)}


def _symmetric(draw: jax.Array) -> jax.Array:
    return 2 * draw - 1


def _per_image(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def affine_map(
    size: tuple[int, int],
    window: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
    *,
    angle: ArrayLike = 0.0,
    dx: ArrayLike = 0.0,
    dy: ArrayLike = 0.0,
    zoom: ArrayLike = 1.0,
    mirror: ArrayLike = False,
    upside_down: ArrayLike = False,
) -> tuple[jax.Array, jax.Array]:
    """Compute the map from output to input pixels: `(row, column) -> matrix @ (row, column) + offset`.

    Args:
      size: height and width of the output.
      window: (top, left, height, width) of the input region shown in the output, in input pixels from the upper left
        corner.
      angle, dx, dy, zoom: the region is rotated by `angle` (radians, counter-clockwise as displayed) about the output's
        center, enlarged `zoom` times, then shifted by `dx` output pixels to the right and `dy` down.
      mirror, upside_down: flip the region horizontally, vertically.

    Returns:
      Matrix [2, 2] and offset [2].
    """
    top, left, rows, columns = window
    out_height, out_width = size
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # Input pixels per output pixel, along each input axis.
    down = jnp.where(upside_down, -1.0, 1.0) * rows / (out_height * jnp.asarray(zoom))
    across = jnp.where(mirror, -1.0, 1.0) * columns / (out_width * jnp.asarray(zoom))
    matrix = jnp.array([[down * cos, down * sin], [-across * sin, across * cos]])
    # Coordinates refer to pixel centers, half a pixel from the corner.
    read = jnp.array([top + (rows - 1) / 2, left + (columns - 1) / 2])
    shown = jnp.array([(out_height - 1) / 2 + dy, (out_width - 1) / 2 + dx])
    # Not `matrix @ shown`, because accelerators round the factors of matrix products, which would shift pixels.
    return matrix, read - jnp.sum(matrix * shown[None], axis=1)


def sample_affine(
    image: jax.Array, matrix: jax.Array, offset: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Sample one image, [H, W, C], bilinearly on an affine grid of `size`: float32. Pixels outside the image repeat the
    nearest border pixel."""
    height, width, channels = image.shape
    rows = jnp.arange(size[0], dtype=jnp.float32)[:, None]
    columns = jnp.arange(size[1], dtype=jnp.float32)[None, :]
    y = jnp.clip(matrix[0, 0] * rows + matrix[0, 1] * columns + offset[0], 0, height - 1)
    x = jnp.clip(matrix[1, 0] * rows + matrix[1, 1] * columns + offset[1], 0, width - 1)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]

    # Gathering whole pixels from a flat view takes a third of the time of one gather per channel.
    flat = image.reshape(height * width, channels)

    def pixel(row: jax.Array, column: jax.Array) -> jax.Array:
        return flat[row * width + column].astype(jnp.float32)

    upper = pixel(top, left) * (1 - across) + pixel(top, right) * across
    lower = pixel(bottom, left) * (1 - across) + pixel(bottom, right) * across
    return upper * (1 - down) + lower * down
