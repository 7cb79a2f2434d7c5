"""Fields that a study varies, and the syntax of `--vary`: `lr=1e-3,1e-4`, or a range `lr=1e-4..1e-2`.

A field is given by its path in a recipe, `stages.0.augment.rotation`. The name alone, `rotation`, varies a field of a
stage, its optimizer or its augmentation in all stages. Imports only the standard library.
"""

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from typing import Any

from train.errors import InputError
from train.recipe import (
    Augmentation,
    EarlyStop,
    Features,
    ModelOptions,
    Normalization,
    Optimizer,
    Plateau,
    Probe,
    Recipe,
    Stage,
    from_json_as,
    parse_features,
    to_json_value,
)
from zoo.common.names import did_you_mean

MODEL = "model"
SHORT = {"lr": "learning_rate", "dropout": "model_options.dropout_rate"}
# Where a name without dots is looked up, in this order.
PLACES: tuple[tuple[str, type], ...] = (
    ("", Recipe),
    ("stages.*.", Stage),
    ("stages.*.optimizer.", Optimizer),
    ("stages.*.augment.", Augmentation),
)
# Where fields are named by their path only.
NESTED: tuple[tuple[str, type], ...] = (
    ("stages.*.plateau.", Plateau),
    ("stages.*.early_stop.", EarlyStop),
    ("normalization.", Normalization),
    ("probe.", Probe),
)
# Fields that determine the test images of a run, or only name it.
FIXED = {
    "dataset": "run one study per data set",
    "data_dir": "run one study per data set",
    "fold": "use --folds",
    "folds": "use --folds",
    "seed": "use --seeds",
    "model": "list several models after --model",
    "stages": "name one of their fields, such as stages.0.epochs",
    "name": "it has no effect",
    "feed": "it has no effect on results",
    **dict.fromkeys(
        (
            "splits",
            "split_seed",
            "group",
            "validation_fraction",
            "test_fraction",
            "published_splits",
        ),
        "settings must be tested on the same images",
    ),
}


@dataclasses.dataclass(frozen=True)
class Varied:
    """A field and its values: a list, or a range from `low` to `high`."""

    path: str
    values: tuple[Any, ...] = ()  # as in the recipe's JSON
    low: float = 0.0
    high: float = 0.0
    whole: bool = False  # whole numbers only

    @property
    def is_range(self) -> bool:
        """Whether the values are a range."""
        return not self.values

    @property
    def log(self) -> bool:
        """Whether values are sampled on a log scale: for ranges that span a factor of 10 or more."""
        return self.is_range and self.low > 0 and self.high / self.low >= 10


def parse(text: str, flag: str = "--vary") -> Varied:
    """Parse FIELD=VALUE,VALUE or FIELD=LOW..HIGH. Raises InputError for an unknown field and for wrong values."""
    name, equals, given = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise InputError(f"{flag} {text}: use FIELD=VALUE,VALUE, such as lr=1e-3,1e-4")
    path = find_path(name, flag)
    words = split_values(given)
    if not words or not all(words):
        raise InputError(
            f"{flag} {text} has an empty value: use FIELD=VALUE,VALUE, such as lr=1e-3,1e-4"
        )
    low, dots, high = given.partition("..")
    if dots and len(words) == 1:
        return _range(text, path, low, high, flag)
    values = tuple(parse_value(word, kind_of(path), f"{flag} {name}") for word in words)
    if len(set(map(repr, values))) < len(values):
        raise InputError(f"{flag} {text} has the same value twice: remove one")
    return Varied(path, values)


def _range(text: str, path: str, low: str, high: str, flag: str) -> Varied:
    try:
        ends = ast.literal_eval(low), ast.literal_eval(high)
    except (ValueError, SyntaxError):
        ends = (math.nan, math.nan)
    if not all(type(end) in (int, float) for end in ends) or not ends[0] < ends[1] < math.inf:
        raise InputError(f"{flag} {text}: use LOW..HIGH with two numbers, such as lr=1e-4..1e-2")
    whole = int in _members(kind_of(path)) and float not in _members(kind_of(path))
    for end in ends:
        parse_value(repr(end), kind_of(path), f"{flag} {text.partition('=')[0]}")
    return Varied(path, low=ends[0], high=ends[1], whole=whole)


