"""Run-log writers for MLflow and Weights & Biases: the buffer, and both trackers where they are installed.

`make parity` installs them and runs this file.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from train.errors import InputError
from train.recipe import Recipe, Stage
from train.record import trackers
from train.record.log import EpochRecord, RunStart, StepRecord, Writers

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(stages=(Stage(name="first"), Stage(name="second")))
RESULTS = {
    "split": "test",
    "model": "resnet_tiny",
    "accuracy": 0.9,
    "loss": None,
    "intervals": {"confidence": 0.95, "accuracy": [0.8, 0.95], "f1": None},
}


class Recorder(trackers.Tracker):
    """A tracker in memory."""

    name = "recorder"

    def __init__(self, directory, recipe):
        super().__init__(directory, recipe)
        self.calls = []

    def _open(self, settings):
        self.calls.append(("continue" if self._link.id else "create", settings))
        self._link.id = self._link.id or "7"

    def _send(self, values):
        self.calls.append(("send", {step: dict(row) for step, row in values.items()}))

    def _ended(self, *, complete):
        self.calls.append(("ended", complete))

    def _score(self, scores):
        self.calls.append(("score", scores))

    @classmethod
    def check(cls):
        pass


def step(writer, number):
    values = {"loss": 1 / number, "grad_norm": float("nan")}
    writer.step(StepRecord(number, 1, "first", values, number, 9, 9))


def epoch(writer, number, at):
    record = EpochRecord(
        number, at, "first", 0.5, 0.6, float("nan"), 0.8, 0.01, 1, 1, 0, True, 1, 1
    )
    writer.epoch(record)


def train(writer, steps, stages=("first", "second")):
    """Report a run with a checkpoint after each step; the best weights are tested if all stages end."""
    events = Writers(writer)
    events.run_started(RunStart(steps[0] - 1, 0))
    for number in steps:
        step(events, number)
        events.flush()
    epoch(events, steps[-1], steps[-1])
    for stage in stages:
        events.stage_ended(stage)
    events.run_ended()
    if len(stages) == 2:
        events.tested(RESULTS)


def test_values_are_sent_before_each_checkpoint(tmp_path):
    writer = Recorder(tmp_path, RECIPE)
    writer.run_started(RunStart(0, 0))
    step(writer, 1)
    step(writer, 2)
    assert len(writer.calls) == 1
    epoch(writer, 1, 2)
    writer.flush()
    row = {"epoch/number": 1, "epoch/train_loss": 0.5, "epoch/train_accuracy": 0.6}
    row |= {"epoch/val_accuracy": 0.8, "epoch/learning_rate": 0.01}
    assert writer.calls[1] == ("send", {1: {"step/loss": 1}, 2: {"step/loss": 0.5} | row})
    link = json.loads((tmp_path / "recorder.json").read_text())
    assert link == {"id": "7", "step": 2, "epoch": 1}


def test_a_resumed_run_is_continued_and_sends_no_step_twice(tmp_path):
    """Training stopped after a step was sent and before its checkpoint was complete."""
    train(Recorder(tmp_path, RECIPE), [1, 2, 3], stages=("first",))
    writer = Recorder(tmp_path, RECIPE)
    train(writer, [3, 4])
    kinds = [kind for kind, _ in writer.calls]
    assert kinds == ["continue", "send", "send", "ended", "score"]
    assert list(writer.calls[1][1]) == [4]
    (tmp_path / "recorder.json").write_text("{")
    again = Recorder(tmp_path, RECIPE)
    again.run_started(RunStart(0, 0))
    assert again.calls[0][0] == "create"  # the damaged file names no run


def test_an_epoch_whose_steps_were_sent_is_sent_later(tmp_path):
    """Training stopped during validation, which a resumed run repeats."""
    writer = Recorder(tmp_path, RECIPE)
    writer.run_started(RunStart(0, 0))
    step(writer, 1)
    writer.run_ended()
    again = Recorder(tmp_path, RECIPE)
    again.run_started(RunStart(1, 0))
    epoch(again, 1, 1)
    again.flush()
    (row,) = again.calls[-1][1].values()
    assert row["epoch/val_accuracy"] == 0.8 and "step/loss" not in row
    epoch(again, 1, 1)
    again.flush()
    assert [kind for kind, _ in again.calls] == ["continue", "send"]


def test_a_run_resumed_in_its_last_stage_is_complete(tmp_path):
    train(Recorder(tmp_path, RECIPE), [1, 2], stages=("first",))
    writer = Recorder(tmp_path, RECIPE)
    train(writer, [3], stages=("second",))
    assert writer.calls[-1] == ("ended", True)


def test_settings_and_scores_are_flat_numbers(tmp_path):
    writer = Recorder(tmp_path, RECIPE)
    train(writer, [1])
    settings = writer.calls[0][1]
    assert settings["model"] == RECIPE.model and settings["stages.1.name"] == "second"
    assert not any(isinstance(value, dict) for value in settings.values())
    assert writer.calls[-2:] == [
        ("ended", True),
        ("score", {"test/accuracy": 0.9, "test/accuracy_low": 0.8, "test/accuracy_high": 0.95}),
    ]


def test_a_run_that_stops_early_is_not_complete(tmp_path):
    writer = Recorder(tmp_path, RECIPE)
    train(writer, [1], stages=("first",))
    assert writer.calls[-1] == ("ended", False)
    never = Recorder(tmp_path / "none", RECIPE)
    never.run_ended()  # after an error before the start
    assert never.calls == []


def test_training_goes_on_without_a_tracker_that_fails(tmp_path, capsys, monkeypatch):
    """What could not be sent is sent with the next values."""
    writer = Recorder(tmp_path, RECIPE)
    writer.run_started(RunStart(0, 0))
    send = writer._send

    def fail(values):
        raise OSError("no route\nto host")

    monkeypatch.setattr(writer, "_send", fail)
    step(writer, 1)
    writer.flush()
    assert capsys.readouterr().err == "warning: logging to recorder failed (no route to host)\n"
    monkeypatch.setattr(writer, "_send", send)
    step(writer, 2)
    writer.flush()
    assert list(writer.calls[-1][1]) == [1, 2]


def test_a_tracker_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    def fail(self, settings):
        raise OSError("no route to host")

    monkeypatch.setattr(Recorder, "_open", fail)
    with pytest.raises(
        InputError, match=r"--writers recorder cannot start a run \(no route to host\)"
    ):
        Recorder(tmp_path, RECIPE).run_started(RunStart(0, 0))


def test_a_study_goes_on_without_a_tracker_that_fails(tmp_path, capsys, monkeypatch):
    """At its start, wrong settings are more likely."""
    monkeypatch.setattr(trackers, "TRACKERS", {"recorder": Recorder})

    def fail(*arguments):
        raise OSError("no route to host")

    monkeypatch.setattr(Recorder, "start_study", fail)
    with pytest.raises(InputError, match=r"recorder cannot start a run \(no route to host\)"):
        trackers.start_study(["recorder"], tmp_path)
    monkeypatch.setattr(Recorder, "start_study", lambda folder, settings: "7")
    trackers.start_study(["recorder"], tmp_path)
    assert trackers.study_folder() == tmp_path
    monkeypatch.setattr(Recorder, "end_study", fail)
    trackers.end_study(["recorder"], tmp_path, {})
    assert capsys.readouterr().err == "warning: logging to recorder failed (no route to host)\n"
    assert trackers.study_folder() is None


def test_a_study_that_stops_is_marked_and_continued(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(trackers, "TRACKERS", {"recorder": Recorder})
    for name in ("start", "continue", "stop", "end"):

        def record(*arguments, name=name):
            calls.append((name, *(arguments[1:] if name == "end" else ())))
            return "7"

        monkeypatch.setattr(Recorder, f"{name}_study", record)
    with (
        pytest.raises(KeyboardInterrupt),
        trackers.tracked_study(["recorder"], tmp_path, {}) as scores,
    ):
        scores["accuracy"] = 0.5
        raise KeyboardInterrupt
    assert trackers.writers_of_study(tmp_path) == ("recorder",)
    with trackers.tracked_study(["recorder"], tmp_path, {}) as scores:
        scores |= {"accuracy": 0.75, "macro_f1": None, "intervals": {"accuracy": (0.5, 1)}}
    sent = {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 1.0}
    assert calls == [("start",), ("stop",), ("continue",), ("end", "7", sent)]


def test_scores_on_a_published_split_are_added_to_a_complete_run(tmp_path, monkeypatch):
    added = []
    monkeypatch.setattr(trackers, "TRACKERS", {"recorder": Recorder})
    monkeypatch.setattr(Recorder, "_score", lambda self, scores: added.append(scores))
    trackers.tested_later(["recorder"], tmp_path, RECIPE, RESULTS)
    assert not added  # the run was trained without this tracker
    train(Recorder(tmp_path, RECIPE), [1])
    trackers.tested_later(["recorder"], tmp_path, RECIPE, RESULTS)
    assert len(added) == 2 and added[0] == added[1]


@pytest.mark.parametrize("writer", [trackers.MLflowWriter, trackers.WandbWriter])
def test_a_missing_package_is_one_line(monkeypatch, writer):
    """Found before the data are read."""
    monkeypatch.setitem(sys.modules, writer.name, None)
    with pytest.raises(InputError, match=rf"pip install -e '.\[{writer.name}\]'"):
        trackers.load_writers([writer.name])


def test_each_tracker_has_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert trackers.TRACKERS.keys() <= project["optional-dependencies"].keys()


# The trackers themselves, in separate processes: wandb starts a server, MLflow a database.


def installed(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    reason = f"{', '.join(missing)} not installed: `make parity` installs it"
    return pytest.mark.skipif(bool(missing), reason=reason)


def run(code, folder, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT), **variables}
    environment.pop(trackers.STUDY, None)
    code = f"from tests.train.test_trackers import *\nfrom train.record.trackers import *\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


STUDY = """
for name in ("000/seed0", "000/seed1"):
    os.makedirs(f"study/{name}")
