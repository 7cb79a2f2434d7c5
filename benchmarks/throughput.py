"""Time training and testing steps, beside the same nets in other libraries:

    python -m benchmarks.throughput --models sam_alexnet --batch-sizes 16 32 --peers torch keras --out times.json

Every implementation is a process of its own; all of them stay alive, one runs at a time, and they take turns
round by round, so that a machine whose speed drifts slows them alike. Each first shows that it is the same
net: equal parameter counts and, with the zoo's weights on one batch, equal losses in testing, in training,
and after one update. Warm-up and compilation are outside the timed rounds. Images are random, uint8, on the
device; a training step scales them, applies the net, its gradient and Adam; the zoo's own step computes its
log values (accuracy, norms), too. Training steps follow one another and are waited for at the end of a round;
each testing step is waited for. The zoo takes all devices, a peer one: CUDA_VISIBLE_DEVICES=0 makes them equal.

The table goes to stdout; --out writes FILE.json, and beside it FILE.csv, under timm's names, and a figure a
model; given a folder, it names the file after models, device, dtype and versions. Peers are optional: python -m
pip install -e '.[bench]', or --torch-python for a torch that lives elsewhere. What fails, has no twin, runs out
of memory or takes longer than --limit is recorded as such, and the rest goes on.
"""

import contextlib
import csv
import dataclasses
import io
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

import zoo
from benchmarks import command
from benchmarks.peers import NO_TWIN, PEERS
from benchmarks.workers import Worker, WorkerError, worker_command
from train import cli
from train.recipe import InputError
from zoo.common.files import write_atomically

OURS = "zoo"
WITHOUT = "zoo without "  # one of its forms for a CPU
# Relative, for losses above 1. After an update rounding has gone through Adam's division by small gradients.
TOLERANCES = {"test": 1e-4, "train": 1e-4, "train_after_update": 1e-3}
CHECK_BATCH = 4
SEED = 0
# timm's word for each mode.
PREFIX = {"train": "train", "test": "infer"}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    models: tuple[str, ...] = ("sam_alexnet",)
    """Registered models."""
    batch_sizes: tuple[int, ...] = (16,)
    """Images per step, over all devices."""
    image_size: int | None = None
    """Height and width in pixels (default: the model's); nets with dense tops may not take another."""
    modes: tuple[Literal["train", "test"], ...] = ("train", "test")
    """What to time: training steps, testing steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the nets compute in."""
    peers: tuple[Literal["torch", "torch-compile", "keras"], ...] = ()
    """What to time beside the zoo."""
    without: tuple[
        Literal[
            "all", "matmul", "winograd", "fourier", "depthwise", "max_pool", "sums", "barriers"
        ],
        ...,
    ] = ()
    """On a CPU: time the zoo without each of these forms of its layers, too, or without all of them."""
    rounds: int = 5
    """How often each implementation has its turn."""
    seconds: float = 2.0
    """How long a turn lasts, roughly; at least one step."""
    limit: float = 300.0
    """Seconds that an implementation may take to build, and for a turn."""
    torch_python: Path | None = None
    """Interpreter of an environment with torch and NumPy (default: this one)."""
    out: Path | None = None
    """File to write, ending in .json, or a folder."""
    figures: Path | None = None
    """Folder for a figure a model (default: that of --out)."""


