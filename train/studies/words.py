"""Sentences and tables for a study's results, on the terminal and on the page."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.analysis import statistics
from train.analysis.statistics import Difference, Interval
from train.record.terminal import count
from train.studies.results import RunResult, StudyResults
from train.studies.scores import Choice, Estimate, SettingScore, Summary

NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "loss": "loss"}
IMAGES_PER_CLASS = "images_per_class"
SENTENCES = 10  # tests described in words; the table has all


# Names and numbers.


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Name recipe paths by their shortest distinct suffixes."""
    parts, length = {path: path.split(".") for path in paths}, 1
    while len({tuple(p[-length:]) for p in parts.values()}) < len(parts):
        length += 1
    return {path: ".".join(p[-length:]) for path, p in parts.items()}


def value_text(value: Any) -> str:
    """Format a value of a recipe field."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(map(value_text, value))
    return "none" if value is None else str(value)


def shown_value(path: str, value: Any) -> Any:
    """Return a value as it is displayed: "all" if the images per class are not limited."""
    return "all" if path == IMAGES_PER_CLASS and value is None else value


def label(results: StudyResults, number: int) -> str:
    """Name a setting by its number and its values: "003 (lr 0.1)"."""
    names = short_names(results.varied)
    values = next(s.values for s in results.settings if s.number == number)
    shown = ", ".join(
        f"{names[path]} {value_text(shown_value(path, value))}" for path, value in values.items()
    )
    return f"{number:03d}" + (f" ({shown})" if shown else "")


def number_text(value: float | None, metric: str) -> str:
    """Format a score: percent for fractions."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if metric == "loss" else f"{value:.2%}"


def spread_text(mean: float | None, sd: float | None, metric: str) -> str:
    """Format a mean and its standard deviation over the runs: "91.20% ± 0.84"."""
    text = number_text(mean, metric)
    if sd is None or not text or not math.isfinite(sd):
        return text
    return text + (f" ± {sd:.4f}" if metric == "loss" else f" ± {100 * sd:.2f}")


def interval_text(interval: Interval | None, metric: str) -> str:
    """Format an interval: "90.2 to 95.4" in percent, or as losses."""
    if interval is None:
        return ""
    scale, digits = (1, 4) if metric == "loss" else (100, 1)
    return " to ".join(f"{scale * bound:z.{digits}f}" for bound in interval)


# Tables.


def settings_table(
    summary: Summary, scores: Sequence[SettingScore]
) -> tuple[list[str], list[list[str]]]:
    """Return the heading and rows of the table of settings, without empty columns."""
    results = summary.results
    metric, names = results.metric, short_names(results.varied)
    split = "validation" if results.has_test_split else "test"
    estimates = [s.estimate for s in summary.scores if s.estimate is not None]
    units = next((e.unit for e in estimates if e.units), "images")
    columns: dict[str, list[str]] = {"setting": [f"{s.setting.number:03d}" for s in scores]}
    for path in results.varied:
        columns[names[path]] = [
            value_text(shown_value(path, s.setting.values[path]))
            if path in s.setting.values
            else ""
            for s in scores
        ]
    columns["runs"] = [
        f"{s.finished}" if s.complete else f"{s.finished} of {s.planned}" for s in scores
    ]
    if not results.has_test_split:
        columns["validation"] = [number_text(s.validation, metric) for s in scores]
    columns[split] = [spread_text(s.mean, s.sd, metric) for s in scores]
    if any(len(e.by_fold) > 1 and e.pooled is not None for e in estimates) and metric != "accuracy":
        columns["pooled"] = [
            number_text(s.estimate.pooled if s.estimate else None, metric) for s in scores
        ]
    if any(e.interval for e in estimates):
        columns[f"95% over {units}"] = [
            interval_text(s.estimate.interval if s.estimate else None, metric) for s in scores
        ]
    for unit in ("folds", "seeds"):
        if any(e.runs_unit == unit and e.runs_interval for e in estimates):
            columns[f"95% over {unit}"] = [
                interval_text(s.estimate.runs_interval if s.estimate else None, metric)
                for s in scores
            ]
    if any(s.differences for s in scores):
        best = f"{summary.best:03d}"
        columns[f"{best} minus this"] = [_difference_text(s, metric) for s in scores]
        columns["p"] = [_p(s.differences) for s in scores]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _difference_text(score: SettingScore, metric: str) -> str:
    if not score.differences:
        return ""
    difference = score.differences[0]
    scale, digits = (1, 4) if metric == "loss" else (100, 1)
    text = f"{scale * difference.value:z.{digits}f}"
    interval = interval_text(difference.interval, metric)
    return f"{text} ({interval})" if interval else text


def _p(differences: Sequence[Difference]) -> str:
    if not differences or differences[0].p is None:
        return ""
    return statistics.p_text(differences[0].p).removeprefix("p ").removeprefix("= ")


def unfinished(results: StudyResults) -> list[RunResult]:
    """List the runs without a result."""
    return [run for run in results.runs if not run.is_finished]


