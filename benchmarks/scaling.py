"""Time training on 1 to N devices:

    python -m benchmarks.scaling --model sam_alexnet --batch-size 64 --out scaling.json
    python -m benchmarks.scaling --model sam_alexnet_tiny --simulate 4

Weak scaling gives every device --batch-size images, strong scaling shares a batch that stays the same among
them. Efficiency is the speed on n devices over n times that on one, paired by round. The losses of a few steps
without dropout are first shown to be the same on any number of devices.

--simulate makes N devices of one CPU. They share its cores, so that their times mean nothing: only the losses
are compared then, and no time is taken.
"""

import dataclasses
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

import zoo
from benchmarks import command
from benchmarks.workers import explain
from train import cli
from train.recipe import InputError

CHECK_STEPS = 3
TOLERANCE = (
    1e-4  # relative; the first losses differ by rounding, later ones by what Adam makes of it
)
DEVICE_FLAG = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    model: str = "sam_alexnet"
    """Registered classifier of images."""
    batch_size: int = 16
    """Images a device in weak scaling; strong scaling shares this times the common multiple of the counts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the net computes in."""
    counts: tuple[int, ...] = ()
    """Numbers of devices (default: 1, 2, 4, ... and all)."""
    rounds: int = 5
    """How often each number of devices has its turn."""
    seconds: float = 2.0
    """How long a turn lasts, roughly; at least one step."""
    simulate: int | None = None
    """Make so many devices of the CPU, and compare losses only."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.scaling", description=__doc__
    )
    cli.prepare_environment()
    check(arguments)
    if arguments.simulate:
        os.environ["JAX_PLATFORMS"] = "cpu"
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} {DEVICE_FLAG}={arguments.simulate}".strip()

    import jax

    devices = jax.local_devices()
    counts = device_counts(arguments.counts, len(devices))
    simulated = devices[0].platform == "cpu"
    record = {
        **command.head("benchmarks.scaling", warn=not simulated),
        "model": arguments.model,
        "dtype": arguments.dtype,
        "simulated": simulated,
        "checks": compare(arguments.model, counts),
        "results": [] if simulated else measure(arguments, counts, worker),
    }
    command.write(record, arguments.out)
    show(record)
    if not all(row["agree"] for row in record["checks"]):
        raise cli.RunError("the losses depend on the number of devices: see the table")


def check(arguments: Arguments) -> None:
    """InputError for what cannot be timed, before any work."""
    if zoo.get_entry(arguments.model).objective != "classification":
        raise InputError(
            f"{arguments.model} draws random latents, which differ from device to device:"
            " give a classifier of images"
        )
    if min(arguments.batch_size, arguments.rounds) < 1 or not arguments.seconds > 0:
        raise InputError("--batch-size and --rounds have to be at least 1, --seconds above 0")
    if arguments.simulate is not None and arguments.simulate < 2:
        raise InputError(f"--simulate is {arguments.simulate}: give at least 2")
    if any(count < 1 for count in arguments.counts):
        raise InputError("--counts has to name numbers of at least 1")
    command.check_out(arguments.out)


def device_counts(asked: Sequence[int], available: int) -> list[int]:
    """Numbers of devices in rising order, 1 among them: what the others are compared with."""
    if available == 1:
        raise InputError(
            "scaling needs several devices and this machine shows one:"
            " give --simulate 4 to compare losses on simulated ones"
        )
    if any(count > available for count in asked):
        raise InputError(f"--counts has {max(asked)}, and this machine shows {available} devices")
    powers = [2**n for n in range(available.bit_length()) if 2**n <= available]
    return sorted({1, *(asked or [*powers, available])})


def compare(model: str, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Losses on each number of devices, and whether they are those of one."""
    from benchmarks.zoo_worker import Zoo

    entry = zoo.get_entry(model)
    # Two images a device at least: a batch-norm of one has no variance.
    images = [2 * math.lcm(*counts), *entry.input_shape]
    rows: list[dict[str, Any]] = []
    for count in counts:
        side = Zoo(use_cache=True, devices=count)
        losses = side.losses(model, entry.num_classes, images, CHECK_STEPS)
        rows.append({"devices": count, "batch_size": images[0], "losses": losses})
    for row in rows:
        row["difference"] = max(
            abs(a - b) / max(abs(b), 1e-9)
            for a, b in zip(row["losses"], rows[0]["losses"], strict=True)
        )
        row["agree"] = row["difference"] <= TOLERANCE  # NaN does not
    return rows


