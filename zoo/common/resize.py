"""The resize rule: which part of an image is taken, and what size it gets. Imports the standard library only.

Weights bring a rule (`zoo.Preprocessing`), and `datasets.images.resize` applies it.
"""

import dataclasses
import math
from typing import Literal, get_args

Mode = Literal["squash", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclasses.dataclass(frozen=True)
class ResizeRule:
    """How images of any size are brought to one size.

    "squash" ignores the aspect ratio, as Keras does; "crop" takes the largest centered part of the right
    aspect ratio. Of either, the centered `crop_fraction` along each side is taken: 224 / 256 is torchvision's
    "resize to 256, take 224".
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
            raise ValueError(f"crop_fraction is {self.crop_fraction}: give a share, such as 0.875")

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part that is taken of an image of that size: top, left, bottom, right, in pixels."""
        crop_height, crop_width = self.crop_fraction * height, self.crop_fraction * width
        if self.mode == "crop":
            scale = self.crop_fraction * min(height / self.size[0], width / self.size[1])
            crop_height, crop_width = scale * self.size[0], scale * self.size[1]
        # Rounding must not carry the box past the image's edges.
        top, left = max((height - crop_height) / 2, 0.0), max((width - crop_width) / 2, 0.0)
        return top, left, min(top + crop_height, height), min(left + crop_width, width)

    @property
    def least(self) -> tuple[int, int]:
        """The smallest height and width at which the part that is taken has the pixels of `size`."""
        height, width = (math.ceil(side / self.crop_fraction - 1e-6) for side in self.size)
        return height, width
