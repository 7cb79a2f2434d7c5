"""Exceptions that end a command; `train/cli.py` turns each into a one-line message and an exit status."""

import errno
from typing import Literal

from zoo.common.errors import InputError as InputError
from zoo.common.errors import InUse as InUse


class UsageError(Exception):
    """An invalid flag value. Not a ValueError, because the command-line parser would print those in a box."""


class RunError(Exception):
    """A run failed after it had started. The message is one line that says what to do."""


class Diverged(RunError):
    """Training diverged: the loss or the gradient norm became NaN or inf at `step`."""

    def __init__(self, step: int, quantity: str, advice: str) -> None:
        super().__init__(
            f"Training diverged: the {quantity} became NaN or inf at step {step}. {advice}"
        )
        self.step = step


class Pruned(RunError):
    """A search ended a run after `epochs` epochs, because it was worse than most others."""

    def __init__(self, epochs: int) -> None:
        super().__init__(f"pruned after {epochs} epoch{'' if epochs == 1 else 's'}")


class Interrupted(Exception):
    """The user asked to stop. The message says what was saved and how to resume."""


def exhausted(error: Exception) -> Literal["disk", "memory"] | None:
    """Return the resource that ran out, if that caused the error, else None.

    This is the only function that inspects error messages: XLA, TensorStore and torch offer no other way to detect
    these two cases.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    if "No space left on device" in text:
        return "disk"
    phrases = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "can't allocate memory")
    if isinstance(error, MemoryError) or any(phrase in text for phrase in phrases):
        return "memory"
    return None
