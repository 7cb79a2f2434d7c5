"""Freezing parameters by pattern, and running frozen batch-norm layers in inference mode.

A frozen parameter gets no gradient and no update. A batch-norm layer whose parameters are all frozen normalizes by its
moving statistics and does not update them, like a Keras layer with `trainable = False`. If only the optimizer skipped
its parameters, it would still normalize by the batch and update its statistics.
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
    """Find the paths of the parameters that match any of these patterns.

    A pattern is `backbone` (everything but the head), or the path of a module or parameter, with dots or slashes, which
    includes everything below it: "conv1", "features.3.expand". In a component, `*` and `?` are wildcards, and "14:",
    ":14" and "3:14" select children by number, excluding the end: "features.:14".

    Raises InputError for a pattern without a match, or a range that ends beyond the last child.
    """
    paths = sorted(flax.traverse_util.flatten_dict(dict(params)))
    frozen: set[Path] = set()
    for pattern in patterns:
        matches = {path for path in paths if _matches(path, pattern)}
        if not matches:
            known = {".".join(path[:depth]) for path in paths for depth in range(1, len(path))}
            known.add("backbone")
            near = difflib.get_close_matches(pattern.replace("/", "."), known, n=3, cutoff=0.5)
            modules = dict.fromkeys(path[0] for path in paths)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"use {', '.join(modules)} or backbone"
            )
            raise InputError(f"no parameter of this model matches {pattern!r}: {hint}")
        _check_bounds(pattern, paths)
        frozen |= matches
    return frozenset(frozen)


def _check_bounds(pattern: str, paths: Iterable[Path]) -> None:
    """Raise InputError for a range that ends beyond the last child, which must be meant for another model."""
    components = _components(pattern)
    for depth, component in enumerate(components):
        bounds = re.fullmatch(r"\d*:(\d+)", component)
        above = components[:depth]
        children = (p for p in paths if len(p) > depth and all(map(_matches_one, p, above)))
        numbers = [int(path[depth]) for path in children if path[depth].isdecimal()]
        if bounds and int(bounds[1]) > max(numbers) + 1:
            raise InputError(
                f"the range in {pattern!r} ends at {bounds[1]}, beyond the last layer of this model:"
                f" use at most {max(numbers) + 1}"
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
    """Split a tree of parameters into (trainable, frozen); `join` is the inverse."""
    flat = flax.traverse_util.flatten_dict(dict(params))
    trees: tuple[dict, dict] = ({}, {})
    for path, leaf in flat.items():
        trees[path in frozen][path] = leaf
    return tuple(flax.traverse_util.unflatten_dict(tree) for tree in trees)


def join(trainable: Any, frozen: Any) -> Any:
    """Merge the two trees that `split` returns."""
    flat = flax.traverse_util.flatten_dict(trainable) | flax.traverse_util.flatten_dict(frozen)
    return flax.traverse_util.unflatten_dict(flat)


def fully_frozen_modules(params: Any, frozen: Collection[Path]) -> frozenset[Path]:
    """Find the paths of the modules whose own parameters are all frozen."""
    own: dict[Path, bool] = {}
    for path in flax.traverse_util.flatten_dict(dict(params)):
        own[path[:-1]] = own.get(path[:-1], True) and path in frozen
    return frozenset(module for module, all_frozen in own.items() if all_frozen)


def keep_modules(before: Any, after: Any, modules: Collection[Path]) -> Any:
    """Return the tree `after`, with the leaves of these modules taken from `before`."""
    old = flax.traverse_util.flatten_dict(dict(before))
    new = flax.traverse_util.flatten_dict(dict(after))
    kept = {path: old[path] if path[:-1] in modules else leaf for path, leaf in new.items()}
    return flax.traverse_util.unflatten_dict(kept)


def batch_norm_in_inference_mode(
    modules: Collection[Path],
) -> contextlib.AbstractContextManager:
    """Context in which `nn.BatchNorm` layers at these paths use their moving statistics, even in training."""

    def intercept(call, args, kwargs, context):
        module = context.module
        if (
            isinstance(module, nn.BatchNorm)
            and context.method_name == "__call__"
            and module.path in modules
        ):
            # Flax rejects the option if both the field and the call set it. So set the field of this instance, which
            # lives for one application only.
            object.__setattr__(module, "use_running_average", True)
            return call(args[0], **{k: v for k, v in kwargs.items() if k != "use_running_average"})
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)
