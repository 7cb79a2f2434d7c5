"""Resolve a recipe into an `Experiment`: load the data, create the model, and check both against the recipe, once.

Training, evaluation and previews all use the result of `resolve`.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, Literal

import jax

import zoo
from datasets import Dataset, list_datasets, load_dataset
from datasets.dataset import VectorSplit
from datasets.images import fast
from datasets.pipeline import ImageSamples, channel_statistics, steps_per_epoch
from datasets.views import add_noise, limit_per_class
from train import cli, data_files
from train.engine import freezing
from train.engine.experiment import Experiment, StagePlan, build_module
from train.engine.inputs import Inputs, VectorInputs, image_inputs, normalized
from train.engine.memo import memoized
from train.engine.objectives import Entry, get_objective, objectives_for
from train.engine.optimizers import OPTIMIZERS, build_optimizer
from train.engine.parallel import Devices
from train.engine.stage import training_split
from train.engine.steps import abstract_variables
from train.recipe import (
    DataFile,
    InputError,
    JobWeights,
    NetFeatures,
    Normalization,
    Recipe,
    RunFeatures,
    Stage,
    flag_of,
)
from train.record.directory import RunDir
from train.vectors import vector_dataset
from zoo.common.names import find
from zoo.common.resize import ResizeRule
from zoo.pretrained import load as load_weights
from zoo.pretrained.sources import DownloadError

# Maximum fraction of the device's free memory for cached data; activations need the rest.
CACHED_SHARE = 0.3


def resolve(
    recipe: Recipe,
    workdir: str | os.PathLike[str] | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    *,
    train: bool = True,
    dataset: Dataset | None = None,
    devices: Devices | None = None,
    field_name: Callable[[str], str] = flag_of,
    shared: dict[str, Any] | None = None,
) -> Experiment:
    """Load and check everything that a recipe names. Writes nothing.

    Args:
      recipe: settings of the run.
      workdir: a run directory. If it contains a run, that run's splits and start.json take precedence.
      resume: whether `workdir` may ("auto"), must not ("never") or must ("must") contain a run.
      train: False resolves only data, inputs and devices, for trained models and previews: the experiment has no stages
        and no weights, and its `module` is None.
      dataset: images or vectors in memory, used instead of the recipe's data set.
      devices: devices to compute on (default: as many local devices as evenly divide a batch).
      field_name: maps the path of a recipe field, such as `stages.0.augment.resize`, to its name in messages.
      shared: data and pretrained weights that were loaded for other recipes, to use and to add to.

    Raises:
      InputError: the recipe, the data or the model cannot be used; the message is one line.
    """
    recipe = _with_absolute_paths(recipe)
    recipe.validate(field_name)
    options = dataclasses.asdict(recipe.data_options())
    run = None
    if workdir is not None:
        run = RunDir(workdir)
        run.check(recipe, resume)
        if train and run.exists():
            run.check_numerics()
        if run.exists() and run.is_of_version_0_1() and (changed := _changed_since(recipe)):
            cli.say(f"note: this run of version 0.1 keeps {changed}")
    entry = zoo.get_entry(recipe.model)
    on_vectors = recipe.features is not None or (dataset is not None and _has_vectors(dataset))
    objectives = _objectives(recipe, entry, on_vectors) if train else ()
    if recipe.decoder == "fast":
        fast.check()
    if devices is None:
        cli.report_devices()
    size = _input_size(recipe, entry)
    shared = {} if shared is None else shared
    dataset, data_key = _load_data(recipe, options, size, run, dataset, shared)
    shape = (*size, 3) if size and not on_vectors else dataset.splits["train"].shape
    model = _model(recipe, shape, dataset, run, field_name, shared, train=train)
    if not train:
        devices = devices or Devices()
        return Experiment(recipe, dataset, data_key, devices=devices, **vars(model))
    devices = _devices(recipe, dataset, devices)
    stages = _stages(recipe, objectives, model, dataset, devices)
    _check_probe(recipe, model)
    num_bytes = _data_bytes(recipe, dataset, model.inputs)
    feed = _feed(recipe, num_bytes, devices.free_memory())
    return Experiment(
        recipe,
        dataset,
        data_key,
        devices=devices,
        feed=feed,
        feed_bytes=num_bytes,
        stages=stages,
        **vars(model),
    )


def _changed_since(recipe: Recipe) -> str:
    """Describe how a recipe of version 0.1 differs from today's; empty if it does not."""
    before = zoo.options_of_version_0_1(recipe.model, {})
    kept = [f"{name}={recipe.model_options.get(name)}" for name in before]
    return f"its reading of the paper for {recipe.model}: {', '.join(kept)}" if kept else ""


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Make the paths in a recipe absolute, so that its run can be resumed from another folder. Names are unchanged."""

    def absolute(text: str) -> str:
        expanded = os.path.expanduser(text)
        return os.path.abspath(expanded) if os.path.exists(expanded) else expanded

    changed: dict[str, Any] = {}
    if recipe.dataset not in list_datasets():
        changed["dataset"] = absolute(recipe.dataset)
    if recipe.data_dir:
        changed["data_dir"] = absolute(recipe.data_dir)
    if recipe.splits:
        changed["splits"] = absolute(recipe.splits)
    if isinstance(recipe.pretrained, str) and (
        os.sep in recipe.pretrained or "." in recipe.pretrained
    ):
        changed["pretrained"] = absolute(recipe.pretrained)
    if isinstance(recipe.features, RunFeatures) and isinstance(recipe.features.run, str):
        changed["features"] = RunFeatures(absolute(recipe.features.run))
    return dataclasses.replace(recipe, **changed)


# Names.


def _objectives(recipe: Recipe, entry: zoo.ModelEntry, on_vectors: bool) -> tuple[Entry, ...]:
    """Look up the objective of each stage.

    Raises InputError if a stage cannot train the model, or if the model takes vectors and the data are images, or
    vice versa.
    """
    takes_vectors = len(entry.input_shape) == 1
    if takes_vectors and not on_vectors:
        raise InputError(
            f"{recipe.model} takes vectors: use --features pixels, the directory of a finished run, or"
            " resnet50=torchvision"
        )
    if (
        on_vectors
        and recipe.normalization != Normalization()
        and (
            not isinstance(recipe.features, NetFeatures) or recipe.normalization.of_training_images
        )
    ):
        raise InputError(
            "--normalization is for images, not for these --features: use --feature-scaling for vectors"
        )
    if on_vectors and not takes_vectors:
        raise InputError(
            f"{recipe.model} takes images: --features is for models that take vectors, such as vade"
        )
    objectives = []
    for index, stage in enumerate(recipe.stages):
        flag = f"--stages.{index}"
        objective = get_objective(stage.objective)
        if entry.objective not in objective.trains:
            raise InputError(
                f"{flag}.objective {stage.objective} cannot train {recipe.model}:"
                f" use {' or '.join(objectives_for(entry.objective))}"
            )
        if stage.start == "mixture" and entry.objective != "vade":
            raise InputError(f"{flag}.start mixture requires vade, not {recipe.model}")
        if stage.start == "bottleneck" and entry.objective != "autoencoder":
            raise InputError(
                f"{flag}.start bottleneck requires conv_autoencoder, not {recipe.model}"
            )
        if stage.all_splits and objective.reads_labels:
            raise InputError(
                f"{flag}.all-splits: {stage.objective} uses labels and must not see those of the test split: leave it"
                " out"
            )
        if stage.balance == "class_weights" and not objective.reads_labels:
            raise InputError(
                f"stage {index} ({stage.name}) has class weights, but {stage.objective} does not use labels:"
                f" use {flag}.balance sampling or none"
            )
        find("optimizers", stage.optimizer.name, OPTIMIZERS, "optimizer")
        zoo.create_model(recipe.model, **{**recipe.model_options, **stage.model_options})
        objectives.append(objective)
    return tuple(objectives)


# Data.


def _input_size(recipe: Recipe, entry: zoo.ModelEntry) -> tuple[int, int] | None:
    """Height and width of the recipe's images; None for models that take vectors and take their size from the data."""
    if recipe.image_size:
        return recipe.image_size, recipe.image_size
    if len(entry.input_shape) == 1:
        return None
    height, width, *_ = recipe.model_options.get("input_shape", entry.input_shape)
    return height, width


