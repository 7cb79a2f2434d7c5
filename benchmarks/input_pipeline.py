"""Time image loading, from JPEG files to batches, against torchvision:

    python -m benchmarks.input_pipeline --num-workers 1 2 4 --peers torchvision --out loading.json

JPEG photographs of 300x300 pixels are decoded, resized to 224x224 and batched in shuffled order as uint8, without
training. Each loader runs in its own process (torchvision's starts additional worker processes). The loaders take turns
in each round, with every number of workers. "exact" matches Pillow's resize bit for bit, as does torchvision; "pillow"
is the same without the compiled loops of the extra `fast`; "fast" trades exactness for speed, and its deviation from
Pillow is reported.

A second benchmark compares streamed and cached images of CIFAR's size, without training: read from files for each step,
or taken from device memory.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from benchmarks import command
from benchmarks.workers import Worker, WorkerError, worker_command
from train import cli, flags
from train.recipe import InputError

PHOTO_SIZE, PHOTO_QUALITY = 300, 90  # pixels, JPEG quality
CLASSES = 2
SMALL_SIZE = 32  # pixels, as CIFAR's
BATCHES_PER_TURN = 16


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    num_workers: tuple[int, ...] = (1, 2, 4)
    """Numbers of loader threads (zoo) and processes (torch) to try; torch also loads in its main process alone."""
    decoders: tuple[Literal["exact", "pillow", "fast"], ...] = ("exact", "pillow", "fast")
    """Decoders of the zoo to time; "pillow" is "exact" without the extra `fast`."""
    peers: tuple[Literal["torchvision", "torchvision-float32"], ...] = ()
    """Baselines to time: torchvision with uint8 images like the zoo's, or converted to float32 and normalized by the
    workers, as in its documentation."""
    images: int = 1000
    """Number of photographs to create."""
    data: Path | None = None
    """Image folder to read instead, with one subfolder per class; without --peers also a .zip."""
    image_size: int = 224
    """Height and width after resizing, in pixels."""
    batch_size: int = 64
    """Images per batch."""
    cached_images: int = 20_000
    """Number of 32x32 images for the comparison of streamed and cached data; 0 skips it."""
    rounds: int = 5
    """Number of rounds; each loader has one turn per round."""
    torch_python: Path | None = None
    """Interpreter of an environment with torch, torchvision and NumPy (default: this one)."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.input_pipeline", __doc__)
    cli.prepare_environment()
    check(arguments)
    record = measure(arguments)
    command.write(record, arguments.out)
    show(record)


def check(arguments: Arguments) -> None:
    """Raise InputError for invalid flags, before any work."""
    command.check_at_least_one(arguments, ("images", "image_size", "batch_size", "rounds"))
    if not arguments.num_workers or min(arguments.num_workers) < 1:
        raise InputError("--num-workers must have one or more counts of at least 1")
    if arguments.data is None:
        command.check_images(arguments.images, arguments.batch_size)
    if arguments.data and arguments.peers and not arguments.data.is_dir():
        raise InputError(f"--data {arguments.data} is not a folder: torchvision needs one")
    command.check_torch_python(arguments.torch_python)
    command.check_out(arguments.out)


def measure(arguments: Arguments) -> dict[str, Any]:
    """Run the benchmark and return its record."""
    head = command.head("benchmarks.input_pipeline", environment=False)
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or make_photographs(Path(folder, "photographs"), arguments.images)
        if arguments.data:
            head["command"] = head["command"].replace(str(data), f"$DATA/{data.name}")
        record = {
            **head,
            "images": f"{PHOTO_SIZE}x{PHOTO_SIZE} JPEG" if not arguments.data else data.name,
            "image_size": arguments.image_size,
            "batch_size": arguments.batch_size,
            **loading(arguments, data),
        }
        if "fast" in arguments.decoders:
            record["fast_deviation"] = deviation(data, arguments.image_size)
        if arguments.cached_images:
            record["cached"] = cached(Path(folder, "small"), arguments)
    return record


