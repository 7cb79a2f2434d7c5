"""A study in a TOML file: its flags, with tables for nested fields, and `[vary]` for the varied ones.

    model = ["resnet_tiny", "mobilenet_v2_tiny"]
    dataset = "photos.zip"
    folds = 5
    [vary]
    lr = [1e-3, 1e-4]
    "stages.0.augment.rotation" = [0, 15]

Imports only the standard library.
"""

import typing
from pathlib import Path
from typing import Any

from train.errors import InputError
from train.recipe import Recipe
from train.recipe_files import read_toml
from zoo.common.names import did_you_mean

# Flags of train.study that are not fields of a recipe.
FLAGS = frozenset(
    ["seeds", "metric", "sampler", "trials", "prune", "workers", "storage", "out", "epochs", "lr", "writers"]
    + ["quick", "from_recipe", "recipe", "vary"]
)  # fmt: skip


def study_words(path: Path) -> list[str]:
    """Convert a study's TOML file to command-line words. Raises InputError if it is invalid.

    The study's name is the field `name`, by default the file's stem.
    """
    data = read_toml(path)
    known = [*FLAGS, *typing.get_type_hints(Recipe)]
    name = data.pop("name", path.stem)
    words = [str(name)]
    for key, value in data.items():
        if key not in known:
            hint = did_you_mean(key, known, "see train.study --help")
            raise InputError(f"{path} has an unknown field {key!r}: {hint}")
        if key == "vary":
            words += _vary(value, path)
        elif key == "model_options":
            words += [
                "--model-options",
                *(f"{k}={v!r}" for k, v in _table(value, key, path).items()),
            ]
        else:
            words += _flag(key, value, path)
    return words


def _vary(value: Any, path: Path) -> list[str]:
    words = []
    for name, values in _flat(_table(value, "vary", path), ""):
        if isinstance(values, list):
            text = ",".join(v if isinstance(v, str) else repr(v) for v in values)
        else:
            text = values if isinstance(values, str) else repr(values)
        words += ["--vary", f"{name}={text}"]
    return words


def _flat(table: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """List the (path, value) pairs of nested tables."""
    pairs: list[tuple[str, Any]] = []
    for name, value in table.items():
        path = f"{prefix}{name}"
        pairs += _flat(value, f"{path}.") if isinstance(value, dict) else [(path, value)]
    return pairs


def _flag(key: str, value: Any, path: Path) -> list[str]:
    """Return the words of a flag, or of several for a table."""
    if isinstance(value, dict):
        return [w for name, item in value.items() for w in _flag(f"{key}.{name}", item, path)]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [w for n, item in enumerate(value) for w in _flag(f"{key}.{n}", item, path)]
    flag = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        before, dot, last = flag.removeprefix("--").rpartition(".")
        return [flag if value else f"--{before}{dot}no-{last}"]
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InputError(f"{path}: {key} has no value: give it one, or leave it out")
    return [flag, *map(str, values)]


def _table(value: Any, key: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {key} is {value!r}: use a table, [{key}]")
    return value
