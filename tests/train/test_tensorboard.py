"""The event file of TensorBoard: records of length, event and checksums."""

import struct

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from train.record.log import RunStart, StepRecord
from train.record.tensorboard import TensorBoardWriter


def events_of(content):
    """Parse an event file; all checksums must match."""
    while content:
        length, checksum = struct.unpack("<QI", content[:12])
        assert checksum == masked_crc32c(content[:8])
        event, content = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", content[:4]) == (masked_crc32c(event),)
        content = content[4:]
        yield Event.FromString(event)


def test_steps_are_written_after_the_header_and_the_start(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.run_started(RunStart(step=6, epoch=2))
    writer.step(StepRecord(7, 3, "stage", {"loss": 1.5, "accuracy": 0.25}, 1, 3, 2))
    writer.flush()
    writer.run_ended()
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("events.out.tfevents.")
    header, start, step = events_of(file.read_bytes())
    assert header.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (6, start.session_log.START)
    values = {value.tag: value.simple_value for value in step.summary.value}
    assert (step.step, values) == (7, {"step/loss": 1.5, "step/accuracy": 0.25})
