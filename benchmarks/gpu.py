"""Measure this project's claims and open questions about GPUs:

    python -m benchmarks.gpu --out results/gpu --minutes 25
    python -m benchmarks.gpu --list

Runs its parts in order of value: equal results on GPU and CPU, throughput compared with torch and Keras, an epoch from
device memory compared with a CUDA graph, Table 1 of the pig-face paper, the four nets of the CIFAR-10 paper, scaling.
Each step runs in its own process with a time limit, on the first GPU (scaling: on all), and its result is written
immediately. A call ends after --minutes; the same command continues where it stopped, even after Ctrl-C, SIGTERM or
SIGKILL: first the steps that were never tried, then those that were stopped, then those that failed. A failed step is
recorded with its error and does not stop the others. --out contains the results of one kind of device.

--dry-run runs the same steps with tiny nets on any device, to test the command itself; baselines run only if
--torch-python is given.
"""

import collections
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import command, throughput
from benchmarks.workers import PARENT, ROOT
from datasets import locks
from train import cli, flags, stopping
from train.errors import Interrupted, RunError
from train.recipe import InputError
from train.record.directory import write_json
from train.reproduce.papers.cifar10 import PAPER as TABLE_2
from train.reproduce.papers.pig_faces import PAPER as TABLE_1

RECORD, LOCK = "gpu.json", ".lock"
# Time reserved at the end of a call for the running step to save and exit, and its maximum fraction of the call.
STOP_SECONDS, STOP_SHARE = 30.0, 0.1
MIN_SECONDS = 5.0  # no step is started with less time left
# Runs a module in a process that ends with this one; otherwise it would keep using the GPU.
START = """
import runpy, sys
from benchmarks.workers import die_with_parent
die_with_parent()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
# A dry run compiles on the CPU without LLVM's optimizations, in half the time.
DRY_RUN_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Nets and batch sizes, those of the goals first.
SIX_NETS = {
    "resnet50": (256, 64, 32, 16),
    "vgg16": (256, 64, 32, 16),
    "sam_alexnet": (16, 32, 64, 256),
    "pig_alexnet": (16, 32, 64, 256),
    "mobilenet_v2": (256, 64, 32, 16),
    "deconv_alexnet_2": (256, 64, 32, 16),
}
# For a dry run: the first compiles fastest, the second also exists in torch.
TINY_NET, TINY_NET_OF_TORCH = "benchmarks.tiny_net:tiny_net", "deconv_alexnet_tiny"
PEERS = ("torch-compile", "keras")
PARTS = ("parity", "throughput", "epoch", "table1", "cifar10", "scaling")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    out: Path = Path("results/gpu")
    """Folder for the results and the state."""
    minutes: float = 25.0
    """Time limit of this call."""
    parts: tuple[Literal["parity", "throughput", "epoch", "table1", "cifar10", "scaling"], ...] = (
        PARTS  # type: ignore[assignment]
    )
    """Parts to run; the order is fixed."""
    data_dir: Path | None = None
    """Archive or folder of CIFAR-10, for the cifar10 part."""
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
    limit: float = 600.0  # seconds; a resumable step that was stopped gets all remaining time
    resumable: bool = False  # continues where it was stopped
    missing: str = ""  # why it cannot run
    all_devices: bool = False  # whether it uses all GPUs: the baselines use one


@dataclasses.dataclass(frozen=True)
class Part:
    """Steps that answer one question."""

    name: str
    question: str
    minutes: float  # expected on one H100; an estimate until measured
    steps: tuple[Step, ...]


def main(argv: list[str]) -> None:
    """Run the command."""
    began = time.monotonic()
    arguments = flags.parse(Arguments, argv, "benchmarks.gpu", __doc__)
    check(arguments)
    if arguments.list:
        for part in chosen_parts(arguments):
            print(f"{part.name:<11} {part.minutes:>4g} min  {part.question}")
        return
    cli.prepare_environment(large_arrays=False)
    facts = machine(arguments.torch_python)
    if facts["backend"] == "cpu" and not arguments.dry_run:
        raise InputError(
            "JAX finds no usable GPU: install with pip install -e '.[cuda]' on a machine with a GPU, or try the command"
            " with --dry-run"
        )
    chosen = chosen_parts(arguments, len(facts["devices"]))
    # Handled like Ctrl-C, which a shell's background jobs ignore: each stops the running step first.
    stopping.release()
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in stopping.SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN  # nohup
    }
    try:
        with locked(arguments.out):
            record = Record(arguments, facts)
            run(chosen, record, Clock(began, 60 * arguments.minutes))
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command continues") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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


# The machine.

DESCRIBE = """
import json
from benchmarks import gpu
print(json.dumps(gpu.describe()))
"""
PEER_VERSIONS = """
import json
from importlib import metadata
found = {}
for name in ("torch", "torchvision", "keras"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def machine(torch_python: Path | None) -> dict[str, Any]:
    """Describe devices, driver, versions and commit, in separate processes: here, JAX would reserve most of the GPU."""
    done = command.run_process([sys.executable, "-c", DESCRIBE], env=environment())
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise InputError(f"JAX does not start: {lines[-1] if lines else done.returncode}")
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for python in dict.fromkeys((Path(sys.executable), torch_python or Path(sys.executable))):
        done = command.run_process([f"{python}", "-c", PEER_VERSIONS])
        if done.returncode == 0:
            facts["versions"] |= json.loads(done.stdout)
    return facts


def describe() -> dict[str, Any]:
    """Describe this process's devices and versions. Starts JAX."""
    import jax

    from train.record.environment import environment as facts_of

    facts = facts_of()
    del facts["command"]
    # On a GPU: "PJRT C API\ncuda 12090", with CUDA's version.
    facts["platform_version"] = jax.local_devices()[0].client.platform_version
    if smi := shutil.which("nvidia-smi"):
        words = [smi, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        facts["driver"] = done.stdout.strip().splitlines()
    return facts


def environment(dry_run: bool = False, all_devices: bool = True) -> dict[str, str]:
    """Return the environment of a step."""
    found = os.environ | {PARENT: f"{os.getpid()}"}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), found.get("PYTHONPATH"))))
    if dry_run:
        found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {DRY_RUN_FLAGS}".strip()
    if not all_devices:
        visible = found.get("CUDA_VISIBLE_DEVICES", "0")
        found["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]
    return found


# Parts.


def chosen_parts(arguments: Arguments, devices: int | None = None) -> list[Part]:
    """Return the parts of --parts, for this number of devices (None: unknown)."""
    return [part for part in parts(arguments, devices) if part.name in arguments.parts]


def parts(arguments: Arguments, devices: int | None = None) -> list[Part]:
    """Return all parts, with tiny nets and few steps in a dry run."""
    dry, out = arguments.dry_run, arguments.out
    torch = ("--torch-python", str(arguments.torch_python)) if arguments.torch_python else ()

    def step(name: str, *words: str, file: bool = True, **fields: Any) -> Step:
        written = ("--out", str(out / f"{name}.json")) if file else ()
        return Step(name, (*words, *written), **fields)

    def reproduce(paper: str, name: str, rows: str, tiny_row: str, **fields: Any) -> Step:
        scale = ("--scale", "smoke", "--seeds", "1") if dry else ()
        words = (paper, "--out", str(out / "ledgers"), "--rows", tiny_row if dry else rows)
        return step(
            name, "train.reproduce", *words, *scale, *fields.pop("words", ()),
            file=False, resumable=True, **fields,
        )  # fmt: skip

    tiny = TINY_NET_OF_TORCH if torch else TINY_NET
    nets = {tiny: (4,)} if dry else SIX_NETS
    dtype = () if dry else ("--dtype", "bfloat16")
    # In a dry run, the baselines would take longer than everything else; torch.compile takes minutes.
    compared = ("--peers", *(("torch",) if dry else PEERS), *torch)
    peers = compared if torch or not dry else ()
    graph: tuple[str, ...] = ("--peers", "torch-graph", *torch) if torch or not dry else ()
    short: tuple[str, ...] = ("--rounds", "3", "--seconds", "1")
    epoch = (*("--model", "deconv_alexnet_2"), *("--images", "50000", "--batch-size", "128"))
    times: tuple[str, ...] = ()
    scaling: tuple[str, ...] = ("--model", "resnet50", "--batch-size", "64")
    if dry:
        short = ("--rounds", "1", "--seconds", "0.05")
        epoch = (*("--model", tiny), *("--images", "32", "--batch-size", "16"))
        times = ("--models", tiny, "--batch-sizes", "8", "--rounds", "1", "--train-images", "16")
        times += ("--validation-images", "8", "--test-images", "8")
        scaling = ("--model", tiny, "--simulate", "2", "--batch-size", "4")
    data = ("--data-dir", str(arguments.data_dir)) if arguments.data_dir and not dry else ()
    needs_devices = "" if dry or devices != 1 else "needs more than one GPU"
    return [
        Part(
            "parity",
            "do float32 and bfloat16 give the CPU's results?",
            4,
            tuple(
                step(f"parity-{label(net)}", "benchmarks.parity", "--model", net, limit=300)
                for net in nets
            ),
        ),
        Part(
            "throughput",
            "images per second in training and test, compared with torch.compile and Keras",
            120,
            tuple(
                step(
                    f"throughput-{label(net)}",
                    *("benchmarks.throughput", "--models", net, "--resume"),
                    *("--batch-sizes", *map(str, sizes), *dtype, "--limit", "240", *short, *peers),
                    limit=420,
                    resumable=True,
                )
                for net, sizes in nets.items()
            ),
        ),
        Part(
            "epoch",
            "300,000 crops of CIFAR from device memory, compared with a CUDA graph",
            3,
            (
                step(
                    "epoch",
                    "benchmarks.epoch",
                    "--feeds",
                    "cached",
                    "--crops",
                    "6",
                    *epoch,
                    *dtype,
                    *graph,
                ),
            ),
        ),
        Part(
            "table1",
            "Table 1 of the pig-face paper: its times, and three seeds on synthetic pigs",
            20,
            (
                step("table1-times", "benchmarks.table1", *times),
                reproduce(TABLE_1.name, "table1", "table1-*", "table1-alexnet-16", limit=1500),
            ),
        ),
        Part(
            "cifar10",
            "Table 2 of the CIFAR-10 paper: 120 epochs of four nets, as far as time permits",
            60,
            (
                reproduce(
                    *(TABLE_2.name, "cifar10", "table2-*", "table2-new-alexnet-1"),
                    words=data,
                    limit=4 * 3600,
                    missing="" if dry or data else "needs CIFAR-10 in --data-dir",
                ),
            ),
        ),
        Part(
            "scaling",
            "speed on 1 to all GPUs",
            2,
            (
                step(
                    "scaling",
                    "benchmarks.scaling",
                    *scaling,
                    *dtype,
                    missing=needs_devices,
                    all_devices=True,
                ),
            ),
        ),
    ]


def label(net: str) -> str:
    """Name of a net without its module."""
    return net.rpartition(":")[2]


# Running.


class Clock:
    """Time of a call, which ends early enough for a step to save."""

    def __init__(self, began: float, seconds: float) -> None:
        self.stop_seconds = min(STOP_SECONDS, STOP_SHARE * seconds)
        self._deadline = began + seconds - self.stop_seconds

    def left(self) -> float:
        """Seconds until the running step is asked to stop."""
        return self._deadline - time.monotonic()


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Create a folder and lock it against other calls. Raises InputError if that is impossible."""
    busy = f"--out {out} is in use by another call: wait, or use another folder"
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.locked(out / LOCK, busy, cli.say))
        except OSError as error:
            raise InputError(f"--out {out}: {error.strerror}; use another folder") from None
        yield


class Record:
    """The state of all steps, in a file that is written before and after each step."""

    def __init__(self, arguments: Arguments, facts: dict[str, Any]) -> None:
        """Read or create the record in --out, and begin a call. Raises InputError if the record does not fit."""
        self.out, self._path = arguments.out, arguments.out / RECORD
        self.dry_run = arguments.dry_run
        try:
            self.data = checked(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            head = command.head("benchmarks.gpu", environment=False, warn=False)
            self.data = {
                **head,
                "dry_run": arguments.dry_run,
                "calls": [],
                "steps": {},
                "goals": [],
            }
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self._path} cannot be read ({error}): remove it, or use another --out"
            ) from None
        if self.data["dry_run"] != arguments.dry_run:
            was = "a dry run" if self.data["dry_run"] else "a real run"
            raise InputError(f"--out {self.out} contains {was}: use another folder")
        calls = self.data["calls"]
        if calls and calls[0]["environment"]["devices"] != facts["devices"]:
            kind = ", ".join(calls[0]["environment"]["devices"])
            raise InputError(f"--out {self.out} contains results of {kind}: use another folder")
        for entry in self.steps.values():
            if entry["state"] == "running":
                entry |= {"state": "stopped", "message": "the command was killed"}
        date = time.strftime("%Y-%m-%d %H:%M")
        calls.append({"date": date, "minutes": arguments.minutes, "environment": facts})
        write_json(self._path, self.data)

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """The recorded steps by name."""
        return self.data["steps"]

    def state(self, step: Step) -> str:
        """The state of a step; empty if it was never tried."""
        return self.steps.get(step.name, {}).get("state", "")

    def save(self, step: Step, state: str, seconds: float = 0.0, message: str = "") -> None:
        """Record a step as running, done, stopped, failed or skipped, with the results that it wrote."""
        before = self.steps.get(step.name, {}).get("seconds", 0.0)
        entry: dict[str, Any] = {"state": state, "seconds": round(before + seconds, 1)}
        entry["call"] = len(self.data["calls"])
        if message:
            entry["message"] = message
        path = self.out / f"{step.name}.json"
        if state != "skipped" and path.exists():
            try:
                entry["result"] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                entry |= {"state": "failed", "message": f"{path.name} cannot be read ({error})"}
        self.steps[step.name] = entry
        self.data["goals"] = goals({} if self.dry_run else self.steps)
        write_json(self._path, self.data)


def checked(data: Any) -> dict[str, Any]:
    """Return the content of a record. Raises ValueError for anything else."""
    try:
        states = [(s["state"], s["seconds"] + 0) for s in data["steps"].values()]
        devices = [call["environment"]["devices"] for call in data["calls"]]
        whole = isinstance(data["dry_run"], bool) and all(isinstance(d, list) for d in devices)
        if not whole or not {state for state, _ in states} <= {
            *ORDER,
            "running",
            "done",
            "skipped",
        }:
            raise ValueError("unknown content")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return data


ORDER = ("", "stopped", "failed")  # states of the steps to run, in this order


def waiting(chosen: Iterable[Part], record: Record) -> list[Step]:
    """Return the steps to run: those never tried, stopped and failed, each in order of value."""
    steps = [s for part in chosen for s in part.steps if record.state(s) in (*ORDER, "skipped")]
    return sorted(steps, key=lambda s: ORDER.index(record.state(s).replace("skipped", "")))


def run(chosen: Sequence[Part], record: Record, clock: Clock) -> None:
    """Run the steps that are not done, until the time is up."""
    for part in chosen:
        for step in part.steps:
            if record.state(step) == "done":
                cli.say(f"{step.name}: already done")
    queue = collections.deque(waiting(chosen, record))
    while queue:
        step = queue.popleft()
        if step.missing:
            record.save(step, "skipped", message=step.missing)
            cli.say(f"{step.name}: skipped, {step.missing}")
            continue
        left = clock.left()
        if left < MIN_SECONDS:
            cli.say("the time of this call is up; the same command continues")
            return
        again = step.resumable and record.state(step) == "stopped"
        seconds = left if again else min(left, step.limit)
        cli.say(f"{step.name}: running ...")
        record.save(step, "running")
        began = time.monotonic()
        try:
            state, message = run_step(step, record, seconds, clock)
        except KeyboardInterrupt:
            record.save(step, "stopped", time.monotonic() - began, "interrupted")
            raise
        took = time.monotonic() - began
        record.save(step, state, took, message)
        cli.say(f"{step.name}: {state} after {took:.0f} s{message and ', ' + message}")
        if state == "stopped":
            queue.append(step)  # after those that were not tried, if time permits


def run_step(step: Step, record: Record, seconds: float, clock: Clock) -> tuple[str, str]:
    """Run a step for at most `seconds`. Returns its state and a message."""
    log = record.out / "logs" / f"{step.name}.txt"
    log.parent.mkdir(exist_ok=True)
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *step.words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(record.dry_run, step.all_devices),
            start_new_session=True,  # so that a step and its workers are stopped together
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            ended = clock.left() <= 0
            status = stop(process, clock.stop_seconds)
            if status:  # nonzero unless it had just ended
                if ended:
                    return "stopped", "the time of this call is up"
                if step.resumable:
                    return "stopped", f"after {seconds:.0f} s, for the other steps"
                return "failed", f"took more than {seconds:.0f} s"
        except KeyboardInterrupt:
            stop(process, clock.stop_seconds)
            raise
    if status == 0:
        return "done", ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "failed", (lines[-1] if lines else f"exit status {status}")[:300]


def stop(process: subprocess.Popen, seconds: float) -> int:
    """Ask a step to save and exit within `seconds`, then kill the remaining processes of the step and its workers."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=seconds)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:  # even on a second Ctrl-C
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


# Goals.


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measured value of a goal, or what is missing to compute it."""

    value: float | None = None
    missing: str = ""


@dataclasses.dataclass(frozen=True)
class Goal:
    """A value with a bound: at least, at most, or below it."""

    text: str
    step: str
    measure: Callable[[dict[str, Any]], Measured]
    bound: float
    relation: Literal["at least", "at most", "below"] = "at least"

    def met(self, value: float) -> bool:
        """Whether a value reaches the goal."""
        if self.relation == "at least":
            return value >= self.bound
        return value <= self.bound if self.relation == "at most" else value < self.bound


def _speedup(mode: str, size: int) -> Callable[[dict[str, Any]], Measured]:
    """The zoo's speed relative to the faster baseline at a batch size. Needs both baselines."""

    def measure(result: dict[str, Any]) -> Measured:
        prefix = throughput.PREFIX[mode]
        rows = {
            row["implementation"]: row
            for row in result["results"]
            if row["mode"] == mode and row.get(f"{prefix}_batch_size") == size
        }
        missing = [
            f"{name}: {rows[name].get('error') or 'no time' if name in rows else 'not run'}"
            for name in ("zoo", *PEERS)
            if not rows.get(name, {}).get("zoo_speedup" if name in PEERS else f"{prefix}_step_time")
        ]
        if missing:
            return Measured(missing="; ".join(missing))
        return Measured(min(rows[name]["zoo_speedup"] for name in PEERS))

    return measure


def _epoch_ratio(result: dict[str, Any]) -> Measured:
    value = result["speedups"].get("cached over torch-graph")
    if value is None:
        errors = [f"{r['side']}: {r['error']}" for r in result["results"] if "error" in r]
        return Measured(missing="; ".join(errors) or "torch-graph: not run")
    return Measured(value)


def _epoch_seconds(result: dict[str, Any]) -> Measured:
    for row in result["results"]:
        if row.get("feed") == "cached":
            return Measured(row.get("epoch_seconds"), row.get("error", ""))
    return Measured(missing="the cached epoch was not run")


def _attention_ratio(size: int) -> Callable[[dict[str, Any]], Measured]:
    """SAM-AlexNet's test time relative to AlexNet's, as in Table 1."""

    def measure(result: dict[str, Any]) -> Measured:
        times = {
            r["model"]: r["test_time_ms"] for r in result["results"] if r["batch_size"] == size
        }
        if missing := [name for name in ("pig_alexnet", "sam_alexnet") if name not in times]:
            return Measured(missing=f"{', '.join(missing)}: not run")
        return Measured(times["sam_alexnet"] / times["pig_alexnet"])

    return measure


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
    Goal("epoch from device memory, seconds", "epoch", _epoch_seconds, 0.9, "at most"),
    *(
        Goal(f"SAM-AlexNet's test time over AlexNet's, {size}", "table1-times", _attention_ratio(size), 1, "below")
        for size in (16, 32, 64)
    ),
)  # fmt: skip


