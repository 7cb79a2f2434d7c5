"""Report of a run as one self-contained page: `report.html`."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from train.record.directory import RunDir, write_text
from train.record.terminal import interval_text, intervals_note
from train.report import page
from train.report.mistakes import LIMIT, MISTAKES, confidence, find_mistakes
from zoo.common.commands import SCRIPT


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` from the files of a run directory and return its path.

    Files that do not exist yet are skipped; a missing test.json, as in an unfinished run, is noted on the page.
    """
    run = RunDir(run_dir)
    recipe = run.read_json(run.config).get("recipe", {})
    score = recipe.get("score", "best")  # runs of version 0.1 have none
    test = run.read_json(run.test) if run.test.exists() else None
    splits = run.read_json(run.splits) if run.splits.exists() else {}
    env = _read(run.path / "env.json")
    synthetic = bool(splits.get("synthetic"))
    title = f"{recipe.get('model')} on {splits.get('dataset', recipe.get('dataset'))}"
    sizes = {name: len(ids) for name, ids in splits.get("splits", {}).items()}

    parts = [
        f"<h1>{page.text(title)}{' <span class=badge>synthetic images</span>' if synthetic else ''}</h1>",
        f"<p class=soft>{page.text(_subtitle(sizes, env))}</p>",
        _headline(test, score)
        if test
        else "<p>The run has not been tested yet: it has no test.json.</p>",
        _figure(run, "curves", "Learning curves"),
        _figure(run, "predictions", "Predictions on test images"),
        _figure(run, "confusion_matrix", "Confusion matrix (test images)"),
        _figure(run, "tsne", "Features of test images (t-SNE)"),
        _mistakes(run),
        _confusions(test) if test and "confusions" in test else "",
        _per_class(test) if test and "per_class" in test else "",
        _epochs(run.read_summary(), score),
        _bad_images(run.path / "bad_images.txt"),
        page.section("Settings", page.table(("field", "value"), _flatten(recipe))),
        page.section("Environment", page.table(("field", "value"), _flatten(env))),
        page.section("Command", f"<pre>{page.text(' '.join(env.get('command', [])))}</pre>"),
    ]
    write_text(run.report, page.document(title, parts))
    return run.report


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _subtitle(sizes: dict[str, int], env: dict[str, Any]) -> str:
    images = ", ".join(f"{count} {name}" for name, count in sizes.items())
    device = " + ".join(env.get("devices", [])) or "unknown device"
    version = env.get("versions", {}).get(SCRIPT)
    code = env.get("git_commit", "")[:10] or (f"{SCRIPT} {version}" if version else "no commit")
    changed = " with local changes" if env.get("git_dirty") else ""
    return f"Images: {images or 'unknown'}. Trained on {device}, {code}{changed}."


# Source of the predictions, by `scored_by`, if it is not the net's classifier.
PREDICTED_BY = {
    "svm": "an SVM on features",
    "kmeans": "k-means clusters, each a class",
    "gmm": "mixture components, each a class",
    "vade": "clusters, each a class",
    "gmvae": "clusters, each a class",
}


def _headline(test: dict[str, Any], score: str) -> str:
    scores = {
        "accuracy": "test accuracy",
        "f1": "macro-F1",
        "precision": "precision",
        "recall": "recall",
        "nmi": "normalized mutual information",
        "ari": "adjusted Rand index",
    }
    if test["scored_by"] in PREDICTED_BY:
        scores["accuracy"] += f" of {PREDICTED_BY[test['scored_by']]}"
    intervals = test.get("intervals", {})
    numbers = []
    for name, text in scores.items():
        if name in test:
            interval = interval_text(intervals.get(name))
            numbers.append((f"{test[name]:.2%}", f"{text}, 95%: {interval}" if interval else text))
    if test["scored_by"] not in ("svm", "kmeans", "gmm"):
        loss = test["loss"]
        numbers.append(("not finite" if loss is None else f"{loss:.4f}", "loss"))
    numbers += [
        (f"{test['test_time_ms']:,.0f} ms", f"test time, {test['num_examples']} images"),
        (f"{test['train_time_ms'] / 1000:,.1f} s", f"training time, {test['epochs_run']} epochs"),
        (str(test["best_epoch"]), f"{score} epoch"),
    ]
    items = "".join(
        f"<li><b>{page.text(value)}</b>{page.text(name)}</li>" for value, name in numbers
    )
    note = intervals_note(test)
    return f"<ul class=numbers>{items}</ul>" + (
        f"<p class=soft>{page.text(note)}.</p>" if note else ""
    )


