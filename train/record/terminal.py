"""Terminal output: messages, progress lines, durations, and the run-log writer.

Everything goes to stderr, so that stdout contains only results. Imports only the standard library until a live progress
line is drawn.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

from train.record.log import EpochRecord, RunLog, StepRecord
from train.stopping import check

Item = TypeVar("Item")


def say(text: str) -> None:
    """Print a line for the user, on stderr."""
    print(text, file=sys.stderr, flush=True)


def count(number: int, noun: str) -> str:
    """Format a number with a noun: "1 epoch", "2 epochs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Rate:
    """Estimates the time left from the units done since it was created."""

    # Units reported within this time are not measured: prefetched batches, or all steps of one compiled loop.
    BURST_SECONDS = 0.05
    MIN_SECONDS = 1.0

    def __init__(self, done: int) -> None:
        self._done, self._time = done, time.monotonic()

    def time_left(self, done: int, units_left: int) -> str:
        """Format the time for `units_left` more units: "40 s left"; empty if it cannot be estimated yet."""
        elapsed = time.monotonic() - self._time
        if elapsed < self.BURST_SECONDS:
            self._done = done
        if elapsed < self.MIN_SECONDS or done <= self._done:
            return ""
        return f"{duration(units_left * elapsed / (done - self._done))} left"


class Progress:
    """Progress with the estimated time left: a live line on a terminal, elsewhere a plain line every 30 seconds."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._live = self._stream.isatty()
        self._last_line = time.monotonic()

    def start(self, text: str, total: int, done: int = 0) -> None:
        """Start a task of `total` units. Like `update`, raises KeyboardInterrupt if the command is to stop."""
        self.stop()
        check()
        self._text, self._total = text, total
        self._rate = Rate(done)
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self._stream),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(text, total=total, completed=done, note="")

    def update(self, done: int, note: str = "", time_left: str | None = None) -> None:
        """Report `done` units. `time_left` replaces the estimate for the rest of this task."""
        check()
        if time_left is None:
            time_left = self._rate.time_left(done, self._total - done)
        note = f"{note}  {time_left}".strip()
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif now - self._last_line >= 30:
            self._last_line = now
            print(f"{self._text} {done}/{self._total}  {note}", file=self._stream, flush=True)

    def follow(
        self, items: Iterable[Item], text: str, total: int, weight: int = 1
    ) -> Iterator[Item]:
        """Yield the items and report progress: each item counts as `weight` units."""
        self.start(text, total)
        for number, item in enumerate(items):
            self.update(min(number * weight, total))
            yield item
        self.stop()

    def stop(self) -> None:
        """Remove the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def progress_callback(progress: Progress) -> Callable[[str, int, int], None]:
    """Return a function `(text, done, total)` that updates a progress line."""
    current: list[str] = []

    def report(text: str, done: int, total: int) -> None:
        if current != [text]:
            current[:] = [text]
            progress.start(text, total, done)
        progress.update(done)

    return report


def duration(seconds: float) -> str:
    """Format seconds as "42 s", "3:05" or "1:02:03"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def interval_text(interval: Sequence[float] | None) -> str:
    """Format the 95% interval of a fraction in percent: "90.2 to 95.4"; an empty string for None."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else ""


def score_text(scores: Mapping[str, Any], name: str) -> str:
    """Format a score of a test.json with its 95% interval: "92.00% (95%: 90.2 to 95.4)"."""
    interval = interval_text(scores.get("intervals", {}).get(name))  # version 0.1 wrote none
    return f"{scores[name]:.2%}" + (f" (95%: {interval})" if interval else "")


def intervals_note(scores: Mapping[str, Any]) -> str:
    """Describe what the intervals in a test.json cover; an empty string if it has none."""
    intervals = scores.get("intervals")
    if not intervals:
        return ""
    images = "images" if scores["split"] == "all" else f"{scores['split']} images"
    over = images if intervals["over"] == "images" else f"{intervals['units']} groups of {images}"
    none = "" if intervals["f1"] else "; none for macro-F1, which is equal in all resamples"
    return f"95% intervals over the {over} only, from one seed{none}"


class TerminalWriter(RunLog):
    """Prints a line per epoch, and progress in between."""

    def __init__(self, num_stages: int) -> None:
        self._num_stages = num_stages
        self._progress = Progress()
        self._task: object = None  # epoch or text of the current progress line
        self._stage: str | None = None

    def step(self, record: StepRecord) -> None:
        """Update the progress line."""
        if self._stage != record.stage:
            # Measured over all epochs of the stage, so that validation counts and a new epoch does not start at zero.
            self._stage, self._rate = record.stage, Rate(record.step)
        if self._task != record.epoch:
            self._task = record.epoch
            self._progress.start(f"epoch {record.epoch}", record.steps_per_epoch, record.epoch_step)
        note = f"loss {record.values['loss']:.4f}"
        time_left = self._rate.time_left(record.step, record.steps_left)
        self._progress.update(record.epoch_step, note, time_left)

    def epoch(self, record: EpochRecord) -> None:
        """Print losses, accuracies, learning rate and speed."""
        self._stop()
        where = f"{record.stage}, " if self._num_stages > 1 else ""
        say(
            f"{where}epoch {record.stage_epoch}/{record.stage_epochs}"
            f"  train loss {record.train_loss:.4f}{_accuracy(record.train_accuracy)}"
            f"  val loss {record.val_loss:.4f}{_accuracy(record.val_accuracy)}"
            f"  lr {record.learning_rate:.2g}  {record.images_per_second:.0f} images/s"
            f"  {duration(record.seconds)}{'  *' if record.is_best else ''}"
        )

    def progress(self, text: str, done: int, total: int) -> None:
        """Update the progress line."""
        if self._task != text:
            self._task = text
            self._progress.start(text, total, done)
        self._progress.update(done)

    def note(self, text: str) -> None:
        """Print the text."""
        self._stop()
        say(text)

    def run_ended(self) -> None:
        """Remove the progress line."""
        self._stop()

    def _stop(self) -> None:
        self._progress.stop()
        self._task = None


def _accuracy(value: float) -> str:
    return "" if math.isnan(value) else f" acc {value:.2%}"
