"""Figures and an HTML report from the files of a run."""

import contextlib
from collections.abc import Iterator

from train.errors import exhausted
from train.record.terminal import say


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Context in which an error costs only a warning, since the results are saved, except a full disk."""
    try:
        yield
    except Exception as error:
        if exhausted(error) == "disk":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"warning: {what} is missing: it could not be written ({reason})")
