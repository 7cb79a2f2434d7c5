"""Optimizers and end-of-epoch rules compared with Keras and torch."""

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

RNG = np.random.default_rng(0)
MATRIX, TARGET = RNG.normal(size=(8, 5)).astype("f"), RNG.normal(size=8).astype("f")
START = RNG.normal(size=5).astype("f")


def loss(kernel):
    return jnp.mean((MATRIX @ kernel - TARGET) ** 2)


GRADIENT = jax.jit(jax.grad(loss))


def optimize(spec, gradient=GRADIENT, steps=20):
    """The parameter after these steps, and the learning rate of each."""
    transform = build_optimizer(spec, steps)
    params = {"kernel": jnp.asarray(START)}
    state, rates = transform.init(params), []

    @jax.jit
    def step(params, state):
        updates, state = transform.update({"kernel": gradient(params["kernel"])}, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
        rates.append(float(learning_rate(state)))
    return np.asarray(params["kernel"]), rates


def decaying(kind, rate, decay, **options):
    """Keras 2's `decay`, which is a schedule in Keras 3."""
    schedule = keras.optimizers.schedules.InverseTimeDecay(rate, 1, decay)
    return kind(schedule, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "make_keras"),
    [
        (recipe.Optimizer("adam", 1e-2), lambda k: k.Adam(1e-2)),
        (recipe.Optimizer("keras_adam", 1e-2, epsilon=0.1), lambda k: k.Adam(1e-2, epsilon=0.1)),
        (
            recipe.Optimizer("adam", 1e-2, b1=0.8, b2=0.99),
            lambda k: k.Adam(1e-2, beta_1=0.8, beta_2=0.99),
        ),
        (recipe.Optimizer("sgd", 1e-1), lambda k: k.SGD(1e-1)),
        (recipe.Optimizer("sgd", 1e-2, momentum=0.9), lambda k: k.SGD(1e-2, momentum=0.9)),
        (
            recipe.Optimizer("sgd", 1e-2, momentum=0.9, nesterov=True),
            lambda k: k.SGD(1e-2, momentum=0.9, nesterov=True),
        ),
        (
            recipe.Optimizer("adam", 1e-2, weight_decay=0.1),
            lambda k: k.AdamW(1e-2, weight_decay=0.1),
        ),
        (
            recipe.Optimizer("sgd", 1e-2, momentum=0.9, weight_decay=0.1),
            lambda k: k.SGD(1e-2, momentum=0.9, weight_decay=0.1),
        ),
        (recipe.Optimizer("adam", 1e-2, decay=0.1), lambda k: decaying(k.Adam, 1e-2, 0.1)),
        (
            recipe.Optimizer("sgd", 1e-2, momentum=0.9, decay=0.1),
            lambda k: decaying(k.SGD, 1e-2, 0.1, momentum=0.9),
        ),
        (recipe.Optimizer("sgd", 5e-2, clip_norm=0.5), lambda k: k.SGD(5e-2, global_clipnorm=0.5)),
        (
            recipe.Optimizer("adam", 5e-2, accumulate=4),
            lambda k: k.Adam(5e-2, gradient_accumulation_steps=4),
        ),
        (
            recipe.Optimizer("adam", 2e-2, schedule="cosine"),
            lambda k: k.Adam(k.schedules.CosineDecay(2e-2, 20)),
        ),
        (
            recipe.Optimizer("sgd", 1e-1, schedule="cosine", warmup_steps=5),
            lambda k: k.SGD(k.schedules.CosineDecay(0.0, 15, warmup_target=1e-1, warmup_steps=5)),
        ),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_twenty_steps_equal_keras(spec, make_keras):
    result, _ = optimize(spec)
    variable, optimizer = keras.Variable(START), make_keras(keras.optimizers)
    optimizer.build([variable])
    for _ in range(20):
        optimizer.apply([GRADIENT(variable.value)])
    assert np.abs(result - START).max() > 0.03  # it moved
    np.testing.assert_allclose(result, variable.value, rtol=1e-5, atol=1e-6)


GRADIENTS = np.logspace(-7, 0, 8, dtype="f")


def test_keras_adam_equals_keras_for_small_gradients():
    """Gradients from 1e-7 to 1, for ten steps; Optax's Adam differs by up to a factor of 20."""

    def run(name):
        spec = recipe.Optimizer(name, 1e-3)
        transform = build_optimizer(spec)
        params = {"kernel": jnp.zeros(8)}
        state = transform.init(params)
        for _ in range(10):
            updates, state = transform.update({"kernel": jnp.asarray(GRADIENTS)}, state, params)
            params = optax.apply_updates(params, updates)
            yield np.asarray(params["kernel"])

    variable, optimizer = keras.Variable(np.zeros(8, "f")), keras.optimizers.Adam(1e-3)
    optimizer.build([variable])
    ours = list(run("keras_adam"))
    for value in ours:
        optimizer.apply([GRADIENTS])
        np.testing.assert_allclose(value, variable.value, rtol=2e-5)
    # sqrt(0.001) * 1e-5 / (sqrt(0.001) * 1e-5 + 1e-7), by hand.
    assert ours[0][2] == pytest.approx(-0.760e-3, rel=1e-3)
    assert next(run("adam"))[2] == pytest.approx(-0.990e-3, rel=1e-3)


def test_l2_equals_keras_regularizer_and_applies_to_kernels_only():
    regularizer = keras.regularizers.L2(0.1)

    def penalized(kernel):
        return loss(kernel) + regularizer(kernel)

    result, _ = optimize(recipe.Optimizer("sgd", 1e-2, l2=0.1))
    expected, _ = optimize(recipe.Optimizer("sgd", 1e-2), jax.grad(penalized))
    without_l2, _ = optimize(recipe.Optimizer("sgd", 1e-2))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(result - without_l2).max() > 1e-2

    transform = build_optimizer(recipe.Optimizer("sgd", 1.0, l2=0.1))
    params = {"conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    updates, _ = transform.update(
        jax.tree.map(jnp.zeros_like, params), transform.init(params), params
    )
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.2)
    np.testing.assert_array_equal(updates["conv"]["bias"], 0)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0)