def worker(count: int) -> Any:
    """The zoo's side on so many devices."""
    from benchmarks.zoo_worker import Zoo

    return Zoo(devices=count)


def measure(
    arguments: Arguments, counts: Sequence[int], start: Callable[[int], Any]
) -> list[dict[str, Any]]:
    """A row a kind of scaling and number of devices; `start` gives a side (zoo_worker.Zoo)."""
    rows = []
    for kind in ("weak", "strong"):
        shared = arguments.batch_size * math.lcm(*counts)
        batches = {n: arguments.batch_size * n if kind == "weak" else shared for n in counts}
        rows += scale(arguments, kind, batches, start)
    return rows


def scale(
    arguments: Arguments, kind: str, batches: dict[int, int], start: Callable[[int], Any]
) -> list[dict[str, Any]]:
    """Let every number of devices take its turn. `batches`: images a step on so many devices."""
    entry = zoo.get_entry(arguments.model)
    rows: dict[int, dict[str, Any]] = {}
    sides, counts = {}, {}
    for devices, batch_size in batches.items():
        rows[devices] = {"scaling": kind, "devices": devices, "batch_size": batch_size}
        try:
            side = start(devices)
            side.build(
                arguments.model,
                entry.num_classes,
                "train",
                arguments.dtype,
                [batch_size, *entry.input_shape],
                seed=0,
            )
            side.run(2)
            counts[devices] = max(1, round(arguments.seconds / side.run(1)))
            sides[devices] = side
        except Exception as error:
            rows[devices]["error"] = explain(error)
            cli.say(f"{kind}, {cli.count(devices, 'device')}: {rows[devices]['error']}")
    names = list(sides)
    times: dict[int, list[float]] = {devices: [] for devices in names}
    for number in range(arguments.rounds):
        first = number % max(len(names), 1)
        for devices in names[first:] + names[:first]:
            seconds = sides[devices].run(counts[devices])
            times[devices].append(1000 * seconds / counts[devices])
    for devices in names:
        step = statistics.median(times[devices])
        rows[devices] |= {
            "train_step_time": round(step, 3),
            "train_step_times": [round(t, 3) for t in times[devices]],
            "train_samples_per_sec": round(1000 * batches[devices] / step, 2),
            "efficiency": None,
        }
        if 1 in times:
            work = batches[devices] / batches[1]
            pairs = zip(times[1], times[devices], strict=True)
            rows[devices]["efficiency"] = round(
                statistics.median(work * one / (devices * many) for one, many in pairs), 4
            )
    return list(rows.values())


def show(record: dict[str, Any]) -> None:
    """The results on stdout."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    if record["results"]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("scaling", "devices", "batch", "images/s", "ms a step", "(least-most)"):
            table.add_column(heading, justify="left" if heading == "scaling" else "right")
        table.add_column("efficiency", justify="right")
        for row in record["results"]:
            names = [row["scaling"], str(row["devices"]), str(row["batch_size"])]
            if "error" in row:
                table.add_row(*names, escape(row["error"]))
                continue
            times = row["train_step_times"]
            table.add_row(
                *names,
                f"{row['train_samples_per_sec']:,.1f}",
                f"{row['train_step_time']:,.1f}",
                f"{min(times):,.1f}-{max(times):,.1f}",
                "" if row["efficiency"] is None else f"{row['efficiency']:.0%}",
            )
        console.print(table)
    losses = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    losses.add_column("devices", justify="right")
    losses.add_column(f"losses of {CHECK_STEPS} steps", justify="right")
    losses.add_column("off by", justify="right")
    losses.add_column("")
    for row in record["checks"]:
        values = "  ".join(f"{value:.6f}" for value in row["losses"])
        verdict = "agrees" if row["agree"] else "DOES NOT AGREE"
        losses.add_row(str(row["devices"]), values, f"{row['difference']:.0e}", verdict)
    console.print(losses)
    kind = record["environment"]["devices"][0]
    print(f"{record['model']}, {record['dtype']}, {len(record['environment']['devices'])} x {kind}")
    if record["simulated"]:
        print("simulated devices: losses compared; nothing was timed, since they share the CPU")


if __name__ == "__main__":
    cli.main(main)
