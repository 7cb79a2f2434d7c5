"""Sentences about the parts of a ledger: numbers with their units, verdicts with their reasons."""

from collections.abc import Mapping, Sequence
from typing import Any

from train.reproduce import verdicts
from train.reproduce.verdicts import (
    NOT_MEASURED,
    NOT_RUN,
    REPRODUCED,
    ComparisonVerdict,
    RowVerdict,
)

LONGEST_REASON = 160


# Numbers.


def title_of(column: str) -> str:
    """A column's name for readers."""
    return {"f1": "F1"}.get(column, column.removesuffix("_ms").replace("_", " "))


def show(column: str, value: float | None, sd: float | None = None) -> str:
    """A number of a column with its unit, and its spread."""
    if value is None:
        return NOT_MEASURED
    kind = verdicts.kind_of(column)
    if kind == "time":
        return f"{value:,.0f}{f' ± {sd:,.0f}' if sd is not None else ''} ms"
    if kind == "size":
        return f"{value:,.0f}"
    if kind == "loss":
        return f"{value:.4f}{f' ± {sd:.4f}' if sd is not None else ''}"
    return f"{value:.2%}{f' ± {100 * sd:.2f}' if sd is not None else ''}"


def show_reported(column: Mapping[str, Any]) -> str:
    """What the paper reports, of a column of the ledger."""
    if column["printed_not_finite"]:
        return "NaN"
    return "not printed" if column["printed"] is None else show(column["column"], column["printed"])


def show_difference(comparison: Mapping[str, Any]) -> str:
    """By how much, in points or in the column's own unit, with the spread over seeds."""
    value, sd, column = comparison["difference"], comparison["sd"], comparison["column"]
    if value is None:
        return ""
    if verdicts.kind_of(column) == "score":
        spread = f" ± {100 * sd:.2f}" if sd is not None else ""
        return f"{100 * value:+.2f}{spread} points"
    sign = "+" if value >= 0 else ""
    return sign + show(column, value, sd)


def seeds_of(row: Mapping[str, Any]) -> str:
    """How many runs the row's numbers come from."""
    count = len(row["runs"])
    return f"{count} seed{'' if count == 1 else 's'}" if count else ""


def show_data(row: Mapping[str, Any]) -> str:
    """The data of a row, and whose they are."""
    data = row["data"]
    if data is None:
        return ""
    whose = "the paper's" if row["printed"] else "as published"
    if data["is_documents"]:
        return f"{data['name']}, {whose}"
    return f"{data['name']}, stand-in: {data['why']}"


# Verdicts.


