"""The ledger: what a paper reports beside what we measured, and what follows, as JSON-able data.

The keys are those of the recorded ledgers (`benchmarks/results/ledger_*.json`): `document` is the paper, `printed` what
it reports, `reading` our note, `orderings` the comparisons, `is_documents` whether data are the paper's.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.reproduce import verdicts, words
from train.reproduce.claims import Comparison, Grid, Paper, Row
from train.reproduce.verdicts import RowResult, Run

FORMAT = 1
# What the record keeps of each run; `train_loss` has one number per epoch, null where it was not finite.
RECORDED = (
    *("directory", "commit", "epochs_run", "best_epoch", "remark"),
    *("train_loss", "effective_clusters"),
)


@dataclasses.dataclass(frozen=True)
class GridResult:
    """What is known of a grid: its points that were run, as in `points_table`."""

    points: Sequence[Mapping[str, Any]] = ()
    command: str = ""
    problem: str = ""


def build(
    paper: Paper,
    results: Mapping[str, RowResult],
    grids: Mapping[str, GridResult] | None = None,
    *,
    smoke: bool = False,
) -> dict[str, Any]:
    """The ledger of a paper, from what is known of its rows and grids by name."""
    known = {row.name: results.get(row.name, RowResult()) for row in paper.rows}
    chosen = {name: verdicts.comparable(result.runs) for name, result in known.items()}
    comparisons = [
        _comparison(c, verdicts.compare(c, paper, known, chosen, smoke=smoke))
        for c in paper.comparisons
    ]
    return {
        "format": FORMAT,
        "document": paper.name,
        "title": paper.title,
        "smoke": smoke,
        "rows": [
            _row(row, known[row.name], chosen[row.name], comparisons, smoke) for row in paper.rows
        ],
        "orderings": comparisons,
        "grids": [_grid(g, (grids or {}).get(g.name, GridResult()), smoke) for g in paper.grids],
    }


def _row(
    row: Row,
    result: RowResult,
    runs: Sequence[Run],
    comparisons: Sequence[Mapping[str, Any]],
    smoke: bool,
) -> dict[str, Any]:
    mine = [c for c in comparisons if row.name in (c["higher"], c["lower"])]
    judged = bool(runs) and not verdicts.limits_of(runs[:1]) and not smoke
    columns = [_column(row, name, result, runs, judged) for name in _columns(row, mine)]
    verdict = verdicts.row_verdict(row, result, runs, columns, smoke=smoke)
    facts = [run.facts for run in runs]
    return {
        "name": row.name,
        "table": row.table,
        "label": row.label,
        "model": row.recipe.model,
        "batch_size": row.recipe.batch_size,
        "failure": row.failure,
        "printed": bool(row.reported),  # or our own row, which the paper's are compared with
        "verdict": verdict.verdict,
        "text": words.row_text(verdict, columns, mine),
        "columns": columns,
        "reading": row.note,
        "setting": result.setting,
        "ran": _different(fact.get("setting") for fact in facts),  # a proxy may have another model
        "command": result.command,
        "needs": result.needs,
        "problem": result.problem,
        "data": dict(runs[0].data) if runs else None,
        "shortened": bool(runs) and runs[0].short,
        "commits": _different(fact.get("commit") for fact in facts),
        "dirty": any(fact.get("dirty") for fact in facts),
        "hardware": _different(fact.get("hardware") for fact in facts),
        "versions": _different(fact.get("versions") for fact in facts),
        "runs": [
            {
                "seed": run.seed,
                "state": run.state,
                "text": run.text,
                **{k: run.facts.get(k) for k in RECORDED},
            }
            for run in runs
        ],
        # Runs in the same folders that do not go together with these: unfinished, failed, other data.
        "others": [
            {"seed": run.seed, "state": run.state, "text": run.text}
            for run in result.runs
            if run not in runs
        ],
    }


def _columns(row: Row, comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that are reported or compared, and for rows without either the accuracy."""
    names = dict.fromkeys(row.reported) | dict.fromkeys(c["column"] for c in comparisons)
    return list(names) or ["accuracy"]


