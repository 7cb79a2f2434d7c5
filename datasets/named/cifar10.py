"""CIFAR-10: 32x32 photographs in ten classes. Data of the cifar10 paper.

Supported are the archive of Python pickles, the binary archive (both packed or unpacked), and images in train/<class>/
and test/<class>/, with a note if they are JPEG files, a lossy copy. Without --data-dir, the archive of pickles is
downloaded. The published test split is kept, and validation images are drawn from the 50,000 training images. (The
paper has no validation split.)

Reading the pickles does not execute any function they name: they may contain dictionaries, lists, strings, numbers and
byte arrays, which are read as placeholder objects; anything else is rejected.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets.dataset import Dataset, DatasetInfo, Edition, InputError, Options
from datasets.named._download import Download

if TYPE_CHECKING:
    import numpy as np

    from datasets.formats.examples import Layout
    from datasets.formats.sources import Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32
PIXELS = 3 * SIZE * SIZE  # bytes per image: its red, green and blue planes
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"

INFO = DatasetInfo(
    name="cifar10",
    description="60,000 photographs of 32x32 pixels in ten classes (downloaded, or from --data-dir)",
    source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images; used by the cifar10 paper",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    num_classes=10,
    image_shape=(SIZE, SIZE, 3),
    split_sizes={"train": 45000, "validation": 5000, "test": 10000},
    takes_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=(
        "cifar-10-python.tar.gz",
        "cifar-10-binary.tar.gz",
        "cifar10.zip",
        "cifar10.tar.xz",
        "archive.zip",
    ),
    editions=({"train": 50000, "test": 10000},),
    how_to_get=f"download {URL} (omit --data-dir to do so automatically) and pass it or the unpacked folder with"
    " --data-dir; expected are data_batch_1 to data_batch_5 and test_batch, with or without .bin,"
    " of 10000 images each, or train/<class> with 5000 and test/<class> with 1000",
    other_files=("labels.txt", "batches.meta", "batches.meta.txt", "readme.html"),
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`, or else download the published archive to the cache and load it."""
    return build_classes(options, DOWNLOAD, {name: name for name in CLASSES})


def build_classes(options: Options, download: Download, renamed: Mapping[str, str]) -> Dataset:
    """Load the images of some classes under new names.

    Where n classes get the same new name, every n-th image of each is kept, so that all new classes are equally large.
    `download` describes the result, and `renamed` maps published names of classes to new ones.
    """
    from datasets.formats.examples import assemble, load_files
    from datasets.formats.open import open_source
    from datasets.named._fetch import fetch

    info = download.info
    if options.data_dir is None:
        try:
            archive = fetch(URL, MD5, "cifar10/cifar-10-python.tar.gz", options.progress)
        except InputError as error:
            raise InputError(f"{info.name}: {error}, or pass its path with --data-dir") from None
        source: Source = open_source(archive, options.progress)
    else:
        source = download.open(options)
    if any(_batch_of(file.path) for file in source.files):
        layout = _of_classes(_layout_of_batches(source), renamed)
        dataset = assemble(
            layout,
            info,
            options,
            digests={e.id: _digest(e.content) for e in layout.examples},
            load=lambda example: example.content,
            provenance={"path": str(source.root), "kind": source.kind},
        )
        return download.finish(dataset, layout)
    layout = download.layout(source)
    download.check_classes(source.root, layout.class_names, CLASSES)
    layout = _of_classes(layout, renamed)
    edition: Edition = "repacked"
    if any(e.id.lower().endswith((".jpg", ".jpeg")) for e in layout.examples):
        layout.notes.append("the images are JPEG files, a lossy copy of the published ones")
        edition = "lossy copy"
    dataset = download.finish(load_files(source, layout, info, options), layout)
    return dataclasses.replace(dataset, edition=edition)


def _of_classes(layout: Layout, renamed: Mapping[str, str]) -> Layout:
    """Keep the classes in `renamed`, with their new names; see `build_classes`."""
    from datasets.formats.examples import natural_key

    names = tuple(sorted(set(renamed.values()), key=natural_key))
    merged = Counter(renamed.values())
    seen: Counter[tuple[str, str | None]] = Counter()
    examples = []
    for example in layout.examples:
        if new_name := renamed.get(example.class_name):
            key = (example.class_name, example.split)
            if seen[key] % merged[new_name] == 0:
                examples.append(dataclasses.replace(example, class_name=new_name))
            seen[key] += 1
    return dataclasses.replace(layout, examples=examples, class_names=names)