def split_values(text: str) -> list[str]:
    """Split at commas outside of brackets and quotes: "1,(2, 3)" has two values."""
    words, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            words.append("")
            continue
        words[-1] += letter
    return [word.strip() for word in words]


def parse_value(word: str, kind: Any, where: str) -> Any:
    """Parse a value of type `kind` as on the command line, and return it as JSON. Raises InputError, which `where`
    begins."""
    if kind == Features | None:
        value: Any = None if word == "None" else to_json_value(parse_features(word))
        return value
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False}.get(word, word)
    if kind is Any:
        return to_json_value(value)
    value = to_json_value(value)
    if str in _members(kind) and not isinstance(value, str) and value is not None:
        value = word  # "1" of a text field
    return to_json_value(from_json_as(kind, value, where))


def typed(path: str, value: Any) -> Any:
    """Return the value of a field from its JSON."""
    kind = kind_of(path)
    if kind is Any:
        return tuple(value) if isinstance(value, list) else value
    return from_json_as(kind, value, path)


def shown(value: Any) -> Any:
    """Return lists and objects as text, and other values unchanged."""
    if not isinstance(value, dict | list):
        return value
    if isinstance(value, dict) and "kind" in value:
        return (
            " ".join(str(item) for name, item in value.items() if name != "kind") or value["kind"]
        )
    return str(value)


# Paths.


def find_path(name: str, flag: str) -> str:
    """Return the path of a field, given its path or name. Raises InputError for unknown and fixed fields."""
    name = SHORT.get(name, name)
    if name in FIXED:
        raise InputError(f"{flag} {name} cannot be varied: {FIXED[name]}")
    if "." not in name:
        for prefix, cls in PLACES:
            if name in _fields(cls):
                return _single(prefix + name, _fields(cls)[name], flag, name)
        raise InputError(f"{flag} {name}: unknown field: {_hint(name)}")
    return _single(name, _follow(name.split("."), flag, name), flag, name)


def _single(path: str, kind: Any, flag: str, name: str) -> str:
    """Return a path. Raises InputError if it is that of a group of fields."""
    if _is_group(kind):
        raise InputError(f"{flag} {name} is a group of fields: name one of them, {path}.FIELD")
    return path


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) or kind is ModelOptions


def kind_of(path: str) -> Any:
    """Return the type of the field at a path."""
    return _follow(path.split("."), "", path)


def _follow(parts: Sequence[str], flag: str, name: str) -> Any:
    kind: Any = Recipe
    for index, part in enumerate(parts):
        if kind is ModelOptions:
            return Any
        if typing.get_origin(kind) is tuple:
            if part != "*" and not part.isdecimal():
                raise InputError(
                    f"{flag} {name}: {part} is neither the number of a stage, from 0, nor *"
                )
            kind = typing.get_args(kind)[0]
            continue
        fields = _fields(kind)
        if part not in fields:
            place = ".".join(parts[:index])
            hint = _hint(name)
            if place and fields:
                hint = did_you_mean(part, fields, f"{place} has {', '.join(fields)}")
            raise InputError(f"{flag} {name}: unknown field {part}: {hint}")
        kind = fields[part]
    return kind


def _fields(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


def _members(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return typing.get_args(kind)
    return (kind,)


def _hint(name: str) -> str:
    """Suggest fields for an unknown one: those of this name elsewhere, else those whose names begin with it or are
    similar."""
    name = name.rpartition(".")[2]
    known = _known()
    if name in known:
        return f"use {' or '.join(known[name])}"
    near = [field for field in known if field.startswith(name)]
    near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(way for field in near[:3] for way in known[field])}?"
    return "use a field such as lr, batch_size or rotation, or a path, stages.0.augment.rotation or model_options.NAME"


def _known() -> dict[str, list[str]]:
    """Return all fields that can be varied: by name, as they are written after --vary."""
    known = {name: [name] for name in SHORT}
    for prefix, cls in (*PLACES, *NESTED):
        for name, kind in _fields(cls).items():
            if name in FIXED or _is_group(kind):
                continue
            if (prefix, cls) in NESTED:
                known.setdefault(name, []).append(prefix + name)
            else:
                known.setdefault(name, [name])
    return known
