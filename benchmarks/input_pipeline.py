"""Time the way of images from files to batches, beside torchvision's:

    python -m benchmarks.input_pipeline --num-workers 1 2 4 --peers torchvision --out loading.json

JPEG photographs of 300x300 pixels are decoded, resized to 224x224 and batched, in shuffled order, as uint8;
nothing trains. Each side is a process of its own (torchvision's has workers of its own besides); they take turns
round by round, with every number of workers. "exact" resizes as Pillow does, bit for bit, and so does torchvision;
"pillow" is the same without the compiled loops that the extra `fast` brings; "fast" trades exactness for speed, and
its deviation from Pillow is printed.

Then the same for data that stay on the device: images of CIFAR's size from files (step by step) and from the
device's memory (resident), the input part alone.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import command
from benchmarks.workers import Worker, WorkerError, worker_command
from train import cli
from train.recipe import InputError

PHOTO_SIDE, PHOTO_QUALITY = 300, 90
CLASSES = 2
SMALL_SIDE = 32  # CIFAR's
BATCHES_A_TURN = 16


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    num_workers: tuple[int, ...] = (1, 2, 4)
    """Loading threads (the zoo's) and processes (torch's) to try; torch also loads in its main process."""
    decoders: tuple[Literal["exact", "pillow", "fast"], ...] = ("exact", "pillow", "fast")
    """The zoo's ways to decode and resize; "pillow" is "exact" without the extra `fast`."""
    peers: tuple[Literal["torchvision", "torchvision-float32"], ...] = ()
    """What to time beside the zoo: torchvision with images left uint8, as the zoo has them, or made float32 and
    normalised by the workers, as its documentation has it."""
    images: int = 1000
    """How many photographs to make."""
    data: Path | None = None
    """A folder of images with one folder a class to read instead of those made here, or a .zip without peers."""
    image_size: int = 224
    """Height and width of what comes out."""
    batch_size: int = 64
    """Images a batch."""
    resident_images: int = 20_000
    """Images of 32x32 for the comparison of step by step and resident; 0 leaves it out."""
    rounds: int = 5
    """How often each side has its turn."""
    torch_python: Path | None = None
    """Interpreter of an environment with torch, torchvision and NumPy (default: this one)."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.input_pipeline", description=__doc__
    )
    cli.prepare_environment()
    check(arguments)
    record = measure(arguments)
    command.write(record, arguments.out)
    show(record)


def check(arguments: Arguments) -> None:
    """InputError for what cannot be timed."""
    command.check_at_least_one(arguments, ("images", "image_size", "batch_size", "rounds"))
    if not arguments.num_workers or min(arguments.num_workers) < 1:
        raise InputError("--num-workers has to name counts of at least 1")
    if arguments.data is None:
        command.check_images(arguments.images, arguments.batch_size)
    if arguments.data and arguments.peers and not arguments.data.is_dir():
        raise InputError(f"--data {arguments.data} is no folder, which torchvision needs")
    command.check_torch_python(arguments.torch_python)
    command.check_out(arguments.out)


def measure(arguments: Arguments) -> dict[str, Any]:
    """Everything that is asked for; plain data."""
    head = command.head("benchmarks.input_pipeline", environment=False)
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or make_photographs(Path(folder, "photographs"), arguments.images)
        if arguments.data:
            head["command"] = head["command"].replace(str(data), f"$DATA/{data.name}")
        record = {
            **head,
            "images": f"{PHOTO_SIDE}x{PHOTO_SIDE} JPEG" if not arguments.data else data.name,
            "image_size": arguments.image_size,
            "batch_size": arguments.batch_size,
            **loading(arguments, data),
        }
        if "fast" in arguments.decoders:
            record["fast_deviation"] = deviation(data, arguments.image_size)
        if arguments.resident_images:
            record["resident"] = resident(Path(folder, "small"), arguments)
    return record


def loading(arguments: Arguments, data: Path) -> dict[str, Any]:
    """Images/s of every side with every number of workers, in turns."""
    zoo_side = worker_command("benchmarks.loading")
    peer = worker_command("benchmarks.peers.torch_loading", python=arguments.torch_python)
    sides: list[tuple[str, list[str], str, int]] = [
        (f"zoo, {decoder}", zoo_side, decoder, workers)
        for decoder in arguments.decoders
        for workers in arguments.num_workers
    ]
    for name in map(str, arguments.peers):
        output = "float32" if name.endswith("float32") else "exact"
        sides += [(name, peer, output, workers) for workers in (0, *arguments.num_workers)]
    environment: dict[str, Any] = {}
    results = []
    with contextlib.ExitStack() as stack:
        running = []
        for name, command, decoder, num_workers in sides:
            row: dict[str, Any] = {"side": name, "workers": num_workers}
            results.append(row)
            try:
                worker = stack.enter_context(Worker(command))
                environment.setdefault(name.split(",")[0], worker.call("describe"))
                worker.call(
                    "build",
                    path=str(data.resolve()),
                    num_workers=num_workers,
                    image_size=arguments.image_size,
                    batch_size=arguments.batch_size,
                    decoder=decoder,
                )
                running.append((row, worker))
            except WorkerError as error:
                row["error"] = str(error)
                cli.say(f"{name}, {num_workers} workers: {row['error']}")
        for number in range(arguments.rounds):
            first = number % max(len(running), 1)
            for row, worker in running[first:] + running[:first]:
                seconds = worker.call("run", batches=BATCHES_A_TURN)
                row.setdefault("seconds", []).append(seconds)
        for row, worker in running:
            speed = BATCHES_A_TURN * arguments.batch_size / statistics.median(row["seconds"])
            row["images_per_second"] = round(speed, 1)
            row["peak_memory_mb"] = round(worker.call("peak_memory"), 1)
            row["seconds"] = [round(s, 4) for s in row["seconds"]]
    best = {
        side: max(r["images_per_second"] for r in results if r["side"] == side and "seconds" in r)
        for side in dict.fromkeys(r["side"] for r in results if "seconds" in r)
    }
    return {"environment": environment, "results": results, "best": best}


def make_photographs(folder: Path, count: int, side: int = PHOTO_SIDE) -> Path:
    """A folder of JPEG files with the detail of photographs: drawn pigs with the grain of a sensor."""
    import numpy as np
    from PIL import Image

    from datasets.named import synthetic_pigs

    cli.say(f"making {count} images of {side}x{side} ...")
    rng = np.random.default_rng(0)
    pictures = [
        np.asarray(
            Image.fromarray(synthetic_pigs.draw("train", index)).resize((side, side)), np.float32
        )
        for index in range(20)
    ]
    for index in range(count):
        pixels = pictures[index % len(pictures)] + rng.normal(0, 8, (side, side, 1))
        path = folder / f"class{index % CLASSES}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(path, quality=PHOTO_QUALITY)
    return folder


def deviation(data: Path, side: int, count: int = 200) -> dict[str, float]:
    """How far the fast decoder is from Pillow, in grey levels, over some images."""
    import numpy as np

    from datasets import ResizeRule, load_dataset

    split = load_dataset(data).splits["train"]
    rule = ResizeRule((side, side))
    count = min(count, len(split))
    errors = [
        np.abs(split.resized(i, rule).astype(int) - split.resized(i, rule, "fast"))
        for i in range(count)
    ]
    return {
        "images": count,
        "mean": round(float(np.mean([e.mean() for e in errors])), 3),
        "99th_percentile": float(np.percentile(np.concatenate([e.ravel() for e in errors]), 99)),
        "largest": int(max(e.max() for e in errors)),
    }


def resident(folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Images/s of small images: decoded for each step and sent to the device, and taken from its memory."""
    import jax
    import jax.numpy as jnp

    from datasets import ResizeRule, load_dataset
    from datasets.pipeline import ImageSamples, TrainBatches, epoch_order, load_arrays
    from train.engine.parallel import Devices

    make_photographs(folder, arguments.resident_images, SMALL_SIDE)
    split = load_dataset(folder).splits["train"]
    samples = ImageSamples(split, ResizeRule((SMALL_SIDE, SMALL_SIDE)))
    batch = 2 * arguments.batch_size
    steps = len(split) // batch
    devices = Devices()

    @jax.jit
    def use(images: jax.Array) -> jax.Array:
        """The first thing that any step does, and no more."""
        return images.astype(jnp.float32).sum()

    @jax.jit
    def epoch(images: jax.Array, order: jax.Array) -> jax.Array:
        def body(step: jax.Array, total: jax.Array) -> jax.Array:
            return total + use(images[order[step]])

        return jax.lax.fori_loop(0, len(order), body, jnp.float32(0))

    batches = TrainBatches(samples, batch_size=batch, seed=0, num_epochs=2 * arguments.rounds + 2)
    iterator = batches.iterate()

    def from_files() -> None:
        for _ in range(steps):
            use(devices.split(next(iterator))["image"]).block_until_ready()

    images = devices.replicate(load_arrays(samples)[0])

    def from_memory() -> None:
        order = epoch_order(len(split), seed=0, epoch=0)[: steps * batch].reshape(steps, batch)
        epoch(images, order.astype("int32")).block_until_ready()

    seconds: dict[str, list[float]] = {"stepwise": [], "resident": []}
    for number in range(arguments.rounds + 1):
        for name, run in (("stepwise", from_files), ("resident", from_memory)):
            began = time.perf_counter()
            run()
            if number:  # the first compiles
                seconds[name].append(time.perf_counter() - began)
    speeds = {name: steps * batch / statistics.median(s) for name, s in seconds.items()}
    return {
        "images": f"{SMALL_SIDE}x{SMALL_SIDE} JPEG",
        "batch_size": batch,
        "device": devices.devices[0].device_kind,
        "stepwise_images_per_second": round(speeds["stepwise"], 1),
        "resident_images_per_second": round(speeds["resident"], 1),
        "ratio": round(speeds["resident"] / speeds["stepwise"], 1),
    }


