"""Intervals and tests compared with published values, SciPy, scikit-learn and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from train.analysis import means, statistics
from train.analysis.statistics import Difference


def images(total, classes=4, accuracy=0.9, seed=0):
    """Labels and predictions with a given accuracy."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, total)
    wrong = (labels + rng.integers(1, classes, total)) % classes
    return labels, np.where(rng.random(total) < accuracy, labels, wrong)


# Seeds and folds.


def test_mean_interval_is_that_of_the_t_test():
    values = [0.9, 0.93, 0.91, 0.95]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert statistics.mean_interval(values) == pytest.approx(tuple(expected))
    assert statistics.mean_interval([0.9]) is None
    assert statistics.mean_and_sd([]) == (None, None)


def test_welch_interval_is_that_of_the_t_test():
    first, second = [0.9, 0.93, 0.91], [0.8, 0.88, 0.81, 0.9, 0.79]
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    samples = [(np.std(v, ddof=1), len(v)) for v in (first, second)]
    mean = np.mean(first) - np.mean(second)
    assert means.welch_interval(mean, *samples) == pytest.approx(tuple(expected))


def test_overlapping_training_sets_widen_the_interval():
    """With K folds, the variance is s²(1/K + 1/(K-1)): 1 + 5/4 times as large for five folds."""
    values = [0.9, 0.93, 0.91, 0.95, 0.92]
    plain, corrected = (np.ptp(statistics.mean_interval(values, s)) for s in (None, 1 / 4))
    assert corrected / plain == pytest.approx(math.sqrt(1 + 5 / 4))


def test_folds_by_hand():
    """Differences 2, 1, 3 points: mean 2, s = 1, t = 2 / sqrt(1/3 + 1/2) with 2 degrees of freedom."""
    found = statistics.compare_folds([0.92, 0.91, 0.93], [0.9, 0.9, 0.9], 1 / 2)
    t = 2 / math.sqrt(1 / 3 + 1 / 2)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # of Student's t with 2 degrees
    half = 4.302653 * 0.01 * math.sqrt(1 / 3 + 1 / 2)
    assert found.interval == pytest.approx((0.02 - half, 0.02 + half))
    assert (found.value, found.n, found.unit) == (pytest.approx(0.02), 3, "folds")


def test_the_correction_keeps_equal_settings_apart_less_often():
    """Scores of overlapping training sets are correlated; the plain t-test would decide far too often."""
    rng = np.random.default_rng(0)
    folds, share = 5, 1 / 4
    # Correlation of two folds by Nadeau and Bengio: test images by all images.
    correlation = share / (1 + share)
    shared = rng.normal(size=(600, 1)) * math.sqrt(correlation)
    values = shared + rng.normal(size=(600, folds)) * math.sqrt(1 - correlation)
    rates = [
        np.mean([f(v, np.zeros(folds)).is_decided for v in values])
        for f in (lambda a, b: statistics.compare_folds(a, b, share), statistics.compare_seeds)
    ]
    assert 0.03 < rates[0] < 0.07
    assert rates[1] > 0.12


@pytest.mark.parametrize(
    ("first", "second", "test"),
    [
        ([0.9, 0.8], [0.9, 0.8], "paired t-test, undefined for equal differences"),
        # As of one image more in each of two runs. 0.9 - 0.8 and 0.8 - 0.7 differ by rounding.
        ([0.9, 0.8], [0.8, 0.7], "paired t-test, undefined for equal differences"),
        ([0.9], [0.8], "paired t-test"),
    ],
)
def test_without_variation_nothing_is_decided(first, second, test):
    found = statistics.compare_seeds(first, second)
    assert (found.p, found.interval, found.is_decided, found.test) == (None, None, False, test)
    assert found.value == pytest.approx(first[0] - second[0])


# Images.


