"""Data set types shared by all packages. Imports only the standard library."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from zoo.common.errors import InputError as InputError
from zoo.common.resize import ResizeRule

if TYPE_CHECKING:
    import numpy as np

    from datasets.images.resize import Decoder

# Called as `progress(text, done, total)` during long operations.
Progress = Callable[[str, int, int], None]

SPLITS = ("train", "validation", "test")
MANIFEST_FORMAT = 2

# "": as published, or unknown; "lossy copy": re-encoded as JPEG; "repacked": re-encoded without loss.
Edition = Literal["", "lossy copy", "repacked"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Metadata of a data set, available without loading it."""

    name: str
    description: str
    source: str  # authors of the images, and the paper that uses the data
    homepage: str = ""
    synthetic: bool = False
    num_classes: int | None = None
    image_shape: tuple[int, int, int] | None = None  # height, width, channels; None if they vary
    split_sizes: dict[str, int] | None = None  # with default options; as published for paper data
    needs_data_dir: bool = False  # the user must download the files and pass `data_dir`
    takes_data_dir: bool = False  # `data_dir` is accepted; implied by `needs_data_dir`
    pools_splits: bool = False  # by default, the published splits are pooled and split again

    def __post_init__(self) -> None:
        if self.needs_data_dir:
            object.__setattr__(self, "takes_data_dir", True)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `load_dataset`, documented there. Every builder receives all of them."""

    data_dir: str | os.PathLike[str] | None = None
    seed: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    image_size: int | None = None
    on_bad_image: Literal["skip", "error"] = "skip"
    max_bad: float = 0.05
    progress: Progress | None = None
    group: str | None = None
    folds: int = 0
    fold: int = 0
    splits_file: str | os.PathLike[str] | None = None
    published_splits: Literal["auto", "keep", "pool"] = "auto"
    classes: tuple[str, ...] = ()

    def check(self, field_name: Callable[[str], str] = str) -> None:
        """Raise InputError for values that are invalid for any data set.

        `field_name` maps a field to its name in messages, such as its flag.
        """

        def invalid(name: str, accepted: str) -> InputError:
            return InputError(f"{field_name(name)} is {getattr(self, name)}: use {accepted}")

        if self.seed < 0:
            raise invalid("seed", "0 or more")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise invalid(name, "a fraction between 0 and 1, such as 0.1")
        if self.validation_fraction + self.test_fraction >= 1:
            raise InputError(
                f"{field_name('validation_fraction')} and {field_name('test_fraction')} ({self.validation_fraction} and"
                f" {self.test_fraction}) leave nothing to train on: use fractions with a sum below 1"
            )
        if self.image_size is not None and self.image_size < 1:
            raise invalid("image_size", "at least 1 pixel")
        if self.on_bad_image not in ("skip", "error"):
            raise invalid("on_bad_image", "skip or error")
        if not 0 <= self.max_bad < 1:
            raise invalid("max_bad", "a fraction from 0 to below 1, such as 0.1")
        if self.published_splits not in ("auto", "keep", "pool"):
            raise invalid("published_splits", "auto, keep or pool")
        if self.group is not None:
            try:
                re.compile(self.group)
            except re.error as error:
                raise InputError(
                    f"{field_name('group')} {self.group!r} is not a valid regular expression: {error}"
                ) from None
        if self.folds < 0 or self.folds == 1:
            raise invalid("folds", "2 or more, or 0 for none")
        if not 0 <= self.fold < max(self.folds, 1):
            valid = f"0 to {self.folds - 1}"
            raise invalid("fold", valid if self.folds else f"{field_name('folds')} as well")
        if self.folds and self.splits_file is not None:
            raise InputError(
                f"{field_name('splits_file')} and {field_name('folds')} are mutually exclusive: use one of them"
            )


@dataclasses.dataclass(frozen=True)
class BadImage:
    """An image file that cannot be decoded."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """An image that also occurs in an earlier split."""

    kind: Literal["copy", "look"]  # identical bytes, or nearly equal perceptual hashes
    split: str
    id: str
    other_split: str
    other_id: str
    distance: int  # differing bits of 128: see `datasets.checks.perceptual_hash`


class Labeled:
    """Samples with ids and labels: the base class of splits."""

    def __init__(
        self,
        ids: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        *,
        digests: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        """Create a split from ids and labels.

        The manifest records `digests`, the sha256 (hex) of each sample's content, and `groups`, the group of each
        sample ("" for none).
        """
        import numpy as np

        if len(ids) != len(labels):
            raise ValueError(f"{len(ids)} ids, but {len(labels)} labels")
        self.ids = tuple(ids)
        self.labels = np.asarray(labels, np.int32)  # [N]
        self.digests = tuple(digests) or ("",) * len(ids)
        self.groups = tuple(groups) or ("",) * len(ids)

    def __len__(self) -> int:
        return len(self.ids)


class Split(Labeled):
    """One split of an image data set, indexed by integers.

    `split[i]` is `(image, label)`: uint8 [H, W, 3] at the image's original size, and an index into
    `Dataset.class_names`. Safe to read from several threads. Reading an image that has been deleted or damaged raises
    InputError with its id.
    """

    def __init__(
        self,
        ids: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        load: Callable[[int], np.ndarray] | None = None,
        *,
        read: Callable[[int], bytes] | None = None,
        digests: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        """Create a split from either `load(i)`, which returns image i, or `read(i)`, which returns the bytes of its
        file. Arrays returned by `load` may be shared. For other arguments, see `Labeled`."""
        super().__init__(ids, labels, digests=digests, groups=groups)
        if (load is None) == (read is None):
            raise ValueError("pass either load or read")
        self._load = load
        self._read = read

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for a split of {len(self)} images")
        index = int(index) % len(self)
        return self._checked(index, self._decode), int(self.labels[index])

    def _decode(self, index: int) -> np.ndarray:
        from datasets.images.decode import decode

        if self._read:
            return decode(self._read(index))
        assert self._load
        return self._load(index)

    def resized(self, index: int, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
        """Return image `index` resized by a rule: uint8 [H, W, 3]. Large files may be decoded at a reduced size."""
        from datasets.images.resize import decode_resized, resize

        def load(index: int) -> np.ndarray:
            if self._read:
                return decode_resized(self._read(index), rule, decoder)
            return resize(self._decode(index), rule)

        return self._checked(index, load)

    def content(self, index: int) -> bytes | None:
        """Return the undecoded bytes of image `index`'s file; None if the images are not from files."""
        return self._checked(index, self._read) if self._read else None

    def _checked(self, index: int, load: Callable[[int], T]) -> T:
        try:
            return load(index)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.ids[index]} can no longer be read ({error}): restore it, then run again"
            ) from error

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[i] for i in range(len(self)))


