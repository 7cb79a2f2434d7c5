"""Verdicts on a paper's rows and comparisons, from our runs. Pure functions on plain data.

Only runs with the paper's settings on the paper's data are judged. A score is reproduced when
seed mean >= reported - slack, slack = max(1 percentage point, 2 standard deviations over the seeds). Times and losses
are shown but not judged, since they depend on hardware and on how they are computed. Parameter counts do not depend on
data and are always judged.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from train.reproduce.schema import TIMES, Comparison, Paper, Row

PARAMETER_COLUMNS = ("parameters", "total_parameters")
MIN_SLACK = 0.01  # one percentage point
ROUNDING = 1e-9  # floating-point tolerance

# The verdicts as stored in the ledger.
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
CONTRADICTS = "the paper contradicts itself"
PROXY, SHORTENED, SMOKE = "stand-in", "shortened", "smoke"
DIVERGED, FAILED, NOT_RUN = "diverged", "failed", "not run"
SHOWN, NOT_MEASURED = "shown", "not measured"
HOLDS, DOES_NOT_HOLD = "holds", "does not hold"


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one run of a row, with one seed."""

    seed: int
    state: Literal["done", "diverged", "failed", "unfinished"]
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)  # from test.json
    text: str = ""  # "diverged at step 7", why it failed, or how far it got
    on_papers_data: bool = False
    short: bool = False  # with the row's `short` settings
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # see `data.describe_data`
    # setting, commit, dirty, hardware, versions, epochs_run, best_epoch, directory, remark
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RowResult:
    """The results of a row."""

    runs: Sequence[Run] = ()
    parameters: Mapping[str, int] | None = None  # counts by column: parameters, total_parameters
    setting: str = ""  # the paper's setting in one line
    command: str = ""  # the command that runs the row
    needs: str = ""  # data, weights and rows that a run needs
    problem: str = ""  # why a run could not start


# Values.


def kind_of(column: str) -> Literal["time", "loss", "parameters", "score"]:
    """Return the kind of a column: a time in ms, a loss, a parameter count, or a score in [0, 1]."""
    if column in TIMES:
        return "time"
    if column in PARAMETER_COLUMNS:
        return "parameters"
    return "loss" if column == "loss" or column.endswith("_loss") else "score"


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation, each None if there are too few values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def column_verdict(
    column: str,
    reported: float | None,
    values: Sequence[float],
    *,
    failure: bool = False,
    typo: bool = False,
    judged: bool = True,
) -> str:
    """Judge one reported value against the measured values of all seeds.

    Args:
      failure: the paper reports a failure, so that a better result does not reproduce it either.
      typo: the reported value cannot be correct.
      judged: the runs have the paper's settings and data.
    """
    if typo:
        return CONTRADICTS
    mean, sd = mean_and_sd(values)
    if mean is None:
        return NOT_MEASURED
    kind = kind_of(column)
    if reported is None or kind in ("time", "loss") or column == "train_accuracy":
        return SHOWN  # a high training accuracy may also be overfitting, and reproduces nothing
    if kind == "parameters":
        tolerance = 500 if reported % 1000 == 0 else 0.5  # rounded to thousands, or exact
        return REPRODUCED if abs(mean - reported) < tolerance else NOT_REPRODUCED
    if not judged:
        return SHOWN
    slack = max(MIN_SLACK, 2 * (sd or 0.0)) + ROUNDING
    reached = abs(mean - reported) <= slack if failure else mean >= reported - slack
    return REPRODUCED if reached else NOT_REPRODUCED


def comparable(runs: Iterable[Run]) -> list[Run]:
    """Return the finished runs of a row that can be averaged: on the same data, and all full or all shortened.

    Runs on the paper's data are preferred, then full runs, then the larger group.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.state in ("done", "diverged"):
            key = (run.on_papers_data, not run.short, str(run.data.get("fingerprint", "")))
            groups.setdefault(key, []).append(run)
    if not groups:
        return []
    return max(groups.items(), key=lambda item: (item[0][:2], len(item[1]), item[0][2]))[1]


def values_of(column: str, runs: Sequence[Run]) -> dict[int, float]:
    """Return a column's values by seed."""
    return {
        run.seed: float(run.values[column])
        for run in runs
        if run.state == "done" and column in run.values
    }


# Rows.


@dataclasses.dataclass(frozen=True)
class RowVerdict:
    """The verdict of a row and its reasons; `formatting.row_text` renders it as one line."""

    verdict: str
    limits: tuple[str, ...] = ()  # PROXY, SHORTENED: why it cannot count as a reproduction
    reason: str = ""  # why there is no result: the message of a failed, unfinished or missing run
    divergence: str = ""  # the message of the first run that diverged
    diverged: int = 0  # number of runs that diverged
    runs: int = 0  # number of comparable runs
    unfinished: bool = False
    by_columns: bool = False  # the verdict follows from the verdicts of the columns


def row_verdict(
    row: Row,
    result: RowResult,
    runs: Sequence[Run],
    columns: Sequence[Mapping[str, Any]],
    *,
    smoke: bool = False,
) -> RowVerdict:
    """Judge a row by its comparable runs and its columns in the ledger's form."""
    if not runs:
        return _without_runs(row, result, columns)
    diverged = [run for run in runs if run.state == "diverged"]
    base = RowVerdict(
        SMOKE,
        divergence=diverged[0].text if diverged else "",
        diverged=len(diverged),
        runs=len(runs),
    )
    if smoke:
        return base
    limits = limits_of(runs[:1])
    if limits:
        return dataclasses.replace(base, verdict=limits[0], limits=limits)
    if diverged:
        reports_divergence = any(not math.isfinite(value) for value in row.reported.values())
        as_reported = reports_divergence and len(diverged) == len(runs)
        return dataclasses.replace(base, verdict=REPRODUCED if as_reported else DIVERGED)
    return RowVerdict(verdict_of_columns(columns), by_columns=True)


