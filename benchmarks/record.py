"""Record the result of a run:  python -m benchmarks.record runs/my-run --name my-run
or the ledger of a paper:    python -m benchmarks.record --ledger results/my-paper.json
or results of benchmarks.gpu:  python -m benchmarks.record --gpu results/gpu/gpu.json
or judge recorded ledgers again, after a change to rows or verdicts:    python -m benchmarks.record --judge-again

Writes benchmarks/results/runs/NAME.json: test results, command, commit, hardware and data fingerprint, without
machine-specific paths: data files are named $DATA/<file>. The runs in a ledger written by `python -m train.reproduce`
are added to benchmarks/results/ledger_<paper>.json; they replace runs of the same row and seed, and the row's runs on
other data or with another reading of the paper. The results of benchmarks.gpu are copied to gpu_<device>.json, or
gpu_dry_run.json.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.command import check_checkout
from train import cli, flags
from train.recipe import InputError
from train.record.directory import RunDir, write_json
from train.record.environment import hardware
from train.reproduce import papers
from train.reproduce.recorded import judge_again, merge

RESULTS = Path(__file__).parent / "results" / "runs"
FIGURES = Path(__file__).parents[1] / "docs" / "papers"
SCORES = ("accuracy", "precision", "recall", "f1", "loss")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    workdir: Annotated[Path | None, tyro.conf.Positional] = None
    """Run directory of a finished run."""
    name: str | None = None
    """File name of the record, without .json."""
    ledger: Path | None = None
    """Ledger to record instead of a run, OUT/<paper>.json."""
    gpu: Path | None = None
    """Results of benchmarks.gpu to record instead, OUT/gpu.json."""
    note: str = ""
    """Note to store with the result."""
    judge_again: bool = False
    """Judge all recorded ledgers again from their stored runs, and print the verdicts that change."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.record", __doc__)
    check_checkout("benchmarks.record")
    if arguments.judge_again:
        if arguments != Arguments(judge_again=True):
            raise InputError("--judge-again cannot be combined with other flags")
        judge_all_again()
        return
    if arguments.ledger or arguments.gpu:
        others = (arguments.workdir, arguments.name, arguments.note)
        if others != (None, None, "") or (arguments.ledger and arguments.gpu):
            raise InputError(
                "--ledger and --gpu cannot be combined with each other, a run, --name or --note"
            )
    if arguments.gpu:
        content = checked_gpu(arguments.gpu)
        path = RESULTS.parent / f"gpu_{gpu_name(content)}.json"
    elif arguments.ledger:
        content = checked_ledger(arguments.ledger)
        path = RESULTS.parent / f"ledger_{content['document']}.json"
        if path.is_file():
            cli.prepare_environment(large_arrays=False)  # parameters are counted
            paper = papers.PAPERS[content["document"]]
            try:
                content = merge(paper, checked_ledger(path), content)
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"{arguments.ledger} is not a complete ledger (no {error}): write it again with"
                    " train.reproduce --report-only"
                ) from None
    elif arguments.workdir and arguments.name:
        if Path(arguments.name).name != arguments.name:
            raise InputError(f"--name {arguments.name} is a path: use a file name without .json")
        path = RESULTS / f"{arguments.name}.json"
        content = record(RunDir(arguments.workdir), arguments.note)
    else:
        raise InputError("use a run directory and --name, --ledger or --gpu")
    write_json(path, content)
    print(path)
    if arguments.ledger:
        for figure in draw_ledger(content):
            print(figure)


def draw_ledger(content: Mapping[str, Any]) -> list[Path]:
    """Draw the figures of a recorded ledger for the paper's page, in place of earlier ones; return their paths."""
    from train.reproduce.figures import draw_figures, recorded_epochs

    prefix = f"{content['document']}-"
    for old in FIGURES.glob(f"{prefix}*.png"):
        old.unlink()
    drawn = draw_figures(content, FIGURES, recorded_epochs, prefix)
    titles = {path.name: title for path, title in drawn}
    write_json(FIGURES / f"{prefix}figures.json", titles)
    return [path for path, _ in drawn]


