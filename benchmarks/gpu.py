"""Measure on a GPU what this project claims or leaves open about one:

    python -m benchmarks.gpu --out results/gpu --minutes 25
    python -m benchmarks.gpu --list

Runs its parts in order of value: equal results on GPU and CPU, throughput beside torch and Keras, an epoch from device
memory beside a CUDA graph, Table 1 of the pig-face paper, the four nets of the CIFAR-10 paper, scaling. Each step runs
in its own process with a time limit, and its result is written at once. A call ends after --minutes; the same command
continues where it stopped. A step that fails is recorded with its error, does not stop the others, and is tried again
by the next call.

--dry-run runs the same steps with tiny nets on whatever device there is, for a test of the command itself.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import command
from train import cli, flags
from train.errors import Interrupted, RunError
from train.recipe import InputError
from train.record.directory import write_json
from train.reproduce.papers.cifar10 import PAPER as TABLE_2
from train.reproduce.papers.pig_faces import PAPER as TABLE_1

RECORD = "gpu.json"
STOP_SECONDS = 30.0  # for a step to save and end after SIGINT
# Runs a module, in a process that Linux kills when the command is killed: it would go on using the GPU. (Popen's
# preexec_fn would fork a process with threads, which may deadlock.)
START = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
MIN_SECONDS = 5.0  # no step is started with less time left
SIX_NETS = ("resnet50", "vgg16", "sam_alexnet", "pig_alexnet", "mobilenet_v2", "deconv_alexnet_2")
TINY_NETS = ("deconv_alexnet_tiny",)
PARTS = ("parity", "throughput", "epoch", "table1", "cifar10", "scaling")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    out: Path = Path("results/gpu")
    """Folder for the results and the state."""
    minutes: float = 25.0
    """Time limit of this call."""
    parts: tuple[Literal["parity", "throughput", "epoch", "table1", "cifar10", "scaling"], ...] = (
        PARTS  # type: ignore[assignment]
    )
    """Parts to run; the order is fixed."""
    data_dir: Path | None = None
    """Archive or folder of CIFAR-10, for the part cifar10."""
    torch_python: Path | None = None
    """Interpreter of an environment with torch (default: this one)."""
    dry_run: bool = False
    """Run with tiny nets on any device, to test the command."""
    list: bool = False
    """Print the parts with their expected minutes, and run nothing."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One process of a part."""

    name: str
    words: tuple[str, ...]  # module and its arguments
    limit: float = 600.0  # seconds
    resumable: bool = False  # a later call continues it
    missing: str = ""  # why it cannot run


@dataclasses.dataclass(frozen=True)
class Part:
    """Steps that answer one question."""

    name: str
    question: str
    minutes: float  # expected, on one H100
    steps: tuple[Step, ...]


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.gpu", __doc__)
    check(arguments)
    chosen = [part for part in parts(arguments) if part.name in arguments.parts]
    if arguments.list:
        for part in chosen:
            print(f"{part.name:<11} {part.minutes:>4g} min  {part.question}")
        return
    cli.prepare_environment(large_arrays=False)
    platform = find_platform()
    if platform == "cpu" and not arguments.dry_run:
        raise InputError(
            "there is no GPU here that JAX can use: install with pip install -e '.[cuda]' on a machine with one, or"
            " try the command with --dry-run"
        )
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {arguments.out}: {error.strerror}; use another folder") from None
    record = Record(arguments)
    try:
        run(chosen, record, deadline=time.monotonic() + 60 * arguments.minutes)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command continues") from None
    show(chosen, record.data)
    if failed := [n for n, s in record.steps.items() if s["state"] == "failed"]:
        raise RunError(f"{cli.count(len(failed), 'step')} failed: {', '.join(failed)}")


def check(arguments: Arguments) -> None:
    """Raise InputError for invalid flags, before any work."""
    if not arguments.minutes > 0:
        raise InputError(f"--minutes is {arguments.minutes:g}: use a number above 0")
    if not arguments.parts:
        raise InputError("--parts is empty: use at least one")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"--out {arguments.out} is a file: use a folder")
    if arguments.data_dir and not arguments.data_dir.exists():
        raise InputError(f"--data-dir {arguments.data_dir} does not exist: check the path")
    command.check_torch_python(arguments.torch_python)


