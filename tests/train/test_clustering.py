"""Clusters against labels: values by hand, names of clusters that must not matter, and collapse."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from train.analysis.clustering import (
    clustering_accuracy,
    clustering_metrics,
    collapse_warning,
    effective_clusters,
    fit_gmm,
    fit_kmeans,
    match_clusters,
    occupancy,
)
from train.recipe import InputError

# Class 0 lies in clusters 2 and 1, class 1 in cluster 0, class 2 in cluster 1; one example of each is astray.
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
CLUSTERS = np.array([2, 2, 1, 0, 0, 2, 1, 1])


def test_matching_by_hand():
    assert match_clusters(LABELS, CLUSTERS, 3, 3).tolist() == [1, 2, 0]
    assert clustering_accuracy(LABELS, CLUSTERS) == 6 / 8


def test_matching_is_the_best_of_all_and_not_greedy():
    # Cluster 0 holds 5 of class 0 and 4 of class 1, cluster 1 holds 4 of class 0: taking the 5 first gets 5
    # right, the best matching 8.
    labels = np.repeat([0, 1, 0], [5, 4, 4])
    clusters = np.repeat([0, 0, 1], [5, 4, 4])
    assert match_clusters(labels, clusters, 2, 2).tolist() == [1, 0]
    assert clustering_accuracy(labels, clusters) == 8 / 13


def test_more_clusters_than_classes():
    clusters = np.array([0, 0, 3, 1, 1, 1, 4, 4])
    scores = clustering_metrics(LABELS, clusters, ["a", "b", "c"], 5)
    assert scores["class_of_cluster"] == [0, 1, -1, -1, 2]
    assert scores["accuracy"] == 7 / 8
    assert scores["confusion_matrix"] == [[2, 0, 0], [0, 3, 0], [0, 0, 2]]
    assert scores["unmatched"] == [1, 0, 0]
    # The example without a class is missed by its own and burdens no other.
    assert scores["recall"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert scores["precision"] == 1
    assert scores["num_examples"] == 8
    assert scores["occupancy"] == [2 / 8, 3 / 8, 0, 1 / 8, 2 / 8]
    assert scores["collapsed"] is None  # four are in use, and three are needed


def test_fewer_clusters_than_classes():
    clusters = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    scores = clustering_metrics(LABELS, clusters, ["a", "b", "c"], 2)
    assert scores["class_of_cluster"] == [0, 1]
    assert scores["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 2}
    assert scores["confusion_matrix"] == [[3, 0, 0], [0, 3, 0], [0, 2, 0]]
    assert (scores["accuracy"], scores["unmatched"]) == (6 / 8, [0, 0, 0])
    assert scores["collapsed"] is None  # both are in use; more there are not


def test_scores_by_hand():
    scores = clustering_metrics(LABELS, CLUSTERS, ["a", "b", "c"], 3)
    assert scores["confusion_matrix"] == [[2, 0, 1], [1, 2, 0], [0, 0, 2]]
    assert scores["per_class"]["a"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    )
    # Of 28 pairs 7 are together in classes, 7 in clusters, 3 in both; 7 * 7 / 28 would be by chance.
    assert scores["ari"] == pytest.approx((3 - 49 / 28) / (7 - 49 / 28))
    of_groups = -(2 * 3 / 8 * np.log(3 / 8) + 2 / 8 * np.log(2 / 8))  # sizes are 3, 3, 2 in both
    joint = -(3 * 2 / 8 * np.log(2 / 8) + 2 * 1 / 8 * np.log(1 / 8))
    assert scores["nmi"] == pytest.approx((2 * of_groups - joint) / of_groups)
    assert scores["effective_clusters"] == pytest.approx(np.exp(of_groups))
    assert scores["loss"] is None
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_one_cluster():
    scores = clustering_metrics(LABELS, np.zeros(8, int), ["a", "b", "c"], 1)
    assert (scores["accuracy"], scores["nmi"], scores["ari"]) == (3 / 8, 0, 0)
    assert scores["effective_clusters"] == 1
    assert scores["collapsed"] is None  # one was asked for


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 6), st.integers(1, 40))
def test_names_of_clusters_do_not_matter(seed, num_classes, num_clusters, total):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, total)
    clusters = rng.integers(0, num_clusters, total)
    names = [f"c{i}" for i in range(num_classes)]
    ours = clustering_metrics(labels, clusters, names, num_clusters)
    other = clustering_metrics(labels, rng.permutation(num_clusters)[clusters], names, num_clusters)
    for name in ("accuracy", "nmi", "ari", "effective_clusters", "num_examples"):
        assert ours[name] == pytest.approx(other[name], abs=1e-12)
    assert sorted(ours["occupancy"]) == sorted(other["occupancy"])
    assert ours["collapsed"] == other["collapsed"]
    # Nobody is lost: the matrix's rows and what has no class are all examples of each class.
    rows = np.sum(ours["confusion_matrix"], axis=1) + ours["unmatched"]
    np.testing.assert_array_equal(rows, np.bincount(labels, minlength=num_classes))
    assert ours["accuracy"] == pytest.approx(np.trace(ours["confusion_matrix"]) / total)


def test_occupancy_and_effective_number():
    assert occupancy(np.array([0, 0, 2, 0]), 4).tolist() == [0.75, 0, 0.25, 0]
    assert effective_clusters(np.full(7, 1 / 7)) == pytest.approx(7)
    assert effective_clusters(np.array([1.0, 0, 0])) == 1
    assert effective_clusters(np.array([0.5, 0.25, 0.25])) == pytest.approx(2**1.5)


LONG_TAIL = 100 ** (-np.arange(10) / 9)  # the largest class has a hundred times the smallest


@pytest.mark.parametrize(
    ("sizes", "num_classes"),
    [
        ([1, 1, 1], 3),
        ([80, 10, 10], 3),
        ([85, 15], 2),
        (LONG_TAIL, 10),
        ([4863, 2623, 1446, 2112, 3098, 1668, 1866, 1820, 4821, 1862], 10),  # as Animals-10
        ([30, 30, 30, 10, 0, 0], 3),  # spare clusters may be empty
        ([50, 50], 7),
        ([1], 3),
    ],
)
def test_unequal_clusters_are_no_collapse(sizes, num_classes):
    shares = np.array(sizes) / np.sum(sizes)
    assert collapse_warning(shares, num_classes) is None


@pytest.mark.parametrize(
    ("sizes", "num_classes"),
    [
        ([1, 0, 0], 3),
        ([1000, 1, 1], 3),
        ([98, 1, 1], 3),
        ([50, 50, 0], 3),  # one is empty, the entropy alone would not tell
        ([99, 1], 2),
        ([88, 2, 2, 2, 2, 2, 2], 7),  # none is empty, the entropy tells
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 10),
    ],
)
def test_collapse_is_told_in_one_line(sizes, num_classes):
    shares = np.array(sizes) / np.sum(sizes)
    warning = collapse_warning(shares, num_classes)
    assert warning.startswith("clusters have collapsed") and "\n" not in warning


def test_warning_names_the_numbers():
    assert collapse_warning(np.array([1.0, 0, 0]), 3) == (
        "clusters have collapsed: 2 of 3 are empty or nearly so, and the examples fill 1.0 effective clusters"
        " where 3.0 are expected"
    )


def test_known_classes_set_the_measure():
    unequal = np.array([0.95, 0.03, 0.02])
    assert collapse_warning(unequal, 3) is not None
    assert collapse_warning(unequal, 3, class_shares=unequal) is None
    assert collapse_warning(np.array([0.994, 0.003, 0.003]), 3, class_shares=unequal) is not None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2000), min_size=2, max_size=8).filter(any))
@example([2000] * 7 + [1])
def test_perfect_clusters_never_alarm(sizes):
    """However unequal the classes, and with classes of which there is no or one example."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    scores = clustering_metrics(labels, labels, [f"c{i}" for i in range(len(sizes))], len(sizes))
    assert (scores["accuracy"], scores["collapsed"]) == (1, None)


