"""Run the rows of a document's tables, and set ours beside them:  python -m train.reproduce cats_dogs

Each row is trained as the document says, once a seed, in OUT/<document>/<row>/seed<k>/; what is there already is
reused, what was stopped goes on. After every run OUT/<document>.json and OUT/<document>/report.html are written:
printed, measured, on which data, and the verdict. A result on other data than the document's is never called
reproduced.
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train import cli, papers
from train.recipe import InputError
from train.record.directory import write_json
from train.reproduce import ledger
from train.reproduce.claims import Document, Grid, Row
from train.reproduce.runner import Work, describe


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    document: Annotated[str, tyro.conf.Positional]
    """The document's name, such as pig_faces."""
    out: Path = Path("results")
    """Where runs and results lie; runs that are there are reused."""
    rows: tuple[str, ...] = ()
    """Names of rows, or patterns such as 'table1-*' (default: all, or none with --grids)."""
    seeds: int | None = None
    """Runs of each row (default: the row's own number; one where it is shortened)."""
    scale: Literal["full", "short", "smoke"] = "full"
    """The document's setting; what two CPU cores can afford, marked "shortened"; or the way through the program in
    seconds, which is no result."""
    data_dir: Path | None = None
    """Where the document's data lie: an archive or folder, or a folder that holds the archives."""
    grids: tuple[str, ...] = ()
    """Names or patterns of searches over settings to run, too."""
    points: str | None = None
    """Only these points of the grids, as A:B from 0 on, B not included."""
    list: bool = False
    """Print the rows with what is printed, their settings and their state, and stop."""
    report_only: bool = False
    """Train nothing; write the results of what is there."""


def main(argv: Sequence[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=list(argv), prog="python -m train.reproduce", description=__doc__
    )
    document = find_document(arguments.document)
    if arguments.seeds is not None and arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}: give at least 1")
    work = Work(
        document,
        arguments.out,
        scale=arguments.scale,
        data_dir=arguments.data_dir,
        seeds=arguments.seeds,
    )
    patterns = arguments.rows or (() if arguments.grids else ("*",))
    rows = work.rows(patterns) if document.rows else []
    grids = work.grids(arguments.grids)
    ranges = {grid.name: points_of(arguments.points, grid) for grid in grids}
    if arguments.points is not None and not grids:
        raise InputError("--points is of a grid: name it with --grids, too")
    if arguments.list:
        show_list(work, rows)
        return
    cli.prepare_environment()
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"--out {arguments.out} is a file: give a folder")
    work.check_data([*rows, *grids])
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {arguments.out}: {error.strerror}; give another folder") from None
    failures = [] if arguments.report_only else run_all(work, rows, grids, ranges)
    result = save(work)
    show_result(work, result, rows, grids)
    if failures:
        raise cli.RunError(f"{len(failures)} of the runs failed: {'; '.join(failures[:3])}")


def find_document(name: str) -> Document:
    """A document by name; InputError offers the nearest ones."""
    documents = papers.DOCUMENTS
    if name not in documents:
        near = difflib.get_close_matches(name, documents, n=2)
        known = (
            f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(documents)}"
        )
        raise InputError(f"unknown document {name!r}: {known}")
    return documents[name]


def points_of(text: str | None, grid: Grid) -> range:
    """The indices of a grid's points that A:B names."""
    total = len(grid)
    if text is None:
        return range(total)
    found = re.fullmatch(r"(\d*):(\d*)", text)
    begin, end = (
        (int(n or d) for n, d in zip(found.groups(), (0, total), strict=True)) if found else (0, 0)
    )
    if not 0 <= begin < end <= total:
        raise InputError(
            f"--points {text}: give A:B with 0 <= A < B <= {total}, the number of points of {grid.name}"
        )
    return range(begin, end)