def _batch_of(path: str) -> str | None:
    """Return the name of the batch in a file; None if it is not a batch."""
    name = os.path.basename(path).removesuffix(".bin")
    return name if any(name in names for names in BATCHES.values()) else None


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _layout_of_batches(source: Source) -> Layout:
    """Read the batches of either archive.

    Both archives have the same images in the same order, and therefore the same ids, such as train/frog/0.
    """
    from datasets.formats.examples import Example, Layout, natural_key
    from datasets.images.decode import UndecodableError

    files = {}
    for file in source.files:
        if name := _batch_of(file.path):
            if name in files:
                raise InputError(
                    f"cifar10: {source.root} contains {name} more than once: keep one of them"
                )
            files[name] = file
    lacking = [name for names in BATCHES.values() for name in names if name not in files]
    if lacking:
        raise InputError(
            f"cifar10: {source.root} lacks {', '.join(lacking)}: {DOWNLOAD.how_to_get}"
        )
    examples = []
    for split, names in BATCHES.items():
        count = 0
        for name in names:
            try:
                content = source.read(files[name])
                binary = files[name].path.endswith(".bin")
                images, labels = (_binary if binary else _pickled)(content)
            except (UndecodableError, _InvalidBatch) as error:
                raise InputError(
                    f"cifar10: {files[name].path} in {source.root} is not a batch of CIFAR-10 ({error}):"
                    f" download {URL} again"
                ) from None
            planes = images.reshape(-1, 3, SIZE, SIZE)
            for image, label in zip(planes.transpose(0, 2, 3, 1).copy(), labels, strict=True):
                class_name = CLASSES[label]
                examples.append(Example(f"{split}/{class_name}/{count}", image, class_name, split))
                count += 1
    examples.sort(key=lambda e: natural_key(e.id))
    return Layout(examples, CLASSES, ("train", "test"), [*source.notes])


class _InvalidBatch(ValueError):
    """The content of a batch is invalid; the message is the reason."""


def _binary(content: bytes) -> tuple[np.ndarray, list[int]]:
    """Read a batch of the binary archive: for each image, one byte for the class, then the pixels."""
    import numpy as np

    if not content or len(content) % (1 + PIXELS):
        raise _InvalidBatch(f"its {len(content)} bytes are not a multiple of {1 + PIXELS}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], _check_labels(rows[:, 0].tolist(), len(rows))


def _pickled(content: bytes) -> tuple[np.ndarray, list[int]]:
    """Read a batch of the Python archive: a dictionary with `data`, uint8 [N, 3072], and `labels`."""
    import numpy as np

    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}
        data, labels = batch["data"], batch["labels"]
        if not isinstance(data, _Array) or data.shape[1:] != (PIXELS,):
            raise _InvalidBatch("its data are not an array of images")
        order: Any = "F" if data.fortran else "C"
        images = np.frombuffer(data.content, np.uint8).reshape(data.shape, order=order)
    except _InvalidBatch:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise _InvalidBatch(" ".join(f"{type(error).__name__} {error}".split())) from error
    return images, _check_labels(labels, len(images))


def _check_labels(labels: Any, count: int) -> list[int]:
    known = range(len(CLASSES))
    if not isinstance(labels, list) or len(labels) != count:
        raise _InvalidBatch("it does not have one label per image")
    if not all(type(label) is int and label in known for label in labels):
        raise _InvalidBatch(f"it has a label that is not 0 to {len(CLASSES) - 1}")
    return labels


class _Array:
    """Placeholder for a pickled NumPy array. Stores the arguments that NumPy would receive."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], Any, bool, bytes]) -> None:
        _, self.shape, dtype, self.fortran, self.content = state
        if not isinstance(dtype, _Type) or not isinstance(self.content, bytes):
            raise _InvalidBatch("it has an array whose type is not bytes")


class _Type:
    """Placeholder for the pickled data type uint8, the only supported one."""

    def __setstate__(self, state: object) -> None:
        pass


def _make_array(*_: object) -> _Array:
    return _Array()


def _make_type(code: object, *_: object) -> _Type:
    if code not in ("u1", b"u1"):
        raise _InvalidBatch(f"it has an array of type {code!r}")
    return _Type()


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes that Python 3 pickled for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise _InvalidBatch(f"it has text in the encoding {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Maps the few names that batches use to placeholders, and rejects all others."""

    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): _make_array,
        ("numpy._core.multiarray", "_reconstruct"): _make_array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _make_type,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise _InvalidBatch(f"it names {module}.{name}, which could execute code")
        return self.KNOWN[module, name]
