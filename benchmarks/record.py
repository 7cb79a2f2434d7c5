"""Keep a run's result:  python -m benchmarks.record runs/my-run --name my-run
or a paper's ledger:     python -m benchmarks.record --ledger results/my-paper.json

Writes benchmarks/results/runs/NAME.json: what was measured, by which command, at which commit, on which
hardware, on which data (by fingerprint). Paths of the machine are left out: data are named $DATA/<file>.
A ledger, which `python -m train.reproduce` wrote, is copied to benchmarks/results/ledger_<paper>.json.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from train import cli
from train.recipe import InputError
from train.record.directory import RunDir, write_json
from train.record.environment import hardware

RESULTS = Path(__file__).parent / "results" / "runs"
SCORES = ("accuracy", "precision", "recall", "f1", "loss")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    workdir: Annotated[Path | None, tyro.conf.Positional] = None
    """Run directory of a finished run."""
    name: str | None = None
    """File name of the record, without .json."""
    ledger: Path | None = None
    """A ledger instead, OUT/<paper>.json."""
    note: str = ""
    """What a reader has to know about the result."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.record", description=__doc__
    )
    if arguments.ledger:
        if (arguments.workdir, arguments.name, arguments.note) != (None, None, ""):
            raise InputError("--ledger is recorded as it is: leave the run, --name and --note out")
        content = checked_ledger(arguments.ledger)
        path = RESULTS.parent / f"ledger_{content['document']}.json"
    elif arguments.workdir and arguments.name:
        path = RESULTS / f"{arguments.name}.json"
        content = record(RunDir(arguments.workdir), arguments.note)
    else:
        raise InputError("give a run directory and --name, or --ledger")
    write_json(path, content)
    print(path)


def checked_ledger(path: Path) -> dict[str, Any]:
    """A ledger that may be recorded; InputError for smoke runs and uncommitted code.

    Runs of several commits may stand together: each row names its own.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        runs = [*content["rows"], *content["grids"]]
        title = content["document"]
        dirty = [run["name"] for run in runs if run["dirty"]]
        unknown = [run["name"] for run in content["rows"] if run["runs"] and not run["commits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no ledger ({type(error).__name__}): give the OUT/<paper>.json of train.reproduce"
        ) from None
    if content["smoke"]:
        raise InputError(
            f"{path} holds smoke runs of {title}, which are no results: run it in earnest"
        )
    if dirty or unknown:
        raise InputError(
            f"{', '.join(dirty or unknown)} of {title} ran from uncommitted code: commit, remove those"
            " folders, then run again"
        )
    return content


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
