"""Probes of a network's features: a support vector machine, or clustering without labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from train.analysis.clustering import clustering_accuracy, fit_gmm, fit_kmeans
from train.analysis.svm import diagnose_rbf, fit_svm
from train.recipe import InputError, Probe


def scale(vectors: Mapping[str, np.ndarray], method: str) -> dict[str, np.ndarray]:
    """Scale the vectors of all splits by training statistics. For `method`, see `Recipe.feature_scaling`."""
    train = vectors["train"].astype(np.float64)
    if method == "none":
        return dict(vectors)
    if method == "unit":
        mean, deviation = np.zeros(1), np.array([train.std()])
    else:
        mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)  # do not divide constant features by zero
    return {n: ((v - mean) / deviation).astype(np.float32) for n, v in vectors.items()}


class FittedProbe:
    """A probe fitted to the training split."""

    def __init__(
        self, probe: Probe, features: np.ndarray, labels: np.ndarray, classes: int, seed: int
    ):
        """Fit to features [N, D] and labels int [N] of the training split. Clustering ignores the labels."""
        self._is_clustering = probe.method in ("kmeans", "gmm")
        self._scaling = "standardize" if probe.standardize else "none"
        self._train = features
        self.num_clusters = classes
        # Additional JSON-able results: the output of `diagnose_rbf` for an SVM with an rbf kernel.
        self.notes: dict[str, Any] = {}
        if probe.method == "svm":
            if len(np.unique(labels)) < 2:
                raise InputError(
                    "an SVM needs training images of at least two classes: use another --dataset, or"
                    " --probe.method kmeans or gmm"
                )
            options: dict[str, Any] = {"c": probe.c, "gamma": probe.gamma, "kernel": probe.kernel}
            self._model = fit_svm(features, labels, standardize=probe.standardize, **options)
            if probe.kernel == "rbf":
                scaled = self._scale(features)
                gamma = probe.gamma or 1 / (scaled.shape[1] * max(float(scaled.var()), 1e-12))
                self.notes = {"kernel": diagnose_rbf(scaled, labels, c=probe.c, gamma=gamma)}
            return
        fit = fit_kmeans if probe.method == "kmeans" else fit_gmm
        self._model = fit(self._scale(features), classes, seed)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict the classes, or clusters, of features [N, D]: int [N]."""
        return self._model.predict(self._scale(features) if self._is_clustering else features)

    def _scale(self, features: np.ndarray) -> np.ndarray:
        return scale({"train": self._train, "other": features}, self._scaling)["other"]


def probe_accuracy(
    probe: Probe,
    train: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    classes: int,
    seed: int,
) -> float:
    """Fit a probe to features [N, D] and labels int [N] of the training split, and return its accuracy on another.

    Clusters are matched to classes on that other split.
    """
    fitted = FittedProbe(probe, *train, classes, seed)
    features, labels = other
    predicted = fitted.predict(features)
    if probe.method == "svm":
        return float(np.mean(predicted == labels))
    return clustering_accuracy(labels, predicted)
