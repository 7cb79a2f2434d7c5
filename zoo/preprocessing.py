"""What has to be done to an image before a particular set of weights may see it."""

import dataclasses
from typing import Any, Literal

from zoo.common.resize import ResizeRule


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The resize rule (applied on the host, to uint8 images) and the arithmetic (on the device) that belong to weights.

    The arithmetic is `(channels_in_order(image) * scale - mean) / std`, `image` being uint8 in 0..255 and
    `mean`, `std` given per channel of the *reordered* image.
    """

    rule: ResizeRule
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that the model sees, in pixels."""
        return self.rule.size

    def to_json(self) -> dict[str, Any]:
        """Plain data, without nesting, for a weights file's companion."""
        return {
            "input_size": self.rule.size,
            "resize": self.rule.mode,
            "interpolation": self.rule.interpolation,
            "channel_order": self.channel_order,
            "scale": self.scale,
            "mean": self.mean,
            "std": self.std,
            "crop_fraction": self.rule.crop_fraction,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`; raises TypeError on unknown fields, ValueError on a rule that cannot be."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        names = {
            "input_size": "size",
            "resize": "mode",
            "interpolation": "interpolation",
            "crop_fraction": "crop_fraction",
        }
        rule = {names[k]: fields.pop(k) for k in list(fields) if k in names}
        return cls(ResizeRule(**rule), **fields)
