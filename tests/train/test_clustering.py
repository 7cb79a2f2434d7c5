"""Clustering scores: values computed by hand, invariance to cluster numbers, and collapse."""

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

# Class 0 is mostly in cluster 2, class 1 in cluster 0, class 2 in cluster 1; samples 2 and 5 are misplaced.
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
CLUSTERS = np.array([2, 2, 1, 0, 0, 2, 1, 1])


def test_match_clusters():
    assert match_clusters(LABELS, CLUSTERS, 3, 3).tolist() == [1, 2, 0]
    assert clustering_accuracy(LABELS, CLUSTERS) == 6 / 8


def test_matching_is_optimal_rather_than_greedy():
    # Cluster 0 holds 5 of class 0 and 4 of class 1, cluster 1 holds 4 of class 0. Greedy matching gets 5 right, the
    # optimal one 8.
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
    # The sample in an unmatched cluster lowers the recall of its class and the precision of none.
    assert scores["recall"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert scores["precision"] == 1
    assert scores["num_examples"] == 8
    assert scores["occupancy"] == [2 / 8, 3 / 8, 0, 1 / 8, 2 / 8]
    assert scores["collapsed"] is None  # four clusters are in use, three are required


def test_fewer_clusters_than_classes():
    clusters = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    scores = clustering_metrics(LABELS, clusters, ["a", "b", "c"], 2)
    assert scores["class_of_cluster"] == [0, 1]
    assert scores["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 2}
    assert scores["confusion_matrix"] == [[3, 0, 0], [0, 3, 0], [0, 2, 0]]
    assert (scores["accuracy"], scores["unmatched"]) == (6 / 8, [0, 0, 0])
    assert scores["collapsed"] is None  # both clusters are in use


def test_scores_by_hand():
    scores = clustering_metrics(LABELS, CLUSTERS, ["a", "b", "c"], 3)
    assert scores["confusion_matrix"] == [[2, 0, 1], [1, 2, 0], [0, 0, 2]]
    assert scores["per_class"]["a"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    )
    # Of 28 pairs, 7 share a class, 7 share a cluster, 3 share both; 7 * 7 / 28 are expected by chance.
    assert scores["ari"] == pytest.approx((3 - 49 / 28) / (7 - 49 / 28))
    # Entropy of classes and of clusters, both of sizes 3, 3, 2.
    entropy = -(2 * 3 / 8 * np.log(3 / 8) + 2 / 8 * np.log(2 / 8))
    joint_entropy = -(3 * 2 / 8 * np.log(2 / 8) + 2 * 1 / 8 * np.log(1 / 8))
    assert scores["nmi"] == pytest.approx((2 * entropy - joint_entropy) / entropy)
    assert scores["effective_clusters"] == pytest.approx(np.exp(entropy))
    assert scores["loss"] is None
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_one_cluster():
    scores = clustering_metrics(LABELS, np.zeros(8, int), ["a", "b", "c"], 1)
    assert (scores["accuracy"], scores["nmi"], scores["ari"]) == (3 / 8, 0, 0)
    assert scores["effective_clusters"] == 1
    assert scores["collapsed"] is None  # only one cluster was requested


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 6), st.integers(1, 40))
def test_scores_do_not_depend_on_cluster_numbers(seed, num_classes, num_clusters, total):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, total)
    clusters = rng.integers(0, num_clusters, total)
    names = [f"c{i}" for i in range(num_classes)]
    scores = clustering_metrics(labels, clusters, names, num_clusters)
    permuted = clustering_metrics(
        labels, rng.permutation(num_clusters)[clusters], names, num_clusters
    )
    for name in ("accuracy", "nmi", "ari", "effective_clusters", "num_examples"):
        assert scores[name] == pytest.approx(permuted[name], abs=1e-12)
    assert sorted(scores["occupancy"]) == sorted(permuted["occupancy"])
    assert scores["collapsed"] == permuted["collapsed"]
    # A row of the matrix and the unmatched samples add up to the class.
    rows = np.sum(scores["confusion_matrix"], axis=1) + scores["unmatched"]
    np.testing.assert_array_equal(rows, np.bincount(labels, minlength=num_classes))
    assert scores["accuracy"] == pytest.approx(np.trace(scores["confusion_matrix"]) / total)


def test_occupancy_and_effective_clusters():
    assert occupancy(np.array([0, 0, 2, 0]), 4).tolist() == [0.75, 0, 0.25, 0]
    assert effective_clusters(np.full(7, 1 / 7)) == pytest.approx(7)
    assert effective_clusters(np.array([1.0, 0, 0])) == 1
    assert effective_clusters(np.array([0.5, 0.25, 0.25])) == pytest.approx(2**1.5)


LONG_TAIL = 100 ** (-np.arange(10) / 9)  # the largest class is 100 times the smallest


