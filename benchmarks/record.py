"""Keep a run's result:  python -m benchmarks.record runs/my-run --name cats_dogs_sam_alexnet

Writes benchmarks/results/runs/NAME.json: what was measured, by which command, at which commit, on which
hardware, on which data (by fingerprint). Paths of the machine are left out: data are named $DATA/<file>.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from train import cli
from train.machine import hardware
from train.recipe import InputError
from train.rundir import RunDir, write_json

RESULTS = Path(__file__).parent / "results" / "runs"
SCORES = ("accuracy", "precision", "recall", "f1", "loss")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    workdir: Annotated[Path, tyro.conf.Positional]
    """Run directory of a finished run."""
    name: str
    """File name of the record, without .json."""
    note: str = ""
    """What a reader has to know about the result."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.record", description=__doc__
    )
    path = RESULTS / f"{arguments.name}.json"
    write_json(path, record(RunDir(arguments.workdir), arguments.note))
    print(path)


def record(run: RunDir, note: str = "") -> dict[str, Any]:
    """The facts of a finished run; InputError when it has not finished."""
    if not run.test.exists():
        raise InputError(f"{run.path} has no test.json: let the run finish first")
    test, env = run.read_json(run.test), run.read_json(run.path / "env.json")
    recipe, splits = run.read_recipe(), run.read_json(run.splits)
    rows = run.read_summary()
    if env["git_dirty"]:
        raise InputError(f"{run.path} was trained from uncommitted code: commit, then train again")
    return {
        "command": portable_command(env["command"]),
        "commit": env["git_commit"],
        "hardware": hardware(env),
        "versions": env["versions"],
        "model": test["model"],
        "dataset": test["dataset"],
        "synthetic": test["synthetic"],
        "data_fingerprint": splits["fingerprint"],
        "images": {name: len(ids) for name, ids in splits["splits"].items()},
        "recipe": recipe.name,
        "batch_size": test["batch_size"],
        "dtype": recipe.dtype,
        "seed": test["seed"],
        "epochs_run": test["epochs_run"],
        "best_epoch": test["best_epoch"],
        "test": {name: test[name] for name in SCORES},
        "num_examples": test["num_examples"],
        "test_time_ms": test["test_time_ms"],
        "train_time_ms": test["train_time_ms"],
        "data_wait_share": round(
            sum(r["data_wait_share"] * r["seconds"] for r in rows)
            / sum(r["seconds"] for r in rows),
            4,
        ),
        "note": note,
    }


def portable_command(words: list[str]) -> str:
    """The command as a reader would type it: data as $DATA/<file>, without the run directory."""
    kept, skip = [], False
    for word in words:
        if skip or word.startswith("--workdir="):
            skip = False
        elif word == "--workdir":
            skip = True
        else:
            kept.append(f"$DATA/{Path(word).name}" if os.path.isabs(word) else word)
    return " ".join(kept)


if __name__ == "__main__":
    cli.main(main)
