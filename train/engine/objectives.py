"""What is minimised. An objective turns a model into two pure functions of variables and a batch.

A batch is a dict of arrays of one device: `image` float [B, H, W, C], already augmented and normalised,
and `label` int32 [B].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

Tree = Any
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """`loss(params, batch_stats, batch, rng) -> (scalar, (new batch_stats, metrics))`, in training mode;
    `outputs(variables, batch) -> per-example arrays`, in evaluation mode. Metrics are scalars: means over
    the batch."""

    loss: Callable[
        [Tree, Tree, Batch, jax.Array], tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]
    ]
    outputs: Callable[[Tree, Batch], dict[str, jax.Array]]


def classification(model: nn.Module) -> Objective:
    """Softmax cross-entropy with integer labels, averaged over the batch."""

    def loss(params, batch_stats, batch, rng):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        value = jnp.mean(losses)
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])
        return value, (updated.get("batch_stats", {}), {"loss": value, "accuracy": accuracy})

    def outputs(variables, batch):
        return {"logits": model.apply(variables, batch["image"], train=False)}

    return Objective(loss, outputs)


OBJECTIVES: dict[str, Callable[[nn.Module], Objective]] = {"classification": classification}
