"""`benchmarks.gpu` runs its steps in processes, within its time, and continues where it stopped."""

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu, parity
from benchmarks.gpu import Part, Step
from train import flags
from train.recipe import InputError

ROOT = Path(__file__).parents[2]
QUICK = ("timeit", "-n1", "-r1", "pass")
FAILING = ("json.tool", "no-such-file.json")
ENDLESS = ("tests.benchmarks.endless",)
MACHINE = {"backend": "cpu", "devices": ["cpu"]}


@pytest.fixture
def ask(monkeypatch, call, tmp_path):
    """Call the command with the given steps, with output in tmp_path/out."""

    def run(steps, *words, dry_run=True, machine=MACHINE):
        part = Part("parity", "a question", 1, tuple(steps))
        monkeypatch.setattr(gpu, "parts", lambda arguments, devices: [part])
        monkeypatch.setattr(gpu, "machine", lambda torch_python: machine)
        dry = ("--dry-run",) if dry_run else ()
        return call(gpu, "--out", tmp_path / "out", *dry, *words)

    return run


def states(tmp_path, folder="out"):
    record = json.loads((tmp_path / folder / "gpu.json").read_text())
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
        ((), "JAX finds no usable GPU"),
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
    assert "dry run: the numbers below say nothing about GPUs" in out
    assert "No such file" in out and "needs data" in out
    status, out, err = ask([Step("bad", QUICK), *steps[1:]])
    assert status == 0 and "good: already done" in err
    assert states(tmp_path)["bad"] == "done"


class FakeClock:
    """Has `left` seconds; each step takes them all, or its own limit."""

    stop_seconds = 5.0

    def __init__(self, left=100.0):
        self.seconds = left

    def left(self):
        return self.seconds


def test_a_call_leaves_time_to_stop():
    for minutes, left in ((25, 1500 - 30), (2, 120 - 12)):
        clock = gpu.Clock(time.monotonic(), 60 * minutes)
        assert clock.left() == pytest.approx(left, abs=5)
        assert clock.stop_seconds == 60 * minutes - left


def run_with(monkeypatch, tmp_path, steps, outcomes, left):
    """Run steps that take all their time, with these states; return (name, seconds) of each."""
    record, clock, ran = gpu.Record(gpu.Arguments(out=tmp_path), MACHINE), FakeClock(left), []

    def run_step(step, record, seconds, clock):
        assert record.state(step) == "running"
        ran.append((step.name, seconds))
        clock.seconds -= seconds
        return outcomes.pop(0), ""

    monkeypatch.setattr(gpu, "run_step", run_step)
    gpu.run([Part("parity", "a question", 1, tuple(steps))], record, clock)
    return ran


def test_a_stopped_step_continues_after_the_others(monkeypatch, tmp_path, capsys):
    """First with its limit, then with all the time that is left; in the next call after those that were not tried."""
    steps = [Step("long", QUICK, limit=30, resumable=True), Step("next", QUICK, limit=50)]
    ran = run_with(monkeypatch, tmp_path, steps, ["stopped", "done", "stopped"], left=100)
    assert ran == [("long", 30), ("next", 50), ("long", 20)]
    assert capsys.readouterr().err.endswith("is up; the same command continues\n")
    steps.append(Step("new", QUICK, limit=10))
    ran = run_with(monkeypatch, tmp_path, steps, ["failed", "done"], left=100)
    assert ran == [("new", 10), ("long", 90)]
    assert states(tmp_path, ".") == {"long": "done", "next": "done", "new": "failed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "resumable", "expected"),
    [
        (-1, False, ("stopped", "the time of this call is up")),
        (9, True, ("stopped", "after 0 s, for the other steps")),
        (9, False, ("failed", "took more than 0 s")),
    ],
)
def test_a_step_is_stopped_at_its_limit(tmp_path, left, resumable, expected):
    record = gpu.Record(gpu.Arguments(out=tmp_path), MACHINE)
    step = Step("long", ENDLESS, resumable=resumable)
    assert gpu.run_step(step, record, 0.1, FakeClock(left)) == expected


