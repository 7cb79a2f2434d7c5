"""GMVAE (Dilokthanakul et al. 2016, "Deep unsupervised clustering with Gaussian mixture variational autoencoders",
https://arxiv.org/abs/1611.02648).

w ~ N(0, I); y ~ uniform over K clusters; z | w, y is Gaussian with parameters from a net of w, one Gaussian per y;
x | z comes from the decoder. (The paper writes x, y, z for our z, x, y.) Han et al., "Animal face classification based
on deep learning", train it on the 2048-dimensional features of a pretrained ResNet-50 with a latent size of 10. The
evidence lower bound on log p(x), in the four terms of the GMVAE paper, with one sample of z and w:

    log p(x | z)                                               reconstruction
    - sum_y q(y|w,z) KL(q(z|x) || p(z|w,y))                    conditional prior
    - KL(q(w|x) || N(0, I))                                    w prior
    - max(free_bits, KL(q(y|w,z) || uniform))                  y prior

q(y|w,z) is p(y|w,z), computed in closed form from p(z|w,y) rather than by a net q(y|x). It is the exact posterior of y
given the sample, has no parameters, and follows the paper; a net could only approximate it. The bound holds for any
q(y) and therefore, averaged over samples, also for one that depends on them. A positive `free_bits` (the paper's
minimum information constraint, against clusters that merge early) only lowers the bound. The maximum is taken per
sample.

Our choices where Han et al. are silent: the layers of VaDE's encoder and decoder (500-500-2000 and its mirror), so that
the two models differ only in the prior; one net for q(z|x) and q(w|x); w has the size of z; one tanh layer of 500 units
for p(z|w,y); a Gaussian likelihood with variance 1, because features are real numbers; log-variances clamped to
[-10, 10]; Glorot-uniform kernels.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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


class GMVAE(nn.Module):
    """GMVAE on features, float [B, input_size]. A call returns a dict of float32 arrays:

    reconstruction: [B, input_size], mean of p(x | z) (Gaussian) or its logits (Bernoulli).
    mean, log_variance: [B, latent_size], of q(z | x).
    w_mean, w_log_variance: [B, w_size], of q(w | x).
    latent, w: [B, latent_size], [B, w_size]: samples (rng stream `sample`) in training, the means in evaluation.
    component_means, component_log_variances: [B, num_classes, latent_size], of p(z | w, y) per y.
    cluster_log_probabilities: [B, num_classes], log q(y | w, z) for `latent` and `w`.
    """

    num_classes: int  # number of clusters
    input_size: int = 2048
    widths: tuple[int, ...] = (500, 500, 2000)
    prior_widths: tuple[int, ...] = (500,)
    latent_size: int = 10
    w_size: int = 10
    likelihood: str = "gaussian"  # or "bernoulli"
    free_bits: float = 0.0  # minimum of the y prior term in nats; used by the objective
    dtype: Any = jnp.float32

    def setup(self):
        if self.num_classes < 1:
            raise InputError("GMVAE needs at least one cluster: set num_classes to at least 1")
        check_likelihood(self.likelihood)
        self.encoder = HiddenLayers(self.widths, dtype=self.dtype)
        self.mean = OutputLayer(self.latent_size)
        self.log_variance = OutputLayer(self.latent_size)
        self.w_mean = OutputLayer(self.w_size)
        self.w_log_variance = OutputLayer(self.w_size)
        self.decoder = HiddenLayers(self.widths[::-1], dtype=self.dtype)
        self.output = OutputLayer(self.input_size)
        self.prior_hidden = HiddenLayers(self.prior_widths, jnp.tanh, self.dtype)
        self.component_means = OutputLayer(self.num_classes * self.latent_size)
        self.component_log_variances = OutputLayer(self.num_classes * self.latent_size)

    def _hidden(self, x: jax.Array) -> jax.Array:
        if x.shape[1:] != (self.input_size,):
            raise InputError(
                f"features of shape {x.shape[1:]} do not match input_size={self.input_size}:"
                " set this model option"
            )
        return self.encoder(x.astype(self.dtype))

    def encode(self, x: jax.Array) -> dict[str, jax.Array]:
        """`mean`, `log_variance`, `w_mean`, `w_log_variance` from features float [B, input_size]."""
        hidden = self._hidden(x)
        return {
            "mean": self.mean(hidden),
            "log_variance": clamp_log_variance(self.log_variance(hidden)),
            "w_mean": self.w_mean(hidden),
            "w_log_variance": clamp_log_variance(self.w_log_variance(hidden)),
        }

    def decode(self, latent: jax.Array) -> jax.Array:
        """Reconstruction [B, input_size] from z [B, latent_size]."""
        return self.output(self.decoder(latent.astype(self.dtype)))

    def embed(self, x: jax.Array) -> jax.Array:
        """Latent means, float32 [B, latent_size]."""
        return self.mean(self._hidden(x))

    def components(self, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Means and log-variances of p(z | w, y) per y: w [B, w_size] to [B, num_classes, latent_size]."""
        hidden = self.prior_hidden(w.astype(self.dtype))
        shape = (-1, self.num_classes, self.latent_size)
        log_variances = clamp_log_variance(self.component_log_variances(hidden))
        return self.component_means(hidden).reshape(shape), log_variances.reshape(shape)

    def autoencode(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Return `reconstruction` and `latent` with z = its mean, without sampling."""
        latent = self.embed(x)
        return {"reconstruction": self.decode(latent), "latent": latent}

    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        encoded = self.encode(x)
        latent, w = encoded["mean"], encoded["w_mean"]
        if train:
            latent = sample_gaussian(self.make_rng("sample"), latent, encoded["log_variance"])
            w = sample_gaussian(self.make_rng("sample"), w, encoded["w_log_variance"])
        means, log_variances = self.components(w)
        return {
            "reconstruction": self.decode(latent),
            **encoded,
            "latent": latent,
            "w": w,
            "component_means": means,
            "component_log_variances": log_variances,
            "cluster_log_probabilities": cluster_posterior(latent, means, log_variances),
        }


def cluster_posterior(latent: jax.Array, means: jax.Array, log_variances: jax.Array) -> jax.Array:
    """log p(y | w, z) with uniform p(y): z [B, latent] and the components at w, [B, K, latent], to [B, K]."""
    return nn.log_softmax(gaussian_log_density(latent[:, None], means, log_variances))


def elbo(
    x: jax.Array,
    outputs: dict[str, jax.Array],
    likelihood: str = "gaussian",
    free_bits: float = 0.0,
) -> dict[str, jax.Array]:
    """Evidence lower bound of the module's docstring and its terms, in nats, float32 [B] each.

    Args:
      x: features, float [B, input_size].
      outputs: the model's outputs for `x`.
      likelihood: the model's.
      free_bits: minimum of the y prior term in nats. Since that term is at most log K, a larger value removes its
        gradient altogether.

    Returns:
      A dict with `elbo` = log_likelihood - latent_kl - w_kl - max(free_bits, cluster_kl), and these four terms.
    """
    log_posterior = outputs["cluster_log_probabilities"]
    kl_per_cluster = gaussian_kl(  # [B, K]
        outputs["mean"][:, None],
        outputs["log_variance"][:, None],
        outputs["component_means"],
        outputs["component_log_variances"],
    )
    zeros = jnp.zeros_like(outputs["w_mean"])
    uniform = jnp.full_like(log_posterior, -math.log(log_posterior.shape[-1]))
    terms = {
        "log_likelihood": log_likelihood(x, outputs["reconstruction"], likelihood),
        "latent_kl": jnp.sum(jnp.exp(log_posterior) * kl_per_cluster, axis=-1),
        "w_kl": gaussian_kl(outputs["w_mean"], outputs["w_log_variance"], zeros, zeros),
        "cluster_kl": categorical_kl(log_posterior, uniform),
    }
    y_prior = terms["cluster_kl"]
    if free_bits > 0:
        y_prior = jnp.maximum(free_bits, y_prior)
    return {
        "elbo": terms["log_likelihood"] - terms["latent_kl"] - terms["w_kl"] - y_prior,
        **terms,
    }


@register_model(
    input_shape=(2048,),
    num_classes=3,
    source='Han et al., "Animal face classification based on deep learning", Table 3; Dilokthanakul et al. 2016',
    notes="Han et al. state only the latent size; the layers are VaDE's; num_classes is the number of clusters",
    objective="gmvae",
)
def gmvae(num_classes: int) -> GMVAE:
    """GMVAE on 2048 features: latent size 10, one Gaussian per cluster, which depends on w."""
    return GMVAE(num_classes)


@register_model(input_shape=(16,), num_classes=3, source="no paper: for tests", objective="gmvae")
def gmvae_tiny(num_classes: int) -> GMVAE:
    """gmvae on 16 features: narrow layers, latent size 4, w of size 3."""
    return GMVAE(
        num_classes,
        input_size=16,
        widths=(16, 16, 24),
        prior_widths=(12,),
        latent_size=4,
        w_size=3,
    )
