"""GMVAE (Dilokthanakul et al. 2016, "Deep unsupervised clustering with Gaussian mixture variational autoencoders",
https://arxiv.org/abs/1611.02648).

w ~ N(0, I), y ~ uniform over K clusters, z | w, y from a net a Gaussian for each y, x | z from the decoder. (The
paper writes x, y, z for our z, x, y.) Han et al., "Animal face classification based on deep learning", trains it
on the 2048 features of a pretrained ResNet-50 with a latent size of 10. The bound on log p(x) of one example, in the
GMVAE paper's four terms, with one sample of z and w:

    log p(x | z)                                               reconstruction
    - sum_y q(y|w,z) KL(q(z|x) || p(z|w,y))                    conditional prior
    - KL(q(w|x) || N(0, I))                                    w prior
    - max(free_bits, KL(q(y|w,z) || uniform))                  y prior

q(y|w,z) is p(y|w,z), in closed form from p(z|w,y), not a net q(y|x): it is the exact posterior of y given the
sample, costs no parameters, and is what the paper does; a net could only approach it. The bound holds for any q(y),
so also, averaged over the samples, for one that depends on them, and a positive `free_bits` (the paper's minimum
information constraint, against clusters that merge early) only lowers it. We take that maximum for each example.

Our choices, where Han et al. state nothing: the layers of VaDE's encoder and decoder (500-500-2000 and back), so that
the two differ in the prior alone; one net for q(z|x) and q(w|x); w as long as z; one tanh layer of 500 for
p(z|w,y); Gaussian likelihood with variance 1, because the features are real numbers; log-variances clamped to
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
    """Called with features float [B, input_size], returns a dict of float32 arrays:

    reconstruction: [B, input_size], mean of p(x | z) (Gaussian) or its logits (Bernoulli).
    mean, log_variance: [B, latent_size], of q(z | x).
    w_mean, w_log_variance: [B, w_size], of q(w | x).
    latent, w: [B, latent_size], [B, w_size]: samples (rng stream `sample`) when training, else the means.
    component_means, component_log_variances: [B, num_classes, latent_size], of p(z | w, y) for each y.
    cluster_log_probabilities: [B, num_classes], log q(y | w, z) at these z and w.
    """

    num_classes: int  # clusters
    input_size: int = 2048
    widths: tuple[int, ...] = (500, 500, 2000)
    prior_widths: tuple[int, ...] = (500,)
    latent_size: int = 10
    w_size: int = 10
    likelihood: str = "gaussian"  # or "bernoulli"
    free_bits: float = 0.0  # nats of the y prior that cost nothing; used by the objective
    dtype: Any = jnp.float32

    def setup(self):
        if self.num_classes < 1:
            raise InputError("GMVAE needs at least one cluster: give num_classes=3, say")
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
                f"features of shape {x.shape[1:]} do not fit input_size={self.input_size}:"
                " set that option of the model"
            )
        return self.encoder(x.astype(self.dtype))

    def encode(self, x: jax.Array) -> dict[str, jax.Array]:
        """Features float [B, input_size] to `mean`, `log_variance`, `w_mean`, `w_log_variance`."""
        hidden = self._hidden(x)
        return {
            "mean": self.mean(hidden),
            "log_variance": clamp_log_variance(self.log_variance(hidden)),
            "w_mean": self.w_mean(hidden),
            "w_log_variance": clamp_log_variance(self.w_log_variance(hidden)),
        }

    def decode(self, latent: jax.Array) -> jax.Array:
        """z [B, latent_size] to the reconstruction."""
        return self.output(self.decoder(latent.astype(self.dtype)))

    def embed(self, x: jax.Array) -> jax.Array:
        """The latent means, float32 [B, latent_size]."""
        return self.mean(self._hidden(x))

    def components(self, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Means and log-variances of p(z | w, y) for each y: w [B, w_size] to [B, num_classes, latent_size]."""
        hidden = self.prior_hidden(w.astype(self.dtype))
        shape = (-1, self.num_classes, self.latent_size)
        log_variances = clamp_log_variance(self.component_log_variances(hidden))
        return self.component_means(hidden).reshape(shape), log_variances.reshape(shape)

    def autoencode(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """`reconstruction` and `latent` with z at its mean, never sampled."""
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
    """log p(y | w, z) for z [B, latent] and the components at w, [B, K, latent]: [B, K]. p(y) is uniform."""
    return nn.log_softmax(gaussian_log_density(latent[:, None], means, log_variances))


def elbo(
    x: jax.Array,
    outputs: dict[str, jax.Array],
    likelihood: str = "gaussian",
    free_bits: float = 0.0,
) -> dict[str, jax.Array]:
    """The bound in the module's docstring and its terms, in nats, float32 [B] each.

    Args:
      x: features float [B, input_size].
      outputs: what the model returned for them.
      likelihood: the model's.
      free_bits: so much of the y prior costs nothing; at most log K has an effect on gradients.

    Returns:
      elbo = log_likelihood - latent_kl - w_kl - max(free_bits, cluster_kl), and these four.
    """
    log_posterior = outputs["cluster_log_probabilities"]
    divergences = gaussian_kl(  # [B, K]
        outputs["mean"][:, None],
        outputs["log_variance"][:, None],
        outputs["component_means"],
        outputs["component_log_variances"],
    )
    standard = jnp.zeros_like(outputs["w_mean"])
    uniform = jnp.full_like(log_posterior, -math.log(log_posterior.shape[-1]))
    terms = {
        "log_likelihood": log_likelihood(x, outputs["reconstruction"], likelihood),
        "latent_kl": jnp.sum(jnp.exp(log_posterior) * divergences, axis=-1),
        "w_kl": gaussian_kl(outputs["w_mean"], outputs["w_log_variance"], standard, standard),
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
    notes="Han et al. state the latent size only: VaDE's layers; num_classes is the number of clusters",
    objective="gmvae",
)
def gmvae(num_classes: int) -> GMVAE:
    """GMVAE on 2048 features: a latent of 10, a Gaussian a cluster that depends on w."""
    return GMVAE(num_classes)


@register_model(input_shape=(16,), num_classes=3, source="ours, for tests", objective="gmvae")
def gmvae_tiny(num_classes: int) -> GMVAE:
    """gmvae on 16 features: narrow layers, a latent of 4, w of 3."""
    return GMVAE(
        num_classes,
        input_size=16,
        widths=(16, 16, 24),
        prior_widths=(12,),
        latent_size=4,
        w_size=3,
    )
