"""Run-log writer for TensorBoard."""

import math
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from train.record.log import EpochRecord, RunLog, RunStart, StepRecord

EPOCH_SCALARS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")


class TensorBoardWriter(RunLog):
    """Writes scalars `step/...` and `epoch/...` over steps to a folder.

    Steps are buffered until a flush, so that a resumed run never writes a step twice.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None
        self._steps: list[StepRecord] = []

    def run_started(self, start: RunStart) -> None:
        """Open the file. TensorBoard ignores older events after `start.step`."""
        # Not SummaryWriter, whose thread and exit handler print tracebacks on a full disk, and which then blocks; nor
        # EventsWriter, whose flush waits for the disk after every epoch.
        from tensorboardX.proto.event_pb2 import SessionLog

        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = open(self._directory / name, "wb")  # noqa: SIM115  closed by `run_ended`
        self._write(0, file_version="brain.Event:2")
        self._write(start.step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        event = Event(wall_time=time.time(), step=step, **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        assert self._file is not None
        checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, event))
        self._file.write(length + next(checksums) + event + next(checksums))

    def _write_scalars(self, kind: str, values: Mapping[str, float], step: int) -> None:
        # One event for all of them: an event for each takes several times as long as a step of a small net.
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in values.items()
        ]
        self._write(step, summary=Summary(value=scalars))

    def step(self, record: StepRecord) -> None:
        """Buffer the step until the next flush."""
        self._steps.append(record)

    def epoch(self, record: EpochRecord) -> None:
        """Flush the steps and write the epoch."""
        self.flush()
        values = {name: getattr(record, name) for name in EPOCH_SCALARS}
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        self._write_scalars("epoch", known, record.step)
        assert self._file is not None
        self._file.flush()

    def flush(self) -> None:
        """Write the buffered steps."""
        for record in self._steps:
            self._write_scalars("step", record.values, record.step)
        self._steps = []

    def run_ended(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
