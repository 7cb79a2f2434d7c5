"""Scikit-learn's handwritten digits: real, small, and always there."""

import hashlib

from datasets.dataset import Dataset, DatasetInfo, Options
from zoo.common.resize import ResizeRule

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


def build(options: Options) -> Dataset:
    """All digits, split by class; images are enlarged (bilinear) to `image_size` when they are read.

    The fingerprint is that of the 8x8 pixels, whatever the size.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    from datasets.formats.examples import Example, Layout, assemble
    from datasets.images.resize import resize

    scans, labels = load_digits(return_X_y=True)
    grey = np.rint(scans * (255 / WHITE)).astype(np.uint8).reshape(-1, SIZE, SIZE)
    images = np.repeat(grey[..., None], 3, axis=3)
    side = options.image_size or SIZE
    rule = ResizeRule((side, side))
    examples = [Example(f"{label}/{i:04d}", i, str(label), None) for i, label in enumerate(labels)]
    return assemble(
        Layout(examples, tuple("0123456789"), (), []),
        INFO,
        options,
        digests={e.id: hashlib.sha256(images[e.content].tobytes()).hexdigest() for e in examples},
        load=lambda example: resize(images[example.content], rule),
        provenance={"kind": "scikit-learn's load_digits"},
        looks={},  # so few pixels look alike by nature
    )
