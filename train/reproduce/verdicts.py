"""Verdicts on a paper's rows, comparisons and claims, from our runs. Pure functions on plain data.

Only runs with the paper's settings on the paper's data are judged by their scores. A score is reproduced if
seed mean >= reported - slack, where slack = min(2, max(1, 2 standard errors of the mean)) percentage points, and one
point with a single seed. A test loss is judged in the same way, except that lower is better and that 10 and 20% of the
reported value replace one and two points. A time is judged like a loss, but on the paper's hardware only: elsewhere the
verdict is "different hardware". A time relative to another row's, run on the same hardware, is judged like a score. A
high training accuracy may be overfitting: it is shown but not judged. Parameter counts do not depend on data and are
always judged.

Runs that version 0.1 made with a different reading of the paper are shown as such and never judged.

A comparison or claim holds, does not hold, or is undecided: by the 95% confidence interval (Student's t) over the
seeds. With a single seed there is no interval, and it is undecided.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from train.analysis.means import (
    CONFIDENCE,
    Interval,
    mean_and_sd,
    mean_interval,
    welch_interval,
)
from train.reproduce.schema import TIMES, Claim, Comparison, Paper, Row

# Columns that follow from the model alone.
PARAMETER_COLUMNS = ("parameters", "total_parameters", "fc_share")
# Columns that are shown but not judged, besides times.
TRAINING_COLUMNS = ("train_accuracy", "train_loss", "above_chance")
# Smallest and largest slack: in a score's unit (percentage points), and as a fraction of a reported loss or time.
MIN_SLACK, MAX_SLACK = 0.01, 0.02
MIN_LOSS_SLACK, MAX_LOSS_SLACK = 0.1, 0.2
# "About 3 points" is met by 1.5 to 4.5 points.
ABOUT = (0.5, 1.5)
ROUNDING = 1e-9  # floating-point tolerance

Kind = Literal[
    "time", "saving", "loss", "fluctuation", "epochs", "count", "share", "error", "score"
]

# The verdicts as stored in the ledger.
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
CONTRADICTS = "the paper contradicts itself"
EARLIER, PROXY, SHORTENED, SMOKE = "earlier reading", "proxy data", "shortened", "smoke"
DIVERGED, FAILED, NOT_RUN = "diverged", "failed", "not run"
SHOWN, NOT_MEASURED, OTHER_HARDWARE = "shown", "not measured", "different hardware"
HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "undecided"


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one run of a row, with one seed."""

    seed: int
    state: Literal["done", "diverged", "failed", "unfinished"]
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)  # from test.json
    text: str = ""  # "diverged at step 7", why it failed, or how far it got
    on_papers_data: bool = False
    short: bool = False  # with the row's `short` settings
    earlier: bool = False  # with version 0.1's reading of the paper, see `Row.earlier`
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # see `data.describe_data`
    # setting, commit, dirty, hardware, versions, epochs_run, best_epoch, directory, remark
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RowResult:
    """The results of a row."""

    runs: Sequence[Run] = ()
    parameters: Mapping[str, float] | None = None  # values of `PARAMETER_COLUMNS`
    setting: str = ""  # the paper's setting in one line
    command: str = ""  # the command that runs the row
    needs: str = ""  # data, weights and rows that a run needs
    problem: str = ""  # why a run could not start


# Values.


_KINDS: dict[str, Kind] = {
    **dict.fromkeys(TIMES, "time"),
    "test_time_saved": "saving",
    "parameters": "count",
    "total_parameters": "count",
    "fc_share": "share",
    "loss_fluctuation": "fluctuation",
    "convergence_epoch": "epochs",
}


def kind_of(column: str) -> Kind:
    """Return the kind of a column, which determines its unit and how it is judged.

    time: milliseconds. saving: fraction of a time. loss: nats. fluctuation: nats per epoch. epochs: a number of epochs.
    count: of parameters. share: fraction of the parameters. error: fraction, lower is better. score: fraction.
    """
    if column in _KINDS:
        return _KINDS[column]
    if column == "loss" or column.endswith("_loss"):
        return "loss"
    return "error" if column.startswith("confused: ") else "score"


