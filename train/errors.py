"""How a command can end besides well; `train/cli.py` turns each into one line and an exit status."""

import errno
from typing import Literal

from zoo.common.errors import InputError as InputError


class UsageError(Exception):
    """An InputError of a single flag. No ValueError: the parser of the command line would draw a box around it."""


class RunError(Exception):
    """A run failed while it was at work; the message is one line that says what to do."""


class Diverged(RunError):
    """Training diverged: the loss or a gradient became NaN or inf at `step`."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"diverged at step {step}: {what}")
        self.step = step


class Interrupted(Exception):
    """The user asked to stop; the message says what was saved and how to go on."""


def exhausted(error: Exception) -> Literal["disk", "memory"] | None:
    """What a machine ran out of, if that is why something failed.

    The one place that reads the text of errors: XLA, TensorStore and torch tell these two in no other way.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    if "No space left on device" in text:
        return "disk"
    in_words = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "can't allocate memory")
    if isinstance(error, MemoryError) or any(words in text for words in in_words):
        return "memory"
    return None
