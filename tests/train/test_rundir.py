"""Files of the run directory and the writer of its logs."""

import dataclasses
import json
import math

import pytest

from train.record.directory import SUMMARY_COLUMNS, RunDir, write_json
from train.record.files import FileWriter
from train.record.log import EpochRecord, RunStart, StepRecord


def test_write_json_writes_lists_of_numbers_on_one_line(tmp_path):
    data = {
        "losses": [0.5, 1e-07, -3, None],
        "matrix": [[1, 2], [3, 4]],
        "empty": [],
        "mixed": [1, "two"],
        "text": "[\n  1,\n  2\n]",
        "flags": [True, False],
    }
    write_json(tmp_path / "data.json", data)
    text = (tmp_path / "data.json").read_text()
    assert json.loads(text) == data
    assert '"losses": [0.5, 1e-07, -3, null]' in text
    assert "    [1, 2],\n    [3, 4]\n" in text


def test_write_json_rejects_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "data.json", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "data.json", [float("nan")])
    assert json.loads((tmp_path / "data.json").read_text()) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def step(number):
    values = {"loss": 1 / number, "accuracy": 0.5, "grad_norm": 0.1 + 0.2}
    return StepRecord(number, (number + 1) // 2, "train", values, 1, 2, 9)


def epoch(number, **changes):
    """An epoch of two steps; every third epoch is the best."""
    record = EpochRecord(
        epoch=number,
        step=2 * number,
        stage="train",
        train_loss=1 / 3,
        train_accuracy=0.5,
        val_loss=0.1 + 0.2,
        val_accuracy=0.25,
        learning_rate=1e-3,
        seconds=1.5,
        images_per_second=10.25,
        data_wait_share=0.0,
        is_best=number % 3 == 1,
        stage_epoch=number,
        stage_epochs=9,
    )
    return dataclasses.replace(record, **changes)


def written(directory, epochs=3, extra_steps=1):
    """Write the logs of `epochs` epochs and `extra_steps` more steps to a run directory."""
    run = RunDir(directory)
    writer = FileWriter(run)
    writer.run_started(RunStart(0, 0))
    for number in range(1, epochs + 1):
        writer.step(step(2 * number - 1))
        writer.step(step(2 * number))
        writer.epoch(epoch(number))
    for number in range(extra_steps):
        writer.step(step(2 * epochs + number + 1))
    writer.flush()
    return run


def lines_of(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_steps_and_epochs_are_logged_at_full_precision(tmp_path):
    run = written(tmp_path)
    assert lines_of(run) == [
        {"step": n, "epoch": (n + 1) // 2, "stage": "train", **step(n).values} for n in range(1, 8)
    ]
    expected = [dataclasses.asdict(epoch(n)) for n in (1, 2, 3)]
    assert run.read_summary() == [{c: row[c] for c in SUMMARY_COLUMNS} for row in expected]
    assert run.summary.read_text().splitlines()[0] == ",".join(SUMMARY_COLUMNS)
    assert [row["is_best"] for row in run.read_summary()] == [1, 0, 0]


def test_steps_are_buffered_until_an_epoch_or_a_checkpoint(tmp_path):
    """So that a resumed run never writes a line twice."""
    run = RunDir(tmp_path)
    writer = FileWriter(run)
    writer.run_started(RunStart(0, 0))
    writer.step(step(1))
    assert not run.metrics.exists()
    writer.flush()
    assert [line["step"] for line in lines_of(run)] == [1]
    writer.step(step(2))
    writer.epoch(epoch(1))
    writer.flush()
    assert [line["step"] for line in lines_of(run)] == [1, 2]


def test_nan_is_null_in_json_and_nan_in_csv(tmp_path):
    run = RunDir(tmp_path)
    writer = FileWriter(run)
    bad = {"loss": math.nan, "grad_norm": math.inf, "learning_rate": 1.0}
    writer.step(dataclasses.replace(step(1), values=bad))
    writer.epoch(epoch(1, train_accuracy=math.nan))
    (line,) = lines_of(run)
    assert (line["loss"], line["grad_norm"], line["learning_rate"]) == (None, None, 1.0)
    assert math.isnan(run.read_summary()[0]["train_accuracy"])


@pytest.mark.parametrize(
    ("start", "steps", "epochs"),
    [
        (RunStart(0, 0), 0, 0),  # no checkpoint: training starts over
        (RunStart(3, 1), 3, 1),
        (RunStart(4, 2), 4, 2),
        (RunStart(7, 3), 7, 3),
    ],
)
def test_logs_are_truncated_to_the_checkpoint(tmp_path, start, steps, epochs):
    run = written(tmp_path)
    lines, rows = lines_of(run), run.read_summary()
    writer = FileWriter(run)
    writer.run_started(start)
    assert lines_of(run) == lines[:steps]
    assert run.read_summary() == rows[:epochs]
    # Later steps and epochs are appended, without a second header.
    writer.step(step(steps + 1))
    writer.epoch(epoch(epochs + 1))
    assert [line["step"] for line in lines_of(run)] == list(range(1, steps + 2))
    assert [row["epoch"] for row in run.read_summary()] == list(range(1, epochs + 2))
    assert run.summary.read_text().count("epoch,step") == 1


def test_a_truncated_line_is_dropped(tmp_path):
    run = written(tmp_path)
    with open(run.metrics, "a") as file:
        file.write('{"step": 5, "loss": 0.')
    FileWriter(run).run_started(RunStart(7, 3))
    assert [line["step"] for line in lines_of(run)] == list(range(1, 8))


def test_starting_a_new_run_creates_no_logs(tmp_path):
    run = RunDir(tmp_path)
    FileWriter(run).run_started(RunStart(0, 0))
    assert list(tmp_path.iterdir()) == []
    assert run.read_summary() == []