def _column(
    row: Row, name: str, result: RowResult, runs: Sequence[Run], judged: bool
) -> dict[str, Any]:
    number = row.reported.get(name)
    reported = None if number is None or not math.isfinite(number) else number
    if verdicts.kind_of(name) == "size":
        by_seed: dict[int, float] = {}
        values = [float(result.sizes[name])] if result.sizes and name in result.sizes else []
    else:
        by_seed = verdicts.values_of(name, runs)
        values = list(by_seed.values())
    mean, sd = verdicts.mean_and_sd(values)
    return {
        "column": name,
        "printed": reported,
        "printed_not_finite": number is not None and reported is None,
        "mean": mean,
        "sd": sd,
        "n": len(by_seed),
        "values": {str(seed): value for seed, value in by_seed.items()},
        "verdict": verdicts.column_verdict(
            name,
            reported,
            values,
            failure=row.failure,
            typo=name in row.typos,
            judged=judged,
        ),
    }


def _comparison(claim: Comparison, verdict: verdicts.ComparisonVerdict) -> dict[str, Any]:
    return {
        "text": claim.text,
        "column": claim.column,
        "higher": claim.higher,
        "lower": claim.lower,
        "verdict": verdict.verdict,
        "difference": verdict.difference,
        "sd": verdict.sd,
        "n": verdict.n,
        "paired": verdict.paired,
        "note": words.comparison_note(verdict, claim.column),
    }


# Grids.


def points_table(points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points sorted by validation accuracy, the best first; those that diverged last, in their order.

    A point has `index`, `point` (the axes' values), `state`, `text`, `data`, `short`, `dirty`, and where it is
    done `validation_accuracy`, and `accuracy` and `loss` of the test images.
    """

    def key(point: Mapping[str, Any]) -> tuple[bool, float, int]:
        value = point.get("validation_accuracy")
        return value is None, -(value or 0.0), point["index"]

    return [dict(point) for point in sorted(points, key=key)]


def _grid(grid: Grid, result: GridResult, smoke: bool) -> dict[str, Any]:
    there = points_table(result.points)
    # Points on the paper's data and on a proxy, or on two proxies, have no common best.
    groups = collections.Counter(_data_key(point) for point in there)
    chosen = max(groups, key=lambda key: (key[0], groups[key], key), default=None)
    points = [point for point in there if _data_key(point) == chosen]
    done = [p for p in points if p.get("validation_accuracy") is not None]
    rank = next((i for i, p in enumerate(done, 1) if _is_at(p["point"], grid.best)), None)
    return {
        "name": grid.name,
        "table": grid.table,
        "size": len(grid),
        "axes": {path: list(values) for path, values in grid.axes.items()},
        "reading": grid.note,
        "command": result.command,
        "problem": result.problem,
        "smoke": smoke,
        "data": points[0].get("data") if points else None,
        "shortened": any(p.get("short") for p in points),
        "documents_best": dict(grid.best),
        "documents_best_rank": rank,  # among ours by validation accuracy, from 1 on
        "best": done[0] if done else None,
        "diverged": sum(p["state"] == "diverged" for p in points),
        "dirty": any(p.get("dirty") for p in points),
        "left_out": len(there) - len(points),  # on other data
        "points": points,
    }


def _data_key(point: Mapping[str, Any]) -> tuple[bool, str]:
    data = point.get("data") or {}
    return bool(data.get("is_documents")), str(data.get("fingerprint", ""))


def _is_at(point: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    return bool(best) and all(point.get(path) == value for path, value in best.items())


def _different(values: Iterable[Any]) -> list[Any]:
    """Values without repetitions, in order."""
    found: list[Any] = []
    for value in values:
        if value and value not in found:
            found.append(value)
    return found