WRITER.study = Path("study").absolute()
start_study([WRITER.name], WRITER.study, {"metric": "accuracy"})
start_study([WRITER.name], WRITER.study)  # a second worker
train(WRITER(WRITER.study / "000/seed0", RECIPE), [1, 2, 3])
train(WRITER(WRITER.study / "000/seed1", RECIPE), [1, 2], stages=("first",))
train(WRITER(WRITER.study / "000/seed1", RECIPE), [2, 3, 4])
tested_later([WRITER.name], WRITER.study / "000/seed1", RECIPE, RESULTS | {"split": "published"})
end_study([WRITER.name], WRITER.study, {}, complete=False)
STOPPED
for _ in range(2):  # also a study that was already complete
    with tracked_study([WRITER.name], WRITER.study, {}) as scores:
        scores |= {"accuracy": 0.85, "settings": [1, 2]}
os.makedirs("single")
train(WRITER(Path("single"), RECIPE), [1], stages=("first",))
"""

READ = """
from mlflow import MlflowClient
client = MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("jax-zoo").experiment_id])
found = {}
for r in runs:
    history = {k: [(m.step, m.value) for m in client.get_metric_history(r.info.run_id, k)] for k in r.data.metrics}
    found[r.info.run_name] = [r.info.run_id, r.info.status, r.data.params, r.data.tags, history]