def _figure(run: RunDir, name: str, title: str) -> str:
    path = run.figures / f"{name}.png"
    return page.section(title, page.image(path, title)) if path.exists() else ""


MAX_ROWS = 200  # of a table
MAX_CONFUSIONS = 30


def _per_class(test: dict[str, Any]) -> str:
    scores = list(test["per_class"].items())
    title = "Per class"
    if len(scores) > MAX_ROWS:
        title += f": the {MAX_ROWS} with the lowest F1, of {len(scores):,}"
        scores = sorted(scores, key=lambda item: (item[1]["f1"], -item[1]["support"]))[:MAX_ROWS]
    rows = [
        (name, *(f"{row[k]:.2%}" for k in ("precision", "recall", "f1")), row["support"])
        for name, row in scores
    ]
    heading = ("class", "precision", "recall", "F1", "images")
    return page.section(title, page.table(heading, rows, numeric=True))


def _confusions(test: dict[str, Any]) -> str:
    """List the most frequent confusions if there are too many classes for a matrix."""
    names = list(test["per_class"])
    wrong = [(true, predicted, n) for true, predicted, n in test["confusions"] if true != predicted]
    wrong.sort(key=lambda item: -item[2])
    rows = [(names[true], names[predicted], n) for true, predicted, n in wrong[:MAX_CONFUSIONS]]
    return page.section(
        "Most frequent confusions", page.table(("true", "predicted", "images"), rows)
    )


def _mistakes(run: RunDir) -> str:
    """Show the images of the wrong predictions with the highest confidence."""
    if not run.predictions.exists():
        return ""
    with np.load(run.predictions, allow_pickle=False) as saved:
        data = {name: saved[name] for name in saved.files}
    if not len(confidence(data)):
        return ""
    mistakes = find_mistakes(data)
    if not mistakes:
        return page.section("Mistakes", "<p>None on the test images.</p>")
    items = []
    for mistake in mistakes[:LIMIT]:
        path = mistake.thumbnail(run.figures / MISTAKES)
        picture = page.image(path, mistake.id) if path.exists() else ""
        items.append(
            f"<li>{picture}<span><b>{page.text(mistake.predicted)}</b> {mistake.confidence:.0%}</span>"
            f"<span>true: <b>{page.text(mistake.true)}</b></span><small>{page.text(mistake.id)}</small></li>"
        )
    shown = f", the {LIMIT} most confident" if len(mistakes) > LIMIT else ", most confident first"
    title = f"Mistakes: {len(mistakes)} of {len(data['labels'])} test images{shown}"
    return page.section(title, f"<ul class=gallery>{''.join(items)}</ul>")


def _epochs(rows: list[dict[str, Any]], score: str) -> str:
    """List the epochs, and mark those whose weights were in best/: each new best one, or the last."""
    stages = len({row["stage"] for row in rows}) > 1
    heading = (
        "epoch",
        *["stage"] * stages,
        "train loss",
        "train accuracy",
        "val loss",
        "val accuracy",
        "learning rate",
        "images/s",
        "seconds",
        score,
    )
    body = [
        (
            row["epoch"],
            *[row["stage"]] * stages,
            f"{row['train_loss']:.4f}",
            _percent(row["train_accuracy"]),
            f"{row['val_loss']:.4f}",
            _percent(row["val_accuracy"]),
            f"{row['learning_rate']:.2e}",
            f"{row['images_per_second']:.1f}",
            f"{row['seconds']:.1f}",
            "*" if (row is rows[-1] if score == "last" else row["is_best"]) else "",
        )
        for row in rows
    ]
    return page.section("Epochs", page.table(heading, body, numeric=True))


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2%}"


def _bad_images(path: Path) -> str:
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = page.table(("file", "reason"), (line.split("\t", 1) for line in lines[:20]))
    return page.section(f"Skipped files that cannot be decoded: {len(lines)}", shown)


def _flatten(data: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested data into rows of (dotted name, value)."""
    if isinstance(data, dict):
        items = [(f"{prefix}.{k}" if prefix else str(k), v) for k, v in data.items()]
    elif isinstance(data, list) and any(isinstance(v, dict) for v in data):
        items = [(f"{prefix}.{i}", v) for i, v in enumerate(data)]
    else:
        shown = " ".join(map(str, data)) if isinstance(data, list) else data
        return [(prefix, "" if shown is None else shown)]
    return [row for name, value in items for row in _flatten(value, name)]
