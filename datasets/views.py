"""Derived data sets: fewer training images per class, noise on some images, or several splits merged."""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from datasets.dataset import Dataset, Labeled, Split, VectorSplit
from datasets.formats.examples import check_classes
from datasets.images.resize import Decoder
from zoo.common.resize import ResizeRule


class Subset(Split):
    """The examples of another split at the given indices."""

    def __init__(self, split: Split, indices: Sequence[int]) -> None:
        self._split = split
        self._indices = [int(i) for i in indices]

        def select(values: Sequence[str]) -> list[str]:
            return [values[i] for i in self._indices]

        super().__init__(
            select(split.ids),
            split.labels[self._indices],
            lambda index: split[self._indices[index]][0],
            digests=select(split.digests),
            groups=select(split.groups),
        )

    def resized(self, index: int, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
        """Return image `index` resized, as `Split.resized` does."""
        return self._split.resized(self._indices[index], rule, decoder)

    def content(self, index: int) -> bytes | None:
        """Return the bytes of image `index`'s file, as `Split.content` does."""
        return self._split.content(self._indices[index])


class Noisy(Split):
    """Another split with Gaussian noise on a fraction of its images. The seed determines both selection and noise."""

    def __init__(self, split: Split, share: float, sigma: float, seed: int) -> None:
        self._split = split
        self._sigma = sigma
        self._seed = seed
        order = np.random.default_rng([seed, len(split)]).permutation(len(split))
        self.noisy = frozenset(order[: round(share * len(split))].tolist())
        super().__init__(
            split.ids,
            split.labels,
            lambda index: self._with_noise(index, split[index][0]),
            digests=split.digests,
            groups=split.groups,
        )

    def resized(self, index: int, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
        """Resize first, then add noise: resizing would average out the noise, and sigma refers to the model's input."""
        return self._with_noise(index, self._split.resized(index, rule, decoder))

    def _with_noise(self, index: int, image: np.ndarray) -> np.ndarray:
        if index not in self.noisy:
            return image
        noise = np.random.default_rng([self._seed, index]).normal(0, self._sigma, image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


class Joined(Split):
    """The examples of several splits, one after the other."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = list(splits)
        self._starts = np.cumsum([0, *(len(split) for split in splits)])
        merged = _merged(splits)
        super().__init__(
            merged.ids,
            merged.labels,
            lambda index: self._locate(index)[0][self._locate(index)[1]][0],
            digests=merged.digests,
            groups=merged.groups,
        )

    def _locate(self, index: int) -> tuple[Split, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._splits[number], index - int(self._starts[number])

    def resized(self, index: int, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
        """Return image `index` resized, as `Split.resized` does."""
        split, own = self._locate(index)
        return split.resized(own, rule, decoder)

    def content(self, index: int) -> bytes | None:
        """Return the bytes of image `index`'s file, as `Split.content` does."""
        split, own = self._locate(index)
        return split.content(own)


def joined(splits: Sequence[Labeled]) -> Labeled:
    """Join splits, all of images or all of vectors, into one."""
    vectors = [split.values for split in splits if isinstance(split, VectorSplit)]
    if vectors:
        return VectorSplit(_merged(splits), np.concatenate(vectors))
    return Joined([split for split in splits if isinstance(split, Split)])


def _merged(splits: Sequence[Labeled]) -> Labeled:
    return Labeled(
        [name for split in splits for name in split.ids],
        np.concatenate([split.labels for split in splits]),
        digests=[digest for split in splits for digest in split.digests],
        groups=[group for split in splits for group in split.groups],
    )


def with_classes(dataset: Dataset[Split], classes: tuple[str, ...]) -> Dataset[Split]:
    """Give a data set the classes of a model, in the model's order. Raises InputError if it has any others."""
    check_classes(dataset.name, dataset.class_names, classes)
    new_labels = np.array([classes.index(name) for name in dataset.class_names], np.int32)
    splits = {}
    for name, split in dataset.splits.items():
        splits[name] = copy.copy(split)
        splits[name].labels = new_labels[split.labels]
    return dataclasses.replace(dataset, splits=splits, class_names=classes)


def limit_per_class(dataset: Dataset[Split], count: int, seed: int) -> Dataset[Split]:
    """Limit a data set to `count` training images per class, chosen at random by the seed."""
    train = dataset.splits["train"]
    order = np.random.default_rng([seed, count]).permutation(len(train))
    kept: list[int] = []
    for label in range(len(dataset.class_names)):
        kept += order[train.labels[order] == label][:count].tolist()
    subset = Subset(train, sorted(kept))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": subset})


def add_noise(dataset: Dataset[Split], share: float, sigma: float, seed: int) -> Dataset[Split]:
    """Add Gaussian noise of standard deviation `sigma` (gray levels) to a fraction `share` of the images of every
    split."""
    # One seed per split, so that splits differ in the noise and in which images are noisy.
    noisy = {
        name: Noisy(split, share, sigma, 3 * seed + number)
        for number, (name, split) in enumerate(dataset.splits.items())
    }
    return dataclasses.replace(dataset, splits=noisy)
