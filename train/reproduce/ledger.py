"""The ledger: reported values, measured values and verdicts of a paper, as JSON-serializable data.

The keys are those of the recorded ledgers (`benchmarks/results/ledger_*.json`): `document` is the paper, `printed` a
reported value, `reading` our note, `orderings` the comparisons, `points` the trials of a grid, `documents_best` the
paper's best trial, and `is_documents` is whether the data are the paper's. Format 1 has neither claims nor intervals;
formats 1 and 2 do not record which runs are `earlier`: from version 0.1, which interpreted the paper differently.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.recipe import with_values
from train.reproduce import formatting, verdicts
from train.reproduce.schema import Claim, Comparison, Grid, Paper, Row
from train.reproduce.verdicts import RowResult, Run

FORMAT = 3
# Recorded for each run with one value per epoch, null if it is not finite.
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
# Facts recorded for each run.
RUN_FACTS = (
    *("directory", "commit", "epochs_run", "best_epoch", "remark"),
    *(*CURVES, "effective_clusters"),
)


@dataclasses.dataclass(frozen=True)
class GridResult:
    """The trials of a grid that were run, see `sort_trials`."""

    trials: Sequence[Mapping[str, Any]] = ()
    command: str = ""
    problem: str = ""


def build(
    paper: Paper,
    results: Mapping[str, RowResult],
    grids: Mapping[str, GridResult] | None = None,
    *,
    smoke: bool = False,
) -> dict[str, Any]:
    """Build the ledger of a paper from the results of its rows and grids by name."""
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
            _row(paper, row, known[row.name], chosen[row.name], comparisons, smoke)
            for row in paper.rows
        ],
        "orderings": comparisons,
        "claims": [
            _claim(c, verdicts.judge_claim(c, chosen[c.row], smoke=smoke)) for c in paper.claims
        ],
        "grids": [_grid(g, (grids or {}).get(g.name, GridResult()), smoke) for g in paper.grids],
    }


def _row(
    paper: Paper,
    row: Row,
    result: RowResult,
    runs: Sequence[Run],
    comparisons: Sequence[Mapping[str, Any]],
    smoke: bool,
) -> dict[str, Any]:
    of_row = [c for c in comparisons if row.name in (c["higher"], c["lower"])]
    judged = bool(runs) and not verdicts.limits_of(runs[:1]) and not smoke
    claimed = [claim.column for claim in paper.claims if claim.row == row.name]
    names = _columns(row, [*(c["column"] for c in of_row), *claimed])
    columns = [_column(paper, row, name, result, runs, judged) for name in names]
    verdict = verdicts.row_verdict(row, result, runs, columns, smoke=smoke)
    facts = [run.facts for run in runs]
    earlier = bool(runs) and runs[0].earlier
    recipe = row.recipe
    if earlier and row.earlier:
        recipe = with_values(recipe, row.earlier.changes)
    transductive = any(stage.all_splits for stage in recipe.stages)
    text = formatting.row_text(verdict, columns, of_row)
    return {
        "name": row.name,
        "table": row.table,
        "label": row.label,
        "model": row.recipe.model,
        "batch_size": row.recipe.batch_size,
        "failure": row.failure,
        "printed": bool(row.reported),  # false for our own rows
        "verdict": verdict.verdict,
        "text": text + (f"; {formatting.TRANSDUCTIVE}" if transductive else ""),
        "transductive": transductive,
        "earlier": earlier,
        "columns": columns,
        "reading": row.note,
        "setting": result.setting,
        "ran": _unique(fact.get("setting") for fact in facts),  # a proxy may have another model
        "command": result.command,
        "needs": result.needs,
        "problem": result.problem,
        "data": dict(runs[0].data) if runs else None,
        "shortened": bool(runs) and runs[0].short,
        "commits": _unique(fact.get("commit") for fact in facts),
        "dirty": any(fact.get("dirty") for fact in facts),
        "hardware": _unique(fact.get("hardware") for fact in facts),
        "versions": _unique(fact.get("versions") for fact in facts),
        "runs": [
            {
                "seed": run.seed,
                "state": run.state,
                "text": run.text,
                **{k: run.facts.get(k) for k in RUN_FACTS},
            }
            for run in runs
        ],
        # The row's other runs, which are not comparable with these: unfinished, failed, or on other data.
        "others": [
            {"seed": run.seed, "state": run.state, "text": run.text}
            for run in result.runs
            if run not in runs
        ],
    }


def _columns(row: Row, compared: Iterable[str]) -> list[str]:
    """List the reported and compared columns, or the accuracy for a row without any."""
    return list(dict.fromkeys((*row.reported, *compared, *row.also))) or ["accuracy"]


def _column(
    paper: Paper, row: Row, name: str, result: RowResult, runs: Sequence[Run], judged: bool
) -> dict[str, Any]:
    number = row.reported.get(name)
    reported = None if number is None or not math.isfinite(number) else number
    if name in verdicts.PARAMETER_COLUMNS:
        by_seed: dict[int, float] = {}
        count = (result.parameters or {}).get(name)
        values = [] if count is None else [float(count)]
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
            same_hardware=_is_papers_hardware(paper, runs),
        ),
    }


def _is_papers_hardware(paper: Paper, runs: Sequence[Run]) -> bool:
    found = verdicts.hardware_of(runs)
    return bool(paper.hardware and found) and all(n.endswith(paper.hardware) for n in found)


def _comparison(comparison: Comparison, verdict: verdicts.ComparisonVerdict) -> dict[str, Any]:
    return {
        "text": comparison.text,
        "column": comparison.column,
        "higher": comparison.higher,
        "lower": comparison.lower,
        "statistic": comparison.statistic,
        "verdict": verdict.verdict,
        "difference": verdict.difference,
        "sd": verdict.sd,
        "interval": list(verdict.interval) if verdict.interval else None,
        "n": verdict.n,
        "paired": verdict.paired,
        "magnitude": comparison.magnitude,
        "magnitude_verdict": verdict.magnitude,
        "note": formatting.comparison_note(verdict, comparison.column),
    }


def _claim(claim: Claim, verdict: verdicts.ClaimVerdict) -> dict[str, Any]:
    return {
        "text": claim.text,
        "column": claim.column,
        "row": claim.row,
        "at_least": claim.at_least if math.isfinite(claim.at_least) else None,
        "at_most": claim.at_most if math.isfinite(claim.at_most) else None,
        "verdict": verdict.verdict,
        "mean": verdict.mean,
        "interval": list(verdict.interval) if verdict.interval else None,
        "n": verdict.n,
        "note": formatting.claim_note(verdict, claim.column),
    }


# Grids.


def sort_trials(trials: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sort trials by validation accuracy, best first; trials without one come last, by index.

    A trial has `index`, `point` (the axes' values), `state`, `text`, `data`, `short`, `earlier`, `dirty`, and once it
    is done `validation_accuracy`, and `accuracy` and `loss` on the test images.
    """

    def key(trial: Mapping[str, Any]) -> tuple[bool, float, int]:
        value = trial.get("validation_accuracy")
        return value is None, -(value or 0.0), trial["index"]

    return [dict(trial) for trial in sorted(trials, key=key)]


