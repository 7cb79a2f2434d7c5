"""VaDE (Jiang et al. 2017, "Variational deep embedding", https://arxiv.org/abs/1611.05148).

A variational autoencoder whose prior is a mixture of Gaussians: c ~ Cat(pi), z | c ~ N(mu_c, sigma_c^2 I), and x | z
from the decoder. Each component is a cluster. Han et al., "Animal face classification based on deep learning", train it
on the 2048-dimensional features of a pretrained ResNet-50, with VaDE's encoder D-500-500-2000-10 and a mirrored
decoder, in two stages: first as an autoencoder (`autoencode`); then a mixture is fitted to the codes (`with_mixture`),
and training maximizes the bound below.

The evidence lower bound on log p(x) (the paper's equation 12, with one sample of z), written with KL divergences:

    log p(x | z) - sum_c q(c|x) KL(q(z|x) || p(z|c)) - KL(q(c|x) || pi),     q(c|x) = p(c | z), equation 16

This equals equation 12 term by term: since sum_c q(c|x) = 1, the entropy of q(z|x) moves into the sum, and 2 pi
cancels. The bound holds for any q(c|x), and therefore, averaged over z, also for one that depends on the sampled z.

Our choices:
- The likelihood is Gaussian with variance 1 (half the squared error), because pooled features are unbounded real
  numbers. The paper's "bernoulli" is for data in [0, 1].
- Features on a different scale should first be divided by their standard deviation, since the scale determines the
  weight of the reconstruction relative to the KL terms.
- Log-variances, including those of the mixture, are clamped to [-10, 10].
- Kernels are initialized Glorot uniform; the means of an unfitted mixture are drawn from N(0, 1).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from zoo.common.errors import InputError
from zoo.registry import register_model
from zoo.variational import (
    HiddenLayers,
    OutputLayer,
    categorical_kl,
    check_likelihood,
    clamp_log_variance,
    gaussian_kl,
    gaussian_log_density,
    log_likelihood,
    sample_gaussian,
)


class Mixture(NamedTuple):
    """A mixture of K Gaussians, float32."""

    log_weights: jax.Array  # [K], normalized
    means: jax.Array  # [K, latent]
    log_variances: jax.Array  # [K, latent], within LOG_VARIANCE_BOUNDS


class MixturePrior(nn.Module):
    """Mixture with parameters `logits` [K], `means` [K, latent] and `log_variances` [K, latent]."""

    num_components: int
    latent_size: int

    @nn.compact
    def __call__(self) -> Mixture:
        shape = (self.num_components, self.latent_size)
        logits = self.param("logits", nn.initializers.zeros, shape[:1])
        means = self.param("means", nn.initializers.normal(1.0), shape)
        log_variances = self.param("log_variances", nn.initializers.zeros, shape)
        return Mixture(nn.log_softmax(logits), means, clamp_log_variance(log_variances))


class VaDE(nn.Module):
    """VaDE on features, float [B, input_size]. A call returns a dict of float32 arrays:

    reconstruction: [B, input_size], mean of p(x | z) (Gaussian) or its logits (Bernoulli).
    mean, log_variance: [B, latent_size], of q(z | x).
    latent: [B, latent_size], z: a sample (rng stream `sample`) in training, the mean in evaluation.
    cluster_log_probabilities: [B, num_classes], log q(c | x) = log p(c | latent).
    """

    num_classes: int  # number of clusters
    input_size: int = 2048
    widths: tuple[int, ...] = (500, 500, 2000)
    latent_size: int = 10
    likelihood: str = "gaussian"  # or "bernoulli"
    # Weight of the two KL terms; 1 is the bound. Like a Gaussian likelihood of this variance. Used by the objective.
    kl_weight: float = 1.0
    dtype: Any = jnp.float32

    def setup(self):
        if self.num_classes < 1:
            raise InputError("VaDE needs at least one cluster: set num_classes to at least 1")
        check_likelihood(self.likelihood)
        self.encoder = HiddenLayers(self.widths, dtype=self.dtype)
        self.mean = OutputLayer(self.latent_size)
        self.log_variance = OutputLayer(self.latent_size)
        self.decoder = HiddenLayers(self.widths[::-1], dtype=self.dtype)
        self.output = OutputLayer(self.input_size)
        self.mixture = MixturePrior(self.num_classes, self.latent_size)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of q(z | x), from features float [B, input_size]."""
        if x.shape[1:] != (self.input_size,):
            raise InputError(
                f"features of shape {x.shape[1:]} do not match input_size={self.input_size}:"
                " set this model option"
            )
        hidden = self.encoder(x.astype(self.dtype))
        return self.mean(hidden), clamp_log_variance(self.log_variance(hidden))

    def decode(self, latent: jax.Array) -> jax.Array:
        """Reconstruction [B, input_size] from z [B, latent_size]."""
        return self.output(self.decoder(latent.astype(self.dtype)))

    def embed(self, x: jax.Array) -> jax.Array:
        """Latent means, float32 [B, latent_size]."""
        return self.encode(x)[0]

    def prior(self) -> Mixture:
        """Parameters of p(c) and p(z | c)."""
        return self.mixture()

    def cluster_posterior(self, latent: jax.Array) -> jax.Array:
        """log p(c | z) (equation 16): z [B, latent_size] to [B, num_classes]."""
        prior = self.prior()
        densities = gaussian_log_density(
            latent[:, None], prior.means[None], prior.log_variances[None]
        )
        return nn.log_softmax(prior.log_weights[None] + densities)

    def autoencode(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Return `reconstruction` and `latent` for z set to its mean, without sampling: the first training stage."""
        latent = self.embed(x)
        return {"reconstruction": self.decode(latent), "latent": latent}

    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        mean, log_variance = self.encode(x)
        latent = sample_gaussian(self.make_rng("sample"), mean, log_variance) if train else mean
        return {
            "reconstruction": self.decode(latent),
            "mean": mean,
            "log_variance": log_variance,
            "latent": latent,
            "cluster_log_probabilities": self.cluster_posterior(latent),
        }


def elbo(
    x: jax.Array,
    outputs: dict[str, jax.Array],
    prior: Mixture,
    likelihood: str = "gaussian",
    kl_weight: float = 1.0,
) -> dict[str, jax.Array]:
    """Evidence lower bound (equation 12) and its terms, in nats, float32 [B] each.

    Args:
      x: features, float [B, input_size].
      outputs: the model's outputs for `x`.
      prior: `model.apply(variables, method="prior")`.
      likelihood: the model's.
      kl_weight: the model's; with any other than 1, `elbo` is not a bound.

    Returns:
      A dict with `elbo` = log_likelihood - kl_weight * (latent_kl + cluster_kl), and these three terms.
    """
    log_posterior = outputs["cluster_log_probabilities"]
    kl_per_cluster = gaussian_kl(  # [B, K]
        outputs["mean"][:, None],
        outputs["log_variance"][:, None],
        prior.means[None],
        prior.log_variances[None],
    )
    terms = {
        "log_likelihood": log_likelihood(x, outputs["reconstruction"], likelihood),
        "latent_kl": jnp.sum(jnp.exp(log_posterior) * kl_per_cluster, axis=-1),
        "cluster_kl": categorical_kl(log_posterior, prior.log_weights[None]),
    }
    return {
        "elbo": terms["log_likelihood"]
        - kl_weight * terms["latent_kl"]
        - kl_weight * terms["cluster_kl"],
        **terms,
    }


def with_mixture(
    variables: dict[str, Any], weights: ArrayLike, means: ArrayLike, variances: ArrayLike
) -> dict[str, Any]:
    """Set the prior to a mixture that was fitted to the codes of the pretrained encoder.

    Args:
      variables: variables of a VaDE with K clusters.
      weights: [K], the mixture weights; 0 is replaced by 1e-8, whose logarithm is finite.
      means: [K, latent_size], the means.
      variances: [K, latent_size], the diagonals of the covariances.

    Returns:
      The variables with the new prior.

    Raises InputError for wrong shapes, negative weights and variances that are not positive.
    """
    old = variables["params"]["mixture"]
    weights, means, variances = (np.asarray(a, np.float64) for a in (weights, means, variances))
    for name, array, parameter in (
        ("weights", weights, "logits"),
        ("means", means, "means"),
        ("variances", variances, "log_variances"),
    ):
        if array.shape != old[parameter].shape or not np.all(np.isfinite(array)):
            raise InputError(
                f"the mixture's {name} must be finite and of shape {old[parameter].shape},"
                f" not {array.shape}"
            )
    if np.any(weights < 0) or np.any(variances <= 0):
        raise InputError(
            "a mixture's weights must not be negative, and its variances must be positive"
        )
    mixture = {
        "logits": jnp.asarray(np.log(np.maximum(weights, 1e-8)), jnp.float32),
        "means": jnp.asarray(means, jnp.float32),
        # Clamped as in the model: beyond the bounds, a parameter would get no gradient.
        "log_variances": clamp_log_variance(jnp.asarray(np.log(variances), jnp.float32)),
    }
    return {**variables, "params": {**variables["params"], "mixture": mixture}}


@register_model(
    input_shape=(2048,),
    num_classes=3,
    source='Han et al., "Animal face classification based on deep learning", Table 3; Jiang et al. 2017',
    notes="Gaussian likelihood with variance 1; num_classes is the number of clusters",
    objective="vade",
)
def vade(num_classes: int) -> VaDE:
    """VaDE on 2048 features: encoder 500-500-2000-10, one Gaussian per cluster."""
    return VaDE(num_classes)


@register_model(input_shape=(16,), num_classes=3, source="no paper: for tests", objective="vade")
def vade_tiny(num_classes: int) -> VaDE:
    """vade on 16 features: encoder 16-16-24-4."""
    return VaDE(num_classes, input_size=16, widths=(16, 16, 24), latent_size=4)