def find_platform() -> str:
    """Return JAX's default platform. In another process: here, JAX would reserve most of the GPU's memory."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "cpu"


# Parts.


def parts(arguments: Arguments) -> list[Part]:
    """Return all parts, with tiny nets and few steps in a dry run."""
    dry, out = arguments.dry_run, arguments.out
    torch = ("--torch-python", str(arguments.torch_python)) if arguments.torch_python else ()

    def step(name: str, *words: str, file: bool = True, **fields: Any) -> Step:
        written = ("--out", str(out / f"{name}.json")) if file else ()
        return Step(name, (*words, *written), **fields)

    nets = TINY_NETS if dry else SIX_NETS
    sizes = ("4",) if dry else ("16", "32", "64", "256")
    short = ("--rounds", "1", "--seconds", "0.05") if dry else ("--rounds", "3", "--seconds", "1")
    peers = () if dry else ("--peers", "torch-compile", "keras", *torch)
    dtype = "float32" if dry else "bfloat16"
    ledger = str(out / "ledgers")
    scale = ("--scale", "smoke", "--seeds", "1") if dry else ()
    data = ("--data-dir", str(arguments.data_dir)) if arguments.data_dir and not dry else ()
    needs_data = "" if dry or data else "needs CIFAR-10 in --data-dir"
    epoch = ("--model", TINY_NETS[0], "--images", "64", "--batch-size", "16", "--rounds", "1")
    if not dry:
        epoch = ("--model", "deconv_alexnet_2", "--images", "50000", "--batch-size", "128", "--dtype", "bfloat16",
                 "--peers", "torch-graph", *torch)  # fmt: skip
    scaling = ("--model", TINY_NETS[0], "--simulate", "2", "--batch-size", "4")
    if not dry:
        scaling = ("--model", "resnet50", "--batch-size", "64", "--dtype", "bfloat16")
    return [
        Part(
            "parity",
            "do float32 and bfloat16 give the CPU's results?",
            4,
            tuple(
                step(f"parity-{net}", "benchmarks.parity", "--model", net, limit=300)
                for net in nets
            ),
        ),
        Part(
            "throughput",
            "images per second in training and test, beside torch.compile and Keras",
            12,
            tuple(
                step(
                    f"throughput-{net}",
                    *("benchmarks.throughput", "--models", net, "--batch-sizes", *sizes),
                    *("--dtype", dtype, "--limit", "240", *short, *peers),
                )
                for net in nets
            ),
        ),
        Part(
            "epoch",
            "300,000 crops of CIFAR from device memory, beside a CUDA graph",
            3,
            (step("epoch", "benchmarks.epoch", "--feeds", "cached", "--crops", "6", *epoch),),
        ),
        Part(
            "table1",
            "Table 1 of the pig-face paper with three seeds, on synthetic pigs",
            20,
            (
                step(
                    "table1",
                    *("train.reproduce", TABLE_1.name, "--out", ledger, *scale),
                    *("--rows", "table1-attention-16" if dry else "table1-*"),
                    file=False,
                    limit=3600,
                    resumable=True,
                ),
            ),
        ),
        Part(
            "cifar10",
            "Table 2 of the CIFAR-10 paper: 120 epochs of four nets, as far as the time goes",
            60,
            (
                step(
                    "cifar10",
                    *("train.reproduce", TABLE_2.name, "--out", ledger, *scale, *data),
                    *("--rows", "table2-new-alexnet-1" if dry else "table2-*"),
                    file=False,
                    limit=4 * 3600,
                    resumable=True,
                    missing=needs_data,
                ),
            ),
        ),
        Part(
            "scaling",
            "speed on 1 to all GPUs",
            2,
            (step("scaling", "benchmarks.scaling", *scaling),),
        ),
    ]


# Running.


class Record:
    """The state of all steps, in a file that is written after each of them."""

    def __init__(self, arguments: Arguments) -> None:
        self.out = arguments.out
        self._path = self.out / RECORD
        try:
            self.data = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            head = command.head("benchmarks.gpu", environment=False, warn=False)
            self.data = {**head, "dry_run": arguments.dry_run, "steps": {}}
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self._path} cannot be read ({error}): remove it, or use another --out"
            ) from None
        if self.data["dry_run"] != arguments.dry_run:
            was = "a dry run" if self.data["dry_run"] else "a real run"
            raise InputError(f"--out {self.out} holds {was}: use another folder")

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """The recorded steps by name."""
        return self.data["steps"]

    def save(self, name: str, state: str, seconds: float, message: str = "") -> None:
        """Record a step: done, stopped (a later call continues it), failed or skipped."""
        before = self.steps.get(name, {}).get("seconds", 0.0)
        entry: dict[str, Any] = {"state": state, "seconds": round(before + seconds, 1)}
        if message:
            entry["message"] = message
        path = self.out / f"{name}.json"
        if state == "done" and path.exists():
            entry["result"] = json.loads(path.read_text(encoding="utf-8"))
        self.data["steps"][name] = entry
        self.data["goals"] = goals(self.steps)
        write_json(self._path, self.data)


def run(chosen: Sequence[Part], record: Record, *, deadline: float) -> None:
    """Run the steps that are not done, until the deadline."""
    for part in chosen:
        for step in part.steps:
            if record.steps.get(step.name, {}).get("state") == "done":
                cli.say(f"{step.name}: already done")
                continue
            left = deadline - time.monotonic()
            if step.missing:
                record.save(step.name, "skipped", 0.0, step.missing)
                cli.say(f"{step.name}: skipped, {step.missing}")
            elif left < MIN_SECONDS:
                if step.name not in record.steps:
                    record.save(step.name, "stopped", 0.0, "no time left")
            else:
                cli.say(f"{step.name}: running ...")
                began = time.monotonic()
                state, message = run_step(step, record.out / "logs", min(left, step.limit), left)
                seconds = time.monotonic() - began
                record.save(step.name, state, seconds, message)
                cli.say(f"{step.name}: {state} after {seconds:.0f} s{message and ', ' + message}")


def run_step(step: Step, logs: Path, seconds: float, left: float) -> tuple[str, str]:
    """Run a step for at most `seconds`, of the `left` seconds of this call. Returns its state and a message."""
    logs.mkdir(exist_ok=True)
    log = logs / f"{step.name}.txt"
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *step.words],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a step and its workers are stopped together
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            stop(process)
            if step.resumable or seconds == left:
                return "stopped", "the time of this call ended"
            return "failed", f"took more than {seconds:.0f} s"
        except KeyboardInterrupt:
            stop(process)
            raise
    if status == 0:
        return "done", ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "failed", (lines[-1] if lines else f"exit status {status}")[:300]


def stop(process: subprocess.Popen) -> None:
    """Ask a step to save and end, then kill what is left of it."""
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


# Goals.


@dataclasses.dataclass(frozen=True)
class Goal:
    """A value that should be at least (or at most) so much."""

    text: str
    step: str
    value: Callable[[dict[str, Any]], float | None]
    bound: float
    at_most: bool = False


def _speedup(mode: str, size: int) -> Callable[[dict[str, Any]], float | None]:
    """The zoo's speed over the faster peer's at a batch size."""

    def value(result: dict[str, Any]) -> float | None:
        key = "train_batch_size" if mode == "train" else "infer_batch_size"
        ratios = [
            row["zoo_speedup"]
            for row in result["results"]
            if row["mode"] == mode and row.get(key) == size and row.get("zoo_speedup")
        ]
        return min(ratios, default=None)

    return value


def _epoch_ratio(result: dict[str, Any]) -> float | None:
    return result["speedups"].get("cached over torch-graph")


def _epoch_seconds(result: dict[str, Any]) -> float | None:
    times = [r["epoch_seconds"] for r in result["results"] if "epoch_seconds" in r and "feed" in r]
    return min(times, default=None)


GOALS = (
    Goal("ResNet-50, train 256", "throughput-resnet50", _speedup("train", 256), 1.25),
    Goal("VGG16, train 256", "throughput-vgg16", _speedup("train", 256), 1.1),
    *(
        Goal(f"{net}, train {size}", f"throughput-{net}", _speedup("train", size), 1.5)
        for net in ("pig_alexnet", "sam_alexnet")
        for size in (16, 32, 64)
    ),
    Goal("MobileNetV2, train 256", "throughput-mobilenet_v2", _speedup("train", 256), 1.4),
    *(
        Goal(f"{net}, test 256", f"throughput-{net}", _speedup("test", 256), 1.2)
        for net in SIX_NETS
    ),
    Goal("epoch from device memory", "epoch", _epoch_ratio, 2.0),
    Goal("epoch from device memory, seconds", "epoch", _epoch_seconds, 0.9, at_most=True),
)


def goals(steps: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the results so far with the goals: ratios to the faster of torch.compile and Keras, unless in seconds."""
    found = []
    for goal in GOALS:
        result = steps.get(goal.step, {}).get("result")
        value = None if result is None else goal.value(result)
        met = None
        if value is not None:
            met = value <= goal.bound if goal.at_most else value >= goal.bound
        found.append({"goal": goal.text, "bound": goal.bound, "value": value, "met": met})
    return found


def show(chosen: Sequence[Part], data: dict[str, Any]) -> None:
    """Print the state of each step, and the goals that were measured."""
    if data["dry_run"]:
        print("dry run: no number below says anything about a GPU")
    for part in chosen:
        for step in part.steps:
            entry = data["steps"].get(step.name, {"state": "not run", "seconds": 0.0})
            text = f"{part.name:<11} {step.name:<32} {entry['state']:<8} {entry['seconds']:>7.0f} s"
            print(f"{text}  {entry.get('message', '')}".rstrip())
    measured = [goal for goal in data.get("goals", ()) if goal["value"] is not None]
    for goal in measured:
        verdict = "met" if goal["met"] else "not met"
        print(f"{goal['goal']}: {goal['value']:.2f}, goal {goal['bound']:g}: {verdict}")
    left = len(data.get("goals", ())) - len(measured)
    if left:
        print(f"{cli.count(left, 'goal')} not measured")


if __name__ == "__main__":
    cli.main(main)
