"""Resize images by a resize rule, from pixels or from files."""

import io
from typing import Literal

import numpy as np
from PIL import Image

from datasets.images import fast, resampling
from datasets.images.decode import decode_image
from zoo.common.resize import ResizeRule

Decoder = Literal["exact", "fast"]  # "fast": see `datasets.images.fast`


def resize(image: np.ndarray, rule: ResizeRule) -> np.ndarray:
    """Resize an image, uint8 [H, W, 3], with Pillow's filters: antialiased unless "nearest".

    The result may be read-only. An image that already has the target size and needs no crop is returned without a copy.
    """
    height, width = image.shape[:2]
    if image.dtype != np.uint8 or image.shape != (height, width, 3) or not image.size:
        raise ValueError(
            f"the image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}"
        )
    if (height, width) == rule.size and rule.crop_fraction == 1:
        return image
    return _resample(image, height, width, rule)


def decode_resized(content: bytes, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
    """Decode the bytes of a file and resize the image by a rule: uint8 [H, W, 3], possibly read-only.

    With the decoder "exact", the result equals `resize(decode(content, rule.min_size), rule)`, but is faster.
    """
    if decoder == "fast":
        return fast.decode_resized(content, rule)
    image = decode_image(io.BytesIO(content), rule.min_size)
    if image.size == (rule.size[1], rule.size[0]) and rule.crop_fraction == 1:
        return np.asarray(image)
    return _resample(image, image.height, image.width, rule)


def _resample(
    image: Image.Image | np.ndarray, height: int, width: int, rule: ResizeRule
) -> np.ndarray:
    box = rule.box(height, width)
    small = isinstance(image, np.ndarray) or height * width <= resampling.MAX_PIXELS
    if small and rule.interpolation in resampling.KERNELS and resampling.available():
        return resampling.resize(np.asarray(image), rule.size, rule.interpolation, box)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    top, left, bottom, right = box
    resample = Image.Resampling[rule.interpolation.upper()]
    size = (rule.size[1], rule.size[0])
    return np.asarray(image.resize(size, resample, (left, top, right, bottom)))
