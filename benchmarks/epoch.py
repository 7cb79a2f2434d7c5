"""Time full epochs, from image files to updated weights, against a torch DataLoader loop:

    python -m benchmarks.epoch --peers torch --num-workers 0 2 --out epoch.json

JPEG files of CIFAR's size are created (or read from --data). Each implementation opens them, resizes them to the
net's input size and trains on all of them, shuffled, without augmentation. "streamed" prefetches batches while the
device computes; "cached" loads all images into device memory once and runs an epoch as one program. The time until
training includes opening the files and, for the zoo, compiling and loading the cache. torch runs with each of
--num-workers, and the fastest one is compared; torch-graph also keeps the images in device memory, and replays its
training step as a CUDA graph. With --crops 6, an epoch has six random crops of each image. The nets are first checked
to be equal, as in benchmarks.throughput. Each implementation runs in its own process. They take turns after each epoch;
the first epoch is not timed.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import zoo
from benchmarks import command
from benchmarks.peers import BASELINES
from benchmarks.throughput import compare, worker_commands
from benchmarks.workers import Worker, WorkerError, worker_command
from train import cli, flags
from train.recipe import InputError

FILE_SIZE = 32  # pixels, as CIFAR's
GRAPH = "torch-graph"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    model: str = "deconv_alexnet_2"
    """Registered image classifier."""
    batch_size: int = 128
    """Images per step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the nets."""
    images: int = 20_000
    """Number of training files to create."""
    data: Path | None = None
    """Image folder to read instead, with one subfolder per class, or with splits of one subfolder per class."""
    feeds: tuple[Literal["streamed", "cached"], ...] = ("streamed", "cached")
    """Feeding modes of the zoo to time."""
    peers: tuple[Literal["torch", "torch-compile", "torch-graph"], ...] = ()
    """Baselines to time."""
    crops: int = 1
    """Random crops of each image per epoch, from files of 32x32 pixels; 1: no crops, images are resized. Of the
    baselines, only torch-graph supports crops."""
    num_workers: tuple[int, ...] = (0, 2)
    """Numbers of torch's loader processes to try; 0 loads in the main process."""
    rounds: int = 3
    """Number of timed epochs per implementation."""
    limit: float = 600.0
    """Time limit in seconds for building an implementation, and for each epoch."""
    torch_python: Path | None = None
    """Interpreter of an environment with torch, torchvision and NumPy (default: this one)."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.epoch", __doc__)
    cli.prepare_environment()
    check(arguments)
    record = measure(arguments)
    command.write(record, arguments.out)
    show(record)


def check(arguments: Arguments) -> None:
    """Raise InputError for invalid flags, before any work."""
    if zoo.get_entry(arguments.model).objective != "classification":
        raise InputError(f"{arguments.model} is not a classifier: use an image classifier")
    command.check_at_least_one(arguments, ("batch_size", "images", "rounds", "crops"))
    if arguments.crops > 1:
        size = zoo.get_entry(arguments.model).input_shape[0]
        if size > FILE_SIZE:
            raise InputError(
                f"--crops needs a model for at most {FILE_SIZE} pixels, and {arguments.model} has {size}"
            )
        if set(arguments.peers) - {GRAPH}:
            raise InputError(f"--crops: of the baselines, only {GRAPH} has random crops")
    if not arguments.limit > 0:
        raise InputError(f"--limit is {arguments.limit:g}: use more than 0 seconds")
    if not arguments.feeds:
        raise InputError("--feeds is empty: use at least one")
    if set(arguments.peers) - {GRAPH} and (
        not arguments.num_workers or min(arguments.num_workers) < 0
    ):
        raise InputError("--num-workers must have one or more counts of at least 0")
    if arguments.data is None:
        command.check_images(arguments.images, arguments.batch_size)
    if arguments.data and not arguments.data.is_dir():
        raise InputError(f"--data {arguments.data} is not a folder")
    command.check_torch_python(arguments.torch_python)
    command.check_out(arguments.out)


def measure(arguments: Arguments, commands: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """Run the benchmark and return its record. `commands`: the command of each implementation's worker."""
    head = command.head("benchmarks.epoch", environment=False)
    checks = []
    if arguments.peers and commands is None:
        checked = tuple(dict.fromkeys("torch" if p == GRAPH else p for p in arguments.peers))
        steps = worker_commands(checked, arguments.torch_python)
        checks = compare(arguments.model, steps, arguments.limit)
    excluded = {check["peer"]: check["error"] for check in checks if check["error"]}
    if "torch" in excluded:
        excluded[GRAPH] = excluded["torch"]
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            from benchmarks.input_pipeline import CLASSES, make_photographs

            # If the data have splits, all images in train/ are used for training.
            data = Path(folder, "images")
            for split, count in {
                "train": arguments.images,
                "validation": CLASSES,
                "test": CLASSES,
            }.items():
                make_photographs(data / split, count, FILE_SIZE)
        else:
            head["command"] = head["command"].replace(str(data), f"$DATA/{data.name}")
        return {
            **head,
            "model": arguments.model,
            "batch_size": arguments.batch_size,
            "dtype": arguments.dtype,
            "crops": arguments.crops,
            "data": data.name if arguments.data else f"{FILE_SIZE}x{FILE_SIZE} JPEG",
            "checks": checks,
            **epochs(arguments, data, commands or epoch_commands(arguments), excluded),
        }