def goals(steps: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the results so far with the goals. Speeds are relative to the faster of torch.compile and Keras; epoch
    times to the captured torch graph."""
    found = []
    for goal in GOALS:
        result = steps.get(goal.step, {}).get("result")
        try:
            measured = goal.measure(result) if result else Measured(missing="not run")
        except (AttributeError, KeyError, TypeError) as error:  # not a result of that step
            measured = Measured(missing=f"unknown content: {type(error).__name__} {error}")
        value = measured.value
        entry = {"goal": goal.text, "relation": goal.relation, "bound": goal.bound}
        entry |= {"value": value, "met": None if value is None else goal.met(value)}
        found.append(entry | ({"missing": measured.missing} if value is None else {}))
    return found


def show(chosen: Sequence[Part], data: dict[str, Any]) -> None:
    """Print the state of each step, and the goals that were measured."""
    if data["dry_run"]:
        print("dry run: the numbers below say nothing about GPUs")
    for part in chosen:
        for step in part.steps:
            entry = data["steps"].get(step.name, {"state": "not run", "seconds": 0.0})
            text = f"{part.name:<11} {step.name:<32} {entry['state']:<8} {entry['seconds']:>7.0f} s"
            print(f"{text}  {entry.get('message', '')}".rstrip())
    for goal in data["goals"]:
        bound = f"goal {goal['relation']} {goal['bound']:g}"
        if goal["value"] is not None:
            verdict = "met" if goal["met"] else "not met"
            print(f"{goal['goal']}: {goal['value']:.2f}, {bound}: {verdict}")
        elif goal["missing"] != "not run":
            print(f"{goal['goal']}, {bound}: not judged, {goal['missing']}")
    if left := sum(goal["value"] is None for goal in data["goals"]):
        print(f"{cli.count(left, 'goal')} not measured")


if __name__ == "__main__":
    cli.main(main)
