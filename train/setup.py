"""From a recipe to an `Experiment`: every check of a recipe against data, model and devices, each once.

Training, evaluation and previews use what `resolve` returns as it is.
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
from datasets.pipeline import steps_per_epoch
from datasets.views import add_noise, limit_per_class
from train import cli
from train.engine import freezing
from train.engine.experiment import Experiment, StagePlan, build_module
from train.engine.inputs import Inputs, VectorInputs, image_inputs
from train.engine.objectives import Entry, get_objective, objectives_of
from train.engine.optimizers import OPTIMIZERS, build_optimizer
from train.engine.parallel import Devices
from train.engine.steps import abstract_variables
from train.recipe import InputError, JobWeights, Recipe, RunFeatures, Stage, flag_of
from train.record.directory import RunDir
from train.vectors import vector_dataset
from zoo.common.names import find
from zoo.common.resize import ResizeRule
from zoo.pretrained import load as load_weights
from zoo.pretrained.sources import DownloadError

# What data may take of the device's free memory by themselves: activations need the rest.
RESIDENT_SHARE = 0.3


def resolve(
    recipe: Recipe,
    workdir: str | os.PathLike[str] | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    *,
    train: bool = True,
    dataset: Dataset | None = None,
    devices: Devices | None = None,
    called: Callable[[str], str] = flag_of,
) -> Experiment:
    """Everything that a recipe names, loaded and checked. Writes nothing.

    Args:
      recipe: what to do.
      workdir: a run directory; where there is a run in it, its own splits and decisions win.
      resume: whether a run in `workdir` may, must not, or has to be there.
      train: False resolves data, inputs and devices only, for a net that is trained already and for previews: there
        are no stages and no weights then, and `module` is None.
      dataset: images or vectors that are in memory already, in place of those that the recipe names.
      devices: where to compute (default: on as many of the local devices as divide a batch).
      called: the name that the user knows a field of the recipe by, given its path, such as `stages.0.augment.resize`.

    Raises InputError, one line, for whatever cannot be used.
    """
    recipe = _located(recipe)
    recipe.validate(called)
    options = dataclasses.asdict(recipe.data_options())
    run = None
    if workdir is not None:
        run = RunDir(workdir)
        run.check(recipe, resume)
    entry = zoo.get_entry(recipe.model)
    of_vectors = recipe.features is not None or (dataset is not None and _is_of_vectors(dataset))
    objectives = _objectives(recipe, entry, of_vectors) if train else ()
    if recipe.decoder == "fast":
        fast.check()
    if devices is None:
        cli.report_devices()
    size = _input_size(recipe, entry)
    dataset, data_key = _load_data(recipe, options, size, run, dataset)
    shape = (*size, 3) if size and not of_vectors else dataset.splits["train"].shape
    model = _model(recipe, shape, len(dataset.class_names), run, called, train=train)
    if not train:
        devices = devices or Devices()
        return Experiment(recipe, dataset, data_key, devices=devices, **vars(model))
    devices = _devices(recipe, dataset, devices)
    stages = _stages(recipe, objectives, model, dataset, devices)
    _check_probe(recipe, model)
    num_bytes = _bytes(recipe, dataset, model.inputs)
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


def _located(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, so that its run can go on from another folder. Names stay names."""

    def absolute(text: str) -> str:
        return os.path.abspath(text) if os.path.exists(text) else text

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


def _objectives(recipe: Recipe, entry: zoo.ModelEntry, of_vectors: bool) -> tuple[Entry, ...]:
    """The objective of each stage; InputError for stages that cannot train this model, and for data that it cannot
    take."""
    takes_vectors = len(entry.input_shape) == 1
    if takes_vectors and not of_vectors:
        raise InputError(
            f"{recipe.model} takes vectors: give --features pixels, the directory of a finished run, or"
            " resnet50=torchvision"
        )
    if of_vectors and not takes_vectors:
        raise InputError(
            f"{recipe.model} takes images: --features is for models of vectors, such as vade"
        )
    found = []
    for index, stage in enumerate(recipe.stages):
        flag = f"--stages.{index}"
        objective = get_objective(stage.objective)
        if entry.objective not in objective.trains:
            raise InputError(
                f"{flag}.objective is {stage.objective}, which cannot train {recipe.model}:"
                f" give {' or '.join(objectives_of(entry.objective))}"
            )
        if stage.start == "mixture" and entry.objective != "vade":
            raise InputError(f"{flag}.start mixture is for vade, not for {recipe.model}")
        if stage.start == "bottleneck" and entry.objective != "autoencoder":
            raise InputError(
                f"{flag}.start bottleneck is for conv_autoencoder, not for {recipe.model}"
            )
        if stage.balance == "class_weights" and not objective.reads_labels:
            raise InputError(
                f"stage {index} ({stage.name}) has class weights, but {stage.objective} reads no labels:"
                f" give {flag}.balance sampling or none"
            )
        find("optimizers", stage.optimizer.name, OPTIMIZERS, "optimizer")
        zoo.create_model(recipe.model, **{**recipe.model_options, **stage.model_options})
        found.append(objective)
    return tuple(found)


