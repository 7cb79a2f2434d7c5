"""The run log as TensorBoard events."""

import math
from pathlib import Path
from typing import Any

from train.record.log import EpochRecord, RunLog, RunStart, StepRecord

OF_AN_EPOCH = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")


class TensorBoardWriter(RunLog):
    """Scalars `step/...` and `epoch/...` over steps, below a folder. Steps are buffered until a flush, so that none is
    there that a resumed run repeats."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._board: Any = None
        self._steps: list[StepRecord] = []

    def run_started(self, start: RunStart) -> None:
        """Have later events ignored."""
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(self._directory), purge_step=start.step)

    def step(self, record: StepRecord) -> None:
        """Keep it for the next flush."""
        self._steps.append(record)

    def epoch(self, record: EpochRecord) -> None:
        """Write the epoch, after its steps."""
        self.flush()
        for name in OF_AN_EPOCH:
            value = getattr(record, name)
            if not math.isnan(value):
                self._board.add_scalar(f"epoch/{name}", value, record.step)
        self._board.flush()

    def flush(self) -> None:
        """Write the steps."""
        for record in self._steps:
            for name, value in record.values.items():
                self._board.add_scalar(f"step/{name}", value, record.step)
        self._steps = []

    def run_ended(self) -> None:
        """Close the file."""
        if self._board is not None:
            self._board.close()
