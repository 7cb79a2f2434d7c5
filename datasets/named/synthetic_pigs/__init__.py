"""Ten drawn pigs: embedded proxy data for the photographs of the pig-face paper, which were never published.

It has that data's shape: 10 individuals; 684 training, 77 validation and 254 test images of 256x256x3. The pictures
are synthetic (`drawing` draws them), so nothing measured on them is a number of that paper.

Each picture is a pure function of (seed, part, position); the pigs themselves do not depend on the seed. Example i
of a part shows pig i mod 10, so classes differ by one image at most: 68 or 69 training images each, 7 or 8
validation, 25 or 26 test.

Drawing all takes about 15 s on one core, so the result is kept in the cache directory ($JAX_ZOO_CACHE, else the
user's), 200 MB per seed, and is mapped from there.
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

# Goes up with every change of the pictures: caches of another generator are never read.
GENERATOR = 1
CLASS_NAMES = tuple(f"pig{number}" for number in range(1, 11))
SPLIT_SIZES = {"train": 684, "validation": 77, "test": 254}
IMAGE_SHAPE = (256, 256, 3)
PROGRESS_SECONDS = 0.1

INFO = DatasetInfo(
    name="synthetic_pigs",
    description="1,015 synthetic (drawn) pig faces of 10 individuals, a stand-in for unpublished photographs",
    source="drawn by this program; numbers and sizes of images as in the paper on pig faces",
    synthetic=True,
    num_classes=len(CLASS_NAMES),
    image_shape=IMAGE_SHAPE,
    split_sizes=SPLIT_SIZES,
)


def build(options: Options) -> Dataset:
    """All pictures of a seed, from the cache or drawn. The parts are fixed, as published data's would be."""
    from PIL import __version__ as pillow

    from datasets.formats.examples import Example, Layout, assemble

    pictures = [(part, index) for part in SPLITS for index in range(SPLIT_SIZES[part])]
    ids = [f"{part}/{CLASS_NAMES[label(i)]}_{i:03d}" for part, i in pictures]
    seed = options.seed
    images, digests = _load(pictures, ids, seed, options.progress)
    examples = [
        Example(name, position, CLASS_NAMES[label(index)], part)
        for position, (name, (part, index)) in enumerate(zip(ids, pictures, strict=True))
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
    """The pig that example `index` of any part shows."""
    return index % len(CLASS_NAMES)


def draw(part: str, index: int, *, seed: int = 0) -> "np.ndarray":
    """Example `index` of a part ("train", "validation", "test"): uint8 RGB [256, 256, 3].

    Positions beyond the part's size are fine: they are further pictures of the same kind.
    """
    from datasets.named.synthetic_pigs import drawing

    key = (drawing.PICTURE, seed, SPLITS.index(part), index)
    return drawing.draw(label(index), drawing.Draws(*key))


def contact_sheet(path: str | os.PathLike, *, per_pig: int = 4, size: int = 88) -> None:
    """Write a picture of all pigs, one in each column, with so many of their test images below each other.

    Eight-bit colour, which keeps a figure of documents small.
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


# The cache: all images, then their fingerprint in 64 ASCII characters, by which a damaged file is noticed.


def _load(
    examples: list[tuple[str, int]], ids: list[str], seed: int, progress: Progress | None
) -> tuple["np.ndarray", list[str]]:
    """Images uint8 [N, 256, 256, 3], read-only, and the sha256 (hex) of each."""
    import numpy as np

    path = cache_dir() / f"{INFO.name}-generator{GENERATOR}-seed{seed}.rgb"
    shape = (len(examples), *IMAGE_SHAPE)
    images, stored = _read(path, shape)
    if images is not None:
        digests = _digests(images)
        if _fingerprint(digests, ids).encode() == stored:
            return images, digests
    images = np.empty(shape, np.uint8)
    last = 0.0
    for done, (part, index) in enumerate(examples, 1):
        images[done - 1] = draw(part, index, seed=seed)
        if progress and (time.monotonic() - last > PROGRESS_SECONDS or done == len(examples)):
            progress("drawing synthetic pigs", done, len(examples))
            last = time.monotonic()
    images.flags.writeable = False
    digests = _digests(images)
    if _write(path, images, _fingerprint(digests, ids)):
        mapped, _ = _read(path, shape)
        images = (
            images if mapped is None else mapped
        )  # 200 MB that the system can drop and read again
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
    """Replace the cache at once, so that no reader meets half a file. Without space or rights the next run
    draws again: no reason to fail."""
    try:
        with whole_file(path) as file:
            file.write(images.data)
            file.write(name.encode())
        return True
    except OSError:
        return False
