"""Command-line parsing into typed dataclasses.

`parse` wraps `tyro.cli`: it adds the value types of a recipe, short metavars (`INT` instead of `{None}|INT`), and
hidden aliases for flags that were renamed since the last version.
"""

import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from train.errors import InputError, UsageError
from train.recipe import (
    RENAMED_VALUES,
    DataFile,
    Features,
    JobWeights,
    ModelOptions,
    NetFeatures,
    Pixels,
    RunFeatures,
    parse_features,
    parse_option,
)
from zoo.common.commands import SCRIPT, as_typed, started_by_script, typed

REGISTRY = ConstructorRegistry()

# Flags of version 0.1, still accepted in this version.
RENAMED_FLAGS = {
    "--keep-tail": "--no-drop-last",
    "--no-keep-tail": "--drop-last",
    "--probe.standardise": "--probe.standardize",
    "--probe.no-standardise": "--probe.no-standardize",
    "--resident-images": "--cached-images",
}
_FLAGS_WITH_RENAMED_VALUES = {"--feed", "--feeds", "--feature-scaling"}

Arguments = TypeVar("Arguments")


def parse(
    kind: type[Arguments], argv: Sequence[str], module: str, description: str | None, **options: Any
) -> Arguments:
    """Parse the flags of a command's module into an instance of `kind`. Exits with status 2 for invalid flags."""
    return tyro.cli(
        kind,
        args=with_current_names(argv),
        prog=typed(module),
        description=with_other_form(description or "", module),
        registry=REGISTRY,
        **options,
    )


def with_other_form(description: str, module: str) -> str:
    """Add the other form of the command, `jax-zoo` or `python -m`, to a description."""
    if not module.startswith("train."):
        return description
    name = module.removeprefix("train.")
    other = f"python -m {module}" if started_by_script() else f"{SCRIPT} {name}"
    return f"{as_typed(description).rstrip()}\n\nThe same command: {other}"


def with_current_names(argv: Sequence[str]) -> list[str]:
    """Replace flags and values that were renamed since the last version with their current names."""
    current: list[str] = []
    flag = ""
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            flag = name.replace("_", "-")
            if flag in RENAMED_FLAGS:
                word = RENAMED_FLAGS[flag] + equals + value
            if equals and flag in _FLAGS_WITH_RENAMED_VALUES:
                word = name + equals + RENAMED_VALUES.get(value, value)
        elif flag in _FLAGS_WITH_RENAMED_VALUES:
            word = RENAMED_VALUES.get(word, word)
        current.append(word)
    return current


def _optional(
    metavar: str, parse: Callable[[str], Any], show: Callable[[Any], str], *kinds: type
) -> PrimitiveConstructorSpec[Any]:
    """Specification of a flag whose value is one word or None."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: None if words[0] == "None" else parse(words[0]),
        is_instance=lambda value: value is None or isinstance(value, kinds),
        str_from_instance=lambda value: ["None" if value is None else show(value)],
    )


_PLAIN = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


def _path(text: str) -> Path:
    """Return a path; shells expand "~" in `--workdir ~/x`, but not in `--workdir=~/x`."""
    return Path(text).expanduser()


@REGISTRY.primitive_rule
def _any_path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: _path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _plain_or_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Shorten the metavar of `int | None` and similar types; tyro's own is `{None}|INT`."""
    members = typing.get_args(info.type)
    if typing.get_origin(info.type) not in (types.UnionType, typing.Union):
        return None
    if len(members) != 2 or type(None) not in members:
        return None
    (kind,) = (m for m in members if m is not type(None))
    if kind not in _PLAIN:
        return None
    kinds = (int, float) if kind is float else (kind,)
    return _optional(_PLAIN[kind], _path if kind is Path else kind, str, *kinds)


@REGISTRY.primitive_rule
def _model_options(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[ModelOptions] | None:
    if info.type is not ModelOptions:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=_parse_options,
        is_instance=lambda value: isinstance(value, ModelOptions),
        str_from_instance=lambda value: [f"{name}={item}" for name, item in value.items()],
    )


def _parse_options(words: list[str]) -> ModelOptions:
    try:
        return ModelOptions(parse_option(word) for word in words)
    except InputError as error:
        raise UsageError(str(error)) from None


@REGISTRY.primitive_rule
def _features(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Features | None] | None:
    if info.type != Features | None:
        return None
    metavar = "pixels|gray-pixels|RUN|MODEL=SOURCE"
    return _optional(metavar, parse_features, format_features, Pixels, RunFeatures, NetFeatures)


@REGISTRY.primitive_rule
def _pretrained(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type != str | JobWeights | DataFile | None:
        return None
    return _optional("SOURCE", str, str, str, JobWeights, DataFile)


def format_features(features: Features) -> str:
    """Inverse of `parse_features`, also used in messages."""
    if isinstance(features, Pixels):
        return "gray-pixels" if features.gray else "pixels"
    if isinstance(features, NetFeatures):
        source = features.source
        return f"{features.model}={source if isinstance(source, str) else source.name}"
    return features.run if isinstance(features.run, str) else f"the job {features.run.job}"
