"""What a training run is made of: plain frozen data that imports the standard library only.

A `Recipe` names a data set, a model and a list of `Stage`s; a stage names its objective, optimiser,
schedule and augmentation. Names are resolved to functions in `train/engine`.
"""

import ast
import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
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
    nesterov: bool = False
    """SGD: Nesterov's momentum."""
    l2: float = 0.0
    """Keras's kernel_regularizer: this times the sum of squares (without a half) of all kernels, in the gradient;
    losses are reported without it."""
    weight_decay: float = 0.0
    """Of every parameter; in the gradient as torch's Adam and SGD have it, or apart from it as AdamW."""
    decoupled: bool = True
    """Weight decay apart from the gradient."""
    clip_norm: float = 0.0
    """Largest norm of all gradients together; 0 switches this off."""
    accumulate: int = 1
    """Steps whose gradients are averaged into one update."""
    decay: float = 0.0
    """Keras's decay: the rate of update n is divided by 1 + decay * n, counted from 0."""
    warmup_steps: int = 0
    """Updates over which the rate rises from 0 in a straight line."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the rate falls after the warm-up; cosine: to 0 at the stage's last update."""


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
    """Random changes of each training image, drawn anew at every visit; nothing by default."""

    resize: int | None = None
    """Height in pixels at which training images are loaded; each visit sees a random window of the model's
    size, evaluation the window in the middle (default: the model's size)."""
    crops_per_image: int = 1
    """How often an epoch visits each image: its steps multiply."""
    rotation: float = 0.0
    """Largest rotation to either side, in degrees."""
    shift_x: float = 0.0
    """Largest horizontal shift to either side, as a share of the width."""
    shift_y: float = 0.0
    """Largest vertical shift to either side, as a share of the height."""
    zoom: float = 0.0
    """Largest enlargement and reduction, as a share: 0.1 is 0.9 to 1.1 times."""
    aspect: float = 0.0
    """Largest change of the ratio of width to height: 0.25 is 4/5 to 5/4 of it."""
    crop_area: float = 1.0
    """Proportional crop: windows of at least this share of the image's area, scaled to the model's size."""
    flip: bool = False
    """Mirror every other image, on average."""
    flip_vertical: bool = False
    """Turn every other image upside down, on average."""
    brightness: float = 0.0
    """Largest change of the brightness's factor: 0.2 is 0.8 to 1.2."""
    contrast: float = 0.0
    """Largest change of the contrast's factor: 0.2 is 0.8 to 1.2."""
    noise_share: float = 0.0
    """Share of the images that get Gaussian noise."""
    noise_sigma: float = 25.5
    """That noise's standard deviation, in grey levels of 0 to 255."""
    cutout: float = 0.0
    """Side of a square that is hidden, as a share of the image's side."""
    cutout_fill: int | None = None
    """Grey level of that square (default: the image's mean colour)."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One phase of training."""

    name: str = "train"
    objective: Literal["classification", "autoencoder", "vade", "gmvae"] = "classification"
    """What is minimised: softmax cross-entropy, reconstruction error, or a negative evidence lower bound."""
    start: Literal["continue", "mixture", "bottleneck"] = "continue"
    """What is done to the parameters first: nothing; fit VaDE's mixture to the codes of the training data; insert
    the fully connected layers of a convolutional auto-encoder that was trained without."""
    model_options: tuple[str, ...] = ()
    """Fields of the model in this stage alone, as name=value."""
    freeze: tuple[str, ...] = ()
    """What this stage leaves as it is: backbone (all but the head), or paths such as conv1 or features.:14."""
    epochs: int = 30
    """At most so many epochs."""
    optimizer: Optimizer = Optimizer()
    plateau: Plateau = Plateau()
    early_stop: EarlyStop = EarlyStop()
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    ema: float = 0.0
    """Keras's ema_momentum: evaluation and best/ take a moving average of the parameters; 0 switches this off."""
    balance: Literal["none", "class_weights", "sampling"] = "none"
    """Against classes of unequal size: weigh the losses of their images (Keras's class_weight, "balanced"), or
    draw all classes equally often."""
    augment: Augmentation = Augmentation()