@pytest.mark.parametrize("fit", [fit_kmeans, fit_gmm])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_separate_groups_are_found(fit, scale):
    labels, x = groups(scale)
    model = fit(x, 3, seed=0)
    assert clustering_accuracy(labels, model.predict(x)) == 1
    np.testing.assert_array_equal(model.predict(x), fit(x, 3, seed=0).predict(x))


def test_mixture_tells_unequal_widths_apart():
    """Two groups around one point: k-means cannot, a mixture can."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, (200, 8)), rng.normal(0, 5, (200, 8))])
    labels = np.repeat([0, 1], 200)
    assert clustering_accuracy(labels, fit_gmm(x, 2, seed=0).predict(x)) > 0.95
    assert clustering_accuracy(labels, fit_kmeans(x, 2, seed=0).predict(x)) < 0.8


def test_mixture_sees_correlations_where_examples_are_enough_for_it():
    """Two cigars that cross: along each axis they are alike."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    x = rng.normal(0, 5, (400, 1)) * np.where(labels[:, None] == 0, [1, 1], [1, -1])
    x += rng.normal(0, 0.1, (400, 2))
    mixture = fit_gmm(x, 2, seed=0)
    assert mixture.covariances_.shape == (2, 2, 2)
    assert clustering_accuracy(labels, mixture.predict(x)) > 0.9
    assert fit_gmm(x[:39], 2, seed=0).covariances_.shape == (2, 2)


def test_features_that_are_nearly_always_zero_do_not_decide():
    """Of float32, as a net gives them; the last hundred are zero but for a single example each."""
    labels, x = groups(1)
    x = np.concatenate([x, np.zeros((len(x), 100))], axis=1)
    x[np.arange(100) % len(x), 4 + np.arange(100)] = 1e-2
    model = fit_gmm(x.astype(np.float32), 3, seed=0)
    assert clustering_accuracy(labels, model.predict(x.astype(np.float32))) == 1
    # Variances have a floor, and it goes with the scale.
    assert model.covariances_.min() > 0.99e-3 * x.var(axis=0).mean()
    small = fit_gmm(1e-3 * x, 3, seed=0)
    np.testing.assert_allclose(small.covariances_, 1e-6 * model.covariances_, rtol=1e-3)


@pytest.mark.parametrize("fit", [fit_kmeans, fit_gmm])
def test_too_few_examples_are_named(fit):
    with pytest.raises(InputError, match="5 clusters need at least 5 examples, and there are 4"):
        fit(np.zeros((4, 2)), 5, seed=0)


def groups(scale):
    """Labels [60] and features [60, 4] of three groups far apart."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 20)
    return labels, scale * (10 * np.eye(3, 4)[labels] + rng.normal(size=(60, 4)))
