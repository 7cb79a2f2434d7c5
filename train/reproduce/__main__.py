"""Run the rows of a paper's tables and compare the results with it:  python -m train.reproduce cats_dogs

Each row is trained as the paper says, once per seed, in OUT/<paper>/<row>/seed<k>/; finished runs are reused, stopped
ones resumed. After every run OUT/<paper>.json and OUT/<paper>/report.html are written: reported, measured, on which
data, and the verdict. A result on other data than the paper's is never called reproduced.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from train import cli
from train.errors import InputError, RunError
from train.reproduce import papers
from train.reproduce.claims import Grid, Paper
from train.reproduce.runner import Runner
from train.reproduce.settings import Scale
from train.reproduce.terminal import show_list, show_result
from zoo.common.names import did_you_mean


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    paper: Annotated[str, tyro.conf.Positional]
    """The paper's short name, such as pig_faces."""
    out: Path = Path("results")
    """Where runs and results lie; runs that are there are reused."""
    rows: tuple[str, ...] = ()
    """Names of rows, or patterns such as 'table1-*' (default: all, or none with --grids)."""
    seeds: int | None = None
    """Runs of each row (default: the row's own number; one where it is shortened)."""
    scale: Scale = "full"
    """The paper's setting; what two CPU cores can afford, marked "shortened"; or the way through the program in
    seconds, which is no result."""
    data_dir: Path | None = None
    """Where the paper's data lie: an archive or folder, or a folder that holds the archives."""
    grids: tuple[str, ...] = ()
    """Names or patterns of searches over settings to run, too."""
    points: str | None = None
    """Only these points of the grids, as A:B from 0 on, B not included."""
    list: bool = False
    """Print the rows with what is reported, their settings and their state, and stop."""
    report_only: bool = False
    """Train nothing; write the results of what is there."""


def main(argv: Sequence[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m train.reproduce", description=__doc__
    )
    paper = find_paper(arguments.paper)
    if arguments.seeds is not None and arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}: give at least 1")
    points = parse_points(arguments.points) if arguments.points is not None else None
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
    if points is not None and not grids:
        raise InputError("--points is of a grid: name it with --grids, too")
    chosen = [(grid, points_of(grid, points)) for grid in grids]
    if arguments.list:
        show_list(runner.results, rows)
        return
    cli.prepare_environment()
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"--out {arguments.out} is a file: give a folder")
    runner.check_data([*rows, *grids])
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {arguments.out}: {error.strerror}; give another folder") from None
    failures = [] if arguments.report_only else runner.run(runner.jobs(rows, chosen))
    show_result(runner.folders, runner.save(), rows, grids)
    if failures:
        raise RunError(f"{len(failures)} of the runs failed: {'; '.join(failures[:3])}")


def find_paper(name: str) -> Paper:
    """A paper by its short name; InputError offers the nearest ones."""
    if name not in papers.PAPERS:
        known = did_you_mean(name, papers.PAPERS, f"there are {', '.join(papers.PAPERS)}")
        raise InputError(f"unknown paper {name!r}: {known}")
    return papers.PAPERS[name]


@dataclasses.dataclass(frozen=True)
class Points:
    """A slice of a grid's points."""

    begin: int = 0
    end: int | None = None  # not included; None: the last one is


def parse_points(text: str) -> Points:
    """The value of --points, A:B; InputError for anything else."""
    found = re.fullmatch(r"(\d*):(\d*)", text)
    if not found:
        raise InputError(f"--points {text}: give A:B, such as 0:10")
    begin, end = found.groups()
    return Points(int(begin or 0), int(end) if end else None)


def points_of(grid: Grid, points: Points | None) -> range:
    """The indices of a grid's points; InputError when it has not so many."""
    total = len(grid)
    points = points or Points()
    end = total if points.end is None else points.end
    if not points.begin < end <= total:
        raise InputError(
            f"--points {points.begin}:{end}: give A:B with 0 <= A < B <= {total}, the number of points of {grid.name}"
        )
    return range(points.begin, end)


if __name__ == "__main__":
    cli.main(main)
