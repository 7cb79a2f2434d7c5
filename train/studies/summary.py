"""The files of a study: study.json, study.csv and study.html, and its lines for the terminal."""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.analysis.statistics import Difference
from train.errors import InputError
from train.record.directory import RunDir, write_json, write_text
from train.report import optional
from train.studies import page, words
from train.studies.results import RunResult, StudyResults
from train.studies.scores import Estimate, Summary
from train.studies.scores import summarize as summarize

FORMAT = 1  # of study.json
JSON, CSV, HTML = "study.json", "study.csv", "study.html"
ROWS = 20  # settings on the terminal
# Columns of study.csv from test.json.
SCORES = ("accuracy", "f1", "precision", "recall", "loss", "num_examples")
FACTS = ("best_epoch", "epochs_run", "train_time_ms")


def write(folder: Path, results: StudyResults) -> list[str]:
    """Write study.json, study.csv and study.html of a study, finished or not.

    Returns the lines for the terminal.
    """
    summary = summarize(results)
    write_json(folder / JSON, to_json(summary))
    write_text(folder / CSV, to_csv(summary.results))
    with optional(f"{folder / HTML}"):
        page.write(folder / HTML, summary)
    return lines(summary)


def lines(summary: Summary) -> list[str]:
    """Describe a study for the terminal."""
    results = summary.results
    heading, rows = words.settings_table(summary, summary.scores[:ROWS])
    more = len(summary.scores) - ROWS
    table = words.aligned(heading, rows)
    if more > 0:
        table.append(f"... and {words.count(more, 'more setting')}, in {HTML}")
    return [
        f"study {results.name}: {words.counts(results)}",
        *words.unfinished_lines(results),
        f"{words.NAMES[results.metric]} of the settings:",
        *table,
        *words.test_sentences(summary),
        words.choice_sentence(summary),
        *words.notes(summary),
    ]


# study.json.


def to_json(summary: Summary) -> dict[str, Any]:
    """Return the content of study.json. `train.comparison.sources.study_settings` reads it, too."""
    results = summary.results
    importance = page.study_importance(summary)
    data = {
        "format": FORMAT,
        "name": results.name,
        "command": results.command,
        "metric": results.metric,
        "direction": results.direction,
        "folds": results.num_folds,
        "seeds": list(results.seeds),
        "published_test_split": results.has_test_split,
        "best": summary.best,
        "choice": {
            "how": summary.choice.how,
            "settings": list(summary.choice.settings),
            "score": _estimate(summary.choice.estimate),
            "missing": summary.choice.missing,
        },
        "settings": [
            {
                "number": s.setting.number,
                "values": words.flat(s.setting.values),
                "complete": s.complete and s.validation is not None,
                "finished_runs": s.finished,
                "planned_runs": s.planned,
                "validation_mean": s.validation,
                "mean": s.mean,
                "sd": s.sd,
                "estimate": _estimate(s.estimate),
                "best_minus_this": [_difference(d) for d in s.differences],
            }
            for s in summary.scores
        ],
        "importance": dataclasses.asdict(importance) if importance else None,
        "sentences": [words.choice_sentence(summary), *words.test_sentences(summary)],
        "notes": words.notes(summary),
        "runs": [_run(run) for run in results.runs],
    }
    return _finite(data)


def _run(run: RunResult) -> dict[str, Any]:
    return {
        "name": run.name,
        "setting": run.setting,
        "fold": run.fold,
        "seed": run.seed,
        "state": "done" if run.is_finished else run.state,
        "text": run.text,
        "validation": run.validation,
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        "mean": estimate.mean,
        "sd": estimate.sd,
        "pooled": estimate.pooled,
        "interval": estimate.interval,
        "over": estimate.unit,
        "units": estimate.units,
        "runs_interval": estimate.runs_interval,
        "runs_over": estimate.runs_unit,
        "by_fold": estimate.by_fold,
        "by_seed": estimate.by_seed,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return dataclasses.asdict(difference)


def _finite(data: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, with null."""
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


# study.csv.


def to_csv(results: StudyResults) -> str:
    """Return the content of study.csv: one row per run, including runs without a result."""
    values = {setting.number: setting.values for setting in results.settings}
    paths: Sequence[str] = results.varied
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heading = ["run", "setting", "fold", "seed", "state", "text", *paths]
    writer.writerow([*heading, f"validation_{results.metric}", "split", *SCORES, *FACTS])
    for run in results.runs:
        test = _test(run)
        varied = values.get(run.setting, {})
        writer.writerow(
            [
                run.name,
                run.setting,
                run.fold,
                run.seed,
                "done" if run.is_finished else run.state,
                run.text,
                *(_cell(varied[p]) if p in varied else "" for p in paths),
                run.validation,
                *(test.get(name) for name in ("split", *SCORES, *FACTS)),
            ]
        )
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Write all digits of a number."""
    return value if isinstance(value, int | float) else words.value_text(value)


def _test(run: RunResult) -> dict[str, Any]:
    if not run.is_finished:
        return {}
    directory = RunDir(run.directory)
    try:
        return directory.read_json(directory.test)
    except InputError:
        return {}
