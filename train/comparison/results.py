"""Scores of candidates, pairwise tests, and the images that only one candidate gets right."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from train.analysis import statistics
from train.analysis.statistics import Difference, Interval, Metric
from train.comparison.sources import Candidate, Pooled, match
from train.errors import InputError


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of a candidate."""

    value: float  # over the images of all folds together; mean over seeds
    sd: float | None  # over runs: folds and seeds
    interval: Interval | None  # of the value, over images or groups


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two candidates tested on the same images."""

    first: int
    second: int
    differences: tuple[Difference, ...]  # the first is the main test, adjusted for multiple pairs
    # Indices into the images of `first`: right in most runs of one candidate and wrong in most of the other.
    only_first: np.ndarray
    only_second: np.ndarray
    both_right: int
    both_wrong: int


def score(pooled: Pooled, metric: Metric) -> Score:
    """Compute a score, its standard deviation over the runs, and its interval over the images."""
    labels, classes = pooled.images.labels, len(pooled.images.class_names)
    _, sd = statistics.mean_and_sd(by_fold(pooled, metric).ravel().tolist())
    return Score(
        statistics.score(labels, pooled.predicted, metric, classes),
        sd,
        statistics.score_interval(labels, pooled.predicted, metric, pooled.groups, classes),
    )


def by_fold(pooled: Pooled, metric: Metric) -> np.ndarray:
    """Compute a score for each seed and fold, [R, folds]."""
    labels, classes = pooled.images.labels, len(pooled.images.class_names)
    folds = [pooled.folds == fold for fold in range(pooled.num_folds)]
    return np.array(
        [
            [statistics.score(labels[own], predicted[own], metric, classes) for own in folds]
            for predicted in pooled.predicted
        ]
    )


def compare(candidates: Sequence[Candidate], metric: Metric) -> list[Pair]:
    """Test each pair of candidates, with p-values adjusted by Holm's method.

    Raises InputError if two candidates have different test images or folds.
    """
    pairs = [
        compare_pair(candidates, i, j, metric)
        for i, j in itertools.combinations(range(len(candidates)), 2)
    ]
    adjusted = statistics.with_holm([pair.differences[0] for pair in pairs])
    return [
        dataclasses.replace(pair, differences=(main, *pair.differences[1:]))
        for pair, main in zip(pairs, adjusted, strict=True)
    ]


def compare_pair(candidates: Sequence[Candidate], i: int, j: int, metric: Metric) -> Pair:
    """Test one pair of candidates; see `compare`. Its p-values are not adjusted."""
    first, second = candidates[i].pooled, candidates[j].pooled
    names = candidates[i].name, candidates[j].name
    order = match(first.images, second.images, *names)
    groups = first.groups or [second.images.groups[index] for index in order]
    # In the order of the first candidate's images.
    second = dataclasses.replace(
        second,
        images=first.images,
        predicted=second.predicted[:, order],
        folds=second.folds[order],
    )
    if first.num_folds > 1 or second.num_folds > 1:
        if not _same_partition(first.folds, second.folds):
            raise InputError(
                f"{names[0]} and {names[1]} have different folds of the same images: compare runs with the same folds,"
                " or use --no-tests"
            )
        second = dataclasses.replace(second, folds=first.folds)
        one, other = (by_fold(p, metric).mean(axis=0).tolist() for p in (first, second))
        differences = [statistics.compare_folds(one, other, first.test_share)]
    else:
        labels, classes = first.images.labels, len(first.images.class_names)
        differences = [
            statistics.compare_predictions(
                labels, first.predicted, second.predicted, metric, groups, classes
            )
        ]
        seeds = [seed for seed in first.seeds if seed in second.seeds]
        if len(seeds) > 1:
            scores = [
                by_fold(pooled, metric)[[pooled.seeds.index(seed) for seed in seeds], 0].tolist()
                for pooled in (first, second)
            ]
            differences.append(statistics.compare_seeds(*scores))
    right = [np.mean(p.predicted == first.images.labels, axis=0) > 0.5 for p in (first, second)]
    return Pair(
        i,
        j,
        tuple(differences),
        np.flatnonzero(right[0] & ~right[1]),
        np.flatnonzero(right[1] & ~right[0]),
        int(np.sum(right[0] & right[1])),
        int(np.sum(~right[0] & ~right[1])),
    )


def _same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    pairs = len(set(zip(first.tolist(), second.tolist(), strict=True)))
    return pairs == len(set(first.tolist())) == len(set(second.tolist()))
