"""Time training on 1 to N devices:

    python -m benchmarks.scaling --model sam_alexnet --batch-size 64 --out scaling.json
    python -m benchmarks.scaling --model sam_alexnet_tiny --simulate 4

Weak scaling gives every device --batch-size images; strong scaling splits a fixed batch among them. Efficiency is the
speed on n devices divided by n times the speed on one, paired by round. First, it is checked that the losses of a few
steps without dropout are equal for all numbers of devices.

--simulate splits the CPU into N devices. They share its cores, so times would be meaningless: only the losses are
compared.
"""

import dataclasses
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import zoo
from benchmarks import command
from benchmarks.workers import explain
from train import cli, flags
from train.recipe import InputError

CHECK_STEPS = 3
# Relative. The first losses differ by rounding, later ones by rounding errors that Adam amplifies.
TOLERANCE = 1e-4
DEVICE_FLAG = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    model: str = "sam_alexnet"
    """Registered image classifier."""
    batch_size: int = 16
    """Images per device in weak scaling. The batch of strong scaling is this times the least common multiple of the
    device counts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the net."""
    counts: tuple[int, ...] = ()
    """Numbers of devices (default: 1, 2, 4, ... and all)."""
    rounds: int = 5
    """Number of rounds; each number of devices has one turn per round."""
    seconds: float = 2.0
    """Approximate duration of a turn; at least one step."""
    simulate: int | None = None
    """Simulate this many devices on the CPU, and compare losses only."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.scaling", __doc__)
    cli.prepare_environment()
    check(arguments)
    if arguments.simulate:
        os.environ["JAX_PLATFORMS"] = "cpu"
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} {DEVICE_FLAG}={arguments.simulate}".strip()

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
    """Raise InputError for invalid flags, before any work."""
    if zoo.get_entry(arguments.model).objective != "classification":
        raise InputError(
            f"{arguments.model} samples latents, which differ between devices: use an image classifier"
        )
    if min(arguments.batch_size, arguments.rounds) < 1 or not arguments.seconds > 0:
        raise InputError("--batch-size and --rounds must be at least 1, --seconds above 0")
    if arguments.simulate is not None and arguments.simulate < 2:
        raise InputError(f"--simulate is {arguments.simulate}: use at least 2")
    if any(count < 1 for count in arguments.counts):
        raise InputError("--counts must be at least 1")
    command.check_out(arguments.out)


def device_counts(requested: Sequence[int], available: int) -> list[int]:
    """Return the numbers of devices in ascending order, including 1 as the reference."""
    if available == 1:
        raise InputError(
            "scaling needs more than one device, but JAX finds only one:"
            " use --simulate 4 to compare losses on simulated ones"
        )
    if any(count > available for count in requested):
        raise InputError(f"--counts has {max(requested)}, but JAX finds only {available} devices")
    powers = [2**n for n in range(available.bit_length()) if 2**n <= available]
    return sorted({1, *(requested or [*powers, available])})


def compare(model: str, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Compute the losses on each number of devices, and check whether they agree with those on one device."""
    from benchmarks.zoo_worker import Zoo

    entry = zoo.get_entry(model)
    # At least two images per device: a batch of a single image has no variance to normalize by.
    images = [2 * math.lcm(*counts), *entry.input_shape]
    rows: list[dict[str, Any]] = []
    for count in counts:
        losses = Zoo(use_cache=True, devices=count).losses(
            model, entry.num_classes, images, CHECK_STEPS
        )
        rows.append({"devices": count, "batch_size": images[0], "losses": losses})
    for row in rows:
        row["difference"] = max(
            abs(a - b) / max(abs(b), 1e-9)
            for a, b in zip(row["losses"], rows[0]["losses"], strict=True)
        )
        row["agree"] = row["difference"] <= TOLERANCE  # False for NaN
    return rows


def worker(count: int) -> Any:
    """Create a zoo worker on `count` devices, in this process."""
    from benchmarks.zoo_worker import Zoo

    return Zoo(devices=count)


def measure(
    arguments: Arguments, counts: Sequence[int], start: Callable[[int], Any]
) -> list[dict[str, Any]]:
    """Return one row per kind of scaling and number of devices; `start` creates a worker (`zoo_worker.Zoo`)."""
    rows = []
    for kind in ("weak", "strong"):
        fixed = arguments.batch_size * math.lcm(*counts)
        batches = {n: arguments.batch_size * n if kind == "weak" else fixed for n in counts}
        rows += scale(arguments, kind, batches, start)
    return rows


def scale(
    arguments: Arguments, kind: str, batches: dict[int, int], start: Callable[[int], Any]
) -> list[dict[str, Any]]:
    """Time all numbers of devices in turns. `batches` maps the number of devices to images per step."""
    entry = zoo.get_entry(arguments.model)
    rows: dict[int, dict[str, Any]] = {}
    workers, counts = {}, {}
    for devices, batch_size in batches.items():
        rows[devices] = {"scaling": kind, "devices": devices, "batch_size": batch_size}
        try:
            worker = start(devices)
            worker.build(
                arguments.model,
                entry.num_classes,
                "train",
                arguments.dtype,
                [batch_size, *entry.input_shape],
                seed=0,
            )
            worker.run(2)
            counts[devices] = max(1, round(arguments.seconds / worker.run(1)))
            workers[devices] = worker
        except Exception as error:
            rows[devices]["error"] = explain(error)
            cli.say(f"{kind}, {cli.count(devices, 'device')}: {rows[devices]['error']}")
    built = list(workers)
    times: dict[int, list[float]] = {devices: [] for devices in built}
    for number in range(arguments.rounds):
        first = number % max(len(built), 1)
        for devices in built[first:] + built[:first]:
            seconds = workers[devices].run(counts[devices])
            times[devices].append(1000 * seconds / counts[devices])
    for devices in built:
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
    """Print the results as tables."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    if record["results"]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("scaling", "devices", "batch", "images/s", "ms per step", "(min-max)"):
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
    losses.add_column("difference", justify="right")
    losses.add_column("")
    for row in record["checks"]:
        values = "  ".join(f"{value:.6f}" for value in row["losses"])
        verdict = "agrees" if row["agree"] else "DOES NOT AGREE"
        losses.add_row(str(row["devices"]), values, f"{row['difference']:.0e}", verdict)
    console.print(losses)
    kind = record["environment"]["devices"][0]
    print(f"{record['model']}, {record['dtype']}, {len(record['environment']['devices'])} x {kind}")
    if record["simulated"]:
        print("simulated devices: only losses were compared, since the devices share the CPU")


if __name__ == "__main__":
    cli.main(main)
