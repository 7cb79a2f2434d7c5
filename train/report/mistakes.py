"""A classifier's wrong predictions, and thumbnails of their images for the report."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.dataset import Split

MISTAKES = "mistakes"  # folder of the thumbnails, within the figures of a run
LIMIT = 20  # images in the report
SIDE = 160  # maximum size of a thumbnail in pixels


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A wrong prediction."""

    index: int  # in the split
    id: str
    true: str
    predicted: str
    confidence: float

    def thumbnail(self, folder: Path) -> Path:
        """File of the image's thumbnail."""
        return folder / f"{self.index}.jpg"


def confidence(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Probability of each predicted class, [N]; empty if the predictions have no probabilities.

    `predictions` are the arrays of predictions.npz.
    """
    for name in ("probabilities", "top_probabilities"):
        if name in predictions:
            return predictions[name].max(axis=1)
    return np.zeros(0)


def find_mistakes(predictions: Mapping[str, np.ndarray]) -> list[Mistake]:
    """List the wrong predictions, most confident first."""
    sure, names = confidence(predictions), predictions["class_names"].tolist()
    wrong = np.flatnonzero(predictions["predictions"] != predictions["labels"])
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    columns = (predictions[name][wrong] for name in ("ids", "labels", "predictions"))
    found = zip(wrong.tolist(), *(c.tolist() for c in columns), sure[wrong].tolist(), strict=True)
    return [Mistake(i, id_, names[true], names[given], p) for i, id_, true, given, p in found]


def save_thumbnails(folder: Path, split: Split, mistakes: Sequence[Mistake]) -> None:
    """Write thumbnails of the first mistakes to `folder`, replacing its content."""
    from PIL import Image

    from datasets.images.decode import decode

    shutil.rmtree(folder, ignore_errors=True)
    if mistakes:
        folder.mkdir()
    size = (SIDE, SIDE)
    for mistake in mistakes[:LIMIT]:
        content = split.content(mistake.index)
        # Decoding at a reduced size is faster.
        pixels = split[mistake.index][0] if content is None else decode(content, for_size=size)
        image = Image.fromarray(pixels)
        image.thumbnail(size)
        image.save(mistake.thumbnail(folder), quality=85)
