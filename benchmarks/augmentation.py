"""Time what augmentation adds to a training step:

    python -m benchmarks.augmentation --model deconv_alexnet_2 --batch-size 128 --out augmentation.json

The engine's own step, compiled without augmentation, with random windows and flips and with
everything at once; they take turns round by round, on random images that lie on the device. "share" is what a
step with augmentation takes more than one without in the same round, over the latter: the median of the
rounds. Where steps vary by more than that, the time of the changes alone, compiled by themselves, says more:
"alone" and its share of the step without.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

import zoo
from benchmarks import command
from train import cli
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
    """Flags of the command."""

    model: str = "deconv_alexnet_2"
    """Registered model."""
    batch_size: int = 128
    """Images per step, over all devices."""
    rounds: int = 7
    """How often each step has its turn."""
    seconds: float = 2.0
    """How long a turn lasts, roughly; at least one step."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.augmentation", description=__doc__
    )
    cli.prepare_environment()
    zoo.get_entry(arguments.model)
    if min(arguments.rounds, arguments.batch_size) < 1 or not arguments.seconds > 0:
        raise InputError("--rounds and --batch-size have to be at least 1, --seconds above 0")
    command.check_out(arguments.out)
    record = {
        **command.head("benchmarks.augmentation"),
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        **measure(arguments.model, arguments.batch_size, arguments.rounds, arguments.seconds),
    }
    command.write(record, arguments.out)
    show(record)


def settings(size: int) -> dict[str, Augmentation]:
    """What is timed, by name, for a model of this size: windows of 28 of 32 pixels."""
    larger = round(size * 32 / 28)
    return {
        NONE: Augmentation(),
        "windows, flip": Augmentation(resize=larger, flip=True),
        "all": dataclasses.replace(FULL, resize=larger),
    }


def measure(model: str, batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Times in ms: a list a setting, of so many rounds, of the whole step and of the changes alone."""
    import jax

    entry = zoo.get_entry(model)
    steps, alone = {}, {}
    asked = settings(entry.input_shape[0])
    for name, augmentation in asked.items():
        steps[name], alone[name] = prepare(model, augmentation, batch_size)
    times: dict[str, dict[str, list[float]]] = {
        "step_ms": {name: [] for name in steps},
        "alone_ms": {name: [] for name in alone if name != NONE},
    }
    for part, timed in (("step_ms", steps), ("alone_ms", alone)):
        names = list(times[part])
        counts = {}
        for name in names:
            run_steps(timed[name], 2)  # compiles
            counts[name] = max(1, round(seconds / run_steps(timed[name], 1)))
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                elapsed = run_steps(timed[name], counts[name])
                times[part][name].append(round(1000 * elapsed / counts[name], 4))
    bare = times["step_ms"][NONE]
    shares = {}
    for name in times["alone_ms"]:
        pairs = zip(times["step_ms"][name], bare, strict=True)
        shares[name] = {
            "share": round(statistics.median(ours / theirs - 1 for ours, theirs in pairs), 4),
            "alone_share": round(
                statistics.median(times["alone_ms"][name]) / statistics.median(bare), 4
            ),
        }
    return {
        "devices": len(jax.local_devices()),
        "settings": {name: changed(augmentation) for name, augmentation in asked.items()},
        **times,
        "shares": shares,
    }


def changed(augmentation: Augmentation) -> dict[str, Any]:
    """The fields that are not their defaults."""
    default = dataclasses.asdict(Augmentation())
    return {k: v for k, v in dataclasses.asdict(augmentation).items() if v != default[k]}


def prepare(
    model: str, augmentation: Augmentation, batch_size: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Functions without arguments that start one training step, and the changes of one batch."""
    import jax
    import numpy as np

    from benchmarks.random_data import dataset_of, first_batch, random_samples
    from benchmarks.zoo_worker import ADAM, CLOCK
    from train.engine import steps
    from train.engine.inputs import ImageInputs
    from train.engine.parallel import Devices
    from train.engine.stage import first_state, make_steps
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
    state = devices.replicate(first_state(experiment, plan, None))
    change = jax.pmap(
        lambda images, index: inputs.augmented(images, index, steps.keys(CLOCK)[0], augmentation),
        devices=devices.devices,
    )

    def step() -> Any:
        nonlocal state
        state, metrics = train_step(state, batch, CLOCK)
        return state, metrics

    return step, lambda: change(batch["image"], batch["index"])


def run_steps(start: Callable[[], Any], count: int) -> float:
    """Seconds of so many, the last one finished."""
    import jax

    began = time.perf_counter()
    for _ in range(count):
        result = start()
    jax.block_until_ready(result)
    return time.perf_counter() - began


def show(record: dict[str, Any]) -> None:
    """A table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("augmentation", no_wrap=True)
    for heading in ("ms a step", "(least-most)", "share", "alone, ms", "share"):
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
        " medians; shares of the step without augmentation"
    )


if __name__ == "__main__":
    cli.main(main)
