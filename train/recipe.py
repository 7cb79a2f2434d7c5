"""What a training run is made of: plain frozen data that imports the standard library only.

A `Recipe` names a data set, a model and a list of `Stage`s; a stage names its objective, optimizer, schedule and
augmentation. `train/setup.py` resolves the names; `train/flags.py` says how the values are written on a command line.
"""

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from datasets.dataset import Options
from zoo.common.errors import InputError as InputError

FORMAT = 2  # of `Recipe.to_json`; 1 had options and features as text


def flag_of(path: str) -> str:
    """The flag of a field of a recipe, by its path: `--stages.0.augment.shift-x` of `stages.0.augment.shift_x`."""
    return f"--{path.replace('_', '-')}"


class ModelOptions(dict[str, Any]):
    """Fields of a model by name, such as `ModelOptions(dropout_rate=0.4, widths=(16, 32))`; sequences are tuples."""


@dataclasses.dataclass(frozen=True)
class JobWeights:
    """The best weights of another job of the same list (`train/jobs.py`), which have no path before it has run."""

    job: str


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The numbers of each image in a row, in place of the image."""


@dataclasses.dataclass(frozen=True)
class RunFeatures:
    """What a trained net computes: of a run directory, or of another job."""

    run: str | JobWeights


@dataclasses.dataclass(frozen=True)
class NetFeatures:
    """What a net with published weights computes."""

    model: str
    source: str


Features = Pixels | RunFeatures | NetFeatures


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Keras's defaults where Keras has the optimiser."""

    name: str = "adam"
    """adam, sgd, or an optimizer of another package."""
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
    objective: str = "classification"
    """What is minimised: classification (softmax cross-entropy), autoencoder (reconstruction error), vade or gmvae
    (a negative evidence lower bound), or an objective of another package."""
    start: Literal["continue", "mixture", "bottleneck"] = "continue"
    """What is done to the parameters first: nothing; fit VaDE's mixture to the codes of the training data; insert
    the fully connected layers of a convolutional auto-encoder that was trained without."""
    model_options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
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
    model_options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    """Fields of the model, as name=value."""
    pretrained: str | JobWeights | None = None
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
    features: Features | None = None
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

    def data_options(self) -> Options:
        """What is asked of `datasets.load_dataset`."""
        return Options(
            data_dir=self.data_dir,
            seed=self.split_seed,
            validation_fraction=self.validation_fraction,
            test_fraction=self.test_fraction,
            on_bad_image=self.on_bad_image,
            group=self.group,
            folds=self.folds,
            fold=self.fold,
            splits_file=self.splits,
        )

    def validate(self, called: Callable[[str], str] = flag_of) -> None:
        """Raise InputError for values that no run can use, whatever its data and model.

        `called` gives the name that the user knows a field by, of its path such as `stages.0.epochs`: its flag, unless
        told otherwise.
        """
        _check_limits(self, "", called)
        self.data_options().check(lambda name: called(_FIELDS_OF_OPTIONS.get(name, name)))
        if not self.stages and self.probe.method == "none":
            raise InputError(f"recipe {self.name!r} has no stages: nothing to train")
        names = [stage.name for stage in self.stages]
        for index, stage in enumerate(self.stages):
            if stage.name in names[:index]:
                raise InputError(
                    f"stages {names.index(stage.name)} and {index} are both called {stage.name!r}: the logs tell them"
                    " apart by name; give each its own"
                )
            if stage.optimizer.nesterov and not stage.optimizer.momentum:
                raise InputError(
                    f"{called(f'stages.{index}.optimizer.nesterov')} needs a momentum above 0, such as 0.9"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return _plain(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Recipe":
        """The inverse of `to_json`, for files of format 1, too; InputError names a field that is unknown or of a
        wrong type."""
        return _from_plain(cls, data, "recipe")


def parse_option(text: str) -> tuple[str, Any]:
    """Name and value of a model option that is written name=value; the value is a Python literal, or else text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise InputError(
            f"model option {text!r} is not of the form name=value, such as dropout_rate=0.3"
        )
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parse_features(text: str) -> Features:
    """Features as they are written on a command line: pixels, a run directory, or MODEL=SOURCE."""
    if text == "pixels":
        return Pixels()
    model, equals, source = text.partition("=")
    return NetFeatures(model, source) if equals and not Path(text).exists() else RunFeatures(text)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values in fields that are named by dotted paths: `stages.0.optimizer.learning_rate`;
    `stages.*.epochs` is that of every stage, `model_options.activation` one option of the model."""

    def put(item: Any, path: list[str], value: Any) -> Any:
        if not path:
            return value
        head, *rest = path
        if isinstance(item, tuple):
            chosen = range(len(item)) if head == "*" else [int(head)]
            return tuple(put(v, rest, value) if i in chosen else v for i, v in enumerate(item))
        if isinstance(item, ModelOptions):
            return ModelOptions({**item, head: put(item.get(head), rest, value)})
        return dataclasses.replace(item, **{head: put(getattr(item, head), rest, value)})

    for path, value in values.items():
        recipe = put(recipe, path.split("."), value)
    return recipe


# Fields of `datasets.dataset.Options` that have another name in a recipe.
_FIELDS_OF_OPTIONS = {"seed": "split_seed", "splits_file": "splits"}


@dataclasses.dataclass(frozen=True)
class Limit:
    """What the value of a field may be, and the words for it."""

    accepts: Callable[[Any], bool]
    words: str


_NOT_NEGATIVE = Limit(lambda v: 0 <= v < math.inf, "at least 0")
_AT_LEAST_1 = Limit(lambda v: v >= 1, "at least 1")
_RATE = Limit(lambda v: 0 < v < math.inf, "above 0, such as 0.001")
_DECAY = Limit(lambda v: 0 <= v < 1, "at least 0 and below 1, such as 0.9")
_SHARE = Limit(lambda v: 0 <= v <= 1, "a share from 0 to 1, such as 0.1")
_PIXELS = Limit(lambda v: v >= 1, "at least 1 pixel")
_GREY_LEVELS = Limit(lambda v: 0 <= v < math.inf, "grey levels of at least 0, such as 25.5")
_SEED = Limit(lambda v: 0 <= v < 2**32, f"0 to {2**32 - 1}")

# Every limit of a field that needs neither data nor model; None is always accepted. Shares and seeds of the split
# have theirs in `datasets.dataset.Options`.
LIMITS: dict[type, dict[str, Limit]] = {
    Recipe: {
        "batch_size": _AT_LEAST_1,
        "image_size": _PIXELS,
        "seed": _SEED,
        "images_per_class": _AT_LEAST_1,
        "noisy_images": _SHARE,
        "noise_sigma": _GREY_LEVELS,
    },
    Probe: {
        "c": Limit(lambda v: 0 < v < math.inf, "a number above 0"),
        "gamma": Limit(lambda v: 0 < v < math.inf, "a number above 0"),
    },
    Stage: {"epochs": _AT_LEAST_1, "label_smoothing": _DECAY, "ema": _DECAY},
    Optimizer: {
        "learning_rate": _RATE,
        "b1": _DECAY,
        "b2": _DECAY,
        "epsilon": _RATE,
        "momentum": _DECAY,
        "l2": _NOT_NEGATIVE,
        "weight_decay": _NOT_NEGATIVE,
        "clip_norm": _NOT_NEGATIVE,
        "accumulate": _AT_LEAST_1,
        "decay": _NOT_NEGATIVE,
        "warmup_steps": _NOT_NEGATIVE,
    },
    Plateau: {"patience": _NOT_NEGATIVE, "factor": _RATE, "min_delta": _NOT_NEGATIVE},
    EarlyStop: {"patience": _NOT_NEGATIVE, "min_delta": _NOT_NEGATIVE},
    Augmentation: {
        "resize": _PIXELS,
        "crops_per_image": _AT_LEAST_1,
        "rotation": Limit(lambda v: 0 <= v <= 180, "degrees from 0 to 180"),
        "shift_x": _SHARE,
        "shift_y": _SHARE,
        "zoom": Limit(lambda v: 0 <= v < 1, "a share of at least 0 and below 1, such as 0.1"),
        "aspect": Limit(lambda v: 0 <= v < math.inf, "at least 0, such as 0.25"),
        "crop_area": Limit(lambda v: 0 < v <= 1, "a share above 0, at most 1, such as 0.5"),
        "brightness": _SHARE,
        "contrast": _SHARE,
        "noise_share": _SHARE,
        "noise_sigma": _GREY_LEVELS,
        "cutout": _SHARE,
        "cutout_fill": Limit(lambda v: 0 <= v <= 255, "a grey level from 0 to 255"),
    },
}


def _check_limits(item: Any, where: str, called: Callable[[str], str]) -> None:
    """InputError for the first value of a recipe, or of the part of it at the path `where`, that `LIMITS` does not
    accept."""
    limits = LIMITS.get(type(item), {})
    for field in dataclasses.fields(item):
        value, path = getattr(item, field.name), f"{where}{field.name}"
        limit = limits.get(field.name)
        if limit and value is not None and not limit.accepts(value):
            raise InputError(f"{called(path)} is {value}: give {limit.words}")
        for index, part in enumerate(value if isinstance(value, tuple) else ()):
            if dataclasses.is_dataclass(part):
                _check_limits(part, f"{path}.{index}.", called)
        if dataclasses.is_dataclass(value):
            _check_limits(value, f"{path}.", called)


# How the members of a union of dataclasses are told apart in JSON.
_KINDS: dict[str, type] = {
    "pixels": Pixels,
    "run": RunFeatures,
    "net": NetFeatures,
    "job": JobWeights,
}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kind = next((name for name, cls in _KINDS.items() if cls is type(value)), None)
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": kind, **fields} if kind else fields
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _from_plain(kind: Any, value: Any, where: str) -> Any:
    if kind is ModelOptions:
        return _options_from_plain(value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where} should be an object, not {value!r}")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise InputError(
                    f"{where} has an unknown field {name!r}: written by another version?"
                )
        return kind(**{n: _from_plain(hints[n], v, f"{where}.{n}") for n, v in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(
            _from_plain(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)
        )
    if origin is types.UnionType:
        if isinstance(value, dict) and _KINDS.get(value.get("kind", "")) in arguments:
            fields = {name: item for name, item in value.items() if name != "kind"}
            return _from_plain(_KINDS[value["kind"]], fields, where)
        if isinstance(value, str) and RunFeatures in arguments:  # format 1
            return parse_features(value)
        plain = tuple(a for a in arguments if not dataclasses.is_dataclass(a))
        accepted = value is None and type(None) in plain or isinstance(value, plain)
    elif origin is Literal:
        accepted = value in arguments
    elif kind is float:
        accepted = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        accepted = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not accepted:
        raise InputError(f"{where} is {value!r}, which it cannot be")
    return float(value) if kind is float else value


def _options_from_plain(value: Any, where: str) -> ModelOptions:
    if isinstance(value, dict):
        return ModelOptions({name: _tuples(item) for name, item in value.items()})
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return ModelOptions(parse_option(text) for text in value)  # format 1
    raise InputError(f"{where} should be an object, not {value!r}")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field in which two recipes differ."""

    path: tuple[str | int, ...]  # such as ("stages", 0, "optimizer", "learning_rate")
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.first!r}, not {self.second!r}"


def differences(first: Recipe, second: Recipe) -> list[Difference]:
    """The fields in which two recipes differ, with both values."""
    found: list[Difference] = []

    def compare(a: Any, b: Any, path: tuple[str | int, ...]) -> None:
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            for key in a:
                compare(a[key], b[key], (*path, key))
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                compare(x, y, (*path, index))
        elif a != b:
            found.append(Difference(path, a, b))

    compare(first.to_json(), second.to_json(), ())
    return found