def epoch_commands(arguments: Arguments) -> dict[str, list[str]]:
    """Return the command of each implementation's worker."""
    commands = {"zoo": worker_command("benchmarks.epoch_worker")}
    for name in arguments.peers:
        module = "torch_graph" if name == GRAPH else "torch_epoch"
        words = () if name == GRAPH else BASELINES[name][1]
        commands[name] = worker_command(
            f"benchmarks.peers.{module}", *words, python=arguments.torch_python
        )
    return commands


def epochs(
    arguments: Arguments, data: Path, commands: dict[str, list[str]], excluded: dict[str, str]
) -> dict[str, Any]:
    """Time the epochs of all implementations in turns. `excluded`: why a baseline cannot be compared."""
    entry = zoo.get_entry(arguments.model)
    common = {
        "path": str(data.resolve()),
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "dtype": arguments.dtype,
        "crops": arguments.crops,
    }
    cases: list[tuple[str, dict[str, Any]]] = [("zoo", {"feed": feed}) for feed in arguments.feeds]
    cases += [
        (p, {"num_workers": n})
        for p in arguments.peers
        for n in ((0,) if p == GRAPH else arguments.num_workers)
    ]
    environment: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    counts: dict[str, Any] | None = None  # images and classes, from the zoo's worker
    with contextlib.ExitStack() as stack:
        running = []
        for name, setting in cases:
            row: dict[str, Any] = {"side": name, **setting}
            results.append(row)
            try:
                if name in excluded:
                    raise WorkerError(excluded[name])
                if name != "zoo" and counts is None:
                    raise WorkerError("not timed: the zoo, which counts the images, failed")
                worker = stack.enter_context(Worker(commands[name], timeout=arguments.limit))
                if name not in environment:
                    environment[name] = worker.call("describe")
                if name != "zoo":
                    assert counts is not None
                    setting = setting | {
                        "images": counts["images"],
                        "classes": counts["classes"],
                        "image_size": list(entry.input_shape[:2]),
                    }
                built = worker.call("build_epoch", **common, **setting)
            except WorkerError as error:
                row["error"] = str(error)
                cli.say(f"{label(row)}: {row['error']}")
                continue
            counts = counts or built
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
    """Return the speedup of each feeding mode over each baseline's fastest setting: median, paired by round."""
    timed = [row for row in results if "epoch_seconds" in row]
    found = {}
    for baseline in dict.fromkeys(row["side"] for row in timed if row["side"] != "zoo"):
        best = min((r for r in timed if r["side"] == baseline), key=lambda r: r["epoch_seconds"])
        for row in (row for row in timed if row["side"] == "zoo"):
            pairs = zip(best["seconds"], row["seconds"], strict=True)
            ratio = statistics.median(slow / fast for slow, fast in pairs)
            found[f"{row['feed']} over {baseline}"] = round(ratio, 3)
    return found


def label(row: dict[str, Any]) -> str:
    """Return the display name of a result: implementation and setting."""
    if "feed" in row:
        return f"{row['side']}, {row['feed']}"
    if row["side"] == GRAPH:
        return f"{GRAPH}, cached"
    return f"{row['side']}, {cli.count(row['num_workers'], 'worker')}"


def show(record: dict[str, Any]) -> None:
    """Print the results as a table."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("implementation", no_wrap=True)
    for heading in ("s per epoch", "(min-max)", "images/s", "s until training", "peak MB"):
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
        print(f"{pair}: {ratio:.2f} x, with the baseline's fastest setting")
    images = next((row["images"] for row in record["results"] if "images" in row), 0)
    print(
        f"{record['model']}, batch {record['batch_size']}, {record['dtype']}, {images:,} images per epoch"
        f" ({record['data']}); medians"
    )


if __name__ == "__main__":
    cli.main(main)
