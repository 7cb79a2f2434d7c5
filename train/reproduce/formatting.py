"""Text for the entries of a ledger: values with units, verdicts with reasons."""

from collections.abc import Mapping, Sequence
from typing import Any

from train import cli
from train.reproduce import verdicts
from train.reproduce.verdicts import (
    NOT_MEASURED,
    NOT_RUN,
    REPRODUCED,
    ClaimVerdict,
    ComparisonVerdict,
    Obstacle,
    RowVerdict,
)

MAX_REASON = 160  # characters
TRANSDUCTIVE = "transductive: trained on the validation and test images, too, without labels"


# Values.


def column_title(column: str) -> str:
    """Return the display name of a column."""
    name = column.removesuffix("_ms").replace("_", " ")
    titles = {"f1": "F1", "weighted_f1": "weighted F1", "fc_share": "share in dense layers"}
    return titles.get(column, name)


def show_value(column: str, value: float | None, sd: float | None = None) -> str:
    """Format a value of a column with its unit and standard deviation."""
    if value is None:
        return NOT_MEASURED
    kind = verdicts.kind_of(column)
    if kind == "time":
        return f"{value:,.0f}{f' ± {sd:,.0f}' if sd is not None else ''} ms"
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "epochs":
        return f"{value:.1f}{f' ± {sd:.1f}' if sd is not None else ''}"
    if kind in ("loss", "fluctuation"):
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
    """Format the difference in percentage points or in the column's unit, with its 95% interval."""
    value, column = comparison["difference"], comparison["column"]
    if value is None:
        return ""
    interval = comparison.get("interval")
    if verdicts.kind_of(column) in ("score", "error", "share"):
        spread = f", 95% {100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}" if interval else ""
        return f"{100 * value:+.2f} points{spread}"
    low, high = (show_value(column, v) for v in interval) if interval else ("", "")
    spread = f", 95% {low} to {high}" if interval else ""
    return f"{'+' if value >= 0 else ''}{show_value(column, value)}{spread}"


def show_seeds(row: Mapping[str, Any]) -> str:
    """Format the number of seeds behind a row's values."""
    return cli.count(len(row["runs"]), "seed") if row["runs"] else ""


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
        return _columns_text(verdict, columns)
    if verdict.verdict == verdicts.SMOKE:
        return "; ".join(filter(None, (verdict.verdict, verdict.divergence)))
    if verdict.limits:
        text = " and ".join(limit for limit in verdict.limits if limit != verdicts.EARLIER)
        if verdicts.EARLIER in verdict.limits:
            earlier = f"run with the earlier reading of version 0.1: {verdict.earlier}"
            text = "; ".join(filter(None, (earlier, text)))
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


def _columns_text(verdict: RowVerdict, columns: Sequence[Mapping[str, Any]]) -> str:
    contradictions = _titles(c for c in columns if c["verdict"] == verdicts.CONTRADICTS)
    contradiction = f"{verdicts.CONTRADICTS} ({contradictions})" if contradictions else ""
    if verdict.verdict == verdicts.CONTRADICTS:
        return contradiction
    text = verdict.verdict
    if verdict.runs and text in (REPRODUCED, verdicts.NOT_REPRODUCED):
        text += f" ({cli.count(verdict.runs, 'seed')})"
    if verdict.verdict == verdicts.NOT_REPRODUCED:
        missed = [c for c in columns if c["verdict"] == verdict.verdict]
        worst = max(missed, key=_relative_miss)
        measured, reported = (show_value(worst["column"], worst[k]) for k in ("mean", "printed"))
        text += f": {column_title(worst['column'])} {measured}, reported {reported}"
    unmeasured = verdicts.unmeasured(columns) if verdict.verdict == REPRODUCED else []
    gap = f"{_titles(unmeasured)} {NOT_MEASURED}" if unmeasured else ""
    return "; ".join(filter(None, (text, contradiction, gap)))


def _relative_miss(column: Mapping[str, Any]) -> float:
    """Return the relative difference between measured and reported value, comparable across units."""
    return abs(column["mean"] - column["printed"]) / max(abs(column["printed"]), 1e-9)


def _titles(columns: Any) -> str:
    return ", ".join(column_title(c["column"]) for c in columns)


def _parameter_verdicts(columns: Sequence[Mapping[str, Any]]) -> str:
    """Format the verdicts on parameter counts, which need no run."""
    judged = [
        c
        for c in columns
        if c["column"] in verdicts.PARAMETER_COLUMNS and None not in (c["printed"], c["mean"])
    ]
    return "".join(f"; {column_title(c['column'])} {c['verdict']}" for c in judged)