@dataclasses.dataclass(frozen=True)
class Probe:
    """What is asked of the trained net's features, instead of its own answer."""

    method: Literal["none", "svm", "kmeans", "gmm"] = "none"
    """A support vector machine with the labels; k-means or a Gaussian mixture without, as many clusters as
    classes."""
    layer: str = "features"
    """Whose output: features (what enters the head; an auto-encoder's latent means), a layer's path, or input (the
    data themselves)."""
    standardise: bool = True
    """Give each number of the features mean 0 and variance 1 over the training data first."""
    c: float = 1.0
    """SVM: the price of errors, C."""
    gamma: float | None = None
    """SVM: width of the rbf kernel (default: scikit-learn's "scale")."""
    kernel: Literal["rbf", "linear"] = "rbf"
    """SVM: kernel."""


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
    """Registered data set, tfds:NAME, or the path of a folder, .zip, .tar, .csv or .npz of images."""
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
    images_per_class: int | None = None
    """Train on so many images of each class at most; validation and test images stay."""
    noisy_images: float = 0.0
    """Share of the images, of every part, that get Gaussian noise for good."""
    noise_sigma: float = 25.5
    """That noise's standard deviation, in grey levels of 0 to 255."""
    features: str | None = None
    """Train on vectors instead of images: pixels, or the features of a trained net: a run directory, or
    MODEL=SOURCE of pretrained weights, such as resnet50=torchvision."""
    feature_scaling: Literal["none", "unit", "standardise"] = "none"
    """Divide all vectors by one number, the standard deviation of the training data, or give each of their numbers mean
    0 and variance 1."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """What to do about files that cannot be decoded."""
    decoder: Literal["exact", "fast"] = "exact"
    """How training images are decoded and resized: as Pillow does, or faster and a little different; evaluation is
    always exact."""
    feed: Literal["auto", "stepwise", "resident"] = "auto"
    """How images reach the device: a batch at a time, or all at once to stay there; auto: resident on a GPU when
    they fit."""
    stages: tuple[Stage, ...] = (Stage(),)
    probe: Probe = Probe()

    def options(self) -> dict[str, Any]:
        """`model_options` as keyword arguments of `zoo.create_model`."""
        return parse_options(self.model_options)

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
        if not self.stages and self.probe.method == "none":
            raise InputError(f"recipe {self.name!r} has no stages: nothing to train")
        if self.images_per_class is not None and self.images_per_class < 1:
            raise InputError(f"--images-per-class is {self.images_per_class}: give at least 1")
        for name, (accepts, words) in _DATA_LIMITS.items():
            if not accepts(getattr(self, name)):
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} is {getattr(self, name)}: give {words}")
        for name in ("c", "gamma"):
            value = getattr(self.probe, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--probe.{name} is {value}: give a number above 0")
        names = [stage.name for stage in self.stages]
        for index, stage in enumerate(self.stages):
            if stage.name in names[:index]:
                raise InputError(
                    f"stages {names.index(stage.name)} and {index} are both called {stage.name!r}: the logs tell them"
                    " apart by name; give each its own"
                )
            if stage.epochs < 1:
                raise InputError(
                    f"stage {index} ({stage.name}) has {stage.epochs} epochs: give at least 1"
                )
            check_optimizer(stage, f"--stages.{index}")
            if stage.balance == "class_weights" and stage.objective != "classification":
                raise InputError(
                    f"stage {index} ({stage.name}) has class weights, but {stage.objective} reads no labels:"
                    f" give --stages.{index}.balance sampling or none"
                )
            check_augmentation(stage.augment, f"--stages.{index}.augment")
            parse_options(stage.model_options)
        self.options()

    def to_json(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Recipe":
        """The inverse of `to_json`; InputError names a field that is unknown or of a wrong type."""
        return _from_plain(cls, data, "recipe")


def parse_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """Texts of the form name=value as keyword arguments of `zoo.create_model`."""
    options = {}
    for text in texts:
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


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values in fields that are named by dotted paths: `stages.0.optimizer.learning_rate`;
    `stages.*.epochs` is that of every stage."""

    def put(item: Any, path: list[str], value: Any) -> Any:
        if not path:
            return value
        head, *rest = path
        if isinstance(item, tuple):
            chosen = range(len(item)) if head == "*" else [int(head)]
            return tuple(put(v, rest, value) if i in chosen else v for i, v in enumerate(item))
        return dataclasses.replace(item, **{head: put(getattr(item, head), rest, value)})

    for path, value in values.items():
        recipe = put(recipe, path.split("."), value)
    return recipe