def lower_is_better(column: str) -> bool:
    """Whether a smaller value of a column is the better one."""
    return kind_of(column) in ("time", "loss", "error", "fluctuation", "epochs")


def slack_of(column: str, reported: float, values: Sequence[float]) -> float:
    """Return how much worse than the reported value the mean may be, in the column's unit.

    It grows with the uncertainty of the mean, up to a limit: with widely scattered seeds, nothing is reproduced.
    """
    _, sd = mean_and_sd(values)
    two_errors = 2 * (sd or 0.0) / math.sqrt(len(values))
    if kind_of(column) in ("loss", "time"):
        return min(MAX_LOSS_SLACK * reported, max(MIN_LOSS_SLACK * reported, two_errors))
    return min(MAX_SLACK, max(MIN_SLACK, two_errors))


def column_verdict(
    column: str,
    reported: float | None,
    values: Sequence[float],
    *,
    failure: bool = False,
    typo: bool = False,
    judged: bool = True,
    same_hardware: bool = False,
) -> str:
    """Judge one reported value against the measured values of all seeds.

    Args:
      failure: the paper reports a failure, so that a better result does not reproduce it either.
      typo: the reported value cannot be correct.
      judged: the runs have the paper's settings and data.
      same_hardware: the runs have the paper's hardware.
    """
    if typo:
        return CONTRADICTS
    mean, _ = mean_and_sd(values)
    if mean is None:
        return NOT_MEASURED
    kind = kind_of(column)
    if reported is None:
        return SHOWN
    if kind in ("count", "share"):
        return REPRODUCED if abs(mean - reported) < _precision(kind, reported) else NOT_REPRODUCED
    if not judged or column in TRAINING_COLUMNS or kind in ("fluctuation", "epochs"):
        return SHOWN
    if kind == "time" and not same_hardware:
        return OTHER_HARDWARE
    slack = slack_of(column, reported, values) + ROUNDING
    shortfall = mean - reported if lower_is_better(column) else reported - mean
    reached = abs(shortfall) <= slack if failure else shortfall <= slack
    return REPRODUCED if reached else NOT_REPRODUCED


def _precision(kind: Kind, reported: float) -> float:
    """Return the precision to which a reported count or share is stated.

    Counts are exact, rounded to thousands, or "about 60 million" for 60.97; shares are truncated to tenths of a point.
    """
    if kind == "share":
        return 0.001
    if reported % 1_000_000 == 0:
        return 1_000_000
    return 500 if reported % 1000 == 0 else 0.5


def comparable(runs: Iterable[Run]) -> list[Run]:
    """Return the finished runs of a row that can be averaged: same reading of the paper, same data, and all full or
    all shortened.

    This version's reading is preferred, then runs on the paper's data, then full runs, then the larger group.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.state in ("done", "diverged"):
            preferred = (not run.earlier, run.on_papers_data, not run.short)
            key = (preferred, str(run.data.get("fingerprint", "")))
            groups.setdefault(key, []).append(run)
    if not groups:
        return []
    return max(groups.items(), key=lambda item: (item[0][0], len(item[1]), item[0][1]))[1]


def hardware_of(runs: Iterable[Run]) -> set[str]:
    """Return the hardware of finished runs, where recorded."""
    found = (run.facts.get("hardware") for run in runs if run.state == "done")
    return {text for text in found if text}


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
    limits: tuple[str, ...] = ()  # EARLIER, PROXY, SHORTENED: why it cannot count as a reproduction
    earlier: str = ""  # with EARLIER: how version 0.1 read the paper
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
    """Judge a row by its comparable runs and its columns as in the ledger."""
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
        earlier = row.earlier.text if row.earlier and EARLIER in limits else ""
        return dataclasses.replace(base, verdict=limits[0], limits=limits, earlier=earlier)
    if diverged:
        reports_divergence = any(not math.isfinite(value) for value in row.reported.values())
        as_reported = reports_divergence and len(diverged) == len(runs)
        return dataclasses.replace(base, verdict=REPRODUCED if as_reported else DIVERGED)
    return RowVerdict(verdict_of_columns(columns), runs=len(runs), by_columns=True)


def limits_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """Return why runs are not the paper's setting on the paper's data: EARLIER, PROXY, SHORTENED."""
    runs = list(runs)
    found = {
        EARLIER: any(run.earlier for run in runs),
        PROXY: any(not run.on_papers_data for run in runs),
        SHORTENED: any(run.short for run in runs),
    }
    return tuple(limit for limit, applies in found.items() if applies)


def _without_runs(row: Row, result: RowResult, columns: Sequence[Mapping[str, Any]]) -> RowVerdict:
    failed = [run for run in result.runs if run.state == "failed"]
    if failed:
        return RowVerdict(FAILED, reason=failed[0].text)
    reported = [c for c in columns if c["column"] in row.reported]
    if reported and all(
        c["column"] in PARAMETER_COLUMNS and c["mean"] is not None for c in reported
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
        and c["column"] not in PARAMETER_COLUMNS
    ]


# Comparisons.


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why two rows cannot be compared."""

    kind: Literal["not run", "diverged", "no column", "different data", "different hardware"]
    row: str = ""  # the row that causes it
    text: str = ""  # the message of the run


