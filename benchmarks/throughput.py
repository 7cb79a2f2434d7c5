"""Time training and test steps against the same nets in other libraries:

    python -m benchmarks.throughput --models sam_alexnet --batch-sizes 16 32 --peers torch keras --out times.json

Every implementation runs in its own process. All processes stay alive, one runs at a time, and they take turns in each
round, so that drifts in the machine's speed affect all of them. Each baseline is first checked to be the same net:
equal parameter counts and, with the zoo's weights on one batch, equal losses in test mode, in training mode, and after
one update. Warm-up and compilation are not timed. Images are random, uint8, on the device. A training step scales them
and computes the net, its gradient and Adam; the zoo's step also computes its logged metrics (accuracy, norms). Training
steps are dispatched without waiting until the end of a turn; each test step is waited for. The zoo uses all devices, a
baseline only one: set CUDA_VISIBLE_DEVICES=0 for an equal comparison.

Prints a table. --out writes FILE.json, FILE.csv with timm's column names, and a figure per model; given a folder, the
file is named after models, device, dtype and versions. A given file is updated after each batch size and mode, and
--resume continues it. Baselines are optional: install the extra `bench`, or use --torch-python for torch in another
environment. An implementation that fails, lacks the model, runs out of memory or exceeds --limit is recorded with its
error, and the others are still timed.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import zoo
from benchmarks import command
from benchmarks.peers import BASELINES, NOT_AVAILABLE
from benchmarks.workers import Worker, WorkerError, worker_command
from train import cli, flags
from train.recipe import InputError
from zoo.common.files import write_atomically

ZOO = "zoo"
# Relative for losses above 1. After an update, rounding errors are amplified by Adam's division by small gradients.
TOLERANCES = {"test": 1e-4, "train": 1e-4, "train_after_update": 1e-3}
CHECK_BATCH = 4
SEED = 0
# timm's prefix of each mode's columns.
PREFIX = {"train": "train", "test": "infer"}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    models: tuple[str, ...] = ("sam_alexnet",)
    """Registered models."""
    batch_sizes: tuple[int, ...] = (16,)
    """Images per step, across all devices."""
    image_size: int | None = None
    """Height and width in pixels (default: the model's). Nets that flatten their features may not accept another."""
    modes: tuple[Literal["train", "test"], ...] = ("train", "test")
    """Steps to time: training steps, test steps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the nets."""
    peers: tuple[Literal["torch", "torch-compile", "keras"], ...] = ()
    """Baselines to time."""
    without: tuple[
        Literal[
            "all",
            "matmul",
            "winograd",
            "fourier",
            "depthwise",
            "transposed",
            "max_pool",
            "sums",
        ],
        ...,
    ] = ()
    """On a CPU, also time the zoo with each of these CPU kernels disabled, or with all of them disabled."""
    rounds: int = 5
    """Number of rounds; each implementation has one turn per round."""
    seconds: float = 2.0
    """Approximate duration of a turn; at least one step."""
    limit: float = 300.0
    """Time limit in seconds for building an implementation, and for each turn."""
    torch_python: Path | None = None
    """Interpreter of an environment with torch and NumPy (default: this one)."""
    out: Path | None = None
    """JSON file to write, or an existing folder."""
    resume: bool = False
    """Continue the file of --out, if it exists."""
    figures: Path | None = None
    """Folder for one figure per model (default: the folder of --out)."""


@dataclasses.dataclass
class Timing:
    """The times of one implementation for one model, mode and batch size."""

    model: str
    implementation: str
    mode: str
    batch_size: int
    image_size: tuple[int, ...]  # height, width; (length,) for vectors
    dtype: str
    parameters: int = 0
    compile_time: float = 0.0  # seconds until the first step has finished
    devices: int = 1
    gflops: float | None = None  # per step, counted in the zoo's net for all implementations
    # Read and written per step: `zoo_worker.Zoo.demand`, or counted in the baseline's own program.
    gbytes: float | None = None
    peak_memory: float = 0.0  # MB; on a CPU, of the process
    step_times: list[float] = dataclasses.field(default_factory=list)  # ms per step, one per round
    zoo_speedup: float | None = None  # this time / the zoo's in the same round, median
    error: str | None = None

    def record(self, peak: dict[str, float]) -> dict[str, Any]:
        """Return plain data with timm's names (`train_samples_per_sec`, `infer_step_time`, ...).

        `peak`: maximum gflops_per_sec and gbytes_per_sec of one device.
        """
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

        def rate(per_step: float | None, unit: str) -> tuple[float | None, float | None]:
            """Return giga-units per second, and as a fraction of the peak of all devices."""
            if not per_step:
                return None, None
            speed = 1000 * per_step / step
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
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.throughput", __doc__)
    cli.prepare_environment()  # inherited by the workers
    check(arguments)
    commands = worker_commands(arguments.peers, arguments.torch_python, arguments.without)
    path = arguments.out if arguments.out and not arguments.out.is_dir() else None
    earlier = read_earlier(path) if path and arguments.resume else None

    def save(record: dict[str, Any]) -> None:
        if path:
            write(path, record)

    record = run(arguments, commands, earlier, save)
    if arguments.out and arguments.out.is_dir():
        path = arguments.out / default_name(record)
    save(record)
    if path:
        cli.say(f"written: {path} and {path.with_suffix('.csv')}")
    folder = arguments.figures or (path.parent if path else None)
    if folder:
        stem = path.stem if path else Path(default_name(record)).stem
        for figure in draw(record, folder, stem):
            cli.say(f"written: {figure}")
    show(record)


def check(arguments: Arguments) -> None:
    """Raise InputError for invalid flags, before any work."""
    for model in arguments.models:
        zoo.get_entry(model)
    for size in arguments.batch_sizes:
        if size < 1:
            raise InputError(f"--batch-sizes has {size}: use at least 1")
    for name in ("models", "batch_sizes", "modes"):
        if not getattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')} is empty: use at least one")
    command.check_at_least_one(arguments, ["rounds"])
    if not (arguments.seconds > 0 and arguments.limit > 0):
        raise InputError("--seconds and --limit must be above 0")
    command.check_torch_python(arguments.torch_python)
    command.check_out(arguments.out, folder=True)
    if arguments.resume and (arguments.out is None or arguments.out.is_dir()):
        raise InputError("--resume needs a file: use --out FILE.json")
    if arguments.figures and not arguments.figures.is_dir():
        raise InputError(f"--figures {arguments.figures} is not an existing folder")


def worker_commands(
    peers: Sequence[str], torch_python: Path | None, without: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Return the command of each implementation's worker."""
    commands = {ZOO: worker_command("benchmarks.zoo_worker")}
    for kernel in without:
        commands[f"{ZOO} without {kernel}"] = worker_command("benchmarks.zoo_worker", kernel)
    for baseline in peers:
        module, words = BASELINES[baseline]
        elsewhere = torch_python is not None and baseline.startswith("torch")
        python = torch_python if elsewhere else None
        commands[baseline] = worker_command(module, *words, python=python)
    return commands


def read_earlier(path: Path) -> dict[str, Any] | None:
    """Read the record that --resume continues; None if there is none."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"command", "environment", "peak", "checks", "results", "commits"} - set(record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"--resume: {path} cannot be read ({error}): remove it, or use another --out"
        ) from None
    words = command.portable("benchmarks.throughput", sys.argv[1:])
    if missing or record["command"] != words:
        raise InputError(f"--resume: {path} has the results of another command: use another --out")
    return record


def run(
    arguments: Arguments,
    commands: dict[str, list[str]],
    earlier: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Run the benchmark and return its record, with errors of implementations in place of their times.

    `earlier`: an unfinished record to continue. `save` is called with the record after each measurement.
    """
    record: dict[str, Any] = earlier or {
        **command.head("benchmarks.throughput", environment=False),
        "complete": False,
        "commits": [],  # several if a command was resumed at a different commit
        "environment": {},
        "peak": {},
        "checks": [],
        "results": [],
    }
    with Worker(commands[ZOO], timeout=arguments.limit) as worker:
        facts = worker.call("describe")
        before = record["environment"].setdefault(ZOO, facts)
        for name in ("devices", "versions"):
            if name in facts and before.get(name) != facts[name]:
                raise InputError(
                    f"--resume: {arguments.out} was measured with other {name}: use another --out"
                )
        if (commit := facts.get("git_commit")) not in record["commits"]:
            record["commits"].append(commit)
        record["peak"] = record["peak"] or worker.call("measure_peak", dtype=arguments.dtype)
    absent = {}
    for baseline in arguments.peers:
        try:
            with Worker(commands[baseline], timeout=arguments.limit) as worker:
                record["environment"][baseline] = worker.call("describe")
        except WorkerError as error:
            absent[baseline] = str(error)
            record["environment"][baseline] = {"error": absent[baseline]}
            cli.say(f"{baseline}: {absent[baseline]}")
    present = {name: command for name, command in commands.items() if name not in absent}
    done = {
        (row["model"], row["mode"], row[f"{PREFIX[row['mode']]}_batch_size"])
        for row in record["results"]
    }
    for model in arguments.models:
        wanted = [
            (mode, size)
            for size in arguments.batch_sizes
            for mode in arguments.modes
            if (model, mode, size) not in done
        ]
        if not wanted:
            continue
        checked = [check for check in record["checks"] if check["model"] == model]
        known = (ZOO, *(check["peer"] for check in checked if not check["error"]))
        checks = compare(
            model,
            {
                n: c
                for n, c in present.items()
                if n == ZOO or n in arguments.peers and n not in known
            },
            arguments.limit,
        )
        again = {(check["model"], check["peer"]) for check in checks}
        kept = [c for c in record["checks"] if (c["model"], c["peer"]) not in again]
        record["checks"] = kept + checks
        save(record)
        excluded = absent | {check["peer"]: check["error"] for check in checks if check["error"]}
        for mode, batch_size in wanted:
            timings = time_one(arguments, commands, excluded, model, mode, batch_size)
            record["results"] += [timing.record(record["peak"]) for timing in timings]
            save(record)
    record["complete"] = True
    return record


def default_name(record: dict[str, Any]) -> str:
    """Return throughput_<model, or number of models>_<device>_<dtype>_<versions>.json."""
    models = list(dict.fromkeys(row["model"] for row in record["results"]))
    facts = record["environment"][ZOO]
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
    """Draw images/s over batch size in `folder`, one figure per model that was timed; return their paths."""
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
            title = f"{model}, {dtype}, {hardware(record['environment'][ZOO])}"
            throughput_curves(panels, path, title)
            paths.append(path)
    return paths


def compare(model: str, commands: dict[str, list[str]], limit: float) -> list[dict[str, Any]]:
    """Check whether each baseline has the parameter count and losses of the zoo's net."""
    checks: list[dict[str, Any]] = []
    if len(commands) == 1:
        return checks
    entry = zoo.get_entry(model)
    baselines = {name: command for name, command in commands.items() if name != ZOO}
    if entry.objective != "classification":
        return [{"model": model, "peer": name, "error": NOT_AVAILABLE} for name in baselines]
    num_classes = entry.num_classes
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "reference.npz")
        with Worker(commands[ZOO], timeout=limit) as worker:
            reference = worker.call(
                "reference",
                model=model,
                num_classes=num_classes,
                batch_size=CHECK_BATCH,
                path=path,
            )
        for name, command in baselines.items():
            check: dict[str, Any] = {"model": model, "peer": name, ZOO: reference}
            try:
                with Worker(command, timeout=limit) as worker:
                    found = worker.call("compare", model=model, num_classes=num_classes, path=path)
                check |= {"theirs": found, "error": difference(reference, found)}
            except WorkerError as error:
                check["error"] = str(error)
            checks.append(check)
            cli.say(f"{model}: {name} {check['error'] or 'is the same net: equal losses'}")
    return checks


def difference(reference: dict[str, Any], baseline: dict[str, Any]) -> str | None:
    """Describe how a baseline's net differs from the zoo's; None if it does not."""
    expected, found = reference["parameters"], baseline["parameters"]
    if expected != found:
        return f"is a different net: {found:,} parameters, the zoo's has {expected:,}"
    for name, tolerance in TOLERANCES.items():
        a, b = reference["losses"][name], baseline["losses"][name]
        if not abs(a - b) <= tolerance * max(1.0, abs(a)):
            return f"is a different net: its {name} loss is {b:.6f}, the zoo's {a:.6f}"
    return None


def time_one(
    arguments: Arguments,
    commands: dict[str, list[str]],
    excluded: dict[str, str],
    model: str,
    mode: str,
    batch_size: int,
) -> list[Timing]:
    """Build all implementations, then time them in turns. `excluded`: errors of those that are not timed."""
    entry = zoo.get_entry(model)
    shape = entry.input_shape
    if arguments.image_size and len(shape) == 3:
        shape = (arguments.image_size, arguments.image_size, shape[-1])
    size = shape[:2]
    timings = {
        name: Timing(model, name, mode, batch_size, size, arguments.dtype, error=excluded.get(name))
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
        if timings[ZOO].error is None:
            try:
                demand = workers[ZOO].call("demand")
                timings[ZOO].gflops, timings[ZOO].gbytes = demand["gflops"], demand["gbytes"]
            except WorkerError as error:
                cli.say(f"{model}: cannot count the operations ({error})")

    reference = timings[ZOO]
    for timing in timings.values():
        timing.gflops = reference.gflops
        if timing is not reference and timing.error is None and reference.error is None:
            pairs = zip(timing.step_times, reference.step_times, strict=True)
            timing.zoo_speedup = statistics.median(time / zoo_time for time, zoo_time in pairs)
    words = (
        f"{name} {t.error or f'{statistics.median(t.step_times):.1f} ms'}"
        for name, t in timings.items()
    )
    cli.say(f"{model} {mode} batch {batch_size}: {', '.join(words)}")
    return list(timings.values())


def take_turns(
    workers: dict[str, Worker], steps: dict[str, int], timings: dict[str, Timing], rounds: int
) -> None:
    """Fill in the step times. Each round starts with the next implementation."""
    names = list(workers)
    for number in range(rounds):
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            timing = timings[name]
            if timing.error is not None:
                continue
            try:
                # Not timed: after being stopped, the process has cold caches and must reallocate freed memory.
                workers[name].call("run", steps=1)
                seconds = workers[name].call("run", steps=steps[name])
                timing.step_times.append(1000 * seconds / steps[name])
                timing.peak_memory = workers[name].call("peak_memory")
            except WorkerError as error:
                timing.error = str(error)


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record as JSON, and its results as CSV next to it."""
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
    """Print the results as a table."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "mode", "batch", "implementation"):
        table.add_column(heading, no_wrap=True)
    for heading in ("images/s", "ms per step", "(min-max)", "zoo is", "GFLOP/s", "of peak"):
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
        f'{record["results"][0]["dtype"]}; medians over rounds; "zoo is": its speed over the baseline\'s, paired by'
        " round; GFLOP: XLA's count for the zoo's net with Flax's layers, multiply-adds as 2 and other operations; GB:"
        " XLA's count of the bytes read and written by that program, or by the baseline's, including cache hits; both"
        " rates may exceed the peak where caches or Winograd convolutions save work; peak of one device, measured"
        f" before: a large matrix product, {record['peak']['gflops_per_sec']:,.0f} GFLOP/s, and a large sum,"
        f" {record['peak']['gbytes_per_sec']:,.0f} GB/s"
    )


def rate_cells(row: dict[str, Any], unit: str) -> tuple[str, str]:
    """Format a rate and its fraction of the peak; empty if it was not counted."""
    speed, share = row[f"{unit}_per_sec"], row[f"{unit}_share_of_peak"]
    if not speed:
        return "", ""
    return (f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}", f"{share:.0%}")


if __name__ == "__main__":
    cli.main(main)
