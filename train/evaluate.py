"""Evaluate a finished run again:  python -m train.evaluate runs/my-run

Prints what test.json holds, computed anew from best/, as JSON on stdout: every field but the times is equal.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import cli
from train.record.directory import RunDir


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    workdir: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    split: Literal["test", "validation", "train"] = "test"
    """Which part of the data."""
    dataset: str | None = None
    """Where the data lie now, if they have moved."""
    data_dir: str | None = None
    """Where a registered data set's files lie now, if they have moved."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m train.evaluate", description=__doc__)
    run = RunDir(arguments.workdir)
    recipe = run.read_recipe()
    moved = {k: v for k in ("dataset", "data_dir") if (v := getattr(arguments, k)) is not None}
    recipe = dataclasses.replace(recipe, **moved)
    cli.prepare_environment()

    from train.predictor import load_run
    from train.results import OF_TRAINING, test
    from train.setup import resolve

    predictor = load_run(arguments.workdir)
    experiment = resolve(recipe, arguments.workdir, train=False)
    results, _ = test(predictor, experiment, arguments.split)
    if arguments.split == "test" and run.test.exists():
        # What only the training knows.
        recorded = run.read_json(run.test)
        results |= {k: recorded[k] for k in OF_TRAINING if k in recorded}
    print(json.dumps(results, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    cli.main(main)