@dataclasses.dataclass
class Timing:
    """One implementation of one model, mode and batch size."""

    model: str
    implementation: str
    mode: str
    batch_size: int
    image_size: tuple[int, ...]  # height, width; of vectors their length
    dtype: str
    parameters: int = 0
    compile_time: float = 0.0  # seconds until the first step was done
    devices: int = 1
    gflops: float | None = None  # of one step, counted in the zoo's net for all implementations
    gbytes: float | None = (
        None  # read and written by one step: `zoo_worker.Zoo.demand`, or a peer's own program
    )
    peak_memory: float = 0.0  # MB; of the process on a CPU
    step_times: list[float] = dataclasses.field(default_factory=list)  # ms a step, one a round
    zoo_speedup: float | None = None  # its time / the zoo's in the same round, median
    error: str | None = None

    def record(self, peak: dict[str, float]) -> dict[str, Any]:
        """Plain data under timm's names (`train_samples_per_sec`, `infer_step_time`, ...); `peak` is what one
        device does at best."""
        prefix = PREFIX[self.mode]
        row: dict[str, Any] = {
            "model": self.model,
            "implementation": self.implementation,
            "mode": self.mode,
            "dtype": self.dtype,
            f"{prefix}_batch_size": self.batch_size,
            f"{prefix}_img_size": self.image_size[0],
        }
        if self.error is not None:
            return row | {"error": self.error}
        step = statistics.median(self.step_times)

        def rate(of_a_step: float | None, unit: str) -> tuple[float | None, float | None]:
            """Giga-units a second, and their share of the peak of all devices."""
            if not of_a_step:
                return None, None
            speed = 1000 * of_a_step / step
            return round(speed, 3), round(speed / (self.devices * peak[unit]), 4)

        flops, share = rate(self.gflops, "gflops_per_sec")
        bandwidth, bandwidth_share = rate(self.gbytes, "gbytes_per_sec")
        return row | {
            f"{prefix}_samples_per_sec": round(1000 * self.batch_size / step, 2),
            f"{prefix}_step_time": round(step, 3),
            f"{prefix}_step_time_min": round(min(self.step_times), 3),
            f"{prefix}_step_time_max": round(max(self.step_times), 3),
            f"{prefix}_step_times": [round(t, 3) for t in self.step_times],
            "param_count": round(self.parameters / 1e6, 2),
            "parameters": self.parameters,
            "compile_time": round(self.compile_time, 2),
            "peak_memory_mb": round(self.peak_memory, 1),
            "gflops": round(self.gflops, 6) if self.gflops else None,
            "gflops_per_sec": flops,
            "gflops_share_of_peak": share,
            "gbytes": round(self.gbytes, 6) if self.gbytes else None,
            "gbytes_per_sec": bandwidth,
            "gbytes_share_of_peak": bandwidth_share,
            "zoo_speedup": round(self.zoo_speedup, 3) if self.zoo_speedup else None,
        }


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.throughput", description=__doc__
    )
    cli.prepare_environment()  # which the workers inherit
    check(arguments)
    commands = worker_commands(arguments.peers, arguments.torch_python, arguments.without)
    record = run(arguments, commands)
    path = arguments.out
    if path and path.is_dir():
        path = path / default_name(record)
    if path:
        write(path, record)
        cli.say(f"written: {path} and {path.with_suffix('.csv')}")
    folder = arguments.figures or (path.parent if path else None)
    if folder:
        stem = path.stem if path else Path(default_name(record)).stem
        for figure in draw(record, folder, stem):
            cli.say(f"written: {figure}")
    show(record)


def check(arguments: Arguments) -> None:
    """InputError for what cannot be timed, before any work."""
    for model in arguments.models:
        zoo.get_entry(model)
    for size in arguments.batch_sizes:
        if size < 1:
            raise InputError(f"--batch-sizes has {size}: give at least 1")
    for name in ("models", "batch_sizes", "modes"):
        if not getattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')} is empty: give at least one")
    command.check_at_least_one(arguments, ["rounds"])
    if not (arguments.seconds > 0 and arguments.limit > 0):
        raise InputError("--seconds and --limit have to be above 0")
    command.check_torch_python(arguments.torch_python)
    command.check_out(arguments.out, folder=True)
    if arguments.figures and not arguments.figures.is_dir():
        raise InputError(f"--figures {arguments.figures}: there is no such folder")


def worker_commands(
    peers: Sequence[str], torch_python: Path | None, without: Sequence[str] = ()
) -> dict[str, list[str]]:
    """How each implementation's process is started."""
    commands = {OURS: worker_command("benchmarks.zoo_worker")}
    for form in without:
        commands[f"{WITHOUT}{form}"] = worker_command("benchmarks.zoo_worker", form)
    for peer in peers:
        module, words = PEERS[peer]
        elsewhere = torch_python is not None and peer.startswith("torch")
        commands[peer] = worker_command(module, *words, python=torch_python if elsewhere else None)
    return commands


def run(arguments: Arguments, commands: dict[str, list[str]]) -> dict[str, Any]:
    """Time everything that is asked for; plain data. What fails is recorded as failed."""
    record: dict[str, Any] = {
        **command.head("benchmarks.throughput", environment=False),
        "environment": {},
        "peak": {},
        "checks": [],
        "results": [],
    }
    with Worker(commands[OURS], timeout=arguments.limit) as worker:
        record["environment"][OURS] = worker.call("describe")
        record["peak"] = worker.call("measure_peak", dtype=arguments.dtype)
    absent = {}
    for peer in arguments.peers:
        try:
            with Worker(commands[peer], timeout=arguments.limit) as worker:
                record["environment"][peer] = worker.call("describe")
        except WorkerError as error:
            absent[peer] = str(error)
            record["environment"][peer] = {"error": absent[peer]}
            cli.say(f"{peer}: {absent[peer]}")
    present = {name: command for name, command in commands.items() if name not in absent}
    for model in arguments.models:
        twins = {name: c for name, c in present.items() if not name.startswith(WITHOUT)}
        checks = compare(model, twins, arguments.limit)
        record["checks"] += checks
        refused = absent | {check["peer"]: check["error"] for check in checks if check["error"]}
        for mode in arguments.modes:
            for batch_size in arguments.batch_sizes:
                timings = time_one(arguments, commands, refused, model, mode, batch_size)
                record["results"] += [timing.record(record["peak"]) for timing in timings]
    return record


