"""From a recipe to an `Experiment`: every check of a recipe against data, model and devices, each once.

Training, evaluation and previews use what `resolve` returns as it is.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import zoo
from datasets import Dataset, list_datasets, load_dataset
from datasets.dataset import Progress, VectorSplit
from datasets.images import fast
from datasets.pipeline import ImageSamples, load_arrays
from datasets.views import add_noise, limit_per_class
from train import cli
from train.engine import features, freezing, steps
from train.engine.checkpoints import digest
from train.engine.experiment import Experiment, StagePlan, build_module
from train.engine.feeding import choose
from train.engine.inputs import ImageInputs, Inputs, VectorInputs, image_inputs
from train.engine.objectives import get_objective, objectives_of
from train.engine.optimizers import get_optimizer
from train.engine.parallel import Devices
from train.predictor import load_run
from train.recipe import (
    Features,
    InputError,
    JobWeights,
    NetFeatures,
    Pixels,
    Recipe,
    RunFeatures,
    Stage,
)
from train.record.directory import RunDir
from zoo.common.resize import ResizeRule
from zoo.pretrained import load as load_weights
from zoo.pretrained.sources import DownloadError
from zoo.registry import module_options

FEATURE_BATCH = 64


def located(recipe: Recipe) -> Recipe:
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


def resolve(
    recipe: Recipe, workdir: str | os.PathLike[str] | None = None, *, train: bool = True
) -> Experiment:
    """Everything that a recipe names, loaded and checked. Writes nothing.

    Args:
      recipe: what to do.
      workdir: a run directory, whose own splits and decisions win where there is a run in it.
      train: False resolves data, inputs and devices only, for a net that is trained already and for previews: there
        are no stages and no weights then, and `module` is None.

    Raises InputError, one line, for whatever cannot be used.
    """
    recipe.validate()
    run = RunDir(workdir) if workdir is not None else None
    entry = zoo.get_entry(recipe.model)
    if train:
        _check_names(recipe, entry)
    if recipe.decoder == "fast":
        fast.check()
    cli.report_devices()
    dataset, data_key = _load_data(_with_own_splits(recipe, run), entry)
    if run is not None:
        _check_same_data(run, dataset)
    shape = _sample_shape(recipe, entry, dataset)
    if not train:
        inputs = _inputs(shape, recipe)
        return Experiment(
            recipe, dataset, data_key, inputs, Devices(), "stepwise", 0, None, {}, (), None, {}
        )
    devices = _devices(recipe, dataset)
    made = _model(recipe, shape, len(dataset.class_names), run)
    stages = _stages(recipe, made)
    _check_probe(recipe, made)
    num_bytes = _bytes(recipe, dataset, made.inputs)
    feed = choose(recipe.feed, num_bytes, devices)
    return Experiment(
        recipe,
        dataset,
        data_key,
        made.inputs,
        devices,
        feed,
        num_bytes,
        made.module,
        made.options,
        stages,
        made.weights,
        made.pretrained,
    )


# Names.


def _check_names(recipe: Recipe, entry: zoo.ModelEntry) -> None:
    """InputError for stages that cannot train this model, and for data that it cannot take."""
    takes_vectors = len(entry.input_shape) == 1
    if takes_vectors and recipe.features is None:
        raise InputError(
            f"{recipe.model} takes vectors: give --features pixels, the directory of a finished run, or"
            " resnet50=torchvision"
        )
    if recipe.features is not None and not takes_vectors:
        raise InputError(
            f"{recipe.model} takes images: --features is for models of vectors, such as vade"
        )
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
        get_optimizer(stage.optimizer.name)
        zoo.create_model(recipe.model, **{**recipe.model_options, **stage.model_options})


# Data.


def input_size(recipe: Recipe, entry: zoo.ModelEntry) -> tuple[int, int] | None:
    """Height and width of the recipe's images; None where the data's own size is meant, for vectors."""
    if recipe.image_size:
        return recipe.image_size, recipe.image_size
    if len(entry.input_shape) == 1:
        return None
    height, width, *_ = recipe.model_options.get("input_shape", entry.input_shape)
    return height, width


def _load_data(recipe: Recipe, entry: zoo.ModelEntry) -> tuple[Dataset, dict[str, Any]]:
    """The recipe's data set, of images or of vectors, and what its samples depend on."""
    size = input_size(recipe, entry)
    sizes = [size[0], *(stage.augment.resize or 0 for stage in recipe.stages)] if size else []
    shown = cli.Progress()
    progress = cli.progress_callback(shown)
    options = dataclasses.asdict(recipe.data_options())
    options |= {"image_size": max(sizes, default=None), "progress": progress}
    try:
        dataset = load_dataset(recipe.dataset, **options)
        if recipe.images_per_class:
            dataset = limit_per_class(dataset, recipe.images_per_class, recipe.split_seed)
        if recipe.noisy_images:
            share, sigma = recipe.noisy_images, recipe.noise_sigma
            dataset = add_noise(dataset, share, sigma, recipe.split_seed)
        written = recipe.to_json()
        key = {
            "fingerprint": dataset.fingerprint,
            "ids": {name: list(split.ids) for name, split in dataset.splits.items()},
            "noise": [recipe.noisy_images, recipe.noise_sigma, recipe.split_seed],
            "vectors": [written["features"], recipe.feature_scaling, recipe.image_size],
        }
        if recipe.features is not None:
            dataset = _vectors(recipe, recipe.features, dataset, key, progress)
        return dataset, key
    finally:
        shown.stop()


