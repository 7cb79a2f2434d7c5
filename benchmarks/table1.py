"""Time the training and testing of Table 1 in "Pig face identification by AlexNet with a spatial attention module":

    python -m benchmarks.table1 --out table1.json

The split sizes are the paper's. A test predicts and scores 254 decoded images in host memory. An epoch trains on
684 images, including the smaller last batch, and validates on 77. Both use the engine's compiled steps on random
images, since times do not depend on the content. The paper does not say how many epochs its training times cover, but
trains for at most 100: "100 epochs" is the time of our epoch times 100, not a measurement. Its hardware was a GTX
TITAN, so only the ranking of the nets can be compared.

Nets and batch sizes take turns in each round. --out writes FILE.json and FILE.png.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import zoo
from benchmarks import command
from train import cli, flags
from train.recipe import InputError, Recipe
from train.reproduce.papers.pig_faces import MODELS, PAPER

STAGE = PAPER.rows[0].recipe.stages[0]
EPOCHS = STAGE.epochs  # the paper's maximum
TIMES = ("test_time_ms", "train_time_ms")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    models: tuple[str, ...] = ("pig_alexnet", "sam_alexnet")
    """Registered image classifiers; the defaults are the paper's AlexNet and Attention-AlexNet."""
    batch_sizes: tuple[int, ...] = (16, 32, 64)
    """Images per step; the defaults are the paper's."""
    train_images: int = 684
    """Number of training images; the default is the paper's."""
    validation_images: int = 77
    """Number of validation images, scored after each epoch; the default is the paper's."""
    test_images: int = 254
    """Number of test images; the default is the paper's."""
    rounds: int = 3
    """Number of rounds; in each, every net runs one test and one epoch per batch size."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.table1", __doc__)
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
    """Raise InputError for invalid flags, before any work."""
    for name in ("models", "batch_sizes"):
        if not getattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')} is empty: use at least one")
    for model in arguments.models:
        if zoo.get_entry(model).objective != "classification":
            raise InputError(f"{model} is not a classifier: use an image classifier")
    counts = ("train_images", "validation_images", "test_images", "rounds")
    command.check_at_least_one(arguments, counts)
    for size in arguments.batch_sizes:
        if not 1 <= size <= arguments.train_images:
            raise InputError(
                f"--batch-sizes has {size}: use 1 to --train-images ({arguments.train_images})"
            )
    command.check_out(arguments.out)


def measure(arguments: Arguments) -> list[dict[str, Any]]:
    """Return one row per net and batch size: times in ms per round, and their medians."""
    # Images by shape, shared by all nets.
    images: dict[tuple[int, ...], Any] = {}
    cases = []
    for model in arguments.models:
        for batch_size in arguments.batch_sizes:
            case = Case(model, batch_size, arguments, images)
            case.warm_up()
            cases.append(case)
            cli.say(f"{model}, batch {batch_size}: compiled")
    for number in range(arguments.rounds):
        first = number % len(cases)
        for case in cases[first:] + cases[:first]:
            case.test_ms.append(milliseconds(case.test))
            case.epoch_ms.append(milliseconds(case.epoch))
        cli.say(f"round {number + 1} of {arguments.rounds} done")
    return [case.row() for case in cases]


def milliseconds(work: Any) -> float:
    """Time a function without arguments, in ms."""
    began = time.perf_counter()
    work()
    return round(1000 * (time.perf_counter() - began), 2)


class Case:
    """A net with a batch size: its compiled steps, its state and its times."""

    def __init__(
        self, model: str, batch_size: int, arguments: Arguments, images: dict[tuple[int, ...], Any]
    ):
        import numpy as np

        from benchmarks.random_data import dataset_of, random_samples
        from train.engine import steps
        from train.engine.parallel import Devices
        from train.engine.stage import initial_state, make_steps
        from train.setup import resolve

        entry = zoo.get_entry(model)
        self.model, self.batch_size = model, batch_size
        rng = np.random.default_rng(0)
        arrays = {}
        for name in ("train", "validation", "test"):
            shape = (getattr(arguments, f"{name}_images"), *entry.input_shape)
            if shape not in images:
                images[shape] = random_samples(rng, shape)
            arrays[name] = images[shape]
        dataset = dataset_of(arrays, entry.num_classes)
        self.data = {name: (arrays[name], split.labels) for name, split in dataset.splits.items()}
        self.names = dataset.class_names
        self.devices = Devices()
        recipe = Recipe(model=model, batch_size=batch_size, drop_last=False, stages=(STAGE,))
        experiment = resolve(recipe, dataset=dataset, devices=self.devices)
        (plan,) = experiment.stages
        made = make_steps(experiment, plan)
        self.train_step = self.devices.compile_train_step(made.train)
        self.eval_step = self.devices.compile_eval_step(made.evaluate)
        self.state = self.devices.replicate(initial_state(experiment, plan, None))
        self.context = steps.RngContext(np.uint32(0), np.int32(0))
        self.rng = rng
        self.test_ms: list[float] = []
        self.epoch_ms: list[float] = []

    def warm_up(self) -> None:
        """Compile for full batches and for the smaller last batch of an epoch."""
        import numpy as np

        count = len(self.data["train"][1])
        self._train(np.arange(self.batch_size + count % self.batch_size) % count)
        self.test()

    def test(self) -> dict[str, Any]:
        """Predict and score the test images."""
        return self._score("test")

    def epoch(self) -> None:
        """Train on every training image once, then score the validation images."""
        self._train(self.rng.permutation(len(self.data["train"][1])))
        self._score("validation")

    def _train(self, rows: Any) -> None:
        import jax
        import numpy as np

        images, labels = self.data["train"]
        for start in range(0, len(rows), self.batch_size):
            chosen = rows[start : start + self.batch_size]
            chosen = chosen[: len(chosen) - len(chosen) % len(self.devices)]
            if len(chosen):
                batch = {
                    "image": images[chosen],
                    "label": labels[chosen],
                    "index": chosen.astype(np.int32),
                }
                self.state, metrics = self.train_step(
                    self.state, self.devices.split(batch), self.context
                )
        jax.block_until_ready((self.state, metrics))

    def _score(self, split: str) -> dict[str, Any]:
        from train.analysis.metrics import classification_metrics
        from train.engine.evaluation import array_batches, collect_outputs

        images, labels = self.data[split]
        batches = array_batches(images, self.batch_size, labels)
        outputs = collect_outputs(self.eval_step, self.state.variables(), batches)
        return classification_metrics(outputs["label"], outputs["logits"], self.names)

    def row(self) -> dict[str, Any]:
        """Return the results as plain data."""
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
    """Return the paper's comparisons of times, and whether they hold for our times."""
    by_name = {row["row"]: row for row in rows}
    return [
        {"text": c.text, "holds": by_name[c.higher][c.column] > by_name[c.lower][c.column]}
        for c in PAPER.comparisons
        if c.column in TIMES and c.higher in by_name and c.lower in by_name
    ]


