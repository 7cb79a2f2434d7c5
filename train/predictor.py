"""Trained weights put to use: predictions for images of any size."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from datasets.images.resize import resize
from datasets.pipeline import Samples
from train.engine import steps
from train.engine.evaluation import array_batches, run_outputs
from train.engine.experiment import build_module
from train.engine.inputs import ImageInputs, Inputs, VectorInputs
from train.engine.objectives import Entry, get_objective
from train.engine.parallel import Devices
from train.recipe import InputError, Stage
from train.record.best import MODEL, WEIGHTS


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights, its classes, and what it wants done to an image."""

    module: Any  # Linen module
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    inputs: Inputs  # images or vectors, and what is done to them
    info: dict[str, Any]  # all of model.json

    def samples(self, split: Any) -> Samples:
        """A split as the model is evaluated on it."""
        return self.inputs.evaluation(split)

    @property
    def objective(self) -> Entry:
        """What it was trained by."""
        return get_objective(self.info["objective"])

    def image_classifier(self) -> ImageInputs:
        """`inputs`, where this is a classifier of images; else InputError."""
        inputs = self.inputs
        probe = self.info.get("probe", "none")
        if probe != "none":
            raise InputError(
                f"this run was scored by its probe ({probe}), which its weights do not hold: give a run without --probe"
            )
        gives_classes = self.objective.answers == "classes"
        if not isinstance(inputs, ImageInputs) or not gives_classes:
            what = "takes vectors" if isinstance(inputs, VectorInputs) else "gives no classes"
            raise InputError(
                f"{self.info['model']}, trained by the objective {self.info['objective']}, {what}: give a classifier"
            )
        return inputs

    def logits(self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Float32 [N, classes] for uint8 images [H, W, 3] of any sizes, RGB.

        Raises InputError for a model that gives no classes, or takes no images.
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
        """Float32 [N, classes], each row of sum 1, for uint8 images [H, W, 3] of any sizes, RGB."""
        from train.analysis.metrics import softmax

        return softmax(self.logits(images, batch_size)).astype(np.float32)

    def outputs(
        self, images: np.ndarray, batch_size: int, labels: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """What evaluation yields an example, for images uint8 [N, H, W, 3] of the model's own size, or vectors."""
        size = self._devices.divisible(batch_size)
        return run_outputs(self._eval_step, self._on_devices, array_batches(images, size, labels))

    @functools.cached_property
    def _devices(self) -> Devices:
        return Devices()

    @functools.cached_property
    def _on_devices(self) -> Any:
        return self._devices.replicate(self.variables)

    @functools.cached_property
    def _eval_step(self) -> Any:
        objective = self.objective.build(self.module, Stage(objective=self.info["objective"]))
        return self._devices.compile_eval_step(steps.make_eval_step(objective, self.inputs))


def load_run(path: str | os.PathLike) -> Predictor:
    """A predictor from a run directory, or from a `best/` folder that was moved elsewhere.

    Raises InputError when there is none, when it is damaged, or when its model cannot be built.
    """
    root = Path(path)
    directory = root / "best" if (root / "best").is_dir() else root
    try:
        info = json.loads((directory / MODEL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not root.exists():
            raise InputError(
                f"nothing at {root}: give a run directory or its best/ folder"
            ) from None
        unfinished = (
            " yet: its first epoch has not ended" if (root / "config.json").exists() else ""
        )
        raise InputError(
            f"{root} holds no trained model (no best/{MODEL}){unfinished};"
            " give a run directory or its best/ folder"
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
        module = build_module(info["model"], len(class_names), info["dtype"], info["options"])
        digest = info["weights_sha256"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory / MODEL} is not complete ({error}): copy it again") from None
    weights = directory / WEIGHTS
    if weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() != digest:
        raise InputError(
            f"{weights} is not the file that {MODEL} describes: copy the folder again,"
            " or go on with the run so that it is written anew"
        )
    like = steps.abstract_variables(module, inputs.shape)
    return Predictor(module, zoo.load_variables(weights, like), class_names, inputs, info)
