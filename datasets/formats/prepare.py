"""Write a data set in TFDS's format (ArrayRecord) without TensorFlow, so that later runs start faster.

TFDS readers find the features `image`, `label` and `id`, the splits and the class names. `datasets.formats.tfds`
restores the exact data set from its manifest, which is stored in TFDS's metadata. Images that are not resized keep the
bytes of their files.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from datasets.dataset import SPLITS, Dataset, InputError, Progress, Split, fingerprint
from datasets.formats.tfds import (
    ARRAY_RECORD,
    METADATA_FORMAT,
    METADATA_KEY,
    prepared_directory,
    read_metadata,
)
from datasets.images.decode import decode
from datasets.images.resize import resize as resize_image
from datasets.locks import locked
from zoo.common.resize import ResizeRule

VERSION = "1.0.0"
BAD_IMAGES = "bad_images.txt"  # excluded images, with reasons
JPEG_QUALITY = 95
SHARD_EXAMPLES = 20_000
AHEAD = 64  # images read and resized ahead of writing
PROGRESS_SECONDS = 0.1

Resize = Literal["shorter", "squash"]
Format = Literal["jpeg", "png"]


def prepare(
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    image_size: int | None = None,
    resize: Resize = "shorter",
    format: Format = "jpeg",
    progress: Progress | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Write a data set to the TFDS data directory `out`.

    Images that `load_dataset` left out because they cannot be decoded are listed in `bad_images.txt`. A directory that
    was prepared from the same data with the same options is kept.

    Args:
      dataset: data set returned by `load_dataset`.
      out: TFDS data directory; created if missing. The data set appears there atomically.
      name: letters, digits and underscores; default: the data set's name, with `_<size>` if resized.
      image_size: new size of the images in pixels; default: the original sizes.
      resize: "shorter" resizes the shorter side to `image_size` and keeps the aspect ratio, for models that crop as
        well as those that squash; smaller images are not changed. "squash" resizes to squares of `image_size`, exactly
        as training would if `format` is "png".
      format: encoding of resized images: JPEG of quality 95, or PNG. Images without files are stored as PNG.
      progress: called as `progress(text, done, total)`.
      warn: called with a message if the file system has no locks.

    Returns:
      The directory of the data set, `out/name/1.0.0`.

    Raises:
      InputError: the directory contains other data, or another process is writing it.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"the image size is {image_size}: use at least 1 pixel")
    resizing: dict[str, Any] = {"image_size": image_size}
    if image_size is not None:
        resizing |= {"resize": resize, "format": format}
    _check_names(dataset.class_names)
    name = tfds_name(name or dataset.name, None if name else image_size)
    directory = Path(out).expanduser() / name / VERSION
    metadata = describe(dataset, resizing)
    if _is_prepared(directory, metadata):
        return directory
    with _locked(directory.parent, warn):
        if not _is_prepared(directory, metadata):  # by another process in the meantime
            writer = _Writer(dataset, image_size, resize, format, progress)
            _write(name, directory, metadata, writer)
    return directory


def tfds_name(text: str, image_size: int | None = None) -> str:
    """Convert a text to a valid TFDS name: lowercase letters, digits and underscores, starting with a letter."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    name = name if re.match("[a-z]", name) else f"images_{name}".rstrip("_")
    return name if image_size is None else f"{name}_{image_size}"


def _check_names(names: Sequence[str]) -> None:
    """Raise InputError for class names that TFDS would change: it stores one per line and strips whitespace."""
    kept = {name.strip() for name in names if "\n" not in name} - {""}
    if len(kept) < len(names):
        bad = next((name for name in names if "\n" in name or name != name.strip()), "")
        raise InputError(f"the class name {bad!r} is not unique without its whitespace: rename it")


