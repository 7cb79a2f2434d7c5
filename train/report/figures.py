"""Figures of runs, drawn without a display or pyplot's global state, and with matplotlib's default settings."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from train.report.plotting import (
    Axes,
    Figure,
    Line2D,
    MaxNLocator,
    default_settings,
    finish,
    shorten,
)

# Okabe and Ito's palette, which is safe for color blindness.
TRAIN, VALIDATION, TEST, BAD = "#0072B2", "#D55E00", "#009E73", "#CC3311"
# When the colors repeat, markers or line styles change. Yellow is too faint for lines.
STRONG = (TRAIN, VALIDATION, TEST, "#CC79A7", "#56B4E9", "#E69F00", "#000000")
PALETTE = (*STRONG, "#F0E442")
MARKERS = ("o", "^", "s", "v", "D", "P", "X")
LINES = ("-", "--", ":", "-.")


@default_settings()
def learning_curves(
    rows: Sequence[dict[str, Any]],
    path: Path,
    title: str = "",
    *,
    score: Literal["best", "last"] = "best",
) -> None:
    """Plot loss and accuracy over epochs, training and validation.

    As in "Pig face identification by AlexNet with a spatial attention module", Figure 5.

    `rows` are those of summary.csv. The epoch whose weights are tested (see `Recipe.score`) and the start of each stage
    are marked. The accuracy panel is omitted if no row has an accuracy (None or NaN, as for an autoencoder).
    """
    measured = _measured([rows], ("loss", "accuracy"))
    quantities = ("loss", "accuracy") if "accuracy" in measured else ("loss",)
    figure = Figure(figsize=(5 * len(quantities) + (len(quantities) == 1), 4), layout="constrained")
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    # Stages may have different losses, so their curves are not connected.
    stages = [list(group) for _, group in itertools.groupby(rows, lambda row: row["stage"])]
    tested = [row["epoch"] for row in rows if row["is_best"] or score == "last"]
    marker = "o" if len(rows) < 30 else None
    for panel, quantity in zip(panels, quantities, strict=True):
        for split, color, style in (("train", TRAIN, "--"), ("val", VALIDATION, "-")):
            appearance = {"color": color, "marker": marker, "markersize": 3}
            label: str | None = {"train": "training", "val": "validation"}[split]
            for stage in stages:
                epochs = [row["epoch"] for row in stage]
                values = _values(stage, f"{split}_{quantity}")
                panel.plot(epochs, values, style, label=label, **appearance)
                label = None
        for stage in stages if len(stages) > 1 else []:
            start = stage[0]["epoch"] - 0.5
            panel.axvline(start, color="0.8", linewidth=1, linestyle=":", zorder=0)
            above = panel.get_xaxis_transform()
            panel.text(start, 1.01, stage[0]["stage"], transform=above, fontsize=8, color="0.4")
        losses = [row["val_loss"] for row in rows if math.isfinite(row["val_loss"])]
        if len(stages) > 1 and quantity == "loss" and 0 < 20 * min(losses) < max(losses):
            panel.set_yscale("log")
        if tested:
            label = f"{score}: {tested[-1]}"
            panel.axvline(tested[-1], color="0.6", linewidth=1, zorder=0, label=label)
        _over_epochs(panel, quantity)
    # Loss falls and accuracy rises, so these corners are free of curves.
    corner = "lower right" if "accuracy" in quantities else "upper right"
    panels[-1].legend(loc=corner, edgecolor="none", framealpha=0.9)
    finish(figure, path, title)


@default_settings()
def curves_of_runs(
    runs: Mapping[str, Sequence[dict[str, Any]]],
    quantities: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Plot curves of several runs over epochs.

    As in Li et al. 2021, "Image Classification Algorithm Based on Improved AlexNet", Figure 4.

    One row of panels per quantity ("loss", "accuracy"), with training on the left and validation on the right on the
    same scale, and one color per run. `runs` maps names to rows of summary.csv. A quantity that no run has (None or
    NaN) is omitted; a run without it is missing from its panels.
    """
    quantities = _measured(runs.values(), quantities)
    figure = Figure(figsize=(10, 3.3 * len(quantities) + 0.8), layout="constrained")
    panels = figure.subplots(len(quantities), 2, squeeze=False, sharey="row", sharex=True)
    for panel_row, quantity in zip(panels, quantities, strict=True):
        for panel, split in zip(panel_row, ("train", "val"), strict=True):
            for number, (name, rows) in enumerate(runs.items()):
                panel.plot(
                    [row["epoch"] for row in rows],
                    _values(rows, f"{split}_{quantity}"),
                    LINES[number // len(STRONG) % len(LINES)],
                    color=STRONG[number % len(STRONG)],
                    label=shorten(name, 40),
                    marker="o" if len(rows) == 1 else None,  # a line with one point is invisible
                    markersize=4,
                    linewidth=1.4,
                )
            _over_epochs(panel, quantity)
            panel.tick_params(labelleft=True, labelbottom=True)
    panels[0, 0].set_title("training", fontsize=10)
    panels[0, 1].set_title("validation", fontsize=10)
    for panel in panels[:, 1]:
        panel.set_ylabel("")
    for panel in panels[:-1].ravel():
        panel.set_xlabel("")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    finish(figure, path, title)


@default_settings()
def confusion_matrix(
    matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: Path, title: str = ""
) -> None:
    """Plot a confusion matrix of counts, with true classes in rows and the fraction of each row as shade."""
    counts = np.asarray(matrix)
    total = len(class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 0.55 * total + 2.0), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = min(10.0, max(5.0, 0.36 * 72 * (side - 2) / total))  # in points; a third of a cell
    if total <= 50:
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                color = "white" if shares[row, column] > 0.55 else "black"
                text = str(counts[row, column])
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    names = [shorten(name) for name in class_names]
    rotation = 90 if total > 4 or max(map(len, names)) > 9 else 0
    axes.set_xticks(range(total), names, rotation=rotation, fontsize=size)
    axes.set_yticks(range(total), names, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, shrink=0.7, label="fraction of true class")
    finish(figure, path, title)


@default_settings()
def prediction_grid(
    images: Sequence[np.ndarray],
    true: Sequence[int],
    predicted: Sequence[int],
    confidence: Sequence[float],
    class_names: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Plot test images (uint8 [H, W, 3]) with predicted classes; errors are red, with a cross and the true class."""
    columns = min(5, max(1, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    side, gap, caption = 2.0, 0.2, 0.5  # inches
    width, height = columns * (side + gap), 0.3 * bool(title) + rows * (side + caption) + gap / 2
    # A single coordinate system, in inches: matplotlib takes seconds to lay out twenty.
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    samples = zip(images, true, predicted, confidence, strict=False)
    for number, (image, t, p, share) in enumerate(samples):
        row, column = divmod(number, columns)
        x, y = (column + 0.5) * (side + gap), height - gap / 2 - (rows - row - 0.5) * side
        y -= (rows - row - 1) * caption
        down, across = (side / 2 * n / max(image.shape[:2]) for n in image.shape[:2])
        axes.imshow(image, extent=(x - across, x + across, y + down, y - down), aspect="auto")
        text, color, weight = f"✓ {shorten(class_names[p])} {share:.0%}", "black", "normal"
        if t != p:
            text = f"✗ {text[2:]}\ntrue: {shorten(class_names[t])}"
            color, weight = BAD, "bold"
        axes.text(
            *(x, y - down - 0.05, text),
            ha="center",
            va="bottom",
            fontsize=9,
            color=color,
            weight=weight,
        )
    axes.set(xlim=(0, width), ylim=(height, 0))
    finish(figure, path, title)


@default_settings()
def augmentation_grid(
    before: Sequence[np.ndarray],
    after: Sequence[Sequence[np.ndarray]],
    labels: Sequence[int],
    class_names: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Plot one row per image (uint8 [H, W, 3]): the loaded image with its class, then augmented samples of it.

    All images have the same scale, so that a cropped sample appears smaller.
    """
    rows, columns = len(before), 1 + len(after[0])
    figure = Figure(figsize=(1.5 * columns + 0.2, 1.5 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    height, width = before[0].shape[:2]
    for panel_row, image, samples, label in zip(panels, before, after, labels, strict=True):
        for panel, sample in zip(panel_row, [image, *samples], strict=True):
            sample_height, sample_width = sample.shape[:2]
            top, left = (height - sample_height) / 2, (width - sample_width) / 2
            box = (left - 0.5, left + sample_width - 0.5, top + sample_height - 0.5, top - 0.5)
            panel.imshow(sample, extent=box, interpolation="nearest")
            panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        panel_row[0].set_ylabel(shorten(class_names[label]), fontsize=9)
    panels[0, 0].set_title("loaded", fontsize=9)
    for number, panel in enumerate(panels[0, 1:], start=1):
        panel.set_title(f"sample {number}", fontsize=9)
    finish(figure, path, title)


@default_settings()
def class_distribution(
    counts: dict[str, np.ndarray], class_names: Sequence[str], path: Path, title: str = ""
) -> None:
    """Plot the class distribution, one bar per class, stacked by split.

    As in Liu, "Animal Image Classification Recognition based on Transfer Learning", Figure 2.

    `counts` maps split names to images per class, [classes].
    """
    total = len(class_names)
    named = total <= 120  # more names would be unreadable
    step = 0.24 if named else 18 / total
    figure = Figure(figsize=(8, max(2.0, step * total + 1.2)), layout="constrained")
    axes = figure.subplots()
    positions, ends = np.arange(total), np.zeros(total, int)
    for (split, numbers), color in zip(counts.items(), (TRAIN, VALIDATION, TEST), strict=True):
        label = f"{split}: {numbers.sum():,}"
        axes.barh(positions, numbers, 0.8, left=ends, color=color, label=label)
        ends = ends + numbers
    if named:
        for position, end in zip(positions, ends, strict=True):
            text = f" {end:,}"
            axes.text(float(end), float(position), text, va="center", fontsize=8, color="0.3")
        axes.set_yticks(positions, [shorten(name) for name in class_names], fontsize=9)
    else:
        axes.set_ylabel(f"{total} classes")
        axes.set_yticks([])
    axes.set_ylim(total - 0.5, -0.5)
    axes.set_xlim(0, 1.08 * max(ends.max(), 1))
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=len(counts), frameon=False, fontsize=9)
    finish(figure, path, title)


@default_settings()
def tsne_figure(
    points: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Plot embedded samples, float [N, 3], in the color of their class.

    As in Han et al., "Animal face classification based on deep learning", Figure 9.

    The legend lists the twenty largest classes.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot(projection="3d")
    sizes = np.bincount(labels, minlength=len(class_names))
    largest = np.argsort(-sizes, kind="stable")[:20]
    named = set(largest[sizes[largest] > 0].tolist())
    handles = []
    for number in range(min(len(class_names), len(PALETTE) * len(MARKERS))):
        # Classes with the same appearance are drawn together: thousands of calls would take minutes.
        same = np.arange(number, len(class_names), len(PALETTE) * len(MARKERS))
        color = PALETTE[number % len(PALETTE)]
        marker = MARKERS[number // len(PALETTE) % len(MARKERS)]
        if not sizes[same].any():
            continue
        axes.scatter(
            *points[np.isin(labels, same)].T,
            s=float(np.clip(8000 / len(points), 8, 30)),
            linewidths=0,
            color=color,
            marker=marker,
        )
        for label in named.intersection(same.tolist()):
            text = shorten(class_names[label])
            handle = Line2D([], [], linestyle="", color=color, marker=marker, label=text)
            handles.append((label, handle))
    # The axes of t-SNE have no unit. Keep the grid, which shows depth.
    axes.set(xticklabels=[], yticklabels=[], zticklabels=[])
    axes.set_box_aspect(None, zoom=1.08)
    more = np.count_nonzero(sizes) - len(named)
    figure.legend(
        handles=[handle for _, handle in sorted(handles, key=lambda item: item[0])],
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        title=f"20 of {more + 20} classes" if more > 0 else None,
        title_fontsize=9,
    )
    finish(figure, path, title)


@default_settings()
def seed_boxplot(
    scores: Mapping[str, Sequence[float]], path: Path, title: str = "", ylabel: str = "accuracy"
) -> None:
    """Plot scores over seeds, one box per method and one point per score.

    As in Han et al., "Animal face classification based on deep learning", Figure 8.

    Boxes show quartiles and median, whiskers the extremes. NaN and infinite scores are omitted.
    """
    values = [np.asarray([v for v in s if math.isfinite(v)]) for s in scores.values()]
    names = [f"{shorten(name, 24)}\nn = {len(v)}" for name, v in zip(scores, values, strict=True)]
    many = len(values) > 10
    width = max(4.0, (0.6 if many else 1.2) * len(values) + 1.5)
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(
        values,
        widths=0.5,
        whis=(0, 100),
        medianprops={"color": "black", "linewidth": 1.6},
        boxprops={"color": "0.45"},
        whiskerprops={"color": "0.45"},
        capprops={"color": "0.45"},
    )
    for number, points in enumerate(values, start=1):
        # Spread the points horizontally, in the order of the seeds, so that they do not hide each other.
        x = number + np.linspace(-0.14, 0.14, len(points)) * (len(points) > 1)
        color = STRONG[(number - 1) % len(STRONG)]
        axes.scatter(x, points, s=22, color=color, alpha=0.85, linewidths=0, zorder=3)
    positions, size = range(1, len(values) + 1), 9 if len(values) <= 4 else 8
    axes.set_xticks(positions, names, rotation=90 if many else 0, fontsize=size)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    finish(figure, path, title)


@default_settings()
def timing_bars(times: Mapping[str, Mapping[str, float]], path: Path, title: str = "") -> None:
    """Plot test times in milliseconds, one group of bars per model and one bar per batch size.

    As in "Pig face identification by AlexNet with a spatial attention module", Table 1.

    `times` maps models to batch sizes to milliseconds; a model may lack some batch sizes.
    """
    batches = list(dict.fromkeys(batch for row in times.values() for batch in row))
    thickness = 0.8 / max(len(batches), 1)
    height = len(times) * (0.28 * len(batches) + 0.2)
    figure = Figure(figsize=(8, max(2.2, height + 1.2)), layout="constrained")
    axes = figure.subplots()
    for number, batch in enumerate(batches):
        shift = (number - (len(batches) - 1) / 2) * thickness
        bars = [(i + shift, row[batch]) for i, row in enumerate(times.values()) if batch in row]
        positions, values = zip(*bars, strict=True)
        color = STRONG[number % len(STRONG)]
        axes.barh(positions, values, 0.9 * thickness, color=color, label=f"batch {batch}")
        for position, value in bars:
            axes.text(value, position, f" {value:,.0f}", va="center", fontsize=8, color="0.3")
    longest = max((value for row in times.values() for value in row.values()), default=1)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_yticks(range(len(times)), [shorten(name, 30) for name in times], fontsize=9)
    axes.set_ylim(len(times) - 0.5, -0.5)
    axes.set_xlabel("test time, ms")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=max(len(batches), 1), frameon=False, fontsize=9)
    finish(figure, path, title)


@default_settings()
def throughput_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]],
    path: Path,
    title: str = "",
) -> None:
    """Plot images per second over batch size, one panel per mode ("train", "test") and one color per implementation.

    `panels` maps modes to implementations to points (batch size, median, minimum, maximum); error bars span minimum to
    maximum. Colors follow the order of the implementations, including those without points.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    figure = Figure(figsize=(5 * len(panels) + (len(panels) == 1), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    handles = {}
    for panel, (mode, curves) in zip(axes, panels.items(), strict=True):
        sizes = sorted({point[0] for points in curves.values() for point in points})
        for number, name in enumerate(names):
            points = sorted(curves.get(name, ()))
            if not points:
                continue
            batch, median, minimum, maximum = np.array(points).T
            handles[name] = panel.errorbar(
                np.searchsorted(sizes, batch) + 0.06 * (number - (len(names) - 1) / 2),
                median,
                (median - minimum, maximum - median),
                color=STRONG[number % len(STRONG)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linewidth=1.4,
                capsize=2,
            )
        panel.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes])
        panel.set_xlim(-0.5, len(sizes) - 0.5)
        panel.set_ylim(bottom=0)
        panel.set_title(
            {"train": "training step", "test": "test step"}.get(mode, mode), fontsize=10
        )
        panel.set_xlabel("batch size")
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.grid(axis="y", color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("images per second")
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=max(len(handles), 1),
        frameon=False,
        fontsize=9,
    )
    finish(figure, path, title)


def _values(rows: Sequence[dict[str, Any]], column: str) -> list[float]:
    """Values of a column of summary.csv, NaN where missing."""
    return [math.nan if (value := row.get(column)) is None else float(value) for row in rows]


def _measured(
    runs: Iterable[Sequence[dict[str, Any]]], quantities: Sequence[str]
) -> tuple[str, ...]:
    """The quantities that any row has, in training or validation; the first quantity if there are none."""
    rows = [row for run in runs for row in run]

    def has(quantity: str) -> bool:
        columns = (f"train_{quantity}", f"val_{quantity}")
        return any(math.isfinite(v) for column in columns for v in _values(rows, column))

    return tuple(filter(has, quantities)) or tuple(quantities[:1])


def _over_epochs(panel: Axes, quantity: str) -> None:
    panel.set_xlabel("epoch")
    panel.set_ylabel(quantity)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
    if quantity == "accuracy":
        panel.set_ylim(-0.02, 1.02)
