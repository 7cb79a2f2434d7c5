"""Random changes of images, on the device: jitted, batched, one key an image.

All geometric changes of an image are one affine map, so that it is resampled once. Where only whole pixels
move (flips, a window of the output's size), pixels are copied and nothing is interpolated.

An image's changes depend on its key alone, and each kind of change has its own draws: asking for one more
leaves the others as they were. Images are [B, H, W, C] of any real type with values in 0..255; changed ones
come out as float32 in that range, not rounded.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# What a key draws once for its whole image, by place. New ones go to the end: the others stay as they are.
_DRAWS = (
    ("flip", "flip_vertical", "rotation", "shift_x", "shift_y", "zoom", "aspect", "area")
    + ("window_row", "window_column", "brightness", "contrast", "cutout_row", "cutout_column")
    + ("noise",)
)
_GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow has it


def example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key an example, from a key and the examples' numbers [B]: typed keys [B].

    A key that knows no epoch, such as `jax.random.key(seed)`, does the same to an example at any time: what
    the noise of a test wants.
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
    """All changes in one call: geometry, then colours, noise, cutout. With nothing asked for, and images that
    have their size already, the images come back as they are.

    The arguments are those of `random_geometry`, `random_colours`, `add_noise` (`noise_`) and `cut_out`
    (`cutout` is its share).
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
    images = random_colours(images, keys, brightness=brightness, contrast=contrast)
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
    """Crop, mirror, stretch, rotate and shift each image at random.

    Args:
      images: [B, H, W, C].
      keys: one typed PRNG key an image, [B].
      size: height and width that come out; by default those of the images. Smaller ones are random windows,
        in whole pixels.
      rotation: largest angle to either side, in degrees, about the centre.
      shift_x, shift_y: largest shift to either side, as a share of the width and of the height that come out.
      zoom: largest enlargement and reduction, as a share: 0.1 is 0.9 to 1.1 times.
      aspect: largest change of the ratio of width to height: 0.25 is 4/5 to 5/4 of it, both ways alike.
      crop_area: smallest share of the image's area that a window has; below 1 the windows have any place and
        shares up to 1, and are scaled to `size`.
      flip, flip_vertical: mirror left and right, top and bottom, with probability one half.

    Bilinear samples; beyond the image's border the nearest pixel continues.
    """
    height, width = images.shape[1:3]
    out_height, out_width = size = size or (height, width)
    windowed = crop_area < 1
    if not windowed and (out_height > height or out_width > width):
        raise ValueError(f"images of {height}x{width} have no window of {out_height}x{out_width}")
    resampled = windowed or any((rotation, shift_x, shift_y, zoom, aspect))
    if not (resampled or flip or flip_vertical or size != (height, width)):
        return images
    draws = _draws(keys)
    for name, asked in (("flip", flip), ("flip_vertical", flip_vertical)):
        draws[name] = (draws[name] < 0.5) & asked

    def window_of_whole_pixels(draw: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Its top and left, each of n + 1; a draw just below 1, times n + 1, may be rounded to n + 1."""
        top = jnp.floor(draw["window_row"] * (height - out_height + 1)).astype(jnp.int32)
        left = jnp.floor(draw["window_column"] * (width - out_width + 1)).astype(jnp.int32)
        return jnp.minimum(top, height - out_height), jnp.minimum(left, width - out_width)

    def copied(image: jax.Array, draw: dict[str, jax.Array]) -> jax.Array:
        if size != (height, width):
            start = (*window_of_whole_pixels(draw), 0)
            image = jax.lax.dynamic_slice(image, start, (*size, image.shape[2]))
        if flip:
            image = jnp.where(draw["flip"], image[:, ::-1], image)
        if flip_vertical:
            image = jnp.where(draw["flip_vertical"], image[::-1], image)
        return image.astype(jnp.float32)

    def sampled(image: jax.Array, draw: dict[str, jax.Array]) -> jax.Array:
        stretch = jnp.exp(_either_way(draw["aspect"]) * jnp.log1p(aspect) / 2)
        if windowed:
            area = 1 - draw["area"] * (1 - crop_area)
            rows = jnp.minimum(height * jnp.sqrt(area) / stretch, height)
            columns = jnp.minimum(width * jnp.sqrt(area) * stretch, width)
            top = draw["window_row"] * (height - rows)
            left = draw["window_column"] * (width - columns)
        else:
            # A stretched window goes beyond the image rather than showing less of it.
            rows, columns = out_height / stretch, out_width * stretch
            top, left = window_of_whole_pixels(draw)
            top, left = top + (out_height - rows) / 2, left + (out_width - columns) / 2
        matrix, offset = affine_map(
            size,
            (top, left, rows, columns),
            angle=_either_way(draw["rotation"]) * jnp.deg2rad(rotation),
            dx=_either_way(draw["shift_x"]) * shift_x * out_width,
            dy=_either_way(draw["shift_y"]) * shift_y * out_height,
            zoom=1 + _either_way(draw["zoom"]) * zoom,
            mirror=draw["flip"],
            upside_down=draw["flip_vertical"],
        )
        return sample_affine(image, matrix, offset, size)

    return jax.vmap(sampled if resampled else copied)(images, draws)


def random_colours(
    images: jax.Array, keys: jax.Array, *, brightness: float = 0.0, contrast: float = 0.0
) -> jax.Array:
    """Change brightness, then contrast, by random factors, as Pillow's ImageEnhance does.

    Args:
      images: [B, H, W, 3].
      keys: one typed PRNG key an image, [B].
      brightness: largest change of the factor of all values: 0.2 is 0.8 to 1.2.
      contrast: largest change of the factor of the distances from the image's mean grey.

    Each result is clipped to 0..255.
    """
    if not (brightness or contrast):
        return images
    draws = _draws(keys)
    images = images.astype(jnp.float32)
    if brightness:
        factor = 1 + _either_way(draws["brightness"]) * brightness
        images = jnp.clip(images * _per_image(factor), 0, 255)
    if contrast:
        factor = 1 + _either_way(draws["contrast"]) * contrast
        colour = jnp.mean(images, axis=(1, 2))
        mean = _per_image(jnp.sum(colour * jnp.array([_GREY]), axis=1))
        images = jnp.clip(mean + (images - mean) * _per_image(factor), 0, 255)
    return images


def add_noise(images: jax.Array, keys: jax.Array, share: float, sigma: float = 25.5) -> jax.Array:
    """Add Gaussian noise to some images, and clip these to 0..255.

    The robustness test of Han et al., "Animal face classification based on deep learning".

    Args:
      images: [B, H, W, C].
      keys: one typed PRNG key an image, [B]; with `example_keys(jax.random.key(seed), index)` it is always
        the same images that get the same noise, in whatever batches they come, and a larger share has those of
        a smaller one among its own.
      share: the probability that an image gets any.
      sigma: standard deviation, in grey levels of 0..255.
    """
    if not (share and sigma):
        return images
    chosen = _draws(keys)["noise"] < share
    # Keys apart from those of `_draws`: equal keys would draw equal bits.
    pixel_keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(pixel_keys)
    images = images.astype(jnp.float32)
    return jnp.where(_per_image(chosen), jnp.clip(images + sigma * noise, 0, 255), images)


def cut_out(images: jax.Array, keys: jax.Array, share: float, fill: int | None = None) -> jax.Array:
    """Fill a square of each image (DeVries and Taylor 2017, "Cutout").

    Args:
      images: [B, H, W, C].
      keys: one typed PRNG key an image, [B].
      share: the square's side, as a share of the image's shorter one; the centre is any pixel, so that part of
        the square may lie outside.
      fill: a grey level; by default the image's mean colour.
    """
    if not share:
        return images
    height, width = images.shape[1:3]
    side = max(1, round(share * min(height, width)))
    draws = _draws(keys)

    def inside(draw: jax.Array, length: int) -> jax.Array:
        """Which of `length` places the square covers: bool [B, length]."""
        first = jnp.floor(draw * length) - side // 2
        place = jnp.arange(length)[None] - first[:, None]
        return (place >= 0) & (place < side)

    rows, columns = inside(draws["cutout_row"], height), inside(draws["cutout_column"], width)
    hidden = (rows[:, :, None] & columns[:, None, :])[..., None]
    images = images.astype(jnp.float32)
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    return jnp.where(hidden, mean if fill is None else jnp.float32(fill), images)


def _draws(keys: jax.Array) -> dict[str, jax.Array]:
    """Numbers in [0, 1), one of each name an image: [B]."""
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (len(_DRAWS),)))(keys)
    return {name: drawn[:, place] for place, name in enumerate(_DRAWS)}


def _either_way(draw: jax.Array) -> jax.Array:
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
    """Where output pixels are read from: `(row, column) -> matrix @ (row, column) + offset`.

    Args:
      size: height and width of the output.
      window: (top, left, height, width) of the part of the input that the output shows, in pixels of the
        input, counted from its upper left corner.
      angle, dx, dy, zoom: the shown turns by `angle` (radians, counter-clockwise as displayed) about the
        output's centre, is enlarged `zoom` times, then moves by `dx` output pixels to the right and `dy` down.
      mirror, upside_down: read the window from right to left, from bottom to top.
    """
    top, left, rows, columns = window
    out_height, out_width = size
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # Input pixels an output pixel, along each axis of the input.
    down = jnp.where(upside_down, -1.0, 1.0) * rows / (out_height * jnp.asarray(zoom))
    across = jnp.where(mirror, -1.0, 1.0) * columns / (out_width * jnp.asarray(zoom))
    matrix = jnp.array([[down * cos, down * sin], [-across * sin, across * cos]])
    # A pixel's place is its centre, half a pixel from its corner.
    read = jnp.array([top + (rows - 1) / 2, left + (columns - 1) / 2])
    shown = jnp.array([(out_height - 1) / 2 + dy, (out_width - 1) / 2 + dx])
    # Not `matrix @ shown`: accelerators round the factors of a matrix product, and pixels would be missed.
    return matrix, read - jnp.sum(matrix * shown[None], axis=1)


def sample_affine(
    image: jax.Array, matrix: jax.Array, offset: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Bilinear samples of one image [H, W, C] at an affine grid of `size`, float32; the nearest pixel
    continues outside."""
    height, width, channels = image.shape
    rows = jnp.arange(size[0], dtype=jnp.float32)[:, None]
    columns = jnp.arange(size[1], dtype=jnp.float32)[None, :]
    y = jnp.clip(matrix[0, 0] * rows + matrix[0, 1] * columns + offset[0], 0, height - 1)
    x = jnp.clip(matrix[1, 0] * rows + matrix[1, 1] * columns + offset[1], 0, width - 1)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]

    # Whole pixels are gathered from a flat view: a third of the work of one gather a channel.
    flat = image.reshape(height * width, channels)

    def pixel(row: jax.Array, column: jax.Array) -> jax.Array:
        return flat[row * width + column].astype(jnp.float32)

    upper = pixel(top, left) * (1 - across) + pixel(top, right) * across
    lower = pixel(bottom, left) * (1 - across) + pixel(bottom, right) * across
    return upper * (1 - down) + lower * down