@dataclasses.dataclass(frozen=True)
class ComparisonVerdict:
    """Whether a comparison holds, and by how much."""

    verdict: str = NOT_MEASURED
    difference: float | None = None  # mean over the seeds, in the column's unit
    sd: float | None = None
    interval: Interval | None = None  # 95%, of the difference
    n: int = 0  # number of seeds
    paired: bool = False  # differences are per seed
    magnitude: str | None = (
        None  # whether the difference is as large as stated; None if none is stated
    )
    obstacle: Obstacle | None = None
    limits: tuple[str, ...] = ()  # EARLIER, PROXY, SHORTENED, or SMOKE alone
    diverged: tuple[tuple[str, int, int], ...] = ()  # row, runs that diverged, total runs


@dataclasses.dataclass(frozen=True)
class ClaimVerdict:
    """Whether a claim holds."""

    verdict: str = NOT_MEASURED
    mean: float | None = None
    interval: Interval | None = None  # 95%, of the mean
    n: int = 0  # number of seeds
    obstacle: Obstacle | None = None
    limits: tuple[str, ...] = ()  # EARLIER, PROXY, SHORTENED, or SMOKE alone
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
    if column in PARAMETER_COLUMNS:
        counts = [(results[name].parameters or {}).get(column) for name in pair]
        if counts[0] is None or counts[1] is None:
            return ComparisonVerdict()
        difference = float(counts[0]) - float(counts[1])
        return ComparisonVerdict(HOLDS if difference > 0 else DOES_NOT_HOLD, difference, n=1)
    for name in pair:
        obstacle = _obstacle(name, chosen[name])
        if obstacle:
            return ComparisonVerdict(obstacle=obstacle)
    higher, lower = (values_of(column, chosen[name]) for name in pair)
    if not higher or not lower:
        return ComparisonVerdict(obstacle=Obstacle("no column", pair[bool(higher)]))
    first, second = chosen[pair[0]][0], chosen[pair[1]][0]
    same_dataset = paper.row(pair[0]).recipe.dataset == paper.row(pair[1]).recipe.dataset
    other_data = first.data.get("fingerprint") != second.data.get("fingerprint")
    if first.on_papers_data != second.on_papers_data or (same_dataset and other_data):
        return ComparisonVerdict(obstacle=Obstacle("different data"))
    hardware = hardware_of([*chosen[pair[0]], *chosen[pair[1]]])
    if kind_of(column) == "time" and len(hardware) > 1:
        return ComparisonVerdict(obstacle=Obstacle("different hardware"))
    judge = _compare_means if comparison.statistic == "mean" else _compare_spreads
    found = judge(higher, lower)
    if comparison.magnitude is not None:
        low, high = (factor * comparison.magnitude for factor in ABOUT)
        found = dataclasses.replace(found, magnitude=in_range(found.interval, low, high))
    return dataclasses.replace(
        found,
        limits=(SMOKE,) if smoke else limits_of((first, second)),
        diverged=() if smoke else tuple(d for name in pair for d in _diverged(name, chosen[name])),
    )


