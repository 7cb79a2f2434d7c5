"""Mean scores over several runs and their 95% intervals. Imports only the standard library, and SciPy on first use."""

import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95

Interval = tuple[float, float]


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the sample standard deviation, each None if there are too few values."""
    if not len(values):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def mean_interval(values: Sequence[float], test_share: float | None = None) -> Interval | None:
    """Return Student's t interval of the mean over runs; None for fewer than two values.

    `test_share` is for scores from cross-validation or random splits: n_test/n_train of a run, 1/(K-1) for K folds.
    Images used to select the epoch or the setting count as training images. The training sets of folds overlap, so
    their scores are correlated, and the variance of the mean is s²(1/n + n_test/n_train) instead of s²/n (Nadeau and
    Bengio 2003, "Inference for the Generalization Error").
    """
    mean, sd = mean_and_sd(values)
    if mean is None or sd is None:
        return None
    return t_interval(mean, sd * math.sqrt(1 / len(values) + (test_share or 0.0)), len(values) - 1)


def t_interval(mean: float, error: float, degrees: float) -> Interval:
    """Return the interval of a mean, given its standard error and degrees of freedom."""
    from scipy import stats  # takes half a second

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    return mean - half, mean + half


def welch_interval(mean: float, *samples: tuple[float, int]) -> Interval:
    """Return Welch's interval for a difference of means, given (standard deviation, size) of each sample."""
    parts = [sd**2 / n for sd, n in samples]
    total = sum(parts)
    if total == 0:
        return mean, mean
    degrees = total**2 / sum(p**2 / (n - 1) for p, (_, n) in zip(parts, samples, strict=True))
    return t_interval(mean, math.sqrt(total), degrees)
