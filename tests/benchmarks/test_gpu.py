"""`benchmarks.gpu` runs its steps in processes, within its time, and continues where it stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu, parity
from benchmarks.gpu import Part, Step

ROOT = Path(__file__).parents[2]
QUICK = ("timeit", "-n1", "-r1", "pass")
FAILING = ("json.tool", "no-such-file.json")
ENDLESS = ("http.server", "0", "--bind", "127.0.0.1")


@pytest.fixture
def ask(monkeypatch, call, tmp_path):
    """Call the command with the given steps, with output in tmp_path/out."""

    def run(steps, *words, dry_run=True):
        part = Part("parity", "a question", 1, tuple(steps))
        monkeypatch.setattr(gpu, "parts", lambda arguments: [part])
        monkeypatch.setattr(gpu, "find_platform", lambda: "cpu")
        dry = ("--dry-run",) if dry_run else ()
        return call(gpu, "--out", tmp_path / "out", *dry, *words)

    return run


def states(tmp_path):
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    return {name: entry["state"] for name, entry in record["steps"].items()}


def test_parts_are_listed_with_their_minutes(call):
    status, out, _ = call(gpu, "--list")
    lines = out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines] == list(gpu.PARTS)
    assert all(float(line.split()[1]) > 0 and " min  " in line for line in lines)
    status, out, _ = call(gpu, "--list", "--parts", "scaling", "epoch")
    assert [line.split()[0] for line in out.splitlines()] == ["epoch", "scaling"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is no GPU here that JAX can use"),
        (("--minutes", "0"), "--minutes is 0: use a number above 0"),
        (("--data-dir", "nowhere"), "--data-dir nowhere does not exist"),
        (("--torch-python", "nowhere"), "--torch-python nowhere is not an executable"),
    ],
)
def test_bad_input_is_one_line(ask, tmp_path, words, message):
    status, out, err = ask([], *words, dry_run=False)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_the_others_standing_and_is_tried_again(ask, tmp_path):
    steps = [Step("bad", FAILING), Step("good", QUICK), Step("none", QUICK, missing="needs data")]
    status, out, err = ask(steps)
    assert status == 1 and "1 step failed: bad" in err
    assert states(tmp_path) == {"bad": "failed", "good": "done", "none": "skipped"}
    assert "dry run: no number below says anything about a GPU" in out
    assert "No such file" in out and "needs data" in out
    status, out, err = ask([Step("bad", QUICK), *steps[1:]])
    assert status == 0 and "good: already done" in err
    assert states(tmp_path)["bad"] == "done"


@pytest.mark.slow
def test_a_call_ends_in_time_and_the_next_one_continues(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "MIN_SECONDS", 0.2)
    steps = [Step("first", QUICK), Step("long", ENDLESS, resumable=True), Step("last", QUICK)]
    began = time.monotonic()
    status, out, _ = ask(steps, "--minutes", "0.03")
    assert status == 0 and time.monotonic() - began < 10
    assert states(tmp_path) == {"first": "done", "long": "stopped", "last": "stopped"}
    assert "no time left" in out
    status, _, err = ask([steps[0], Step("long", QUICK), steps[2]])
    assert set(states(tmp_path).values()) == {"done"}
    assert err.count("already done") == 1


@pytest.mark.slow
def test_a_step_over_its_own_limit_fails(ask, tmp_path):
    status, out, _ = ask([Step("long", ENDLESS, limit=0.5), Step("good", QUICK)])
    assert (status, states(tmp_path)) == (1, {"long": "failed", "good": "done"})
    assert "took more than 0 s" in out


def test_a_folder_of_real_results_is_not_mixed_with_a_dry_run(ask, tmp_path):
    ask([Step("good", QUICK)])
    (tmp_path / "out" / "gpu.json").write_text('{"dry_run": false, "steps": {}}')
    status, _, err = ask([Step("good", QUICK)])
    assert status == 2 and "holds a real run: use another folder" in err
    (tmp_path / "out" / "gpu.json").write_text("{")
    status, _, err = ask([Step("good", QUICK)])
    assert status == 2 and "cannot be read" in err


def test_goals_are_compared_with_results():
    row = {"mode": "train", "train_batch_size": 256, "zoo_speedup": 1.3}
    slower = row | {"zoo_speedup": 1.2}
    other = row | {"train_batch_size": 16, "zoo_speedup": 0.1}
    epoch = {
        "speedups": {"cached over torch-graph": 2.5},
        "results": [{"feed": "cached", "epoch_seconds": 1.1}, {"epoch_seconds": 0.1}],
    }
    steps = {
        "throughput-resnet50": {"result": {"results": [row, slower, other]}},
        "throughput-mobilenet_v2": {"result": {"results": [other]}},
        "epoch": {"result": epoch},
        "scaling": {"state": "failed"},
    }
    found = {goal["goal"]: (goal["value"], goal["met"]) for goal in gpu.goals(steps)}
    assert found["ResNet-50, train 256"] == (1.2, False)  # the faster of both peers counts
    assert found["MobileNetV2, train 256"] == found["VGG16, train 256"] == (None, None)
    assert found["epoch from device memory"] == (2.5, True)
    assert found["epoch from device memory, seconds"] == (1.1, False)


def test_steps_are_accepted_by_their_commands():
    """Each step names a module of this project that can be run, and files in --out."""
    for dry_run in (False, True):
        arguments = gpu.Arguments(out=Path("x"), dry_run=dry_run)
        steps = [step for part in gpu.parts(arguments) for step in part.steps]
        assert len({step.name for step in steps}) == len(steps)
        for step in steps:
            module = ROOT.joinpath(*step.words[0].split("."))
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
            assert "--out" in step.words
        assert {goal.step for goal in gpu.GOALS} <= {step.name for step in steps} or dry_run


@pytest.mark.long  # the dry run of CI does the same
def test_a_net_computes_the_same_with_and_without_kernels(call):
    """Without a GPU, the CPU with its kernels is compared with the CPU without them."""
    status, out, err = call(parity, "--model", "deconv_alexnet_tiny")
    assert status == 0, err
    assert out.count("on cpu: logits") == 3


STUB = """
from benchmarks import gpu
from train import cli

steps = [gpu.Step("first", {first}), gpu.Step("second", {second})]
gpu.parts = lambda arguments: [gpu.Part("parity", "a question", 1, tuple(steps))]
gpu.find_platform = lambda: "cpu"
cli.main(gpu.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_call_that_is_stopped_can_be_continued(tmp_path, command_environment, number):
    words = ["--dry-run", "--out", str(tmp_path / "out")]
    options = {"env": command_environment, "cwd": tmp_path, "text": True}
    code = STUB.format(first=QUICK, second=ENDLESS)
    stopped = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, **options
    )
    for line in stopped.stderr:
        if "second: running" in line:
            break
    time.sleep(0.5)  # the step has started
    stopped.send_signal(number)
    rest = stopped.stderr.read() if number == signal.SIGINT else ""
    assert stopped.wait() == (130 if number == signal.SIGINT else -signal.SIGKILL), rest
    stopped.stderr.close()
    assert states(tmp_path) == {"first": "done"}
    code = STUB.format(first=QUICK, second=QUICK)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    assert "first: already done" in done.stderr
    assert states(tmp_path) == {"first": "done", "second": "done"}