def test_wilson_interval_has_its_closed_form():
    """Wilson 1927; 90 of 100."""
    z, p, n = stats.norm.ppf(0.975), 0.9, 100
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert statistics.wilson_interval(90, 100) == pytest.approx((center - half, center + half))
    labels = np.zeros(100, int)
    predicted = np.r_[np.zeros(90, int), np.full(10, -1)]  # no class is wrong
    assert statistics.score_interval(labels, predicted) == pytest.approx(
        (center - half, center + half)
    )
    # Two seeds, right for 92 and 88 images, are worth one with 90.
    two = np.stack([np.where(np.arange(100) < k, 0, 1) for k in (92, 88)])
    assert statistics.score_interval(labels, two) == pytest.approx((center - half, center + half))


def test_wilson_interval_without_errors_and_with_nothing_else():
    """The other bound is n / (n + z²) or z² / (n + z²)."""
    square = stats.norm.ppf(0.975) ** 2
    low, high = statistics.wilson_interval(20, 20)
    assert (low, high) == (pytest.approx(20 / (20 + square)), 1.0)
    low, high = statistics.wilson_interval(0, 20)
    assert (low, high) == (0.0, pytest.approx(square / (20 + square)))
    assert f"{low}" == "0.0"  # not -0.0


@pytest.mark.parametrize("images_", [100, 500])
def test_coverage_of_wilson_intervals(images_):
    """benchmarks/results/coverage.json has the other intervals."""
    correct = np.random.default_rng(0).binomial(images_, 0.9, 10_000)
    low, high = statistics.wilson_interval(correct, np.full(10_000, images_))
    assert 0.925 < np.mean((low <= 0.9) & (high >= 0.9)) < 0.975


SCORES = {
    "accuracy": lambda y, p, c: sklearn_metrics.accuracy_score(y, p),
    **{
        name: lambda y, p, c, f=f"{name}_score": getattr(sklearn_metrics, f)(
            y, p, labels=range(c), average="macro", zero_division=0
        )
        for name in ("precision", "recall", "f1")
    },
}


@pytest.mark.parametrize("metric", SCORES)
@pytest.mark.parametrize("classes", [3, 9])
def test_scores_are_those_of_scikit_learn(metric, classes):
    """Also where classes have no images, or are never predicted."""
    rng = np.random.default_rng(classes)
    labels, predicted = rng.integers(0, classes - 1, 12), rng.integers(-1, classes, 12)
    found = statistics.score(labels, predicted, metric, classes)
    assert found == pytest.approx(SCORES[metric](labels, predicted, classes))


@pytest.mark.parametrize(
    ("metric", "group"), [("f1", 1), ("precision", 1), ("accuracy", 4), ("f1", 4)]
)
def test_bootstrap_is_that_of_scipy(metric, group, monkeypatch):
    """With the same random numbers, replicates are scikit-learn's score on resampled images, or on all of resampled
    groups."""
    monkeypatch.setattr(statistics, "RESAMPLES", 150)
    units = 40 if group == 1 else 15
    labels, predicted = images(units * group)
    # Image i belongs to group i % units.
    members = np.arange(units * group).reshape(group, units).T

    def naive(index):
        chosen = members[index].ravel()
        return SCORES[metric](labels[chosen], predicted[chosen], 4)

    expected = stats.bootstrap(
        (np.arange(units),),
        naive,
        confidence_level=statistics.expanded_confidence(units),
        n_resamples=150,
        vectorized=False,
        rng=np.random.default_rng(statistics.SEED),
    ).confidence_interval
    groups = None if group == 1 else [f"pig {i % units}" for i in range(units * group)]
    found = statistics.score_interval(labels, predicted, metric, groups, num_classes=4)
    assert found == pytest.approx(tuple(expected))


def test_few_units_are_read_at_a_higher_confidence():
    """Percentiles z' s / sqrt(n), of the standard deviation over n, are then Student's t s / sqrt(n) over n - 1."""
    z = stats.norm.ppf((1 + statistics.expanded_confidence(10)) / 2)
    assert z * math.sqrt(9 / 10) == pytest.approx(stats.t.ppf(0.975, 9))
    assert statistics.expanded_confidence(20) == pytest.approx(0.968, abs=5e-4)
    assert statistics.expanded_confidence(100_000) == pytest.approx(0.95, abs=1e-4)


