"""What a training run is made of: plain frozen data that imports the standard library only.

A `Recipe` names a data set, a model and a list of `Stage`s; a stage names its objective, optimiser,
schedule and augmentation. Names are resolved to functions in `train/engine`.
"""

import ast
import dataclasses
import re
import types
import typing
from typing import Any, Literal


class InputError(ValueError):
    """Something that the user gave cannot be used; the message is one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Keras's defaults where Keras has the optimiser."""

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    """Initial learning rate."""
    b1: float = 0.9
    """Adam: decay of the first moment."""
    b2: float = 0.999
    """Adam: decay of the second moment."""
    epsilon: float = 1e-7
    """Adam: Keras's epsilon."""
    momentum: float = 0.0
    """SGD: momentum."""


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Keras's ReduceLROnPlateau on the validation loss."""

    patience: int = 0
    """Epochs without improvement before the learning rate is reduced; 0 switches this off."""
    factor: float = 0.1
    """What the learning rate is multiplied by."""
    min_delta: float = 1e-4
    """Absolute improvement that counts."""


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Keras's EarlyStopping on the validation loss: training ends at the p-th epoch without improvement."""

    patience: int = 0
    """Epochs without improvement before training ends; 0 switches this off."""
    min_delta: float = 0.0
    """Absolute improvement that counts."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of each training image, drawn anew every epoch; nothing by default."""

    rotation: float = 0.0
    """Largest rotation to either side, in degrees."""
    shift_x: float = 0.0
    """Largest horizontal shift to either side, as a share of the width."""
    shift_y: float = 0.0
    """Largest vertical shift to either side, as a share of the height."""
    flip: bool = False
    """Mirror every other image, on average."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One phase of training."""

    name: str = "train"
    objective: Literal["classification", "autoencoder", "vade", "gmvae"] = "classification"
    """What is minimised: softmax cross-entropy, reconstruction error, or a negative evidence lower bound."""
    freeze: tuple[str, ...] = ()
    """What this stage leaves as it is: backbone (all but the head), or paths such as conv1 or features.:14."""
    epochs: int = 30
    """At most so many epochs."""
    optimizer: Optimizer = Optimizer()
    plateau: Plateau = Plateau()
    early_stop: EarlyStop = EarlyStop()
    augment: Augmentation = Augmentation()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole training run."""

    name: str = "default"
    """Where the settings come from."""
    model: str = "sam_alexnet"
    """Registered model, or package.module:name of your own."""
    model_options: tuple[str, ...] = ()
    """Fields of the model, as name=value."""
    pretrained: str | None = None
    """Weights to start from: a source's tag (python -m train.models --pretrained), hf://owner/name, or a file."""
    dataset: str = "synthetic_pigs"
    """Registered data set, or the path of a folder or .zip of images."""
    data_dir: str | None = None
    """Where a registered data set's files lie."""
    image_size: int | None = None
    """Height and width in pixels (default: the model's)."""
    batch_size: int = 32
    """Images per step, over all devices."""
    keep_tail: bool = False
    """Train on the epoch's last, smaller batch too (Keras does), instead of full batches only."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the net computes in; parameters stay float32."""
    seed: int = 0
    """Of initial weights, order, augmentation and dropout."""
    split_seed: int = 0
    """Of the split of data that come unsplit."""
    validation_fraction: float = 0.1
    """Share of validation images, where the data have no such part."""
    test_fraction: float = 0.1
    """Share of test images, where the data have no such part."""
    group: str | None = None
    """Regular expression whose first group in an image's path names what stays together (individual, visit)."""
    folds: int = 0
    """Cross-validation: the number of folds (0: none)."""
    fold: int = 0
    """Cross-validation: the fold to test on, from 0 on."""
    splits: str | None = None
    """The splits.json of an earlier run, to have the same images in the same parts."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """What to do about files that cannot be decoded."""
    stages: tuple[Stage, ...] = (Stage(),)

    def options(self) -> dict[str, Any]:
        """`model_options` as keyword arguments of `zoo.create_model`."""
        options = {}
        for text in self.model_options:
            name, equals, value = text.partition("=")
            if not equals or not name.strip():
                raise InputError(
                    f"model option {text!r} is not of the form name=value, such as dropout_rate=0.3"
                )
            try:
                options[name.strip()] = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError):
                options[name.strip()] = value.strip()
        return options

    def validate(self) -> None:
        """Raise InputError for values that no run can use."""
        if self.batch_size < 1:
            raise InputError(f"--batch-size is {self.batch_size}: give at least 1")
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"--image-size is {self.image_size}: give at least 1 pixel")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed is {self.seed}: give 0 to {2**32 - 1}")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise InputError(
                    f"--{flag} is {getattr(self, name)}: give a share between 0 and 1, such as 0.1"
                )
        if self.validation_fraction + self.test_fraction >= 1:
            raise InputError(
                "--validation-fraction and --test-fraction leave nothing to train on: lower them"
            )
        if self.group is not None:
            try:
                re.compile(self.group)
            except re.error as error:
                raise InputError(
                    f"--group {self.group!r} is no regular expression ({error}): mend it"
                ) from None
        if self.folds < 0 or self.folds == 1:
            raise InputError(f"--folds is {self.folds}: give 2 or more, or 0 for none")
        if not 0 <= self.fold < max(self.folds, 1):
            known = f"0 to {self.folds - 1}" if self.folds else "--folds, too"
            raise InputError(f"--fold is {self.fold}: give {known}")
        if self.folds and self.splits is not None:
            raise InputError("--splits leaves nothing to make --folds of: give one of them")
        if not self.stages:
            raise InputError(f"recipe {self.name!r} has no stages: nothing to train")
        for index, stage in enumerate(self.stages):
            if stage.epochs < 1:
                raise InputError(
                    f"stage {index} ({stage.name}) has {stage.epochs} epochs: give at least 1"
                )
            if not 0 < stage.optimizer.learning_rate < float("inf"):
                raise InputError(
                    f"stage {index} ({stage.name}) has learning rate {stage.optimizer.learning_rate}: give one above 0"
                )
        self.options()

    def to_json(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Recipe":
        """The inverse of `to_json`; InputError names a field that is unknown or of a wrong type."""
        return _from_plain(cls, data, "recipe")


def _from_plain(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where} should be an object, not {value!r}")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise InputError(
                    f"{where} has an unknown field {name!r}: written by another version?"
                )
        return kind(
            **{
                name: _from_plain(hints[name], item, f"{where}.{name}")
                for name, item in value.items()
            }
        )
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(
            _from_plain(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)
        )
    if origin is types.UnionType:
        accepted = value is None or isinstance(value, arguments)
    elif origin is Literal:
        accepted = value in arguments
    elif kind is float:
        accepted = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        accepted = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not accepted:
        raise InputError(f"{where} is {value!r}, which it cannot be")
    return float(value) if kind is float else value


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """Dotted names of the fields in which two recipes differ, with both values."""
    found: list[str] = []

    def compare(a: Any, b: Any, where: str) -> None:
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            for key in a:
                compare(a[key], b[key], f"{where}.{key}" if where else key)
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                compare(x, y, f"{where}.{index}")
        elif a != b:
            found.append(f"{where}: {a!r}, not {b!r}")

    compare(ours.to_json(), theirs.to_json(), "")
    return found
