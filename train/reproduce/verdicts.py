"""Judgment: what follows from the runs of a paper's rows. Pure functions over plain data, without a sentence.

Only runs of the paper's setting on the paper's data are judged: a score is reproduced when the mean over the seeds is
at least the reported value, less the larger of one point and two standard deviations. Times and losses are shown,
since they depend on hardware and on how they are counted; parameter counts depend on no data and are always judged.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from train.reproduce.claims import TIMES, Comparison, Paper, Row

SIZES = ("parameters", "total_parameters")
POINT = 0.01  # what a reproduction may always lack
ROUNDING = 1e-9  # of binary fractions

# The verdicts, as they are in the ledger's JSON.
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
CONTRADICTS = "the paper contradicts itself"
PROXY, SHORTENED, SMOKE = "stand-in", "shortened", "smoke"
DIVERGED, FAILED, NOT_RUN = "diverged", "failed", "not run"
SHOWN, NOT_MEASURED = "shown", "not measured"
HOLDS, HOLDS_NOT = "holds", "does not hold"


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one run: a row with one seed."""

    seed: int
    state: Literal["done", "diverged", "failed", "unfinished"]
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)  # numbers of test.json
    text: str = ""  # "diverged at step 7", why it failed, how far it got
    on_papers_data: bool = False
    short: bool = False  # with the row's `short` settings
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # see `data.describe_data`
    # setting, commit, dirty, hardware, versions, epochs_run, best_epoch, directory, remark
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RowResult:
    """What is known of a row."""

    runs: Sequence[Run] = ()
    sizes: Mapping[str, int] | None = None  # parameters and total_parameters
    setting: str = ""  # in a line
    command: str = ""  # that runs the row
    needs: str = ""  # what a run of it needs
    problem: str = ""  # why a run was tried and did not start


# Numbers.


def kind_of(column: str) -> Literal["time", "loss", "size", "score"]:
    """What a column's numbers are: milliseconds, a loss, a parameter count, or a share."""
    if column in TIMES:
        return "time"
    if column in SIZES:
        return "size"
    return "loss" if column == "loss" or column.endswith("_loss") else "score"


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; of fewer than two values there is none."""
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
    """The verdict of one number, from the values of all seeds.

    `failure`: a failure is reported, so that better is not reproduced either. `judged`: the runs are the paper's
    setting on the paper's data.
    """
    if typo:
        return CONTRADICTS
    mean, sd = mean_and_sd(values)
    if mean is None:
        return NOT_MEASURED
    kind = kind_of(column)
    if reported is None or kind in ("time", "loss") or column == "train_accuracy":
        return SHOWN  # a high training accuracy can be fitting or overfitting: neither reproduces anything
    if kind == "size":
        within = 500 if reported % 1000 == 0 else 0.5  # in thousands, or to the last digit
        return REPRODUCED if abs(mean - reported) < within else NOT_REPRODUCED
    if not judged:
        return SHOWN
    slack = max(POINT, 2 * (sd or 0.0)) + ROUNDING
    reached = abs(mean - reported) <= slack if failure else mean >= reported - slack
    return REPRODUCED if reached else NOT_REPRODUCED


def comparable(runs: Iterable[Run]) -> list[Run]:
    """The finished runs of a row that go together: of one length, on the same data; the paper's data and setting
    where there are such."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.state in ("done", "diverged"):
            key = (run.on_papers_data, not run.short, str(run.data.get("fingerprint", "")))
            groups.setdefault(key, []).append(run)
    if not groups:
        return []
    return max(groups.items(), key=lambda item: (item[0][:2], len(item[1]), item[0][2]))[1]


def values_of(column: str, runs: Sequence[Run]) -> dict[int, float]:
    """A column's values by seed."""
    return {
        run.seed: float(run.values[column])
        for run in runs
        if run.state == "done" and column in run.values
    }


# Rows.


@dataclasses.dataclass(frozen=True)
class RowVerdict:
    """The verdict of a row, and what it rests on; `words.row_text` makes a line of it."""

    verdict: str
    limits: tuple[str, ...] = ()  # PROXY, SHORTENED: why it is no reproduction
    reason: str = ""  # of a failed, unfinished or absent run: the run's own words
    divergence: str = ""  # the words of the first run that diverged
    diverged: int = 0  # runs
    runs: int = 0
    unfinished: bool = False
    by_columns: bool = False  # follows from the verdicts of the columns


