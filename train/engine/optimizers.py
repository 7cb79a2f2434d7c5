"""Optimizers by name, and Keras's two epoch-end rules.

`OPTIMIZERS` has one entry for each; another package adds its own through the entry points `jax_zoo.optimizers`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train import recipe
from zoo.common.names import find

# The transformations of gradients that make an optimizer, in order, the (scaled) learning rate included. A list rather
# than a chain: chained in a chain, they would change the structure of saved states.
Parts = Callable[[recipe.Optimizer, jax.Array], list[optax.GradientTransformation]]


def adam(spec: recipe.Optimizer, rate: jax.Array) -> list[optax.GradientTransformation]:
    """Keras's Adam, with its epsilon outside of the root."""
    return [
        optax.scale_by_adam(spec.b1, spec.b2, spec.epsilon),
        optax.scale_by_learning_rate(rate),
    ]


def sgd(spec: recipe.Optimizer, rate: jax.Array) -> list[optax.GradientTransformation]:
    """Keras's SGD: what has been added to the momentum keeps the rate that it came with."""
    momentum = [optax.trace(spec.momentum, spec.nesterov)] if spec.momentum else []
    return [optax.scale_by_learning_rate(rate), *momentum]


OPTIMIZERS: dict[str, Parts] = {"adam": adam, "sgd": sgd}


def build_optimizer(
    spec: recipe.Optimizer, num_steps: int | None = None
) -> optax.GradientTransformation:
    """An Optax optimizer whose state holds `hyperparams["plateau_scale"]`, a factor of the learning rate.

    The factor is set between epochs (`set_plateau_scale`), is saved with the state, and is 1 at first. `num_steps` is
    how many steps the stage has, which a cosine needs to know.
    """

    make_parts: Parts = find("optimizers", spec.name, OPTIMIZERS, "optimizer")

    def build(learning_rate: jax.Array, plateau_scale: jax.Array) -> optax.GradientTransformation:
        rate = learning_rate * plateau_scale
        parts = []
        if spec.l2:
            parts.append(optax.add_decayed_weights(2 * spec.l2, mask=kernels))
        if spec.clip_norm:
            parts.append(optax.clip_by_global_norm(spec.clip_norm))
        if spec.weight_decay and not spec.decoupled:
            parts.append(optax.add_decayed_weights(spec.weight_decay))
        parts += make_parts(spec, rate)
        if spec.weight_decay and spec.decoupled:
            parts.append(optax.add_decayed_weights(-rate * spec.weight_decay))
        return optax.chain(*parts)

    updates = num_steps and -(-num_steps // spec.accumulate)
    optimizer = optax.inject_hyperparams(build)(
        learning_rate=rate_schedule(spec, updates), plateau_scale=1.0
    )
    if spec.accumulate == 1:
        return optimizer
    return optax.MultiSteps(optimizer, spec.accumulate).gradient_transformation()


def kernels(params: Any) -> Any:
    """Which parameters are kernels: what Keras's kernel_regularizer is about."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def rate_schedule(
    spec: recipe.Optimizer, num_updates: int | None = None
) -> float | Callable[[jax.Array], jax.Array]:
    """The learning rate of update n, counted from 0: a number, or a function of n."""
    if not (spec.decay or spec.warmup_steps or spec.schedule == "cosine"):
        return spec.learning_rate
    falls = spec.schedule == "cosine"
    if falls and num_updates is None:
        raise ValueError("a cosine needs to know the number of updates")
    length = max((num_updates or 0) - spec.warmup_steps, 1)

    def rate(update: jax.Array) -> jax.Array:
        factor = 1 / (1 + spec.decay * update)
        if falls:
            progress = jnp.clip((update - spec.warmup_steps) / length, 0, 1)
            factor *= (1 + jnp.cos(jnp.pi * progress)) / 2
        if spec.warmup_steps:
            factor *= jnp.minimum(update / spec.warmup_steps, 1)
        return spec.learning_rate * factor

    return rate


def set_plateau_scale(opt_state: optax.OptState, scale: float) -> optax.OptState:
    """The optimiser's state with the learning rate multiplied by `scale` from now on."""
    if isinstance(opt_state, optax.MultiStepsState):
        inner = set_plateau_scale(opt_state.inner_opt_state, scale)
        return opt_state._replace(inner_opt_state=inner)
    old = opt_state.hyperparams["plateau_scale"]
    # A Python float would be weakly typed and compile the step anew; the sharding has to stay, too.
    new = jax.device_put(jnp.asarray(scale, old.dtype), old.sharding)
    return opt_state._replace(hyperparams={**opt_state.hyperparams, "plateau_scale": new})


def learning_rate(opt_state: optax.OptState) -> jax.Array:
    """The learning rate of the last update, the plateau factor included."""
    if isinstance(opt_state, optax.MultiStepsState):
        opt_state = opt_state.inner_opt_state
    values = opt_state.hyperparams
    return values["learning_rate"] * values["plateau_scale"]


@dataclasses.dataclass
class ReduceOnPlateau:
    """The state of Keras's ReduceLROnPlateau (mode "min", no cooldown); `scale` is a factor of the learning rate."""

    best: float = float("inf")
    wait: int = 0
    scale: float = 1.0

    def update(self, value: float, rule: recipe.Plateau) -> float:
        """Take an epoch's value; the factor to train on with."""
        if value < self.best - rule.min_delta:
            self.best, self.wait = value, 0
        elif rule.patience:
            self.wait += 1
            if self.wait >= rule.patience:
                self.scale *= rule.factor
                self.wait = 0
        return self.scale


@dataclasses.dataclass
class EarlyStopping:
    """The state of Keras's EarlyStopping (mode "min"): it ends training at the p-th epoch without improvement."""

    best: float = float("inf")
    wait: int = 0

    def update(self, value: float, rule: recipe.EarlyStop) -> bool:
        """Take an epoch's value; whether training should end."""
        self.wait += 1
        if value < self.best - rule.min_delta:
            self.best, self.wait = value, 0
        return bool(rule.patience) and self.wait >= rule.patience