def test_steps_that_were_never_tried_come_first_and_failed_ones_last(tmp_path):
    states = {"failed": "failed", "stopped": "stopped", "done": "done", "skipped": "skipped"}
    record = gpu.Record(gpu.Arguments(out=tmp_path), MACHINE)
    record.data["steps"] = {name: {"state": state} for name, state in states.items()}
    names = ["failed", "stopped", "done", "skipped", "new"]
    part = Part("parity", "a question", 1, tuple(Step(name, QUICK) for name in names))
    found = [step.name for step in gpu.waiting([part], record)]
    assert found == ["skipped", "new", "stopped", "failed"]


def test_a_folder_of_real_results_is_not_mixed_with_a_dry_run(ask, tmp_path):
    ask([Step("good", QUICK)])
    (tmp_path / "out" / "gpu.json").write_text('{"dry_run": false, "calls": [], "steps": {}}')
    status, _, err = ask([Step("good", QUICK)])
    assert status == 2 and "contains a real run: use another folder" in err


def test_a_folder_of_another_device_is_not_continued(ask):
    ask([])
    status, _, err = ask([], machine=MACHINE | {"devices": ["NVIDIA H200"]})
    assert status == 2 and "contains results of cpu: use another folder" in err


@pytest.mark.parametrize("text", ["{", "[]", '{"dry_run": true}', '{"steps": {"a": {}}}', "\0"])
def test_a_damaged_state_is_named(ask, tmp_path, text):
    ask([])
    state = tmp_path / "out" / "gpu.json"
    state.write_text(text)
    status, _, err = ask([])
    assert (status, err.count("\n")) == (2, 1)
    assert f"{state} cannot be read" in err and "remove it, or use another --out" in err
    assert state.read_text() == text


def test_a_folder_that_cannot_be_written_is_named(call, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "machine", lambda torch_python: MACHINE)
    (tmp_path / "file").touch()
    status, _, err = call(gpu, "--dry-run", "--out", tmp_path / "file" / "out")
    assert (status, err.count("\n")) == (2, 1)
    assert "file/out: Not a directory; use another folder" in err


def test_a_folder_is_used_by_one_call(ask, tmp_path):
    with gpu.locked(tmp_path / "out"):
        status, _, err = ask([])
    assert (status, err.count("\n")) == (2, 1)
    assert "is in use by another call: wait, or use another folder" in err
    assert ask([])[0] == 0


def test_a_result_of_something_else_has_no_speedup():
    steps = {"throughput-resnet50": {"result": {"rows": []}}}
    found = next(g for g in gpu.goals(steps) if g["goal"] == "ResNet-50, train 256")
    assert (found["value"], found["missing"]) == (None, "unknown content: KeyError 'results'")


def test_results_of_a_stopped_step_are_kept(tmp_path):
    """Also those of a goal, and a damaged file is not taken for a result."""
    record = gpu.Record(gpu.Arguments(out=tmp_path), MACHINE)
    step = Step("epoch", QUICK)
    result = {"speedups": {}, "results": [{"feed": "cached", "epoch_seconds": 0.8}]}
    (tmp_path / "epoch.json").write_text(json.dumps(result))
    record.save(step, "stopped", 1.0)
    saved = json.loads((tmp_path / "gpu.json").read_text())
    assert saved["steps"]["epoch"]["result"] == result
    [goal] = [goal for goal in saved["goals"] if goal["goal"].endswith("seconds")]
    assert (goal["value"], goal["met"]) == (0.8, True)
    record.dry_run = True  # nothing is judged
    record.save(step, "stopped", 1.0)
    assert not any(goal["met"] for goal in record.data["goals"])
    (tmp_path / "epoch.json").write_text("{")
    record.save(step, "done", 1.0)
    assert record.state(step) == "failed" and "epoch.json cannot be read" in str(record.steps)


