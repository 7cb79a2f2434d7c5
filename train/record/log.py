"""The run log: what training tells about itself, and who hears it.

The engine is handed a `RunLog`, and prints and writes nothing itself. Writers of other packages subclass it, are
declared as entry points `jax_zoo.writers`, and are asked for with `--writers NAME`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from train.recipe import Recipe, Stage
from zoo.common.names import find


@dataclasses.dataclass(frozen=True)
class RunStart:
    """Training begins, or goes on after whole `epoch`s and `step`s: what was logged after them is not valid."""

    step: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """An update is done."""

    step: int  # of the run, from 1
    epoch: int  # the one under way, from 1
    stage: str
    values: Mapping[str, float]  # loss, accuracy, learning_rate, grad_norm, ...
    place: int  # steps of the epoch so far
    steps_per_epoch: int
    steps_left: int  # of the stage, if it does not stop early


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """An epoch is trained and validated. Numbers that do not exist are NaN."""

    epoch: int
    step: int
    stage: str
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float
    data_wait_share: float
    is_best: bool
    stage_epoch: int
    stage_epochs: int  # at most


@dataclasses.dataclass(frozen=True)
class NewBest:
    """The best epoch so far, told before its `EpochRecord`."""

    stage: Stage
    variables: dict[str, Any]  # on the host
    facts: Mapping[str, Any]  # epoch, step, monitor, val_loss, ...


class RunLog:
    """What the engine tells, and a writer hears; each method does nothing until a writer overrides it.

    In this order: `run_started`; `step`s, perhaps a `new_best`, an `epoch`; at the end of each stage `stage_ended`;
    `run_ended`, also after an error. `flush` comes before each checkpoint.
    """

    def run_started(self, start: RunStart) -> None:
        """See `RunStart`."""

    def step(self, record: StepRecord) -> None:
        """See `StepRecord`."""

    def new_best(self, best: NewBest) -> None:
        """See `NewBest`."""

    def epoch(self, record: EpochRecord) -> None:
        """See `EpochRecord`."""

    def stage_ended(self, stage: str) -> None:
        """The stage of this name is over."""

    def run_ended(self) -> None:
        """No more calls: close files."""

    def flush(self) -> None:
        """Put on disk what was told so far."""

    def note(self, text: str) -> None:
        """A line for the person who watches."""

    def working(self, text: str, done: int, total: int) -> None:
        """Something other than training goes on: `done` of `total` units."""


class Writers(RunLog):
    """Several writers as one, in order."""

    def __init__(self, *writers: RunLog) -> None:
        self._writers = writers

    def run_started(self, start: RunStart) -> None:
        for writer in self._writers:
            writer.run_started(start)

    def step(self, record: StepRecord) -> None:
        for writer in self._writers:
            writer.step(record)

    def new_best(self, best: NewBest) -> None:
        for writer in self._writers:
            writer.new_best(best)

    def epoch(self, record: EpochRecord) -> None:
        for writer in self._writers:
            writer.epoch(record)

    def stage_ended(self, stage: str) -> None:
        for writer in self._writers:
            writer.stage_ended(stage)

    def run_ended(self) -> None:
        for writer in self._writers:
            writer.run_ended()

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def note(self, text: str) -> None:
        for writer in self._writers:
            writer.note(text)

    def working(self, text: str, done: int, total: int) -> None:
        for writer in self._writers:
            writer.working(text, done, total)


# Makes a writer of another package, for a run directory and the recipe that is trained there.
MakeWriter = Callable[[Path, Recipe], RunLog]


def load_writers(names: tuple[str, ...]) -> list[MakeWriter]:
    """The writers of other packages that are asked for; InputError for a name that none declares."""
    return [find("writers", name, {}, "run-log writer") for name in names]