def show(record: dict[str, Any]) -> None:
    """The results as tables on stdout."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("side")
    for heading in ("workers", "images/s", "(least-most)", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    turn = BATCHES_A_TURN * record["batch_size"]
    for row in record["results"]:
        if "error" in row:
            table.add_row(row["side"], str(row["workers"]), escape(row["error"]))
            continue
        table.add_row(
            row["side"],
            str(row["workers"]),
            f"{row['images_per_second']:,.0f}",
            f"{turn / max(row['seconds']):,.0f}-{turn / min(row['seconds']):,.0f}",
            f"{row['peak_memory_mb']:,.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    best = record["best"]
    for peer in (side for side in best if side.startswith("torchvision")):
        for side in (side for side in best if side.startswith("zoo")):
            ratio = best[side] / best[peer]
            print(f"{side}: {ratio:.2f} x {peer}, each with its best number of workers")
    if "fast_deviation" in record:
        d = record["fast_deviation"]
        print(
            f"fast differs from Pillow by {d['mean']} grey levels on average, by at most"
            f" {d['99th_percentile']:g} in 99 % of the pixels and by {d['largest']} in one"
        )
    if "resident" in record:
        r = record["resident"]
        print(
            f"{r['images']} images, batch {r['batch_size']}, {r['device']}: step by step"
            f" {r['stepwise_images_per_second']:,.0f}, resident {r['resident_images_per_second']:,.0f}"
            f" images/s, {r['ratio']:.1f} x"
        )


if __name__ == "__main__":
    cli.main(main)
