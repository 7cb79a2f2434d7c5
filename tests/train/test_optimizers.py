"""Optimisers and epoch-end rules against Keras itself."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from train import recipe
from train.engine.optimizers import (
    EarlyStopping,
    ReduceOnPlateau,
    build_optimizer,
    learning_rate,
    set_plateau_scale,
)


@pytest.mark.parametrize(
    ("spec", "theirs"),
    [
        (recipe.Optimizer("adam", 1e-2), lambda: keras.optimizers.Adam(1e-2)),
        (
            recipe.Optimizer("adam", 1e-2, b1=0.8, b2=0.99),
            lambda: keras.optimizers.Adam(1e-2, beta_1=0.8, beta_2=0.99),
        ),
        (recipe.Optimizer("sgd", 1e-1), lambda: keras.optimizers.SGD(1e-1)),
        (
            recipe.Optimizer("sgd", 1e-2, momentum=0.9),
            lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
        ),
    ],
    ids=["adam", "adam betas", "sgd", "momentum"],
)
def test_twenty_steps_equal_keras(spec, theirs):
    rng = np.random.default_rng(0)
    matrix, target = rng.normal(size=(8, 5)).astype("f"), rng.normal(size=8).astype("f")

    def loss(w):
        return jnp.mean((matrix @ w - target) ** 2)

    start = rng.normal(size=5).astype("f")
    transform = build_optimizer(spec)
    ours, state = jnp.asarray(start), transform.init(jnp.asarray(start))
    variable, optimizer = keras.Variable(start), theirs()
    for _ in range(20):
        updates, state = transform.update(jax.grad(loss)(ours), state, ours)
        ours = optax.apply_updates(ours, updates)
        optimizer.apply([jax.grad(loss)(variable.value)], [variable])
    assert np.abs(ours - start).max() > 0.05  # it moved
    np.testing.assert_allclose(ours, variable.value, rtol=1e-5, atol=1e-6)


def test_plateau_scale_multiplies_the_rate_and_compiles_nothing():
    transform = build_optimizer(recipe.Optimizer("sgd", 0.5))
    params = jnp.ones(3)
    state = transform.init(params)
    traces = []

    @jax.jit
    def update(state):
        traces.append(1)
        return transform.update(jnp.ones(3), state, params)

    first, state = update(state)
    second, state = update(set_plateau_scale(state, 0.9))
    np.testing.assert_allclose(first, -0.5 * np.ones(3))
    np.testing.assert_allclose(second, -0.45 * np.ones(3))
    np.testing.assert_allclose(learning_rate(state), 0.45)
    assert len(traces) == 1


class FakeModel:
    """As much of a Keras model as its callbacks touch."""

    def __init__(self):
        self.optimizer = keras.optimizers.SGD(1.0)
        self.stop_training = False


def losses(seed):
    """Falling, with noise and with stretches of exactly equal values."""
    rng = np.random.default_rng(seed)
    values = 1 / np.sqrt(1 + np.arange(80)) + rng.normal(0, 0.02, 80)
    return np.round(values, 2).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [1, 5])
def test_plateau_equals_keras(seed, patience):
    model = FakeModel()
    theirs = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=0.9, patience=patience, min_delta=1e-4
    )
    theirs.set_model(model)
    theirs.on_train_begin()
    ours = ReduceOnPlateau(recipe.Plateau(patience=patience, factor=0.9, min_delta=1e-4))
    for epoch, value in enumerate(losses(seed)):
        theirs.on_epoch_end(epoch, {"val_loss": value})
        np.testing.assert_allclose(
            ours.update(value), float(model.optimizer.learning_rate), rtol=1e-5
        )
    assert ours.scale < 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [1, 4, 15])
@pytest.mark.parametrize("min_delta", [0.0, 0.013])
def test_early_stopping_ends_at_keras_epoch(seed, patience, min_delta):
    model = FakeModel()
    theirs = keras.callbacks.EarlyStopping("val_loss", patience=patience, min_delta=min_delta)
    theirs.set_model(model)
    theirs.on_train_begin()
    ours = EarlyStopping(recipe.EarlyStop(patience=patience, min_delta=min_delta))
    for epoch, value in enumerate(losses(seed)):
        theirs.on_epoch_end(epoch, {"val_loss": value})
        assert ours.update(value) == model.stop_training
        if model.stop_training:
            return
    assert patience == 15  # the shorter ones do end


def test_rules_that_are_off_never_act():
    plateau, early = ReduceOnPlateau(recipe.Plateau()), EarlyStopping(recipe.EarlyStop())
    for _ in range(50):
        assert plateau.update(1.0) == 1.0
        assert not early.update(1.0)


def test_nan_never_counts_as_an_improvement():
    early = EarlyStopping(recipe.EarlyStop(patience=2))
    assert [early.update(v) for v in (1.0, float("nan"), float("nan"))] == [False, False, True]
