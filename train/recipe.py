"""Settings of a training run, as frozen dataclasses. Imports only the standard library.

A `Recipe` names a data set, a model and a list of `Stage`s; a stage names its objective, optimizer, schedule and
augmentation. `train/setup.py` resolves the names, and `train/flags.py` defines the command-line syntax of the values.
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
from zoo.common.names import did_you_mean
from zoo.version_0_1 import RENAMED_OPTIONS

# Version of `Recipe.to_json`. In format 1, options and features were text.
FORMAT = 3
LAST_FORMAT_OF_VERSION_0_1 = 2


def flag_of(path: str) -> str:
    """Return the flag of a recipe field: `--stages.0.augment.shift-x` for the path `stages.0.augment.shift_x`."""
    return f"--{path.replace('_', '-')}"


class ModelOptions(dict[str, Any]):
    """Options of a model by name, such as `ModelOptions(dropout_rate=0.4, widths=(16, 32))`; sequences are tuples."""


@dataclasses.dataclass(frozen=True)
class JobWeights:
    """The best weights of another job of the same list (`train/jobs.py`), whose path is unknown until it has run."""

    job: str


@dataclasses.dataclass(frozen=True)
class DataFile:
    """A file of weights in the recipe's `data_dir`, or next to it if that is an archive; see `train/data_files.py`."""

    name: str
    sha256: str  # of its content, in hex
    origin: str = ""  # where to get it


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The flattened pixels of each image, as a feature vector."""

    gray: bool = False  # converted to gray levels


@dataclasses.dataclass(frozen=True)
class RunFeatures:
    """Features computed by a trained network, identified by its run directory or its job."""

    run: str | JobWeights


@dataclasses.dataclass(frozen=True)
class NetFeatures:
    """Features computed by a network with published weights."""

    model: str
    source: str | DataFile


Features = Pixels | RunFeatures | NetFeatures


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimizer and learning rate schedule. Defaults are Keras's, where Keras has the optimizer."""

    name: str = "adam"
    """adam, keras_adam (with Keras's placement of epsilon), sgd, or an optimizer from another package."""
    learning_rate: float = 1e-3
    """Initial learning rate."""
    b1: float = 0.9
    """Adam: decay rate of the first moment."""
    b2: float = 0.999
    """Adam: decay rate of the second moment."""
    epsilon: float = 1e-7
    """Adam: epsilon; Keras's default."""
    momentum: float = 0.0
    """SGD: momentum."""
    nesterov: bool = False
    """SGD: Nesterov momentum."""
    l2: float = 0.0
    """L2 penalty l2 * sum(w^2) on kernels, as Keras's kernel_regularizer (no factor 1/2); not in reported losses."""
    weight_decay: float = 0.0
    """Weight decay of all parameters: decoupled as in AdamW, or added to the gradient as in torch's Adam and SGD."""
    decoupled: bool = True
    """Apply weight decay to the parameters directly instead of adding it to the gradient."""
    clip_norm: float = 0.0
    """Clip the gradients to this global norm (0: off)."""
    accumulate: int = 1
    """Number of steps whose gradients are averaged into one update."""
    decay: float = 0.0
    """Keras's decay: the learning rate of update n, counted from 0, is divided by 1 + decay * n."""
    warmup_steps: int = 0
    """Number of updates of linear warmup from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate schedule after warmup; cosine decays to 0 at the last update of the stage."""


