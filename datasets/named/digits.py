"""The handwritten digits of scikit-learn: small, real images that need no download."""

import hashlib

from datasets.dataset import Dataset, DatasetInfo, Options
from zoo.common.resize import ResizeRule

SIZE = 8  # height and width in pixels
WHITE = 16  # maximum value

INFO = DatasetInfo(
    name="digits",
    description="1,797 real handwritten digits, 8x8 pixels, converted to RGB and resizable",
    source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (the part shipped with"
    " scikit-learn)",
    homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    num_classes=10,
    image_shape=(SIZE, SIZE, 3),
    split_sizes={"train": 1439, "validation": 179, "test": 179},
)


def build(options: Options) -> Dataset:
    """Load all digits, split by class. Images are enlarged (bilinear) to `image_size` when they are read.

    The fingerprint is computed from the 8x8 pixels and does not depend on `image_size`.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    from datasets.formats.examples import Example, Layout, assemble
    from datasets.images.resize import resize

    scans, labels = load_digits(return_X_y=True)
    gray = np.rint(scans * (255 / WHITE)).astype(np.uint8).reshape(-1, SIZE, SIZE)
    images = np.repeat(gray[..., None], 3, axis=3)
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
        perceptual_hashes={},  # images of so few pixels are too similar to compare
    )
