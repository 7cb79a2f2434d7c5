"""Time whole epochs, from image files to updated weights, beside a torch DataLoader loop:

    python -m benchmarks.epoch --peers torch --num-workers 0 2 --out epoch.json

JPEG files of CIFAR's size are made (or --data names a folder); each side opens them, resizes them to the net's
size and trains on all of them, shuffled, without augmentation. "stepwise" loads batches ahead while the device
works; "resident" loads all images into the device's memory once and runs an epoch as one program. "Until
training" is the time of opening, and on the zoo's side of compiling and of that loading. torch's side is tried
with each of --num-workers, and the fastest counts. The nets are first shown to be the same, as in
benchmarks.throughput. Each side is a process of its own; they take turns epoch by epoch, after one epoch
outside the timing.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro

import zoo
from benchmarks import command
from benchmarks.peers import PEERS
from benchmarks.throughput import compare, worker_commands
from benchmarks.workers import Worker, WorkerError, worker_command
from train import cli
from train.recipe import InputError

FILE_SIDE = 32  # CIFAR's


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    model: str = "deconv_alexnet_2"
    """Registered classifier of images."""
    batch_size: int = 128
    """Images a step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the nets compute in."""
    images: int = 20_000
    """How many files to make."""
    data: Path | None = None
    """A folder of images with one folder a class, or parts of such, to read instead."""
    feeds: tuple[Literal["stepwise", "resident"], ...] = ("stepwise", "resident")
    """The zoo's ways of feeding."""
    peers: tuple[Literal["torch", "torch-compile"], ...] = ()
    """What to time beside the zoo."""
    num_workers: tuple[int, ...] = (0, 2)
    """Loading processes of torch to try; 0 loads in its main process."""
    rounds: int = 3
    """How many epochs of each side are timed."""
    limit: float = 600.0
    """Seconds that a side may take to begin with, and for an epoch."""
    torch_python: Path | None = None
    """Interpreter of an environment with torch, torchvision and NumPy (default: this one)."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.epoch", description=__doc__
    )
    cli.prepare_environment()
    check(arguments)
    record = measure(arguments)
    command.write(record, arguments.out)
    show(record)


def check(arguments: Arguments) -> None:
    """InputError for what cannot be timed, before any work."""
    if zoo.get_entry(arguments.model).objective != "classification":
        raise InputError(f"{arguments.model} gives no classes: give a classifier of images")
    command.check_at_least_one(arguments, ("batch_size", "images", "rounds"))
    if not arguments.limit > 0:
        raise InputError(f"--limit is {arguments.limit:g}: give more than 0 seconds")
    if not arguments.feeds:
        raise InputError("--feeds is empty: give at least one")
    if arguments.peers and (not arguments.num_workers or min(arguments.num_workers) < 0):
        raise InputError("--num-workers has to name counts of at least 0")
    if arguments.data is None:
        command.check_images(arguments.images, arguments.batch_size)
    if arguments.data and not arguments.data.is_dir():
        raise InputError(f"--data {arguments.data} is no folder")
    command.check_torch_python(arguments.torch_python)
    command.check_out(arguments.out)


def measure(arguments: Arguments, commands: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """Everything that is asked for; plain data. `commands`: how each side's process is started."""
    head = command.head("benchmarks.epoch", environment=False)
    checks = []
    if arguments.peers and commands is None:
        steps = worker_commands(arguments.peers, arguments.torch_python)
        checks = compare(arguments.model, steps, arguments.limit)
    refused = {check["peer"]: check["error"] for check in checks if check["error"]}
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            from benchmarks.input_pipeline import make_photographs

            data = make_photographs(Path(folder, "images"), arguments.images, FILE_SIDE)
        else:
            head["command"] = head["command"].replace(str(data), f"$DATA/{data.name}")
        return {
            **head,
            "model": arguments.model,
            "batch_size": arguments.batch_size,
            "dtype": arguments.dtype,
            "data": data.name if arguments.data else f"{FILE_SIDE}x{FILE_SIDE} JPEG",
            "checks": checks,
            **epochs(arguments, data, commands or epoch_commands(arguments), refused),
        }


def epoch_commands(arguments: Arguments) -> dict[str, list[str]]:
    """How each side's process is started."""
    commands = {"zoo": worker_command("benchmarks.epoch_worker")}
    for peer in arguments.peers:
        commands[peer] = worker_command(
            "benchmarks.peers.torch_epoch", *PEERS[peer][1], python=arguments.torch_python
        )
    return commands


