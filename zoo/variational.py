"""Shared by VaDE and GMVAE: Gaussians with diagonal covariance, decoder likelihoods, dense layers.

All values and gradients are finite for inputs between -1e4 and 1e4: log-variances are clamped to `LOG_VARIANCE_BOUNDS`,
so no variance is 0 or infinite; mixtures are represented by log-probabilities; the Bernoulli likelihood takes logits.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.common.errors import InputError
from zoo.layers import glorot_uniform

# Standard deviations of 0.0067 to 148. Beyond the bounds the gradient is zero.
LOG_VARIANCE_BOUNDS = (-10.0, 10.0)
LIKELIHOODS = ("gaussian", "bernoulli")


class HiddenLayers(nn.Module):
    """Dense layers `fc1`, `fc2`, ... with activations: [B, N] to [B, widths[-1]] in `dtype`."""

    widths: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.widths, start=1):
            dense = nn.Dense(width, kernel_init=glorot_uniform, dtype=self.dtype, name=f"fc{index}")
            x = self.activation(dense(x))
        return x


class OutputLayer(nn.Dense):
    """Dense layer that always computes in float32, like heads, regardless of the net's dtype."""

    kernel_init: Callable = glorot_uniform

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return super().__call__(inputs.astype(jnp.float32))


def clamp_log_variance(x: jax.Array) -> jax.Array:
    """Clip to `LOG_VARIANCE_BOUNDS`."""
    return jnp.clip(x, *LOG_VARIANCE_BOUNDS)


def sample_gaussian(key: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Draw one reparameterized sample (Kingma and Welling 2013, section 2.4)."""
    return mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)


def gaussian_log_density(x: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """log N(x; mean, exp(log_variance)), summed over the last axis: [..., D] to [...]."""
    squares = jnp.square(x - mean) * jnp.exp(-log_variance)
    return -0.5 * jnp.sum(math.log(2 * math.pi) + log_variance + squares, axis=-1)


def gaussian_kl(
    mean: jax.Array, log_variance: jax.Array, prior_mean: jax.Array, prior_log_variance: jax.Array
) -> jax.Array:
    """KL(N(mean, exp(log_variance)) || N(prior_mean, exp(prior_log_variance))): [..., D] to [...]."""
    ratio = jnp.exp(log_variance - prior_log_variance)
    squares = jnp.square(mean - prior_mean) * jnp.exp(-prior_log_variance)
    return 0.5 * jnp.sum(prior_log_variance - log_variance + ratio + squares - 1, axis=-1)


def categorical_kl(log_probabilities: jax.Array, prior_log_probabilities: jax.Array) -> jax.Array:
    """KL divergence between categorical distributions over the last axis: [..., K] to [...].

    Log-probabilities must be finite. A probability that underflows to 0 contributes 0, the limit of p log p.
    """
    difference = log_probabilities - prior_log_probabilities
    return jnp.sum(jnp.exp(log_probabilities) * difference, axis=-1)


def check_likelihood(likelihood: str) -> None:
    """Raise InputError for an unknown likelihood."""
    if likelihood not in LIKELIHOODS:
        raise InputError(f"unknown likelihood {likelihood!r}: choose from {', '.join(LIKELIHOODS)}")


def log_likelihood(x: jax.Array, reconstruction: jax.Array, likelihood: str) -> jax.Array:
    """log p(x | z) per sample in nats, summed over elements: two [B, ...] to [B], float32.

    "gaussian": `reconstruction` is the mean and the variance is 1, so this is minus half the squared error plus a
    constant. "bernoulli": `reconstruction` contains logits, and x is in [0, 1].
    """
    return jnp.sum(_log_likelihoods(x, reconstruction, likelihood), axis=-1)


def reconstruction_error(x: jax.Array, reconstruction: jax.Array, likelihood: str) -> jax.Array:
    """Reconstruction loss per sample, averaged over elements: two [B, ...] to [B], float32.

    "gaussian": the squared error. "bernoulli": the cross-entropy between x in [0, 1] and logits.
    """
    terms = _log_likelihoods(x, reconstruction, likelihood)
    if likelihood == "gaussian":
        terms = 2 * terms + math.log(2 * math.pi)
    return -jnp.mean(terms, axis=-1)


def _log_likelihoods(x: jax.Array, reconstruction: jax.Array, likelihood: str) -> jax.Array:
    """log p(x | z) per element: [B, elements], float32."""
    check_likelihood(likelihood)
    if x.shape != reconstruction.shape:
        raise ValueError(
            f"the reconstruction has shape {reconstruction.shape}, the input {x.shape}"
        )
    x = x.reshape(x.shape[0], -1).astype(jnp.float32)
    y = reconstruction.reshape(x.shape).astype(jnp.float32)
    if likelihood == "gaussian":
        return -0.5 * (math.log(2 * math.pi) + jnp.square(x - y))
    return x * y - nn.softplus(y)
