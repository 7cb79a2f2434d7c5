"""Image features keyed by image content, in files of the cache directory.

A file holds the features of one network, layer and preprocessing. Runs, folds and processes that need features of the
same images compute each of them once.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.cache import cache_dir, whole_file
from datasets.pipeline import ImageSamples, Samples

MAX_BYTES = (
    2 << 30
)  # larger files are not written: VGG's convolutional features of 16,000 images take 1.6 GB


def image_names(samples: Samples, data_key: Mapping[str, Any]) -> list[str] | None:
    """Names that identify loaded images by their content; None if the data set has no digests, or adds noise."""
    if not isinstance(samples, ImageSamples) or not all(samples.split.digests):
        return None
    if data_key["noise"][0]:  # depends on the position in a split
        return None
    return [f"{samples.decoder}:{digest}" for digest in samples.split.digests]


def file_of(key: Mapping[str, Any]) -> Path:
    """Path of the file for `key`: everything else that the features depend on, JSON-serializable."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "features" / f"{digest[:32]}.npz"


def look_up(
    path: Path,
    names: Mapping[str, Sequence[str]],
    compute: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Return the features of some images of each split, float32 [N, ...]; compute and add those that are not stored.

    A second process waits while the first one computes.

    Args:
      path: the file, which may not exist.
      names: names of the images of each split.
      compute: maps indices by split to features; called at most once.
    """
    with _locked(path):
        known, values = _read(path)
        position = {name: row for row, name in enumerate(known)}
        missing: dict[str, list[int]] = {}
        for split, of_split in names.items():
            for index, name in enumerate(of_split):
                if name not in position:
                    position[name] = len(position)
                    missing.setdefault(split, []).append(index)
        if missing:
            new = compute({split: np.array(indices) for split, indices in missing.items()})
            values = np.concatenate(
                [*([values] if len(values) else []), *(new[split] for split in missing)]
            )
            if values.nbytes <= MAX_BYTES:
                with whole_file(path) as file:
                    np.savez(
                        file, allow_pickle=False, names=np.array(list(position)), values=values
                    )
    return {split: values[[position[name] for name in of]] for split, of in names.items()}


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
            names, values = saved["names"].tolist(), saved["values"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # missing or damaged
        return [], np.zeros(0, np.float32)
    return (names, values) if len(names) == len(values) else ([], np.zeros(0, np.float32))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{path}.lock", fallback_to_soft=False)
    with contextlib.suppress(
        OSError
    ):  # a file system without locks: features may be computed twice
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