def run_all(
    work: Work, rows: Sequence[Row], grids: Sequence[Grid], ranges: dict[str, range]
) -> list[str]:
    """Run what is not there yet, saving after each; returns the failures, a line each."""
    jobs = work.jobs(rows, grids)
    order = list(dict.fromkeys(job.row.name for job in jobs))
    failures: list[str] = []
    refused: set[str] = set()
    where = "the beginning"
    try:
        for job in jobs:
            name = job.row.name
            if name in refused:  # what a run lacks, it lacks with every seed
                continue
            where = f"row {order.index(name) + 1} of {len(order)}, seed {job.seed}: {name}"
            cli.say(where)
            how = work.do(job)
            cli.say(f"{where}: {how}")
            save(work)
            if how.startswith("not run"):
                refused.add(name)
            if how.startswith("failed"):
                failures.append(f"{name} seed {job.seed} {how}")
        for grid in grids:
            where = f"grid {grid.name}"
            failures += run_grid(work, grid, ranges[grid.name])
    except (cli.Interrupted, KeyboardInterrupt):
        save(work)
        raise cli.Interrupted(
            f"stopped in {where}; what is done is saved in {work.out}: the same command goes on"
        ) from None
    return failures


def run_grid(work: Work, grid: Grid, indices: range) -> list[str]:
    """Run points of a grid; one that diverges is a result."""
    failures = []
    for number, (index, point) in enumerate(
        ((i, p) for i, p in enumerate(grid.points()) if i in indices), 1
    ):
        where = f"grid {grid.name}, point {index} ({number} of {len(indices)}): {ledger.show_point(point)}"
        cli.say(where)
        how = work.do_point(grid, index, point)
        cli.say(f"grid {grid.name}, point {index}: {how}")
        found = work.found_grid(grid)
        if found.points:
            work.write_points(grid, [dict(p) for p in found.points])
        if how.startswith("not run"):
            break
        if how.startswith("failed"):
            failures.append(f"{grid.name} point {index} {how}")
    return failures


def save(work: Work) -> dict[str, Any]:
    """Write the ledger and its page anew."""
    from train.reproduce.page import write_page

    result = work.ledger()
    write_json(work.ledger_path, result)
    write_page(result, work.out)
    return result


def show_list(work: Work, rows: Sequence[Row]) -> None:
    """The rows with what is printed, the setting and the state."""
    known = {row["name"]: row for row in work.ledger(with_sizes=False)["rows"]}
    table = _table("row", "where", "label", "printed", "setting", "state")
    for row in rows:
        item = known[row.name]
        runs = item["runs"]
        state = f"{ledger.seeds_of(item)}: {item['text']}" if runs else item["text"]
        printed = ", ".join(
            f"{ledger.title_of(c['column'])} {ledger.show_printed(c)}"
            for c in item["columns"]
            if c["column"] in row.printed
        )
        table.add_row(row.name, row.table, row.label, printed, describe(row.recipe), state)
    for grid in work.document.grids:
        table.add_row(
            grid.name, grid.table, f"grid of {len(grid)}", "", describe(grid.recipe), "--grids"
        )
    _print(table)


def show_result(
    work: Work, result: dict[str, Any], rows: Sequence[Row], grids: Sequence[Grid]
) -> None:
    """Ours beside what is printed."""
    names = {row.name for row in rows}
    if rows:
        table = _table("row", "column", ">printed", ">ours", "verdict")
        for row in result["rows"]:
            if row["name"] not in names:
                continue
            table.add_row(row["name"], "", "", ledger.seeds_of(row), row["text"])
            for c in row["columns"]:
                table.add_row(
                    "",
                    ledger.title_of(c["column"]),
                    ledger.show_printed(c),
                    ledger.show(c["column"], c["mean"], c["sd"]),
                    c["verdict"],
                )
            if row["verdict"] == ledger.NOT_RUN:
                table.add_row("", "", "", "", row["command"])
        _print(table)
    for ordering in result["orderings"]:
        if names & {ordering["higher"], ordering["lower"]}:
            print(f"{ordering['text']}: {ledger.describe_ordering(ordering)}")
    for grid in result["grids"]:
        if grid["name"] in {g.name for g in grids}:
            print(f"{grid['table']}, {grid['name']}: {ledger.describe_grid(grid)}")
    print(f"ledger: {work.ledger_path}; report: {work.root / 'report.html'}")


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.lstrip(">")
        table.add_column(name, justify="right" if column != name else "left", overflow="fold")
    return table


def _print(table: Any) -> None:
    import sys

    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 220, markup=False, highlight=False).print(table)


if __name__ == "__main__":
    cli.main(main)
