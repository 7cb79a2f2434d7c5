"""Output of the command: the list of rows, and the comparison of reported and measured values."""

import sys
from collections.abc import Sequence
from typing import Any

from train.reproduce import formatting
from train.reproduce.folders import Folders
from train.reproduce.results import Results
from train.reproduce.schema import Grid, Row
from train.reproduce.settings import describe, describe_row
from train.reproduce.verdicts import NOT_RUN


def show_list(results: Results, rows: Sequence[Row]) -> None:
    """Print the rows with reported values, setting and state."""
    known = {row["name"]: row for row in results.ledger(with_parameters=False)["rows"]}
    table = _table("row", "table", "label", "reported", "setting", "state")
    for row in rows:
        item = known[row.name]
        state = f"{formatting.show_seeds(item)}: {item['text']}" if item["runs"] else item["text"]
        reported = ", ".join(
            f"{formatting.column_title(c['column'])} {formatting.show_reported(c)}"
            for c in item["columns"]
            if c["column"] in row.reported
        )
        table.add_row(row.name, row.table, row.label, reported, describe_row(row), state)
    for grid in results.paper.grids:
        table.add_row(
            grid.name,
            grid.table,
            f"grid of {len(grid)} trials",
            "",
            describe(grid.recipe),
            "--grids",
        )
    _print(table)


def show_result(
    folders: Folders, result: dict[str, Any], rows: Sequence[Row], grids: Sequence[Grid]
) -> None:
    """Print reported and measured values of the chosen rows and grids."""
    names = {row.name for row in rows}
    if rows:
        table = _table("row", "column", ">reported", ">measured", "verdict")
        for row in result["rows"]:
            if row["name"] not in names:
                continue
            table.add_row(row["name"], "", "", formatting.show_seeds(row), row["text"])
            for c in row["columns"]:
                table.add_row(
                    "",
                    formatting.column_title(c["column"]),
                    formatting.show_reported(c),
                    formatting.show_value(c["column"], c["mean"], c["sd"]),
                    c["verdict"],
                )
            if row["verdict"] == NOT_RUN:
                table.add_row("", "", "", "", row["command"])
        _print(table)
    for comparison in result["orderings"]:
        if names & {comparison["higher"], comparison["lower"]}:
            print(f"{comparison['text']}: {formatting.describe_comparison(comparison)}")
    for claim in result["claims"]:
        if claim["row"] in names:
            print(f"{claim['text']}: {formatting.describe_claim(claim)}")
    for grid in result["grids"]:
        if grid["name"] in {g.name for g in grids}:
            print(f"{grid['table']}, {grid['name']}: {formatting.describe_grid(grid)}")
    print(f"ledger: {folders.ledger}; report: {folders.report}")


def _table(*columns: str) -> Any:
    """Create a table; columns that begin with > are right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.lstrip(">")
        table.add_column(name, justify="right" if column != name else "left", overflow="fold")
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 220, markup=False, highlight=False).print(table)