def _has_vectors(dataset: Dataset) -> bool:
    return isinstance(dataset.splits["train"], VectorSplit)


def _load_data(
    recipe: Recipe,
    options: dict[str, Any],
    size: tuple[int, int] | None,
    run: RunDir | None,
    given: Dataset | None,
    shared: dict[str, Any],
) -> tuple[Dataset, dict[str, Any]]:
    """Load the recipe's data set (images or vectors) unless one is `given`, or it is in `shared`.

    Returns the data set and a cache key: everything that its samples depend on.
    """
    sizes = [size[0], *(stage.augment.resize or 0 for stage in recipe.stages)] if size else []
    resuming = run is not None and run.exists() and run.splits.exists()
    if run is not None and resuming and recipe.splits is not None:
        # The original file may have been deleted or changed.
        options["splits_file"] = run.splits
    options["image_size"] = max(sizes, default=None)
    names = (*_SAMPLE_FIELDS, "dataset")
    memo = repr(("data", id(given), options, [getattr(recipe, name) for name in names]))
    if memo not in shared:
        shared[memo] = _loaded(recipe, options, given)
    dataset, key = shared[memo]
    if run is not None and resuming:
        run.check_data(dataset)
    return dataset, key


# Recipe fields that the samples depend on, besides the data set and its options.
_SAMPLE_FIELDS = (
    "images_per_class",
    "noisy_images",
    "noise_sigma",
    "split_seed",
    "features",
    "feature_scaling",
    "image_size",
    "normalization",
)