def _with_own_splits(recipe: Recipe, run: RunDir | None) -> Recipe:
    """The recipe of a run that reads its splits from its own directory: the file that it was given may be
    gone, or have changed."""
    if recipe.splits is None or run is None or not run.exists() or not run.splits.exists():
        return recipe
    return dataclasses.replace(recipe, splits=str(run.splits))


def _check_same_data(run: RunDir, dataset: Dataset) -> None:
    """In a run that goes on the data must be what they were, and in the same splits."""
    if not run.exists() or not run.splits.exists():
        return
    before = run.read_json(run.splits)
    if before.get("fingerprint") != dataset.fingerprint:
        raise InputError(
            f"the data of {dataset.name} are not those of the run in {run.path} (fingerprint"
            f" {dataset.fingerprint[:12]}, not {str(before.get('fingerprint'))[:12]}): restore them, or give"
            " another --workdir"
        )
    now = dataset.manifest()
    if any(before.get(field) != now[field] for field in ("class_names", "splits")):
        raise InputError(
            f"the images of {dataset.name} are not in the parts that they have in {run.splits}: give"
            " that file with --splits and another --workdir"
        )


def _sample_shape(recipe: Recipe, entry: zoo.ModelEntry, dataset: Dataset) -> tuple[int, ...]:
    train = dataset.splits["train"]
    if isinstance(train, VectorSplit):
        return train.shape
    size = input_size(recipe, entry)
    assert size is not None
    return (*size, 3)


# Vectors in place of images.


def _vectors(
    recipe: Recipe,
    source: Features,
    dataset: Dataset,
    key: Mapping[str, Any],
    progress: Progress,
) -> Dataset:
    """The data set with vectors in place of its images; InputError for a source that cannot be used."""
    if isinstance(source, Pixels):
        size = (recipe.image_size, recipe.image_size) if recipe.image_size else None
        parts = pixels(dataset, size)
    else:
        module, variables, inputs = _feature_net(recipe, source)
        parts = net_features(module, variables, inputs, dataset, key, progress=progress)
    parts = scaled(parts, recipe.feature_scaling)
    splits = {name: VectorSplit(split, parts[name]) for name, split in dataset.splits.items()}
    provenance = {**dataset.provenance, "features": recipe.to_json()["features"]}
    return dataclasses.replace(dataset, splits=splits, provenance=provenance)


def _feature_net(
    recipe: Recipe, source: RunFeatures | NetFeatures
) -> tuple[Any, dict[str, Any], ImageInputs]:
    if isinstance(source, NetFeatures):
        taken = load_weights(source.model, source.source, None, image_size=recipe.image_size)
        return taken.module, taken.variables, ImageInputs(taken.preprocessing)
    predictor = load_run(_path(source.run))
    if not isinstance(predictor.inputs, ImageInputs):
        raise InputError(
            f"--features {source.run}: its model takes vectors itself: give one of images"
        )
    return predictor.module, predictor.variables, predictor.inputs


def _path(weights: str | JobWeights) -> str:
    if isinstance(weights, JobWeights):
        raise InputError(f"the job {weights.job} has not been run: its weights are needed")
    return weights


