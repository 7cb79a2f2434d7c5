"""Where training stands, as plain data and back; what a stage begins anew."""

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


def far_on():
    """A state of which no field is what it is at first."""
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
    """What a checkpoint makes of it."""
    return LoopState.from_json(json.loads(json.dumps(loop.to_json())), loop.train)


def test_no_field_is_forgotten_on_the_way_through_json():
    loop, fresh = far_on(), LoopState()
    for field in dataclasses.fields(LoopState):
        value, first = getattr(loop, field.name), getattr(fresh, field.name)
        assert value is not first and (field.name == "train" or value != first), field.name
    assert through_json(loop) == loop
    assert through_json(loop).train is ARRAYS
    assert set(loop.to_json()) == {f.name for f in dataclasses.fields(LoopState)} - {"train"}


def test_infinities_survive_and_are_no_numbers_of_json():
    loop = LoopState(ARRAYS)
    json.dumps(loop.to_json(), allow_nan=False)
    again = through_json(loop)
    assert again == loop
    assert again.plateau.best == again.early_stop.best == math.inf
    assert again.best.score is None
    # What a rule that starts from infinity thinks of its first value.
    assert not again.early_stop.update(1e30, EarlyStop(1)) and again.early_stop.best == 1e30


def test_sums_that_are_no_numbers_survive():
    """Of an objective without an accuracy."""
    loop = LoopState(ARRAYS)
    loop.sums.accuracy = math.nan
    assert math.isnan(through_json(loop).sums.accuracy)


# As version 0.1 wrote it, in the middle of a stage's epoch.
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


def test_a_checkpoint_of_version_0_1_is_the_same_state():
    """But for what it did not keep: the last learning rate, and whether a warning was said."""
    expected = far_on()
    expected.warned, expected.sums.learning_rate = False, 0.0
    assert LoopState.from_json(VERSION_0_1, ARRAYS) == expected
    never = {"plateau_best": None, "stop_best": None, "best_score": None}
    read = LoopState.from_json(VERSION_0_1 | never, ARRAYS)
    assert read.plateau.best == read.early_stop.best == math.inf
    assert read.best.score is None


@pytest.mark.parametrize("comparable", [True, False])
def test_a_stage_begins_anew_what_belongs_to_it(comparable):
    """And nothing else; the best score is kept where the stages can be compared, its epoch always."""
    loop, arrays = far_on(), ARRAYS.replace(step=jnp.int32(0))
    loop.start_stage(2, arrays, comparable=comparable)
    fresh, before = LoopState(), far_on()
    belong = {"stage_epoch", "stage_step", "stopped", "sums", "plateau", "early_stop"}
    for field in dataclasses.fields(LoopState):
        name = field.name
        if name not in ("train", "stage", "best"):
            expected = fresh if name in belong else before
            assert getattr(loop, name) == getattr(expected, name), name
    assert loop.train is arrays and loop.stage == 2
    assert loop.best == Best(-0.6 if comparable else None, 4)


def test_an_epoch_begins_with_empty_sums():
    loop = far_on()
    loop.start_epoch()
    assert loop == dataclasses.replace(far_on(), sums=EpochSums())


def test_the_best_is_strictly_better_and_finite():
    best = Best()
    scores = [math.nan, -math.inf, 0.5, 0.5, 0.4, math.inf, math.nan, 0.6]
    taken = [best.update(score, epoch) for epoch, score in enumerate(scores, 1)]
    assert taken == [score in (0.5, 0.6) and epoch != 4 for epoch, score in enumerate(scores, 1)]
    assert best == Best(0.6, 8)


def test_what_is_evaluated_is_the_average_where_there_is_one():
    averaged = ARRAYS.replace(average={"w": jnp.zeros(2)})
    for state, expected in ((ARRAYS, 1), (averaged, 0)):
        variables = jax.device_get(state.variables())
        np.testing.assert_array_equal(variables["params"]["w"], expected)
