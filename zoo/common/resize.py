"""Resize rules: the crop of an image and the size it is resized to. Imports only the standard library.

Pretrained weights come with a rule (`zoo.Preprocessing`); `datasets.images.resize` applies it.
"""

import dataclasses
import math
from typing import Literal, get_args

Mode = Literal["squash", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclasses.dataclass(frozen=True)
class ResizeRule:
    """How to resize images of any size to one size.

    "squash" ignores the aspect ratio, as Keras does; "crop" takes the largest centered crop with the target aspect
    ratio. In either mode, only the central `crop_fraction` of each side is kept: 224 / 256 is torchvision's "resize
    to 256, center-crop 224".
    """

    size: tuple[int, int]  # height, width in pixels
    mode: Mode = "squash"
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("interpolation", Interpolation)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} instead of one of {get_args(kind)}"
                )
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(
                f"crop_fraction is {self.crop_fraction}: use a fraction in (0, 1], such as 0.875"
            )

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Crop box for an image of this size: top, left, bottom, right, in pixels."""
        crop_height, crop_width = self.crop_fraction * height, self.crop_fraction * width
        if self.mode == "crop":
            scale = self.crop_fraction * min(height / self.size[0], width / self.size[1])
            crop_height, crop_width = scale * self.size[0], scale * self.size[1]
        # Clip: rounding must not move the box past the edges of the image.
        top, left = max((height - crop_height) / 2, 0.0), max((width - crop_width) / 2, 0.0)
        return top, left, min(top + crop_height, height), min(left + crop_width, width)

    @property
    def min_size(self) -> tuple[int, int]:
        """Smallest height and width of an image whose crop has at least `size` pixels."""
        height, width = (math.ceil(side / self.crop_fraction - 1e-6) for side in self.size)
        return height, width
