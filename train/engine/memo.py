"""Compiled functions and shapes that runs with the same network share."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def memoized(function: Function) -> Function:
    """Cache the latest results of a function by its arguments. Results for unhashable arguments, such as a module with
    a list in a field, are not cached."""
    cached = functools.lru_cache(maxsize=16)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            hash(arguments)
        except TypeError:
            return function(*arguments)
        return cached(*arguments)

    return call  # type: ignore[return-value]
