"""The run log: events of a training run and the interface of their writers.

The engine reports all events to a `RunLog` and does not print or write files itself. Writers from other packages
subclass `RunLog`, are declared as entry points `jax_zoo.writers`, and are enabled by `--writers NAME`, like those of
`train.record.trackers`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from train.recipe import Recipe, Stage


@dataclasses.dataclass(frozen=True)
class RunStart:
    """Training starts, or resumes after this many epochs and steps; anything logged after them is discarded."""

    step: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """A training step is complete."""

    step: int  # of the run, from 1
    epoch: int  # of the run, from 1
    stage: str
    values: Mapping[str, float]  # loss, accuracy, learning_rate, grad_norm, ...
    epoch_step: int  # steps done in this epoch
    steps_per_epoch: int
    steps_left: int  # in this stage, without early stopping


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """An epoch is trained and validated. Missing values are NaN."""

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
    is_best: bool  # its validation score is the best so far; always False if the recipe scores the last epoch
    stage_epoch: int
    stage_epochs: int  # maximum number of epochs in the stage


@dataclasses.dataclass(frozen=True)
class NewBest:
    """The epoch is the best so far; reported before its `EpochRecord`."""

    stage: Stage
    variables: dict[str, Any]  # in host memory
    facts: Mapping[str, Any]  # epoch, step, monitor, val_loss, ...


class RunLog:
    """Base class of run-log writers; every method does nothing by default.

    Order of calls: `run_started`; in each epoch, `step` for each step, `new_best` if the epoch is the best so far, and
    `epoch`; `stage_ended` after each stage; `run_ended` at the end of training, even after an error; `tested` after a
    trained run is tested. `flush` is called before each checkpoint.
    """

    @classmethod
    def check(cls) -> None:
        """Raise InputError if the writer cannot be used, for example because a required package is missing."""

    def run_started(self, start: RunStart) -> None:
        """Training starts or resumes; see `RunStart`."""

    def step(self, record: StepRecord) -> None:
        """A step is complete; see `StepRecord`."""

    def new_best(self, best: NewBest) -> None:
        """There are new best weights; see `NewBest`."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is complete; see `EpochRecord`."""

    def stage_ended(self, stage: str) -> None:
        """The stage with this name has ended."""

    def run_ended(self) -> None:
        """Training has ended: close files. Only `tested` may follow."""

    def tested(self, results: Mapping[str, Any]) -> None:
        """The best weights are tested; `results` is the content of test.json."""

    def flush(self) -> None:
        """Write all buffered events to disk."""

    def note(self, text: str) -> None:
        """Show a line of text to the user."""

    def progress(self, text: str, done: int, total: int) -> None:
        """Report progress of work other than training: `done` of `total` units."""


class Writers(RunLog):
    """Forwards each event to several writers, in order."""

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

    def tested(self, results: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.tested(results)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def note(self, text: str) -> None:
        for writer in self._writers:
            writer.note(text)

    def progress(self, text: str, done: int, total: int) -> None:
        for writer in self._writers:
            writer.progress(text, done, total)


# Creates a writer from another package, given the run directory and the recipe.
MakeWriter = Callable[[Path, Recipe], RunLog]
