"""A recipe, resolved: everything that training, evaluation and previews need, checked. `train/setup.py` makes it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import optax

import zoo
from datasets import Dataset
from train.engine import freezing, steps
from train.engine.inputs import Inputs
from train.engine.objectives import Entry
from train.engine.parallel import Devices
from train.recipe import InputError, Recipe, Stage


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage with its names resolved."""

    spec: Stage
    module: Any  # Linen module, with the options of this stage, without an axis name
    abstract: Mapping[str, Any]  # structure, shapes and types of its `params` and `batch_stats`
    objective: Entry
    optimizer: optax.GradientTransformation  # whose schedule knows the number of steps
    frozen: frozenset[freezing.Path]
    comparable: bool  # whether its scores are of the same thing as those of the stage before


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a recipe means with its data, model and devices."""

    recipe: Recipe
    dataset: Dataset  # of images, or of vectors in their place
    data_key: Mapping[
        str, Any
    ]  # JSON-able: what the samples depend on, for caches of what is computed from them
    inputs: Inputs
    devices: Devices
    # Of training only.
    feed: Literal["stepwise", "resident"] = "stepwise"
    feed_bytes: int = 0  # of all samples in device memory
    module: Any = None  # Linen module
    options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # besides classes and dtype
    stages: tuple[StagePlan, ...] = ()
    weights: dict[str, Any] | None = (
        None  # pretrained `params` and `batch_stats`; None for initial ones
    )
    # Source, sha256 and report of pretrained weights, also where a checkpoint has replaced their numbers.
    pretrained: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def decisions(self) -> dict[str, Any] | None:
        """What pretrained weights have decided besides the numbers, for `start.json`; None without."""
        if not self.pretrained:
            return None
        return {
            "options": dict(self.options),
            "preprocessing": self.inputs.to_json(),
            "pretrained": dict(self.pretrained),
        }

    def describe(self) -> dict[str, Any]:
        """What it takes to build the net again, for `best/`."""
        return {
            "model": self.recipe.model,
            "options": dict(self.options),
            "dtype": self.recipe.dtype,
            "num_classes": len(self.dataset.class_names),
            "class_names": list(self.dataset.class_names),
            "probe": self.recipe.probe.method,
            "input_shape": list(self.inputs.shape),
            "preprocessing": self.inputs.to_json(),
        }

    def provenance(self) -> dict[str, Any]:
        """Weights and data that a trained net comes from, for `best/`."""
        return {
            "pretrained": self.recipe.pretrained,
            "pretrained_sha256": self.pretrained.get("sha256"),
            "dataset": self.dataset.name,
            "synthetic": self.dataset.info.synthetic,
            "data_fingerprint": self.dataset.fingerprint,
        }

    def initial_variables(self, module: Any = None) -> dict[str, Any]:
        """`params` and `batch_stats` to start from: the pretrained ones if they are this module's, else initialized by
        the recipe's seed."""
        if self.weights is not None and module in (None, self.module):
            return self.weights
        module = self.module if module is None else module
        return steps.init_variables(module, self.inputs.shape, self.recipe.seed)


def build_module(name: str, num_classes: int | None, dtype: str, options: Mapping[str, Any]) -> Any:
    """`zoo.create_model`, computing in `dtype`; models without that field compute in float32."""
    module = zoo.create_model(name, num_classes, **options)
    if hasattr(module, "dtype"):
        return module.clone(dtype=dtype)
    if dtype != "float32":
        raise InputError(f"model {name} has no dtype field: it cannot compute in {dtype}")
    return module
