"""Features for the probe of a trained network."""

import numpy as np

from datasets.dataset import Progress
from datasets.pipeline import load_arrays
from train.engine.experiment import Experiment
from train.predictor import Predictor
from train.vectors import network_features


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