def test_classes_that_a_replicate_misses_do_not_lower_it():
    """With one image per class, a replicate lacks a third of the classes; scored as 0, they would exclude 0.9."""
    labels = np.arange(200)
    predicted = np.where(labels % 10 == 0, 200, labels)
    low, high = statistics.score_interval(labels, predicted, "f1", num_classes=200)
    assert 0.83 < low < 0.9 < high < 0.95


def test_groups_widen_the_interval():
    """Ten images of a group that are right or wrong together are worth one."""
    right = np.random.default_rng(0).random(60) < 0.8
    groups = np.repeat([f"pig {i}" for i in range(60)], 10)
    labels, predicted = np.zeros(600, int), np.repeat(np.where(right, 0, 1), 10)
    widths = {}
    for metric in ("accuracy", "f1"):
        alone, grouped = (
            statistics.score_interval(labels, predicted, metric, g, 2) for g in (None, groups)
        )
        assert grouped[0] < alone[0] < alone[1] < grouped[1]
        widths[metric] = np.ptp(grouped) / np.ptp(alone)
    assert widths["accuracy"] == pytest.approx(math.sqrt(10), rel=0.15)
    fields = statistics.interval_fields(labels, predicted, 2, groups)
    assert (fields["over"], fields["units"]) == ("groups", 60)
    # Images without a group are groups of one; none at all are images.
    assert statistics.interval_fields(labels, predicted, 2, [""] * 600)["over"] == "images"
    assert statistics.interval_fields(labels, predicted, 2, ["a", "a", *[""] * 598])["units"] == 599


def test_without_errors_there_is_an_interval_of_accuracy_only():
    labels = np.array([0, 1, 2] * 4)
    fields = statistics.interval_fields(labels, labels, 3)
    assert fields["accuracy"][0] == pytest.approx(statistics.wilson_interval(12, 12)[0])
    assert fields["f1"] is None
    groups = np.repeat(["a", "b", "c"], 4)
    low, _ = statistics.score_interval(labels, labels, "accuracy", groups)
    assert low == pytest.approx(statistics.wilson_interval(3, 3)[0])


def test_the_interval_of_ten_thousand_images_is_narrow():
    labels, predicted = images(10_000, classes=10)
    low, high = statistics.score_interval(labels, predicted, "f1")
    assert high - low < 0.02


# Two runs.


def test_mcnemar_is_the_binomial_test_of_the_images_that_differ():
    labels = np.zeros(100, int)
    first = np.r_[np.ones(4, int), np.zeros(96, int)]  # wrong for 4
    second = np.r_[np.zeros(4, int), np.ones(14, int), np.zeros(82, int)]  # for 14 others
    found = statistics.compare_predictions(labels, first, second)
    assert found.p == pytest.approx(stats.binomtest(4, 18).pvalue)
    assert (found.value, found.n, found.unit) == (pytest.approx(0.1), 100, "images")
    # Bonett and Price 2012: (15 + 1) / 102 and (4 + 1) / 102, less 1 in each.
    a, b = 15 / 102, 5 / 102
    half = stats.norm.ppf(0.975) * math.sqrt((a + b - (a - b) ** 2) / 102)
    assert found.interval == pytest.approx((a - b - half, a - b + half))
    other = statistics.compare_predictions(labels, second, first)
    assert (other.value, other.p) == (pytest.approx(-0.1), found.p)
    same = statistics.compare_predictions(labels, first, first)
    assert (same.value, same.p) == (0, 1)
    assert same.interval[0] < 0 < same.interval[1]


