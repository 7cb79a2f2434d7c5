"""Pictures of a run, drawn without a display and without pyplot's global state."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zoo.files import write_atomically

# Okabe and Ito's colours, which people with colour-blindness tell apart.
TRAIN, VALIDATION, TEST, BAD = "#0072B2", "#D55E00", "#009E73", "#CC3311"


def learning_curves(rows: Sequence[dict[str, Any]], path: Path, title: str = "") -> None:
    """Loss and accuracy over epochs, training and validation (document 1's Figure 5).

    `rows` are those of summary.csv; the epoch whose weights were kept is marked.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    kept = [row["epoch"] for row in rows if row["is_best"]]
    marker = "o" if len(rows) < 30 else None
    for panel, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        for part, colour, style in (("train", TRAIN, "--"), ("val", VALIDATION, "-")):
            values = [row[f"{part}_{quantity}"] for row in rows]
            label = {"train": "training", "val": "validation"}[part]
            panel.plot(
                epochs, values, style, color=colour, label=label, marker=marker, markersize=3
            )
        if kept:
            panel.axvline(kept[-1], color="0.6", linewidth=1, zorder=0, label=f"kept: {kept[-1]}")
        panel.set_xlabel("epoch")
        panel.set_ylabel(quantity)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].set_ylim(-0.02, 1.02)
    panels[1].legend(frameon=False, loc="lower right")
    _finish(figure, path, title)


def confusion_matrix(
    matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: Path, title: str = ""
) -> None:
    """Counts, true classes in rows; the shade is the share of the row."""
    counts = np.asarray(matrix)
    total = len(class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 0.55 * total + 2.0), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = min(10.0, max(5.0, 0.36 * 72 * (side - 2) / total))  # points; a third of a cell
    if total <= 50:
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.55 else "black"
                text = str(counts[row, column])
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    names = [_shorten(name) for name in class_names]
    axes.set_xticks(range(total), names, rotation=90 if total > 4 else 0, fontsize=size)
    axes.set_yticks(range(total), names, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    _finish(figure, path, title)


def prediction_grid(
    images: Sequence[np.ndarray],
    true: Sequence[int],
    predicted: Sequence[int],
    confidence: Sequence[float],
    class_names: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Test images (uint8 [H, W, 3]) with predicted and true names; errors are red and carry a cross."""
    columns = min(5, max(1, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(2.2 * columns, 2.55 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, image, t, p, share in zip(panels, images, true, predicted, confidence, strict=False):
        panel.imshow(image)
        text = f"{_shorten(class_names[p])} {share:.0%}"
        if t == p:
            panel.set_title(f"✓ {text}", fontsize=9, color="black")
        else:
            panel.set_title(
                f"✗ {text}\ntrue: {_shorten(class_names[t])}", fontsize=9, color=BAD, weight="bold"
            )
    _finish(figure, path, title)


def augmentation_grid(
    before: Sequence[np.ndarray],
    after: Sequence[Sequence[np.ndarray]],
    labels: Sequence[int],
    class_names: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """A row an image (uint8 [H, W, 3]): as it is loaded, with its class, then what visits of a training see.

    All at one scale: smaller ones are what is left of the first.
    """
    rows, columns = len(before), 1 + len(after[0])
    figure = Figure(figsize=(1.5 * columns + 0.2, 1.5 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    height, width = before[0].shape[:2]
    for line, image, versions, label in zip(panels, before, after, labels, strict=True):
        for panel, picture in zip(line, [image, *versions], strict=True):
            shown_height, shown_width = picture.shape[:2]
            top, left = (height - shown_height) / 2, (width - shown_width) / 2
            box = (left - 0.5, left + shown_width - 0.5, top + shown_height - 0.5, top - 0.5)
            panel.imshow(picture, extent=box, interpolation="nearest")
            panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        line[0].set_ylabel(_shorten(class_names[label]), fontsize=9)
    panels[0, 0].set_title("loaded", fontsize=9)
    for number, panel in enumerate(panels[0, 1:], start=1):
        panel.set_title(f"visit {number}", fontsize=9)
    _finish(figure, path, title)


def class_distribution(
    counts: dict[str, np.ndarray], class_names: Sequence[str], path: Path, title: str = ""
) -> None:
    """How many images each class has (document 2's Figure 2): a bar a class, cut into the parts.

    `counts` maps each part to the numbers of its images, [classes].
    """
    total = len(class_names)
    named = total <= 120  # more names than that cannot be read
    step = 0.24 if named else 18 / total
    figure = Figure(figsize=(8, max(2.0, step * total + 1.2)), layout="constrained")
    axes = figure.subplots()
    places, done = np.arange(total), np.zeros(total, int)
    for (part, numbers), colour in zip(counts.items(), (TRAIN, VALIDATION, TEST), strict=True):
        label = f"{part}: {numbers.sum():,}"
        axes.barh(places, numbers, 0.8, left=done, color=colour, label=label)
        done = done + numbers
    if named:
        for place, number in zip(places, done, strict=True):
            text = f" {number:,}"
            axes.text(float(number), float(place), text, va="center", fontsize=8, color="0.3")
        axes.set_yticks(places, [_shorten(name) for name in class_names], fontsize=9)
    else:
        axes.set_ylabel(f"{total} classes")
        axes.set_yticks([])
    axes.set_ylim(total - 0.5, -0.5)
    axes.set_xlim(0, 1.08 * max(done.max(), 1))
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=len(counts), frameon=False, fontsize=9)
    _finish(figure, path, title)


def _shorten(name: str, longest: int = 18) -> str:
    """A class name as a label: cut when long; "$" would start a formula."""
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return name.replace("$", r"\$")


def _finish(figure: Figure, path: Path, title: str) -> None:
    if title:
        figure.suptitle(_shorten(title, 90), fontsize=11)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Class names in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Without the software's name in it, equal pictures are equal files.
        figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    write_atomically(path, content.getvalue())
