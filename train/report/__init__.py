"""Figures and an HTML report from the files of a run."""

import contextlib
from collections.abc import Iterator

from train.errors import exhausted
from train.record.terminal import say


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Context in which an error, other than a full disk, only causes a warning, since the results are already saved."""
    try:
        yield
    except Exception as error:
        if exhausted(error) == "disk":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"warning: {what} could not be written ({reason})")