def limits_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """Return why runs are not the paper's setting on the paper's data: PROXY, SHORTENED."""
    runs = list(runs)
    on_proxy = any(not run.on_papers_data for run in runs)
    return (PROXY,) * on_proxy + (SHORTENED,) * any(run.short for run in runs)


def _without_runs(row: Row, result: RowResult, columns: Sequence[Mapping[str, Any]]) -> RowVerdict:
    failed = [run for run in result.runs if run.state == "failed"]
    if failed:
        return RowVerdict(FAILED, reason=failed[0].text)
    reported = [c for c in columns if c["column"] in row.reported]
    if reported and all(
        kind_of(c["column"]) == "parameters" and c["mean"] is not None for c in reported
    ):
        return RowVerdict(verdict_of_columns(columns), by_columns=True)
    unfinished = [run for run in result.runs if run.state == "unfinished"]
    if unfinished:
        return RowVerdict(NOT_RUN, reason=unfinished[0].text, unfinished=True)
    return RowVerdict(NOT_RUN, reason=result.problem or result.needs)


def verdict_of_columns(columns: Sequence[Mapping[str, Any]]) -> str:
    """Combine the verdicts of a row's columns, measured with the paper's settings and data."""
    verdicts = [c["verdict"] for c in columns]
    for verdict in (NOT_REPRODUCED, REPRODUCED, CONTRADICTS):
        if verdict in verdicts:
            return verdict
    return NOT_MEASURED if unmeasured(columns) else SHOWN


def unmeasured(columns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the columns that are reported but not measured, except parameter counts."""
    return [
        c
        for c in columns
        if c["verdict"] == NOT_MEASURED
        and c["printed"] is not None
        and kind_of(c["column"]) != "parameters"
    ]


# Comparisons.


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why two rows cannot be compared."""

    kind: Literal["not run", "diverged", "no column", "different data"]
    row: str = ""  # the row that causes it
    text: str = ""  # the message of the run


@dataclasses.dataclass(frozen=True)
class ComparisonVerdict:
    """Whether a comparison holds, and by how much."""

    verdict: str = NOT_MEASURED
    difference: float | None = None  # mean over the seeds, in the column's unit
    sd: float | None = None
    n: int = 0  # number of seeds
    paired: bool = False  # differences are per seed
    obstacle: Obstacle | None = None
    limits: tuple[str, ...] = ()  # PROXY, SHORTENED, or SMOKE alone
    diverged: tuple[tuple[str, int, int], ...] = ()  # row, runs that diverged, total runs


def compare(
    comparison: Comparison,
    paper: Paper,
    results: Mapping[str, RowResult],
    chosen: Mapping[str, Sequence[Run]],
    *,
    smoke: bool = False,
) -> ComparisonVerdict:
    """Judge a comparison; `chosen` are the comparable runs of each row."""
    column, pair = comparison.column, (comparison.higher, comparison.lower)
    if kind_of(column) == "parameters":
        counts = [(results[name].parameters or {}).get(column) for name in pair]
        if None in counts:
            return ComparisonVerdict()
        return _difference({0: float(counts[0] or 0)}, {0: float(counts[1] or 0)})
    partly_diverged = []
    for name in pair:
        diverged = [run for run in chosen[name] if run.state == "diverged"]
        if not chosen[name]:
            return ComparisonVerdict(obstacle=Obstacle("not run", name))
        if len(diverged) == len(chosen[name]):
            return ComparisonVerdict(obstacle=Obstacle("diverged", name, diverged[0].text))
        if diverged:
            partly_diverged.append((name, len(diverged), len(chosen[name])))
    higher, lower = (values_of(column, chosen[name]) for name in pair)
    if not higher or not lower:
        return ComparisonVerdict(obstacle=Obstacle("no column", pair[bool(higher)]))
    first, second = chosen[pair[0]][0], chosen[pair[1]][0]
    same_dataset = paper.row(pair[0]).recipe.dataset == paper.row(pair[1]).recipe.dataset
    other_data = first.data.get("fingerprint") != second.data.get("fingerprint")
    if first.on_papers_data != second.on_papers_data or (same_dataset and other_data):
        return ComparisonVerdict(obstacle=Obstacle("different data"))
    return dataclasses.replace(
        _difference(higher, lower),
        limits=(SMOKE,) if smoke else limits_of((first, second)),
        diverged=() if smoke else tuple(partly_diverged),
    )


def _difference(higher: Mapping[int, float], lower: Mapping[int, float]) -> ComparisonVerdict:
    """Compare two rows' values by seed: paired over the common seeds, which share data order and random draws."""
    seeds = [seed for seed in higher if seed in lower]
    if seeds:
        mean, sd = mean_and_sd([higher[seed] - lower[seed] for seed in seeds])
        count = len(seeds)
    else:
        (mean_h, sd_h), (mean_l, sd_l) = (mean_and_sd(list(v.values())) for v in (higher, lower))
        mean = (mean_h or 0.0) - (mean_l or 0.0)
        sd = None if sd_h is None or sd_l is None else math.hypot(sd_h, sd_l)
        count = min(len(higher), len(lower))
    holds = mean is not None and mean > 0
    return ComparisonVerdict(HOLDS if holds else DOES_NOT_HOLD, mean, sd, count, bool(seeds))
