"""Run-log writer for TensorBoard."""

import math
from pathlib import Path
from typing import Any

from train.record.log import EpochRecord, RunLog, RunStart, StepRecord

EPOCH_SCALARS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")


class TensorBoardWriter(RunLog):
    """Writes scalars `step/...` and `epoch/...` over steps to a folder.

    Steps are buffered until a flush, so that a resumed run never writes a step twice.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._board: Any = None
        self._steps: list[StepRecord] = []

    def run_started(self, start: RunStart) -> None:
        """Open the file. TensorBoard ignores older events after `start.step`."""
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(self._directory), purge_step=start.step)

    def step(self, record: StepRecord) -> None:
        """Buffer the step until the next flush."""
        self._steps.append(record)

    def epoch(self, record: EpochRecord) -> None:
        """Flush the steps and write the epoch."""
        self.flush()
        for name in EPOCH_SCALARS:
            value = getattr(record, name)
            if not math.isnan(value):
                self._board.add_scalar(f"epoch/{name}", value, record.step)
        self._board.flush()

    def flush(self) -> None:
        """Write the buffered steps."""
        for record in self._steps:
            for name, value in record.values.items():
                self._board.add_scalar(f"step/{name}", value, record.step)
        self._steps = []

    def run_ended(self) -> None:
        """Close the file."""
        if self._board is not None:
            self._board.close()
