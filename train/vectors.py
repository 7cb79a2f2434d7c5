"""Vectors in place of images: their pixels, or what a trained net computes of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from datasets import Dataset
from datasets.dataset import Progress, VectorSplit
from datasets.pipeline import ImageSamples, load_arrays
from train.engine import features
from train.engine.checkpoints import digest
from train.engine.inputs import ImageInputs, Inputs
from train.engine.parallel import Devices
from train.predictor import load_run
from train.recipe import Features, InputError, JobWeights, NetFeatures, Pixels, Recipe, RunFeatures
from zoo.common.resize import ResizeRule
from zoo.pretrained import load as load_weights

FEATURE_BATCH = 64


def vector_dataset(
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
    if isinstance(source.run, JobWeights):
        raise InputError(f"the job {source.run.job} has not been run: its features are needed")
    predictor = load_run(source.run)
    if not isinstance(predictor.inputs, ImageInputs):
        raise InputError(
            f"--features {source.run}: its model takes vectors itself: give one of images"
        )
    return predictor.module, predictor.variables, predictor.inputs


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
    step = features.layer_step(module, inputs, layer)
    devices = Devices()
    return features.extract(
        step,
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
