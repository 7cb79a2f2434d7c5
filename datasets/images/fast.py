"""Fast decoding and resizing with libjpeg's shortcuts and OpenCV: twice as fast as Pillow, with slightly different
pixels.

The differences come from libjpeg's faster transforms, and from bilinear sampling, which is not antialiased if an image
shrinks by less than a factor of two (beyond that, areas are averaged). `benchmarks.input_pipeline` measures them. This
is for training images only; evaluation images are decoded by Pillow.

Requires the extra `fast`; see `check`.
"""

import importlib.util

import numpy as np

from datasets.images.decode import decode
from zoo.common.errors import InputError
from zoo.common.resize import ResizeRule

# Reduce by factors of at least two only: for smaller factors, the decoder's reduced transforms are slower than the
# full one.
MIN_FACTOR = 2.0


def check() -> None:
    """Raise InputError unless the required libraries are installed."""
    missing = [name for name in ("cv2", "simplejpeg") if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(
            f"--decoder fast needs {' and '.join(missing)}: run python -m pip install -e '.[fast]'"
        )


def decode_resized(content: bytes, rule: ResizeRule) -> np.ndarray:
    """Decode the bytes of a file and resize the image by a rule: uint8 [H, W, 3]. Raises UndecodableError."""
    return resize(_decode(content, rule), rule)


def _decode(content: bytes, rule: ResizeRule) -> np.ndarray:
    pixels = _decode_plain_jpeg(content, rule.min_size)
    return decode(content, for_size=rule.min_size) if pixels is None else pixels


def _decode_plain_jpeg(content: bytes, min_size: tuple[int, int]) -> np.ndarray | None:
    """Decode a color or gray JPEG at no less than `min_size` (height, width): uint8 [H, W, 3].

    Returns None for other files, for damaged files, and for files with EXIF data, which may contain an orientation.
    """
    import simplejpeg

    # EXIF data precede the image header, which is nearly always in the first 64 KiB.
    if not content.startswith(b"\xff\xd8") or content.find(b"Exif\x00", 0, 65536) >= 0:
        return None
    try:
        *_, colors, _ = simplejpeg.decode_jpeg_header(content)
        if colors not in ("YCbCr", "Gray"):
            return None
        return simplejpeg.decode_jpeg(
            content,
            fastdct=True,
            fastupsample=True,
            min_height=min_size[0],
            min_width=min_size[1],
            min_factor=MIN_FACTOR,
        )
    except ValueError:  # Pillow tolerates more files, and reports an error for the rest
        return None


def resize(image: np.ndarray, rule: ResizeRule) -> np.ndarray:
    """Like `datasets.images.resize.resize`, except for the interpolation and for crops rounded to whole pixels."""
    import cv2

    cv2.setNumThreads(0)  # batches are loaded in parallel already
    height, width = image.shape[:2]
    top, left, bottom, right = (round(edge) for edge in rule.box(height, width))
    crop = image[top:bottom, left:right]
    rows, columns = rule.size
    if crop.shape[:2] == (rows, columns):
        return np.ascontiguousarray(crop)
    method = {
        "nearest": cv2.INTER_NEAREST_EXACT,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
    }[rule.interpolation]
    shrinks = min(crop.shape[0] / rows, crop.shape[1] / columns) >= MIN_FACTOR
    if shrinks and rule.interpolation != "nearest":
        method = cv2.INTER_AREA
    return cv2.resize(crop, (columns, rows), interpolation=method)