def default_name(record: dict[str, Any]) -> str:
    """throughput_<model, or how many>_<device>_<dtype>_<versions>.json"""
    models = list(dict.fromkeys(row["model"] for row in record["results"]))
    facts = record["environment"][OURS]
    device = facts["devices"][0]
    if facts["backend"] == "cpu":
        device = f"cpu {facts['cores']} cores"
    elif len(facts["devices"]) > 1:
        device = f"{len(facts['devices'])}x {device}"
    versions = [f"jax {facts['versions']['jax']}"]
    for name in ("torch", "keras"):
        found = {e[name] for e in record["environment"].values() if name in e}
        versions += [f"{name} {version.partition('+')[0]}" for version in sorted(found)]
    words = (
        "throughput",
        models[0] if len(models) == 1 else f"{len(models)} models",
        device,
        record["results"][0]["dtype"],
        *versions,
    )
    return re.sub(r"[^a-z0-9.]+", "_", " ".join(words).lower()) + ".json"


def draw(record: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    """A figure a model of images/s over batch size, in `folder`; a model of which nothing was timed has none."""
    from train.record.environment import hardware
    from train.report.figures import throughput_curves

    paths = []
    names = list(dict.fromkeys(row["implementation"] for row in record["results"]))
    for model in dict.fromkeys(row["model"] for row in record["results"]):
        panels: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
        for row in record["results"]:
            if row["model"] != model or "error" in row:
                continue
            prefix = PREFIX[row["mode"]]
            size = row[f"{prefix}_batch_size"]
            times = [row[f"{prefix}_step_time{end}"] for end in ("", "_max", "_min")]
            curves = panels.setdefault(row["mode"], {name: [] for name in names})
            point = (size, *(1000 * size / time for time in times))
            curves[row["implementation"]].append(point)
        if panels:
            path = folder / f"{stem}_{model}.png"
            dtype = record["results"][0]["dtype"]
            title = f"{model}, {dtype}, {hardware(record['environment'][OURS])}"
            throughput_curves(panels, path, title)
            paths.append(path)
    return paths


def compare(model: str, commands: dict[str, list[str]], limit: float) -> list[dict[str, Any]]:
    """Whether each peer computes what the zoo computes."""
    checks: list[dict[str, Any]] = []
    if len(commands) == 1:
        return checks
    entry = zoo.get_entry(model)
    if entry.objective != "classification":
        refused = [peer for peer in commands if peer != OURS]
        return [{"model": model, "peer": peer, "error": NO_TWIN} for peer in refused]
    num_classes = entry.num_classes
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "reference.npz")
        with Worker(commands[OURS], timeout=limit) as worker:
            ours = worker.call(
                "reference",
                model=model,
                num_classes=num_classes,
                batch_size=CHECK_BATCH,
                path=path,
            )
        for peer, command in commands.items():
            if peer == OURS:
                continue
            check: dict[str, Any] = {"model": model, "peer": peer, OURS: ours}
            try:
                with Worker(command, timeout=limit) as worker:
                    theirs = worker.call("compare", model=model, num_classes=num_classes, path=path)
                check |= {"theirs": theirs, "error": difference(ours, theirs)}
            except WorkerError as error:
                check["error"] = str(error)
            checks.append(check)
            cli.say(f"{model}: {peer} {check['error'] or 'is the same net: equal losses'}")
    return checks


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """What tells two nets apart, or None."""
    if ours["parameters"] != theirs["parameters"]:
        return f"is another net: {theirs['parameters']:,} parameters, the zoo has {ours['parameters']:,}"
    for name, tolerance in TOLERANCES.items():
        a, b = ours["losses"][name], theirs["losses"][name]
        if not abs(a - b) <= tolerance * max(1.0, abs(a)):
            return f"is another net: its {name} loss is {b:.6f}, the zoo's {a:.6f}"
    return None


