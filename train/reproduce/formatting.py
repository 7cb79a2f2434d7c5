"""Text for the entries of a ledger: values with units, verdicts with reasons."""

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

MAX_REASON = 160  # characters


# Values.


def column_title(column: str) -> str:
    """Return the display name of a column."""
    return {"f1": "F1"}.get(column, column.removesuffix("_ms").replace("_", " "))


def show_value(column: str, value: float | None, sd: float | None = None) -> str:
    """Format a value of a column with its unit and standard deviation."""
    if value is None:
        return NOT_MEASURED
    kind = verdicts.kind_of(column)
    if kind == "time":
        return f"{value:,.0f}{f' ± {sd:,.0f}' if sd is not None else ''} ms"
    if kind == "parameters":
        return f"{value:,.0f}"
    if kind == "loss":
        return f"{value:.4f}{f' ± {sd:.4f}' if sd is not None else ''}"
    return f"{value:.2%}{f' ± {100 * sd:.2f}' if sd is not None else ''}"


def show_reported(column: Mapping[str, Any]) -> str:
    """Format the reported value of a column of the ledger."""
    if column["printed_not_finite"]:
        return "NaN"
    if column["printed"] is None:
        return "not reported"
    return show_value(column["column"], column["printed"])


def show_difference(comparison: Mapping[str, Any]) -> str:
    """Format the difference in percentage points or in the column's unit, with its standard deviation."""
    value, sd, column = comparison["difference"], comparison["sd"], comparison["column"]
    if value is None:
        return ""
    if verdicts.kind_of(column) == "score":
        spread = f" ± {100 * sd:.2f}" if sd is not None else ""
        return f"{100 * value:+.2f}{spread} points"
    sign = "+" if value >= 0 else ""
    return sign + show_value(column, value, sd)


def show_seeds(row: Mapping[str, Any]) -> str:
    """Format the number of seeds behind a row's values."""
    count = len(row["runs"])
    return f"{count} seed{'' if count == 1 else 's'}" if count else ""


def show_data(row: Mapping[str, Any]) -> str:
    """Format the data of a row and how they relate to the paper's."""
    data = row["data"]
    if data is None:
        return ""
    if data["is_documents"]:
        relation = "the paper's" if row["printed"] else "as published"
    else:
        relation = f"{verdicts.PROXY}: {data['why']}"
    return f"{data['name']}, {relation}"


# Verdicts.


