"""Figures of a study: importance, slices, parallel coordinates, and curves over epochs and images per class."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.report.figures import LINES, MARKERS, STRONG, TRAIN, VALIDATION
from train.report.plotting import (
    Axes,
    Figure,
    MaxNLocator,
    default_settings,
    finish,
    matplotlib,
    shorten,
)
from train.studies.importance import is_log, is_numeric, key
from train.studies.words import value_text

# Without the light end of viridis, which is too faint for lines.
DARK = matplotlib.colors.LinearSegmentedColormap.from_list(
    "dark", matplotlib.colormaps["viridis"](np.linspace(0, 0.72, 256))
)
PANELS = 3  # per row
ALL = "all"  # tick of a curve over images per class

Curve = Sequence[tuple[float, float]]  # (epoch, value)
# (value, score) or (value, score, low, high)
Point = tuple[Any, float, float | None, float | None]


@default_settings()
def importance_bars(shares: Mapping[str, float], rest: float | None, path: Path) -> None:
    """Plot a bar for the share of each field, and one for the rest of the variance."""
    bars = dict(shares) | ({"interactions and noise": rest} if rest is not None else {})
    figure = Figure(figsize=(8, 0.42 * len(bars) + 0.9), layout="constrained")
    axes = figure.subplots()
    colors = [TRAIN] * len(shares) + ["0.65"] * (rest is not None)
    axes.barh(range(len(bars)), [100 * share for share in bars.values()], 0.7, color=colors)
    for position, share in enumerate(bars.values()):
        axes.text(100 * share, position, f" {share:.1%}", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [shorten(name, 40) for name in bars], fontsize=9)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 112 * max(max(bars.values()), 0.01))
    axes.set_xlabel("share of the variance, %")
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    finish(figure, path)


@default_settings()
def slices(
    columns: Mapping[str, Sequence[Any]],
    scores: Sequence[float],
    best: int | None,
    ylabel: str,
    path: Path,
    *,
    percent: bool = True,
) -> None:
    """Plot the scores of all settings against the values of each field, and the mean per value.

    `columns` maps names to values as in the recipe, in the order of `scores`; `best` is an index into them.
    """
    rows = math.ceil(len(columns) / PANELS)
    width = min(len(columns), PANELS)
    figure = Figure(figsize=(3.4 * width + 0.9, 3.1 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, width, squeeze=False, sharey=True).ravel()
    for panel, (name, values) in zip(panels, columns.items(), strict=False):
        positions = _positions(panel, values)
        means: dict[float, list[float]] = {}
        for position, score in zip(positions, scores, strict=True):
            means.setdefault(position, []).append(score)
        if len(means) < len(scores):
            # If each value occurs only once, the line would only connect the points.
            line = sorted((x, float(np.mean(group))) for x, group in means.items())
            x, y = zip(*line, strict=True)
            panel.plot(x, y, "-", color="0.55", linewidth=1.2, zorder=1, label="mean")
        panel.scatter(positions, scores, s=28, color=TRAIN, alpha=0.75, linewidths=0, zorder=2)
        if best is not None:
            appearance = {"s": 70, "marker": "D", "color": VALIDATION, "zorder": 3}
            panel.scatter(positions[best], scores[best], label="chosen", **appearance)
        panel.set_xlabel(shorten(name, 36))
        _grid(panel, percent)
    for panel in panels[len(columns) :]:
        panel.set_visible(False)
    for panel in panels[::width]:
        panel.set_ylabel(ylabel)
    handles = {
        text: handle
        for panel in panels
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    _legend(figure, handles)
    finish(figure, path)


@default_settings()
def parallel_coordinates(
    columns: Mapping[str, Sequence[Any]],
    scores: Sequence[float],
    best: int | None,
    label: str,
    path: Path,
    *,
    percent: bool = True,
    minimize: bool = False,
) -> None:
    """Plot one line per setting through its values and its score, colored by score; see `slices`."""
    number = len(columns) + 1
    figure = Figure(figsize=(max(1.9 * number + 1.2, 6), 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(-0.12, number - 1 + 0.12)
    axes.set_ylim(-0.06, 1.06)
    heights = []
    for position, values in enumerate(columns.values()):
        heights.append(_vertical(axes, position, values))
    low, high = min(scores), max(scores)
    span = (high - low) or 1.0
    shares = [(score - low) / span if high > low else 0.5 for score in scores]
    heights.append(shares)
    ticks = np.linspace(low, high, 5) if high > low else [low]
    for tick in ticks:
        y = (tick - low) / span if high > low else 0.5
        text = f"{tick:.1%}" if percent else f"{tick:.4g}"
        axes.text(number - 1 + 0.04, y, text, va="center", fontsize=8)
    for position in range(number):
        axes.axvline(position, color="0.3", linewidth=1, zorder=4)
    lines = np.array(heights).T  # [settings, axes]
    order = sorted(
        range(len(scores)), key=lambda i: (i == best, -shares[i] if minimize else shares[i])
    )
    for index in order:
        chosen = index == best
        axes.plot(
            range(number),
            lines[index],
            color=VALIDATION if chosen else DARK(1 - shares[index] if minimize else shares[index]),
            linewidth=3 if chosen else 1.6,
            alpha=1 if chosen or len(scores) <= 30 else 0.6,
            zorder=3 if chosen else 2,
            label="chosen" if chosen else None,
        )
    names = [*columns, label]
    axes.set_xticks(range(number), [shorten(name, 24) for name in names], fontsize=9)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0)
    if best is not None:
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    finish(figure, path)


@default_settings()
def validation_curves(
    curves: Mapping[str, Mapping[str, Curve]], path: Path, *, chosen: str | None = None
) -> None:
    """Plot validation scores over epochs, one panel per quantity ("loss", "accuracy") and one color per setting."""
    figure = Figure(figsize=(5 * len(curves) + (len(curves) == 1), 4.2), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    names = list(dict.fromkeys(name for lines in curves.values() for name in lines))
    longest = max(len(curve) for lines in curves.values() for curve in lines.values())
    handles = {}
    for panel, (quantity, lines) in zip(panels, curves.items(), strict=True):
        percent = quantity == "accuracy"
        for number, name in enumerate(names):
            if name not in lines:
                continue
            epochs, values = zip(*lines[name], strict=True)
            (handles[name],) = panel.plot(
                epochs,
                values,
                LINES[number // len(STRONG) % len(LINES)],
                color=STRONG[number % len(STRONG)],
                # A line with a single point is invisible without a marker.
                marker=MARKERS[number % len(MARKERS)] if longest < 30 or len(epochs) == 1 else None,
                markersize=7 if longest == 1 else 4,
                linewidth=2.6 if name == chosen else 1.4,
            )
        panel.set_xlabel("epoch")
        panel.set_ylabel(f"validation {quantity}")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if longest == 1:
            panel.set_xlim(0.5, 1.5)
            panel.set_xticks([1])
        _grid(panel, percent)
    _legend(figure, handles)
    finish(figure, path)


@default_settings()
def images_per_class_curve(
    lines: Mapping[str, Sequence[Point]], ylabel: str, path: Path, *, percent: bool = True
) -> None:
    """Plot scores against the number of training images per class, with intervals as bands.

    `lines` maps names to points (images or None for all, score, low, high), sorted. Bounds may be None.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    known = sorted({p[0] for points in lines.values() for p in points if p[0] is not None})
    last = known[-1] * (known[-1] / known[-2] if len(known) > 1 else 2) if known else 1
    has_all = any(p[0] is None for points in lines.values() for p in points)
    for number, (name, points) in enumerate(lines.items()):
        color = STRONG[number % len(STRONG)]
        x = [last if p[0] is None else p[0] for p in points]
        y = [p[1] for p in points]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(x, y, marker=marker, markersize=5, color=color, label=shorten(name, 50))
        bounds = [(a, p[2], p[3]) for a, p in zip(x, points, strict=True)]
        held = [(a, low, high) for a, low, high in bounds if low is not None and high is not None]
        if held:
            a, low, high = zip(*held, strict=True)
            axes.fill_between(a, low, high, color=color, alpha=0.18, linewidth=0)
            axes.errorbar(
                a,
                [(h + b) / 2 for b, h in zip(low, high, strict=True)],
                yerr=[(h - b) / 2 for b, h in zip(low, high, strict=True)],
                fmt="none",
                color=color,
                alpha=0.5,
                linewidth=1,
                capsize=3,
            )
    ticks = [*known, *([last] if has_all else [])]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [*(f"{n:g}" for n in known), *([ALL] if has_all else [])])
    axes.minorticks_off()
    axes.set_xlabel("training images per class")
    axes.set_ylabel(ylabel)
    _grid(axes, percent)
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    finish(figure, path)