def _grid(grid: Grid, result: GridResult, smoke: bool) -> dict[str, Any]:
    existing = sort_trials(result.trials)
    # Only trials with the same reading of the paper and the same data can be ranked: prefer this version's reading,
    # then the paper's data, then the data with the most trials.
    groups = collections.Counter(_data_key(trial) for trial in existing)
    chosen = max(groups, key=lambda key: (key[:2], groups[key], key), default=None)
    trials = [trial for trial in existing if _data_key(trial) == chosen]
    done = [t for t in trials if t.get("validation_accuracy") is not None]
    rank = next((i for i, t in enumerate(done, 1) if _has_values(t["point"], grid.best)), None)
    return {
        "name": grid.name,
        "table": grid.table,
        "size": len(grid),
        "axes": {path: list(values) for path, values in grid.axes.items()},
        "reading": grid.note,
        "command": result.command,
        "problem": result.problem,
        "smoke": smoke,
        "data": trials[0].get("data") if trials else None,
        "shortened": any(t.get("short") for t in trials),
        "earlier": any(t.get("earlier") for t in trials),
        "documents_best": dict(grid.best),
        "documents_best_rank": rank,  # among our trials by validation accuracy, from 1
        "best": done[0] if done else None,
        "diverged": sum(t["state"] == "diverged" for t in trials),
        "dirty": any(t.get("dirty") for t in trials),
        "left_out": len(existing) - len(trials),  # with another reading or on other data
        "points": trials,
    }


def _data_key(trial: Mapping[str, Any]) -> tuple[bool, bool, str]:
    data = trial.get("data") or {}
    is_papers = bool(data.get("is_documents"))
    return not trial.get("earlier"), is_papers, str(data.get("fingerprint", ""))


def _has_values(trial: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    return bool(best) and all(trial.get(path) == value for path, value in best.items())


def _unique(values: Iterable[Any]) -> list[Any]:
    """Return the distinct non-empty values, in order."""
    found: list[Any] = []
    for value in values:
        if value and value not in found:
            found.append(value)
    return found
