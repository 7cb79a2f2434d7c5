"""Optimisers by name, and Keras's two epoch-end rules."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from train import recipe


def build_optimizer(spec: recipe.Optimizer) -> optax.GradientTransformation:
    """An Optax optimiser whose state holds `hyperparams["plateau_scale"]`, a factor of the learning rate.

    The factor is set between epochs (`set_plateau_scale`), is saved with the state, and is 1 at first.
    """

    def build(learning_rate: jax.Array, plateau_scale: jax.Array) -> optax.GradientTransformation:
        rate = learning_rate * plateau_scale
        if spec.name == "adam":
            return optax.adam(rate, b1=spec.b1, b2=spec.b2, eps=spec.epsilon)
        return optax.sgd(rate, momentum=spec.momentum or None)

    return optax.inject_hyperparams(build)(learning_rate=spec.learning_rate, plateau_scale=1.0)


def set_plateau_scale(opt_state: optax.OptState, scale: float) -> optax.OptState:
    """The optimiser's state with the learning rate multiplied by `scale` from now on."""
    old = opt_state.hyperparams["plateau_scale"]
    # A Python float would be weakly typed and compile the step anew; the sharding has to stay, too.
    new = jax.device_put(jnp.asarray(scale, old.dtype), old.sharding)
    return opt_state._replace(hyperparams={**opt_state.hyperparams, "plateau_scale": new})


def learning_rate(opt_state: optax.OptState) -> jax.Array:
    """The learning rate of the last update, the plateau factor included."""
    values = opt_state.hyperparams
    return values["learning_rate"] * values["plateau_scale"]


@dataclasses.dataclass
class ReduceOnPlateau:
    """Keras's ReduceLROnPlateau (mode "min", no cooldown), as a factor of the initial learning rate."""

    spec: recipe.Plateau
    best: float = float("inf")
    wait: int = 0
    scale: float = 1.0

    def update(self, value: float) -> float:
        """Take an epoch's value; the factor to train on with."""
        if value < self.best - self.spec.min_delta:
            self.best, self.wait = value, 0
        elif self.spec.patience:
            self.wait += 1
            if self.wait >= self.spec.patience:
                self.scale *= self.spec.factor
                self.wait = 0
        return self.scale


@dataclasses.dataclass
class EarlyStopping:
    """Keras's EarlyStopping (mode "min"): it ends training at the p-th epoch without improvement."""

    spec: recipe.EarlyStop
    best: float = float("inf")
    wait: int = 0

    def update(self, value: float) -> bool:
        """Take an epoch's value; whether training should end."""
        self.wait += 1
        if value < self.best - self.spec.min_delta:
            self.best, self.wait = value, 0
        return bool(self.spec.patience) and self.wait >= self.spec.patience
