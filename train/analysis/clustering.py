"""Clusters without labels, and their scores against labels: matching, agreement, collapse."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import entr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from train.analysis.metrics import prediction_scores
from train.recipe import InputError

# A cluster with less than this part of an even share (1 / clusters) counts as empty.
NEARLY_EMPTY = 0.01


def match_clusters(
    labels: np.ndarray, clusters: np.ndarray, num_classes: int, num_clusters: int
) -> np.ndarray:
    """Class of each cluster, int [num_clusters], by the one-to-one matching that gets most examples right.

    Labels and clusters are int [N]. Where there are more clusters than classes, those without a partner get
    -1; where there are fewer, some classes have no cluster. VaDE's clustering accuracy (Jiang et al. 2017), and
    so that of Han et al. ("Animal face classification based on deep learning"), is that of this matching.
    """
    counts = np.zeros((num_clusters, num_classes), int)
    np.add.at(counts, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched = np.full(num_clusters, -1)
    matched[rows] = columns
    return matched


def clustering_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Share of examples whose cluster is the one that `match_clusters` gives to their class."""
    matched = match_clusters(labels, clusters, int(labels.max()) + 1, int(clusters.max()) + 1)
    return float(np.mean(matched[clusters] == labels))


def occupancy(clusters: np.ndarray, num_clusters: int) -> np.ndarray:
    """Share of the examples in each cluster, float64 [num_clusters]."""
    return np.bincount(clusters, minlength=num_clusters) / len(clusters)


def effective_clusters(occupancy: np.ndarray) -> float:
    """exp(entropy) of shares: K for K equal ones, 1 where one holds everything."""
    return float(np.exp(entr(occupancy).sum()))


def collapse_warning(
    occupancy: np.ndarray, num_classes: int, class_shares: np.ndarray | None = None
) -> str | None:
    """One line if clusters have collapsed, None if they are well.

    Args:
      occupancy: shares of the clusters, float [K].
      num_classes: how many classes there are to find.
      class_shares: true shares of the classes, float [num_classes], where they are known.

    Either of two things is a collapse:
      - fewer clusters are in use than there are classes to find and clusters to find them with (a cluster
        or class below a hundredth of an even share does not count);
      - the entropy of the occupancy is below half of that of the classes: the effective number of clusters
        is below the square root of that of the classes. Half the effective number itself would not do: no
        two clusters can fall below half of two, and ten classes of a long tail, 1 to 100, come close to it.

    Without `class_shares` the classes are taken as equal, and the second rule then has room for unequal ones:
    80 : 10 : 10 and the ten of the long tail are silent, 95 : 5 is not. Clusters as unequal as the known
    classes never alarm.
    """
    if class_shares is None:
        class_shares = np.full(num_classes, 1 / num_classes)
    clusters = len(occupancy)
    wanted = min(clusters, int(np.count_nonzero(class_shares >= NEARLY_EMPTY / num_classes)))
    empty = np.count_nonzero(occupancy < NEARLY_EMPTY / clusters)
    found = effective_clusters(occupancy)
    expected = min(effective_clusters(class_shares), clusters)
    if clusters - empty >= wanted and found >= np.sqrt(expected):
        return None
    return (
        f"clusters have collapsed: {empty} of {clusters} are empty or nearly so, and the examples fill"
        f" {found:.1f} effective clusters where {expected:.1f} are expected"
    )


def clustering_metrics(
    labels: np.ndarray, clusters: np.ndarray, class_names: Sequence[str], num_clusters: int
) -> dict[str, Any]:
    """All scores of a clustering, as plain JSON-able data: those of `classification_metrics`, and more.

    Args:
      labels: int [N], positions in `class_names`.
      clusters: int [N], below `num_clusters`.

    Accuracy, precision, recall, F1 and the confusion matrix are those of the matched classes. Examples in a
    cluster without a class are wrong, lower their class's recall, and are in no column of the matrix, which
    stays square: `unmatched` counts them by true class, so row i of the matrix and `unmatched[i]` make up the
    class. `class_of_cluster` is the matching. NMI (arithmetic mean) and ARI need none, and judge any number
    of clusters. There is no loss. `collapsed` is the line of `collapse_warning`, or None.
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
    """k-means on float [N, D]: the best of ten k-means++ starts. Its `predict` gives clusters int [N]."""
    _check_enough(x, k)
    return KMeans(k, n_init=10, random_state=seed).fit(x)


def fit_gmm(x: np.ndarray, k: int, seed: int) -> GaussianMixture:
    """A mixture of k Gaussians on float [N, D]: the best of five k-means starts.

    Covariances are full where that is little to ask of the data, at least ten examples a component for each
    dimension, else diagonal. The codes of an auto-encoder are correlated, and diagonal ones miss it: on digits they
    get 70 to 80 % of the training images right, full ones 80 to 85 %, and VaDE ends as much better as it begins.

    A thousandth of the mean variance is added to each variance: against features that are zero in nearly all
    of a component's examples (after a ReLU), whose density would decide alone; scikit-learn's absolute 1e-6
    means something else at every scale of the features.
    """
    _check_enough(x, k)
    x = np.asarray(x, np.float64)
    floor = max(1e-3 * float(x.var(axis=0).mean()), 1e-12)
    covariance = "full" if len(x) >= 10 * k * x.shape[1] else "diag"
    mixture = GaussianMixture(
        k, covariance_type=covariance, n_init=5, max_iter=300, reg_covar=floor, random_state=seed
    )
    return mixture.fit(x)


def _check_enough(x: np.ndarray, k: int) -> None:
    if len(x) < k:
        raise InputError(f"{k} clusters need at least {k} examples, and there are {len(x)}")