def pixels(dataset: Dataset, size: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """The numbers of each image in a row, in [0, 1]: float32 [N, H * W] for each split, three times as many where
    there are colors. `size` is height and width, by default the images' own."""
    if size is None:
        if dataset.info.image_shape is None:
            raise InputError(
                f"the images of {dataset.name} have sizes of their own, and vectors are alike:"
                " give an --image-size"
            )
        height, width, _ = dataset.info.image_shape
        size = (height, width)
    rule = ResizeRule(size)
    arrays = {n: load_arrays(ImageSamples(s, rule))[0] for n, s in dataset.splits.items()}
    gray = all((a[..., :1] == a).all() for a in arrays.values())
    kept = {name: a[..., :1] if gray else a for name, a in arrays.items()}
    return {n: a.reshape(len(a), -1).astype(np.float32) / 255 for n, a in kept.items()}


def net_features(
    module: Any,
    variables: dict[str, Any],
    inputs: Inputs,
    dataset: Dataset,
    key: Mapping[str, Any],
    *,
    layer: str | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """What `zoo.features` gives for every sample of each split, float32 [N, D], from the cache where it is there."""
    devices = Devices()
    return features.extract(
        features.layer_step(module, inputs, layer),
        variables,
        {name: inputs.evaluation(split) for name, split in dataset.splits.items()},
        devices,
        batch_size=devices.divisible(FEATURE_BATCH),
        key={
            "weights": digest(variables),
            "inputs": inputs.to_json(),
            "module": repr(module),
            "layer": layer,
            "data": key,
        },
        progress=progress,
    )


def scaled(parts: Mapping[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    """Vectors on another scale, which the training split sets: see `Recipe.feature_scaling`."""
    train = parts["train"].astype(np.float64)
    if how == "none":
        return dict(parts)
    if how == "unit":
        mean, deviation = np.zeros(1), np.array([train.std()])
    else:
        mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)  # features that never change stay
    return {n: ((v - mean) / deviation).astype(np.float32) for n, v in parts.items()}


# Devices.


def _devices(recipe: Recipe, dataset: Dataset) -> Devices:
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


# Model.


@dataclasses.dataclass(frozen=True)
class _Model:
    module: Any
    options: dict[str, Any]
    inputs: Inputs
    weights: dict[str, Any] | None
    pretrained: dict[str, Any]


def _inputs(shape: tuple[int, ...], recipe: Recipe) -> Inputs:
    if len(shape) == 1:
        return VectorInputs(shape)
    rule = ResizeRule((shape[0], shape[1]))
    return image_inputs(zoo.Preprocessing(rule), recipe.stages, recipe.decoder)


def _model(recipe: Recipe, shape: tuple[int, ...], num_classes: int, run: RunDir | None) -> _Model:
    """The recipe's model, with pretrained weights where it names some. `shape` is that of one sample; pretrained
    weights may have a size of their own. A model with a field `input_shape` or `input_size` gets it.

    A run that goes on keeps what its weights have decided: the numbers are in its checkpoints, and the file, which may
    be gone or changed since then, is left alone.
    """
    if recipe.pretrained is None:
        options: dict[str, Any] = dict(recipe.model_options)
        module = build_module(recipe.model, num_classes, recipe.dtype, options)
        fields = module_options(module)
        if "input_shape" in fields and len(shape) == 3:
            options["input_shape"] = shape
        if "input_size" in fields and len(shape) == 1:
            options["input_size"] = shape[0]
        module = module.clone(
            **{k: options[k] for k in ("input_shape", "input_size") if k in options}
        )
        _check_size(module, recipe.model, shape)
        return _Model(module, options, _inputs(shape, recipe), None, {})
    if run is not None and run.start.exists() and run.has_checkpoint():
        decided = run.read_json(run.start)
        inputs = ImageInputs(zoo.Preprocessing.from_json(decided["preprocessing"]), recipe.decoder)
        module = build_module(recipe.model, num_classes, recipe.dtype, decided["options"])
        return _Model(module, decided["options"], inputs, None, decided["pretrained"])
    try:
        taken = load_weights(
            recipe.model,
            _path(recipe.pretrained),
            num_classes,
            image_size=recipe.image_size,
            seed=recipe.seed,
            **recipe.model_options,
        )
    except DownloadError as error:
        raise InputError(f"{error}; or train from random weights: --pretrained None") from None
    module = build_module(recipe.model, num_classes, recipe.dtype, taken.options)
    inputs = image_inputs(taken.preprocessing, recipe.stages, recipe.decoder)
    _check_size(module, recipe.model, inputs.shape)
    cli.say(f"weights: {taken.report}")
    pretrained = {"source": recipe.pretrained, "sha256": taken.sha256, "report": taken.report}
    weights = {"batch_stats": {}, **taken.variables}
    return _Model(module, taken.options, inputs, weights, pretrained)


def _check_size(module: Any, name: str, shape: tuple[int, ...]) -> None:
    try:
        zoo.layer_table(module, shape)
    except InputError as error:
        advice = "; give a larger --image-size" if isinstance(error, zoo.ImageTooSmall) else ""
        what = f"{shape[0]}x{shape[1]} pixels" if len(shape) == 3 else f"{shape[0]} numbers"
        raise InputError(f"{name} at {what}: {error}{advice}") from None


def _stages(recipe: Recipe, model: _Model) -> tuple[StagePlan, ...]:
    plans = []
    before: Stage | None = None
    for index, stage in enumerate(recipe.stages):
        module = model.module.clone(**stage.model_options)
        params = steps.abstract_variables(module, model.inputs.shape)["params"]
        plans.append(
            StagePlan(
                stage,
                module,
                get_objective(stage.objective),
                _frozen(recipe, index, stage, params),
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
    variables = steps.abstract_variables(model.module, model.inputs.shape)
    example = jax.ShapeDtypeStruct((1, *model.inputs.shape), "float32")
    try:
        jax.eval_shape(lambda v, x: zoo.features(model.module, v, x, layer), variables, example)
    except InputError as error:
        raise InputError(f"--probe.layer: {error}, or features, or input") from None


# Parts of the above, for who needs no more.


def count_parameters(recipe: Recipe, num_classes: int | None) -> tuple[int, int]:
    """Trainable parameters of the recipe's model, and those with batch-norm statistics, without its data."""
    from zoo.inspect import count_parameters

    entry = zoo.get_entry(recipe.model)
    module = zoo.create_model(recipe.model, num_classes, **recipe.model_options)
    size = recipe.image_size
    is_image = len(entry.input_shape) == 3
    return count_parameters(module, (size, size, 3) if size and is_image else entry.input_shape)