def aligned(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Format a table for the terminal."""
    lines = [list(heading), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


# Sentences.


def counts(results: StudyResults) -> str:
    """Count settings, folds, seeds, and runs by state."""
    plan = [count(len(results.settings), "setting")]
    if results.num_folds:
        plan.append(count(results.num_folds, "fold"))
    plan.append(count(len(results.seeds), "seed"))
    states = collections.Counter(
        "finished" if run.is_finished else run.state for run in results.runs
    )
    found = ", ".join(f"{number} {state}" for state, number in states.items()) or "none"
    return f"{' x '.join(plan)}, {count(len(results.runs), 'run')}: {found}"


def choice_sentence(summary: Summary) -> str:
    """Report the chosen setting, and its score on images that were not used to choose it."""
    results, choice = summary.results, summary.choice
    if choice.estimate is None:
        chosen = ""
        if len(set(choice.settings)) == 1:
            chosen = f"{label(results, choice.settings[0])} is chosen; "
        return f"{chosen}no score for the chosen setting: {choice.missing}"
    score = estimate_text(choice.estimate, results.metric, nested=choice.how == "nested")
    if len(results.settings) == 1:
        published = "published " if choice.how == "published" else ""
        return f"{published}test {NAMES[results.metric]}: {score}"
    if choice.how == "published":
        return (
            f"{label(results, choice.settings[0])} is chosen by validation {NAMES[results.metric]};"
            f" on the published test images, which no other setting is tested on: {score}"
        )
    if not results.num_folds:
        return (
            f"{label(results, choice.settings[0])} is chosen by validation {NAMES[results.metric]};"
            f" on the test images: {score}"
        )
    return (
        f"chosen within each fold by validation {NAMES[results.metric]} ({_folds_of(choice, results)}),"
        f" scored on the fold: {score}"
    )


def _folds_of(choice: Choice, results: StudyResults) -> str:
    frequent = collections.Counter(choice.settings).most_common()
    shown = ", ".join(
        f"{label(results, number)} in {count(folds, 'fold')}" for number, folds in frequent[:3]
    )
    return shown + (f", {len(frequent) - 3} others" if len(frequent) > 3 else "")


def estimate_text(estimate: Estimate, metric: str, *, nested: bool = True) -> str:
    """Format a score with its intervals: "91.20% (95% 88.4 to 93.4 over 500 images; ...)"."""
    value = estimate.mean if estimate.pooled is None else estimate.pooled
    facts = []
    if estimate.interval:
        unit = estimate.unit if estimate.units != 1 else estimate.unit.removesuffix("s")
        facts.append(f"95% {interval_text(estimate.interval, metric)} over {estimate.units} {unit}")
    number = len(estimate.by_fold) if len(estimate.by_fold) > 1 else len(estimate.by_seed)
    if nested and estimate.runs_interval:
        facts.append(
            f"95% {interval_text(estimate.runs_interval, metric)} over {number} {estimate.runs_unit}"
        )
    elif number > 1 and estimate.sd is not None:
        sd = f"{estimate.sd:.4f}" if metric == "loss" else f"{100 * estimate.sd:.2f} points"
        facts.append(f"mean of {number} runs, standard deviation {sd}")
    return number_text(value, metric) + (f" ({'; '.join(facts)})" if facts else "")


def test_sentences(summary: Summary) -> list[str]:
    """Report the tests of the best setting against the others, best first."""
    results = summary.results
    tested = [s for s in summary.scores if s.differences]
    if not tested or summary.best is None:
        return list(summary.untested)
    unit = "loss" if results.metric == "loss" else "points"
    first = label(results, summary.best)
    lines = []
    for score in tested[:SENTENCES]:
        second = label(results, score.setting.number)
        for difference in score.differences:
            text = statistics.sentence(first, second, difference, unit=unit)
            lines.append(f"{NAMES[results.metric]}: {text} ({difference.test})")
    if len(tested) > SENTENCES:
        lines.append(f"{len(tested) - SENTENCES} more tests are in the table of study.html")
    adjusted = sum(s.differences[0].p is not None for s in tested)
    if adjusted > 1:
        lines.append(
            f"p-values of the {adjusted} main tests are adjusted by Holm's method; the intervals are not"
        )
    return [*lines, *summary.untested]


def notes(summary: Summary) -> list[str]:
    """Explain what the scores and intervals do and do not cover."""
    results = summary.results
    lines = list(results.notes)
    several = len(results.settings) > 1
    if not results.num_folds and len(results.seeds) == 1:
        lines.append(
            "one seed: intervals and tests cover only the sampling of images; part of a difference may be due to"
            " the seed"
        )
    if results.has_test_split:
        lines.append(
            "settings are scored on the validation images, which also determined the best epoch: scores are optimistic"
        )
    if several and summary.best is not None and summary.best_by == "score":
        lines.append(
            f"no validation scores are known: {summary.best:03d} was selected by the scores under test, so its lead is"
            " optimistic"
        )
    if results.metric != "loss" and any(
        s.estimate and s.estimate.units and s.estimate.interval is None for s in summary.scores
    ):
        lines.append("there is no interval where all bootstrap replicates have the same score")
    return lines


def unfinished_lines(results: StudyResults, limit: int = SENTENCES) -> list[str]:
    """List the runs without a result, with reasons."""
    lines = [
        f"{run.name}: {run.state}" + (f": {run.text}" if run.text not in ("", run.state) else "")
        for run in unfinished(results)
    ]
    more = len(lines) - limit
    return lines[:limit] + ([f"... and {more} more, in study.csv"] if more > 0 else [])


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a setting as plain JSON data."""
    return {path: list(v) if isinstance(v, tuple) else v for path, v in values.items()}
