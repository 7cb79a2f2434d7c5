"""Data sets made of others: fewer examples of each class, or noise on some of the images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from datasets.dataset import Dataset, Split
from datasets.images.resize import Decoder
from zoo.common.resize import ResizeRule


class Chosen(Split):
    """Some examples of another split, in the order of their positions there."""

    def __init__(self, split: Split, positions: Sequence[int]) -> None:
        self._split = split
        self._positions = [int(p) for p in positions]

        def of(values: Sequence[str]) -> list[str]:
            return [values[p] for p in self._positions]

        super().__init__(
            of(split.ids),
            split.labels[self._positions],
            lambda index: split[self._positions[index]][0],
            digests=of(split.digests),
            groups=of(split.groups),
        )

    def resized(self, index: int, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
        """As of the other split."""
        return self._split.resized(self._positions[index], rule, decoder)

    def content(self, index: int) -> bytes | None:
        """As of the other split."""
        return self._split.content(self._positions[index])


class Noisy(Split):
    """Another split with Gaussian noise on a share of its images, chosen and drawn once by the seed."""

    def __init__(self, split: Split, share: float, sigma: float, seed: int) -> None:
        self._split = split
        self._sigma = sigma
        self._seed = seed
        order = np.random.default_rng([seed, len(split)]).permutation(len(split))
        self.noisy = frozenset(order[: round(share * len(split))].tolist())
        super().__init__(
            split.ids,
            split.labels,
            lambda index: self._changed(index, split[index][0]),
            digests=split.digests,
            groups=split.groups,
        )

    def resized(self, index: int, rule: ResizeRule, decoder: Decoder = "exact") -> np.ndarray:
        """The noise comes after the resizing, which would average it away: its strength is in the pixels that
        the net sees."""
        return self._changed(index, self._split.resized(index, rule, decoder))

    def _changed(self, index: int, image: np.ndarray) -> np.ndarray:
        if index not in self.noisy:
            return image
        noise = np.random.default_rng([self._seed, index]).normal(0, self._sigma, image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def limit_per_class(dataset: Dataset[Split], count: int, seed: int) -> Dataset[Split]:
    """The data set with at most `count` training images of each class, a seeded choice."""
    train = dataset.splits["train"]
    order = np.random.default_rng([seed, count]).permutation(len(train))
    kept: list[int] = []
    for label in range(len(dataset.class_names)):
        kept += order[train.labels[order] == label][:count].tolist()
    chosen = Chosen(train, sorted(kept))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": chosen})


def add_noise(dataset: Dataset[Split], share: float, sigma: float, seed: int) -> Dataset[Split]:
    """The data set with Gaussian noise of standard deviation `sigma` (grey levels) on a share of the images of
    every part."""
    # Parts differ in the noise that their first image gets, and in which images get any.
    noisy = {
        name: Noisy(split, share, sigma, 3 * seed + part)
        for part, (name, split) in enumerate(dataset.splits.items())
    }
    return dataclasses.replace(dataset, splits=noisy)
