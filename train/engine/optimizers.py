"""Optimizers by name, and Keras's two end-of-epoch rules.

`OPTIMIZERS` has one entry per optimizer. Other packages add theirs through the entry point group `jax_zoo.optimizers`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from train import recipe
from zoo.common.names import find

# (spec, learning rate) -> the gradient transformations of an optimizer in order, including scaling by the learning
# rate. A list, because a nested chain would change the structure of saved states.
Transformations = Callable[[recipe.Optimizer, jax.Array], list[optax.GradientTransformation]]


def adam(spec: recipe.Optimizer, rate: jax.Array) -> list[optax.GradientTransformation]:
    """Adam of Kingma and Ba 2015, as in torch: epsilon is added to the corrected second moment's square root."""
    return [
        optax.scale_by_adam(spec.b1, spec.b2, spec.epsilon),
        optax.scale_by_learning_rate(rate),
    ]


def keras_adam(spec: recipe.Optimizer, rate: jax.Array) -> list[optax.GradientTransformation]:
    """Keras's Adam: epsilon is added before the bias correction ("epsilon hat", Kingma and Ba 2015, section 2).

    In the first steps, this epsilon weighs up to 1 / sqrt(1 - b2) = 32 times as much: with a gradient of 1e-5, the
    first step is 0.76 of the learning rate, compared with 0.99 for `adam`.
    """
    return [
        scale_by_keras_adam(spec.b1, spec.b2, spec.epsilon),
        optax.scale_by_learning_rate(rate),
    ]


def scale_by_keras_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Like `optax.scale_by_adam`, with the same state, but epsilon as in `keras_adam`."""
    plain = optax.scale_by_adam(b1, b2, epsilon)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        _, state = plain.update(updates, state, params)
        correction1, correction2 = (1 - b ** state.count.astype(jnp.float32) for b in (b1, b2))
        scale = jnp.sqrt(correction2) / correction1

        def scaled(mean: jax.Array, square: jax.Array) -> jax.Array:
            return scale * mean / (jnp.sqrt(square) + epsilon)

        return jax.tree.map(scaled, state.mu, state.nu), state

    return optax.GradientTransformation(plain.init, update)


def sgd(spec: recipe.Optimizer, rate: jax.Array) -> list[optax.GradientTransformation]:
    """Keras's SGD. The momentum accumulates gradients already scaled by the learning rate of their step."""
    momentum = [optax.trace(spec.momentum, spec.nesterov)] if spec.momentum else []
    return [optax.scale_by_learning_rate(rate), *momentum]


OPTIMIZERS: dict[str, Transformations] = {"adam": adam, "keras_adam": keras_adam, "sgd": sgd}


# Settings that can be arguments of a compiled step. Whether one is 0 changes the program.
SCALARS = ("learning_rate", "l2", "weight_decay")


def scalars(spec: recipe.Optimizer) -> dict[str, float]:
    """Values of `SCALARS`."""
    return {name: getattr(spec, name) for name in SCALARS}


