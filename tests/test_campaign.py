"""The fault campaign: its trials, what it detects, and a small run of it."""

import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.campaign import __main__ as campaign
from tests.campaign import results
from tests.campaign.processes import Command, Ended
from tests.campaign.world import VARIANTS, Plain, Reference, World


def test_a_round_has_200_tries_and_ten_of_each_command():
    tries = campaign.chosen(campaign.Arguments(seed=3))
    assert tries == campaign.chosen(campaign.Arguments(seed=3))
    assert tries != campaign.chosen(campaign.Arguments(seed=4))
    assert len(tries) >= 200 and len({t.number for t in tries}) == len(tries)
    of_command = Counter(t.command for t in tries)
    assert min(of_command.values()) >= 10
    training = {(t.fault, t.variant) for t in tries if t.command == "train.run"}
    assert training == set(itertools.product(campaign.TRAINING_FAULTS, VARIANTS))
    assert all(set(campaign.SIGNALS) <= set(faults) for faults in campaign.COMMANDS.values())


def test_every_command_is_disturbed():
    """Those of the documentation; `train.data` by its subcommands."""
    pages = {path.stem for path in (campaign.ROOT / "docs" / "commands").glob("*.*.md")}
    assert {name.partition(" ")[0] for name in campaign.COMMANDS} | {"train.run"} == pages
    assert set(campaign.COMMANDS) == set(
        World.plain.func(type("", (), {"data": "pets", "root": Path()}))
    )


def write_run(path, weights=b"1", part=False):
    """What the campaign reads of a finished run directory."""
    (path / "best").mkdir(parents=True, exist_ok=True)
    (path / "checkpoints" / "30").mkdir(parents=True, exist_ok=True)
    (path / "best" / "weights.safetensors").write_bytes(weights)
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (path / "summary.csv").write_text("epoch,val_loss,seconds\n1,0.5,3.1\n")
    (path / "test.json").write_text('{"accuracy": 0.5, "test_time_ms": 1.5}')
    np.savez(path / "predictions.npz", predictions=np.arange(3))
    (path / "splits.json").write_text('{"splits": {"train": ["a"]}}')
    (path / "config.json").write_text('{"recipe": {"seed": 0}}')
    (path / "report.html").write_text("")
    if part:
        (path / ".test.json.1a2b3c4d.part").touch()


RESUMED = "resuming after epoch 3, step 30\n"
STOPPED = Ended(130, "", "interrupted", 3.0, 0.5)


@pytest.mark.parametrize(
    ("stopped", "again", "leaves", "categories"),
    [
        (STOPPED, Ended(0, "", RESUMED, 1.0), {}, []),
        (STOPPED, Ended(0, "", RESUMED, 1.0), {"weights": b"2"}, ["wrong record"]),
        (STOPPED, Ended(0, "", RESUMED, 1.0), {"part": True}, ["wrong record"]),
        (STOPPED, Ended(0, "", "", 1.0), {}, ["lost"]),  # started over
        (STOPPED, Ended(0, "", RESUMED.replace("30", "20"), 1.0), {}, ["lost"]),
        (STOPPED, Ended(1, "", "error: no", 1.0), {}, ["wrong status", "lost"]),
        (STOPPED, Ended(None, "", RESUMED, 1.0), {}, ["lost", "lost"]),
        (Ended(130, "", "interrupted", 20.0, 15.0), Ended(0, "", RESUMED, 1.0), {}, ["wrong status"]),
        (Ended(-15, "", "", 1.0, 0.1), Ended(0, "", RESUMED, 1.0), {}, ["wrong status"]),
        (
            Ended(130, "", "Traceback (most recent call last):\n  x", 1.0),
            Ended(0, "", RESUMED + "Exception ignored in: x", 1.0),
            {},
            ["traceback", "traceback"],
        ),
    ],
)  # fmt: skip
def test_what_an_interrupted_run_loses_is_found(
    stopped, again, leaves, categories, tmp_path, monkeypatch
):
    world = FakeWorld(tmp_path)
    write_run(tmp_path / "undisturbed")

    class Stopped:
        def __init__(self, command, cwd, *, cold):
            write_run(cwd / "run")

        def send_after(self, moment, number):
            assert 0 <= moment < 10 and number == signal.SIGTERM

        def wait(self):
            return stopped

        def leftovers(self):
            return []

    def finish(command, cwd):
        write_run(cwd / "run", **leaves)
        return again

    monkeypatch.setattr(campaign, "Process", Stopped)
    monkeypatch.setattr(campaign, "run", finish)
    attempt = campaign.Try(0, "train.run", "term", "resident")
    found = campaign.Disturbance(world, attempt, seed=0).run()
    assert [category for category, _ in found] == categories, found


