"""Ledgers as Markdown, for the pages under docs/."""

from collections.abc import Mapping
from typing import Any

from train.reproduce.formatting import (
    column_title,
    describe_claim,
    describe_comparison,
    describe_grid,
    show_data,
    show_reported,
    show_seeds,
    show_value,
)
from train.reproduce.verdicts import NOT_MEASURED, NOT_RUN


def markdown(ledger: Mapping[str, Any], link: str = "") -> str:
    """Render the rows with reported or measured values, then comparisons and grids.

    `link`: address of the full ledger, which also has the commands of the rows that were not run.
    """
    record = f" ([record]({link}))" if link else ""
    smoke = " Smoke runs: nothing below is a result." if ledger["smoke"] else ""
    lines = [f"**{ledger['document']}**: {ledger['title']}{record}.{smoke}", ""]
    lines += ["| row | reported | measured | data | verdict |", "| --- | --- | --- | --- | --- |"]
    lines += [_row(row) for row in ledger["rows"] if row["verdict"] != NOT_RUN or row["printed"]]
    comparisons = [o for o in ledger["orderings"] if o["verdict"] != NOT_MEASURED]
    claims = [c for c in ledger.get("claims", ()) if c["verdict"] != NOT_MEASURED]
    grids = [g for g in ledger["grids"] if g["points"]]
    for heading, key, items in (
        (
            "Comparisons",
            "orderings",
            [f"{c['text']}: {describe_comparison(c)}" for c in comparisons],
        ),
        ("Claims", "claims", [f"{c['text']}: {describe_claim(c)}" for c in claims]),
        ("Grids", "grids", [f"{g['table']}, {g['name']}: {describe_grid(g)}" for g in grids]),
    ):
        rest = len(ledger.get(key, ())) - len(items)
        items += [f"{rest} {'more ' if items else ''}{NOT_MEASURED}"] if rest else []
        if items:
            lines += ["", f"{heading}:", "", *(f"- {_cell(item)}" for item in items)]
    return "\n".join(lines) + "\n"


def _row(row: Mapping[str, Any]) -> str:
    reported = [
        f"{column_title(c['column'])} {show_reported(c)}"
        for c in row["columns"]
        if c["printed"] is not None or c["printed_not_finite"]
    ]
    measured = [
        f"{column_title(c['column'])} {show_value(c['column'], c['mean'], c['sd'])}"
        for c in row["columns"]
        if c["mean"] is not None
    ]
    seeds = f" ({show_seeds(row)})" if measured and show_seeds(row) else ""
    cells = (
        f"{row['table']}: {row['label']}",
        ", ".join(reported),
        ", ".join(measured) + seeds,
        show_data(row),
        NOT_RUN if row["verdict"] == NOT_RUN else row["text"],
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
