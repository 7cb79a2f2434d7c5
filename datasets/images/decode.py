"""One image: from a file of any kind to RGB bytes."""

import functools
import io
import os
import re
import struct
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image

from zoo.common.errors import InputError

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


class UndecodableError(InputError):
    """These bytes are no image that Pillow can decode."""


def decode(
    source: bytes | str | os.PathLike[str], for_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode a file, or its bytes, to RGB: uint8 [H, W, 3], turned upright (see `to_rgb_uint8`).

    With `for_size` (height, width) a JPEG of more than twice that on both sides may come 2, 4 or 8 times
    smaller, but not below twice `for_size`: its decoder does that much faster than resizing, which has
    the rest to do. A photograph of 12 megapixels takes 32 instead of 240 ms of CPU time on its way to
    256x256, and differs by half a grey level on average.

    Raises UndecodableError, an InputError, with the reason in one line; that of a path names the file.
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
    """Decode an open file as `decode` does, to an image of Pillow's in mode RGB."""
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


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def _silence_pillow() -> None:
    """Keep Pillow's warnings about odd files from the user: what matters about a file, we say.

    `warnings.catch_warnings` is not safe in threads, so that the filter stays; it is put back when
    something has gone in front of it, and concerns Pillow alone.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=r"PIL\.")
