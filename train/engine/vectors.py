"""Data sets of vectors in place of images: pixels in a row, or the features of a trained net.

Features are computed once and kept in the cache directory, under a name that says from which images and by which
weights they are.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

import zoo
from datasets import Dataset
from datasets.cache import cache_dir, whole_file
from datasets.dataset import VectorSplit
from datasets.images.decode import Geometry
from datasets.pipeline import eval_batches, load_arrays
from train.engine import steps
from train.engine.cropping import evaluation_geometry
from train.engine.evaluation import run_outputs
from train.engine.parallel import Devices
from train.recipe import InputError, Recipe

Progress = Callable[[str, int, int], None]
BATCH = 64


def pixels(dataset: Dataset, size: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """The numbers of each image in a row, in [0, 1]: float32 [N, H * W] for each part, three times as many where
    there are colours. `size` is height and width, by default the images' own."""
    if size is None:
        if dataset.info.image_shape is None:
            raise InputError(
                f"the images of {dataset.name} have sizes of their own, and vectors are alike:"
                " give an --image-size"
            )
        height, width, _ = dataset.info.image_shape
        size = (height, width)
    arrays = {n: load_arrays(split, Geometry(size))[0] for n, split in dataset.splits.items()}
    grey = all((a[..., :1] == a).all() for a in arrays.values())
    kept = {name: a[..., :1] if grey else a for name, a in arrays.items()}
    return {n: a.reshape(len(a), -1).astype(np.float32) / 255 for n, a in kept.items()}


def net_features(
    dataset: Dataset,
    module: Any,
    variables: dict[str, Any],
    preprocessing: zoo.Preprocessing | None,
    *,
    layer: str | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Features of every image, or vector, float32 [N, D] for each part: what `zoo.features` gives, in a row."""
    devices = Devices()
    placed = devices.replicate(variables)

    def outputs(variables: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        images = batch["image"].astype(np.float32)
        if preprocessing is not None:
            images = steps.normalise(images, preprocessing)
        found = zoo.features(module, variables, images, layer)
        return {"features": found.astype(np.float32).reshape(len(found), -1)}

    step = devices.compile_eval_step(outputs)
    batch_size = devices.divisible(BATCH)
    geometry = None if preprocessing is None else evaluation_geometry(preprocessing)
    features = {}
    for name, split in dataset.splits.items():
        batches = eval_batches(split, batch_size=batch_size, geometry=geometry)
        shown = _shown(batches, len(split), f"features of {name} images", progress)
        features[name] = run_outputs(step, placed, shown)["features"]
    return features


def _shown(batches: Any, total: int, text: str, progress: Progress | None) -> Any:
    done = 0
    for batch in batches:
        yield batch
        done += int(batch["mask"].sum())
        if progress:
            progress(text, done, total)


def vector_dataset(recipe: Recipe, dataset: Dataset, progress: Progress | None = None) -> Dataset:
    """The recipe's data set with vectors instead of images.

    Raises InputError for a source that cannot be used.
    """
    assert recipe.features is not None
    if recipe.features == "pixels":
        size = (recipe.image_size, recipe.image_size) if recipe.image_size else None
        parts = pixels(dataset, size)
    else:
        module, variables, preprocessing, weights = _net(recipe)
        given = (recipe, dataset, module, variables, preprocessing, weights)
        parts = cached_features(*given, progress=progress)
    parts = scaled(parts, recipe.feature_scaling)
    splits = {name: VectorSplit(split, parts[name]) for name, split in dataset.splits.items()}
    provenance = {**dataset.provenance, "features": recipe.features}
    return dataclasses.replace(dataset, splits=splits, provenance=provenance)


def scaled(parts: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    """Vectors on another scale, which the training part sets: see `Recipe.feature_scaling`."""
    train = parts["train"].astype(np.float64)
    if how == "none":
        return parts
    if how == "unit":
        mean, deviation = np.zeros(1), np.array([train.std()])
    else:
        mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)  # numbers that never change stay
    return {n: ((v - mean) / deviation).astype(np.float32) for n, v in parts.items()}


def cached_features(
    recipe: Recipe,
    dataset: Dataset,
    module: Any,
    variables: dict[str, Any],
    preprocessing: zoo.Preprocessing | None,
    weights: str,
    *,
    layer: str | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """`net_features` of the recipe's data set, from the cache directory where they are there; `weights` is a digest of
    the net's."""
    named = {
        "weights": weights,
        "preprocessing": preprocessing and preprocessing.to_json(),
        "module": repr(module),
        "layer": layer,
        "data": dataset.fingerprint,
        "ids": {name: list(split.ids) for name, split in dataset.splits.items()},
        "noise": [recipe.noisy_images, recipe.noise_sigma, recipe.split_seed],
        "vectors": [recipe.features, recipe.feature_scaling, recipe.image_size],
    }
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    path = cache_dir() / "features" / f"{digest[:32]}.npz"
    try:
        with open(path, "rb") as read, np.load(read, allow_pickle=False) as saved:
            return {name: saved[name] for name in dataset.splits}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or not whole
        pass
    features = net_features(
        dataset, module, variables, preprocessing, layer=layer, progress=progress
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, **features)
    return features


def _net(recipe: Recipe) -> tuple[Any, dict[str, Any], zoo.Preprocessing, str]:
    """Module, variables, preprocessing, and a digest of the weights."""
    source = recipe.features or ""
    name, equals, tag = source.partition("=")
    if equals:
        from zoo.pretrained import load

        taken = load(name, tag, None, image_size=recipe.image_size)
        return taken.module, taken.variables, taken.preprocessing, taken.sha256
    from train.predictor import load_run

    predictor = load_run(source)
    if predictor.preprocessing is None:
        raise InputError(f"--features {source}: its model takes vectors itself: give one of images")
    digest = predictor.info["weights_sha256"]
    return predictor.module, predictor.variables, predictor.preprocessing, digest