def _loaded(
    recipe: Recipe, options: dict[str, Any], given: Dataset | None
) -> tuple[Dataset, dict[str, Any]]:
    progress_line = cli.Progress()
    progress = cli.progress_callback(progress_line)
    options = options | {"progress": progress}
    try:
        dataset = load_dataset(recipe.dataset, **options) if given is None else given
        if recipe.images_per_class:
            dataset = limit_per_class(dataset, recipe.images_per_class, recipe.split_seed)
        if recipe.noisy_images:
            fraction, sigma = recipe.noisy_images, recipe.noise_sigma
            dataset = add_noise(dataset, fraction, sigma, recipe.split_seed)
        key = {
            "fingerprint": dataset.fingerprint,
            "ids": {name: list(split.ids) for name, split in dataset.splits.items()},
            "noise": [recipe.noisy_images, recipe.noise_sigma, recipe.split_seed],
            "vectors": [repr(recipe.features), recipe.feature_scaling, recipe.image_size],
        }
        if recipe.features is not None:
            dataset = vector_dataset(recipe, recipe.features, dataset, key, progress)
    finally:
        progress_line.stop()
    return dataset, key


# Devices.


def _devices(recipe: Recipe, dataset: Dataset, devices: Devices | None) -> Devices:
    """Select the devices that share a batch, unless some are given. Raises InputError if the batch is too large."""
    sizes = {"--batch-size": recipe.batch_size}
    for index, stage in enumerate(recipe.stages):
        if stage.batch_size:
            sizes[f"--stages.{index}.batch-size"] = stage.batch_size
    if devices is None:
        devices = Devices.for_batch_size(math.gcd(*sizes.values()))
        if len(devices) < (count := len(Devices())):
            flag, size = next((f, s) for f, s in sizes.items() if s % count)
            cli.say(
                f"note: a batch of {size} is split across {len(devices)} of {count} devices;"
                f" to use all of them, set {flag} to a multiple of {count}"
            )
    train_size = len(dataset.splits["train"])
    for flag, size in sizes.items():
        if size > train_size:
            raise InputError(
                f"{flag} {size} exceeds the {train_size} training images"
                f" of {dataset.name}: use at most {train_size}"
            )
    return devices


def _data_bytes(recipe: Recipe, dataset: Dataset, inputs: Inputs) -> int:
    """Memory in bytes of all training and validation samples, at the largest size of any stage."""
    splits = dataset.splits
    sizes = [
        math.prod(samples.shape) * samples.dtype.itemsize * len(samples)
        for stage in recipe.stages
        for samples in [inputs.train_samples(training_split(splits, stage), stage.augment)]
    ]
    validation = inputs.eval_samples(splits["validation"])
    return max(sizes, default=0) + len(validation) * (
        math.prod(validation.shape) * validation.dtype.itemsize
    )


def _feed(recipe: Recipe, num_bytes: int, free: int | None) -> Literal["streamed", "cached"]:
    """Choose the input pipeline for `num_bytes` of data; "auto" depends on the device's `free` memory (None on CPU).

    On a CPU, caching has no benefit, and XLA runs convolutions inside loops several times slower.
    """
    if recipe.feed == "auto":
        fits = free is not None and num_bytes <= CACHED_SHARE * free
        return "cached" if fits else "streamed"
    if recipe.feed == "cached" and free is not None and num_bytes > free:
        raise InputError(
            f"--feed cached: the images take {num_bytes / 1e9:.1f} GB and the device has"
            f" {free / 1e9:.1f} GB free: use --feed streamed, or a smaller --image-size"
        )
    return recipe.feed


