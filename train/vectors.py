"""Vectors instead of images: their pixels, or features from a trained network."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from datasets import Dataset
from datasets.dataset import Progress, VectorSplit
from datasets.pipeline import ImageSamples, load_arrays
from train import data_files
from train.analysis.probes import scale
from train.engine import feature_store, features
from train.engine.checkpoints import digest
from train.engine.inputs import ImageInputs, Inputs, normalized
from train.engine.parallel import Devices
from train.predictor import load_run
from train.recipe import (
    DataFile,
    Features,
    InputError,
    JobWeights,
    NetFeatures,
    Pixels,
    Recipe,
    RunFeatures,
)
from zoo.common.resize import ResizeRule
from zoo.pretrained import load as load_weights

FEATURE_BATCH = 64
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def vector_dataset(
    recipe: Recipe,
    source: Features,
    dataset: Dataset,
    key: Mapping[str, Any],
    progress: Progress,
) -> Dataset:
    """Replace the images of a data set by vectors. Raises InputError if the source cannot be used."""
    if isinstance(source, Pixels):
        size = (recipe.image_size, recipe.image_size) if recipe.image_size else None
        vectors = pixels(dataset, size, gray=source.gray)
    else:
        module, variables, inputs = _load_feature_network(recipe, source)
        vectors = network_features(module, variables, inputs, dataset, key, progress=progress)
    vectors = scale(vectors, recipe.feature_scaling)
    splits = {name: VectorSplit(split, vectors[name]) for name, split in dataset.splits.items()}
    provenance = {**dataset.provenance, "features": recipe.to_json()["features"]}
    return dataclasses.replace(dataset, splits=splits, provenance=provenance)


def _load_feature_network(
    recipe: Recipe, source: RunFeatures | NetFeatures
) -> tuple[Any, dict[str, Any], ImageInputs]:
    if isinstance(source, NetFeatures):
        weights = source.source
        if isinstance(weights, DataFile):
            weights = str(data_files.find(weights, recipe.data_dir))
        loaded = load_weights(source.model, weights, None, image_size=recipe.image_size)
        preprocessing = normalized(loaded.preprocessing, recipe.normalization)
        return loaded.module, loaded.variables, ImageInputs(preprocessing)
    if isinstance(source.run, JobWeights):
        raise InputError(
            f"this run needs features of the job {source.run.job}, which has not been run: run it first"
        )
    predictor = load_run(source.run)
    if not isinstance(predictor.inputs, ImageInputs):
        raise InputError(
            f"--features {source.run}: the model of this run takes vectors: use a run trained on images"
        )
    return predictor.module, predictor.variables, predictor.inputs


def pixels(
    dataset: Dataset, size: tuple[int, int] | None, *, gray: bool = False
) -> dict[str, np.ndarray]:
    """Flatten the images of each split to vectors in [0, 1]: float32 [N, H * W * 3], or [N, H * W] if all are gray.

    `size` is height and width (default: that of the images). `gray` converts colors to luma (ITU-R 601).
    """
    if size is None:
        if dataset.info.image_shape is None:
            raise InputError(
                f"the images of {dataset.name} differ in size, but vectors must have equal lengths:"
                " use an --image-size"
            )
        height, width, _ = dataset.info.image_shape
        size = (height, width)
    rule = ResizeRule(size)
    arrays = {n: load_arrays(ImageSamples(s, rule))[0] for n, s in dataset.splits.items()}
    if all((a[..., :1] == a).all() for a in arrays.values()):
        arrays = {name: a[..., :1] for name, a in arrays.items()}
    elif gray:
        arrays = {name: a @ LUMA for name, a in arrays.items()}
    return {n: a.reshape(len(a), -1).astype(np.float32) / 255 for n, a in arrays.items()}


def network_features(
    module: Any,
    variables: dict[str, Any],
    inputs: Inputs,
    dataset: Dataset,
    key: Mapping[str, Any],
    *,
    layer: str | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Compute `zoo.features` of every sample of each split, float32 [N, D], or read them from the cache."""
    step = features.layer_step(module, inputs, layer)
    devices = Devices()
    samples = {name: inputs.eval_samples(split) for name, split in dataset.splits.items()}
    names = {n: feature_store.image_names(s, key) for n, s in samples.items()}
    known = {name: of_split for name, of_split in names.items() if of_split is not None}
    by_content = len(known) == len(names)
    return features.extract(
        step,
        variables,
        samples,
        devices,
        batch_size=devices.round_up(FEATURE_BATCH),
        key={
            "weights": digest(variables),
            "inputs": inputs.to_json(),
            "module": repr(module),
            "layer": layer,
            "data": [dataset.name, dataset.fingerprint] if by_content else key,
        },
        names=known if by_content else None,
        progress=progress,
    )