def test_baselines_and_the_zoo_use_one_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu.environment(all_devices=False)["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in gpu.environment()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpu.environment(all_devices=False)["CUDA_VISIBLE_DEVICES"] == "2"
    steps = [s for part in gpu.parts(gpu.Arguments(), devices=2) for s in part.steps]
    assert [step.name for step in steps if step.all_devices] == ["scaling"]
    assert not any(step.missing for step in steps if step.name == "scaling")
    scaling = gpu.parts(gpu.Arguments(), devices=1)[-1].steps[0]
    assert scaling.missing == "needs more than one GPU"


def test_the_machine_is_described(monkeypatch):
    facts = gpu.describe()
    assert facts["backend"] == "cpu" and facts["devices"] and facts["platform_version"]
    assert {"python", "jax"} <= set(facts["versions"]) and facts["git_commit"]
    monkeypatch.setattr(gpu, "DESCRIBE", "print('{\"versions\": {}}')")
    assert "keras" in gpu.machine(None)["versions"]
    monkeypatch.setattr(gpu, "DESCRIBE", "raise ImportError('no jaxlib')")
    with pytest.raises(InputError, match="JAX does not start: ImportError: no jaxlib"):
        gpu.machine(None)


def times(mode="train", size=256, **speedups):
    """Rows of a throughput result: the zoo, and each peer with its speedup, or its error."""
    key = "train" if mode == "train" else "infer"
    row = {"mode": mode, f"{key}_batch_size": size}
    rows = [row | {"implementation": "zoo", f"{key}_step_time": 1.0, "zoo_speedup": None}]
    for name, value in speedups.items():
        found = {"error": value} if isinstance(value, str) else {"zoo_speedup": value}
        rows.append(row | {"implementation": name.replace("_", "-")} | found)
    return rows


def judged(steps):
    return {goal.pop("goal"): goal for goal in gpu.goals(steps)}


def test_goals_are_compared_with_results():
    rows = times(torch_compile=1.3, keras=1.2) + times("test", torch_compile=1.5, keras=1.3)
    epoch = {
        "speedups": {"cached over torch-graph": 2.5},
        "results": [{"feed": "cached", "epoch_seconds": 1.1}, {"epoch_seconds": 0.1}],
    }
    pair = [
        {"model": net, "batch_size": 16, "test_time_ms": ms}
        for net, ms in (("pig_alexnet", 20.0), ("sam_alexnet", 20.0))
    ]
    faster = [
        row | {"batch_size": 32, "test_time_ms": n} for n, row in zip((20, 15), pair, strict=True)
    ]
    steps = {
        "throughput-resnet50": {"result": {"results": rows}},
        "throughput-mobilenet_v2": {
            "result": {"results": times(size=16, torch_compile=2, keras=2)}
        },
        "epoch": {"result": epoch},
        "table1-times": {"result": {"results": pair + faster}},
        "scaling": {"state": "failed"},
    }
    found = {name: (goal["value"], goal["met"]) for name, goal in judged(steps).items()}
    assert found["ResNet-50, train 256"] == (1.2, False)  # the faster of both peers counts
    assert found["resnet50, test 256"] == (1.3, True)
    assert found["MobileNetV2, train 256"] == found["VGG16, train 256"] == (None, None)
    assert found["epoch from device memory"] == (2.5, True)
    assert found["epoch from device memory, seconds"] == (1.1, False)
    ratio = "SAM-AlexNet's test time over AlexNet's, "
    assert found[f"{ratio}16"] == (1.0, False)  # as long is not below
    assert (found[f"{ratio}32"], found[f"{ratio}64"]) == ((0.75, True), (None, None))


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        (times(torch_compile=2.0), "keras: not run"),
        (times(torch_compile="out of memory", keras=2.0), "torch-compile: out of memory"),
        ([], "zoo: not run; torch-compile: not run; keras: not run"),
    ],
)
def test_a_goal_needs_both_peers(rows, missing):
    goal = judged({"throughput-vgg16": {"result": {"results": rows}}})["VGG16, train 256"]
    assert (goal["value"], goal["met"], goal["missing"]) == (None, None, missing)


