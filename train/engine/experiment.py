"""A resolved and checked recipe: everything that training, evaluation and previews need. Built by `train/setup.py`."""

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
    module: Any  # Linen module with the options of this stage, without an axis name
    abstract: Mapping[str, Any]  # structure, shapes and dtypes of its `params` and `batch_stats`
    objective: Entry
    optimizer: optax.GradientTransformation  # its schedule spans the steps of this stage
    batch_size: int
    frozen: frozenset[freezing.Path]
    comparable: bool  # whether its scores can be compared with those of the previous stage


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A recipe with its data, model and devices."""

    recipe: Recipe
    dataset: Dataset  # of images, or of vectors in their place
    # Everything that the samples depend on, JSON-able: the key of caches of their features.
    data_key: Mapping[str, Any]
    inputs: Inputs
    devices: Devices
    # Set for training only.
    feed: Literal["streamed", "cached"] = "streamed"
    feed_bytes: int = 0  # size of all samples in device memory
    module: Any = None  # Linen module
    # Fields of the model besides `num_classes` and `dtype`.
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[StagePlan, ...] = ()
    # Pretrained `params` and `batch_stats`; None: initialize them.
    weights: dict[str, Any] | None = None
    # Source, sha256 and report of pretrained weights, even if a checkpoint has replaced them.
    pretrained: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def start_settings(self) -> dict[str, Any] | None:
        """Settings that follow from pretrained weights or training images, for `start.json`; None without any."""
        if not self.pretrained and not self.recipe.normalization.of_training_images:
            return None
        return {
            "options": dict(self.options),
            "preprocessing": self.inputs.to_json(),
            "pretrained": dict(self.pretrained),
        }

    def describe(self) -> dict[str, Any]:
        """Everything needed to rebuild the model, for `best/`."""
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
        """Origin of the weights and the data, for `best/`."""
        return {
            "pretrained": self.pretrained.get("source"),
            "pretrained_sha256": self.pretrained.get("sha256"),
            "dataset": self.dataset.name,
            "synthetic": self.dataset.info.synthetic,
            "data_fingerprint": self.dataset.fingerprint,
        }

    def initial_variables(self, module: Any = None) -> dict[str, Any]:
        """Return the `params` and `batch_stats` to start from.

        These are the pretrained ones if they belong to this module (default: the experiment's), else initialized with
        the recipe's seed.
        """
        if self.weights is not None and module in (None, self.module):
            return self.weights
        module = self.module if module is None else module
        return steps.init_variables(module, self.inputs.shape, self.recipe.seed)


def build_module(name: str, num_classes: int | None, dtype: str, options: Mapping[str, Any]) -> Any:
    """Create a model of the zoo that computes in `dtype`.

    Raises InputError for a dtype other than float32 if the model has no `dtype` field.
    """
    module = zoo.create_model(name, num_classes, **options)
    if hasattr(module, "dtype"):
        return module.clone(dtype=dtype)
    if dtype != "float32":
        raise InputError(
            f"model {name} has no dtype field and cannot compute in {dtype}: use --dtype float32"
        )
    return module