# What a number may be: the test, and the words for it.
_NOT_NEGATIVE = (lambda v: 0 <= v < math.inf, "at least 0")
_RATE = (lambda v: 0 < v < math.inf, "above 0, such as 0.001")
_DECAYS = (lambda v: 0 <= v < 1, "at least 0 and below 1, such as 0.9")
_ANY_SHARE = (lambda v: 0 <= v <= 1, "a share from 0 to 1, such as 0.1")
_GREY_LEVELS = (lambda v: 0 <= v < math.inf, "grey levels of at least 0, such as 25.5")
_DATA_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "noisy_images": _ANY_SHARE,
    "noise_sigma": _GREY_LEVELS,
}
_OPTIMIZER_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": _RATE,
    "b1": _DECAYS,
    "b2": _DECAYS,
    "epsilon": _RATE,
    "momentum": _DECAYS,
    "l2": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "clip_norm": _NOT_NEGATIVE,
    "accumulate": (lambda v: v >= 1, "at least 1"),
    "decay": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
}


def check_optimizer(stage: Stage, where: str) -> None:
    """InputError for numbers that no training can use; `where` is the flags' beginning."""
    fields = {
        f"optimizer.{k}": (getattr(stage.optimizer, k), v) for k, v in _OPTIMIZER_LIMITS.items()
    }
    fields |= {name: (getattr(stage, name), _DECAYS) for name in ("label_smoothing", "ema")}
    for name, (value, (accepts, words)) in fields.items():
        if not accepts(value):
            raise InputError(f"{where}.{name.replace('_', '-')} is {value}: give {words}")
    if stage.optimizer.nesterov and not stage.optimizer.momentum:
        raise InputError(f"{where}.optimizer.nesterov needs a momentum above 0, such as 0.9")


# What a field of an Augmentation may be.
_BELOW_1 = (lambda v: 0 <= v < 1, "a share of at least 0 and below 1, such as 0.1")
_AUGMENTATION_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "resize": (lambda v: v is None or v >= 1, "at least 1 pixel"),
    "crops_per_image": (lambda v: v >= 1, "at least 1"),
    "rotation": (lambda v: 0 <= v <= 180, "degrees from 0 to 180"),
    "shift_x": _ANY_SHARE,
    "shift_y": _ANY_SHARE,
    "zoom": _BELOW_1,
    "aspect": (lambda v: 0 <= v < math.inf, "at least 0, such as 0.25"),
    "crop_area": (lambda v: 0 < v <= 1, "a share above 0, at most 1, such as 0.5"),
    "brightness": _ANY_SHARE,
    "contrast": _ANY_SHARE,
    "noise_share": _ANY_SHARE,
    "noise_sigma": _GREY_LEVELS,
    "cutout": _ANY_SHARE,
    "cutout_fill": (lambda v: v is None or 0 <= v <= 255, "a grey level from 0 to 255"),
}


def check_augmentation(augment: Augmentation, flag: str) -> None:
    """Raise InputError for values that no image can have; `flag` is what the fields' flags begin with."""
    for name, (fits, words) in _AUGMENTATION_LIMITS.items():
        value = getattr(augment, name)
        if not fits(value):
            raise InputError(f"{flag}.{name.replace('_', '-')} is {value}: give {words}")


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