# Model.


@dataclasses.dataclass(frozen=True)
class _Model:
    """The fields of an `Experiment` that depend on the model."""

    inputs: Inputs
    module: Any
    options: dict[str, Any]
    weights: dict[str, Any] | None
    pretrained: dict[str, Any]


def _model(
    recipe: Recipe,
    shape: tuple[int, ...],
    dataset: Dataset,
    run: RunDir | None,
    field_name: Callable[[str], str],
    shared: dict[str, Any],
    *,
    train: bool,
) -> _Model:
    """Create the recipe's model, with pretrained weights if it names any.

    `shape` is the shape of one sample, passed to models that have an option `input_shape` or `input_size`; pretrained
    weights may have a different size.

    A resumed run takes options and preprocessing from start.json and parameters from its checkpoints. It does not read
    the weights file, which may have been deleted or changed.
    """
    weights: dict[str, Any] | None = None
    preprocessing: zoo.Preprocessing | None = None
    pretrained: dict[str, Any] = {}
    options: dict[str, Any] = dict(recipe.model_options)
    num_classes = len(dataset.class_names)
    without_weights = recipe.pretrained is None or not train
    restored = train and run is not None and run.start.exists() and run.has_checkpoint()
    if restored:
        assert run is not None
        preprocessing, options, pretrained = _start_settings(run, recipe.model)
    elif without_weights:
        if len(shape) == 3:
            preprocessing = zoo.Preprocessing(ResizeRule((shape[0], shape[1])))
    else:
        loaded = _pretrained(recipe, num_classes, shared)
        preprocessing, options = loaded.preprocessing, dict(loaded.options)
        weights = {"batch_stats": {}, **loaded.variables}
        source = recipe.pretrained
        name = source.name if isinstance(source, DataFile) else source
        pretrained = {"source": name, "sha256": loaded.sha256, "report": loaded.report}
    inputs: Inputs = VectorInputs(shape)
    if preprocessing is not None:
        if train and not restored:
            preprocessing = _normalized(recipe, preprocessing, dataset.splits["train"])
        inputs = image_inputs(preprocessing, recipe.stages, recipe.decoder, field_name)
    if not train:
        return _Model(inputs, None, {}, None, {})
    module = build_module(recipe.model, num_classes, recipe.dtype, options)
    if without_weights:
        sized = {"input_shape": shape} if len(shape) == 3 else {"input_size": shape[0]}
        options |= {name: value for name, value in sized.items() if hasattr(module, name)}
        module = module.clone(**options)
    _check_size(module, recipe.model, inputs.shape)
    return _Model(inputs, module, options, weights, pretrained)