def row_text(
    about: RowVerdict,
    columns: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> str:
    """The verdict of a row in a line, from its columns and comparisons as the ledger has them."""
    share = f" in {about.diverged} of {about.runs} runs" if about.diverged < about.runs else ""
    divergence = f"{about.divergence}{share}" if about.diverged else ""
    if about.by_columns:
        return _columns_text(about.verdict, columns)
    if about.verdict == verdicts.SMOKE:
        return "; ".join(filter(None, (about.verdict, about.divergence)))
    if about.limits:
        text = " and ".join(about.limits)
        if divergence:
            text += f": {divergence}"
        elif verdicts.PROXY in about.limits and comparisons:
            text += f"; {_how_many_hold(comparisons)}"
        return text + _about_sizes(columns)
    if about.diverged:
        if about.verdict == REPRODUCED:
            return f"{REPRODUCED}: diverges ({divergence})"
        return f"{verdicts.NOT_REPRODUCED}: {divergence}"
    if about.unfinished:
        return f"{NOT_RUN} to its end: {about.reason}"
    reason = _brief(about.reason)
    return about.verdict + (f": {reason}" if reason else "") + _about_sizes(columns)


def _columns_text(verdict: str, columns: Sequence[Mapping[str, Any]]) -> str:
    contradictions = _titles(c for c in columns if c["verdict"] == verdicts.CONTRADICTS)
    beside = f"{verdicts.CONTRADICTS} ({contradictions})" if contradictions else ""
    if verdict == verdicts.CONTRADICTS:
        return beside
    text = verdict
    if verdict == verdicts.NOT_REPRODUCED:
        missed = [c for c in columns if c["verdict"] == verdict]
        worst = max(missed, key=lambda c: abs(c["mean"] - c["printed"]))
        ours, reported = (show(worst["column"], worst[k]) for k in ("mean", "printed"))
        text += f": {title_of(worst['column'])} {ours}, printed {reported}"
    lacking = verdicts.lacking(columns) if verdict == REPRODUCED else []
    also = f"{_titles(lacking)} {NOT_MEASURED}" if lacking else ""
    return "; ".join(filter(None, (text, beside, also)))


def _titles(columns: Any) -> str:
    return ", ".join(title_of(c["column"]) for c in columns)


def _about_sizes(columns: Sequence[Mapping[str, Any]]) -> str:
    """Parameter counts have their verdict without a run, too."""
    judged = [
        c
        for c in columns
        if verdicts.kind_of(c["column"]) == "size" and None not in (c["printed"], c["mean"])
    ]
    return "".join(f"; {title_of(c['column'])} {c['verdict']}" for c in judged)


def _how_many_hold(comparisons: Sequence[Mapping[str, Any]]) -> str:
    measured = [c for c in comparisons if c["verdict"] != NOT_MEASURED]
    holding = sum(c["verdict"] == verdicts.HOLDS for c in measured)
    if not measured:
        return "its orderings are not measured"
    return f"{holding} of {len(measured)} {'ordering holds' if len(measured) == 1 else 'orderings hold'}"


def comparison_note(about: ComparisonVerdict, column: str) -> str:
    """Why two rows cannot be compared, or what limits their comparison."""
    if about.obstacle is None:
        lost = (
            f"without {diverged} of {runs} runs of {row}, which diverged"
            for row, diverged, runs in about.lost
        )
        return ", ".join((*about.limits, *lost))
    row = about.obstacle.row
    return {
        "not run": f"{row} was not run",
        "diverged": f"{row} {about.obstacle.text}",
        "no column": f"no {title_of(column)} in {row}",
        "different data": "the two rows were run on different data",
    }[about.obstacle.kind]


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """The verdict of a comparison with its numbers, as a line."""
    parts = [comparison["verdict"]]
    if comparison["difference"] is not None:
        spread = f" over {comparison['n']} seeds" if comparison["n"] > 1 else ""
        parts.append(f"{show_difference(comparison)}{spread}")
    return ", ".join(parts) + (f" ({comparison['note']})" if comparison["note"] else "")


# Grids.


def describe_grid(grid: Mapping[str, Any]) -> str:
    """A grid's outcome as a line."""
    text = f"{len(grid['points'])} of {grid['size']} points run"
    words = [] if not grid["data"] or grid["data"]["is_documents"] else [verdicts.PROXY]
    words += [verdicts.SHORTENED] * grid["shortened"]
    text += f" ({', '.join(words)})" if words else ""
    if grid["diverged"]:
        text += f", {grid['diverged']} diverged"
    if grid.get("left_out"):
        text += f", {grid['left_out']} on other data left out"
    best = grid["best"]
    if best is None:
        return text
    text += f"; best {show_point(best['point'])}: validation {best['validation_accuracy']:.2%}"
    if best.get("accuracy") is not None:
        text += f", test {best['accuracy']:.2%}"
    if not grid["documents_best"]:
        return text
    papers, rank = show_point(grid["documents_best"]), grid["documents_best_rank"]
    where = f"is number {rank} here" if rank else "was not run to its end"
    return f"{text}; the paper's best ({papers}) {where}"


def show_point(point: Mapping[str, Any]) -> str:
    """A combination of a grid in a line, with the last names of its paths."""
    return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in point.items())


def _brief(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
