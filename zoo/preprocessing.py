"""Image preprocessing that pretrained weights expect."""

import dataclasses
from typing import Any, Literal

from zoo.common.resize import ResizeRule


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize rule (applied to uint8 images on the host) and normalization (applied on the device).

    Normalization is `(reorder_channels(image) * scale - mean) / std`, where `image` is uint8 in 0..255, and `mean` and
    `std` are per channel *after* reordering.
    """

    rule: ResizeRule
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the model's input images, in pixels."""
        return self.rule.size

    def to_json(self) -> dict[str, Any]:
        """Convert to a flat, JSON-serializable dict, stored next to the weights."""
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
        """Inverse of `to_json`. Raises TypeError for unknown fields and ValueError for an invalid resize rule."""
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
