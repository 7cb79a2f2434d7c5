"""The page of a study: one self-contained HTML file."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from train.record.directory import RunDir, write_text
from train.report import page
from train.studies import words
from train.studies.importance import Importance, importance, key
from train.studies.results import StudyResults
from train.studies.scores import SettingScore, Summary

CURVES = 7  # settings in a figure of curves: more colors are indistinguishable
MAX_AXES = 8  # of parallel coordinates
MAX_ROWS = 1000  # of the table of settings


def write(path: Path, summary: Summary) -> None:
    """Write the page."""
    results = summary.results
    title = f"Study {results.name}"
    parts = [
        f"<h1>{page.text(title)}</h1>",
        f"<p class=soft>{page.text(words.counts(results))}</p>",
        _headline(summary),
        page.section("Result", _list([words.choice_sentence(summary), *words.notes(summary)])),
        _settings(summary),
        page.section("Tests", _list(words.test_sentences(summary))),
        _unfinished(results),
        *_figures(summary),
        page.section("Command", f"<pre>{page.text(results.command)}</pre>")
        if results.command
        else "",
    ]
    write_text(path, page.document(title, parts))


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{page.text(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _headline(summary: Summary) -> str:
    """Show the score of the chosen setting and its intervals at the top of the page."""
    estimate, metric = summary.choice.estimate, summary.results.metric
    if estimate is None:
        return ""
    value = estimate.mean if estimate.pooled is None else estimate.pooled
    several = len(summary.results.settings) > 1
    what = f"test {words.NAMES[metric]}{' after selection' if several else ''}"
    numbers = [(words.number_text(value, metric), what)]
    if estimate.interval:
        text = f"95% over {estimate.units} {estimate.unit}"
        numbers.append((words.interval_text(estimate.interval, metric), text))
    if summary.choice.how == "nested" and estimate.runs_interval:
        count = len(estimate.by_fold) if len(estimate.by_fold) > 1 else len(estimate.by_seed)
        text = f"95% over {count} {estimate.runs_unit}"
        numbers.append((words.interval_text(estimate.runs_interval, metric), text))
    items = "".join(f"<li><b>{page.text(v)}</b>{page.text(t)}</li>" for v, t in numbers)
    return f"<ul class=numbers>{items}</ul>"


def _settings(summary: Summary) -> str:
    heading, rows = words.settings_table(summary, summary.scores[:MAX_ROWS])
    more = len(summary.scores) - MAX_ROWS
    body = page.table(heading, rows, numeric=True)
    facts = ["± is the standard deviation over the runs"]
    if summary.best is not None and any(s.differences for s in summary.scores):
        unit = "" if summary.results.metric == "loss" else ", in points,"
        facts.append(f"differences{unit} and their 95% intervals are from the main tests")
    if more > 0:
        facts.append(f"{more} more settings are in study.json")
    title = f"Settings: {words.NAMES[summary.results.metric]}"
    return page.section(title, body + f"<p class=soft>{page.text('; '.join(facts))}.</p>")


def _unfinished(results: StudyResults) -> str:
    runs = words.unfinished(results)
    rows = [(run.name, words.label(results, run.setting), run.state, run.text) for run in runs]
    heading = ("run", "setting", "state", "reason")
    return page.section(f"Runs without a result: {len(runs)}", page.table(heading, rows))


# Figures.


def _figures(summary: Summary) -> Iterator[str]:
    """Draw the figures for which there are enough settings."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figure.png"

        def section(title: str, draw: Callable[[Path], object], note: str = "") -> str:
            draw(file)
            text = f"<p class=soft>{page.text(note)}.</p>" if note else ""
            return page.section(title, page.image(file, title) + text)

        yield from _images_per_class(summary, section)
        yield from _fields(summary, section)
        yield from _curves(summary, section)


def score_name(results: StudyResults) -> str:
    """Name the score of the settings: split and metric."""
    split = "validation" if results.has_test_split else "test"
    return f"{split} {words.NAMES[results.metric]}"


def scored(summary: Summary) -> list[SettingScore]:
    """List the complete settings that have a finite score, by number."""
    found = [s for s in summary.scores if s.complete and s.mean is not None]
    finite = [s for s in found if s.mean is not None and math.isfinite(s.mean)]
    return sorted(finite, key=lambda s: s.setting.number)


def varying(settings: Sequence[SettingScore]) -> list[str]:
    """List the paths that all these settings have, with values that differ."""
    paths = dict.fromkeys(path for s in settings for path in s.setting.values)
    return [
        path
        for path in paths
        if all(path in s.setting.values for s in settings)
        and len({key(s.setting.values[path]) for s in settings}) > 1
    ]


def study_importance(summary: Summary) -> Importance | None:
    """Compute the importance of the varied fields for the scores of the complete settings."""
    return importance([(s.setting.values, s.mean) for s in scored(summary) if s.mean is not None])


