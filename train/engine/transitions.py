"""What is done to the parameters between two stages of training."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from train.analysis.clustering import fit_gmm
from zoo.conv_autoencoder import with_bottleneck
from zoo.vade import with_mixture


@dataclasses.dataclass(frozen=True)
class Transition:
    """What a transition may look at."""

    model: Any  # Linen module of the stage that begins
    variables: dict[str, Any]  # that the stage before has left
    seed: int
    latents: Callable[[dict[str, Any]], np.ndarray]  # codes of the training data, [N, latent]


def keep(given: Transition) -> dict[str, Any]:
    """Go on with what is there."""
    return given.variables


def insert_bottleneck(given: Transition) -> dict[str, Any]:
    """Trained convolutions of an auto-encoder, new fully connected layers between them (`zoo/conv_autoencoder.py`)."""
    return with_bottleneck(given.variables, given.model, jax.random.key(given.seed))


def fit_mixture(given: Transition) -> dict[str, Any]:
    """VaDE's second stage: a Gaussian mixture on the codes becomes the prior, of its covariances the diagonals."""
    clusters = given.variables["params"]["mixture"]["means"].shape[0]
    found = fit_gmm(given.latents(given.variables), clusters, given.seed)
    variances = found.covariances_
    if variances.ndim == 3:
        variances = np.diagonal(variances, axis1=1, axis2=2)
    return with_mixture(given.variables, found.weights_, found.means_, variances)


TRANSITIONS: dict[str, Callable[[Transition], dict[str, Any]]] = {
    "continue": keep,
    "bottleneck": insert_bottleneck,
    "mixture": fit_mixture,
}
