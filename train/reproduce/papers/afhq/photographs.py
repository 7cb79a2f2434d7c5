"""Proxies for AFHQ and ImageNet weights: photographs of cats and dogs, and tiny nets pretrained on CIFAR-10."""

from typing import Any

from train.recipe import JobWeights, Normalization, Recipe
from train.recipes import proxy_data
from train.reproduce.schema import EarlierReading, Row

NOTE = " Proxy: a tiny net on cats and dogs, pretrained on CIFAR-10 instead of ImageNet."

# Applies to all rows on AFHQ. `settings.earlier_recipe` keeps the published splits.
EARLIER = EarlierReading(
    "the published splits are kept, images are normalized as the weights or not at all, and cropped",
    {"normalization": Normalization()},
)


def proxy(model: str, pretrained: str | None = None) -> dict[str, Any]:
    """Return the proxy fields of a row; `pretrained` names the row whose weights it starts from."""
    changes: dict[str, Any] = {"dataset": "cats_dogs", "image_size": 48, "model": model}
    return changes | ({"pretrained": JobWeights(pretrained)} if pretrained else {})


def pretraining(name: str, model: str) -> Row:
    """Return the row whose weights replace ImageNet weights."""
    return Row(
        name=name,
        table="not in the paper",
        label=f"{model} on CIFAR-10, in place of ImageNet's weights",
        recipe=Recipe(
            name="afhq_pretraining",
            model=model,
            dataset="cifar10",
            image_size=48,
            batch_size=proxy_data.PRETRAINING_BATCH_SIZE,
            stages=(proxy_data.PRETRAINING,),
        ),
        proxy={},
        seeds=1,
    )
