"""Time what "Pig face identification by AlexNet with a spatial attention module" times in its Table 1, on its numbers
of images:

    python -m benchmarks.table1 --out table1.json

Testing is predicting and scoring 254 images that are decoded in host memory; training is an epoch over 684
images, the smaller last batch included, and its validation on 77. Both run the engine's own compiled steps on
random images, since the time does not depend on what they show. The paper does not say how many epochs its
training times contain, and stops at 100 at the latest: "100 epochs" is ours times 100, not a run. Its hardware was
a GTX TITAN; between the two machines only the order of the nets compares.

Nets and batch sizes take turns round by round. --out writes FILE.json, and beside it FILE.png.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import tyro

import zoo
from benchmarks import command
from train import cli
from train.recipe import InputError, Recipe
from train.reproduce.papers.pig_faces import MODELS, PAPER

STAGE = PAPER.rows[0].recipe.stages[0]
EPOCHS = STAGE.epochs  # the paper's "at most"
TIMES = ("test_time_ms", "train_time_ms")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    models: tuple[str, ...] = ("pig_alexnet", "sam_alexnet")
    """The paper's AlexNet and Attention-AlexNet, or other classifiers of images."""
    batch_sizes: tuple[int, ...] = (16, 32, 64)
    """The paper's."""
    train_images: int = 684
    """The paper's; so are the next two."""
    validation_images: int = 77
    """For the end of each epoch."""
    test_images: int = 254
    """For a test."""
    rounds: int = 3
    """How often each net has its turn with each batch size: a test and an epoch."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.table1", description=__doc__
    )
    cli.prepare_environment()
    check(arguments)
    counts = {k: v for k, v in dataclasses.asdict(arguments).items() if k.endswith("_images")}
    record = {
        **command.head("benchmarks.table1"),
        **counts,
        "results": measure(arguments),
    }
    record["orderings"] = comparisons(record["results"])
    command.write(record, arguments.out)
    if arguments.out:
        from train.report.figures import timing_bars

        bars: dict[str, dict[str, float]] = {}
        for row in record["results"]:
            bars.setdefault(row["label"], {})[str(row["batch_size"])] = row["test_time_ms"]
        timing_bars(bars, arguments.out.with_suffix(".png"), "Table 1: test time")
        cli.say(f"written: {arguments.out.with_suffix('.png')}")
    show(record)


def check(arguments: Arguments) -> None:
    """InputError for what cannot be timed, before any work."""
    for name in ("models", "batch_sizes"):
        if not getattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')} is empty: give at least one")
    for model in arguments.models:
        if zoo.get_entry(model).objective != "classification":
            raise InputError(f"{model} gives no classes: give a classifier of images")
    counts = ("train_images", "validation_images", "test_images", "rounds")
    command.check_at_least_one(arguments, counts)
    for size in arguments.batch_sizes:
        if not 1 <= size <= arguments.train_images:
            raise InputError(
                f"--batch-sizes has {size}: give 1 to --train-images ({arguments.train_images})"
            )
    command.check_out(arguments.out)


def measure(arguments: Arguments) -> list[dict[str, Any]]:
    """A row a net and batch size: times in ms, a list of so many rounds and their medians."""
    # One set of images a size, which all share.
    images: dict[tuple[int, ...], Any] = {}
    sides = []
    for model in arguments.models:
        for batch_size in arguments.batch_sizes:
            side = Side(model, batch_size, arguments, images)
            side.warm_up()
            sides.append(side)
            cli.say(f"{model}, batch {batch_size}: compiled")
    for number in range(arguments.rounds):
        first = number % len(sides)
        for side in sides[first:] + sides[:first]:
            side.test_ms.append(milliseconds(side.test))
            side.epoch_ms.append(milliseconds(side.epoch))
        cli.say(f"round {number + 1} of {arguments.rounds} is done")
    return [side.row() for side in sides]


def milliseconds(work: Any) -> float:
    """How long a function without arguments takes."""
    began = time.perf_counter()
    work()
    return round(1000 * (time.perf_counter() - began), 2)


class Side:
    """A net with a batch size."""

    def __init__(
        self, model: str, batch_size: int, arguments: Arguments, images: dict[tuple[int, ...], Any]
    ):
        import numpy as np

        from benchmarks.random_data import dataset_of, random_samples
        from train.engine import steps
        from train.engine.parallel import Devices
        from train.engine.stage import first_state, make_steps
        from train.setup import resolve

        entry = zoo.get_entry(model)
        self.model, self.batch_size = model, batch_size
        rng = np.random.default_rng(0)
        parts = {}
        for part in ("train", "validation", "test"):
            shape = (getattr(arguments, f"{part}_images"), *entry.input_shape)
            if shape not in images:
                images[shape] = random_samples(rng, shape)
            parts[part] = images[shape]
        dataset = dataset_of(parts, entry.num_classes)
        self.data = {part: (parts[part], split.labels) for part, split in dataset.splits.items()}
        self.names = dataset.class_names
        self.devices = Devices()
        recipe = Recipe(model=model, batch_size=batch_size, keep_tail=True, stages=(STAGE,))
        experiment = resolve(recipe, dataset=dataset, devices=self.devices)
        (plan,) = experiment.stages
        made = make_steps(experiment, plan)
        self.train_step = self.devices.compile_train_step(made.train)
        self.eval_step = self.devices.compile_eval_step(made.evaluate)
        self.state = self.devices.replicate(first_state(experiment, plan, None))
        self.clock = steps.Clock(np.uint32(0), np.int32(0))
        self.rng = rng
        self.test_ms: list[float] = []
        self.epoch_ms: list[float] = []

    def warm_up(self) -> None:
        """Compile for full batches and for an epoch's last, smaller one."""
        import numpy as np

        count = len(self.data["train"][1])
        self._train(np.arange(self.batch_size + count % self.batch_size) % count)
        self.test()

    def test(self) -> dict[str, Any]:
        """Predict the test images, and score them."""
        return self._score("test")

    def epoch(self) -> None:
        """Train on every training image once, and look at the validation images."""
        self._train(self.rng.permutation(len(self.data["train"][1])))
        self._score("validation")

    def _train(self, rows: Any) -> None:
        import jax
        import numpy as np

        images, labels = self.data["train"]
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            part = part[: len(part) - len(part) % len(self.devices)]
            if len(part):
                batch = {
                    "image": images[part],
                    "label": labels[part],
                    "index": part.astype(np.int32),
                }
                self.state, metrics = self.train_step(
                    self.state, self.devices.split(batch), self.clock
                )
        jax.block_until_ready((self.state, metrics))

    def _score(self, part: str) -> dict[str, Any]:
        from train.analysis.metrics import classification_metrics
        from train.engine.evaluation import array_batches, run_outputs

        images, labels = self.data[part]
        batches = array_batches(images, self.batch_size, labels)
        outputs = run_outputs(self.eval_step, self.state.variables(), batches)
        return classification_metrics(outputs["label"], outputs["logits"], self.names)

    def row(self) -> dict[str, Any]:
        """Plain data."""
        epoch = statistics.median(self.epoch_ms)
        labels = {name: (key, label) for key, (name, label) in MODELS.items()}
        key, label = labels.get(self.model, (self.model, self.model))
        name = f"table1-{key}-{self.batch_size}"
        found = [row for row in PAPER.rows if row.name == name]
        return {
            "row": name,
            "model": self.model,
            "label": label,
            "batch_size": self.batch_size,
            "test_time_ms": statistics.median(self.test_ms),
            "epoch_time_ms": epoch,
            "train_time_ms": round(EPOCHS * epoch, 1),  # computed, not run
            "test_ms": self.test_ms,
            "epoch_ms": self.epoch_ms,
            "printed": {k: found[0].reported[k] for k in TIMES} if found else None,
        }


def comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's comparisons of times, and whether they hold for ours."""
    by_name = {row["row"]: row for row in rows}
    return [
        {"text": c.text, "holds": by_name[c.higher][c.column] > by_name[c.lower][c.column]}
        for c in PAPER.comparisons
        if c.column in TIMES and c.higher in by_name and c.lower in by_name
    ]


def show(record: dict[str, Any]) -> None:
    """The table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from train.record.environment import hardware

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("net (batch)", no_wrap=True)
    for heading in (
        "test, ms",
        "(least-most)",
        "printed",
        "epoch, ms",
        "(least-most)",
        f"{EPOCHS} epochs, ms",
        "printed",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in record["results"]:
        printed = row["printed"] or dict.fromkeys(TIMES)
        table.add_row(
            f"{row['label']} ({row['batch_size']})",
            f"{row['test_time_ms']:,.0f}",
            f"{min(row['test_ms']):,.0f}-{max(row['test_ms']):,.0f}",
            f"{printed['test_time_ms']:,}" if printed["test_time_ms"] else "",
            f"{row['epoch_time_ms']:,.0f}",
            f"{min(row['epoch_ms']):,.0f}-{max(row['epoch_ms']):,.0f}",
            f"{row['train_time_ms']:,.0f}",
            f"{printed['train_time_ms']:,}" if printed["train_time_ms"] else "",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(
        f"{record['test_images']} test, {record['train_images']} training and"
        f" {record['validation_images']} validation images; medians on"
        f" {hardware(record['environment'])}; printed: a GTX TITAN, epochs unknown"
    )
    for comparison in record["orderings"]:
        print(f"{comparison['text']}: {'holds' if comparison['holds'] else 'does not hold'} here")


if __name__ == "__main__":
    cli.main(main)