Score = Literal["loss", "accuracy"]


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Normalization of images: (pixels in [0, 1] - mean) / std, per channel.

    Default: that of the pretrained weights, or mean 0 and std 1 without any.
    """

    mean: tuple[float, ...] = ()
    """Mean of red, green and blue, of pixels in [0, 1]."""
    std: tuple[float, ...] = ()
    """Standard deviation of red, green and blue, of pixels in [0, 1]."""
    of_training_images: bool = False
    """Use the mean and standard deviation of the training images."""
    crop_fraction: float | None = None
    """Central part of each image to use, as a fraction of its sides; 1 resizes the whole image (default: that of the
    pretrained weights, else 1)."""


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Keras's ReduceLROnPlateau."""

    patience: int = 0
    """Epochs without improvement before the learning rate is reduced (0: off)."""
    factor: float = 0.1
    """Factor by which the learning rate is multiplied."""
    min_delta: float = 1e-4
    """Smallest change of the score that counts as an improvement."""
    monitor: Score = "loss"
    """Validation score to monitor."""


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Keras's EarlyStopping."""

    patience: int = 0
    """Stop after this many consecutive epochs without improvement (0: off)."""
    min_delta: float = 0.0
    """Smallest change of the score that counts as an improvement."""
    monitor: Score = "loss"
    """Validation score to monitor."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images, drawn for each sample; off by default."""

    resize: int | None = None
    """Resize to this height in pixels, then crop to the model's size: randomly in training, at the center in evaluation
    (default: off)."""
    crops_per_image: int = 1
    """Number of samples per image and epoch; multiplies the steps per epoch."""
    rotation: float = 0.0
    """Maximum rotation in either direction, in degrees."""
    shift_x: float = 0.0
    """Maximum horizontal shift in either direction, as a fraction of the width."""
    shift_y: float = 0.0
    """Maximum vertical shift in either direction, as a fraction of the height."""
    zoom: float = 0.0
    """Maximum zoom in or out: 0.1 scales by 0.9 to 1.1."""
    aspect: float = 0.0
    """Maximum change in the aspect ratio (width to height): 0.25 multiplies it by 4/5 to 5/4."""
    crop_area: float = 1.0
    """Random resized crop: minimum area as a fraction of the image's, resized to the model's size (1: off)."""
    flip: bool = False
    """Flip horizontally with probability 1/2."""
    flip_vertical: bool = False
    """Flip vertically with probability 1/2."""
    brightness: float = 0.0
    """Maximum change in brightness: 0.2 multiplies it by 0.8 to 1.2."""
    contrast: float = 0.0
    """Maximum change in contrast: 0.2 multiplies it by 0.8 to 1.2."""
    noise_share: float = 0.0
    """Fraction of images that get Gaussian noise."""
    noise_sigma: float = 25.5
    """Standard deviation of the noise, in gray levels (0 to 255)."""
    cutout: float = 0.0
    """Side of the square that is masked out, as a fraction of the image's side."""
    cutout_fill: int | None = None
    """Gray level of the masked square (default: the image's mean color)."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One phase of training.

    Objectives: "classification" is softmax cross-entropy, "autoencoder" the reconstruction error, "vade" and "gmvae" a
    negative evidence lower bound; other packages can add more. Starts: "continue" keeps the parameters, "mixture" fits
    VaDE's mixture to the encoded training data, "bottleneck" inserts the fully connected layers of a convolutional
    autoencoder that was trained without them.
    """

    name: str = "train"
    """Name of the stage, unique in the recipe."""
    objective: str = "classification"
    """Training loss: classification, autoencoder, vade, gmvae, or an objective from another package."""
    start: Literal["continue", "mixture", "bottleneck"] = "continue"
    """How the stage starts: continue, fit VaDE's mixture, or insert the bottleneck of a convolutional autoencoder."""
    model_options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    """Options of the model in this stage only, as name=value."""
    freeze: tuple[str, ...] = ()
    """Parameters to freeze: backbone (all except the head), or paths such as conv1 or features.:14."""
    epochs: int = 30
    """Maximum number of epochs."""
    batch_size: int | None = None
    """Images per step in this stage (default: the recipe's)."""
    all_splits: bool = False
    """Train on the images of all splits, without labels; results are then transductive."""
    monitor: Literal["auto", "loss", "accuracy"] = "auto"
    """Validation score that selects the best epoch (auto: accuracy for a classifier, else the loss)."""
    optimizer: Optimizer = Optimizer()
    plateau: Plateau = Plateau()
    early_stop: EarlyStop = EarlyStop()
    label_smoothing: float = 0.0
    """Fraction of the target probability that is spread evenly over all classes."""
    ema: float = 0.0
    """Momentum of a moving average of the parameters (Keras's ema_momentum), used for evaluation and best/ (0: off)."""
    balance: Literal["none", "class_weights", "sampling"] = "none"
    """Class imbalance: weight losses by class (Keras's class_weight, "balanced"), or sample classes equally often."""
    augment: Augmentation = Augmentation()


