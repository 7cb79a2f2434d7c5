"""Training objectives. Each turns a model into a loss and an evaluation function, both pure.

`OBJECTIVES` has one `Entry` per objective. Other packages add theirs through the entry point group
`jax_zoo.objectives`.

A batch is a dict of arrays on one device: `image` float [B, H, W, C], augmented and normalized, or float [B, N] for a
model of vectors; `label` int32 [B]; and optionally `weight` float [B], which only `classification` uses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.analysis.clustering import clustering_accuracy, collapse_warning, occupancy
from train.analysis.metrics import loss_and_accuracy
from train.recipe import InputError, Stage
from zoo import gmvae as gmvae_family
from zoo import vade as vade_family
from zoo.common.names import find, plugin_names
from zoo.variational import reconstruction_error

Tree = Any
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """Functions that train and evaluate a model."""

    # (params, batch_stats, batch, rng) -> (loss, (new batch_stats, metrics)), in training mode. Metrics are scalars,
    # means over the batch.
    loss: Callable[
        [Tree, Tree, Batch, jax.Array], tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]
    ]
    # (variables, batch) -> outputs of each sample, in evaluation mode.
    outputs: Callable[[Tree, Batch], dict[str, jax.Array]]
    # (outputs of a whole split, with `label`) -> `loss` and, if defined, `accuracy`. Runs on the host.
    scores: Callable[[dict[str, np.ndarray]], dict[str, float]]
    monitor: Literal["accuracy", "loss"]  # the score that selects the best epoch
    # (outputs of a whole split, number of classes) -> a warning for the user if training goes wrong, else None.
    warning: Callable[[dict[str, np.ndarray], int], str | None] = lambda outputs, num_classes: None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered objective."""

    build: Callable[[Any, Stage], Objective]  # (Linen module, stage) -> objective
    trains: frozenset[str]  # objectives of `zoo.register_model` whose models it can train
    # Its outputs: `logits`; `cluster_log_probabilities` and `loss`; or only `loss`.
    predicts: Literal["classes", "clusters", "loss"]
    reads_labels: bool = False


def classification(model: nn.Module, label_smoothing: float = 0.0) -> Objective:
    """Softmax cross-entropy with integer labels, averaged over the batch.

    `label_smoothing` is the fraction of the target that is spread evenly over all classes. With weights, the sum of the
    weighted losses is divided by the number of samples, as in Keras, not by the sum of the weights. Accuracy is not
    weighted.
    """

    def loss(params, batch_stats, batch, rng):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )
        if label_smoothing:
            targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
            targets = optax.smooth_labels(targets, label_smoothing)
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        value = jnp.mean(losses * batch["weight"] if "weight" in batch else losses)
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])
        return value, (updated.get("batch_stats", {}), {"loss": value, "accuracy": accuracy})

    def outputs(variables, batch):
        return {"logits": model.apply(variables, batch["image"], train=False)}

    def scores(outputs):
        value, accuracy = loss_and_accuracy(outputs["label"], outputs["logits"])
        return {"loss": value, "accuracy": accuracy}

    return Objective(loss, outputs, scores, "accuracy")


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Compute the "balanced" class weights of scikit-learn, n / (k * n_c): float32 [num_classes].

    All classes then contribute equally to the loss, and the mean weight over all samples is 1. k is the number of
    classes with samples; classes without samples have weight 0.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


def autoencoder(model: nn.Module) -> Objective:
    """Reconstruction error of an autoencoder, without sampling the latents; also the first stage of VaDE.

    Squared error, averaged over pixels and batch, or cross-entropy if the model's likelihood is Bernoulli. `outputs`
    returns `latent` [B, N] and `loss` [B].
    """

    def errors(variables, batch, train):
        outputs, updated = model.apply(
            variables, batch["image"], train=train, method="autoencode", mutable=["batch_stats"]
        )
        losses = reconstruction_error(
            batch["image"], outputs["reconstruction"], getattr(model, "likelihood", "gaussian")
        )
        return losses, outputs["latent"], updated.get("batch_stats", {})

    def loss(params, batch_stats, batch, rng):
        losses, _, updated = errors({"params": params, "batch_stats": batch_stats}, batch, True)
        value = jnp.mean(losses)
        return value, (updated, {"loss": value})

    def outputs(variables, batch):
        losses, latent, _ = errors(variables, batch, False)
        return {"latent": latent.reshape(latent.shape[0], -1), "loss": losses}

    return Objective(loss, outputs, _mean_loss, "loss")


