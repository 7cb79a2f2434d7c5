"""Prediction with trained weights, for images of any size."""

import dataclasses
import functools
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from datasets.images.resize import resize
from datasets.pipeline import Samples
from train.engine import steps
from train.engine.evaluation import array_batches, collect_outputs, output_batches
from train.engine.experiment import build_module
from train.engine.inputs import ImageInputs, Inputs, VectorInputs
from train.engine.memo import memoized
from train.engine.objectives import Entry, get_objective
from train.engine.parallel import Devices
from train.recipe import InputError, Stage
from train.record.best import MODEL, WEIGHTS
from zoo.common.commands import typed


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model with its classes and preprocessing."""

    module: Any  # Linen module
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    inputs: Inputs
    info: dict[str, Any]  # the content of model.json

    def samples(self, split: Any) -> Samples:
        """Samples of a split as loaded for evaluation."""
        return self.inputs.eval_samples(split)

    @property
    def objective(self) -> Entry:
        """The objective that the model was trained with."""
        return get_objective(self.info["objective"])

    def image_classifier(self) -> ImageInputs:
        """Return `inputs`. Raises InputError if the model is not an image classifier."""
        inputs = self.inputs
        probe = self.info.get("probe", "none")
        if probe != "none":
            raise InputError(
                f"this run was scored by its probe ({probe}), which is not saved with the weights: use a run without"
                " --probe.method"
            )
        predicts_classes = self.objective.predicts == "classes"
        if not isinstance(inputs, ImageInputs) or not predicts_classes:
            reason = "takes vectors" if isinstance(inputs, VectorInputs) else "predicts no classes"
            raise InputError(
                f"{self.info['model']}, trained with the objective {self.info['objective']}, {reason}:"
                " use a run of an image classifier"
            )
        return inputs

    def logits(self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Compute logits, float32 [N, classes], of RGB images uint8 [H, W, 3] of any sizes.

        Raises InputError if the model is not an image classifier.
        """
        rule = self.image_classifier().preprocessing.rule
        if not len(images):
            return np.zeros((0, len(self.class_names)), np.float32)
        batches = (
            np.stack([resize(image, rule) for image in images[start : start + batch_size]])
            for start in range(0, len(images), batch_size)
        )
        return np.concatenate([self.outputs(batch, batch_size)["logits"] for batch in batches])

    def probabilities(
        self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 32
    ) -> np.ndarray:
        """Compute class probabilities, float32 [N, classes], of RGB images uint8 [H, W, 3] of any sizes."""
        from train.analysis.metrics import softmax

        return softmax(self.logits(images, batch_size)).astype(np.float32)

    def outputs(
        self, images: np.ndarray, batch_size: int, labels: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Compute the objective's outputs per sample, for images uint8 [N, H, W, 3] of the model's size, or vectors."""
        batches = array_batches(images, self._devices.round_up(batch_size), labels)
        return collect_outputs(self._eval_step, self._device_variables, batches)

    def output_batches(
        self, images: np.ndarray, batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Like `outputs`, but batch by batch, since all logits of many classes may not fit into memory."""
        batches = array_batches(images, self._devices.round_up(batch_size))
        return output_batches(self._eval_step, self._device_variables, batches)

    @property
    def _devices(self) -> Devices:
        return _all_devices()

    @functools.cached_property
    def _device_variables(self) -> Any:
        return self._devices.replicate(self.variables)

    @functools.cached_property
    def _eval_step(self) -> Any:
        return _eval_step(self.module, self.info["objective"], self.inputs)


@functools.cache
def _all_devices() -> Devices:
    return Devices()


# Runs of one study have the same network: compile its evaluation once.
@memoized
def _eval_step(module: Any, objective: str, inputs: Inputs) -> Any:
    built = get_objective(objective).build(module, Stage(objective=objective))
    return _all_devices().compile_eval_step(steps.make_eval_step(built, inputs))


def load_run(path: str | os.PathLike) -> Predictor:
    """Load a predictor from a run directory, or from a `best/` folder that may have been moved.

    Raises InputError if there is no trained model, if it is damaged, or if it cannot be built.
    """
    root = Path(path)
    directory = root / "best" if (root / "best").is_dir() else root
    try:
        info = json.loads((directory / MODEL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not root.exists():
            raise InputError(
                f"{root} does not exist: use a run directory or its best/ folder"
            ) from None
        if (root / "config.json").exists():
            raise InputError(
                f"{root} has no trained model yet (no best/{MODEL}), since its first epoch is not complete:"
                f" resume it with {typed('train.run')} --workdir {shlex.quote(str(root))}"
            ) from None
        raise InputError(
            f"{root} has no trained model (no best/{MODEL}): use a run directory or its best/ folder"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{directory / MODEL} cannot be read ({error}): copy it again") from None
    try:
        class_names = tuple(info["class_names"])
        inputs: Inputs
        if info["preprocessing"] is None:
            inputs = VectorInputs(tuple(info["input_shape"]))
        else:
            inputs = ImageInputs(zoo.Preprocessing.from_json(info["preprocessing"]))
        options = info["options"]
        if info["format"] == 1:
            options = zoo.options_of_version_0_1(info["model"], options)
        module = build_module(info["model"], len(class_names), info["dtype"], options)
        digest = info["weights_sha256"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{directory / MODEL} is incomplete (missing or invalid: {error}): copy it again"
        ) from None
    weights = directory / WEIGHTS
    if weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() != digest:
        raise InputError(
            f"{weights} does not match the sha256 in {MODEL}: copy the folder again, or resume the run to rewrite it"
        )
    like = steps.abstract_variables(module, inputs.shape)
    return Predictor(module, zoo.load_variables(weights, like), class_names, inputs, info)
