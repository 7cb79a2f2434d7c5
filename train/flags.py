"""How values of a recipe are written on a command line: the one place where text becomes typed values.

`REGISTRY` goes to `tyro.cli(..., registry=REGISTRY)`.
"""

from collections.abc import Callable
from typing import Any

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from train.errors import InputError, UsageError
from train.recipe import (
    Features,
    JobWeights,
    ModelOptions,
    NetFeatures,
    Pixels,
    RunFeatures,
    parse_features,
    parse_option,
)

REGISTRY = ConstructorRegistry()


def _optional(
    metavar: str, parse: Callable[[str], Any], show: Callable[[Any], str], *kinds: type
) -> PrimitiveConstructorSpec[Any]:
    """One word, or None."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: None if words[0] == "None" else parse(words[0]),
        is_instance=lambda value: value is None or isinstance(value, kinds),
        str_from_instance=lambda value: ["None" if value is None else show(value)],
    )


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
    metavar = "pixels|RUN|MODEL=SOURCE"
    return _optional(metavar, parse_features, show_features, Pixels, RunFeatures, NetFeatures)


@REGISTRY.primitive_rule
def _pretrained(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type != str | JobWeights | None:
        return None
    return _optional("SOURCE", str, str, str, JobWeights)


def show_features(features: Features) -> str:
    """The inverse of `parse_features`, for messages, too."""
    if isinstance(features, Pixels):
        return "pixels"
    if isinstance(features, NetFeatures):
        return f"{features.model}={features.source}"
    return features.run if isinstance(features.run, str) else f"the job {features.run.job}"