def test_randomization_tries_all_exchanges_of_few_images():
    """Nine images of which six differ: all 2**6 exchanges, compared with those of scikit-learn's score."""
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    first = np.array([0, 0, 1, 1, 1, 1, 2, 2, 2])
    second = np.array([0, 0, 0, 2, 0, 1, 2, 0, 1])
    differing = np.flatnonzero(first != second)

    def gap(exchanged):
        a, b = first.copy(), second.copy()
        a[exchanged], b[exchanged] = second[exchanged], first[exchanged]
        return SCORES["f1"](labels, a, 3) - SCORES["f1"](labels, b, 3)

    gaps = [
        gap(differing[np.array(chosen)])
        for chosen in itertools.product([False, True], repeat=len(differing))
    ]
    observed = gaps[0]
    expected = 2 * min(
        np.mean(np.array(gaps) >= observed - 1e-9), np.mean(np.array(gaps) <= observed + 1e-9)
    )
    found = statistics.compare_predictions(labels, first, second, "f1", num_classes=3)
    assert found.value == pytest.approx(observed)
    assert found.p == pytest.approx(min(expected, 1))


def test_randomization_of_single_images_agrees_with_mcnemar():
    """Two seeds with equal predictions are one run."""
    labels, first = images(300, accuracy=0.9)
    _, second = images(300, accuracy=0.84, seed=1)
    second = np.where(second == 0, (labels + 1) % 4, labels)
    exact = statistics.compare_predictions(labels, first, second)
    twice = statistics.compare_predictions(labels, np.stack([first, first]), second)
    assert twice.test != exact.test
    assert twice.p == pytest.approx(exact.p, abs=0.02)
    assert twice.interval == pytest.approx(exact.interval, abs=0.015)


def test_groups_make_a_difference_less_certain():
    labels = np.zeros(200, int)
    first = np.zeros(200, int)
    second = np.repeat([1, 1, 1, 1, *[0] * 16], 10)  # wrong for all images of four groups of ten
    groups = np.repeat(np.arange(20), 10)
    alone = statistics.compare_predictions(labels, first, second)
    grouped = statistics.compare_predictions(labels, first, second, groups=groups)
    assert alone.p < 1e-9 and alone.unit == "images"
    assert grouped.p == pytest.approx(2 / 2**4)
    assert (grouped.n, grouped.unit, grouped.is_decided) == (20, "groups", False)
    assert [grouped.value, alone.value] == pytest.approx([0.2, 0.2])


def test_holm_by_hand():
    """Sorted 0.01, 0.03, 0.04 times 3, 2, 1, each at least the one before."""
    assert statistics.holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.2]) == [0.2] and statistics.holm([]) == []
    found = statistics.with_holm(
        [Difference(0.1, None, p, 9, "images", "") for p in (0.03, None, 0.01)]
    )
    assert [d.p for d in found] == [pytest.approx(0.03), None, pytest.approx(0.02)]


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (
            Difference(0.014, (0.003, 0.026), 0.0104, 5, "folds", ""),
            "A is better than B by 1.4 points, 95% 0.3 to 2.6, p = 0.01, 5 folds",
        ),
        (
            Difference(-0.014, (-0.026, -0.003), 0.0000104, 500, "images", ""),
            "B is better than A by 1.4 points, 95% 0.3 to 2.6, p < 0.001, 500 images",
        ),
        (
            Difference(-0.004, (-0.012, 0.004), 0.3, 9, "groups", ""),
            "undecided: A minus B is -0.4 points, 95% -1.2 to 0.4, p = 0.3, 9 groups",
        ),
        (
            Difference(0.02, None, None, 1, "seeds", ""),
            "undecided: A minus B is 2.0 points, 1 seed",
        ),
        (
            Difference(-1e-17, (-0.01, -1e-17), 1.0, 9, "images", ""),  # not -0.0
            "undecided: A minus B is 0.0 points, 95% -1.0 to 0.0, p = 1, 9 images",
        ),
    ],
)
def test_sentences(difference, text):
    assert statistics.sentence("A", "B", difference) == text


def test_a_lower_loss_is_better():
    difference = Difference(-0.25, (-0.3, -0.2), 0.01, 3, "seeds", "")
    text = statistics.sentence("A", "B", difference, unit="nats")
    assert text == "A is better than B by 0.2500 nats, 95% 0.2000 to 0.3000, p = 0.01, 3 seeds"
