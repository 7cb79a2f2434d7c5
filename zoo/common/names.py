"""Finding things by name: hints at near names, and what other packages offer through entry points.

That is models, data sets, objectives, optimizers and run-log writers. A package declares them in its `pyproject.toml`:

    [project.entry-points."jax_zoo.models"]
    my_net = "my_package.nets:my_net"

Names that the project has itself win. Nothing is imported before it is asked for by name.
"""

import difflib
import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from zoo.common.errors import InputError

Group = Literal["models", "datasets", "objectives", "optimizers", "writers"]


def did_you_mean(name: str, known: Iterable[str], otherwise: str, *, cutoff: float = 0.5) -> str:
    """A hint at the nearest known names, or `otherwise` where none is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


@functools.cache
def _entry_points(group: Group) -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=f"jax_zoo.{group}")
    return {point.name: point for point in found}


def plugin_names(group: Group) -> list[str]:
    """Names that installed packages declare, sorted."""
    return sorted(_entry_points(group))


def load_plugin(group: Group, name: str) -> Any:
    """The object behind a name of `plugin_names`; InputError when its package cannot be imported."""
    point = _entry_points(group)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{name!r} is declared by another package as {point.value}, which cannot be imported ({error}):"
            " repair or uninstall that package"
        ) from error


def find(group: Group, name: str, ours: Mapping[str, Any], what: str) -> Any:
    """The object of a name, the project's (`ours`) or another package's; InputError names the nearest ones."""
    if name in ours:
        return ours[name]
    others = plugin_names(group)
    if name in others:
        return load_plugin(group, name)
    known = [*ours, *others]
    there = f"known are {', '.join(known)}" if known else "no installed package declares one"
    hint = did_you_mean(name, known, there)
    raise InputError(f"unknown {what} {name!r}: {hint}")