def judge_claim(claim: Claim, runs: Sequence[Run], *, smoke: bool = False) -> ClaimVerdict:
    """Judge a claim by the comparable runs of its row."""
    obstacle = _obstacle(claim.row, runs)
    if obstacle:
        return ClaimVerdict(obstacle=obstacle)
    values = list(values_of(claim.column, runs).values())
    if not values:
        return ClaimVerdict(obstacle=Obstacle("no column", claim.row))
    interval = mean_interval(values)
    return ClaimVerdict(
        in_range(interval, claim.at_least, claim.at_most),
        statistics.fmean(values),
        interval,
        len(values),
        limits=(SMOKE,) if smoke else limits_of(runs[:1]),
        diverged=() if smoke else _diverged(claim.row, runs),
    )


def _diverged(name: str, runs: Sequence[Run]) -> tuple[tuple[str, int, int], ...]:
    """Return row, number of runs that diverged and total, if any diverged."""
    count = sum(run.state == "diverged" for run in runs)
    return ((name, count, len(runs)),) if count else ()


def in_range(interval: Interval | None, low: float, high: float) -> str:
    """Judge whether a value lies from `low` to `high`, by its confidence interval (None: unknown)."""
    if interval is None:
        return UNDECIDED
    if low <= interval[0] and interval[1] <= high:
        return HOLDS
    return DOES_NOT_HOLD if interval[1] < low or high < interval[0] else UNDECIDED


def _obstacle(name: str, runs: Sequence[Run]) -> Obstacle | None:
    """Return why a row has no values: it was not run, or all runs diverged."""
    if not runs:
        return Obstacle("not run", name)
    if all(run.state == "diverged" for run in runs):
        return Obstacle("diverged", name, runs[0].text)
    return None


def _compare_means(higher: Mapping[int, float], lower: Mapping[int, float]) -> ComparisonVerdict:
    """Compare two rows' means: paired by common seeds, which share data order and random draws, else by Welch's t."""
    seeds = [seed for seed in higher if seed in lower]
    if seeds:
        differences = [higher[seed] - lower[seed] for seed in seeds]
        mean, sd = mean_and_sd(differences)
        interval, count = mean_interval(differences), len(seeds)
    else:
        (mean_h, sd_h), (mean_l, sd_l) = (mean_and_sd(list(v.values())) for v in (higher, lower))
        mean = (mean_h or 0.0) - (mean_l or 0.0)
        count, sd, interval = min(len(higher), len(lower)), None, None
        if sd_h is not None and sd_l is not None:
            sd = math.hypot(sd_h, sd_l)
            interval = welch_interval(mean, (sd_h, len(higher)), (sd_l, len(lower)))
    return ComparisonVerdict(_sign(interval), mean, sd, interval, count, bool(seeds))


def _sign(interval: Interval | None) -> str:
    """Judge whether a difference is above 0; undecided if the interval contains 0."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return UNDECIDED
    return HOLDS if interval[0] > 0 else DOES_NOT_HOLD


def _compare_spreads(higher: Mapping[int, float], lower: Mapping[int, float]) -> ComparisonVerdict:
    """Compare two rows' standard deviations over the seeds, by the 95% interval (F) of the ratio of their variances."""
    (_, first), (_, second) = (mean_and_sd(list(v.values())) for v in (higher, lower))
    count = min(len(higher), len(lower))
    if first is None or second is None:
        return ComparisonVerdict(UNDECIDED, n=count)
    verdict, difference = UNDECIDED, first - second
    if first or second:
        from scipy import stats

        ratio = (first / second) ** 2 if second else math.inf
        m, n = len(higher) - 1, len(lower) - 1
        level = (1 + CONFIDENCE) / 2
        if ratio / stats.f.ppf(level, m, n) > 1:
            verdict = HOLDS
        elif ratio * stats.f.ppf(level, n, m) < 1:
            verdict = DOES_NOT_HOLD
    return ComparisonVerdict(verdict, difference, n=count)
