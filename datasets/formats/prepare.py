"""Writes any data set of ours as a TFDS one in ArrayRecord, without TensorFlow, for fast later runs.

TFDS readers find `image`, `label` and `id`, the parts and the class names; `datasets.formats.tfds` gets back the
very data set, since its manifest lies in TFDS's metadata. Images that need no change keep their file's bytes.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from datasets.dataset import SPLITS, Dataset, InputError, Progress, Split, fingerprint
from datasets.formats.tfds import (
    ARRAY_RECORD,
    METADATA_FORMAT,
    METADATA_KEY,
    ours,
    prepared_directory,
)
from datasets.images.decode import decode
from datasets.images.resize import resize as resize_image
from zoo.common.resize import ResizeRule

VERSION = "1.0.0"
BAD_IMAGES = "bad_images.txt"  # what was left out, with reasons, beside the records
JPEG_QUALITY = 95
SHARD_EXAMPLES = 20_000
AHEAD = 64  # images that are read and resized before they are written
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
) -> Path:
    """Write a data set below the TFDS data directory `out`; returns its own directory, `out/name/1.0.0`.

    Args:
      dataset: from `load_dataset`.
      out: made where it is missing. The data set appears there whole or not at all.
      name: in letters, digits and underscores; by default the data set's, with `_<size>` when resized.
      image_size: pixels, to make images smaller; by default all stay as they are.
      resize: "shorter" keeps the aspect ratio and brings the shorter side to `image_size`, which serves models
        that crop and those that squash; images that are smaller already stay as they are. "squash" gives
        `image_size` squares: what a model of that size gets by squashing, pixel for pixel if `format` is "png".
      format: of images that were resized: JPEG of quality 95, or PNG. Those that never had a file are PNG.
      progress: called as `progress(text, done, total)`.

    Images that cannot be decoded are left out by `load_dataset`; `bad_images.txt` in the directory names them. A
    directory that was prepared from the same data in the same way is left alone. Raises InputError when other
    data are there, or another process is writing them.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"the image size is {image_size}: give at least 1 pixel")
    made: dict[str, Any] = {"image_size": image_size}
    if image_size is not None:
        made |= {"resize": resize, "format": format}
    _check_names(dataset.class_names)
    name = tfds_name(name or dataset.name, None if name else image_size)
    directory = Path(out).expanduser() / name / VERSION
    about = describe(dataset, made)
    if _is_there(directory, about):
        return directory
    with _locked(directory.parent):
        if not _is_there(directory, about):  # it may have come while we waited
            writer = _Writer(dataset, image_size, resize, format, progress)
            _write(name, directory, about, writer)
    return directory


def tfds_name(text: str, image_size: int | None = None) -> str:
    """What TFDS accepts as a name: small letters, digits and underscores, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    name = name if re.match("[a-z]", name) else f"images_{name}".rstrip("_")
    return name if image_size is None else f"{name}_{image_size}"


def _check_names(names: Sequence[str]) -> None:
    """TFDS keeps class names in a file, one a line, and takes the space around them off."""
    kept = {name.strip() for name in names if "\n" not in name} - {""}
    if len(kept) < len(names):
        bad = next((name for name in names if "\n" in name or name != name.strip()), "")
        raise InputError(
            f"the class name {bad!r} cannot be told from others without the space in it: rename it"
        )


def describe(dataset: Dataset, made: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a data set beside its images, as JSON-able data; its fingerprint joins when they are written."""
    manifest = dataset.manifest()
    info = dataclasses.asdict(dataset.info)
    if size := made["image_size"]:
        info["image_shape"] = (size, size, 3) if made["resize"] == "squash" else None
    return {
        "format": METADATA_FORMAT,
        "info": info,
        "manifest": manifest,
        "from": {
            **manifest["provenance"],
            **made,
            "fingerprint": dataset.fingerprint,
            "bad_images": [[bad.id, bad.reason] for bad in dataset.bad_images],
        },
    }


def _is_there(directory: Path, about: dict[str, Any]) -> bool:
    """Whether the same is prepared already; InputError when anything else is in its place."""
    if not os.path.lexists(directory):
        return False
    before = ours(directory) if prepared_directory(directory) == directory else None
    if before is None:
        raise InputError(
            f"{directory} exists, and is not of this command's making: give another --name or --out"
        )
    same = all(before["manifest"][key] == about["manifest"][key] for key in _SAME) and all(
        before["from"].get(key) == about["from"].get(key) for key in _MADE
    )
    if not same:
        raise InputError(
            f"{directory} holds other images, parts or sizes of {about['manifest']['dataset']}:"
            " give another --name or --out, or remove it"
        )
    return True