class VectorSplit(Labeled):
    """One split of vectors, such as the features of a network. Implements `datasets.pipeline.Samples`."""

    def __init__(self, split: Labeled, values: np.ndarray) -> None:
        """Replace the images of `split` by `values`, float32 [N, ...]."""
        super().__init__(split.ids, split.labels, digests=split.digests, groups=split.groups)
        if len(values) != len(split):
            raise ValueError(f"{len(values)} vectors for {len(split)} samples")
        self.values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one vector."""
        return self.values.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Data type of the vectors."""
        return self.values.dtype

    def load(self, indices: np.ndarray) -> np.ndarray:
        """Return the vectors at `indices`, [len(indices), ...]."""
        return self.values[indices]

    def arrays(self) -> np.ndarray:
        """Return all vectors, [N, ...], without a copy."""
        return self.values


S = TypeVar("S", bound=Labeled)


@dataclasses.dataclass
class Dataset(Generic[S]):
    """Three disjoint splits of labeled samples: `Dataset[Split]` of images, or `Dataset[VectorSplit]`."""

    name: str
    splits: Mapping[str, S]  # exactly "train", "validation", "test"
    class_names: tuple[str, ...]  # indexed by label
    info: DatasetInfo
    fingerprint: str  # hash of ids, class names and contents: see `fingerprint`
    bad_images: tuple[BadImage, ...] = ()  # excluded from the splits
    seed: int = 0  # of the random split, or of the generator
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON-serializable
    notes: tuple[str, ...] = ()  # one-line remarks for the user
    duplicates: tuple[Duplicate, ...] = ()  # across splits
    edition: Edition = ""  # how the images differ from the published ones

    def __post_init__(self) -> None:
        if tuple(self.splits) != SPLITS:
            raise ValueError(f"splits are {list(self.splits)} instead of {list(SPLITS)}")

    def manifest(self) -> dict[str, Any]:
        """Return the content of each split and the origin of the data, as JSON-serializable data.

        `splits` maps each split to `{id: label}`, in the order of the split; `sha256` maps ids to content hashes;
        `groups` maps ids to groups, if there are any. See `datasets.manifest`.
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
            "edition": self.edition,
            "splits": {
                name: dict(zip(split.ids, split.labels.tolist(), strict=True))
                for name, split in self.splits.items()
            },
            "sha256": {i: d for s in splits for i, d in zip(s.ids, s.digests, strict=True) if d},
            "groups": {i: g for s in splits for i, g in zip(s.ids, s.groups, strict=True) if g},
        }


def fingerprint(examples: Iterable[tuple[str, str, str]]) -> str:
    """Hash the content of a data set: sha256 (hex) over `(id, class name, sha256 of the content)` of all examples of
    all splits, sorted by id."""
    digest = hashlib.sha256()
    for example in sorted(examples):
        digest.update("\0".join(example).encode() + b"\n")
    return digest.hexdigest()
