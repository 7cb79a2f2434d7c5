"""Run the rows of a paper's tables and compare the results with the paper:  python -m train.reproduce cats_dogs

Each row is trained with the paper's settings, once per seed, in OUT/<paper>/<row>/seed<k>/. Finished runs are reused,
interrupted ones are resumed. After every run, OUT/<paper>.json and OUT/<paper>/report.html are updated: reported and
measured values, the data, and the verdict. A result on data other than the paper's never counts as reproduced.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from train import cli, flags, stopping
from train.errors import InputError, RunError
from train.jobs import Failures
from train.processes import Processes, share_gpu, watch_parent
from train.reproduce import papers
from train.reproduce.runner import Runner
from train.reproduce.schema import Grid, Paper
from train.reproduce.settings import Scale
from train.reproduce.terminal import show_list, show_result
from zoo.common.files import check_output_folder
from zoo.common.names import did_you_mean

WORKER = "JAX_ZOO_WORKER"  # environment variable of additional processes: the file of `Failures`
LOGS = "workers"  # folder of their logs


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    paper: Annotated[str, tyro.conf.Positional]
    """Short name of the paper, such as pig_faces."""
    out: Path = Path("results")
    """Folder of runs and results; finished runs in it are reused."""
    rows: tuple[str, ...] = ()
    """Row names, or patterns such as 'table1-*' (default: all, or none with --grids)."""
    seeds: int | None = None
    """Number of runs per row (default: the row's own number, or 1 for a shortened row)."""
    scale: Scale = "full"
    """full: the paper's settings. short: feasible on two CPU cores; results are marked "shortened". smoke: tiny models
    and data, to test the code in seconds; not a result."""
    data_dir: Path | None = None
    """The paper's data: an archive or folder, or a folder that contains the archives."""
    grids: tuple[str, ...] = ()
    """Names or patterns of grid searches to run as well."""
    points: str | None = None
    """Run only these trials of the grids: A:B, counted from 0, excluding B."""
    workers: int = 1
    """Number of processes that train on this machine. The same command in another terminal joins in."""
    list: bool = False
    """List the rows with reported values, settings and state, then exit."""
    report_only: bool = False
    """Do not train; update ledger and report from the existing runs."""


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "train.reproduce", __doc__)
    paper = find_paper(arguments.paper)
    if arguments.seeds is not None and arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}: use at least 1")
    if arguments.workers < 1:
        raise InputError(f"--workers is {arguments.workers}: use at least 1")
    trials = parse_trial_range(arguments.points) if arguments.points is not None else None
    runner = Runner(
        paper,
        arguments.out,
        scale=arguments.scale,
        data_dir=arguments.data_dir,
        seeds=arguments.seeds,
    )
    patterns = arguments.rows or (() if arguments.grids else ("*",))
    rows = runner.rows(patterns) if paper.rows else []
    grids = runner.grids(arguments.grids)
    if trials is not None and not grids:
        raise InputError("--points selects trials of a grid: name the grid with --grids")
    chosen = [(grid, select_trials(grid, trials)) for grid in grids]
    runner.check_data_dir()
    if arguments.list:
        show_list(runner.results, rows)
        return
    cli.prepare_environment()
    check_output_folder(arguments.out, "--out")
    runner.check_data([*rows, *grids])
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    if not arguments.report_only:
        with workers(arguments, argv) as shared:
            outcomes = runner.run(runner.jobs(rows, chosen), shared)
    show_result(runner.folders, runner.save(), rows, grids)
    failures = [f"{name} {o}" for name, o in outcomes.items() if o.state == "failed"]
    if failures:
        raise RunError(f"{cli.count(len(failures), 'run')} failed: {'; '.join(failures[:3])}")


@contextlib.contextmanager
def workers(arguments: Arguments, argv: Sequence[str]) -> Iterator[Failures | None]:
    """Share the runs with additional processes of the same command, and wait for them at the end.

    Yields the failures that all processes share; None for a single process.
    """
    if WORKER in os.environ:
        watch_parent()
        yield Failures(Path(os.environ[WORKER]))
    elif arguments.workers > 1:
        share_gpu()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "failures.jsonl")
            os.environ[WORKER] = str(file)
            others = Processes("train.reproduce", argv, arguments.workers - 1, arguments.out / LOGS)
            del os.environ[WORKER]
            try:
                yield Failures(file)
                while others.are_running():
                    stopping.check()
                    time.sleep(0.1)
                if log := others.failed():
                    cli.say(f"warning: a worker failed: see {log}")
            finally:
                others.close()
    else:
        yield None


def find_paper(name: str) -> Paper:
    """Return a paper by its short name. Raises InputError with similar names if the name is unknown."""
    if name not in papers.PAPERS:
        known = did_you_mean(name, papers.PAPERS, f"there are {', '.join(papers.PAPERS)}")
        raise InputError(f"unknown paper {name!r}: {known}")
    return papers.PAPERS[name]


@dataclasses.dataclass(frozen=True)
class TrialRange:
    """A slice of a grid's trials."""

    begin: int = 0
    end: int | None = None  # exclusive; None: up to the last trial


def parse_trial_range(text: str) -> TrialRange:
    """Parse the value of --points, A:B. Raises InputError for anything else."""
    found = re.fullmatch(r"(\d*):(\d*)", text)
    if not found:
        raise InputError(f"--points {text}: use A:B, such as 0:10")
    begin, end = found.groups()
    return TrialRange(int(begin or 0), int(end) if end else None)


def select_trials(grid: Grid, trials: TrialRange | None) -> range:
    """Return the indices of the selected trials. Raises InputError if the range is empty or exceeds the grid."""
    total = len(grid)
    trials = trials or TrialRange()
    end = total if trials.end is None else trials.end
    if not trials.begin < end <= total:
        raise InputError(
            f"--points {trials.begin}:{end}: use A:B with 0 <= A < B <= {total}, the number of trials of {grid.name}"
        )
    return range(trials.begin, end)


if __name__ == "__main__":
    cli.main(main)
