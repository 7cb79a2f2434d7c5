"""What is minimized. An objective turns a model into two pure functions of variables and a batch.

`OBJECTIVES` has one entry for each; another package adds its own `Entry` through the entry points
`jax_zoo.objectives`.

A batch is a dict of arrays of one device: `image` float [B, H, W, C], already augmented and normalised, or
float [B, N] for a model of vectors, and `label` int32 [B] and perhaps `weight` float [B], which only
`classification` reads.
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
    """`loss(params, batch_stats, batch, rng) -> (scalar, (new batch_stats, metrics))`, in training mode;
    `outputs(variables, batch) -> per-example arrays`, in evaluation mode. Metrics are scalars: means over
    the batch. `scores(outputs with labels) -> loss`, and `accuracy` where there is one, over a whole split on the
    host; `monitor` is the score by which the best epoch is chosen."""

    loss: Callable[
        [Tree, Tree, Batch, jax.Array], tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]
    ]
    outputs: Callable[[Tree, Batch], dict[str, jax.Array]]
    scores: Callable[[dict[str, np.ndarray]], dict[str, float]]
    monitor: Literal["accuracy", "loss"]
    # A line to the user when the outputs of a whole split show that training goes wrong; None while it does not.
    # Its arguments: the outputs, and the number of classes to find.
    warning: Callable[[dict[str, np.ndarray], int], str | None] = lambda outputs, num_classes: None


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known about an objective by name."""

    build: Callable[[Any, Stage], Objective]  # of a Linen module, as a stage asks for it
    trains: frozenset[str]  # models that are registered for these objectives (`zoo.register_model`)
    # What its outputs say of a sample: `logits`; `cluster_log_probabilities` and `loss`; or a `loss` alone.
    answers: Literal["classes", "clusters", "loss"]
    reads_labels: bool = False


def classification(model: nn.Module, label_smoothing: float = 0.0) -> Objective:
    """Softmax cross-entropy with integer labels, averaged over the batch.

    Of the target, the share `label_smoothing` is spread evenly over all classes.

    With weights it is Keras's: their products with the losses are added up and divided by the number of
    examples, not by the sum of the weights. Accuracy is not weighted.
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
    """scikit-learn's and Keras users' "balanced" class weights, float32 [num_classes]: n / (k * n_c), so that
    all classes together count for equally much and the mean over the examples is 1. k counts the classes that
    have examples; the others weigh 0."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


def autoencoder(model: nn.Module) -> Objective:
    """The reconstruction error of an auto-encoder, latents never sampled: squared error, averaged over pixels
    and batch, or cross-entropy where the model's likelihood is Bernoulli.

    Also the first stage of VaDE. `outputs`: `latent` [B, N], `loss` [B].
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
    """VaDE's negative bound, in nats, averaged over the batch; its terms are metrics."""

    def bound(variables, x, outputs):
        prior = model.apply(variables, method="prior")
        return vade_family.elbo(x, outputs, prior, model.likelihood)

    return _negative_bound(model, bound)


def gmvae(model: nn.Module) -> Objective:
    """GMVAE's negative bound with the model's `free_bits`, in nats, averaged over the batch; its terms are metrics."""

    def bound(variables, x, outputs):
        return gmvae_family.elbo(x, outputs, model.likelihood, model.free_bits)

    return _negative_bound(model, bound)


def _negative_bound(
    model: Any, bound: Callable[[Tree, jax.Array, Tree], dict[str, jax.Array]]
) -> Objective:
    """`bound(variables, x, what the model returned)` gives `elbo` and its terms, each [B].

    Training samples the latents; `outputs` takes their means: `latent` [B, N], `cluster_log_probabilities`
    [B, K] and `loss` [B].
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
        found = model.apply(variables, batch["image"], train=False)
        terms = bound(variables, batch["image"], found)
        kept = {name: found[name] for name in ("latent", "cluster_log_probabilities")}
        return {**kept, "loss": -terms["elbo"]}

    def scores(outputs):
        # Labels are looked at, and decide nothing: the best epoch is that of the best bound.
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
    """An objective by name, of the project or of another package; InputError for an unknown one."""
    entry = find("objectives", name, OBJECTIVES, "objective")
    if not isinstance(entry, Entry):
        raise InputError(f"objective {name!r} is no train.engine.objectives.Entry: see its package")
    return entry


def objectives_of(kind: str) -> list[str]:
    """Names of the objectives that can train a model registered for `kind`."""
    names = [*OBJECTIVES, *plugin_names("objectives")]
    return [name for name in dict.fromkeys(names) if kind in get_objective(name).trains]
