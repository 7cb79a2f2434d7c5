"""Model registry. Imports only the standard library."""

import ast
import dataclasses
import difflib
import fnmatch
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.common.commands import started_by_script, typed
from zoo.common.errors import InputError
from zoo.common.names import did_you_mean, load_plugin, plugin_names
from zoo.version_0_1 import RENAMED_OPTIONS


@functools.cache
def builtin_modules() -> dict[str, str]:
    """Map the names of built-in models to their modules, found by parsing the files of this package.

    A module, and with it JAX, is imported only when one of its models is requested.
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(map(_registers, node.decorator_list)):
                found[node.name] = f"{__package__}.{path.stem}"
    return found


def _registers(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else None
    return isinstance(called, ast.Name) and called.id == register_model.__name__


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A registered model: a factory `(num_classes) -> nn.Module` and its metadata."""

    name: str
    module: str  # that defines the factory
    factory: Callable[[int], Any]
    input_shape: tuple[int, ...]  # of one image (height, width, channels) or one vector (length)
    num_classes: int  # the default; the number of clusters for clustering models
    source: str  # paper, table or figure
    notes: str  # our assumptions where the source is silent or contradicts itself
    pretrained: tuple[Any, ...]  # `zoo.pretrained.Source`s
    objective: str = "classification"  # how the model is trained; classifiers return logits

    @property
    def description(self) -> str:
        """First line of the factory's docstring."""
        return (self.factory.__doc__ or "").strip().split("\n")[0]


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Result of `model_info`."""

    name: str
    description: str
    input_shape: tuple[int, ...]
    num_classes: int
    parameters: int  # trainable
    total_parameters: int  # including batch norm moving statistics, as Keras counts
    source: str
    notes: str
    pretrained: tuple[str, ...]  # tags of `load_pretrained`
    options: dict[str, Any]  # fields of the module that create_model accepts, with their defaults


_ENTRIES: dict[str, ModelEntry] = {}


def register_model(
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    source: str,
    notes: str = "",
    pretrained: tuple[Any, ...] = (),
    objective: str = "classification",
) -> Callable[[Callable[[int], Any]], Callable[[int], Any]]:
    """Register the decorated factory under its own name.

    The factory takes only `num_classes` and returns a Linen module. Every field of that module is an option of
    `create_model`.

    Args:
      input_shape: of one image (height, width, channels) or one vector (length).
      num_classes: the default number of classes, or of clusters.
      source: paper, table or figure.
      notes: assumptions where the source is silent or contradicts itself.
      pretrained: published weights for this model (`zoo.pretrained.Source`).
      objective: how the model is trained, a key of `train.engine.objectives.OBJECTIVES`.

    Raises ValueError if another module already uses the name.
    """

    def decorate(factory: Callable[[int], Any]) -> Callable[[int], Any]:
        name = factory.__name__
        owner = _ENTRIES[name].module if name in _ENTRIES else builtin_modules().get(name)
        if owner not in (None, factory.__module__):
            raise ValueError(
                f"model {name!r} is already registered by {owner}: choose another name"
            )
        _ENTRIES[name] = ModelEntry(
            name,
            factory.__module__,
            factory,
            input_shape,
            num_classes,
            source,
            notes,
            pretrained,
            objective,
        )
        return factory

    return decorate


def list_models(pattern: str = "*") -> list[str]:
    """List registered names that match a shell pattern such as `"*alexnet*"`, sorted. Does not import JAX.

    This includes models that installed packages declare as entry points in the group `jax_zoo.models`.
    """
    return sorted(fnmatch.filter({*builtin_modules(), *_ENTRIES, *plugin_names("models")}, pattern))


def get_entry(name: str) -> ModelEntry:
    """Look up a registered name, or `package.module:name` for a model in the caller's own module."""
    module_name, colon, model = name.rpartition(":")
    if colon:
        _import_user_module(module_name)
        entry = _ENTRIES.get(model)
        if entry is None or entry.module != module_name:
            names = sorted(e.name for e in _ENTRIES.values() if e.module == module_name)
            raise InputError(
                f"module {module_name} registers no model {model!r}"
                f" (it registers: {', '.join(names) or 'none'}): decorate a factory of that name"
                " with @zoo.register_model"
            )
        return entry
    if name not in _ENTRIES and name in builtin_modules():
        importlib.import_module(builtin_modules()[name])
    elif name not in _ENTRIES and name in plugin_names("models"):
        found = load_plugin("models", name)
        if name not in _ENTRIES:
            raise InputError(
                f"the entry point {name!r} from another package is {found!r}, which does not register a model by that"
                " name: decorate a factory of that name with @zoo.register_model"
            )
    if name not in _ENTRIES:
        hint = did_you_mean(name, list_models(), f"see `{typed('train.run')} --list-models`")
        raise InputError(f"unknown model {name!r}: {hint}")
    return _ENTRIES[name]


def _import_user_module(name: str) -> None:
    if started_by_script():
        # As with `python -m`, modules in the working folder are found, but only after this project's packages, whose
        # folder comes first because worker processes inherit this path and an editable install is searched last.
        for folder in (str(Path(__file__).parents[1]), os.getcwd()):
            if folder not in sys.path:
                sys.path.append(folder)
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing = error.name is not None and (
            name == error.name or name.startswith(error.name + ".")
        )
        reason = (
            "no such module on the Python path; run from its folder or set PYTHONPATH"
            if missing
            else error
        )
        raise InputError(f"cannot import {name!r}, the module of the model: {reason}") from error


def create_model(name: str, num_classes: int | None = None, **options: Any) -> Any:
    """Build a Linen module.

    Args:
      name: a registered name, or `package.module:name`.
      num_classes: number of classes; None for the registered default; 0 for no head, so that the model returns
        features. For VaDE and GMVAE the number of clusters. `conv_autoencoder` has no classes and ignores it.
      options: fields of the module, for example `dropout_rate=0.2` or `dtype="bfloat16"`.

    Raises InputError for an unknown model or option, with the closest known names.
    """
    entry = get_entry(name)
    if num_classes is not None and num_classes < 0:
        raise InputError(f"num_classes is {num_classes}: use 0 (no head) or the number of classes")
    module = entry.factory(entry.num_classes if num_classes is None else num_classes)
    known = module_options(module)
    options = {RENAMED_OPTIONS.get(option, option): value for option, value in options.items()}
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options are: {', '.join(known)}"
            raise InputError(f"model {name!r} has no option {option!r}: {hint}")
    return module.clone(**options)


def module_options(module: Any) -> dict[str, Any]:
    """Fields of a Linen module that a caller may set, with their values."""
    reserved = {"name", "parent", "num_classes"}
    return {
        f.name: getattr(module, f.name)
        for f in dataclasses.fields(module)
        if f.name not in reserved
    }


def model_info(name: str) -> ModelInfo:
    """Describe a model. Parameters are counted from shapes, without initializing weights."""
    from zoo.inspect import count_parameters

    entry = get_entry(name)
    module = create_model(name)
    trainable, total = count_parameters(module, entry.input_shape)
    return ModelInfo(
        name=name,
        description=entry.description,
        input_shape=entry.input_shape,
        num_classes=entry.num_classes,
        parameters=trainable,
        total_parameters=total,
        source=entry.source,
        notes=entry.notes,
        pretrained=tuple(dict.fromkeys(source.tag for source in entry.pretrained)),
        options=module_options(module),
    )