def _count_holding(comparisons: Sequence[Mapping[str, Any]]) -> str:
    measured = [c for c in comparisons if c["verdict"] != NOT_MEASURED]
    if not measured:
        return "its comparisons are not measured"
    counts: list[str] = []
    for verdict, singular, plural in (
        (verdicts.HOLDS, "holds", "hold"),
        (verdicts.DOES_NOT_HOLD, "does not hold", "do not hold"),
        (verdicts.UNDECIDED, "is undecided", "are undecided"),
    ):
        if count := sum(c["verdict"] == verdict for c in measured):
            of = "" if counts else f" of {cli.count(len(measured), 'comparison')}"
            counts.append(f"{count}{of} {singular if count == 1 else plural}")
    return ", ".join(counts)


def comparison_note(verdict: ComparisonVerdict, column: str) -> str:
    """Return why two rows cannot be compared, or what limits their comparison."""
    if verdict.obstacle is not None:
        return _show_obstacle(verdict.obstacle, column)
    return _limits_note(verdict)


def _limits_note(verdict: ComparisonVerdict | ClaimVerdict) -> str:
    excluded = (
        f"without {diverged} of {runs} runs of {row}, which diverged"
        for row, diverged, runs in verdict.diverged
    )
    return ", ".join((*verdict.limits, *excluded))


def claim_note(verdict: ClaimVerdict, column: str) -> str:
    """Return why a claim cannot be judged, or what limits the verdict."""
    if verdict.obstacle is not None:
        return _show_obstacle(verdict.obstacle, column)
    return _limits_note(verdict)


def _show_obstacle(obstacle: Obstacle, column: str) -> str:
    return {
        "not run": f"{obstacle.row} was not run",
        "diverged": f"{obstacle.row} {obstacle.text}",
        "no column": f"no {column_title(column)} in {obstacle.row}",
        "different data": "the two rows were run on different data",
        "different hardware": "the two rows were run on different hardware",
    }[obstacle.kind]


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """Format the verdict and the difference of a comparison in one line."""
    parts = [comparison["verdict"]]
    if comparison["difference"] is not None:
        spread = "spread " if comparison.get("statistic") == "sd" else ""
        parts.append(f"{spread}{show_difference(comparison)}{_over_seeds(comparison)}")
    if comparison.get("magnitude") is not None:
        stated = _show_size(comparison["column"], comparison["magnitude"])
        parts.append(f"stated size {stated}: {comparison['magnitude_verdict']}")
    return ", ".join(parts) + (f" ({comparison['note']})" if comparison["note"] else "")


def _show_size(column: str, size: float) -> str:
    """Format a difference in percentage points or in the column's unit."""
    if verdicts.kind_of(column) in ("score", "error", "share", "saving"):
        return f"{100 * size:g} {'point' if size == 0.01 else 'points'}"
    return show_value(column, size)


def describe_claim(claim: Mapping[str, Any]) -> str:
    """Format the verdict and the mean of a claim in one line."""
    parts, column = [claim["verdict"]], claim["column"]
    if claim["mean"] is not None:
        interval = claim["interval"]
        spread = ""
        if interval:
            low, high = (show_value(column, value) for value in interval)
            spread = f", 95% {low} to {high}"
        title = column_title(column)
        parts.append(f"{title} {show_value(column, claim['mean'])}{spread}{_over_seeds(claim)}")
    return ", ".join(parts) + (f" ({claim['note']})" if claim["note"] else "")


def _over_seeds(item: Mapping[str, Any]) -> str:
    if item["column"] in verdicts.PARAMETER_COLUMNS:
        return ""
    return f" over {item['n']} seeds" if item["n"] > 1 else ", 1 seed"


# Grids.


def describe_grid(grid: Mapping[str, Any]) -> str:
    """Describe the outcome of a grid in one line."""
    text = f"{len(grid['points'])} of {grid['size']} trials run"
    limits = [verdicts.EARLIER] * bool(grid.get("earlier"))
    limits += [] if not grid["data"] or grid["data"]["is_documents"] else [verdicts.PROXY]
    limits += [verdicts.SHORTENED] * grid["shortened"]
    text += f" ({', '.join(limits)})" if limits else ""
    if grid["diverged"]:
        text += f", {grid['diverged']} diverged"
    if grid.get("left_out"):
        text += f", {grid['left_out']} on other data or with another reading excluded"
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
