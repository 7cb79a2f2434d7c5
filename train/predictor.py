"""Trained weights put to use: predictions for images of any size."""

import dataclasses
import functools
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import zoo
from datasets.images.decode import Geometry
from train.engine import steps
from train.engine.cropping import evaluation_geometry, evaluation_view
from train.engine.evaluation import array_batches, run_outputs
from train.engine.objectives import OBJECTIVES
from train.engine.parallel import Devices
from train.recipe import InputError, Recipe, Stage, parse_options
from train.record.directory import FORMAT, write_json
from zoo.registry import module_options

WEIGHTS = "weights.safetensors"
MODEL = "model.json"


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights, its classes, and what it wants done to an image."""

    module: Any  # Linen module
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    preprocessing: zoo.Preprocessing | None  # None: the model takes vectors
    info: dict[str, Any]  # all of model.json

    @property
    def geometry(self) -> Geometry | None:
        """How an image gets to the size of the model; None for a model of vectors."""
        return None if self.preprocessing is None else evaluation_geometry(self.preprocessing)

    def classifier_geometry(self) -> Geometry:
        """`geometry`; InputError for a model that gives no classes, or takes no images."""
        geometry, objective = self.geometry, self.info["objective"]
        probe = self.info.get("probe", "none")
        if probe != "none":
            raise InputError(
                f"this run was scored by its probe ({probe}), which its weights do not hold: give a run without --probe"
            )
        if geometry is None or objective != "classification":
            what = "takes vectors" if geometry is None else "gives no classes"
            raise InputError(
                f"{self.info['model']}, trained by the objective {objective}, {what}: give a classifier"
            )
        return geometry

    def logits(self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Float32 [N, classes] for uint8 images [H, W, 3] of any sizes, RGB.

        Raises InputError for a model that gives no classes, or takes no images.
        """
        geometry = self.classifier_geometry()
        if not len(images):
            return np.zeros((0, len(self.class_names)), np.float32)
        batches = (
            np.stack([geometry.apply(image) for image in images[start : start + batch_size]])
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
        objective = OBJECTIVES[self.info["objective"]](self.module)
        return self._devices.compile_eval_step(steps.make_eval_step(objective, self.preprocessing))


def save_best(
    directory: Path,
    variables: dict[str, Any],
    recipe: Recipe,
    stage: Stage,
    start: "Start",
    class_names: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Write weights and everything needed to use them again anywhere: a folder of two files.

    `model.json` is written last and names the digest of the weights: it is the record that they are whole.
    """
    digest = zoo.save_variables(directory / WEIGHTS, variables)
    description = {
        "format": FORMAT,
        "model": recipe.model,
        "options": start.options | parse_options(stage.model_options),
        "dtype": recipe.dtype,
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "objective": stage.objective,
        "probe": recipe.probe.method,
        "input_shape": list(start.input_shape),
        "preprocessing": start.preprocessing and start.preprocessing.to_json(),
        **{k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in facts.items()},
        "weights_sha256": digest,
        "versions": versions(),
    }
    write_json(directory / MODEL, description)


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
        preprocessing = info["preprocessing"] and zoo.Preprocessing.from_json(info["preprocessing"])
        class_names = tuple(info["class_names"])
        shape = info.get("input_shape") or (*preprocessing.input_size, 3)
        module = build_model(info["model"], len(class_names), info["dtype"], info["options"])
        digest = info["weights_sha256"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory / MODEL} is not complete ({error}): copy it again") from None
    weights = directory / WEIGHTS
    if weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() != digest:
        raise InputError(
            f"{weights} is not the file that {MODEL} describes: copy the folder again,"
            " or go on with the run so that it is written anew"
        )
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    like = {
        "params": {},
        "batch_stats": {},
        **jax.eval_shape(module.init, jax.random.key(0), image),
    }
    return Predictor(module, zoo.load_variables(weights, like), class_names, preprocessing, info)


@dataclasses.dataclass(frozen=True)
class Start:
    """What training starts from."""

    module: Any  # Linen module
    options: dict[str, Any]  # of the module, besides its classes and dtype
    variables: dict[str, Any]  # params and batch_stats
    preprocessing: zoo.Preprocessing | None  # None for vectors
    input_shape: tuple[int, ...]  # of one example
    pretrained: dict[str, Any]  # what was taken from pretrained weights; empty without

    def to_json(self) -> dict[str, Any]:
        """What pretrained weights decided besides the numbers."""
        assert self.preprocessing is not None
        return {
            "options": self.options,
            "preprocessing": self.preprocessing.to_json(),
            "pretrained": self.pretrained,
        }


def start_of(
    recipe: Recipe,
    shape: tuple[int, ...],
    num_classes: int,
    decided: dict[str, Any] | None = None,
) -> Start:
    """The recipe's model with initial or pretrained weights. `shape` is that of one image, which is meant unless the
    weights have a size of their own, or the length of one vector, alone; a model with a field `input_shape` or
    `input_size` gets it.

    `decided` is `Start.to_json` of a run that goes on: its numbers are in its checkpoints, and the file of
    weights, which may be gone or changed since then, is left alone.

    Raises InputError for an unknown option, images that are too small, or weights that do not fit.
    Random windows (`augment.resize`) narrow what evaluation sees.
    """
    if recipe.pretrained is None:
        options = recipe.options()
        module = build_model(recipe.model, num_classes, recipe.dtype, options)
        fields = module_options(module)
        if "input_shape" in fields and len(shape) == 3:
            options["input_shape"] = shape
        if "input_size" in fields and len(shape) == 1:
            options["input_size"] = shape[0]
        module = module.clone(
            **{k: options[k] for k in ("input_shape", "input_size") if k in options}
        )
        _check_size(module, recipe.model, shape)
        variables = steps.init_variables(module, shape, recipe.seed)
        preprocessing = None
        if len(shape) == 3:
            size = (shape[0], shape[1])
            preprocessing = evaluation_view(zoo.Preprocessing(input_size=size), recipe.stages)
        return Start(module, options, variables, preprocessing, shape, {})
    if decided is not None:
        preprocessing = zoo.Preprocessing.from_json(decided["preprocessing"])
        module = build_model(recipe.model, num_classes, recipe.dtype, decided["options"])
        shape = (*preprocessing.input_size, 3)
        variables = steps.init_variables(module, shape, recipe.seed)
        return Start(
            module, decided["options"], variables, preprocessing, shape, decided["pretrained"]
        )
    from zoo.pretrained import load
    from zoo.pretrained.sources import DownloadError

    try:
        taken = load(
            recipe.model,
            recipe.pretrained,
            num_classes,
            image_size=recipe.image_size,
            seed=recipe.seed,
            **recipe.options(),
        )
    except DownloadError as error:
        raise InputError(f"{error}; or train from random weights: --pretrained None") from None
    module = build_model(recipe.model, num_classes, recipe.dtype, taken.options)
    shape = (*taken.preprocessing.input_size, 3)
    _check_size(module, recipe.model, shape)
    variables = {"batch_stats": {}, **taken.variables}
    preprocessing = evaluation_view(taken.preprocessing, recipe.stages)
    pretrained = {"source": recipe.pretrained, "sha256": taken.sha256, "report": taken.report}
    return Start(module, taken.options, variables, preprocessing, shape, pretrained)


def _check_size(module: Any, name: str, shape: tuple[int, ...]) -> None:
    try:
        zoo.layer_table(module, shape)
    except zoo.InputError as error:
        advice = "; give a larger --image-size" if "too small" in str(error) else ""
        what = f"{shape[0]}x{shape[1]} pixels" if len(shape) == 3 else f"{shape[0]} numbers"
        raise InputError(f"{name} at {what}: {error}{advice}") from None


def build_model(name: str, num_classes: int, dtype: str, options: dict[str, Any]) -> Any:
    """`zoo.create_model`, computing in `dtype`; models without that field compute in float32."""
    module = zoo.create_model(name, num_classes, **options)
    if hasattr(module, "dtype"):
        return module.clone(dtype=dtype)
    if dtype != "float32":
        raise InputError(f"model {name} has no dtype field: it cannot compute in {dtype}")
    return module


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    import flax
    import optax

    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
    }
