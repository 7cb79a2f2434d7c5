"""Mean scores of several runs and their 95% intervals. Imports only the standard library, and SciPy when it is used."""

import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95

Interval = tuple[float, float]


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation, each None if there are too few values."""
    if not len(values):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def mean_interval(values: Sequence[float], test_share: float | None = None) -> Interval | None:
    """Return the interval of the mean over runs by Student's t; None for fewer than two values.

    `test_share` is for values of cross-validation or of random splits: n_test/n_train of a run, 1/(K-1) for K folds.
    Images that choose the epoch or the setting count as training images. The training sets of folds overlap, so their
    scores are correlated, and the variance of the mean is s²(1/n + n_test/n_train) instead of s²/n (Nadeau and Bengio
    2003, "Inference for the Generalization Error").
    """
    mean, sd = mean_and_sd(values)
    if mean is None or sd is None:
        return None
    return t_interval(mean, sd * math.sqrt(1 / len(values) + (test_share or 0.0)), len(values) - 1)


def t_interval(mean: float, error: float, degrees: float) -> Interval:
    """Return the interval of a mean with this standard error and these degrees of freedom."""
    from scipy import stats  # half a second

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    return mean - half, mean + half


def welch_interval(mean: float, *samples: tuple[float, int]) -> Interval:
    """Return the interval of a difference of means, given standard deviation and size of each sample."""
    parts = [sd**2 / n for sd, n in samples]
    total = sum(parts)
    if total == 0:
        return mean, mean
    degrees = total**2 / sum(p**2 / (n - 1) for p, (_, n) in zip(parts, samples, strict=True))
    return t_interval(mean, math.sqrt(total), degrees)