def checked_ledger(path: Path) -> dict[str, Any]:
    """Read a ledger that can be recorded. Raises InputError for smoke runs and uncommitted code.

    Rows may come from different commits, which each row names.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        runs = [*content["rows"], *content["grids"]]
        title = content["document"]
        dirty = [run["name"] for run in runs if run["dirty"]]
        unknown = [run["name"] for run in content["rows"] if run["runs"] and not run["commits"]]
        is_smoke, _ = content["smoke"], papers.PAPERS[title]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a ledger ({type(error).__name__}): use the OUT/<paper>.json of train.reproduce"
        ) from None
    if is_smoke:
        raise InputError(
            f"{path} has smoke runs of {title}, which are not results: run with --scale full or short"
        )
    if dirty or unknown:
        raise InputError(
            f"{', '.join(dirty or unknown)} of {title} ran from uncommitted code: commit, remove their"
            " folders and run them again"
        )
    return content


def checked_gpu(path: Path) -> dict[str, Any]:
    """Read results of benchmarks.gpu that can be recorded. Raises InputError for uncommitted code."""
    from benchmarks import gpu

    try:
        content = gpu.checked(json.loads(path.read_text(encoding="utf-8")))
        dirty = [call["environment"]["git_dirty"] for call in content["calls"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a result of benchmarks.gpu ({type(error).__name__}): use its OUT/gpu.json"
        ) from None
    if any(dirty):
        raise InputError(f"{path} was measured with uncommitted code: commit, and use a new --out")
    return content


def gpu_name(content: dict[str, Any]) -> str:
    """Return dry_run, or the name of the device, such as nvidia_h100_80gb_hbm3."""
    if content["dry_run"]:
        return "dry_run"
    device = content["calls"][0]["environment"]["devices"][0]
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")


def judge_all_again() -> None:
    """Judge the recorded ledgers again, write them, and print the verdicts that change."""
    cli.prepare_environment(large_arrays=False)  # parameters are counted
    for name, paper in papers.PAPERS.items():
        path = RESULTS.parent / f"ledger_{name}.json"
        if not path.is_file():
            continue
        before = checked_ledger(path)
        after = judge_again(paper, before)
        write_json(path, after)
        print(path)
        for line in changed_verdicts(before, after):
            print(f"  {line}")


def changed_verdicts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """List the rows, comparisons and claims whose verdict differs between two ledgers."""

    def verdicts(ledger: Mapping[str, Any]) -> dict[str, str]:
        compared = (
            (c["text"], c["column"], c.get("higher", c.get("row")), c.get("lower"), c["verdict"])
            for c in (*ledger["orderings"], *ledger.get("claims", ()))
        )
        found = {" ".join(filter(None, key)): verdict for *key, verdict in compared}
        return {row["name"]: row["text"] for row in ledger["rows"]} | found

    old = verdicts(before)
    return [
        f"{name}: {old.get(name, '(new)')} -> {text}"
        for name, text in verdicts(after).items()
        if old.get(name) != text
    ]


def record(run: RunDir, note: str = "") -> dict[str, Any]:
    """Return the record of a finished run. Raises InputError if it is unfinished or ran from uncommitted code."""
    if not run.test.exists():
        raise InputError(f"{run.path} has no test.json: let the run finish first")
    test, env = run.read_json(run.test), run.read_json(run.path / "env.json")
    recipe, splits = run.read_recipe(), run.read_json(run.splits)
    rows = run.read_summary()
    if env["git_dirty"] or not env["git_commit"]:
        raise InputError(
            f"{run.path} was trained from uncommitted code or an installed package: commit, and train again in a clone"
        )
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
    """Format a command with data as $DATA/<file> and without the run directory."""
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
