"""Parts of a model that training leaves as they are: patterns to parameters, and batch-norm that stands still.

A frozen parameter gets no gradient and no update. A batch-norm layer whose parameters are all frozen runs on its
moving statistics and does not change them, as a Keras layer with `trainable = False` does: freezing the optimiser
alone would go on moving them, and normalise by the batch.
"""

import contextlib
import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable
from typing import Any

import flax.linen as nn
import flax.traverse_util

from train.recipe import InputError

Path = tuple[str, ...]
HEAD = "head"


def frozen_paths(params: Any, patterns: Iterable[str]) -> frozenset[Path]:
    """Paths of the parameters that patterns name.

    A pattern is `backbone` (all but the head), or the path of a module or parameter, which freezes what lies
    below it: "conv1", "features.3.expand" (with dots or slashes). In a component `*` and `?` stand for characters,
    and "14:", ":14", "3:14" for the children whose numbers lie in that range, without its end: "features.:14".

    Raises InputError for a pattern that names nothing, or counts beyond the last child.
    """
    paths = sorted(flax.traverse_util.flatten_dict(dict(params)))
    frozen: set[Path] = set()
    for pattern in patterns:
        named = {path for path in paths if _matches(path, pattern)}
        if not named:
            known = {".".join(path[:depth]) for path in paths for depth in range(1, len(path))}
            known.add("backbone")
            near = difflib.get_close_matches(pattern.replace("/", "."), known, n=3, cutoff=0.5)
            parts = dict.fromkeys(path[0] for path in paths)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"it has {', '.join(parts)}, or backbone"
            )
            raise InputError(f"nothing to freeze is named {pattern!r} in this model: {hint}")
        _check_bounds(pattern, paths)
        frozen |= named
    return frozenset(frozen)


def _check_bounds(pattern: str, paths: Iterable[Path]) -> None:
    """A range that ends beyond the last child was meant for another model."""
    components = _components(pattern)
    for place, component in enumerate(components):
        bounds = re.fullmatch(r"\d*:(\d+)", component)
        above = components[:place]
        children = (p for p in paths if len(p) > place and all(map(_matches_one, p, above)))
        numbers = [int(path[place]) for path in children if path[place].isdecimal()]
        if bounds and int(bounds[1]) > max(numbers) + 1:
            raise InputError(
                f"{pattern!r} goes up to {bounds[1]}, and what it counts in this model ends at"
                f" {max(numbers) + 1}"
            )


def _components(pattern: str) -> list[str]:
    return re.split(r"[./]", pattern.strip("./"))


def _matches(path: Path, pattern: str) -> bool:
    if pattern == "backbone":
        return path[0] != HEAD
    components = _components(pattern)
    return len(components) <= len(path) and all(map(_matches_one, path, components))


def _matches_one(name: str, component: str) -> bool:
    bounds = re.fullmatch(r"(\d*):(\d*)", component)
    if bounds is None:
        return fnmatch.fnmatchcase(name, component)
    low, high = (int(bound) if bound else None for bound in bounds.groups())
    if not name.isdecimal():
        return False
    return (low is None or int(name) >= low) and (high is None or int(name) < high)


def split(params: Any, frozen: Collection[Path]) -> tuple[Any, Any]:
    """(trainable, frozen) parts of a tree of parameters; `join` is the inverse."""
    flat = flax.traverse_util.flatten_dict(dict(params))
    parts: tuple[dict, dict] = ({}, {})
    for path, leaf in flat.items():
        parts[path in frozen][path] = leaf
    return tuple(flax.traverse_util.unflatten_dict(part) for part in parts)


def join(trainable: Any, frozen: Any) -> Any:
    """The tree that `split` took apart."""
    flat = flax.traverse_util.flatten_dict(trainable) | flax.traverse_util.flatten_dict(frozen)
    return flax.traverse_util.unflatten_dict(flat)


def still_norms(params: Any, frozen: Collection[Path]) -> frozenset[Path]:
    """Paths of the modules whose own parameters are all frozen: a batch-norm among them stands still."""
    own: dict[Path, bool] = {}
    for path in flax.traverse_util.flatten_dict(dict(params)):
        own[path[:-1]] = own.get(path[:-1], True) and path in frozen
    return frozenset(module for module, all_frozen in own.items() if all_frozen)


def keep(before: Any, after: Any, modules: Collection[Path]) -> Any:
    """The tree `after`, with the leaves of these modules from `before`."""
    old = flax.traverse_util.flatten_dict(dict(before))
    new = flax.traverse_util.flatten_dict(dict(after))
    kept = {path: old[path] if path[:-1] in modules else leaf for path, leaf in new.items()}
    return flax.traverse_util.unflatten_dict(kept)


def standing_still(modules: Collection[Path]) -> contextlib.AbstractContextManager:
    """Inside, `nn.BatchNorm` layers at these paths use their moving statistics, in training, too."""

    def intercept(call, args, kwargs, context):
        module = context.module
        if (
            isinstance(module, nn.BatchNorm)
            and context.method_name == "__call__"
            and module.path in modules
        ):
            # Flax refuses to hear it twice, from the field and from the call, so the field has to change: of
            # this instance, which lives for one application.
            object.__setattr__(module, "use_running_average", True)
            return call(args[0], **{k: v for k, v in kwargs.items() if k != "use_running_average"})
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)
