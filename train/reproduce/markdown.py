"""A ledger as Markdown, for the README."""

from collections.abc import Mapping
from typing import Any

from train.reproduce.verdicts import NOT_MEASURED, NOT_RUN
from train.reproduce.words import (
    describe_comparison,
    describe_grid,
    seeds_of,
    show,
    show_data,
    show_reported,
    title_of,
)


def markdown(ledger: Mapping[str, Any], link: str = "") -> str:
    """The rows with something reported or measured, then comparisons and grids.

    `link`: where the whole ledger is, with the commands of what was not run.
    """
    record = f" ([record]({link}))" if link else ""
    smoke = " Smoke runs: nothing below is a result." if ledger["smoke"] else ""
    lines = [f"**{ledger['document']}**: {ledger['title']}{record}.{smoke}", ""]
    lines += ["| row | printed | ours | data | verdict |", "| --- | --- | --- | --- | --- |"]
    lines += [_row(row) for row in ledger["rows"] if row["verdict"] != NOT_RUN or row["printed"]]
    comparisons = [o for o in ledger["orderings"] if o["verdict"] != NOT_MEASURED]
    grids = [g for g in ledger["grids"] if g["points"]]
    for heading, all_of, items in (
        (
            "Orderings",
            "orderings",
            [f"{c['text']}: {describe_comparison(c)}" for c in comparisons],
        ),
        ("Grids", "grids", [f"{g['table']}, {g['name']}: {describe_grid(g)}" for g in grids]),
    ):
        rest = len(ledger[all_of]) - len(items)
        items += [f"{rest} {'more ' if items else ''}{NOT_MEASURED}"] if rest else []
        if items:
            lines += ["", f"{heading}:", "", *(f"- {_cell(item)}" for item in items)]
    return "\n".join(lines) + "\n"


def _row(row: Mapping[str, Any]) -> str:
    reported = [
        f"{title_of(c['column'])} {show_reported(c)}"
        for c in row["columns"]
        if c["printed"] is not None or c["printed_not_finite"]
    ]
    ours = [
        f"{title_of(c['column'])} {show(c['column'], c['mean'], c['sd'])}"
        for c in row["columns"]
        if c["mean"] is not None
    ]
    seeds = f" ({seeds_of(row)})" if ours and seeds_of(row) else ""
    cells = (
        f"{row['table']}: {row['label']}",
        ", ".join(reported),
        ", ".join(ours) + seeds,
        show_data(row),
        NOT_RUN if row["verdict"] == NOT_RUN else row["text"],
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