def show(record: dict[str, Any]) -> None:
    """Print the results as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from train.record.environment import hardware

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("net (batch)", no_wrap=True)
    for heading in (
        "test, ms",
        "(min-max)",
        "reported",
        "epoch, ms",
        "(min-max)",
        f"{EPOCHS} epochs, ms",
        "reported",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in record["results"]:
        reported = row["printed"] or dict.fromkeys(TIMES)
        table.add_row(
            f"{row['label']} ({row['batch_size']})",
            f"{row['test_time_ms']:,.0f}",
            f"{min(row['test_ms']):,.0f}-{max(row['test_ms']):,.0f}",
            f"{reported['test_time_ms']:,}" if reported["test_time_ms"] else "",
            f"{row['epoch_time_ms']:,.0f}",
            f"{min(row['epoch_ms']):,.0f}-{max(row['epoch_ms']):,.0f}",
            f"{row['train_time_ms']:,.0f}",
            f"{reported['train_time_ms']:,}" if reported["train_time_ms"] else "",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(
        f"{record['test_images']} test, {record['train_images']} training and"
        f" {record['validation_images']} validation images; medians on"
        f" {hardware(record['environment'])}; reported: a GTX TITAN, unknown number of epochs"
    )
    for comparison in record["orderings"]:
        print(f"{comparison['text']}: {'holds' if comparison['holds'] else 'does not hold'} here")


if __name__ == "__main__":
    cli.main(main)