# Data.


def _input_size(recipe: Recipe, entry: zoo.ModelEntry) -> tuple[int, int] | None:
    """Height and width of the recipe's images; None where the data's own size is meant, for vectors."""
    if recipe.image_size:
        return recipe.image_size, recipe.image_size
    if len(entry.input_shape) == 1:
        return None
    height, width, *_ = recipe.model_options.get("input_shape", entry.input_shape)
    return height, width


def _is_of_vectors(dataset: Dataset) -> bool:
    return isinstance(dataset.splits["train"], VectorSplit)


def _load_data(
    recipe: Recipe,
    options: dict[str, Any],
    size: tuple[int, int] | None,
    run: RunDir | None,
    given: Dataset | None,
) -> tuple[Dataset, dict[str, Any]]:
    """The recipe's data set, of images or of vectors, or the `given` one, and what its samples depend on."""
    sizes = [size[0], *(stage.augment.resize or 0 for stage in recipe.stages)] if size else []
    goes_on = run is not None and run.exists() and run.splits.exists()
    if run is not None and goes_on and recipe.splits is not None:
        options["splits_file"] = (
            run.splits
        )  # the file that it was given may be gone, or have changed
    shown = cli.Progress()
    progress = cli.progress_callback(shown)
    options |= {"image_size": max(sizes, default=None), "progress": progress}
    try:
        dataset = load_dataset(recipe.dataset, **options) if given is None else given
        if recipe.images_per_class:
            dataset = limit_per_class(dataset, recipe.images_per_class, recipe.split_seed)
        if recipe.noisy_images:
            share, sigma = recipe.noisy_images, recipe.noise_sigma
            dataset = add_noise(dataset, share, sigma, recipe.split_seed)
        key = {
            "fingerprint": dataset.fingerprint,
            "ids": {name: list(split.ids) for name, split in dataset.splits.items()},
            "noise": [recipe.noisy_images, recipe.noise_sigma, recipe.split_seed],
            "vectors": [repr(recipe.features), recipe.feature_scaling, recipe.image_size],
        }
        if recipe.features is not None:
            dataset = vector_dataset(recipe, recipe.features, dataset, key, progress)
    finally:
        shown.stop()
    if run is not None and goes_on:
        run.check_data(dataset)
    return dataset, key


# Devices.


def _devices(recipe: Recipe, dataset: Dataset, devices: Devices | None) -> Devices:
    """The given devices, or those that share a batch; InputError for batches that there are no images for."""
    if devices is None:
        devices = Devices.sharing(recipe.batch_size)
        if len(devices) < (count := len(Devices())):
            cli.say(
                f"note: a batch of {recipe.batch_size} is shared by {len(devices)} of {count} devices;"
                f" a --batch-size that is a multiple of {count} uses all"
            )
    train_size = len(dataset.splits["train"])
    if recipe.batch_size > train_size:
        raise InputError(
            f"--batch-size {recipe.batch_size} is more than the {train_size} training images"
            f" of {dataset.name}: give at most {train_size}"
        )
    return devices


def _bytes(recipe: Recipe, dataset: Dataset, inputs: Inputs) -> int:
    """What all training and validation samples take in memory, at the largest size of any stage."""
    splits = dataset.splits
    sizes = [
        math.prod(samples.shape) * samples.dtype.itemsize * len(samples)
        for stage in recipe.stages
        for samples in [inputs.training(splits["train"], stage.augment)]
    ]
    validation = inputs.evaluation(splits["validation"])
    return max(sizes, default=0) + len(validation) * (
        math.prod(validation.shape) * validation.dtype.itemsize
    )


def _feed(recipe: Recipe, num_bytes: int, free: int | None) -> Literal["stepwise", "resident"]:
    """How to feed data of `num_bytes`; "auto" decides by the `free` memory of a device, which CPUs do not count (None).

    On a CPU resident data gain nothing, and XLA runs convolutions inside loops several times slower there.
    """
    if recipe.feed == "auto":
        fits = free is not None and num_bytes <= RESIDENT_SHARE * free
        return "resident" if fits else "stepwise"
    if recipe.feed == "resident" and free is not None and num_bytes > free:
        raise InputError(
            f"--feed resident: the images take {num_bytes / 1e9:.1f} GB and the device has"
            f" {free / 1e9:.1f} GB free: give --feed stepwise, or a smaller --image-size"
        )
    return recipe.feed


# Model.


@dataclasses.dataclass(frozen=True)
class _Model:
    """The fields of an `Experiment` that the model decides."""

    inputs: Inputs
    module: Any
    options: dict[str, Any]
    weights: dict[str, Any] | None
    pretrained: dict[str, Any]


