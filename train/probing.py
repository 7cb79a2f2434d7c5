"""What a simple method makes of a trained net's features: a support vector machine, or clusters without labels."""

from typing import Any

import numpy as np

from datasets.dataset import Progress
from datasets.pipeline import load_arrays
from train.analysis.clustering import fit_gmm, fit_kmeans
from train.analysis.svm import diagnose_rbf, fit_svm
from train.engine.experiment import Experiment
from train.predictor import Predictor
from train.recipe import InputError, Probe
from train.vectors import net_features, scaled


def probe_features(
    predictor: Predictor, experiment: Experiment, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """The vectors that the recipe's probe works on, float32 [N, D] for each split.

    Raises InputError for a layer that the model does not have.
    """
    layer, dataset = experiment.recipe.probe.layer, experiment.dataset
    if layer == "input":
        arrays = {n: load_arrays(predictor.samples(s))[0] for n, s in dataset.splits.items()}
        return {n: _in_a_row(a) if a.dtype == np.uint8 else a for n, a in arrays.items()}
    return net_features(
        predictor.module,
        predictor.variables,
        predictor.inputs,
        dataset,
        experiment.data_key,
        layer=None if layer == "features" else layer,
        progress=progress,
    )


def _in_a_row(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


class FittedProbe:
    """A probe that has seen the training part."""

    def __init__(
        self, probe: Probe, features: np.ndarray, labels: np.ndarray, classes: int, seed: int
    ):
        """Features [N, D] and labels int [N] of the training part; clusters do not see the labels."""
        self._clusters = probe.method in ("kmeans", "gmm")
        self._how = "standardise" if probe.standardise else "none"
        self._train = features
        self.num_clusters = classes
        # What else is known of it, JSON-able: of an SVM with an rbf kernel, what `diagnose_rbf` says.
        self.notes: dict[str, Any] = {}
        if probe.method == "svm":
            if len(np.unique(labels)) < 2:
                raise InputError("an SVM needs training images of two classes at least")
            options: dict[str, Any] = {"c": probe.c, "gamma": probe.gamma, "kernel": probe.kernel}
            self._fitted = fit_svm(features, labels, standardise=probe.standardise, **options)
            if probe.kernel == "rbf":
                seen = self._scaled(features)
                gamma = probe.gamma or 1 / (seen.shape[1] * max(float(seen.var()), 1e-12))
                self.notes = {"kernel": diagnose_rbf(seen, labels, c=probe.c, gamma=gamma)}
            return
        fit = fit_kmeans if probe.method == "kmeans" else fit_gmm
        self._fitted = fit(self._scaled(features), classes, seed)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Classes, or clusters, int [N] of features [N, D]."""
        return self._fitted.predict(self._scaled(features) if self._clusters else features)

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return scaled({"train": self._train, "these": features}, self._how)["these"]