print(json.dumps(found))
"""


@pytest.mark.slow
@installed("mlflow", "sqlalchemy", "alembic")
def test_a_study_in_a_local_mlflow_store(tmp_path):
    stopped = """
from mlflow import MlflowClient
identity = json.loads(Path("study/mlflow.json").read_text())["id"]
assert MlflowClient().get_run(identity).info.status == "KILLED"
"""
    code = STUDY.replace("WRITER", "MLflowWriter").replace("STOPPED", stopped) + READ
    out = run(code, tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    found = json.loads(out.splitlines()[-1])
    assert set(found) == {"study", "000/seed0", "000/seed1", "single"}
    study, status, params, _, scores = found["study"]
    assert (status, params["metric"], scores["accuracy"]) == ("FINISHED", "accuracy", [[0, 0.85]])
    for name, last in (("000/seed0", 3), ("000/seed1", 4)):
        _, status, params, tags, values = found[name]
        assert (status, tags["mlflow.parentRunId"]) == ("FINISHED", study)
        assert values["step/loss"] == [[i, 1 / i] for i in range(1, last + 1)]
        assert values["test/accuracy_low"] == [[last, 0.8]]
        assert params["stages.1.name"] == "second" and "step/grad_norm" not in values
    assert "published/accuracy" in found["000/seed1"][-1]
    _, status, _, tags, values = found["single"]
    assert status == "KILLED" and "mlflow.parentRunId" not in tags and "test/accuracy" not in values


@pytest.mark.slow
@installed("wandb")
def test_a_study_in_wandb_offline(tmp_path):
    read = r"""