class FakeWorld:
    def __init__(self, root):
        self.root = root

    def folder(self, number):
        (self.root / "try").mkdir()
        return self.root / "try"

    def remove(self, folder):
        pass

    def reference(self, command, variant):
        return Reference(3.0, results.of_run(self.root / "undisturbed"))

    def train(self, variant, workdir):
        return Command("train.run")


@pytest.mark.parametrize(
    ("status", "content", "category"),
    [
        (130, "[]", None),
        (130, None, None),  # not written yet
        (130, "[1", "wrong record"),  # torn
        (130, "[true]", "wrong record"),
        (0, "[true]", "wrong record"),
    ],
)
def test_a_torn_or_wrong_output_is_found(status, content, category, tmp_path):
    found = campaign.Disturbance(FakeWorld(tmp_path), campaign.Try(0, "x", "term"), 0)
    plain = Plain(Command("x"), lambda cwd: json.loads((cwd / "x.json").read_text()))
    if content is not None:
        (found.folder / "x.json").write_text(content)
    found._check_output(Ended(status, "", "", 1.0), plain, Reference(1.0, []))
    assert [c for c, _ in found.findings] == [category] * (category is not None)


def test_a_folder_that_is_not_written_yet_is_no_output(tmp_path):
    with pytest.raises(OSError):
        results.of_files(tmp_path / "pets")
    (tmp_path / "pets").mkdir()
    assert results.of_files(tmp_path / "pets") == {}


def test_a_campaign_continues_its_record(tmp_path):
    out = tmp_path / "campaign.json"
    arguments = campaign.Arguments(only=("train.models",), out=out)
    tries = campaign.chosen(arguments)
    record = campaign.Record(arguments, tries)
    record.add(tries[0], [])
    record.add(tries[1], [("lost", "a checkpoint")])
    found = json.loads(out.read_text())
    assert (found["tries"], found["lost"], found["by_command"]) == (2, 1, {"train.models": 2})
    again = campaign.Record(arguments, tries)
    assert again.left() == tries[1:] and again.failed
    again.add(tries[1], [])
    assert not again.failed
    found = json.loads(out.read_text())
    assert (found["tries"], found["lost"], found["failures"]) == (2, 0, [])
    assert found["failures_before"][0]["text"] == "a checkpoint"
    with pytest.raises(SystemExit, match="different trials"):
        campaign.Record(campaign.Arguments(seed=1, only=("train.models",), out=out), tries)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "count", "seed"),
    [
        # A signal of each kind, and two at once; no file system is mounted, which requires root.
        pytest.param("train.data prepare", 4, 40),
        pytest.param("train.run", 10, 0, marks=pytest.mark.long),
    ],
)
def test_a_small_campaign_finds_nothing(command, count, seed, tmp_path, command_environment):
    out = tmp_path / "campaign.json"
    flags = ["--tries", f"{count}", "--jobs", "1", "--seed", f"{seed}", "--out", f"{out}"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", *flags, "--only", command],
        env=command_environment,
        cwd=campaign.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert (record["tries"], record["by_command"]) == (count, {command: count})
    assert record["lost"] == record["wrong_records"] == record["tracebacks"] == 0
    assert record["failures"] == []


def test_the_recorded_campaigns_found_nothing():
    paths = sorted((campaign.ROOT / "benchmarks" / "results").glob("campaign*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    tries = sum((Counter(record["by_command"]) for record in records), Counter())
    assert set(tries) == {"train.run", *campaign.COMMANDS}
    assert sum(tries.values()) >= 200 and min(tries.values()) >= 10
    for record in records:
        assert not any(record[name] for name in campaign.CATEGORIES.values())
    page = (campaign.ROOT / "docs" / "guide" / "testing.md").read_text()
    assert f"{sum(tries.values())} trials" in page
