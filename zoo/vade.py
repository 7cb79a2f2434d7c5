"""VaDE (Jiang et al. 2017, "Variational deep embedding", https://arxiv.org/abs/1611.05148).

A variational auto-encoder whose prior is a mixture of Gaussians: c ~ Cat(pi), z | c ~ N(mu_c, sigma_c^2 I), x | z
from the decoder; the clusters are the components. Han et al., "Animal face classification based on deep learning",
trains it on the 2048 features of a pretrained ResNet-50, with VaDE's own encoder D-500-500-2000-10 and the decoder
mirrored, in two stages: as an auto-encoder (`autoencode`), then, the mixture fitted to the codes (`with_mixture`),
by the bound below.

The bound on log p(x) of one example (the paper's equation 12, with one sample of z), written with divergences:

    log p(x | z) - sum_c q(c|x) KL(q(z|x) || p(z|c)) - KL(q(c|x) || pi),     q(c|x) = p(c | z), equation 16

It is equation 12 term by term: since sum_c q(c|x) = 1 the entropy of q(z|x) can go into the sum, and 2 pi cancels.
It holds for any q(c|x), so also, averaged over z, for one that depends on the sample.

Our choices. Likelihood: Gaussian with variance 1, half a squared error, because pooled features are real numbers
without an upper limit; "bernoulli" is the paper's for data in [0, 1]. Features of another scale want dividing by
their standard deviation first: it decides what the reconstruction weighs against the divergences. Log-variances,
the mixture's too, are clamped to [-10, 10]. Kernels are Glorot-uniform, the means of an unfitted mixture N(0, 1).
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

    log_weights: jax.Array  # [K], normalised
    means: jax.Array  # [K, latent]
    log_variances: jax.Array  # [K, latent], within LOG_VARIANCE_BOUNDS


class MixturePrior(nn.Module):
    """The parameters `logits` [K], `means` and `log_variances` [K, latent] as a Mixture."""

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
    """Called with features float [B, input_size], returns a dict of float32 arrays:

    reconstruction: [B, input_size], mean of p(x | z) (Gaussian) or its logits (Bernoulli).
    mean, log_variance: [B, latent_size], of q(z | x).
    latent: [B, latent_size], z: a sample (rng stream `sample`) when training, else the mean.
    cluster_log_probabilities: [B, num_classes], log q(c | x) = log p(c | latent).
    """

    num_classes: int  # clusters
    input_size: int = 2048
    widths: tuple[int, ...] = (500, 500, 2000)
    latent_size: int = 10
    likelihood: str = "gaussian"  # or "bernoulli"
    dtype: Any = jnp.float32

    def setup(self):
        if self.num_classes < 1:
            raise InputError("VaDE needs at least one cluster: give num_classes=3, say")
        check_likelihood(self.likelihood)
        self.encoder = HiddenLayers(self.widths, dtype=self.dtype)
        self.mean = OutputLayer(self.latent_size)
        self.log_variance = OutputLayer(self.latent_size)
        self.decoder = HiddenLayers(self.widths[::-1], dtype=self.dtype)
        self.output = OutputLayer(self.input_size)
        self.mixture = MixturePrior(self.num_classes, self.latent_size)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features float [B, input_size] to mean and log-variance of q(z | x)."""
        if x.shape[1:] != (self.input_size,):
            raise InputError(
                f"features of shape {x.shape[1:]} do not fit input_size={self.input_size}:"
                " set that option of the model"
            )
        hidden = self.encoder(x.astype(self.dtype))
        return self.mean(hidden), clamp_log_variance(self.log_variance(hidden))

    def decode(self, latent: jax.Array) -> jax.Array:
        """z [B, latent_size] to the reconstruction."""
        return self.output(self.decoder(latent.astype(self.dtype)))

    def embed(self, x: jax.Array) -> jax.Array:
        """The latent means, float32 [B, latent_size]."""
        return self.encode(x)[0]

    def prior(self) -> Mixture:
        """p(c) and p(z | c)."""
        return self.mixture()

    def cluster_posterior(self, latent: jax.Array) -> jax.Array:
        """log p(c | z) of z [B, latent_size]: [B, num_classes] (equation 16)."""
        prior = self.prior()
        densities = gaussian_log_density(
            latent[:, None], prior.means[None], prior.log_variances[None]
        )
        return nn.log_softmax(prior.log_weights[None] + densities)

    def autoencode(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """`reconstruction` and `latent` with z at its mean, never sampled: the first stage of training."""
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
    x: jax.Array, outputs: dict[str, jax.Array], prior: Mixture, likelihood: str = "gaussian"
) -> dict[str, jax.Array]:
    """The bound of equation 12 and its terms, in nats, float32 [B] each.

    Args:
      x: features float [B, input_size].
      outputs: what the model returned for them.
      prior: `model.apply(variables, method="prior")`.
      likelihood: the model's.

    Returns:
      elbo = log_likelihood - latent_kl - cluster_kl, and these three.
    """
    log_posterior = outputs["cluster_log_probabilities"]
    divergences = gaussian_kl(  # [B, K]
        outputs["mean"][:, None],
        outputs["log_variance"][:, None],
        prior.means[None],
        prior.log_variances[None],
    )
    terms = {
        "log_likelihood": log_likelihood(x, outputs["reconstruction"], likelihood),
        "latent_kl": jnp.sum(jnp.exp(log_posterior) * divergences, axis=-1),
        "cluster_kl": categorical_kl(log_posterior, prior.log_weights[None]),
    }
    return {
        "elbo": terms["log_likelihood"] - terms["latent_kl"] - terms["cluster_kl"],
        **terms,
    }