def _fields(summary: Summary, section: Callable[..., str]) -> Iterator[str]:
    from train.studies import figures

    results, settings = summary.results, scored(summary)
    paths = varying(settings)
    if len(settings) < 2 or not paths:
        return
    names = words.short_names(results.varied)
    found = study_importance(summary)
    if found:
        shares = {names[path]: share for path, share in found.shares.items()}
        yield section(
            "Importance of each field",
            lambda file: figures.importance_bars(shares, found.rest, file),
            found.method,
        )
    columns: dict[str, Sequence[Any]] = {
        names[path]: [words.shown_value(path, s.setting.values[path]) for s in settings]
        for path in paths
    }
    scores = [float(s.mean) for s in settings if s.mean is not None]
    numbers = [s.setting.number for s in settings]
    best = numbers.index(summary.best) if summary.best in numbers else None
    percent = results.metric != "loss"
    name = score_name(results)
    yield section(
        "Score by field",
        lambda file: figures.slices(columns, scores, best, name, file, percent=percent),
    )
    if len(columns) < 2:
        return
    order = [p for p in (found.shares if found else paths) if p in paths]
    shown = {names[path]: columns[names[path]] for path in order[:MAX_AXES]}
    yield section(
        "Parallel coordinates",
        lambda file: figures.parallel_coordinates(
            shown, scores, best, name, file, percent=percent, minimize=not percent
        ),
        f"the {'first' if found is None else 'most important'} {MAX_AXES} of {len(order)} fields"
        if len(order) > MAX_AXES
        else "",
    )


def _curves(summary: Summary, section: Callable[..., str]) -> Iterator[str]:
    """Plot validation loss and accuracy over epochs: the mean over the finished runs of a setting."""
    results = summary.results
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": {}, "accuracy": {}}
    with_runs = [s for s in summary.scores if s.finished]
    for score in with_runs[:CURVES]:
        number = score.setting.number
        rows = [
            RunDir(run.directory).read_summary()
            for run in results.runs_of(number)
            if run.is_finished
        ]
        for quantity, lines in curves.items():
            if line := mean_curve(rows, f"val_{quantity}"):
                lines[words.label(results, number)] = line
    curves = {quantity: lines for quantity, lines in curves.items() if lines}
    if not curves:
        return
    from train.studies import figures

    chosen = None if summary.best is None else words.label(results, summary.best)
    note = "Mean over the runs of each setting that reached the epoch"
    if len(with_runs) > CURVES:
        note += f"; the first {CURVES} of {len(with_runs)} settings"
    yield section(
        "Learning curves",
        lambda file: figures.validation_curves(curves, file, chosen=chosen),
        note,
    )


def mean_curve(runs: Sequence[Sequence[dict[str, Any]]], column: str) -> list[tuple[float, float]]:
    """Average a column of summary.csv over runs, epoch by epoch; missing and infinite values are left out."""
    found: dict[int, list[float]] = {}
    for rows in runs:
        for row in rows:
            if math.isfinite(row[column]):
                found.setdefault(row["epoch"], []).append(row[column])
    return [(epoch, sum(values) / len(values)) for epoch, values in sorted(found.items())]


def _images_per_class(summary: Summary, section: Callable[..., str]) -> Iterator[str]:
    """Plot the score against the images per class, one line per combination of the other fields."""
    results = summary.results
    lines, unit = images_per_class_lines(summary)
    if not lines:
        return
    from train.studies import figures

    note = "The band is the 95% interval" + (f" over {unit}" if unit else "")
    if len(lines) > CURVES:
        note += f"; the first {CURVES} of {len(lines)} combinations of the other fields"
    shown = dict(list(lines.items())[:CURVES])
    yield section(
        "Score by training images per class",
        lambda file: figures.images_per_class_curve(
            shown, score_name(results), file, percent=results.metric != "loss"
        ),
        note,
    )


def images_per_class_lines(
    summary: Summary,
) -> tuple[dict[str, list[tuple[int | None, float, float | None, float | None]]], str]:
    """Return points (images, mean, low, high) for each combination of other fields, and the unit of the intervals.

    Intervals are over folds or seeds if there are several, otherwise over images. The point for all images (None) is
    last.
    """
    results, settings = summary.results, scored(summary)
    if len({key(s.setting.values.get(words.IMAGES_PER_CLASS)) for s in settings}) < 2:
        return {}, ""
    names = words.short_names(results.varied)
    others = [path for path in varying(settings) if path != words.IMAGES_PER_CLASS]
    lines: dict[str, list[tuple[int | None, float, float | None, float | None]]] = {}
    unit = ""
    for score in settings:
        values = score.setting.values
        line = ", ".join(f"{names[p]} {words.value_text(values[p])}" for p in others)
        low, high = None, None
        center = float(score.mean or 0.0)
        if estimate := score.estimate:
            interval, unit = estimate.runs_interval, estimate.runs_unit
            if interval is None and estimate.interval is not None:
                interval, unit = estimate.interval, estimate.unit
                center = estimate.pooled if estimate.pooled is not None else center
            low, high = interval or (None, None)
        lines.setdefault(line, []).append((values.get(words.IMAGES_PER_CLASS), center, low, high))
    ordered = {
        line: sorted(points, key=lambda p: math.inf if p[0] is None else p[0])
        for line, points in lines.items()
    }
    return ordered, unit