COUPLED = {"epsilon": 1e-8, "decoupled": False}


# Computed by torch 2.13 from the same arrays, with torch's epsilon.
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            recipe.Optimizer("adam", 1e-2, weight_decay=0.1, **COUPLED),
            [1.60347, 1.118223, 0.1600983, -1.011137, 0.1908769],
        ),
        (
            recipe.Optimizer("adam", 1e-2, b1=0.8, weight_decay=0.01, **COUPLED),
            [1.605051, 1.12085, 0.1622054, -1.013492, 0.187501],
        ),
        (
            recipe.Optimizer("adam", 1e-2, epsilon=1e-8, weight_decay=0.1),
            [1.5699, 1.09444, 0.1550292, -0.9893432, 0.1890071],
        ),
        (
            recipe.Optimizer("sgd", 1e-2, momentum=0.9, weight_decay=0.1, **COUPLED),
            [0.1470707, 0.1383895, -1.035149, -0.08537002, 0.7693524],
        ),
        (
            recipe.Optimizer(
                "sgd", 1e-2, momentum=0.9, nesterov=True, weight_decay=0.01, **COUPLED
            ),
            [0.260323, 0.2490119, -0.9746338, -0.1721114, 0.7397082],
        ),
        (
            recipe.Optimizer("sgd", 5e-2, clip_norm=0.5),
            [1.580646, 1.105833, 0.06228453, -1.04002, 0.2002244],
        ),
    ],
)
def test_twenty_steps_equal_torch(spec, expected):
    np.testing.assert_allclose(optimize(spec)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_learning_rates_of_warmup_and_cosine():
    cosine = recipe.Optimizer("sgd", 0.1, schedule="cosine", warmup_steps=4)
    _, rates = optimize(cosine)
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-7)
    np.testing.assert_allclose(rates[12], 0.05, rtol=1e-6)  # halfway down
    assert 0 < rates[-1] < 0.002
    # Schedules count updates, not steps: 16 steps make 8 updates, of which the first 4 are warm-up.
    _, rates = optimize(recipe.Optimizer("sgd", 0.1, warmup_steps=4, accumulate=2), steps=16)
    np.testing.assert_allclose(rates[1::2][:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_plateau_scale_multiplies_the_rate_without_recompiling(accumulate):
    transform = build_optimizer(recipe.Optimizer("sgd", 0.5, accumulate=accumulate))
    params = jnp.ones(3)
    state = transform.init(params)
    traces = []

    @jax.jit
    def update(state):
        traces.append(1)
        return transform.update(jnp.ones(3), state, params)

    for _ in range(accumulate):
        first, state = update(state)
    state = set_plateau_scale(state, 0.9)
    for _ in range(accumulate):
        second, state = update(state)
    np.testing.assert_allclose(first, -0.5 * np.ones(3))
    np.testing.assert_allclose(second, -0.45 * np.ones(3))
    np.testing.assert_allclose(learning_rate(state), 0.45)
    assert len(traces) == 1


class FakeModel:
    """The attributes of a Keras model that its callbacks use."""

    def __init__(self):
        self.optimizer = keras.optimizers.SGD(1.0)
        self.stop_training = False


def losses(seed):
    """Decreasing values with noise, some of them equal in succession."""
    rng = np.random.default_rng(seed)
    values = 1 / np.sqrt(1 + np.arange(80)) + rng.normal(0, 0.02, 80)
    return np.round(values, 2).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [1, 5])
def test_plateau_equals_keras(seed, patience):
    model = FakeModel()
    callback = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=0.9, patience=patience, min_delta=1e-4
    )
    callback.set_model(model)
    callback.on_train_begin()
    rule, state = recipe.Plateau(patience=patience, factor=0.9, min_delta=1e-4), ReduceOnPlateau()
    for epoch, value in enumerate(losses(seed)):
        callback.on_epoch_end(epoch, {"val_loss": value})
        np.testing.assert_allclose(
            state.update(value, rule), float(model.optimizer.learning_rate), rtol=1e-5
        )
    assert state.scale < 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [1, 4, 15])
@pytest.mark.parametrize("min_delta", [0.0, 0.013])
def test_early_stopping_stops_at_the_same_epoch_as_keras(seed, patience, min_delta):
    model = FakeModel()
    callback = keras.callbacks.EarlyStopping("val_loss", patience=patience, min_delta=min_delta)
    callback.set_model(model)
    callback.on_train_begin()
    rule, state = recipe.EarlyStop(patience=patience, min_delta=min_delta), EarlyStopping()
    for epoch, value in enumerate(losses(seed)):
        callback.on_epoch_end(epoch, {"val_loss": value})
        assert state.update(value, rule) == model.stop_training
        if model.stop_training:
            return
    assert patience == 15  # training stops early with the smaller ones


def test_disabled_rules_have_no_effect():
    plateau, early = ReduceOnPlateau(), EarlyStopping()
    for _ in range(50):
        assert plateau.update(1.0, recipe.Plateau()) == 1.0
        assert not early.update(1.0, recipe.EarlyStop())


def test_nan_is_not_an_improvement():
    rule, early = recipe.EarlyStop(patience=2), EarlyStopping()
    assert [early.update(v, rule) for v in (1.0, float("nan"), float("nan"))] == [
        False,
        False,
        True,
    ]