def _model(
    recipe: Recipe,
    shape: tuple[int, ...],
    num_classes: int,
    run: RunDir | None,
    called: Callable[[str], str],
    *,
    train: bool,
) -> _Model:
    """The recipe's model, with pretrained weights where it names some. `shape` is that of one sample; pretrained
    weights may have a size of their own. A model with a field `input_shape` or `input_size` gets it.

    A run that goes on keeps what its weights have decided: the numbers are in its checkpoints, and the file, which may
    be gone or changed since then, is left alone.
    """
    weights: dict[str, Any] | None = None
    preprocessing, pretrained = None, {}
    options: dict[str, Any] = dict(recipe.model_options)
    is_fresh = recipe.pretrained is None or not train
    if is_fresh:
        if len(shape) == 3:
            preprocessing = zoo.Preprocessing(ResizeRule((shape[0], shape[1])))
    elif run is not None and run.start.exists() and run.has_checkpoint():
        decided = run.read_json(run.start)
        preprocessing = zoo.Preprocessing.from_json(decided["preprocessing"])
        options, pretrained = decided["options"], decided["pretrained"]
    else:
        taken = _pretrained(recipe, num_classes)
        preprocessing, options = taken.preprocessing, taken.options
        weights = {"batch_stats": {}, **taken.variables}
        pretrained = {"source": recipe.pretrained, "sha256": taken.sha256, "report": taken.report}
        cli.say(f"weights: {taken.report}")
    inputs: Inputs = VectorInputs(shape)
    if preprocessing is not None:
        inputs = image_inputs(preprocessing, recipe.stages, recipe.decoder, called)
    if not train:
        return _Model(inputs, None, {}, None, {})
    module = build_module(recipe.model, num_classes, recipe.dtype, options)
    if is_fresh:
        sized = {"input_shape": shape} if len(shape) == 3 else {"input_size": shape[0]}
        options |= {name: value for name, value in sized.items() if hasattr(module, name)}
        module = module.clone(**options)
    _check_size(module, recipe.model, inputs.shape)
    return _Model(inputs, module, options, weights, pretrained)


def _pretrained(recipe: Recipe, num_classes: int) -> Any:
    if isinstance(recipe.pretrained, JobWeights):
        raise InputError(
            f"the job {recipe.pretrained.job} has not been run: its weights are needed"
        )
    size, seed, options = recipe.image_size, recipe.seed, recipe.model_options
    try:
        return load_weights(
            recipe.model, recipe.pretrained, num_classes, image_size=size, seed=seed, **options
        )
    except DownloadError as error:
        raise InputError(f"{error}; or train from random weights: --pretrained None") from None


def _check_size(module: Any, name: str, shape: tuple[int, ...]) -> None:
    try:
        zoo.layer_table(module, shape)
    except InputError as error:
        advice = "; give a larger --image-size" if isinstance(error, zoo.ImageTooSmall) else ""
        what = f"{shape[0]}x{shape[1]} pixels" if len(shape) == 3 else f"{shape[0]} numbers"
        raise InputError(f"{name} at {what}: {error}{advice}") from None


def _stages(
    recipe: Recipe,
    objectives: tuple[Entry, ...],
    model: _Model,
    dataset: Dataset,
    devices: Devices,
) -> tuple[StagePlan, ...]:
    plans = []
    before: Stage | None = None
    for index, (stage, objective) in enumerate(zip(recipe.stages, objectives, strict=True)):
        module = model.module.clone(**stage.model_options)
        abstract = abstract_variables(module, model.inputs.shape)
        num_steps = steps_per_epoch(
            len(dataset.splits["train"]) * stage.augment.crops_per_image,
            recipe.batch_size,
            keep_tail=recipe.keep_tail,
            multiple_of=len(devices),
        )
        plans.append(
            StagePlan(
                stage,
                module,
                abstract,
                objective,
                build_optimizer(stage.optimizer, stage.epochs * num_steps),
                _frozen(recipe, index, stage, abstract["params"]),
                before is not None and _comparable(before, stage),
            )
        )
        before = stage
    return tuple(plans)


def _comparable(before: Stage, stage: Stage) -> bool:
    """Whether the scores of two stages in a row are of the same thing."""
    return (
        stage.start == "continue"
        and stage.objective == before.objective
        and stage.model_options == before.model_options
    )


def _frozen(recipe: Recipe, index: int, stage: Stage, params: Any) -> frozenset[freezing.Path]:
    """The parameters that a stage freezes; InputError for patterns that name nothing, or everything."""
    where = f"stage {index} ({stage.name})"
    try:
        frozen = freezing.frozen_paths(params, stage.freeze)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if frozen and len(frozen) == len(freezing.frozen_paths(params, ["*"])):
        raise InputError(
            f"{where} freezes all of {recipe.model}: leave something to train, such as its head"
        )
    return frozen


def _check_probe(recipe: Recipe, model: _Model) -> None:
    """InputError for a layer that the model does not have."""
    layer = recipe.probe.layer
    if recipe.probe.method == "none" or layer in ("features", "input"):
        return
    variables = abstract_variables(model.module, model.inputs.shape)
    example = jax.ShapeDtypeStruct((1, *model.inputs.shape), "float32")
    try:
        jax.eval_shape(lambda v, x: zoo.features(model.module, v, x, layer), variables, example)
    except InputError as error:
        raise InputError(f"--probe.layer: {error}, or features, or input") from None