@pytest.mark.parametrize(
    ("sizes", "num_classes"),
    [
        ([1, 1, 1], 3),
        ([80, 10, 10], 3),
        ([85, 15], 2),
        (LONG_TAIL, 10),
        ([4863, 2623, 1446, 2112, 3098, 1668, 1866, 1820, 4821, 1862], 10),  # Animals-10
        ([30, 30, 30, 10, 0, 0], 3),  # more clusters than classes: some may be empty
        ([50, 50], 7),
        ([1], 3),
    ],
)
def test_no_warning_for_unequal_clusters(sizes, num_classes):
    shares = np.array(sizes) / np.sum(sizes)
    assert collapse_warning(shares, num_classes) is None


@pytest.mark.parametrize(
    ("sizes", "num_classes"),
    [
        ([1, 0, 0], 3),
        ([1000, 1, 1], 3),
        ([98, 1, 1], 3),
        ([50, 50, 0], 3),  # by the empty cluster; the entropy alone is not low enough
        ([99, 1], 2),
        ([88, 2, 2, 2, 2, 2, 2], 7),  # by the entropy; no cluster is empty
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 10),
    ],
)
def test_one_line_warning_for_collapsed_clusters(sizes, num_classes):
    shares = np.array(sizes) / np.sum(sizes)
    warning = collapse_warning(shares, num_classes)
    assert warning.startswith("clusters have collapsed") and "\n" not in warning


def test_warning_text():
    assert collapse_warning(np.array([1.0, 0, 0]), 3) == (
        "clusters have collapsed: 2 of 3 are empty or nearly empty; effective number of clusters 1.0, expected 3.0"
    )


def test_collapse_is_relative_to_known_class_shares():
    unequal = np.array([0.95, 0.03, 0.02])
    assert collapse_warning(unequal, 3) is not None
    assert collapse_warning(unequal, 3, class_shares=unequal) is None
    assert collapse_warning(np.array([0.994, 0.003, 0.003]), 3, class_shares=unequal) is not None


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2000), min_size=2, max_size=8).filter(any))
@example([2000] * 7 + [1])
def test_no_warning_for_perfect_clusters(sizes):
    """However unequal the classes are, also with classes of one sample or none."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    scores = clustering_metrics(labels, labels, [f"c{i}" for i in range(len(sizes))], len(sizes))
    assert (scores["accuracy"], scores["collapsed"]) == (1, None)


@pytest.mark.parametrize("fit", [fit_kmeans, fit_gmm])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_well_separated_groups_are_found(fit, scale):
    labels, x = groups(scale)
    model = fit(x, 3, seed=0)
    assert clustering_accuracy(labels, model.predict(x)) == 1
    np.testing.assert_array_equal(model.predict(x), fit(x, 3, seed=0).predict(x))


def test_mixture_separates_groups_of_unequal_width():
    """Two groups with the same center, which k-means cannot separate."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, (200, 8)), rng.normal(0, 5, (200, 8))])
    labels = np.repeat([0, 1], 200)
    assert clustering_accuracy(labels, fit_gmm(x, 2, seed=0).predict(x)) > 0.95
    assert clustering_accuracy(labels, fit_kmeans(x, 2, seed=0).predict(x)) < 0.8


def test_mixture_uses_full_covariances_if_there_are_enough_samples():
    """Two crossing elongated groups with equal variances along each axis."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    x = rng.normal(0, 5, (400, 1)) * np.where(labels[:, None] == 0, [1, 1], [1, -1])
    x += rng.normal(0, 0.1, (400, 2))
    mixture = fit_gmm(x, 2, seed=0)
    assert mixture.covariances_.shape == (2, 2, 2)
    assert clustering_accuracy(labels, mixture.predict(x)) > 0.9
    assert fit_gmm(x[:39], 2, seed=0).covariances_.shape == (2, 2)


def test_features_that_are_nearly_always_zero_do_not_dominate():
    """In float32, as a network computes them. The last hundred features are nonzero for one sample each."""
    labels, x = groups(1)
    x = np.concatenate([x, np.zeros((len(x), 100))], axis=1)
    x[np.arange(100) % len(x), 4 + np.arange(100)] = 1e-2
    model = fit_gmm(x.astype(np.float32), 3, seed=0)
    assert clustering_accuracy(labels, model.predict(x.astype(np.float32))) == 1
    # Variances have a floor proportional to the scale of the features.
    assert model.covariances_.min() > 0.99e-3 * x.var(axis=0).mean()
    small = fit_gmm(1e-3 * x, 3, seed=0)
    np.testing.assert_allclose(small.covariances_, 1e-6 * model.covariances_, rtol=1e-3)


@pytest.mark.parametrize("fit", [fit_kmeans, fit_gmm])
def test_too_few_samples_raise_input_error(fit):
    with pytest.raises(InputError, match="5 clusters need at least 5 samples, but there are 4"):
        fit(np.zeros((4, 2)), 5, seed=0)


def groups(scale):
    """Labels [60] and features [60, 4] of three well-separated groups."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 20)
    return labels, scale * (10 * np.eye(3, 4)[labels] + rng.normal(size=(60, 4)))
