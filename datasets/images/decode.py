"""Decode image files of any format to RGB."""

import functools
import io
import os
import re
import struct
import warnings
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image

from zoo.common.errors import InputError

# Suffixes of image files.
EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp"]
    + [".avif", ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".heic", ".heif", ".hif"]
)
# Allowed Pillow decoders. Others are excluded: PostScript's, for example, starts an external program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000", "PPM")
# Formats that some installations lack: suffixes, brands by which files are recognized, and the requirement.
OPTIONAL_FORMATS = {
    "HEIF": (
        (".heic", ".heif", ".hif"),
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        "pillow-heif (pip install 'jax-zoo[heif]')",
    ),
    "AVIF": ((".avif",), (b"avif", b"avis"), "a Pillow with AVIF"),
}

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


class UndecodableError(InputError):
    """The file is not an image that Pillow can decode."""


def decode(
    source: bytes | str | os.PathLike[str], for_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode a file, or its bytes, to RGB: uint8 [H, W, 3], rotated upright (see `to_rgb`).

    If `for_size` (height, width) is given, a JPEG of more than twice that size may be decoded at 1/2, 1/4 or 1/8 of its
    size, but not below twice `for_size`. Reducing in the decoder is much faster than resizing, which does the rest: a
    12-megapixel photograph takes 32 instead of 240 ms of CPU time to become 256x256, and differs by half a gray level
    on average.

    Raises UndecodableError, an InputError, with a one-line reason, and with the path if `source` is one.
    """
    if isinstance(source, bytes):
        return np.array(decode_image(io.BytesIO(source), for_size))
    try:
        with open(source, "rb") as file:
            return np.array(decode_image(file, for_size))
    except UndecodableError as error:
        raise UndecodableError(f"{os.fspath(source)} cannot be decoded: {error}") from error
    except OSError as error:
        raise UndecodableError(f"{os.fspath(source)} cannot be read: {error.strerror}") from error


def decode_image(file: BinaryIO, for_size: tuple[int, int] | None = None) -> Image.Image:
    """Decode an open file to a Pillow image in mode RGB, as `decode` does."""
    _silence_pillow()
    try:
        with Image.open(file, formats=_formats()) as image:
            if for_size is not None:
                side = 2 * max(for_size)  # the same for both sides, since EXIF may rotate the image
                image.draft(None, (side, side))
            return to_rgb(image)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        raise UndecodableError(_unidentified(file)) from None
    except Exception as error:  # for damaged files, Pillow raises any kind of error
        raise UndecodableError(" ".join(f"{error}".split()) or type(error).__name__) from error


def is_image(path: str) -> bool:
    """Whether a file has the suffix of an image that this installation can read."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in EXTENSIONS and required_for(suffix) is None


def required_for(suffix: str) -> str | None:
    """Return the missing requirement for reading images with this suffix, such as .heic; None if there is none."""
    for name, (suffixes, _, requirement) in OPTIONAL_FORMATS.items():
        if suffix in suffixes and name not in _formats():
            return requirement
    return None


def _unidentified(file: BinaryIO) -> str:
    """Return why Pillow does not recognize a file, whatever its suffix."""
    file.seek(0)
    start = file.read(12)
    for name, (_, brands, requirement) in OPTIONAL_FORMATS.items():
        if start[4:8] == b"ftyp" and start[8:] in brands and name not in _formats():
            return f"a {name} image, which requires {requirement}"
    return "not an image in any known format"


@functools.cache
def heif_version() -> str | None:
    """Register pillow-heif with Pillow and return its version; None if it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return None
    pillow_heif.register_heif_opener()
    return str(pillow_heif.__version__)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    heif_version()
    return tuple(f for f in FORMATS if f in Image.OPEN)  # some Pillow builds lack formats


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to mode RGB.

    EXIF orientation is applied. For an animation, the current frame is used (after opening, the first). Transparency is
    composited over white. 16-bit values are divided by 257. Floats must be from 0 to 1, or 0 to 255 (`float_scale`).

    Raises UndecodableError for values outside these ranges.
    """
    image.load()
    image = _upright(image)
    if image.mode.startswith("I"):
        gray = np.asarray(image, np.int64)
        low, high = gray.min(), gray.max()
        if low < 0 or high > 65535:
            raise UndecodableError(f"integers from {low} to {high}: use 0 to 65535")
        image = Image.fromarray(((gray + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        floats = np.asarray(image, np.float32)
        image = Image.fromarray(floats_to_uint8(floats, float_scale([floats])))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


# Fraction of the range by which floats may exceed it, since resampling overshoots slightly.
OVERSHOOT = 0.01
# Minimum brightest value of images in 0..255. Below it, they would be almost black, and are more likely standardized
# images, or digits from 0 to 16.
LEAST_MAXIMUM = 17


def float_scale(arrays: Sequence[np.ndarray]) -> int:
    """Return the factor that scales float images to 0..255: 255 for values from 0 to 1, or 1 for values from 0 to 255.

    It is the same for all `arrays`, so that a dark image stays dark. Raises UndecodableError for other values, NaN and
    infinity: images from -1 to 1, or standardized ones, would lose half of their pixels to clipping.
    """
    low = np.min([array.min() for array in arrays])  # NaN if any value is NaN
    high = np.max([array.max() for array in arrays])
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return 255
    if low >= -255 * OVERSHOOT and LEAST_MAXIMUM <= high <= 255 * (1 + OVERSHOOT):
        return 1
    found = "NaN among its floats" if np.isnan(low) else f"floats from {low:.4g} to {high:.4g}"
    raise UndecodableError(f"{found}: use values from 0 to 1, or from 0 to 255")


def floats_to_uint8(array: np.ndarray, scale: int) -> np.ndarray:
    """Round floats multiplied by `scale` (see `float_scale`) to uint8."""
    return np.rint(np.clip(array.astype(np.float32) * scale, 0, 255)).astype(np.uint8)


def to_rgb_uint8(image: Image.Image) -> np.ndarray:
    """Convert any Pillow image with `to_rgb` to a new array, uint8 [H, W, 3]."""
    return np.array(to_rgb(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (ValueError, TypeError, KeyError, SyntaxError, OSError, struct.error):
        return image  # ignore damaged EXIF data
    return image if turn is None else image.transpose(turn)


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def _silence_pillow() -> None:
    """Ignore Pillow's warnings about unusual files. Errors are reported by this module.

    The filter is permanent, because `warnings.catch_warnings` is not thread-safe. It is inserted again if another
    filter precedes it, and applies to Pillow only.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=r"PIL\.")