def loading(arguments: Arguments, data: Path) -> dict[str, Any]:
    """Time every loader with every number of workers in turns; return images/s."""
    zoo = worker_command("benchmarks.loading")
    torch = worker_command("benchmarks.peers.torch_loading", python=arguments.torch_python)
    cases: list[tuple[str, list[str], str, int]] = [
        (f"zoo, {decoder}", zoo, decoder, workers)
        for decoder in arguments.decoders
        for workers in arguments.num_workers
    ]
    for name in map(str, arguments.peers):
        output = "float32" if name.endswith("float32") else "exact"
        cases += [(name, torch, output, workers) for workers in (0, *arguments.num_workers)]
    environment: dict[str, Any] = {}
    results = []
    with contextlib.ExitStack() as stack:
        running = []
        for name, command, decoder, num_workers in cases:
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
                seconds = worker.call("run", batches=BATCHES_PER_TURN)
                row.setdefault("seconds", []).append(seconds)
        for row, worker in running:
            speed = BATCHES_PER_TURN * arguments.batch_size / statistics.median(row["seconds"])
            row["images_per_second"] = round(speed, 1)
            row["peak_memory_mb"] = round(worker.call("peak_memory"), 1)
            row["seconds"] = [round(s, 4) for s in row["seconds"]]
    best = {
        name: max(r["images_per_second"] for r in results if r["side"] == name and "seconds" in r)
        for name in dict.fromkeys(r["side"] for r in results if "seconds" in r)
    }
    return {"environment": environment, "results": results, "best": best}


def make_photographs(folder: Path, count: int, size: int = PHOTO_SIZE) -> Path:
    """Fill a folder with JPEG files as detailed as photographs: synthetic pigs with sensor noise."""
    import numpy as np
    from PIL import Image

    from datasets.named import synthetic_pigs

    cli.say(f"creating {count} images of {size}x{size} ...")
    rng = np.random.default_rng(0)
    drawn = [
        np.asarray(
            Image.fromarray(synthetic_pigs.draw("train", index)).resize((size, size)), np.float32
        )
        for index in range(20)
    ]
    for index in range(count):
        pixels = drawn[index % len(drawn)] + rng.normal(0, 8, (size, size, 1))
        path = folder / f"class{index % CLASSES}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(path, quality=PHOTO_QUALITY)
    return folder


def deviation(data: Path, size: int, count: int = 200) -> dict[str, float]:
    """Return the absolute differences between the fast decoder and Pillow, in gray levels, over `count` images."""
    import numpy as np

    from datasets import ResizeRule, load_dataset

    split = load_dataset(data).splits["train"]
    rule = ResizeRule((size, size))
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


def cached(folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Return images/s of small images, streamed (decoded and sent to the device for each step) and cached on it."""
    import jax
    import jax.numpy as jnp

    from datasets import ResizeRule, load_dataset, memory
    from datasets.pipeline import ImageSamples, TrainBatches, epoch_order, load_arrays
    from train.engine.parallel import Devices

    make_photographs(folder, arguments.cached_images, SMALL_SIZE)
    split = load_dataset(folder).splits["train"]
    memory.never_keep(split)
    samples = ImageSamples(split, ResizeRule((SMALL_SIZE, SMALL_SIZE)))
    batch = 2 * arguments.batch_size
    steps = len(split) // batch
    devices = Devices()

    @jax.jit
    def use(images: jax.Array) -> jax.Array:
        """A minimal consumer: the cast that starts every step, and a sum."""
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

    seconds: dict[str, list[float]] = {"streamed": [], "cached": []}
    for number in range(arguments.rounds + 1):
        for name, run in (("streamed", from_files), ("cached", from_memory)):
            began = time.perf_counter()
            run()
            if number:  # the first compiles
                seconds[name].append(time.perf_counter() - began)
    speeds = {name: steps * batch / statistics.median(s) for name, s in seconds.items()}
    return {
        "images": f"{SMALL_SIZE}x{SMALL_SIZE} JPEG",
        "batch_size": batch,
        "device": devices.devices[0].device_kind,
        "stepwise_images_per_second": round(speeds["streamed"], 1),
        "cached_images_per_second": round(speeds["cached"], 1),
        "ratio": round(speeds["cached"] / speeds["streamed"], 1),
    }


def show(record: dict[str, Any]) -> None:
    """Print the results."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("loader")
    for heading in ("workers", "images/s", "(min-max)", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    turn = BATCHES_PER_TURN * record["batch_size"]
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
    for baseline in (name for name in best if name.startswith("torchvision")):
        for name in (name for name in best if name.startswith("zoo")):
            ratio = best[name] / best[baseline]
            print(f"{name}: {ratio:.2f} x {baseline}, each with its fastest number of workers")
    if "fast_deviation" in record:
        d = record["fast_deviation"]
        print(
            f"fast differs from Pillow by {d['mean']} gray levels on average, by at most"
            f" {d['99th_percentile']:g} in 99% of the pixels, and by at most {d['largest']} overall"
        )
    if "cached" in record:
        r = record["cached"]
        print(
            f"{r['images']} images, batch {r['batch_size']}, {r['device']}: streamed"
            f" {r['stepwise_images_per_second']:,.0f}, cached {r['cached_images_per_second']:,.0f}"
            f" images/s, {r['ratio']:.1f} x"
        )


if __name__ == "__main__":
    cli.main(main)
