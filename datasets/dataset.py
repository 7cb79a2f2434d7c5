"""What a data set is to the rest of the program. Imports the standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

# Called as `progress(text, done, total)` while something takes long.
Progress = Callable[[str, int, int], None]

SPLITS = ("train", "validation", "test")
MANIFEST_FORMAT = 2


class InputError(ValueError):
    """Something that the caller gave cannot be used; the message is one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set without loading it."""

    name: str
    description: str
    source: str  # who made the images; for a document's data also which document
    homepage: str = ""
    synthetic: bool = False
    num_classes: int | None = None
    image_shape: tuple[int, int, int] | None = None  # height, width, channels where all are alike
    split_sizes: dict[str, int] | None = None  # with default options; as published for paper data


@dataclasses.dataclass(frozen=True)
class Options:
    """What the caller of `load_dataset` may ask for; see there. Every builder gets all of it."""

    data_dir: str | os.PathLike[str] | None = None
    seed: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    image_size: int | None = None
    on_bad_image: Literal["skip", "error"] = "skip"
    progress: Progress | None = None
    group: str | None = None
    folds: int = 0
    fold: int = 0
    splits_file: str | os.PathLike[str] | None = None


@dataclasses.dataclass(frozen=True)
class BadImage:
    """A file that looks like an image and cannot be decoded."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Leak:
    """An image of one part that an earlier part holds, too."""

    kind: Literal["copy", "look"]  # the same bytes, or a picture that looks the same
    part: str
    id: str
    other_part: str
    other_id: str
    distance: int  # bits of 128 in which the looks differ: see `datasets.leaks`


class Split:
    """One part of a data set, read by position.

    `split[i]` is `(image, label)`: uint8 [H, W, 3] in the image's own size, and the class's position in
    `Dataset.class_names`. Safe to read from several threads. An image that has vanished or changed so that
    it cannot be read raises InputError with its id.
    """

    def __init__(
        self,
        ids: Sequence[str],
        labels: Sequence[int],
        load: Callable[[int], np.ndarray],
        load_for: Callable[[int, tuple[int, int]], np.ndarray] | None = None,
        *,
        digests: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        """Examples named `ids`, of classes `labels`; `load(i)` gives image i, anew or shared, and
        `load_for(i, size)` the same or one that is quicker to load (see `image_for`). For the manifest:
        the sha256 (hex) of each content, and the group of each, "" for none."""
        import numpy as np

        if len(ids) != len(labels):
            raise ValueError(f"{len(ids)} ids, but {len(labels)} labels")
        self.ids = tuple(ids)
        self.labels = np.asarray(labels, np.int32)  # [N]
        self.digests = tuple(digests) or ("",) * len(ids)
        self.groups = tuple(groups) or ("",) * len(ids)
        self._load = load
        self._load_for = load_for or (lambda index, size: load(index))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"position {index} in a split of {len(self)}")
        index = int(index) % len(self)
        return self._checked(index, self._load), int(self.labels[index])

    def image_for(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Image `index`, about to be resized to `size` (height, width): a much larger one may come
        reduced, at least twice that size still."""
        return self._checked(index, lambda i: self._load_for(i, size))

    def _checked(self, index: int, load: Callable[[int], np.ndarray]) -> np.ndarray:
        try:
            return load(index)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.ids[index]} cannot be read any more ({error}): restore it, then run again"
            ) from error

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[i] for i in range(len(self)))


@dataclasses.dataclass
class Dataset:
    """Images with labels, in three parts that share no example."""

    name: str
    splits: dict[str, Split]  # exactly "train", "validation", "test"
    class_names: tuple[str, ...]  # a label is a position in it
    info: DatasetInfo
    fingerprint: str  # of ids, class names and contents: see `fingerprint`
    bad_images: tuple[BadImage, ...] = ()  # left out
    seed: int = 0  # of the split, or of the generator
    provenance: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # JSON-able: from where, how
    notes: tuple[str, ...] = ()  # remarks for the user about what was found, a line each
    leaks: tuple[Leak, ...] = ()  # images of a part that an earlier part holds, too

    def __post_init__(self) -> None:
        if tuple(self.splits) != SPLITS:
            raise ValueError(f"splits are {list(self.splits)} instead of {list(SPLITS)}")

    def manifest(self) -> dict[str, Any]:
        """Which example is in which part, and where all come from, as JSON-able data.

        `splits` maps each part to `{id: label}`, in the order of the part; `sha256` the ids to the hashes
        of their contents, `groups` those that are in a group to it. See `datasets.manifests`.
        """
        splits = self.splits.values()
        return {
            "format": MANIFEST_FORMAT,
            "dataset": self.name,
            "synthetic": self.info.synthetic,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "class_names": list(self.class_names),
            "provenance": self.provenance,
            "notes": list(self.notes),
            "splits": {
                name: dict(zip(split.ids, split.labels.tolist(), strict=True))
                for name, split in self.splits.items()
            },
            "sha256": {i: d for s in splits for i, d in zip(s.ids, s.digests, strict=True) if d},
            "groups": {i: g for s in splits for i, g in zip(s.ids, s.groups, strict=True) if g},
        }


def fingerprint(examples: Iterable[tuple[str, str, str]]) -> str:
    """Name data by their content: sha256 (hex) over `(id, class name, sha256 of the content)` of every
    example of every part, in the order of the ids."""
    digest = hashlib.sha256()
    for example in sorted(examples):
        digest.update("\0".join(example).encode() + b"\n")
    return digest.hexdigest()
