"""A study in a TOML file: its flags, with tables for nested fields, and `[vary]` for the varied ones.

    model = ["resnet_tiny", "mobilenet_v2_tiny"]
    dataset = "photos.zip"
    folds = 5
    [vary]
    lr = [1e-3, 1e-4]
    "stages.0.augment.rotation" = [0, 15]

Imports only the standard library.
"""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.errors import InputError
from train.recipe import ModelOptions, Recipe, from_json_as
from train.recipe_files import read_toml
from train.studies import varied
from zoo.common.names import did_you_mean


def study_words(path: Path, flags: Mapping[str, Any]) -> list[str]:
    """Convert a study's TOML file to command-line words. Raises InputError if it is invalid.

    The study's name is the field `name`, by default the file's stem.

    Args:
      path: the file.
      flags: types of the flags of train.study that are not fields of a recipe, by name.
    """
    data = read_toml(path)
    kinds = {**typing.get_type_hints(Recipe), **flags}
    words = [_text(data.pop("name", path.stem), f"{path}: name")]
    for key, value in data.items():
        if key == "vary":
            words += _vary(value, path)
        elif key == "model":
            models = value if isinstance(value, list) and value else [value]
            words += ["--model", *(_text(model, f"{path}: model") for model in models)]
        else:
            hint = did_you_mean(key, kinds, "see train.study --help")
            words += _flag(key, value, _kind(key, key, kinds, path, hint), path)
    return words


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} is {value!r}: use text")
    return value


def _kind(key: str, name: str, kinds: Mapping[str, Any], path: Path, hint: str = "") -> Any:
    """Return the type of a field. Raises InputError if `kinds` does not have it."""
    if name not in kinds:
        hint = hint or did_you_mean(name, kinds, f"there are {', '.join(kinds)}")
        raise InputError(f"{path} has an unknown field {key!r}: {hint}")
    return kinds[name]


def _vary(value: Any, path: Path) -> list[str]:
    words = []
    for name, values in _flat(_table(value, "vary", path), ""):
        if isinstance(values, list):
            text = ",".join(v if isinstance(v, str) else repr(v) for v in values)
        else:
            text = values if isinstance(values, str) else repr(values)
        varied.parse(f"{name}={text}", f"{path}: vary")
        words += ["--vary", f"{name}={text}"]
    return words


def _flat(table: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """List the (path, value) pairs of nested tables."""
    pairs: list[tuple[str, Any]] = []
    for name, value in table.items():
        path = f"{prefix}{name}"
        pairs += _flat(value, f"{path}.") if isinstance(value, dict) else [(path, value)]
    return pairs


def _flag(key: str, value: Any, kind: Any, path: Path) -> list[str]:
    """Return the words of a flag of type `kind`, or of several for a table."""
    flag, where = f"--{key.replace('_', '-')}", f"{path}: {key}"
    if kind is ModelOptions:
        return [flag, *(f"{k}={v!r}" for k, v in _table(value, key, path).items())]
    is_list = typing.get_origin(kind) is tuple
    item = typing.get_args(kind)[0] if is_list else kind
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        return [
            word
            for name, inner in _table(value, key, path).items()
            for word in _flag(
                f"{key}.{name}", inner, _kind(f"{key}.{name}", name, kinds, path), path
            )
        ]
    if dataclasses.is_dataclass(item):  # [[stages]], or the fields of stages.0
        is_table = not isinstance(value, list)
        items: Mapping[Any, Any] = _table(value, key, path) if is_table else dict(enumerate(value))
        return [w for n, inner in items.items() for w in _flag(f"{key}.{n}", inner, item, path)]
    if kind is bool:
        before, dot, last = flag.removeprefix("--").rpartition(".")
        no_flag = f"--{before}{dot}no-{last}"
        return [flag if _checked(value, bool, where) else no_flag]
    values = value if is_list and isinstance(value, list) else [value]
    if not values:
        raise InputError(f"{where} has no value: leave it out, or name one")
    for single in values:
        _checked(single, item, where)
    return [flag, *map(str, values)]


def _checked(value: Any, kind: Any, where: str) -> Any:
    """Return a value as JSON; text is parsed as on the command line. Raises InputError if it has another type."""
    if isinstance(value, str | int | float):
        return varied.parse_value(str(value), kind, where)
    return from_json_as(kind, value, where)


def _table(value: Any, key: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {key} is {value!r}: use a table, [{key}]")
    return value
