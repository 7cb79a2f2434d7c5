"""Simulated test sets from known distributions, for `benchmarks.coverage`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from train import cli
from train.analysis import statistics

ACCURACY = 0.9
CLASSES = 4  # equally many images each
SIZES = (100, 500)
GROUP = 5  # images
# Correlation between two images of a group: 500 images are worth 500 / (1 + 4 * 0.3) independent ones.
CORRELATION = 0.3
FOLDS = 5
BOUNDS = (0.925, 0.975)  # of an acceptable coverage


@dataclasses.dataclass(frozen=True)
class Case:
    """An interval or a test, and a distribution of test sets."""

    name: str
    text: str
    images: int
    run: Callable[[np.random.Generator, int], np.ndarray]  # (rng, repeats) -> bool [repeats]
    # "coverage": how often the interval contains the true value. "false alarms": how often the test rejects.
    measures: str = "coverage"


def measure(case: Case, repeats: int, seed: int) -> float:
    """Return the fraction of test sets with a covering interval, or for a test with a rejection."""
    return float(np.mean(case.run(np.random.default_rng(seed), repeats)))


def cases() -> list[Case]:
    """List all cases."""
    return [
        Case(name, text, images, functools.partial(run, images), measures)
        for name, text, run, measures in (
            ("Wilson", "accuracy of independent images", wilson, "coverage"),
            ("bootstrap of images", "macro-F1 of independent images", macro_f1, "coverage"),
            ("bootstrap of groups", "accuracy of images in groups of 5", groups, "coverage"),
            ("Bonett-Price", "difference of two accuracies", difference, "coverage"),
            ("paired bootstrap", "difference of two macro-F1", f1_difference, "coverage"),
            ("McNemar", "two runs of equal accuracy", mcnemar, "false alarms"),
        )
        for images in SIZES
    ]


def contains(interval: tuple[Any, Any] | None, value: float) -> Any:
    """Whether an interval contains a value. A missing interval does not."""
    if interval is None:
        return False
    low, high = interval
    return (low <= value) & (value <= high)


def wilson(images: int, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """Accuracy of independent images."""
    correct = rng.binomial(images, ACCURACY, repeats)
    return contains(statistics.wilson_interval(correct, np.full(repeats, images)), ACCURACY)


def predictions(rng: np.random.Generator, labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Predict the true class where `right`, and a random other class elsewhere."""
    other = (labels + rng.integers(1, CLASSES, labels.shape)) % CLASSES
    return np.where(right, labels, other)


def each(repeats: int, once: Callable[[], Any]) -> np.ndarray:
    """Repeat a case, showing progress."""
    progress = cli.Progress()
    found = [once() for _ in progress.follow(range(repeats), "test sets", repeats)]
    return np.array(found, bool)


def macro_f1(images: int, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """Macro-F1 of independent images. Errors are symmetric between classes, so its true value is the accuracy."""

    def once() -> bool:
        labels = rng.integers(0, CLASSES, images)
        predicted = predictions(rng, labels, rng.random(images) < ACCURACY)
        interval = statistics.score_interval(labels, predicted, "f1", num_classes=CLASSES)
        return contains(interval, ACCURACY)

    return each(repeats, once)


def groups(images: int, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """Accuracy of images in groups; the accuracy of each group is drawn from a beta distribution."""
    names = np.repeat(np.arange(images // GROUP), GROUP)
    total = 1 / CORRELATION - 1  # of the beta distribution's parameters

    def once() -> bool:
        own = rng.beta(ACCURACY * total, (1 - ACCURACY) * total, images // GROUP)
        labels = rng.integers(0, CLASSES, images)
        predicted = predictions(rng, labels, rng.random(images) < own[names])
        return contains(statistics.score_interval(labels, predicted, "accuracy", names), ACCURACY)

    return each(repeats, once)


def pair(
    images: int, rng: np.random.Generator, first: float, second: float
) -> tuple[np.ndarray, ...]:
    """Draw labels and the predictions of two runs with these accuracies. Half of the images are hard for both."""
    labels = rng.integers(0, CLASSES, images)
    shared, own = rng.random(images), rng.random((2, images))
    draws = np.where(rng.random(images) < 0.5, shared, own)
    return labels, *(
        predictions(rng, labels, draw < p) for draw, p in zip(draws, (first, second), strict=True)
    )


def difference(images: int, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """Difference between the accuracies of two runs, 0.9 and 0.86."""

    def once() -> bool:
        labels, first, second = pair(images, rng, ACCURACY, ACCURACY - 0.04)
        found = statistics.compare_predictions(labels, first, second)
        return contains(found.interval, 0.04)

    return each(repeats, once)


def f1_difference(images: int, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """Difference between the macro-F1 of two runs, 0.9 and 0.86."""

    def once() -> bool:
        labels, first, second = pair(images, rng, ACCURACY, ACCURACY - 0.04)
        interval = statistics.difference_interval(labels, first, second, "f1")
        return contains(interval, 0.04)

    return each(repeats, once)


def mcnemar(images: int, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """False positives of the test between two runs of equal accuracy."""

    def once() -> bool:
        labels, first, second = pair(images, rng, ACCURACY, ACCURACY)
        return statistics.compare_predictions(labels, first, second).is_decided

    return each(repeats, once)
