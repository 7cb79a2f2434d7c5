"""Scikit-learn's handwritten digits: real, small, and always there."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datasets.dataset import SPLITS, Dataset, DatasetInfo, Split, fingerprint

if TYPE_CHECKING:
    import numpy as np

SIZE = 8  # pixels of a side, as scanned
WHITE = 16  # their brightest value

INFO = DatasetInfo(
    name="digits",
    description="1,797 real handwritten digits, 8x8 pixels, as RGB in any size asked for",
    source="E. Alpaydin and C. Kaynak: Optical Recognition of Handwritten Digits (the part that"
    " scikit-learn ships)",
    homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    num_classes=10,
    image_shape=(SIZE, SIZE, 3),
    split_sizes={"train": 1439, "validation": 179, "test": 179},
)


def build(
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    image_size: int | None = None,
    **_: Any,
) -> Dataset:
    """All digits, split by class; images are enlarged (bilinear) to `image_size` when they are read.

    The fingerprint is that of the 8x8 pixels, whatever the size.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    from datasets.images import resize
    from datasets.splits import stratified_split

    scans, labels = load_digits(return_X_y=True)
    grey = np.rint(scans * (255 / WHITE)).astype(np.uint8).reshape(-1, SIZE, SIZE)
    images = np.repeat(grey[..., None], 3, axis=3)
    size = (image_size or SIZE,) * 2
    ids = [f"{label}/{i:04d}" for i, label in enumerate(labels)]

    def make_split(positions: Sequence[int]) -> Split:
        def load(index: int) -> "np.ndarray":
            return resize(images[positions[index]], size)

        return Split([ids[p] for p in positions], labels[positions], load)

    classes = [str(label) for label in labels]
    fractions = {"validation": validation_fraction, "test": test_fraction}
    parts = stratified_split(ids, classes, fractions, seed=seed)
    contents = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return Dataset(
        name=INFO.name,
        splits={part: make_split(parts[part]) for part in SPLITS},
        class_names=tuple("0123456789"),
        info=INFO,
        fingerprint=fingerprint(zip(ids, classes, contents, strict=True)),
        seed=seed,
        provenance={"kind": "scikit-learn's load_digits", "split_fractions": fractions},
    )
