"""The recipes of rows and grids at each scale, on the paper's data and on the proxy, and their descriptions."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from datasets import dataset_info, list_datasets
from train import cli, jobs
from train.recipe import (
    DataFile,
    Features,
    JobWeights,
    NetFeatures,
    Pixels,
    Recipe,
    RunFeatures,
    with_values,
)
from train.record.directory import as_version_0_1
from train.reproduce.schema import EarlierReading, Grid, Row
from train.reproduce.smoke import smoke_recipe

Scale = Literal["full", "short", "smoke"]


def variants(item: Row | Grid, *, short: bool) -> list[Recipe]:
    """Return the recipe on the paper's data and, if there are any, on the proxy and its fallback."""
    shortened = dict(item.short or {}) if short else {}
    changes = [{}, *filter(None, (item.proxy, item.fallback))]
    return [with_values(item.recipe, {**data, **shortened}) for data in changes]


@dataclasses.dataclass(frozen=True)
class Expected:
    """A recipe that an existing run may have."""

    recipe: Recipe
    short: bool = False
    earlier: bool = False  # it follows the reading of version 0.1


def expected(item: Row | Grid, scale: Scale, changes: Mapping[str, Any]) -> list[Expected]:
    """Return the recipes that an existing run of the item may have, given its seed or its trial's values.

    This version's recipes come first, then those of version 0.1, if it read the paper differently.
    """
    if scale == "smoke":
        return [Expected(with_values(smoke_recipe(item.recipe), changes))]
    found = [
        Expected(with_values(recipe, changes), short)
        for short in ([False, True] if item.short else [False])
        for recipe in variants(item, short=short)
    ]
    return found + [
        Expected(recipe, e.short, earlier=True)
        for e in found
        if item.earlier and (recipe := earlier_recipe(e.recipe, item.earlier)) != e.recipe
    ]


def earlier_recipe(recipe: Recipe, reading: EarlierReading) -> Recipe:
    """Return a recipe according to version 0.1's reading of the paper.

    Differences in settings that the proxy or the short version replaces (normalization, epochs) do not matter.
    """
    return as_version_0_1(with_values(recipe, reading.changes))


def match_recipe(recorded: Recipe, among: Sequence[Expected]) -> Expected | None:
    """Return the expected recipe that a recorded one matches, or None.

    A recorded path to a row's best weights matches a reference to that row.
    """
    return next((e for e in among if not jobs.changes(recorded, e.recipe, is_best_of_row)), None)


def is_best_of_row(path: str, job: str) -> bool:
    """Return whether a path is that of a row's best weights, ROW/seed0/best; `job` is ROW or ROW/seed0."""
    *_, row, _, last = ("", "", *PurePath(path).parts)
    return (row, last) == (PurePath(job).parts[0], "best")


# Requirements.


def takes_data_dir(dataset: str) -> bool:
    """Return whether a named data set is read from files that the user provides."""
    return dataset in list_datasets() and dataset_info(dataset).takes_data_dir


def needs(row: Row) -> str:
    """Describe the data, weights and rows that a run of the row needs; empty if it needs none."""
    recipe, found = row.recipe, []
    if takes_data_dir(recipe.dataset):
        info = dataset_info(recipe.dataset)
        instead = (row.proxy or {}).get("dataset")
        details = [info.homepage, f"proxy data: {instead}" if instead else ""]
        text = "; ".join(filter(None, details))
        found.append(f"the data set {recipe.dataset}{f' ({text})' if text else ''}")
    if isinstance(recipe.pretrained, str | DataFile):
        found.append(f"the {_show_weights(recipe.pretrained)} weights of {recipe.model}")
    if isinstance(recipe.features, NetFeatures):
        source = _show_weights(recipe.features.source)
        found.append(f"the {source} weights of {recipe.features.model}")
    found += [f"the row {name}" for name in jobs.dependencies(recipe)]
    return f"needs {' and '.join(found)}" if found else ""


def describe_row(row: Row) -> str:
    """Describe the paper's setting of a row in one line."""
    if row.seeds:
        return describe(row.recipe)
    return f"{row.recipe.model} on {row.recipe.dataset}, not trained: its parameters are counted"


def count_parameters(recipe: Recipe) -> dict[str, float]:
    """Count the parameters of the recipe's model, with a head for the classes of its data.

    `fc_share` is the fraction of `total_parameters` in dense layers.
    """
    import zoo
    from zoo import inspect

    entry = zoo.get_entry(recipe.model)
    known = recipe.dataset in list_datasets()
    classes = dataset_info(recipe.dataset).num_classes if known else None
    module = zoo.create_model(recipe.model, classes, **recipe.model_options)
    size = recipe.image_size
    shape = (size, size, 3) if size and len(entry.input_shape) == 3 else entry.input_shape
    trainable, total = inspect.count_parameters(module, shape)
    layers = inspect.layer_table(module, shape)
    dense = sum(layer.parameters for layer in layers if layer.kind == "Dense")
    return {"parameters": trainable, "total_parameters": total, "fc_share": dense / max(total, 1)}


# Descriptions.


def describe(recipe: Recipe) -> str:
    """Describe a recipe in one line."""
    parts = [f"{recipe.model} on {recipe.dataset}"]
    parts += [f"from {_show_weights(recipe.pretrained)}"] if recipe.pretrained else []
    parts += [f"features of {_show_features(recipe.features)}"] if recipe.features else []
    parts += [f"batch {recipe.batch_size}"] if recipe.stages else []
    for stage in recipe.stages:
        name = "" if len(recipe.stages) == 1 else f"{stage.name}: "
        rate = f"{stage.optimizer.name} {stage.optimizer.learning_rate:g}"
        parts.append(f"{name}{cli.count(stage.epochs, 'epoch')} {rate}")
    probe = recipe.probe
    parts += [f"then {probe.method} on {probe.layer}"] if probe.method != "none" else []
    return ", ".join(parts)


def _show_features(features: Features) -> str:
    if isinstance(features, RunFeatures):
        return _show_weights(features.run)
    if isinstance(features, Pixels):
        return "gray pixels" if features.gray else "pixels"
    return f"{features.model}={_show_weights(features.source)}"


def _show_weights(weights: str | JobWeights | DataFile) -> str:
    if isinstance(weights, DataFile):
        return f"{weights.name} (sha256 {weights.sha256[:12]})"
    return f"the row {weights.job}" if isinstance(weights, JobWeights) else weights
