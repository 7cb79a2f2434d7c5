"""Figures that combine the runs of a paper's rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.report import figures
from train.reproduce import ledger

MAX_CURVES = 8  # per figure
# Reads the epochs of a run in a ledger, as rows of summary.csv.
Epochs = Callable[[Mapping[str, Any]], list[dict[str, Any]]]


def recorded_epochs(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the epochs of a run from its curves in the ledger; none if they are not recorded."""
    curves = {name: run.get(name) or [] for name in ledger.CURVES}
    if not all(curves.values()):
        return []
    return [
        {"epoch": number, **dict(zip(curves, values, strict=True))}
        for number, values in enumerate(zip(*curves.values(), strict=True), 1)
    ]


def draw_figures(
    result: Mapping[str, Any], folder: Path, epochs: Epochs, prefix: str = ""
) -> list[tuple[Path, str]]:
    """Draw the figures of a ledger into `folder`; return their paths and titles.

    For each table of the paper: training curves of each row's first seed, the accuracy over seeds, and test times.
    `prefix` begins the names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[Path, str]] = []

    def add(file: str, title: str, draw: Callable[..., None], *arguments: Any) -> None:
        path = folder / f"{prefix}{file}.png"
        draw(*arguments, path, title)
        drawn.append((path, title))

    for number, table in enumerate(dict.fromkeys(row["table"] for row in result["rows"])):
        rows = [row for row in result["rows"] if row["table"] == table]
        curves = {
            row["label"]: found for row in rows for run in row["runs"][:1] if (found := epochs(run))
        }
        for start in range(0, len(curves), MAX_CURVES):
            some = dict(list(curves.items())[start : start + MAX_CURVES])
            title = f"{table}: training curves of each row's first seed"
            name = f"curves-{number}-{start}"
            add(name, title, figures.curves_of_runs, some, ("loss", "accuracy"))
        scores = {
            row["name"]: list(column["values"].values())
            for row in rows
            for column in row["columns"]
            if column["column"] == "accuracy" and column["n"] > 1
        }
        if scores:
            title = f"{table}: accuracy over seeds"
            add(f"seeds-{number}", title, figures.seed_boxplot, scores)
        if times := _times(rows):
            add(f"times-{number}", f"{table}: test times", figures.timing_bars, times)
    return drawn


def _times(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean test time in ms by model and batch size, if the paper reports any of them."""
    times: dict[str, dict[str, float]] = {}
    of_rows = [(row, c) for row in rows for c in row["columns"] if c["column"] == "test_time_ms"]
    if all(column["printed"] is None for _, column in of_rows):
        return {}
    for row, column in of_rows:
        if column["mean"] is not None:
            times.setdefault(row["model"], {})[str(row["batch_size"])] = column["mean"]
    return times