def with_mixture(
    variables: dict[str, Any], weights: ArrayLike, means: ArrayLike, variances: ArrayLike
) -> dict[str, Any]:
    """`variables` with the prior that was fitted to the codes of the pretrained encoder (the paper's second stage).

    Args:
      variables: of a VaDE with K clusters.
      weights: [K], such as a fitted mixture's; 0 counts as 1e-8, which has a logarithm.
      means: [K, latent_size].
      variances: [K, latent_size], the diagonals of the covariances.

    Raises InputError for other shapes, weights below 0 and variances not above 0.
    """
    old = variables["params"]["mixture"]
    given = {"logits": weights, "means": means, "log_variances": variances}
    arrays = {name: np.asarray(value, np.float64) for name, value in given.items()}
    for name, array in arrays.items():
        if array.shape != old[name].shape or not np.all(np.isfinite(array)):
            what = {"logits": "weights", "log_variances": "variances"}.get(name, name)
            raise InputError(
                f"the mixture's {what} must be finite and of shape {old[name].shape},"
                f" not {array.shape}"
            )
    if np.any(arrays["logits"] < 0) or np.any(arrays["log_variances"] <= 0):
        raise InputError("a mixture's weights must not be negative, its variances be above 0")
    arrays["logits"] = np.log(np.maximum(arrays["logits"], 1e-8))
    # Clamped here as in the model: beyond the bounds a parameter would get no gradient.
    arrays["log_variances"] = np.log(arrays["log_variances"])
    mixture = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    mixture["log_variances"] = clamp_log_variance(mixture["log_variances"])
    return {**variables, "params": {**variables["params"], "mixture": mixture}}


@register_model(
    input_shape=(2048,),
    num_classes=3,
    source='Han et al., "Animal face classification based on deep learning", Table 3; Jiang et al. 2017',
    notes="Gaussian likelihood of variance 1; num_classes is the number of clusters",
    objective="vade",
)
def vade(num_classes: int) -> VaDE:
    """VaDE on 2048 features: encoder 500-500-2000-10, a Gaussian a cluster."""
    return VaDE(num_classes)


@register_model(input_shape=(16,), num_classes=3, source="ours, for tests", objective="vade")
def vade_tiny(num_classes: int) -> VaDE:
    """vade on 16 features: encoder 16-16-24-4."""
    return VaDE(num_classes, input_size=16, widths=(16, 16, 24), latent_size=4)