@dataclasses.dataclass(frozen=True)
class Probe:
    """A classifier or clustering on the trained model's features, scored instead of the model's own predictions."""

    method: Literal["none", "svm", "kmeans", "gmm"] = "none"
    """svm, trained on labels; or kmeans or gmm (Gaussian mixture), without labels, with one cluster per class."""
    layer: str = "features"
    """features (the head's input; latent means of an autoencoder), a layer's path, or input (the data itself)."""
    standardize: bool = True
    """Standardize each feature to mean 0 and variance 1 over the training data."""
    c: float = 1.0
    """SVM: penalty C."""
    gamma: float | None = None
    """SVM: gamma of the rbf kernel (default: scikit-learn's "scale")."""
    kernel: Literal["rbf", "linear"] = "rbf"
    """SVM: kernel."""
    every_epoch: bool = False
    """Also score the probe on the validation split after each epoch; this is then the epoch's accuracy."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a training run."""

    name: str = "default"
    """Name of the recipe."""
    model: str = "sam_alexnet"
    """Registered model, or your own model as package.module:name."""
    model_options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    """Options of the model, as name=value."""
    pretrained: str | JobWeights | DataFile | None = None
    """Initial weights: a tag (see python -m train.models --pretrained), hf://owner/name, or a file."""
    dataset: str = "synthetic_pigs"
    """Registered data set, tfds:NAME, or path of a folder, .zip, .tar, .csv or .npz of images."""
    data_dir: str | None = None
    """Directory with a registered data set's files."""
    image_size: int | None = None
    """Input height and width in pixels (default: the model's)."""
    batch_size: int = 32
    """Images per step, across all devices."""
    drop_last: bool = True
    """Drop the last batch of an epoch if it is smaller (Keras keeps it)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters stay float32."""
    seed: int = 0
    """Random seed for initial weights, sample order, augmentation and dropout."""
    split_seed: int = 0
    """Seed of the random split, for data without splits."""
    validation_fraction: float = 0.1
    """Fraction of images for validation, for data without a validation split."""
    test_fraction: float = 0.1
    """Fraction of images for testing, for data without a test split."""
    group: str | None = None
    """Regular expression searched for in image paths; images with the same first group (an individual, say, or a visit)
    stay in one split."""
    folds: int = 0
    """Cross-validation: number of folds (0: none)."""
    fold: int = 0
    """Cross-validation: index of the test fold, from 0."""
    splits: str | None = None
    """splits.json of an earlier run, to reuse its splits."""
    published_splits: Literal["auto", "keep", "pool"] = "auto"
    """Splits that come with the data: keep them, pool all images and split again, or follow the data set's paper."""
    images_per_class: int | None = None
    """Maximum number of training images per class; the validation and test splits are not reduced."""
    noisy_images: float = 0.0
    """Fraction of images in every split that get Gaussian noise, identical in all epochs."""
    noise_sigma: float = 25.5
    """Standard deviation of the noise, in gray levels (0 to 255)."""
    features: Features | None = None
    """Train on vectors: pixels, gray-pixels, or features of a run directory or of MODEL=SOURCE, such as
    resnet50=torchvision."""
    feature_scaling: Literal["none", "unit", "standardize"] = "none"
    """Scaling by training statistics: one standard deviation for all features (unit), or standardize each feature."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """Skip images that cannot be decoded, or refuse data that have any."""
    max_bad: float = 0.05
    """Maximum fraction of images to skip because they cannot be decoded."""
    decoder: Literal["exact", "fast"] = "exact"
    """Decoding and resizing in training: exact (identical to Pillow) or fast (small differences); evaluation is
    always exact."""
    normalization: Normalization = Normalization()
    score: Literal["best", "last"] = "best"
    """Weights to test and keep in best/: those of the best epoch or of the last."""
    feed: Literal["auto", "streamed", "cached"] = "auto"
    """Input pipeline: stream batches, or cache all images on the device; auto: cache on a GPU if they fit."""
    stages: tuple[Stage, ...] = (Stage(),)
    probe: Probe = Probe()

    def data_options(self) -> Options:
        """Return the options for `datasets.load_dataset`."""
        return Options(
            data_dir=self.data_dir,
            seed=self.split_seed,
            validation_fraction=self.validation_fraction,
            test_fraction=self.test_fraction,
            on_bad_image=self.on_bad_image,
            max_bad=self.max_bad,
            group=self.group,
            folds=self.folds,
            fold=self.fold,
            splits_file=self.splits,
            published_splits=self.published_splits,
        )

    def validate(self, field_name: Callable[[str], str] = flag_of) -> None:
        """Raise InputError for values that are invalid for any data and model.

        `field_name` maps the path of a field, such as `stages.0.epochs`, to its name in messages. Default: its flag.
        """
        _check_limits(self, "", field_name)
        self.data_options().check(lambda name: field_name(_RECIPE_FIELDS.get(name, name)))
        if not self.stages and self.probe.method == "none":
            raise InputError(f"recipe {self.name!r} has no stages and no probe: add a stage")
        self._check_normalization(field_name)
        names = [stage.name for stage in self.stages]
        for index, stage in enumerate(self.stages):
            if stage.name in names[:index]:
                raise InputError(
                    f"stages {names.index(stage.name)} and {index} are both called {stage.name!r}: logs identify stages"
                    " by name; give each its own"
                )
            if stage.optimizer.nesterov and not stage.optimizer.momentum:
                raise InputError(
                    f"{field_name(f'stages.{index}.optimizer.nesterov')} needs a momentum above 0, such as 0.9"
                )

    def _check_normalization(self, field_name: Callable[[str], str]) -> None:
        given = self.normalization
        mean, std = (field_name(f"normalization.{name}") for name in ("mean", "std"))
        if len(given.mean) not in (0, 3) or len(given.std) != len(given.mean):
            raise InputError(f"{mean} and {std} need three values each: red, green and blue")
        if not all(0 < value < math.inf for value in given.std):
            raise InputError(f"{std} is {given.std}: use values above 0")
        if given.mean and given.of_training_images:
            raise InputError(
                f"{mean} and {field_name('normalization.of_training_images')} are mutually exclusive: use one of them"
            )

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON-serializable data for config.json."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Recipe":
        """Inverse of `to_json`; also reads format 1. Raises InputError for unknown fields and invalid values."""
        return cls.from_json_at(data, "recipe")

    @classmethod
    def from_json_at(cls, data: dict[str, Any], where: str) -> "Recipe":
        """Inverse of `to_json` for data of a file, which `where` names in messages."""
        return _from_json(cls, data, where)


def parse_option(text: str) -> tuple[str, Any]:
    """Parse a model option of the form name=value; the value is a Python literal, or else text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise InputError(
            f"model option {text!r} is not of the form name=value, such as dropout_rate=0.3"
        )
    name = RENAMED_OPTIONS.get(name, name)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parse_features(text: str) -> Features:
    """Parse the command-line syntax of features: pixels, gray-pixels, a run directory, or MODEL=SOURCE."""
    if text in ("pixels", "gray-pixels"):
        return Pixels(gray=text == "gray-pixels")
    model, equals, source = text.partition("=")
    return NetFeatures(model, source) if equals and not Path(text).exists() else RunFeatures(text)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a copy of a recipe with new values for the given fields.

    Fields are dotted paths: `stages.0.optimizer.learning_rate`; `stages.*.epochs` sets the field of every stage, and
    `model_options.activation` one option of the model.
    """

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


# Recipe fields that have another name in `datasets.dataset.Options`, by that name.
_RECIPE_FIELDS = {"seed": "split_seed", "splits_file": "splits"}


@dataclasses.dataclass(frozen=True)
class Limit:
    """The valid range of a field and its description."""

    accepts: Callable[[Any], bool]
    description: str


_NOT_NEGATIVE = Limit(lambda v: 0 <= v < math.inf, "at least 0")
_AT_LEAST_1 = Limit(lambda v: v >= 1, "at least 1")
_RATE = Limit(lambda v: 0 < v < math.inf, "a value above 0, such as 0.001")
_DECAY = Limit(lambda v: 0 <= v < 1, "at least 0 and below 1, such as 0.9")
_FRACTION = Limit(lambda v: 0 <= v <= 1, "a fraction from 0 to 1, such as 0.1")
_PIXELS = Limit(lambda v: v >= 1, "at least 1 pixel")
_GRAY_LEVELS = Limit(lambda v: 0 <= v < math.inf, "gray levels of at least 0, such as 25.5")
_SEED = Limit(lambda v: 0 <= v < 2**32, f"0 to {2**32 - 1}")

# Limits that depend on neither data nor model; None is always accepted. Those of the split's fractions, seed and folds
# are in `datasets.dataset.Options`.
LIMITS: dict[type, dict[str, Limit]] = {
    Recipe: {
        "batch_size": _AT_LEAST_1,
        "image_size": _PIXELS,
        "seed": _SEED,
        "images_per_class": _AT_LEAST_1,
        "noisy_images": _FRACTION,
        "noise_sigma": _GRAY_LEVELS,
    },
    Probe: {
        "c": Limit(lambda v: 0 < v < math.inf, "a number above 0"),
        "gamma": Limit(lambda v: 0 < v < math.inf, "a number above 0"),
    },
    Normalization: {
        "crop_fraction": Limit(lambda v: 0 < v <= 1, "a fraction above 0, at most 1, such as 0.875")
    },
    Stage: {
        "epochs": _AT_LEAST_1,
        "batch_size": _AT_LEAST_1,
        "label_smoothing": _DECAY,
        "ema": _DECAY,
    },
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
        "shift_x": _FRACTION,
        "shift_y": _FRACTION,
        "zoom": Limit(lambda v: 0 <= v < 1, "a fraction of at least 0 and below 1, such as 0.1"),
        "aspect": Limit(lambda v: 0 <= v < math.inf, "at least 0, such as 0.25"),
        "crop_area": Limit(lambda v: 0 < v <= 1, "a fraction above 0, at most 1, such as 0.5"),
        "brightness": _FRACTION,
        "contrast": _FRACTION,
        "noise_share": _FRACTION,
        "noise_sigma": _GRAY_LEVELS,
        "cutout": _FRACTION,
        "cutout_fill": Limit(lambda v: 0 <= v <= 255, "a gray level from 0 to 255"),
    },
}


def _check_limits(item: Any, prefix: str, field_name: Callable[[str], str]) -> None:
    """Raise InputError for the first value outside of `LIMITS`, in a recipe or in its component at `prefix`."""
    limits = LIMITS.get(type(item), {})
    for field in dataclasses.fields(item):
        value, path = getattr(item, field.name), f"{prefix}{field.name}"
        limit = limits.get(field.name)
        if limit and value is not None and not limit.accepts(value):
            raise InputError(f"{field_name(path)} is {value}: use {limit.description}")
        for index, element in enumerate(value if isinstance(value, tuple) else ()):
            if dataclasses.is_dataclass(element):
                _check_limits(element, f"{path}.{index}.", field_name)
        if dataclasses.is_dataclass(value):
            _check_limits(value, f"{path}.", field_name)


# Names and values of version 0.1, still accepted in this version: in config.json, and as flags (`train/flags.py`).
RENAMED_FIELDS = {"standardise": "standardize", "keep_tail": "drop_last"}
INVERTED_FIELDS = {"keep_tail"}
RENAMED_VALUES = {"standardise": "standardize", "stepwise": "streamed", "resident": "cached"}


# The field "kind" in JSON, which identifies the member of a union of dataclasses.
_KINDS: dict[str, type] = {
    "pixels": Pixels,
    "run": RunFeatures,
    "net": NetFeatures,
    "job": JobWeights,
    "file": DataFile,
}


def to_json_value(value: Any) -> Any:
    """Convert the value of a recipe's field to JSON-serializable data."""
    return _to_json(value)


