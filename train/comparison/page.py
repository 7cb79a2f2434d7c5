"""Comparison page: one self-contained HTML file."""

import base64
import html
import io
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from train.comparison.results import Pair
from train.comparison.sources import Candidate, Images
from train.record.directory import write_text
from train.report import page

SHOWN = 12  # images per list
SIDE = 128  # pixels of the longer side of an image
CURVES = 12  # a figure with more curves is unreadable


def write(
    path: Path,
    candidates: Sequence[Candidate],
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    sentences: Sequence[str],
    pairs: Sequence[Pair],
    pixels: Mapping[str, np.ndarray],
    note: str = "",
) -> None:
    """Write the page.

    Args:
      path: HTML file to write.
      candidates: what to compare.
      table: heading and rows.
      sentences: the test results in words.
      pairs: see `train.comparison.results.compare`; empty without tests.
      pixels: images by id, uint8 [H, W, 3].
      note: why some images are missing.
    """
    title = " and ".join(c.name for c in candidates) if len(candidates) < 4 else "Comparison"
    items = "".join(f"<li>{page.text(sentence)}</li>" for sentence in sentences)
    parts = [
        f"<h1>{page.text(title)}</h1>",
        page.section("Scores", page.table(*table)),
        page.section("Tests", f"<ul>{items}</ul>" if items else ""),
        _curves(candidates),
        *_disagreements(candidates, pairs, pixels),
        f"<p class=soft>{page.text(note)}</p>" if note else "",
    ]
    write_text(path, page.document(title, parts))


def _curves(candidates: Sequence[Candidate]) -> str:
    """Overlay the curves of all runs, or of the first run of each candidate if there are too many."""
    runs = [(c, number, run) for c in candidates for number, run in enumerate(c.runs) if run.rows]
    if len(runs) > CURVES:
        runs = [item for item in runs if item[1] == 0][:CURVES]
    if not runs:
        return ""
    from train.report import figures

    rows = {
        (f"{c.name}: {run.directory.path.name}" if len(c.runs) > 1 else c.name): run.rows
        for c, _, run in runs
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "curves.png"
        figures.curves_of_runs(rows, ("loss", "accuracy"), file)
        return page.section("Learning curves", page.image(file, "Learning curves"))


def _disagreements(
    candidates: Sequence[Candidate], pairs: Sequence[Pair], pixels: Mapping[str, np.ndarray]
) -> Iterator[str]:
    for pair in pairs:
        names = candidates[pair.first].name, candidates[pair.second].name
        heading = ("", f"{names[1]} right", f"{names[1]} wrong")
        counts = [
            (f"{names[0]} right", pair.both_right, len(pair.only_first)),
            (f"{names[0]} wrong", len(pair.only_second), pair.both_wrong),
        ]
        body = page.table(heading, counts, numeric=True)
        lists = ((names[0], names[1], pair.only_first), (names[1], names[0], pair.only_second))
        for right, wrong, chosen in lists:
            if len(chosen):
                more = f", the first {SHOWN}" if len(chosen) > SHOWN else ""
                body += f"<h3>{page.text(f'{right} right, {wrong} wrong: {len(chosen)} images{more}')}</h3>"
                cards = (_card(candidates, pair, int(i), pixels) for i in chosen[:SHOWN])
                body += f"<ul class=gallery>{''.join(cards)}</ul>"
        yield page.section(f"{names[0]} and {names[1]}, image by image", body)


def shown_images(candidates: Sequence[Candidate], pairs: Sequence[Pair]) -> list[str]:
    """List the ids of the images that the page shows."""
    return list(
        dict.fromkeys(
            candidates[pair.first].pooled.images.ids[index]
            for pair in pairs
            for chosen in (pair.only_first, pair.only_second)
            for index in chosen[:SHOWN]
        )
    )


def _card(
    candidates: Sequence[Candidate], pair: Pair, index: int, pixels: Mapping[str, np.ndarray]
) -> str:
    images = candidates[pair.first].pooled.images
    name = images.ids[index]
    lines = [f"true: {_class(images, images.labels[index])}"]
    for number in (pair.first, pair.second):
        pooled = candidates[number].pooled
        place = pooled.images.ids.index(name)
        guess = statistics.mode(pooled.predicted[:, place].tolist())  # of most seeds
        lines.append(f"{candidates[number].name}: {_class(images, guess)}")
    shown = _thumbnail(pixels[name], name) if name in pixels else ""
    caption = "".join(f"<span>{page.text(line)}</span>" for line in lines)
    return f"<li>{shown}{caption}<small>{page.text(name)}</small></li>"


def _class(images: Images, label: int) -> str:
    return images.class_names[label] if label >= 0 else "none"


def _thumbnail(pixels: np.ndarray, name: str) -> str:
    from PIL import Image

    image, content = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(content, "JPEG", quality=85)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{data}">'
