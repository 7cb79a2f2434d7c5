"""Evaluate a finished run again:  python -m train.evaluate runs/my-run

Recomputes test.json from best/ and prints it as JSON on stdout; every field except the times is equal.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import cli, flags
from train.record.directory import RunDir


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    workdir: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    split: Literal["test", "validation", "train"] = "test"
    """Split to evaluate."""
    dataset: str | None = None
    """Current path of the data, if it has moved."""
    data_dir: str | None = None
    """Current directory of a registered data set's files, if they have moved."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "train.evaluate", __doc__)
    run = RunDir(arguments.workdir)
    recipe = run.read_recipe()
    moved = {k: v for k in ("dataset", "data_dir") if (v := getattr(arguments, k)) is not None}
    recipe = dataclasses.replace(recipe, **moved)
    cli.prepare_environment()

    from train.predictor import load_run
    from train.results import TRAINING_FIELDS, test
    from train.setup import resolve

    predictor = load_run(arguments.workdir)
    experiment = resolve(recipe, arguments.workdir, train=False)
    results, _ = test(predictor, experiment, arguments.split)
    if arguments.split == "test" and run.test.exists():
        # Fields that only the training run can measure.
        recorded = run.read_json(run.test)
        results |= {k: recorded[k] for k in TRAINING_FIELDS if k in recorded}
    cli.result(json.dumps(results, indent=2, ensure_ascii=cli.is_ascii(sys.stdout)))


if __name__ == "__main__":
    cli.main(main)
