"""In place of AFHQ and of ImageNet's weights: photographs of cats and dogs, and tiny nets pretrained on CIFAR-10."""

from typing import Any

from train.recipe import JobWeights, Recipe
from train.recipes import ours
from train.reproduce.claims import Row

NOTE = " Proxy: cats and dogs, a tiny net, pretrained on CIFAR-10 where the paper says ImageNet."


def proxy(model: str, pretrained: str | None = None) -> dict[str, Any]:
    """What changes in a row that runs on photographs; `pretrained` names the row whose weights it starts from."""
    changes: dict[str, Any] = {"dataset": "cats_dogs", "image_size": 48, "model": model}
    return changes | ({"pretrained": JobWeights(pretrained)} if pretrained else {})


def pretraining(name: str, model: str) -> Row:
    """The row whose weights take the place of ImageNet's."""
    return Row(
        name=name,
        table="ours",
        label=f"{model} on CIFAR-10, in place of ImageNet's weights",
        recipe=Recipe(
            name="afhq_pretraining",
            model=model,
            dataset="cifar10",
            image_size=48,
            batch_size=ours.PRETRAINING_BATCH_SIZE,
            stages=(ours.PRETRAINING,),
        ),
        proxy={},
        seeds=1,
    )
