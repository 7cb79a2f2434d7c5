"""Measure the accuracy of a linear classifier on pixels:

    python -m benchmarks.linear_baseline --dataset synthetic_pigs --out baseline.json

Multinomial logistic regression (scikit-learn, L-BFGS) is fitted to the training split, resized to each of --sizes
with every pixel value standardized, for each value of --c. Size and C are selected by validation accuracy, and the
selected classifier is scored on the test split. The scores of all trials are shown, so that the selection can be
checked. A data set that a linear classifier can solve does not need a network.
"""

import dataclasses
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import command
from datasets import InputError, ResizeRule, load_dataset
from train import cli, flags

if TYPE_CHECKING:
    from datasets import Dataset

MAX_ITERATIONS = 1000


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    dataset: str = "synthetic_pigs"
    """Name, folder or .zip of the data set."""
    data_dir: Path | None = None
    """Folder with the files of a named data set."""
    split_seed: int = 0
    """Seed of the split, or of the generator of synthetic data."""
    sizes: tuple[int, ...] = (8, 16, 32, 64)
    """Image sizes (height and width) to try, in pixels."""
    c: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    """Values of C, the inverse strength of the L2 penalty, to try."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.linear_baseline", __doc__)
    if not arguments.sizes or min(arguments.sizes) < 1:
        raise InputError("--sizes must be at least 1 pixel, such as --sizes 16 32")
    if not arguments.c or not min(arguments.c) > 0:
        raise InputError("--c must be above 0, such as --c 0.01 0.1")
    command.check_out(arguments.out)
    progress = cli.Progress()
    dataset = load_dataset(
        arguments.dataset,
        data_dir=arguments.data_dir,
        seed=arguments.split_seed,
        image_size=max(arguments.sizes),  # for data that can be generated at any size
    )
    cli.say(f"{dataset.name}{' (synthetic images)' if dataset.info.synthetic else ''}")
    total = len(arguments.sizes) * len(arguments.c)
    progress.start("fitting", total)
    trials = []
    try:
        for trial in fit_all(dataset, arguments.sizes, arguments.c):
            trials.append(trial)
            progress.update(len(trials))
    finally:
        progress.stop()
    best = choose(trials)
    record = {
        "format": 1,
        "command": command.portable("benchmarks.linear_baseline", sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "dataset": dataset.name,
        "synthetic": dataset.info.synthetic,
        "fingerprint": dataset.fingerprint,
        "split_sizes": {name: len(split) for name, split in dataset.splits.items()},
        "num_classes": len(dataset.class_names),
        "classifier": "multinomial logistic regression on standardized pixels",
        "chosen": best,
        "accuracy": best["test_accuracy"],
        "trials": trials,
    }
    command.write(record, arguments.out)
    show(record)


def fit_all(dataset: "Dataset", sizes: tuple[int, ...], strengths: tuple[float, ...]) -> Any:
    """Yield a trial per size and C: its accuracy on each split, as fractions, and whether it converged."""
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    from datasets.pipeline import ImageSamples, load_arrays

    for size in sizes:
        arrays = {}
        for name, split in dataset.splits.items():
            images, labels = load_arrays(ImageSamples(split, ResizeRule((size, size))))
            arrays[name] = images.reshape(len(images), -1).astype(np.float32), labels
        pixels = arrays["train"][0]
        mean, deviation = pixels.mean(0), pixels.std(0)
        deviation[deviation == 0] = 1  # constant pixels
        arrays = {name: ((x - mean) / deviation, y) for name, (x, y) in arrays.items()}
        for c in strengths:
            classifier = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                classifier.fit(*arrays["train"])
            scores = {f"{name}_accuracy": classifier.score(x, y) for name, (x, y) in arrays.items()}
            yield {"size": size, "c": c, "converged": not caught, **scores}


def choose(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the trial with the highest validation accuracy; ties go to the smallest image and strongest penalty."""
    return min(trials, key=lambda t: (-t["validation_accuracy"], t["size"], t["c"]))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that may affect the result."""
    import platform
    from importlib.metadata import version

    packages = {name: version(name) for name in ("numpy", "pillow", "scikit-learn", "scipy")}
    return {"python": platform.python_version(), **packages}


def show(record: dict[str, Any]) -> None:
    """Print all trials as a table, and the result."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("pixels", "C", "train", "validation", "test", ""):
        table.add_column(column, justify="left" if not column else "right")
    for trial in record["trials"]:
        scores = (f"{trial[f'{name}_accuracy']:.1%}" for name in ("train", "validation", "test"))
        remarks = ["chosen"] if trial == record["chosen"] else []
        remarks += [] if trial["converged"] else ["not converged"]
        size = f"{trial['size']}x{trial['size']}"
        table.add_row(size, f"{trial['c']:g}", *scores, ", ".join(remarks))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    synthetic = " (synthetic images)" if record["synthetic"] else ""
    chance = 1 / record["num_classes"]
    print(
        f"linear classifier on {record['dataset']}{synthetic}: test accuracy {record['accuracy']:.2%},"
        f" {record['num_classes']} classes (chance: {chance:.0%})"
    )


if __name__ == "__main__":
    cli.main(main)