_SAME = ("dataset", "fingerprint", "class_names", "splits")
_MADE = ("image_size", "resize", "format")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second process out, and remove what a killed one has left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): give another --out"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another process is preparing {folder}: wait, or give another --out"
            ) from None
        for left in folder.glob(f"incomplete.*_{VERSION}"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _write(name: str, directory: Path, about: dict[str, Any], writer: "_Writer") -> None:
    import tensorflow_datasets as tfds

    class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        # Shard by shard, in our order: the usual builder shuffles, in memory up to a gigabyte, and beyond
        # through files that it writes with TensorFlow.
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            names = about["manifest"]["class_names"]
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{about['info']['description']}. Source: {about['info']['source']}.",
                homepage=about["info"]["homepage"] or None,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 3)),
                        "label": tfds.features.ClassLabel(names=names),
                        "id": tfds.features.Text(),
                    }
                ),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict({METADATA_KEY: about}),
            )

        def _shard_iterators_per_split(self, dl_manager: Any) -> Any:
            return {part: writer.shards(part) for part in SPLITS}

        def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
            super()._download_and_prepare(*args, **kwargs)
            about["fingerprint"] = writer.fingerprint()
            if bad := about["from"]["bad_images"]:
                lines = [f"{id}\t{reason}\n" for id, reason in bad]
                Path(self.data_dir, BAD_IMAGES).write_text("".join(lines), encoding="utf-8")

        def _log_download_bytes(self) -> None:
            """Nothing is downloaded."""

        def _log_download_done(self) -> None:
            """Said by the caller."""

    Builder.name = name
    with tempfile.TemporaryDirectory() as downloads:  # made though nothing is downloaded
        Builder(data_dir=directory.parents[1], file_format=ARRAY_RECORD).download_and_prepare(
            download_dir=downloads
        )


class _Once:
    """Content that can be read once. TFDS holds on to the examples of a shard until it is written."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes:
        content, self._content = self._content, b""
        return content


class _Writer:
    """Gives the examples of each part in shards, and remembers what it gave."""

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
        self._kept = True  # all files' bytes, so far
        self._last = 0.0

    def shards(self, part: str) -> list[Any]:
        """A generator of examples for each shard."""
        split = self._dataset.splits[part]
        starts = range(0, len(split), SHARD_EXAMPLES)
        return [
            lambda start=start: self._examples(
                split, range(start, min(start + SHARD_EXAMPLES, len(split)))
            )
            for start in starts
        ]

    def fingerprint(self) -> str:
        """Of what was written. What was checked has to be what was written."""
        name = fingerprint(self._written)
        if self._kept and name != self._dataset.fingerprint:
            raise InputError(
                f"images of {self._dataset.name} changed while they were prepared: run again"
            )
        return name

    def _examples(self, split: Split, positions: range) -> Iterator[tuple[str, dict[str, Any]]]:
        total = sum(map(len, self._dataset.splits.values()))
        for position, (content, kept) in _ahead(lambda i: self._encoded(split, i), positions):
            id, label = split.ids[position], int(split.labels[position])
            class_name = self._dataset.class_names[label]
            self._kept = self._kept and kept
            self._written.append((id, class_name, hashlib.sha256(content).hexdigest()))
            done, now = len(self._written), time.monotonic()
            if self._progress and (now - self._last > PROGRESS_SECONDS or done == total):
                self._progress("writing images", done, total)
                self._last = now
            yield id, {"image": _Once(content), "label": label, "id": id}

    def _encoded(self, split: Split, index: int) -> tuple[bytes, bool]:
        """An image's bytes, and whether they are those of its file."""
        content = split.content(index)
        if self._image_size is None:
            return (
                (content, True) if content is not None else (_encode(split[index][0], "png"), False)
            )
        size = self._image_size, self._image_size
        # As training reads it: a large photograph comes reduced by its decoder.
        image = split[index][0] if content is None else decode(content, for_size=size)
        height, width = image.shape[:2]
        if self._resize == "shorter":
            scale = min(1.0, self._image_size / min(height, width))
            size = round(height * scale), round(width * scale)
        if size == (height, width):
            return (content, True) if content is not None else (_encode(image, "png"), False)
        return _encode(resize_image(image, ResizeRule(size)), self._format), False


def _ahead(make: Any, positions: range) -> Iterator[tuple[int, Any]]:
    """What is made of each position, in order, by all cores but not far ahead."""
    workers = min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(workers, "prepare") as pool:
        waiting = iter(positions)
        queue = [(i, pool.submit(make, i)) for i in itertools.islice(waiting, AHEAD)]
        try:
            while queue:
                position, future = queue.pop(0)
                queue += [(i, pool.submit(make, i)) for i in itertools.islice(waiting, 1)]
                yield position, future.result()
        finally:
            for _, future in queue:
                future.cancel()


def _encode(image: Any, format: Format) -> bytes:
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if format == "jpeg" else {}
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()