def _legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Explain lines and markers, by name, below the axes."""
    if handles:
        figure.legend(
            list(handles.values()),
            [shorten(name, 50) for name in handles],
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=9,
        )


def _grid(panel: Axes, percent: bool) -> None:
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    if percent:
        panel.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))


def _categories(values: Sequence[Any]) -> list[Any]:
    """Return the distinct values: numbers first, in ascending order."""
    found = {key(value): value for value in values}

    def rank(value: Any) -> tuple[Any, ...]:
        return (0, value, "") if is_numeric([value]) else (1, 0, key(value))

    return sorted(found.values(), key=rank)


def _positions(panel: Axes, values: Sequence[Any]) -> list[float]:
    """Set up the horizontal axis of a slice and return the position of each value."""
    categories = _categories(values)
    if is_numeric(values) and len(categories) > 6:
        if is_log(values):
            panel.set_xscale("log")
        return [float(value) for value in values]
    texts = [shorten(value_text(value), 20) for value in categories]
    tilted = sum(map(len, texts)) > 36
    panel.set_xticks(range(len(texts)), texts, rotation=30 if tilted else 0, fontsize=9)
    panel.set_xlim(-0.5, len(texts) - 0.5)
    place = {key(value): float(i) for i, value in enumerate(categories)}
    return [place[key(value)] for value in values]


def _vertical(axes: Axes, position: int, values: Sequence[Any]) -> list[float]:
    """Label a vertical axis of parallel coordinates and return the height of each value, 0 to 1."""
    categories = _categories(values)
    if is_numeric(values) and len(categories) > 6:
        scale = np.log if is_log(values) else np.asarray
        numbers = scale(np.asarray(values, float))
        heights = (numbers - numbers.min()) / (numbers.max() - numbers.min())
        order = np.argsort(heights)
        chosen = [order[0], order[-1]]  # the ends, and the values nearest to 1/4, 1/2 and 3/4
        chosen += [int(np.abs(heights - share).argmin()) for share in (0.25, 0.5, 0.75)]
        shown = {float(heights[i]): f"{values[i]:.3g}" for i in chosen}
        heights = heights.tolist()
    else:
        step = 1 / max(len(categories) - 1, 1)
        place = {
            key(value): i * step if len(categories) > 1 else 0.5
            for i, value in enumerate(categories)
        }
        heights = [place[key(value)] for value in values]
        shown = {place[key(v)]: shorten(value_text(v), 20) for v in categories[:12]}
    for height, text in shown.items():
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        axes.text(position + 0.03, height, text, va="center", fontsize=8, bbox=box, zorder=5)
    return heights
