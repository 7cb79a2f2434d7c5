"""One image: from a file of any kind to RGB bytes, and from any size to another."""

import dataclasses
import functools
import io
import math
import os
import re
import struct
import warnings
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import Image

from datasets.dataset import InputError
from datasets.images import resampling

# What an image's file name ends in.
EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp"]
    + [".avif", ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm"]
)
# The decoders that a file may reach. Not all that Pillow has: PostScript starts a program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Resize = Literal["squash", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Decoder = Literal["exact", "fast"]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What becomes of an image on the host: its size, and how it gets there.

    "squash" ignores the aspect ratio, as Keras does; "crop" takes the largest centred part of the right
    aspect ratio. Of either the centred `crop_fraction` along each side is taken: 224 / 256 is torchvision's
    "resize to 256, take 224".
    """

    size: tuple[int, int]  # height, width
    resize: Resize = "squash"
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0
    decoder: Decoder = "exact"  # "fast": see `datasets.images.fast`

    def __post_init__(self) -> None:
        for name, kind in (
            ("resize", Resize),
            ("interpolation", Interpolation),
            ("decoder", Decoder),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} instead of one of {get_args(kind)}"
                )
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}: give a share, such as 0.875")

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """What is taken of an image of that size: top, left, bottom, right, in pixels."""
        crop_height, crop_width = self.crop_fraction * height, self.crop_fraction * width
        if self.resize == "crop":
            scale = self.crop_fraction * min(height / self.size[0], width / self.size[1])
            crop_height, crop_width = scale * self.size[0], scale * self.size[1]
        # Rounding must not carry the box past the image's edges.
        top, left = max((height - crop_height) / 2, 0.0), max((width - crop_width) / 2, 0.0)
        return top, left, min(top + crop_height, height), min(left + crop_width, width)

    @property
    def least(self) -> tuple[int, int]:
        """Height and width that an image has to have for its part to have the pixels of `size`."""
        height, width = (math.ceil(side / self.crop_fraction - 1e-6) for side in self.size)
        return height, width

    def apply(self, image: np.ndarray) -> np.ndarray:
        """An image uint8 [H, W, 3] at this size, by Pillow: antialiased unless "nearest"; perhaps read-only. One
        that has the size already, and is wanted whole, is returned as it is, not copied."""
        height, width = image.shape[:2]
        if image.dtype != np.uint8 or image.shape != (height, width, 3) or not image.size:
            raise ValueError(f"an image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        if (height, width) == tuple(self.size) and self.crop_fraction == 1:
            return image
        return self._resample(image, height, width)

    def _resample(self, image: Image.Image | np.ndarray, height: int, width: int) -> np.ndarray:
        box = self.box(height, width)
        small = isinstance(image, np.ndarray) or height * width <= resampling.MOST_PIXELS
        if small and self.interpolation in resampling.KERNELS and resampling.available():
            return resampling.resize(np.asarray(image), self.size, self.interpolation, box)
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        top, left, bottom, right = box
        resample = Image.Resampling[self.interpolation.upper()]
        size = (self.size[1], self.size[0])
        return np.asarray(image.resize(size, resample, (left, top, right, bottom)))


class UndecodableError(InputError):
    """These bytes are no image that Pillow can decode."""


def decode(
    source: bytes | str | os.PathLike[str], for_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode a file, or its bytes, to RGB: uint8 [H, W, 3], turned upright (see `to_rgb_uint8`).

    With `for_size` (height, width) a JPEG of more than twice that on both sides may come 2, 4 or 8 times
    smaller, but not below twice `for_size`: its decoder does that much faster than `resize`, which has
    the rest to do. A photograph of 12 megapixels takes 32 instead of 240 ms of CPU time on its way to
    256x256, and differs by half a grey level on average.

    Raises UndecodableError, an InputError, with the reason in one line; that of a path names the file.
    """
    if isinstance(source, bytes):
        return np.array(_decode(io.BytesIO(source), for_size))
    try:
        with open(source, "rb") as file:
            return np.array(_decode(file, for_size))
    except UndecodableError as error:
        raise UndecodableError(f"{os.fspath(source)} cannot be decoded: {error}") from error
    except OSError as error:
        raise UndecodableError(f"{os.fspath(source)} cannot be read: {error.strerror}") from error


def decode_resized(content: bytes, geometry: Geometry) -> np.ndarray:
    """`geometry.apply(decode(content, geometry.least))` in less time: uint8 [H, W, 3], perhaps read-only."""
    if geometry.decoder == "fast":
        from datasets.images import fast

        return fast.decode_resized(content, geometry)
    image = _decode(io.BytesIO(content), geometry.least)
    if image.size == (geometry.size[1], geometry.size[0]) and geometry.crop_fraction == 1:
        return np.asarray(image)
    return geometry._resample(image, image.height, image.width)


def _decode(file: BinaryIO, for_size: tuple[int, int] | None) -> Image.Image:
    _silence_pillow()
    try:
        with Image.open(file, formats=_formats()) as image:
            if for_size is not None:
                side = 2 * max(for_size)  # both sides alike, since EXIF may turn the image
                image.draft(None, (side, side))
            return to_rgb(image)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        raise UndecodableError("not an image in any known format") from None
    except Exception as error:  # damaged files make Pillow raise about anything
        raise UndecodableError(" ".join(f"{error}".split()) or type(error).__name__) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)  # a build of Pillow may lack some


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image of Pillow's in mode RGB.

    Turned as its EXIF orientation says; of an animation the frame that it stands at (after opening: the
    first); transparency over white. Sixteen bits are divided by 257. Floats count as 0 to 1 or, when one
    exceeds 1, as 0 to 255.
    """
    image.load()
    image = _upright(image)
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, np.int64), 0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, np.float32))
        if grey.max() <= 1:
            grey = grey * 255
        image = Image.fromarray(np.rint(np.clip(grey, 0, 255)).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_rgb_uint8(image: Image.Image) -> np.ndarray:
    """`to_rgb` as uint8 [H, W, 3], the caller's own."""
    return np.array(to_rgb(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (ValueError, TypeError, KeyError, SyntaxError, OSError, struct.error):
        return image  # a damaged EXIF block does not spoil the picture
    return image if turn is None else image.transpose(turn)


def resize(image: np.ndarray, size: tuple[int, int], *how: Any, **more: Any) -> np.ndarray:
    """`Geometry(size, *how, **more).apply(image)`."""
    return Geometry(size, *how, **more).apply(image)


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def _silence_pillow() -> None:
    """Keep Pillow's warnings about odd files from the user: what matters about a file, we say.

    `warnings.catch_warnings` is not safe in threads, so that the filter stays; it is put back when
    something has gone in front of it, and concerns Pillow alone.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=r"PIL\.")