def row_verdict(
    row: Row,
    result: RowResult,
    runs: Sequence[Run],
    columns: Sequence[Mapping[str, Any]],
    *,
    smoke: bool = False,
) -> RowVerdict:
    """The verdict of a row from its comparable runs and its columns, as the ledger has them."""
    if not runs:
        return _without_runs(row, result, columns)
    lost = [run for run in runs if run.state == "diverged"]
    about = RowVerdict(
        SMOKE, divergence=lost[0].text if lost else "", diverged=len(lost), runs=len(runs)
    )
    if smoke:
        return about
    limits = limits_of(runs[:1])
    if limits:
        return dataclasses.replace(about, verdict=limits[0], limits=limits)
    if lost:
        reported_so = any(not math.isfinite(value) for value in row.reported.values())
        as_reported = reported_so and len(lost) == len(runs)
        return dataclasses.replace(about, verdict=REPRODUCED if as_reported else DIVERGED)
    return RowVerdict(verdict_of_columns(columns), by_columns=True)


def limits_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """Why runs are not the paper's setting on the paper's data."""
    runs = list(runs)
    on_proxy = any(not run.on_papers_data for run in runs)
    return (PROXY,) * on_proxy + (SHORTENED,) * any(run.short for run in runs)


def _without_runs(row: Row, result: RowResult, columns: Sequence[Mapping[str, Any]]) -> RowVerdict:
    failed = [run for run in result.runs if run.state == "failed"]
    if failed:
        return RowVerdict(FAILED, reason=failed[0].text)
    reported = [c for c in columns if c["column"] in row.reported]
    if reported and all(kind_of(c["column"]) == "size" and c["mean"] is not None for c in reported):
        return RowVerdict(verdict_of_columns(columns), by_columns=True)
    unfinished = [run for run in result.runs if run.state == "unfinished"]
    if unfinished:
        return RowVerdict(NOT_RUN, reason=unfinished[0].text, unfinished=True)
    return RowVerdict(NOT_RUN, reason=result.problem or result.needs)


def verdict_of_columns(columns: Sequence[Mapping[str, Any]]) -> str:
    """The verdict that follows from those of a row's numbers, measured in the paper's setting on its data."""
    verdicts = [c["verdict"] for c in columns]
    for verdict in (NOT_REPRODUCED, REPRODUCED, CONTRADICTS):
        if verdict in verdicts:
            return verdict
    return NOT_MEASURED if lacking(columns) else SHOWN


def lacking(columns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The columns that are reported and were not measured, parameter counts aside."""
    return [
        c
        for c in columns
        if c["verdict"] == NOT_MEASURED
        and c["printed"] is not None
        and kind_of(c["column"]) != "size"
    ]


# Comparisons.


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why two rows cannot be compared."""

    kind: Literal["not run", "diverged", "no column", "different data"]
    row: str = ""  # whose fault it is
    text: str = ""  # the run's own words


@dataclasses.dataclass(frozen=True)
class ComparisonVerdict:
    """Whether a comparison holds, and by how much."""

    verdict: str = NOT_MEASURED
    difference: float | None = None  # mean over the seeds, in the column's unit
    sd: float | None = None
    n: int = 0  # seeds
    paired: bool = False  # by seed
    obstacle: Obstacle | None = None
    limits: tuple[str, ...] = ()  # PROXY, SHORTENED, or SMOKE alone
    lost: tuple[tuple[str, int, int], ...] = ()  # row, runs that diverged, runs in all


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
    if kind_of(column) == "size":
        sizes = [(results[name].sizes or {}).get(column) for name in pair]
        if None in sizes:
            return ComparisonVerdict()
        return _difference({0: float(sizes[0] or 0)}, {0: float(sizes[1] or 0)})
    lost = []
    for name in pair:
        diverged = [run for run in chosen[name] if run.state == "diverged"]
        if not chosen[name]:
            return ComparisonVerdict(obstacle=Obstacle("not run", name))
        if len(diverged) == len(chosen[name]):
            return ComparisonVerdict(obstacle=Obstacle("diverged", name, diverged[0].text))
        if diverged:
            lost.append((name, len(diverged), len(chosen[name])))
    higher, lower = (values_of(column, chosen[name]) for name in pair)
    if not higher or not lower:
        return ComparisonVerdict(obstacle=Obstacle("no column", pair[bool(higher)]))
    first, second = chosen[pair[0]][0], chosen[pair[1]][0]
    same_claim = paper.row(pair[0]).recipe.dataset == paper.row(pair[1]).recipe.dataset
    other_data = first.data.get("fingerprint") != second.data.get("fingerprint")
    if first.on_papers_data != second.on_papers_data or (same_claim and other_data):
        return ComparisonVerdict(obstacle=Obstacle("different data"))
    return dataclasses.replace(
        _difference(higher, lower),
        limits=(SMOKE,) if smoke else limits_of((first, second)),
        lost=() if smoke else tuple(lost),
    )


def _difference(higher: Mapping[int, float], lower: Mapping[int, float]) -> ComparisonVerdict:
    """Of two rows' values by seed: paired where seeds are the same, since these share data order and draws."""
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
    return ComparisonVerdict(HOLDS if holds else HOLDS_NOT, mean, sd, count, bool(seeds))
