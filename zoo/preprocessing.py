"""What has to be done to an image before a particular set of weights may see it."""

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Geometry (done on the host, on uint8 images) and arithmetic (done on the device) that belong to weights.

    The arithmetic is `(channels_in_order(image) * scale - mean) / std`, `image` being uint8 in 0..255 and
    `mean`, `std` given per channel of the *reordered* image.
    """

    input_size: tuple[int, int]  # height, width in pixels
    resize: Literal["squash", "crop"] = (
        "squash"  # ignore the aspect ratio, or scale and take the centre
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    # How much of the image ("squash") or of its largest centred part ("crop") is kept, along each side: the
    # middle. 224 / 256 is "scale the shorter side to 256, take 224" in one step.
    crop_fraction: float = 1.0

    def to_json(self) -> dict:
        """Plain data for a weights file's companion."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "Preprocessing":
        """The inverse of `to_json`; raises TypeError on unknown fields."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**fields)