def build_optimizer(
    spec: recipe.Optimizer,
    num_steps: int | None = None,
    values: Mapping[str, ArrayLike] | None = None,
) -> optax.GradientTransformation:
    """Build an Optax optimizer whose state has `hyperparams["plateau_scale"]`, a factor of the learning rate.

    The factor starts at 1, is set between epochs (`set_plateau_scale`) and is saved with the state. `num_steps` is the
    number of steps of the stage; the cosine schedule requires it. `values` replaces those of `SCALARS` in `spec`, by
    arrays that may be traced; each must be 0 where it is 0 in `spec`.
    """
    values = scalars(spec) if values is None else values

    transformations_of: Transformations = find("optimizers", spec.name, OPTIMIZERS, "optimizer")

    def build(learning_rate: jax.Array, plateau_scale: jax.Array) -> optax.GradientTransformation:
        rate = learning_rate * plateau_scale
        transformations = []
        if spec.l2:
            transformations.append(optax.add_decayed_weights(2 * values["l2"], mask=kernel_mask))
        if spec.clip_norm:
            transformations.append(optax.clip_by_global_norm(spec.clip_norm))
        if spec.weight_decay and not spec.decoupled:
            transformations.append(optax.add_decayed_weights(values["weight_decay"]))
        transformations += transformations_of(spec, rate)
        if spec.weight_decay and spec.decoupled:
            transformations.append(optax.add_decayed_weights(-rate * values["weight_decay"]))
        return optax.chain(*transformations)

    num_updates = num_steps and -(-num_steps // spec.accumulate)
    optimizer = optax.inject_hyperparams(build)(
        learning_rate=rate_schedule(spec, num_updates, values["learning_rate"]), plateau_scale=1.0
    )
    if spec.accumulate == 1:
        return optimizer
    return optax.MultiSteps(optimizer, spec.accumulate).gradient_transformation()


def kernel_mask(params: Any) -> Any:
    """Mask of the parameters to which Keras's kernel_regularizer applies: those named `kernel`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def rate_schedule(
    spec: recipe.Optimizer, num_updates: int | None = None, initial: Any = None
) -> ArrayLike | Callable[[jax.Array], jax.Array]:
    """Learning rate as a function of the update, counted from 0, or a constant; `initial` replaces that of `spec`."""
    initial = spec.learning_rate if initial is None else initial
    is_cosine = spec.schedule == "cosine"
    if not (spec.decay or spec.warmup_steps or is_cosine):
        return initial
    if is_cosine and num_updates is None:
        raise ValueError("the cosine schedule requires the number of updates")
    length = max((num_updates or 0) - spec.warmup_steps, 1)

    def rate(update: jax.Array) -> jax.Array:
        factor = 1 / (1 + spec.decay * update)
        if is_cosine:
            progress = jnp.clip((update - spec.warmup_steps) / length, 0, 1)
            factor *= (1 + jnp.cos(jnp.pi * progress)) / 2
        if spec.warmup_steps:
            factor *= jnp.minimum(update / spec.warmup_steps, 1)
        return factor * initial

    return rate


def set_plateau_scale(opt_state: optax.OptState, scale: float) -> optax.OptState:
    """Return the optimizer state with `scale` as the plateau factor of the learning rate."""
    if isinstance(opt_state, optax.MultiStepsState):
        inner = set_plateau_scale(opt_state.inner_opt_state, scale)
        return opt_state._replace(inner_opt_state=inner)
    old = opt_state.hyperparams["plateau_scale"]
    # A weakly typed Python float, or a different sharding, would recompile the step.
    new = np.asarray(scale, old.dtype)
    if isinstance(old, jax.Array):
        new = jax.device_put(new, old.sharding)
    return opt_state._replace(hyperparams={**opt_state.hyperparams, "plateau_scale": new})


def learning_rate(opt_state: optax.OptState) -> jax.Array:
    """Learning rate of the last update, including the plateau factor."""
    if isinstance(opt_state, optax.MultiStepsState):
        opt_state = opt_state.inner_opt_state
    values = opt_state.hyperparams
    return values["learning_rate"] * values["plateau_scale"]


@dataclasses.dataclass
class ReduceOnPlateau:
    """State of Keras's ReduceLROnPlateau (mode "min", no cooldown). `scale` is a factor of the learning rate."""

    best: float = float("inf")
    wait: int = 0
    scale: float = 1.0

    def update(self, value: float, rule: recipe.Plateau) -> float:
        """Record the value of an epoch. Returns the factor for the next epoch."""
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
    """State of Keras's EarlyStopping (mode "min"), which stops after `patience` epochs without improvement."""

    best: float = float("inf")
    wait: int = 0

    def update(self, value: float, rule: recipe.EarlyStop) -> bool:
        """Record the value of an epoch. Returns whether to stop."""
        self.wait += 1
        if value < self.best - rule.min_delta:
            self.best, self.wait = value, 0
        return bool(rule.patience) and self.wait >= rule.patience