def text(file):
    return re.sub(rb"[^ -~]+", b" ", file.read_bytes()).decode()

import re
files = {}
for folder in ("study", "study/000/seed0", "study/000/seed1", "single"):
    files[folder] = [text(f) for f in sorted(Path(folder).glob("wandb/offline-run-*/*.wandb"))]
print(json.dumps(files))
"""
    code = STUDY.replace("WRITER", "WandbWriter").replace("STOPPED", "") + read
    out = run(code, tmp_path, WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR="")
    found = json.loads(out.splitlines()[-1])
    for name, texts in found.items():
        identity = json.loads((tmp_path / name / "wandb.json").read_text())["id"]
        assert texts and all(identity in text for text in texts), name
    seed = " ".join(found["study/000/seed1"])
    assert len(found["study/000/seed1"]) == 3  # stopped, resumed and tested later, with one id
    for key in ("step/loss", "test/accuracy_low", "stages.1.name", "published/accuracy"):
        assert key in seed
    assert "test/accuracy_low" not in " ".join(found["single"])
    assert "0.85" in " ".join(found["study"])


@pytest.mark.long
@installed("mlflow", "sqlalchemy", "alembic", "wandb")
def test_runs_of_a_study_trained_as_one_program(tmp_path, command_environment):
    """The command, with both trackers: one parent, and a child with its own values for each run."""
    variables = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
    command = [
        *[sys.executable, "-m", "train.study", "codes", "--model", "vade_tiny", "--dataset"],
        *["digits", "--images-per-class", "8", "--batch-size", "32", "--stages.0.epochs", "1"],
        *["--stages.1.epochs", "1", "--vary", "lr=0.01,0.001", "--writers", "mlflow", "wandb"],
    ]
    environment = command_environment | variables
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(run(READ, tmp_path, **variables).splitlines()[-1])
    parent, status, _, _, scores = found.pop("codes")
    assert (status, scores["runs"]) == ("FINISHED", [[0, 2.0]])
    assert {"test_accuracy_low", "test_accuracy_high"} <= scores.keys()
    assert found.keys() == {"runs/000/seed0", "runs/001/seed0"}
    for name, rate in (("runs/000/seed0", "0.01"), ("runs/001/seed0", "0.001")):
        _, status, params, tags, values = found[name]
        assert (status, tags["mlflow.parentRunId"]) == ("FINISHED", parent)
        assert params["stages.1.optimizer.learning_rate"] == rate
        assert [value for _, value in values["epoch/number"]] == [1, 2]
        assert {"test/accuracy", "test/accuracy_low", "test/accuracy_high"} <= values.keys()
        files = list((tmp_path / "studies/codes" / name).glob("wandb/offline-run-*/*.wandb"))
        assert len(files) == 1 and b"test/accuracy_low" in files[0].read_bytes()
    assert len(list(tmp_path.glob("studies/codes/wandb/offline-run-*"))) == 2  # start and end
