"""Measure the cost of augmentation in a training step:

    python -m benchmarks.augmentation --model deconv_alexnet_2 --batch-size 128 --out augmentation.json

The engine's training step is compiled without augmentation, with random crops and flips, and with all augmentations.
The variants take turns in each round, on random images in device memory. "overhead" is the extra time of a step with
augmentation relative to the step without it in the same round, the median over rounds. If step times vary by more than
that, the time of the augmentation compiled separately is more informative: "alone", also relative to the step without
augmentation.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zoo
from benchmarks import command
from train import cli, flags
from train.recipe import Augmentation, InputError, Recipe, Stage

NONE = "none"
FULL = Augmentation(
    rotation=10,
    shift_x=0.1,
    shift_y=0.1,
    zoom=0.1,
    flip=True,
    brightness=0.2,
    contrast=0.2,
    noise_share=0.2,
    cutout=0.25,
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    model: str = "deconv_alexnet_2"
    """Registered model."""
    batch_size: int = 128
    """Images per step, across all devices."""
    rounds: int = 7
    """Number of rounds; each variant has one turn per round."""
    seconds: float = 2.0
    """Approximate duration of a turn; at least one step."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.augmentation", __doc__)
    cli.prepare_environment()
    zoo.get_entry(arguments.model)
    if min(arguments.rounds, arguments.batch_size) < 1 or not arguments.seconds > 0:
        raise InputError("--rounds and --batch-size must be at least 1, --seconds above 0")
    command.check_out(arguments.out)
    record = {
        **command.head("benchmarks.augmentation"),
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        **measure(arguments.model, arguments.batch_size, arguments.rounds, arguments.seconds),
    }
    command.write(record, arguments.out)
    show(record)


def variants(size: int) -> dict[str, Augmentation]:
    """Return the augmentations to time by name, for images of `size` pixels cropped at a ratio of 28 to 32."""
    larger = round(size * 32 / 28)
    return {
        NONE: Augmentation(),
        "windows, flip": Augmentation(resize=larger, flip=True),
        "all": dataclasses.replace(FULL, resize=larger),
    }


def measure(model: str, batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Time each variant in ms, one value per round: the full step, and the augmentation alone."""
    import jax

    entry = zoo.get_entry(model)
    steps, alone = {}, {}
    augmentations = variants(entry.input_shape[0])
    for name, augmentation in augmentations.items():
        steps[name], alone[name] = prepare(model, augmentation, batch_size)
    times: dict[str, dict[str, list[float]]] = {
        "step_ms": {name: [] for name in steps},
        "alone_ms": {name: [] for name in alone if name != NONE},
    }
    for key, timed in (("step_ms", steps), ("alone_ms", alone)):
        names = list(times[key])
        counts = {}
        for name in names:
            run_steps(timed[name], 2)  # compiles
            counts[name] = max(1, round(seconds / run_steps(timed[name], 1)))
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                elapsed = run_steps(timed[name], counts[name])
                times[key][name].append(round(1000 * elapsed / counts[name], 4))
    bare = times["step_ms"][NONE]
    shares = {}
    for name in times["alone_ms"]:
        pairs = zip(times["step_ms"][name], bare, strict=True)
        shares[name] = {
            "share": round(statistics.median(step / plain - 1 for step, plain in pairs), 4),
            "alone_share": round(
                statistics.median(times["alone_ms"][name]) / statistics.median(bare), 4
            ),
        }
    return {
        "devices": len(jax.local_devices()),
        "settings": {name: changed(a) for name, a in augmentations.items()},
        **times,
        "shares": shares,
    }


def changed(augmentation: Augmentation) -> dict[str, Any]:
    """Return the fields that differ from the defaults."""
    default = dataclasses.asdict(Augmentation())
    return {k: v for k, v in dataclasses.asdict(augmentation).items() if v != default[k]}


def prepare(
    model: str, augmentation: Augmentation, batch_size: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return two functions that start one training step, and the augmentation of one batch."""
    import jax
    import numpy as np

    from benchmarks.random_data import dataset_of, first_batch, random_samples
    from benchmarks.zoo_worker import ADAM, CONTEXT
    from train.engine import steps
    from train.engine.inputs import ImageInputs
    from train.engine.parallel import Devices
    from train.engine.stage import initial_state, make_steps
    from train.setup import resolve

    devices, entry = Devices(), zoo.get_entry(model)
    height, width, channels = entry.input_shape
    loaded = augmentation.resize or height
    shape = (batch_size, loaded, round(loaded * width / height), channels)
    stage = Stage(objective=entry.objective, optimizer=ADAM, augment=augmentation)
    experiment = resolve(
        Recipe(model=model, batch_size=batch_size, stages=(stage,)),
        dataset=dataset_of(
            {"train": random_samples(np.random.default_rng(0), shape)}, entry.num_classes
        ),
        devices=devices,
    )
    (plan,), inputs = experiment.stages, experiment.inputs
    assert isinstance(inputs, ImageInputs)
    batch = devices.split(first_batch(experiment, plan))
    train_step = devices.compile_train_step(make_steps(experiment, plan).train)
    state = devices.replicate(initial_state(experiment, plan, None))
    augment = jax.pmap(
        lambda images, index: inputs.augment(images, index, steps.keys(CONTEXT)[0], augmentation),
        devices=devices.devices,
    )

    def step() -> Any:
        nonlocal state
        state, metrics = train_step(state, batch, CONTEXT)
        return state, metrics

    return step, lambda: augment(batch["image"], batch["index"])


def run_steps(start: Callable[[], Any], count: int) -> float:
    """Return the seconds of `count` steps, until the last result is ready."""
    import jax

    began = time.perf_counter()
    for _ in range(count):
        result = start()
    jax.block_until_ready(result)
    return time.perf_counter() - began


def show(record: dict[str, Any]) -> None:
    """Print the results as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("augmentation", no_wrap=True)
    for heading in ("ms per step", "(min-max)", "overhead", "alone, ms", "relative"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, times in record["step_ms"].items():
        cells = [f"{statistics.median(times):.2f}", f"{min(times):.2f}-{max(times):.2f}"]
        if name in record["shares"]:
            shares = record["shares"][name]
            cells += [f"{shares['share']:+.1%}"]
            cells += [f"{statistics.median(record['alone_ms'][name]):.3f}"]
            cells += [f"{shares['alone_share']:.1%}"]
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(
        f"{record['model']}, batch {record['batch_size']}, {record['environment']['backend']};"
        " medians; overhead and relative time are fractions of the step without augmentation"
    )


if __name__ == "__main__":
    cli.main(main)
