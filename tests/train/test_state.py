"""The loop state: conversion to JSON and back, and what a new stage or epoch resets."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.engine.optimizers import EarlyStopping, ReduceOnPlateau
from train.engine.state import Best, EpochSums, LoopState
from train.engine.steps import TrainState
from train.recipe import EarlyStop

ARRAYS = TrainState(jnp.int32(9), {"w": jnp.ones(2)}, {}, (), {})


def advanced():
    """A state in which every field differs from its default."""
    return LoopState(
        ARRAYS,
        stage=1,
        epoch=5,
        stage_epoch=2,
        step=53,
        stage_step=23,
        stopped=True,
        warned=True,
        train_seconds=0.1 + 0.2,
        sums=EpochSums(1 / 3, 2.5, 16, 3.5, 0.25, 1e-3),
        plateau=ReduceOnPlateau(0.7, 2, 0.01),
        early_stop=EarlyStopping(0.6, 3),
        best=Best(-0.6, 4),
    )


def through_json(loop):
    """Save and load the state as a checkpoint does."""
    return LoopState.from_json(json.loads(json.dumps(loop.to_json())), loop.train)


def test_all_fields_survive_json():
    loop, new = advanced(), LoopState()
    for field in dataclasses.fields(LoopState):
        value, default = getattr(loop, field.name), getattr(new, field.name)
        assert value is not default and (field.name == "train" or value != default), field.name
    assert through_json(loop) == loop
    assert through_json(loop).train is ARRAYS
    assert set(loop.to_json()) == {f.name for f in dataclasses.fields(LoopState)} - {"train"}


def test_infinities_survive_and_are_valid_json():
    loop = LoopState(ARRAYS)
    json.dumps(loop.to_json(), allow_nan=False)
    loaded = through_json(loop)
    assert loaded == loop
    assert loaded.plateau.best == loaded.early_stop.best == math.inf
    assert loaded.best.score is None
    # Any value is an improvement over infinity.
    assert not loaded.early_stop.update(1e30, EarlyStop(1)) and loaded.early_stop.best == 1e30


def test_nan_sums_survive():
    """The accuracy of an objective without one."""
    loop = LoopState(ARRAYS)
    loop.sums.accuracy = math.nan
    assert math.isnan(through_json(loop).sums.accuracy)


# Written by version 0.1 in the middle of an epoch.
VERSION_0_1 = {
    "stage": 1,
    "epoch": 5,
    "stage_epoch": 2,
    "step": 53,
    "stage_step": 23,
    "train_seconds": 0.30000000000000004,
    "loss_sum": 0.3333333333333333,
    "accuracy_sum": 2.5,
    "examples": 16,
    "seconds": 3.5,
    "wait_seconds": 0.25,
    "plateau_best": 0.7,
    "plateau_wait": 2,
    "plateau_scale": 0.01,
    "stop_best": 0.6,
    "stop_wait": 3,
    "stopped": True,
    "best_score": -0.6,
    "best_epoch": 4,
}


def test_checkpoint_of_version_0_1_is_loaded():
    """Except what it did not store: the last learning rate, and whether a warning was shown."""
    expected = advanced()
    expected.warned, expected.sums.learning_rate = False, 0.0
    assert LoopState.from_json(VERSION_0_1, ARRAYS) == expected
    without_values = {"plateau_best": None, "stop_best": None, "best_score": None}
    loaded = LoopState.from_json(VERSION_0_1 | without_values, ARRAYS)
    assert loaded.plateau.best == loaded.early_stop.best == math.inf
    assert loaded.best.score is None


@pytest.mark.parametrize("comparable", [True, False])
def test_start_stage_resets_only_fields_of_the_stage(comparable):
    """And the best score unless the stages are comparable, but not the best epoch."""
    loop, arrays = advanced(), ARRAYS.replace(step=jnp.int32(0))
    loop.start_stage(2, arrays, comparable=comparable)
    new, before = LoopState(), advanced()
    reset = {"stage_epoch", "stage_step", "stopped", "sums", "plateau", "early_stop"}
    for field in dataclasses.fields(LoopState):
        name = field.name
        if name not in ("train", "stage", "best"):
            expected = new if name in reset else before
            assert getattr(loop, name) == getattr(expected, name), name
    assert loop.train is arrays and loop.stage == 2
    assert loop.best == Best(-0.6 if comparable else None, 4)


def test_start_epoch_resets_only_the_sums():
    loop = advanced()
    loop.start_epoch()
    assert loop == dataclasses.replace(advanced(), sums=EpochSums())


def test_best_score_must_be_finite_and_strictly_better():
    best = Best()
    scores = [math.nan, -math.inf, 0.5, 0.5, 0.4, math.inf, math.nan, 0.6]
    updated = [best.update(score, epoch) for epoch, score in enumerate(scores, 1)]
    assert updated == [score in (0.5, 0.6) and epoch != 4 for epoch, score in enumerate(scores, 1)]
    assert best == Best(0.6, 8)


def test_the_average_is_evaluated_if_there_is_one():
    averaged = ARRAYS.replace(average={"w": jnp.zeros(2)})
    for state, expected in ((ARRAYS, 1), (averaged, 0)):
        variables = jax.device_get(state.variables())
        np.testing.assert_array_equal(variables["params"]["w"], expected)
