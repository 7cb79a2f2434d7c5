"""Lookup by name: suggestions for misspelled names, and plugins from other packages through entry points.

Plugins are models, data sets, objectives, optimizers and run-log writers. A package declares them in its
`pyproject.toml`:

    [project.entry-points."jax_zoo.models"]
    my_net = "my_package.nets:my_net"

Built-in names take precedence. A plugin is imported only when it is requested by name.
"""

import difflib
import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from zoo.common.errors import InputError

Group = Literal["models", "datasets", "objectives", "optimizers", "writers"]


def did_you_mean(name: str, known: Iterable[str], fallback: str, *, cutoff: float = 0.5) -> str:
    """Suggest the closest known names, or return `fallback` if none is close."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else fallback


@functools.cache
def _entry_points(group: Group) -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=f"jax_zoo.{group}")
    return {point.name: point for point in found}


def plugin_names(group: Group) -> list[str]:
    """List the names that installed packages declare, sorted."""
    return sorted(_entry_points(group))


def load_plugin(group: Group, name: str) -> Any:
    """Import the object that a name of `plugin_names` refers to. Raises InputError if the import fails."""
    point = _entry_points(group)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{name!r} is declared by another package as {point.value}, which cannot be imported ({error}):"
            " repair or uninstall that package"
        ) from error


def find(group: Group, name: str, builtin: Mapping[str, Any], kind: str) -> Any:
    """Look up a built-in object or a plugin by name.

    Raises InputError for an unknown name, with the closest known names; `kind` is the noun used in the message.
    """
    if name in builtin:
        return builtin[name]
    plugins = plugin_names(group)
    if name in plugins:
        return load_plugin(group, name)
    known = [*builtin, *plugins]
    fallback = f"choose from {', '.join(known)}" if known else "no installed package declares one"
    hint = did_you_mean(name, known, fallback)
    raise InputError(f"unknown {kind} {name!r}: {hint}")
