"""CIFAR-10: 32x32 photographs in ten classes, the data of the document cifar10.

Understood are the archive of Python pickles, the binary archive, both packed or not, and images in train/<class>/ and
test/<class>/ (of which JPEG files are noted: they are a lossy copy). Without --data-dir the first is downloaded. The
published test part stays the test part, and validation comes out of the 50,000 training images. (The document has no
validation.)

The pickles are read without running what they name: they may hold dictionaries, lists, texts, numbers and byte
arrays, of which a stand-in is built; anything else is refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from typing import TYPE_CHECKING, Any

from datasets.dataset import Dataset, DatasetInfo, InputError, Options
from datasets.named.published import Download

if TYPE_CHECKING:
    import numpy as np

    from datasets.formats.examples import Layout
    from datasets.formats.sources import Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32
PIXELS = 3 * SIZE * SIZE  # bytes of an image: its red, green and blue plane
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"

INFO = DatasetInfo(
    name="cifar10",
    description="60,000 photographs of 32x32 pixels in ten classes (downloaded, or from --data-dir)",
    source="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images; the document cifar10",
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
    how_to_get=f"download {URL} (or leave --data-dir out, and it is done) and give it, or the folder that it"
    " unpacks to, with --data-dir; expected are data_batch_1 to data_batch_5 and test_batch, with or without .bin,"
    " of 10000 images each, or train/<class> with 5000 and test/<class> with 1000",
    beside=("labels.txt", "batches.meta", "batches.meta.txt", "readme.html"),
)


def build(options: Options) -> Dataset:
    """The data in `options.data_dir`, or else the published archive, downloaded to the cache."""
    from datasets.formats.examples import assemble, load_files
    from datasets.formats.sources import open_source
    from datasets.named.downloads import fetch

    if options.data_dir is None:
        try:
            archive = fetch(URL, MD5, "cifar10/cifar-10-python.tar.gz", options.progress)
        except InputError as error:
            raise InputError(f"{INFO.name}: {error}, or say with --data-dir where it is") from None
        source: Source = open_source(archive, options.progress)
    else:
        source = DOWNLOAD.open(options)
    if any(_batch_of(file.path) for file in source.files):
        layout = _layout_of_batches(source)
        dataset = assemble(
            layout,
            INFO,
            options,
            digests={e.id: _digest(e.content) for e in layout.examples},
            load=lambda example: example.content,
            provenance={"path": str(source.root), "kind": source.kind},
        )
        return DOWNLOAD.finish(dataset, layout)
    layout = DOWNLOAD.layout(source)
    DOWNLOAD.check_classes(source.root, layout.class_names, CLASSES)
    if any(e.id.lower().endswith((".jpg", ".jpeg")) for e in layout.examples):
        layout.notes.append("the images are JPEG files, a lossy copy of the published ones")
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)


def _batch_of(path: str) -> str | None:
    """The batch that a file is, if any."""
    name = os.path.basename(path).removesuffix(".bin")
    return name if any(name in names for names in BATCHES.values()) else None


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _layout_of_batches(source: Source) -> Layout:
    """Both archives have the same images in the same order, and so the same ids: train/frog/0."""
    from datasets.formats.examples import Example, Layout, natural_key
    from datasets.images.decode import UndecodableError

    files = {}
    for file in source.files:
        if name := _batch_of(file.path):
            if name in files:
                raise InputError(
                    f"cifar10: {source.root} holds {name} more than once: keep one of them"
                )
            files[name] = file
    lacking = [name for names in BATCHES.values() for name in names if name not in files]
    if lacking:
        raise InputError(
            f"cifar10: {source.root} lacks {', '.join(lacking)}: {DOWNLOAD.how_to_get}"
        )
    examples = []
    for part, names in BATCHES.items():
        count = 0
        for name in names:
            try:
                content = source.read(files[name])
                binary = files[name].path.endswith(".bin")
                images, labels = (_binary if binary else _pickled)(content)
            except (UndecodableError, _NoBatch) as error:
                raise InputError(
                    f"cifar10: {files[name].path} in {source.root} is no batch of CIFAR-10 ({error}):"
                    f" download {URL} again"
                ) from None
            planes = images.reshape(-1, 3, SIZE, SIZE)
            for image, label in zip(planes.transpose(0, 2, 3, 1).copy(), labels, strict=True):
                class_name = CLASSES[label]
                examples.append(Example(f"{part}/{class_name}/{count}", image, class_name, part))
                count += 1
    examples.sort(key=lambda e: natural_key(e.id))
    return Layout(examples, CLASSES, ("train", "test"), [*source.notes])


class _NoBatch(ValueError):
    """Some bytes are not what they should be; the message says in which way."""


def _binary(content: bytes) -> tuple[np.ndarray, list[int]]:
    """A batch of the binary archive: for each image a byte of its class, then its bytes."""
    import numpy as np

    if not content or len(content) % (1 + PIXELS):
        raise _NoBatch(f"{len(content)} bytes, no multiple of {1 + PIXELS}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], _checked(rows[:, 0].tolist(), len(rows))


def _pickled(content: bytes) -> tuple[np.ndarray, list[int]]:
    """A batch of the Python archive: a dictionary with `data`, bytes [N, 3072], and `labels`."""
    import numpy as np

    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}
        data, labels = batch["data"], batch["labels"]
        if not isinstance(data, _Array) or data.shape[1:] != (PIXELS,):
            raise _NoBatch("its data are no array of images")
        order: Any = "F" if data.fortran else "C"
        images = np.frombuffer(data.content, np.uint8).reshape(data.shape, order=order)
    except _NoBatch:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise _NoBatch(" ".join(f"{type(error).__name__} {error}".split())) from error
    return images, _checked(labels, len(images))


def _checked(labels: Any, count: int) -> list[int]:
    known = range(len(CLASSES))
    if not isinstance(labels, list) or len(labels) != count:
        raise _NoBatch("not one label for each image")
    if not all(type(label) is int and label in known for label in labels):
        raise _NoBatch(f"a label that is not 0 to {len(CLASSES) - 1}")
    return labels


class _Array:
    """What stands in for an array while a pickle is read: what NumPy would have been told."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], Any, bool, bytes]) -> None:
        _, self.shape, dtype, self.fortran, self.content = state
        if not isinstance(dtype, _Type) or not isinstance(self.content, bytes):
            raise _NoBatch("an array of something else than bytes")


class _Type:
    """What stands in for the type of bytes, the only one."""

    def __setstate__(self, state: object) -> None:
        pass


def _make_array(*_: object) -> _Array:
    return _Array()


def _make_type(code: object, *_: object) -> _Type:
    if code not in ("u1", b"u1"):
        raise _NoBatch(f"an array of the type {code!r}")
    return _Type()


def _encode(text: str, encoding: str) -> bytes:
    """As Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise _NoBatch(f"text in {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Gives stand-ins for the few names that the batches use, and refuses all others."""

    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): _make_array,
        ("numpy._core.multiarray", "_reconstruct"): _make_array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _make_type,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise _NoBatch(f"it names {module}.{name}, which could run a program")
        return self.KNOWN[module, name]
