"""Clustering, and its scores against labels: matching, agreement, collapse."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import entr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from train.analysis.metrics import prediction_scores
from train.recipe import InputError

# A cluster with less than this fraction of an even share (1 / clusters) counts as empty.
NEARLY_EMPTY = 0.01
MAX_SINGLE_THREADED = 1 << 20  # numbers in the data of a mixture


def match_clusters(
    labels: np.ndarray, clusters: np.ndarray, num_classes: int, num_clusters: int
) -> np.ndarray:
    """Match clusters to classes one to one, so that as many samples as possible are correct.

    The clustering accuracy of VaDE (Jiang et al. 2017), and therefore of Han et al. ("Animal face classification based
    on deep learning"), is that of this matching.

    Args:
      labels: int [N].
      clusters: int [N].

    Returns:
      Class of each cluster, int [num_clusters]. If there are more clusters than classes, unmatched clusters have -1; if
      there are fewer, some classes have no cluster.
    """
    counts = np.zeros((num_clusters, num_classes), int)
    np.add.at(counts, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched = np.full(num_clusters, -1)
    matched[rows] = columns
    return matched


def clustering_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Fraction of samples whose cluster is matched to their class by `match_clusters`."""
    matched = match_clusters(labels, clusters, int(labels.max()) + 1, int(clusters.max()) + 1)
    return float(np.mean(matched[clusters] == labels))


def occupancy(clusters: np.ndarray, num_clusters: int) -> np.ndarray:
    """Fraction of the samples in each cluster, float64 [num_clusters]."""
    return np.bincount(clusters, minlength=num_clusters) / len(clusters)


def effective_clusters(occupancy: np.ndarray) -> float:
    """exp(entropy) of the cluster shares: K for K equal clusters, 1 if one cluster holds all samples."""
    return float(np.exp(entr(occupancy).sum()))


def collapse_warning(
    occupancy: np.ndarray, num_classes: int, class_shares: np.ndarray | None = None
) -> str | None:
    """Return a one-line warning if the clusters have collapsed, else None.

    Clusters have collapsed if either of these holds:

      - The number of clusters in use is less than the number of classes, or of clusters if that is smaller. A cluster
        or class below a hundredth of an even share does not count.
      - The entropy of the occupancy is below half the entropy of the classes, which means that the effective number of
        clusters is below the square root of the effective number of classes. Half the effective number is no suitable
        threshold: two clusters cannot fall below half of two, and ten long-tailed classes, 1 to 100, come close to it.

    Without `class_shares`, the classes are assumed to be equal. The second rule then tolerates inequality: 80:10:10
    and the ten long-tailed classes raise no warning, 95:5 does. Clusters as unequal as the known classes never raise
    one.

    Args:
      occupancy: fraction of the samples in each cluster, float [K].
      num_classes: number of classes to find.
      class_shares: fraction of the samples in each class, float [num_classes], if known.
    """
    if class_shares is None:
        class_shares = np.full(num_classes, 1 / num_classes)
    clusters = len(occupancy)
    required = min(clusters, int(np.count_nonzero(class_shares >= NEARLY_EMPTY / num_classes)))
    empty = np.count_nonzero(occupancy < NEARLY_EMPTY / clusters)
    effective = effective_clusters(occupancy)
    expected = min(effective_clusters(class_shares), clusters)
    if clusters - empty >= required and effective >= np.sqrt(expected):
        return None
    return (
        f"clusters have collapsed: {empty} of {clusters} are empty or nearly empty;"
        f" effective number of clusters {effective:.1f}, expected {expected:.1f}"
    )


def clustering_metrics(
    labels: np.ndarray, clusters: np.ndarray, class_names: Sequence[str], num_clusters: int
) -> dict[str, Any]:
    """Compute all scores of a clustering, as JSON-able data.

    Args:
      labels: int [N], indices into `class_names`.
      clusters: int [N], below `num_clusters`.

    Returns:
      The scores of `classification_metrics`, of the classes matched to the clusters, and more. Samples in unmatched
      clusters count as wrong: they lower the recall of their class and are in no column of the confusion matrix, which
      stays square. `unmatched` counts them by true class, so row i of the matrix and `unmatched[i]` add up to class i.
      `class_of_cluster` is the matching. NMI (arithmetic mean) and ARI need no matching and apply to any number of
      clusters. `loss` is None. `collapsed` is the warning of `collapse_warning`, or None.
    """
    matched = match_clusters(labels, clusters, len(class_names), num_clusters)
    predicted = matched[clusters]
    shares = occupancy(clusters, num_clusters)
    class_shares = occupancy(labels, len(class_names))
    return prediction_scores(labels, predicted, class_names) | {
        "loss": None,
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "class_of_cluster": matched.tolist(),
        "unmatched": np.bincount(labels[predicted < 0], minlength=len(class_names)).tolist(),
        "occupancy": shares.tolist(),
        "effective_clusters": effective_clusters(shares),
        "collapsed": collapse_warning(shares, len(class_names), class_shares),
    }


def fit_kmeans(x: np.ndarray, k: int, seed: int) -> KMeans:
    """Fit k-means to float [N, D], the best of ten k-means++ initializations. `predict` returns clusters, int [N]."""
    _check_enough(x, k)
    return KMeans(k, n_init=10, random_state=seed).fit(x)


def fit_gmm(x: np.ndarray, k: int, seed: int) -> GaussianMixture:
    """Fit a mixture of k Gaussians to float [N, D], the best of five k-means initializations.

    Covariances are full if there are at least ten samples per component and dimension, else diagonal. The latents of an
    autoencoder are correlated, which diagonal covariances do not model: on digits, they get 70 to 80% of the training
    images right, full ones 80 to 85%, and VaDE keeps this advantage to the end.

    A thousandth of the mean variance is added to each variance. Otherwise features that are zero for nearly all samples
    of a component (after a ReLU) would dominate the density. scikit-learn's default, an absolute 1e-6, depends on the
    scale of the features.
    """
    _check_enough(x, k)
    x = np.asarray(x, np.float64)
    floor = max(1e-3 * float(x.var(axis=0).mean()), 1e-12)
    covariance = "full" if len(x) >= 10 * k * x.shape[1] else "diag"
    mixture = GaussianMixture(
        k, covariance_type=covariance, n_init=5, max_iter=300, reg_covar=floor, random_state=seed
    )
    # On small data, threads wait for each other: with other programs on two cores, the mixture of 1,439 latents of ten
    # dimensions took over 55 s with two threads, and 5 s with one.
    with threadpool_limits(1 if x.size <= MAX_SINGLE_THREADED else None):
        return mixture.fit(x)


def _check_enough(x: np.ndarray, k: int) -> None:
    if len(x) < k:
        raise InputError(f"{k} clusters need at least {k} samples, but there are {len(x)}")
