"""Drawings of ten pigs: built-in proxy data for the photographs of the pig_faces paper, which were never published.

The data have the same shape: 10 individuals; 684 training, 77 validation and 254 test images of 256x256x3. The images
are synthetic (drawn by `drawing`), so results on them do not reproduce the paper.

Each image is a pure function of (seed, split, index); the pigs themselves do not depend on the seed. Example i of a
split shows pig i mod 10, so class sizes differ by at most one image: 68 or 69 training, 7 or 8 validation, and 25 or 26
test images per class.

Drawing all images takes about 15 s on one core. The result is kept in the cache directory ($JAX_ZOO_CACHE, or else the
user's), 200 MB per seed, and is memory-mapped.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.cache import cache_dir, whole_file
from datasets.dataset import SPLITS, Dataset, DatasetInfo, Options, Progress, fingerprint
from zoo.common.resize import ResizeRule

if TYPE_CHECKING:
    import numpy as np

# Incremented whenever the images change, so that outdated caches are not read.
GENERATOR = 1
CLASS_NAMES = tuple(f"pig{number}" for number in range(1, 11))
SPLIT_SIZES = {"train": 684, "validation": 77, "test": 254}
IMAGE_SHAPE = (256, 256, 3)
PROGRESS_SECONDS = 0.1

INFO = DatasetInfo(
    name="synthetic_pigs",
    description="1,015 synthetic (drawn) pig faces of 10 individuals, proxy data for unpublished photographs",
    source="drawn by this program; number and size of images as in the pig_faces paper",
    synthetic=True,
    num_classes=len(CLASS_NAMES),
    image_shape=IMAGE_SHAPE,
    split_sizes=SPLIT_SIZES,
)


def build(options: Options) -> Dataset:
    """Load all images of a seed from the cache, or draw them. Splits are fixed, like published ones."""
    from PIL import __version__ as pillow

    from datasets.formats.examples import Example, Layout, assemble

    keys = [(split, index) for split in SPLITS for index in range(SPLIT_SIZES[split])]
    ids = [f"{split}/{CLASS_NAMES[label(i)]}_{i:03d}" for split, i in keys]
    seed = options.seed
    images, digests = _load(keys, ids, seed, options.progress)
    examples = [
        Example(name, row, CLASS_NAMES[label(index)], split)
        for row, (name, (split, index)) in enumerate(zip(ids, keys, strict=True))
    ]
    return assemble(
        Layout(examples, CLASS_NAMES, SPLITS, []),
        INFO,
        options,
        digests=dict(zip(ids, digests, strict=True)),
        load=lambda example: images[example.content],
        provenance={"kind": "synthetic", "generator": GENERATOR, "seed": seed, "pillow": pillow},
    )


def label(index: int) -> int:
    """Return the label of example `index` of any split."""
    return index % len(CLASS_NAMES)


def draw(split: str, index: int, *, seed: int = 0) -> "np.ndarray":
    """Draw example `index` of a split ("train", "validation", "test"): uint8 RGB [256, 256, 3].

    Indices beyond the size of the split give additional images.
    """
    from datasets.named.synthetic_pigs import drawing

    key = (drawing.IMAGE, seed, SPLITS.index(split), index)
    return drawing.draw(label(index), drawing.Draws(*key))


def contact_sheet(path: str | os.PathLike, *, per_pig: int = 4, size: int = 88) -> None:
    """Write an image of all pigs, with one column per pig that shows `per_pig` of its test images.

    Eight-bit color keeps the file small for documentation.
    """
    import numpy as np
    from PIL import Image

    from datasets.images.resize import resize

    rule = ResizeRule((size, size))
    rows = [
        np.concatenate([resize(draw("test", 10 * row + pig), rule) for pig in range(10)], 1)
        for row in range(per_pig)
    ]
    sheet = Image.fromarray(np.concatenate(rows, 0))
    sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


# The cache file contains all images, then their fingerprint in 64 ASCII characters, to detect damage.


def _load(
    keys: list[tuple[str, int]], ids: list[str], seed: int, progress: Progress | None
) -> tuple["np.ndarray", list[str]]:
    """Return the images, uint8 [N, 256, 256, 3], read-only, and the sha256 (hex) of each."""
    import numpy as np

    path = cache_dir() / f"{INFO.name}-generator{GENERATOR}-seed{seed}.rgb"
    shape = (len(keys), *IMAGE_SHAPE)
    images, stored = _read(path, shape)
    if images is not None:
        digests = _digests(images)
        if _fingerprint(digests, ids).encode() == stored:
            return images, digests
    images = np.empty(shape, np.uint8)
    last = 0.0
    for done, (split, index) in enumerate(keys, 1):
        images[done - 1] = draw(split, index, seed=seed)
        if progress and (time.monotonic() - last > PROGRESS_SECONDS or done == len(keys)):
            progress("drawing synthetic pigs", done, len(keys))
            last = time.monotonic()
    images.flags.writeable = False
    digests = _digests(images)
    if _write(path, images, _fingerprint(digests, ids)):
        # The system can evict the pages of a memory-mapped file: 200 MB less memory in use.
        mapped, _ = _read(path, shape)
        images = images if mapped is None else mapped
    return images, digests


def _digests(images: "np.ndarray") -> list[str]:
    return [hashlib.sha256(image).hexdigest() for image in images]


def _fingerprint(digests: list[str], ids: list[str]) -> str:
    classes = (i.split("/")[1].split("_")[0] for i in ids)
    return fingerprint(zip(ids, classes, digests, strict=True))


def _read(path: Path, shape: tuple[int, ...]) -> tuple["np.ndarray | None", bytes]:
    import numpy as np

    size = int(np.prod(shape))
    try:
        if path.stat().st_size != size + 64:
            return None, b""
        images = np.asarray(np.memmap(path, np.uint8, mode="r", shape=shape))
        with open(path, "rb") as file:
            file.seek(size)
            return images, file.read()
    except (OSError, ValueError):
        return None, b""


def _write(path: Path, images: "np.ndarray", name: str) -> bool:
    """Replace the cache file atomically and return True. A failure is ignored: the next run draws the images again."""
    try:
        with whole_file(path) as file:
            file.write(images.data)
            file.write(name.encode())
        return True
    except OSError:
        return False
