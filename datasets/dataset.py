"""What a data set is to the rest of the program. Imports the standard library only."""

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

# Called as `progress(text, done, total)` while something takes long.
Progress = Callable[[str, int, int], None]

SPLITS = ("train", "validation", "test")
MANIFEST_FORMAT = 2

# As published, or not known; decoded and stored again as JPEG; stored again without loss.
Edition = Literal["", "lossy copy", "repacked"]

T = TypeVar("T")


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
    needs_data_dir: bool = False  # the user has to get the files, and say where they are
    takes_data_dir: bool = False  # the files may be the user's own; true where they have to be

    def __post_init__(self) -> None:
        if self.needs_data_dir:
            object.__setattr__(self, "takes_data_dir", True)


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

    def check(self, called: Callable[[str], str] = str) -> None:
        """Raise InputError for values that no data set can be split by.

        `called` gives the name of a field that the user knows, such as its flag.
        """

        def refuse(name: str, accepted: str) -> InputError:
            return InputError(f"{called(name)} is {getattr(self, name)}: give {accepted}")

        if self.seed < 0:
            raise refuse("seed", "0 or more")
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise refuse(name, "a share between 0 and 1, such as 0.1")
        if self.validation_fraction + self.test_fraction >= 1:
            raise InputError(
                f"{called('validation_fraction')} and {called('test_fraction')} ({self.validation_fraction} and"
                f" {self.test_fraction}) leave nothing to train on: give shares whose sum is below 1"
            )
        if self.image_size is not None and self.image_size < 1:
            raise refuse("image_size", "at least 1 pixel")
        if self.on_bad_image not in ("skip", "error"):
            raise refuse("on_bad_image", "skip or error")
        if self.group is not None:
            try:
                re.compile(self.group)
            except re.error as error:
                raise InputError(
                    f"{called('group')} {self.group!r} is not a valid regular expression: {error}"
                ) from None
        if self.folds < 0 or self.folds == 1:
            raise refuse("folds", "2 or more, or 0 for none")
        if not 0 <= self.fold < max(self.folds, 1):
            several = f"0 to {self.folds - 1}"
            raise refuse("fold", several if self.folds else f"{called('folds')}, too")
        if self.folds and self.splits_file is not None:
            raise InputError(
                f"{called('splits_file')} leaves nothing to make {called('folds')} of: give one of them"
            )


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
    distance: int  # bits of 128 in which the looks differ: see `datasets.checks.leaks`


class Labeled:
    """Named samples with labels: what splits of any kind of data have in common."""

    def __init__(
        self,
        ids: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        *,
        digests: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        """Samples named `ids`, of classes `labels`. For the manifest: the sha256 (hex) of each content, and the
        group of each, "" for none."""
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
    """One split of a data set of images, read by position.

    `split[i]` is `(image, label)`: uint8 [H, W, 3] in the image's own size, and the class's position in
    `Dataset.class_names`. Safe to read from several threads. An image that has vanished or changed so that
    it cannot be read raises InputError with its id.
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
        """Either `load(i)` gives image i, anew or shared, or `read(i)` the content of its file; the rest as for
        `Labeled`."""
        super().__init__(ids, labels, digests=digests, groups=groups)
        if (load is None) == (read is None):
            raise ValueError("give either load or read")
        self._load = load
        self._read = read

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"position {index} in a split of {len(self)}")
        index = int(index) % len(self)
        return self._checked(index, self._decoded), int(self.labels[index])

    def _decoded(self, index: int) -> np.ndarray:
        from datasets.images.decode import decode

        if self._read:
            return decode(self._read(index))
        assert self._load
        return self._load(index)

    def resized(self, index: int, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
        """Image `index` at the size of a rule: uint8 [H, W, 3]; a file is decoded in the quickest way to it."""
        from datasets.images.resize import decode_resized, resize

        def load(index: int) -> np.ndarray:
            if self._read:
                return decode_resized(self._read(index), rule, decoder)
            return resize(self._decoded(index), rule)

        return self._checked(index, load)

    def content(self, index: int) -> bytes | None:
        """The content of image `index`'s file, not decoded; None where images do not come from files."""
        return self._checked(index, self._read) if self._read else None

    def _checked(self, index: int, load: Callable[[int], T]) -> T:
        try:
            return load(index)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.ids[index]} cannot be read any more ({error}): restore it, then run again"
            ) from error

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[i] for i in range(len(self)))


class VectorSplit(Labeled):
    """One split of a data set whose samples are vectors, such as a net's features: `datasets.pipeline.Samples`."""

    def __init__(self, split: Labeled, values: np.ndarray) -> None:
        """`values`, float32 [N, ...], in place of the images of a split."""
        super().__init__(split.ids, split.labels, digests=split.digests, groups=split.groups)
        if len(values) != len(split):
            raise ValueError(f"{len(values)} vectors for {len(split)} examples")
        self.values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one vector."""
        return self.values.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.values.dtype

    def load(self, indices: np.ndarray) -> np.ndarray:
        """Some of the vectors, [len(indices), ...]."""
        return self.values[indices]

    def arrays(self) -> np.ndarray:
        """All vectors, [N, ...], not copied."""
        return self.values


S = TypeVar("S", bound=Labeled)


@dataclasses.dataclass
class Dataset(Generic[S]):
    """Samples with labels, in three splits that share none: `Dataset[Split]` of images, `Dataset[VectorSplit]`."""

    name: str
    splits: Mapping[str, S]  # exactly "train", "validation", "test"
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
    edition: Edition = ""  # how the images differ from the published ones

    def __post_init__(self) -> None:
        if tuple(self.splits) != SPLITS:
            raise ValueError(f"splits are {list(self.splits)} instead of {list(SPLITS)}")

    def manifest(self) -> dict[str, Any]:
        """Which example is in which part, and where all come from, as JSON-able data.

        `splits` maps each part to `{id: label}`, in the order of the part; `sha256` the ids to the hashes
        of their contents, `groups` those that are in a group to it. See `datasets.manifest`.
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
    """Name data by their content: sha256 (hex) over `(id, class name, sha256 of the content)` of every
    example of every part, in the order of the ids."""
    digest = hashlib.sha256()
    for example in sorted(examples):
        digest.update("\0".join(example).encode() + b"\n")
    return digest.hexdigest()
