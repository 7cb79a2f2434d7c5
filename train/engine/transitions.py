"""Transitions: changes of the variables between two stages of training."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from train.analysis.clustering import fit_gmm
from zoo.conv_autoencoder import with_bottleneck
from zoo.vade import with_mixture


@dataclasses.dataclass(frozen=True)
class TransitionContext:
    """Input of a transition."""

    model: Any  # Linen module of the next stage
    variables: dict[str, Any]  # at the end of the previous stage
    seed: int
    latents: Callable[[dict[str, Any]], np.ndarray]  # latents of the training data, [N, latent]


def keep(context: TransitionContext) -> dict[str, Any]:
    """Keep the variables unchanged."""
    return context.variables


def insert_bottleneck(context: TransitionContext) -> dict[str, Any]:
    """Insert new fully connected layers between the trained convolutions of an autoencoder.

    See `zoo/conv_autoencoder.py`.
    """
    return with_bottleneck(context.variables, context.model, jax.random.key(context.seed))


def fit_mixture(context: TransitionContext) -> dict[str, Any]:
    """Fit a Gaussian mixture to the latents and use it as the prior of VaDE's second stage.

    If its covariances are full, only the diagonals are used.
    """
    clusters = context.variables["params"]["mixture"]["means"].shape[0]
    mixture = fit_gmm(context.latents(context.variables), clusters, context.seed)
    variances = mixture.covariances_
    if variances.ndim == 3:
        variances = np.diagonal(variances, axis1=1, axis2=2)
    return with_mixture(context.variables, mixture.weights_, mixture.means_, variances)


TRANSITIONS: dict[str, Callable[[TransitionContext], dict[str, Any]]] = {
    "continue": keep,
    "bottleneck": insert_bottleneck,
    "mixture": fit_mixture,
}