def test_an_epoch_without_its_peer_is_not_judged(capsys):
    row = {"side": "torch-graph", "error": "torch is not installed"}
    steps = {"epoch": {"result": {"speedups": {}, "results": [row]}}}
    gpu.show([], {"dry_run": False, "steps": steps, "goals": gpu.goals(steps)})
    out = capsys.readouterr().out
    line = (
        "epoch from device memory, goal at least 2: not judged, torch-graph: torch is not installed"
    )
    assert line in out and f"{len(gpu.GOALS)} goals not measured" in out


@pytest.mark.parametrize("dry_run", [False, True])
def test_steps_are_accepted_by_their_commands(tmp_path, dry_run):
    """Each step is a command of this project with flags that it knows."""
    options = {"out": tmp_path, "dry_run": dry_run, "data_dir": tmp_path}
    steps = []
    for torch in (Path(sys.executable), None):
        arguments = gpu.Arguments(torch_python=torch, **options)
        steps += [step for part in gpu.parts(arguments) for step in part.steps]
    names = [step.name for step in steps[len(steps) // 2 :]]
    assert len(set(names)) == len(names)
    for step in steps:
        name, *words = step.words
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
        parsed = flags.parse(module.Arguments, words, name, "")
        assert parsed.out.is_relative_to(tmp_path)
        if hasattr(module, "check"):
            module.check(parsed)
    assert dry_run or {goal.step for goal in gpu.GOALS} <= {step.name for step in steps}


@pytest.mark.long  # the dry run of CI does the same
def test_a_net_computes_the_same_with_and_without_kernels(call):
    """Without a GPU, the CPU with its kernels is compared with the CPU without them."""
    status, out, err = call(parity, "--model", "deconv_alexnet_tiny")
    assert status == 0, err
    assert out.count("on cpu: logits") == 3


STUB = """
import signal
from benchmarks import gpu
from train import cli

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # in case that the tests run with nohup
steps = [gpu.Step("first", {first}), gpu.Step("second", {second})]
gpu.parts = lambda arguments, devices: [gpu.Part("parity", "a question", 1, tuple(steps))]
gpu.machine = lambda torch_python: {machine}
cli.main(gpu.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_call_that_is_stopped_can_be_continued(tmp_path, command_environment, number):
    words = ["--dry-run", "--out", str(tmp_path / "out")]
    options = {"env": command_environment, "cwd": tmp_path, "text": True}
    code = STUB.format(first=QUICK, second=ENDLESS, machine=MACHINE)
    stopped = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, **options
    )
    for line in stopped.stderr:
        if "second: running" in line:
            break
    log = tmp_path / "out" / "logs" / "second.txt"
    while "started" not in log.read_text() if log.exists() else True:
        time.sleep(0.05)
    stopped.send_signal(number)
    rest = stopped.stderr.read() if number != signal.SIGKILL else ""
    assert stopped.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 130), rest
    stopped.stderr.close()
    left = "running" if number == signal.SIGKILL else "stopped"
    assert states(tmp_path) == {"first": "done", "second": left}
    code = STUB.format(first=QUICK, second=QUICK, machine=MACHINE)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    assert "first: already done" in done.stderr
    assert states(tmp_path) == {"first": "done", "second": "done"}


@pytest.mark.long  # .ci/run has a whole dry run
def test_the_dry_run_measures_for_real(tmp_path, command_environment):
    """The command as a user types it, stopped and continued."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--minutes", "2"]
    words += ["--parts", "throughput", "--out", str(tmp_path / "out")]
    options = {"env": command_environment, "cwd": ROOT, "text": True}
    stopped = subprocess.Popen(words, stderr=subprocess.PIPE, **options)
    for line in stopped.stderr:
        if "running" in line:
            break
    stopped.kill()
    stopped.stderr.close()
    stopped.wait()
    done = subprocess.run(words, capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert record["dry_run"] and len(record["calls"]) == 2
    [step] = record["steps"].values()
    assert step["state"] == "done" and step["call"] == 2
    assert [row["mode"] for row in step["result"]["results"]] == ["train", "test"]
    assert "dry run: the numbers below say nothing about GPUs" in done.stdout