def _mean_loss(outputs: dict[str, np.ndarray]) -> dict[str, float]:
    return {"loss": float(outputs["loss"].astype(np.float64).mean())}


def vade(model: nn.Module) -> Objective:
    """Negative evidence lower bound of VaDE with the model's `kl_weight`, in nats, averaged over the batch.

    Its terms are metrics.
    """

    def bound(variables, x, outputs):
        prior = model.apply(variables, method="prior")
        return vade_family.elbo(x, outputs, prior, model.likelihood, model.kl_weight)

    return _negative_bound(model, bound)


def gmvae(model: nn.Module) -> Objective:
    """Negative evidence lower bound of GMVAE with the model's `free_bits`, in nats, averaged over the batch.

    Its terms are metrics.
    """

    def bound(variables, x, outputs):
        return gmvae_family.elbo(x, outputs, model.likelihood, model.free_bits)

    return _negative_bound(model, bound)


def _negative_bound(
    model: Any, bound: Callable[[Tree, jax.Array, Tree], dict[str, jax.Array]]
) -> Objective:
    """Build an objective from `bound(variables, x, model outputs)`, which returns `elbo` and its terms, each [B].

    Training samples the latents, evaluation uses their means. `outputs` returns `latent` [B, N],
    `cluster_log_probabilities` [B, K] and `loss` [B].
    """

    def loss(params, batch_stats, batch, rng):
        variables = {"params": params, "batch_stats": batch_stats}
        dropout_key, sample_key = jax.random.split(rng)
        outputs, updated = model.apply(
            variables,
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key, "sample": sample_key},
        )
        terms = {k: jnp.mean(v) for k, v in bound(variables, batch["image"], outputs).items()}
        value = -terms.pop("elbo")
        return value, (updated.get("batch_stats", {}), {"loss": value, **terms})

    def outputs(variables, batch):
        outputs = model.apply(variables, batch["image"], train=False)
        terms = bound(variables, batch["image"], outputs)
        selected = {name: outputs[name] for name in ("latent", "cluster_log_probabilities")}
        return {**selected, "loss": -terms["elbo"]}

    def scores(outputs):
        # Labels are used for reporting only; the best epoch is that of the best bound.
        clusters = outputs["cluster_log_probabilities"].argmax(axis=1)
        accuracy = clustering_accuracy(outputs["label"], clusters)
        return {**_mean_loss(outputs), "accuracy": accuracy}

    def warning(outputs, num_classes):
        log_probabilities = outputs["cluster_log_probabilities"]
        shares = occupancy(log_probabilities.argmax(axis=1), log_probabilities.shape[1])
        return collapse_warning(shares, num_classes)

    return Objective(loss, outputs, scores, "loss", warning)


OBJECTIVES: dict[str, Entry] = {
    "classification": Entry(
        lambda model, stage: classification(model, stage.label_smoothing),
        frozenset(["classification"]),
        "classes",
        reads_labels=True,
    ),
    "autoencoder": Entry(
        lambda model, stage: autoencoder(model),
        frozenset(["autoencoder", "vade", "gmvae"]),
        "loss",
    ),
    "vade": Entry(lambda model, stage: vade(model), frozenset(["vade"]), "clusters"),
    "gmvae": Entry(lambda model, stage: gmvae(model), frozenset(["gmvae"]), "clusters"),
}


def get_objective(name: str) -> Entry:
    """Look up an objective of this project or from another package. Raises InputError for an unknown name."""
    entry = find("objectives", name, OBJECTIVES, "objective")
    if not isinstance(entry, Entry):
        raise InputError(
            f"objective {name!r} is not a train.engine.objectives.Entry: fix the package that declares it"
        )
    return entry


def objectives_for(registered: str) -> list[str]:
    """Names of the objectives that can train a model registered for the objective `registered`."""
    names = [*OBJECTIVES, *plugin_names("objectives")]
    return [name for name in dict.fromkeys(names) if registered in get_objective(name).trains]