def row_text(
    verdict: RowVerdict,
    columns: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> str:
    """Format the verdict of a row in one line; columns and comparisons are in the ledger's form."""
    share = (
        f" in {verdict.diverged} of {verdict.runs} runs" if verdict.diverged < verdict.runs else ""
    )
    divergence = f"{verdict.divergence}{share}" if verdict.diverged else ""
    if verdict.by_columns:
        return _columns_text(verdict.verdict, columns)
    if verdict.verdict == verdicts.SMOKE:
        return "; ".join(filter(None, (verdict.verdict, verdict.divergence)))
    if verdict.limits:
        text = " and ".join(verdict.limits)
        if divergence:
            text += f": {divergence}"
        elif verdicts.PROXY in verdict.limits and comparisons:
            text += f"; {_count_holding(comparisons)}"
        return text + _parameter_verdicts(columns)
    if verdict.diverged:
        if verdict.verdict == REPRODUCED:
            return f"{REPRODUCED}: diverges ({divergence})"
        return f"{verdicts.NOT_REPRODUCED}: {divergence}"
    if verdict.unfinished:
        return f"{NOT_RUN} to the end: {verdict.reason}"
    reason = _shorten(verdict.reason)
    return verdict.verdict + (f": {reason}" if reason else "") + _parameter_verdicts(columns)


def _columns_text(verdict: str, columns: Sequence[Mapping[str, Any]]) -> str:
    contradictions = _titles(c for c in columns if c["verdict"] == verdicts.CONTRADICTS)
    contradiction = f"{verdicts.CONTRADICTS} ({contradictions})" if contradictions else ""
    if verdict == verdicts.CONTRADICTS:
        return contradiction
    text = verdict
    if verdict == verdicts.NOT_REPRODUCED:
        missed = [c for c in columns if c["verdict"] == verdict]
        worst = max(missed, key=lambda c: abs(c["mean"] - c["printed"]))
        measured, reported = (show_value(worst["column"], worst[k]) for k in ("mean", "printed"))
        text += f": {column_title(worst['column'])} {measured}, reported {reported}"
    unmeasured = verdicts.unmeasured(columns) if verdict == REPRODUCED else []
    gap = f"{_titles(unmeasured)} {NOT_MEASURED}" if unmeasured else ""
    return "; ".join(filter(None, (text, contradiction, gap)))


def _titles(columns: Any) -> str:
    return ", ".join(column_title(c["column"]) for c in columns)


def _parameter_verdicts(columns: Sequence[Mapping[str, Any]]) -> str:
    """Format the verdicts on parameter counts, which need no run."""
    judged = [
        c
        for c in columns
        if verdicts.kind_of(c["column"]) == "parameters" and None not in (c["printed"], c["mean"])
    ]
    return "".join(f"; {column_title(c['column'])} {c['verdict']}" for c in judged)


def _count_holding(comparisons: Sequence[Mapping[str, Any]]) -> str:
    measured = [c for c in comparisons if c["verdict"] != NOT_MEASURED]
    holding = sum(c["verdict"] == verdicts.HOLDS for c in measured)
    if not measured:
        return "its orderings are not measured"
    return f"{holding} of {len(measured)} {'ordering holds' if len(measured) == 1 else 'orderings hold'}"


def comparison_note(verdict: ComparisonVerdict, column: str) -> str:
    """Return why two rows cannot be compared, or what limits their comparison."""
    if verdict.obstacle is None:
        excluded = (
            f"without {diverged} of {runs} runs of {row}, which diverged"
            for row, diverged, runs in verdict.diverged
        )
        return ", ".join((*verdict.limits, *excluded))
    row = verdict.obstacle.row
    return {
        "not run": f"{row} was not run",
        "diverged": f"{row} {verdict.obstacle.text}",
        "no column": f"no {column_title(column)} in {row}",
        "different data": "the two rows were run on different data",
    }[verdict.obstacle.kind]


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """Format the verdict and the difference of a comparison in one line."""
    parts = [comparison["verdict"]]
    if comparison["difference"] is not None:
        spread = f" over {comparison['n']} seeds" if comparison["n"] > 1 else ""
        parts.append(f"{show_difference(comparison)}{spread}")
    return ", ".join(parts) + (f" ({comparison['note']})" if comparison["note"] else "")


# Grids.


def describe_grid(grid: Mapping[str, Any]) -> str:
    """Describe the outcome of a grid in one line."""
    text = f"{len(grid['points'])} of {grid['size']} trials run"
    limits = [] if not grid["data"] or grid["data"]["is_documents"] else [verdicts.PROXY]
    limits += [verdicts.SHORTENED] * grid["shortened"]
    text += f" ({', '.join(limits)})" if limits else ""
    if grid["diverged"]:
        text += f", {grid['diverged']} diverged"
    if grid.get("left_out"):
        text += f", {grid['left_out']} on other data excluded"
    best = grid["best"]
    if best is None:
        return text
    text += f"; best {show_trial(best['point'])}: validation {best['validation_accuracy']:.2%}"
    if best.get("accuracy") is not None:
        text += f", test {best['accuracy']:.2%}"
    if not grid["documents_best"]:
        return text
    papers_best, rank = show_trial(grid["documents_best"]), grid["documents_best_rank"]
    outcome = f"ranks {rank} here" if rank else "was not run to the end"
    return f"{text}; the paper's best ({papers_best}) {outcome}"


def show_trial(trial: Mapping[str, Any]) -> str:
    """Format the values of a trial in one line, with the last component of each path."""
    return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in trial.items())


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."
