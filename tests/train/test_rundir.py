"""Files of the run directory and the writer of its logs."""

import dataclasses
import errno
import json
import math
import os

import pytest

from train.errors import InputError, InUse
from train.record.directory import SUMMARY_COLUMNS, RunDir, write_json, write_text
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


TORN = {
    "row": b"4,8,train,0.3",
    "row without its end": b"4,8,train,0.3,0.5,0.3,0.25,0.001,1.5,10.25",
    "another program": b"date;loss\n",
    "zeros": bytes(64),
    "bytes": b"\xff\xfe\xe9,\n",
    "open quote": b'4,8,"train',
    "long": b"x" * 200_000 + b"\n",
    "an epoch again": b"1,2,train,0.3,0.5,0.3,0.25,0.001,1.5,10.25,0.0,1\r\n",
    "json": b'{"step": 8}\n{"step": "9"}\n[8]\n{"step": 3.5}\n{"step": true}\n',
}


@pytest.mark.parametrize("end", TORN.values(), ids=list(TORN))
def test_ends_that_are_not_rows_are_dropped(tmp_path, end):
    """As a full disk, a loss of power or another program may leave them."""
    run = written(tmp_path)
    lines, rows = lines_of(run), run.read_summary()
    for path in (run.metrics, run.summary):
        path.write_bytes(path.read_bytes() + end)
    assert run.read_summary() == rows
    FileWriter(run).run_started(RunStart(7, 3))
    assert lines_of(run) == lines
    assert run.read_summary() == rows
    assert end not in run.summary.read_bytes() + run.metrics.read_bytes()


@pytest.mark.parametrize("length", [0, 1, 9, len(",".join(SUMMARY_COLUMNS)) + 2, 250])
def test_a_summary_cut_anywhere_is_read(tmp_path, length):
    run = written(tmp_path)
    rows = run.read_summary()
    run.summary.write_bytes(run.summary.read_bytes()[:length])
    assert run.read_summary() == rows[: int(length == 250)]
    writer = FileWriter(run)
    writer.run_started(RunStart(0, 0))
    writer.epoch(epoch(1))
    assert run.read_summary() == rows[:1]


# The folder and its lock.


def names(path):
    return sorted(p.name for p in path.iterdir())


@pytest.mark.parametrize(
    ("left", "accepted"),
    [
        ([], True),
        ([".lock"], True),
        ([".lock", "start.json", ".splits.json.1f2e3d4c.part"], True),
        ([".lock", "start.json", "splits.json", "env.json", "bad_images.txt", "leaks.csv"], True),
        (["splits.json"], False),  # the user's own
        ([".lock", "thesis.tex"], False),
        (["movie.part"], False),
        ([".lock", "checkpoints"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_folder_in_which_a_run_was_about_to_begin_is_used_again(tmp_path, left, accepted):
    """The disk may have been full before config.json was written."""
    for name in left:
        (tmp_path / name).write_text("")
    if accepted:
        with RunDir(tmp_path).locked():
            assert names(tmp_path) == sorted({*left, ".lock"} - {".splits.json.1f2e3d4c.part"})
    else:
        with pytest.raises(InputError, match="contains other files but no run"):
            RunDir(tmp_path).locked().__enter__()
        assert names(tmp_path) == sorted(left)


def test_a_run_that_fails_before_it_begins_leaves_nothing(tmp_path):
    for path in (tmp_path / "a" / "b" / "run", tmp_path):
        with pytest.raises(InputError, match="no such model"), RunDir(path).locked():
            raise InputError("no such model")
        assert tmp_path.is_dir()
        assert names(tmp_path) == []


def test_an_unfinished_file_of_a_killed_process_is_removed(tmp_path):
    run = RunDir(tmp_path)
    write_json(run.config, {})
    left = [run.path / ".test.json.0a1b2c3d.part", run.best / ".weights.0a1b2c3d.part"]
    run.best.mkdir()
    for path in left:
        path.write_text("{")
    with run.locked():
        assert not any(path.exists() for path in left)


def test_one_of_two_processes_gets_the_folder_and_the_other_changes_nothing(tmp_path):
    run = RunDir(tmp_path / "run")
    with run.locked():
        with pytest.raises(InUse, match="another process is training in"):
            RunDir(run.path).locked().__enter__()
        assert names(run.path) == [".lock"]
        with pytest.raises(FileExistsError):  # a name of the same second
            RunDir(run.path).locked(new=True).__enter__()


@pytest.mark.parametrize(
    "number",
    [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO],
    ids=lambda number: errno.errorcode[number],
)
def test_without_locks_there_is_a_note(tmp_path, monkeypatch, number):
    """On network file systems, for example."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    fcntl = pytest.importorskip("fcntl")  # not on Windows
    monkeypatch.setattr(fcntl, "flock", flock)
    notes = []
    with RunDir(tmp_path / "run").locked(warn=notes.append):
        pass
    assert notes == [
        f"note: {tmp_path / 'run'} is not locked ({os.strerror(number)}): do not start a second command on it while"
        " this one runs"
    ]


@pytest.mark.parametrize("folder", ["file/run", "\udce9"], ids=["below a file", "not UTF-8"])
def test_a_folder_that_cannot_be_written(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="use another folder"):
        RunDir(tmp_path / folder).locked().__enter__()
    assert names(tmp_path) == ["file"]


def test_names_that_are_not_utf_8_are_kept_in_json_and_replaced_in_text(tmp_path):
    write_json(tmp_path / "a.json", {"path": "caf\udce9.jpg"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"path": "caf\udce9.jpg"}
    write_text(tmp_path / "a.txt", "caf\udce9.jpg")
    assert (tmp_path / "a.txt").read_text("utf-8") == "caf\ufffd.jpg"


def test_starting_a_new_run_creates_no_logs(tmp_path):
    run = RunDir(tmp_path)
    FileWriter(run).run_started(RunStart(0, 0))
    assert list(tmp_path.iterdir()) == []
    assert run.read_summary() == []