def epochs(
    arguments: Arguments, data: Path, commands: dict[str, list[str]], refused: dict[str, str]
) -> dict[str, Any]:
    """Seconds an epoch of every side, in turns."""
    entry = zoo.get_entry(arguments.model)
    same = {
        "path": str(data.resolve()),
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "dtype": arguments.dtype,
    }
    sides: list[tuple[str, dict[str, Any]]] = [("zoo", {"feed": feed}) for feed in arguments.feeds]
    sides += [(p, {"num_workers": n}) for p in arguments.peers for n in arguments.num_workers]
    environment: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    first: dict[str, Any] | None = None  # what the zoo's side says of the data
    with contextlib.ExitStack() as stack:
        running = []
        for name, setting in sides:
            row: dict[str, Any] = {"side": name, **setting}
            results.append(row)
            try:
                if name in refused:
                    raise WorkerError(refused[name])
                if name != "zoo" and first is None:
                    raise WorkerError("not timed: the zoo's side failed, which counts the images")
                worker = stack.enter_context(Worker(commands[name], timeout=arguments.limit))
                if name not in environment:
                    environment[name] = worker.call("describe")
                if name != "zoo":
                    assert first is not None
                    setting = setting | {
                        "images": first["images"],
                        "classes": first["classes"],
                        "image_size": list(entry.input_shape[:2]),
                    }
                built = worker.call("build_epoch", **same, **setting)
            except WorkerError as error:
                row["error"] = str(error)
                cli.say(f"{label(row)}: {row['error']}")
                continue
            first = first or built
            row |= {"images": built["images"], "seconds_until_training": round(built["seconds"], 3)}
            running.append((row, worker))
        for number in range(arguments.rounds):
            turn = number % max(len(running), 1)
            for row, worker in running[turn:] + running[:turn]:
                if "error" in row:
                    continue
                try:
                    found = worker.call("run_epoch")
                except WorkerError as error:
                    row["error"] = str(error)
                    continue
                row.setdefault("seconds", []).append(round(found["seconds"], 4))
                row.setdefault("losses", []).append(round(found["loss"], 5))
        for row, worker in running:
            if "error" not in row:
                row["epoch_seconds"] = statistics.median(row["seconds"])
                row["samples_per_sec"] = round(row["images"] / row["epoch_seconds"], 1)
                row["peak_memory_mb"] = round(worker.call("peak_memory"), 1)
    return {"environment": environment, "results": results, "speedups": speedups(results)}


def speedups(results: list[dict[str, Any]]) -> dict[str, float]:
    """Of the zoo's ways over each peer's fastest, paired by round, median."""
    timed = [row for row in results if "epoch_seconds" in row]
    found = {}
    for peer in dict.fromkeys(row["side"] for row in timed if row["side"] != "zoo"):
        best = min((r for r in timed if r["side"] == peer), key=lambda r: r["epoch_seconds"])
        for ours in (row for row in timed if row["side"] == "zoo"):
            pairs = zip(best["seconds"], ours["seconds"], strict=True)
            ratio = statistics.median(theirs / mine for theirs, mine in pairs)
            found[f"{ours['feed']} over {peer}"] = round(ratio, 3)
    return found


def label(row: dict[str, Any]) -> str:
    """A side in words."""
    if "feed" in row:
        return f"{row['side']}, {row['feed']}"
    return f"{row['side']}, {cli.count(row['num_workers'], 'worker')}"


def show(record: dict[str, Any]) -> None:
    """The results on stdout."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("side", no_wrap=True)
    for heading in ("s an epoch", "(least-most)", "images/s", "until training, s", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in record["results"]:
        if "error" in row:
            table.add_row(label(row), escape(row["error"]))
            continue
        table.add_row(
            label(row),
            f"{row['epoch_seconds']:,.2f}",
            f"{min(row['seconds']):,.2f}-{max(row['seconds']):,.2f}",
            f"{row['samples_per_sec']:,.0f}",
            f"{row['seconds_until_training']:,.1f}",
            f"{row['peak_memory_mb']:,.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for pair, ratio in record["speedups"].items():
        print(f"{pair}: {ratio:.2f} x, with the peer's best number of workers")
    images = next((row["images"] for row in record["results"] if "images" in row), 0)
    print(
        f"{record['model']}, batch {record['batch_size']}, {record['dtype']}, an epoch of {images:,} images"
        f" ({record['data']}); medians"
    )


if __name__ == "__main__":
    cli.main(main)
