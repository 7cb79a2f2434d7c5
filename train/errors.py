"""How a command can end besides well; `train/cli.py` turns each into one line and an exit status."""

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