def _start_settings(
    run: RunDir, model: str
) -> tuple[zoo.Preprocessing, dict[str, Any], dict[str, Any]]:
    """Read preprocessing, model options and pretrained weights from start.json; InputError if it is damaged."""
    start = run.read_json(run.start)
    try:
        preprocessing = zoo.Preprocessing.from_json(start["preprocessing"])
        options, pretrained = dict(start["options"]), dict(start["pretrained"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{run.start} is incomplete (missing or invalid: {error}): restore it or start a new run"
        ) from None
    if run.is_of_version_0_1():
        options = zoo.options_of_version_0_1(model, options)
    return preprocessing, options, pretrained


def _normalized(recipe: Recipe, preprocessing: zoo.Preprocessing, split: Any) -> zoo.Preprocessing:
    """Replace the normalization of the weights by the recipe's, if it has one."""
    given = recipe.normalization
    if given.of_training_images:
        progress = cli.Progress()
        try:
            samples = ImageSamples(split, preprocessing.rule)
            mean, std = channel_statistics(samples, cli.progress_callback(progress))
        finally:
            progress.stop()
        given = dataclasses.replace(given, mean=mean, std=std)
    return normalized(preprocessing, given)


def _pretrained(recipe: Recipe, num_classes: int, shared: dict[str, Any]) -> Any:
    if isinstance(recipe.pretrained, JobWeights):
        raise InputError(
            f"the recipe starts from the job {recipe.pretrained.job}, which has no weights yet: run it first"
        )
    if isinstance(recipe.pretrained, DataFile):
        recipe = dataclasses.replace(
            recipe, pretrained=str(data_files.find(recipe.pretrained, recipe.data_dir))
        )
    size, seed, options = recipe.image_size, recipe.seed, recipe.model_options
    memo = repr(("weights", recipe.model, recipe.pretrained, num_classes, size, seed, options))
    try:
        if memo not in shared:
            shared[memo] = load_weights(
                recipe.model, recipe.pretrained, num_classes, image_size=size, seed=seed, **options
            )
            cli.say(f"weights: {shared[memo].report}")
    except DownloadError as error:
        raise InputError(f"{error}; or train from scratch: --pretrained None") from None
    return shared[memo]


def _check_size(module: Any, name: str, shape: tuple[int, ...]) -> None:
    try:
        _layer_table(module, shape)
    except InputError as error:
        advice = "; use a larger --image-size" if isinstance(error, zoo.ImageTooSmall) else ""
        what = f"{shape[0]}x{shape[1]} pixels" if len(shape) == 3 else f"{shape[0]} features"
        raise InputError(f"{name} at {what}: {error}{advice}") from None


_layer_table = memoized(zoo.layer_table)


def _stages(
    recipe: Recipe,
    objectives: tuple[Entry, ...],
    model: _Model,
    dataset: Dataset,
    devices: Devices,
) -> tuple[StagePlan, ...]:
    plans = []
    previous: Stage | None = None
    for index, (stage, objective) in enumerate(zip(recipe.stages, objectives, strict=True)):
        module = model.module.clone(**stage.model_options)
        abstract = abstract_variables(module, model.inputs.shape)
        _check_monitors(index, stage, objective)
        batch_size = stage.batch_size or recipe.batch_size
        num_steps = steps_per_epoch(
            len(training_split(dataset.splits, stage)) * stage.augment.crops_per_image,
            batch_size,
            drop_last=recipe.drop_last,
            multiple_of=len(devices),
        )
        plans.append(
            StagePlan(
                stage,
                module,
                abstract,
                objective,
                build_optimizer(stage.optimizer, stage.epochs * num_steps),
                batch_size,
                _frozen(recipe, index, stage, abstract["params"]),
                previous is not None and _comparable(previous, stage),
            )
        )
        previous = stage
    return tuple(plans)


def _check_monitors(index: int, stage: Stage, objective: Entry) -> None:
    """Raise InputError if a stage monitors accuracy but its objective has none."""
    if objective.predicts != "loss":
        return
    for rule, monitor in (
        ("", stage.monitor),
        ("early_stop.", stage.early_stop.monitor),
        ("plateau.", stage.plateau.monitor),
    ):
        if monitor == "accuracy":
            raise InputError(
                f"{flag_of(f'stages.{index}.{rule}monitor')} is accuracy, which the objective {stage.objective} does"
                " not have: use loss"
            )


def _comparable(previous: Stage, stage: Stage) -> bool:
    """Whether the validation scores of two consecutive stages can be compared."""
    return (
        stage.start == "continue"
        and stage.objective == previous.objective
        and stage.model_options == previous.model_options
        and stage.monitor == previous.monitor
    )


def _frozen(recipe: Recipe, index: int, stage: Stage, params: Any) -> frozenset[freezing.Path]:
    """Paths of the parameters that a stage freezes. Raises InputError for patterns that match nothing or everything."""
    where = f"stage {index} ({stage.name})"
    try:
        frozen = freezing.frozen_paths(params, stage.freeze)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if frozen and len(frozen) == len(freezing.frozen_paths(params, ["*"])):
        raise InputError(
            f"{where} freezes all parameters of {recipe.model}: leave some trainable, such as the head"
        )
    return frozen


def _check_probe(recipe: Recipe, model: _Model) -> None:
    """Raise InputError if the model does not have the probe's layer."""
    layer = recipe.probe.layer
    if recipe.probe.every_epoch and (
        recipe.probe.method == "none"
        or layer != "features"
        or any(get_objective(stage.objective).predicts == "classes" for stage in recipe.stages)
    ):
        raise InputError(
            "--probe.every-epoch needs a --probe.method on the features of an autoencoder, which its objective returns:"
            " leave it out"
        )
    if recipe.probe.method == "none" or layer in ("features", "input"):
        return
    variables = abstract_variables(model.module, model.inputs.shape)
    example = jax.ShapeDtypeStruct((1, *model.inputs.shape), "float32")
    try:
        jax.eval_shape(lambda v, x: zoo.features(model.module, v, x, layer), variables, example)
    except InputError as error:
        raise InputError(f"--probe.layer: {error}, or features or input") from None