def from_json_as(kind: Any, value: Any, where: str) -> Any:
    """Inverse of `to_json_value` for a field of type `kind`. Raises InputError, which `where` begins."""
    return _from_json(kind, value, where)


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kind = next((name for name, cls in _KINDS.items() if cls is type(value)), None)
        fields = {f.name: _to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": kind, **fields} if kind else fields
    if isinstance(value, dict):
        return {name: _to_json(item) for name, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(kind: Any, value: Any, where: str) -> Any:
    if kind is ModelOptions:
        return _options_from_json(value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object, not {value!r}")
        hints = typing.get_type_hints(kind)
        value = {
            RENAMED_FIELDS.get(n, n): not v if n in INVERTED_FIELDS else v for n, v in value.items()
        }
        for name in value:
            if name not in hints:
                hint = did_you_mean(str(name), hints, "written by another version?")
                raise InputError(f"{where} has an unknown field {name!r}: {hint}")
        return kind(**{n: _from_json(hints[n], v, f"{where}.{n}") for n, v in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(
            _from_json(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)
        )
    if origin is types.UnionType:
        if isinstance(value, dict) and _KINDS.get(value.get("kind", "")) in arguments:
            fields = {name: item for name, item in value.items() if name != "kind"}
            return _from_json(_KINDS[value["kind"]], fields, where)
        if isinstance(value, str) and RunFeatures in arguments:  # format 1
            return parse_features(value)
        plain = tuple(a for a in arguments if not dataclasses.is_dataclass(a))
        if float in plain and type(value) is int:
            value = float(value)
        accepted = isinstance(value, plain) and (bool in plain or not isinstance(value, bool))
    elif origin is Literal:
        if value not in arguments and isinstance(value, str):
            value = RENAMED_VALUES.get(value, value)
        accepted = value in arguments
    elif origin is tuple:
        accepted = False  # not a list
    elif kind is float:
        accepted = isinstance(value, int | float) and not isinstance(value, bool)
    elif origin is tuple:
        accepted = False
    else:
        accepted = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not accepted:
        raise InputError(f"{where} is {value!r}: use {_expected(kind)}")
    return float(value) if kind is float else value


def _expected(kind: Any) -> str:
    """Describe the values of a field's type, for messages."""
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list"
    kinds = [k for k in typing.get_args(kind) or (kind,) if k is not type(None)]
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return " or ".join(names.get(k, "an object with the field kind") for k in kinds)


def _options_from_json(value: Any, where: str) -> ModelOptions:
    if isinstance(value, dict):
        options: dict[str, Any] = {
            RENAMED_OPTIONS.get(str(n), str(n)): _tuples(v) for n, v in value.items()
        }
        return ModelOptions(options)
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return ModelOptions(parse_option(text) for text in value)  # format 1
    raise InputError(f"{where} must be an object, not {value!r}")


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
    """List the fields in which two recipes differ, with both values."""
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
