"""Probes of a trained network's features: a support vector machine, or clustering without labels."""

from typing import Any

import numpy as np

from datasets.dataset import Progress
from datasets.pipeline import load_arrays
from train.analysis.clustering import fit_gmm, fit_kmeans
from train.analysis.svm import diagnose_rbf, fit_svm
from train.engine.experiment import Experiment
from train.predictor import Predictor
from train.recipe import InputError, Probe
from train.vectors import network_features, scale


def probe_features(
    predictor: Predictor, experiment: Experiment, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """Compute the features for the recipe's probe, float32 [N, D] for each split.

    Raises InputError if the model has no such layer.
    """
    layer, dataset = experiment.recipe.probe.layer, experiment.dataset
    if layer == "input":
        arrays = {n: load_arrays(predictor.samples(s))[0] for n, s in dataset.splits.items()}
        return {n: _flatten(a) if a.dtype == np.uint8 else a for n, a in arrays.items()}
    return network_features(
        predictor.module,
        predictor.variables,
        predictor.inputs,
        dataset,
        experiment.data_key,
        layer=None if layer == "features" else layer,
        progress=progress,
    )


def _flatten(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


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
        # Additional results, JSON-able: the diagnosis of `diagnose_rbf` for an SVM with an rbf kernel.
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