def describe(dataset: Dataset, resizing: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a data set, JSON-serializable. The fingerprint is added after writing the images."""
    manifest = dataset.manifest()
    info = dataclasses.asdict(dataset.info)
    if size := resizing["image_size"]:
        info["image_shape"] = (size, size, 3) if resizing["resize"] == "squash" else None
    return {
        "format": METADATA_FORMAT,
        "info": info,
        "manifest": manifest,
        "from": {
            **manifest["provenance"],
            **resizing,
            "fingerprint": dataset.fingerprint,
            "bad_images": [[bad.id, bad.reason] for bad in dataset.bad_images],
        },
    }


def _is_prepared(directory: Path, metadata: dict[str, Any]) -> bool:
    """Return whether the same data are already prepared. Raises InputError if `directory` contains anything else."""
    if not os.path.lexists(directory):
        return False
    existing = read_metadata(directory) if prepared_directory(directory) == directory else None
    if existing is None:
        raise InputError(
            f"{directory} exists, but was not written by this command: use another --name or --out"
        )
    same = all(existing["manifest"][key] == metadata["manifest"][key] for key in _SAME) and all(
        existing["from"].get(key) == metadata["from"].get(key) for key in _RESIZING
    )
    if not same:
        raise InputError(
            f"{directory} contains other images, splits or sizes of {metadata['manifest']['dataset']}:"
            " use another --name or --out, or remove it"
        )
    return True


_SAME = ("dataset", "fingerprint", "class_names", "splits")
_RESIZING = ("image_size", "resize", "format")


@contextlib.contextmanager
def _locked(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Lock a folder against other processes, and remove incomplete data of killed ones."""
    busy = f"another process is preparing {folder}: wait, or use another --out"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock", busy, warn))
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error.strerror}): use another --out"
            ) from None
        for left in folder.glob(f"incomplete.*_{VERSION}"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _write(name: str, directory: Path, metadata: dict[str, Any], writer: "_Writer") -> None:
    import tensorflow_datasets as tfds

    class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        # Shards in the given order. TFDS's usual builder shuffles: in memory up to one gigabyte, beyond that in files
        # that it writes with TensorFlow.
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            names = metadata["manifest"]["class_names"]
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{metadata['info']['description']}. Source: {metadata['info']['source']}.",
                homepage=metadata["info"]["homepage"] or None,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 3)),
                        "label": tfds.features.ClassLabel(names=names),
                        "id": tfds.features.Text(),
                    }
                ),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict({METADATA_KEY: metadata}),
            )

        def _shard_iterators_per_split(self, dl_manager: Any) -> Any:
            return {split: writer.shards(split) for split in SPLITS}

        def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
            super()._download_and_prepare(*args, **kwargs)
            metadata["fingerprint"] = writer.fingerprint()
            if bad := metadata["from"]["bad_images"]:
                lines = [f"{id}\t{reason}\n" for id, reason in bad]
                Path(self.data_dir, BAD_IMAGES).write_text("".join(lines), encoding="utf-8")

        def _log_download_bytes(self) -> None:
            """Do nothing: there is no download."""

        def _log_download_done(self) -> None:
            """Do nothing: the caller reports success."""

    Builder.name = name
    with tempfile.TemporaryDirectory() as downloads:  # required, although nothing is downloaded
        Builder(data_dir=directory.parents[1], file_format=ARRAY_RECORD).download_and_prepare(
            download_dir=downloads
        )


class _Once:
    """Bytes that can be read once and are then freed. TFDS keeps the examples of a shard until it is written."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes:
        content, self._content = self._content, b""
        return content


class _Writer:
    """Generates the examples of each split in shards, and records their hashes."""

    def __init__(
        self,
        dataset: Dataset,
        image_size: int | None,
        resize: Resize,
        format: Format,
        progress: Progress | None,
    ) -> None:
        self._dataset = dataset
        self._image_size, self._resize, self._format = image_size, resize, format
        self._progress = progress
        self._written: list[tuple[str, str, str]] = []
        self._kept = True  # whether all images so far have the bytes of their files
        self._last = 0.0

    def shards(self, name: str) -> list[Any]:
        """Return a generator function of examples for each shard of a split."""
        split = self._dataset.splits[name]
        starts = range(0, len(split), SHARD_EXAMPLES)
        return [
            lambda start=start: self._examples(
                split, range(start, min(start + SHARD_EXAMPLES, len(split)))
            )
            for start in starts
        ]

    def fingerprint(self) -> str:
        """Return the fingerprint of the written data. Raises InputError if files changed after they were checked."""
        written = fingerprint(self._written)
        if self._kept and written != self._dataset.fingerprint:
            raise InputError(
                f"images of {self._dataset.name} changed while they were prepared: run again"
            )
        return written

    def _examples(self, split: Split, indices: range) -> Iterator[tuple[str, dict[str, Any]]]:
        total = sum(map(len, self._dataset.splits.values()))
        for index, (content, kept) in _prefetch(lambda i: self._load_encoded(split, i), indices):
            id, label = split.ids[index], int(split.labels[index])
            class_name = self._dataset.class_names[label]
            self._kept = self._kept and kept
            self._written.append((id, class_name, hashlib.sha256(content).hexdigest()))
            done, now = len(self._written), time.monotonic()
            if self._progress and (now - self._last > PROGRESS_SECONDS or done == total):
                self._progress("writing images", done, total)
                self._last = now
            yield id, {"image": _Once(content), "label": label, "id": id}

    def _load_encoded(self, split: Split, index: int) -> tuple[bytes, bool]:
        """Return the encoded image, and whether it has the bytes of its file."""
        content = split.content(index)
        if self._image_size is None:
            return (
                (content, True) if content is not None else (_encode(split[index][0], "png"), False)
            )
        size = self._image_size, self._image_size
        # As in training, large photographs are decoded at a reduced size.
        image = split[index][0] if content is None else decode(content, for_size=size)
        height, width = image.shape[:2]
        if self._resize == "shorter":
            scale = min(1.0, self._image_size / min(height, width))
            size = round(height * scale), round(width * scale)
        if size == (height, width):
            return (content, True) if content is not None else (_encode(image, "png"), False)
        return _encode(resize_image(image, ResizeRule(size)), self._format), False


def _prefetch(function: Any, indices: range) -> Iterator[tuple[int, Any]]:
    """Yield each index and `function(index)`, in order, computed in threads at most AHEAD calls ahead."""
    workers = min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(workers, "prepare") as pool:
        waiting = iter(indices)
        queue = [(i, pool.submit(function, i)) for i in itertools.islice(waiting, AHEAD)]
        try:
            while queue:
                index, future = queue.pop(0)
                queue += [(i, pool.submit(function, i)) for i in itertools.islice(waiting, 1)]
                yield index, future.result()
        finally:
            for _, future in queue:
                future.cancel()


def _encode(image: Any, format: Format) -> bytes:
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if format == "jpeg" else {}
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()