def time_one(
    arguments: Arguments,
    commands: dict[str, list[str]],
    refused: dict[str, str],
    model: str,
    mode: str,
    batch_size: int,
) -> list[Timing]:
    """Build every implementation, then let them take turns."""
    entry = zoo.get_entry(model)
    shape = entry.input_shape
    if arguments.image_size and len(shape) == 3:
        shape = (arguments.image_size, arguments.image_size, shape[-1])
    size = shape[:2]
    timings = {
        name: Timing(model, name, mode, batch_size, size, arguments.dtype, error=refused.get(name))
        for name in commands
    }
    workers: dict[str, Worker] = {}
    steps: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for name, timing in timings.items():
            if timing.error is not None:
                continue
            try:
                worker = stack.enter_context(Worker(commands[name], timeout=arguments.limit))
                built = worker.call(
                    "build",
                    model=model,
                    num_classes=entry.num_classes,
                    mode=mode,
                    dtype=arguments.dtype,
                    images=[batch_size, *shape],
                    seed=SEED,
                )
                worker.call("run", steps=2)
                second = worker.call("run", steps=1)
            except WorkerError as error:
                timing.error = str(error)
                continue
            timing.parameters, timing.compile_time = built["parameters"], built["compile_time"]
            timing.gbytes = built.get("gbytes")
            timing.devices = built.get("devices", 1)
            workers[name], steps[name] = worker, max(1, round(arguments.seconds / second))
        take_turns(workers, steps, timings, arguments.rounds)
        if timings[OURS].error is None:
            try:
                demand = workers[OURS].call("demand")
                timings[OURS].gflops, timings[OURS].gbytes = demand["gflops"], demand["gbytes"]
            except WorkerError as error:
                cli.say(f"{model}: its operations are not counted ({error})")

    ours = timings[OURS]
    for timing in timings.values():
        timing.gflops = ours.gflops
        if timing is not ours and timing.error is None and ours.error is None:
            pairs = zip(timing.step_times, ours.step_times, strict=True)
            timing.zoo_speedup = statistics.median(theirs / mine for theirs, mine in pairs)
    words = (
        f"{name} {t.error or f'{statistics.median(t.step_times):.1f} ms'}"
        for name, t in timings.items()
    )
    cli.say(f"{model} {mode} batch {batch_size}: {', '.join(words)}")
    return list(timings.values())


def take_turns(
    workers: dict[str, Worker], steps: dict[str, int], timings: dict[str, Timing], rounds: int
) -> None:
    """Fill in the step times; each round starts with another implementation."""
    names = list(workers)
    for number in range(rounds):
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            timing = timings[name]
            if timing.error is not None:
                continue
            try:
                # Standing still, it has lost the caches, and memory that it gave back.
                workers[name].call("run", steps=1)
                seconds = workers[name].call("run", steps=steps[name])
                timing.step_times.append(1000 * seconds / steps[name])
                timing.peak_memory = workers[name].call("peak_memory")
            except WorkerError as error:
                timing.error = str(error)


def write(path: Path, record: dict[str, Any]) -> None:
    """The record as JSON, and its results as CSV beside it."""
    from train.record.directory import write_json

    write_json(path, record)
    rows = record["results"]
    columns = list(dict.fromkeys(key for row in rows for key in row if not key.endswith("_times")))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path.with_suffix(".csv"), text.getvalue().encode())


def show(record: dict[str, Any]) -> None:
    """The results as a table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "mode", "batch", "implementation"):
        table.add_column(heading, no_wrap=True)
    for heading in ("images/s", "ms a step", "(least-most)", "zoo is", "GFLOP/s", "of peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("GB/s", "of peak", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("first step", justify="right", no_wrap=True)
    for row in record["results"]:
        prefix = PREFIX[row["mode"]]
        names = [row["model"], row["mode"], str(row[f"{prefix}_batch_size"]), row["implementation"]]
        if "error" in row:
            table.add_row(*names, escape(row["error"]))
            continue
        table.add_row(
            *names,
            f"{row[f'{prefix}_samples_per_sec']:,.1f}",
            f"{row[f'{prefix}_step_time']:,.1f}",
            f"{row[f'{prefix}_step_time_min']:,.1f}-{row[f'{prefix}_step_time_max']:,.1f}",
            f"{row['zoo_speedup']:.2f} x" if row["zoo_speedup"] else "",
            *rate_cells(row, "gflops"),
            *rate_cells(row, "gbytes"),
            f"{row['peak_memory_mb']:,.0f}",
            f"{row['compile_time']:.1f} s",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(
        f'{record["results"][0]["dtype"]}; medians of rounds; "zoo is": its speed over the peer\'s,'
        " paired by round; GFLOP counted in the zoo's net of XLA's own operations, 2 x multiply-adds and what"
        " else it computes; GB as XLA counts what that net's program, or the peer's, reads and writes, caches"
        " included, and either may pass the peak where caches or Winograd's method save some; peak: a large matrix"
        f" product, {record['peak']['gflops_per_sec']:,.0f} GFLOP/s, and a large sum,"
        f" {record['peak']['gbytes_per_sec']:,.0f} GB/s, measured on one device before"
    )


def rate_cells(row: dict[str, Any], unit: str) -> tuple[str, str]:
    """Speed and share of the peak; empty where the implementation does not count."""
    speed, share = row[f"{unit}_per_sec"], row[f"{unit}_share_of_peak"]
    if not speed:
        return "", ""
    return (f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}", f"{share:.0%}")


if __name__ == "__main__":
    cli.main(main)
