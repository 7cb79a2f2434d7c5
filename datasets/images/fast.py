"""Decoding and resizing by libjpeg's short cuts and OpenCV: twice as fast as Pillow, and a little different.

The differences are libjpeg's quicker transforms, and bilinear sampling that does not average over what it skips
when an image shrinks by less than a half (beyond that, areas are averaged). `benchmarks.input_pipeline` measures
them. For training images only: what is evaluated is decoded by Pillow.

Importing this module takes the extra `fast`; `check` says so in one line.
"""

import importlib.util

import numpy as np

from datasets.images.decode import decode
from zoo.common.errors import InputError
from zoo.common.resize import ResizeRule

# Below a half, the decoder reduces by itself; in between its reduced transforms are slower than the full one.
MIN_FACTOR = 2.0


def check() -> None:
    """InputError unless the libraries are there."""
    missing = [name for name in ("cv2", "simplejpeg") if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(
            f"--decoder fast needs {' and '.join(missing)}: python -m pip install -e '.[fast]'"
        )


def decode_resized(content: bytes, rule: ResizeRule) -> np.ndarray:
    """Decode a file's bytes at the size of a rule: uint8 [H, W, 3]. Raises UndecodableError."""
    return resize(_decode(content, rule), rule)


def _decode(content: bytes, rule: ResizeRule) -> np.ndarray:
    pixels = _decode_plain_jpeg(content, rule.least)
    return decode(content, for_size=rule.least) if pixels is None else pixels


def _decode_plain_jpeg(content: bytes, least: tuple[int, int]) -> np.ndarray | None:
    """A JPEG in colour or grey, not below `least` (height, width): uint8 [H, W, 3].

    None for other files, for those with a camera's notes, which may say that they are to be turned, and for
    damaged ones.
    """
    import simplejpeg

    # In front of the image's own size, which the first 64 KiB nearly always hold.
    if not content.startswith(b"\xff\xd8") or content.find(b"Exif\x00", 0, 65536) >= 0:
        return None
    try:
        *_, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray"):
            return None
        return simplejpeg.decode_jpeg(
            content,
            fastdct=True,
            fastupsample=True,
            min_height=least[0],
            min_width=least[1],
            min_factor=MIN_FACTOR,
        )
    except ValueError:  # Pillow forgives more, and has the words for the rest
        return None


def resize(image: np.ndarray, rule: ResizeRule) -> np.ndarray:
    """As `datasets.images.resize.resize`, up to the interpolation and to whole pixels of the part that is cut out."""
    import cv2

    cv2.setNumThreads(0)  # batches are loaded in parallel already
    height, width = image.shape[:2]
    top, left, bottom, right = (round(edge) for edge in rule.box(height, width))
    part = image[top:bottom, left:right]
    rows, columns = rule.size
    if part.shape[:2] == (rows, columns):
        return np.ascontiguousarray(part)
    method = {
        "nearest": cv2.INTER_NEAREST_EXACT,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
    }[rule.interpolation]
    shrinks = min(part.shape[0] / rows, part.shape[1] / columns) >= MIN_FACTOR
    if shrinks and rule.interpolation != "nearest":
        method = cv2.INTER_AREA
    return cv2.resize(part, (columns, rows), interpolation=method)
