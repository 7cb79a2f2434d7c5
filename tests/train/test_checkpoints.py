"""Checkpoints come back exactly, or say what is wrong with them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import recipe
from train.engine import steps
from train.engine.checkpoints import Checkpoints, digest
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.recipe import InputError


def state_of(seed):
    rng = np.random.default_rng(seed)
    params = {"layer": {"kernel": rng.normal(size=(64, 32)).astype("f"), "bias": np.zeros(32, "f")}}
    optimizer = build_optimizer(recipe.Optimizer())
    state = steps.init_state({"params": params, "batch_stats": {}}, optimizer)
    return state.replace(step=jnp.int32(seed))


def save(directory, numbers):
    checkpoints = Checkpoints(directory)
    for number in numbers:
        checkpoints.save(number, state_of(number), {"step": number, "stage": 0, "loss": 0.1 + 0.2})
    checkpoints.close()


def restore(directory):
    warnings = []
    checkpoints = Checkpoints(directory)
    try:
        return checkpoints.restore(lambda position: state_of(0), warnings.append), warnings
    finally:
        checkpoints.close()


def assert_is(restored, number):
    state, position = restored
    jax.tree.map(np.testing.assert_array_equal, state, state_of(number))
    assert jax.tree.structure(state) == jax.tree.structure(state_of(number))
    assert position == {"step": number, "stage": 0, "loss": 0.1 + 0.2}


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_the_latest_two_are_kept_and_the_newest_comes_back(tmp_path):
    save(tmp_path, [1, 2, 3])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]
    restored, warnings = restore(tmp_path)
    assert_is(restored, 3)
    assert warnings == []


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path) == (None, [])


def test_state_on_several_devices_comes_back_on_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(
        5,
        Devices(jax.local_devices()).replicate(state_of(5)),
        {"step": 5, "stage": 0, "loss": 0.1 + 0.2},
    )
    checkpoints.close()
    assert_is(restore(tmp_path)[0], 5)


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "metadata", "empty folder"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path, damage):
    save(tmp_path, [1, 2])
    newest = tmp_path / "2"
    if damage == "flipped bit":
        file = largest_file(newest)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncated":
        file = largest_file(newest)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "metadata":
        for file in newest.rglob("*metadata*"):
            if file.is_file():
                file.write_text("{")
        for file in newest.rglob("_METADATA"):
            file.write_text("{")
    else:
        (tmp_path / "3").mkdir()
    restored, warnings = restore(tmp_path)
    number = 2 if damage == "empty folder" else 1
    assert_is(restored, number)
    assert len(warnings) == 1
    assert f"checkpoint {tmp_path / str(number + 1)} is damaged" in warnings[0]
    # Nothing is thrown away, and the number is free for the run that goes on.
    assert (tmp_path / f"damaged-{number + 1}").is_dir()
    save(tmp_path, [number + 1])
    assert_is(restore(tmp_path)[0], number + 1)


def test_all_damaged_is_bad_input(tmp_path):
    save(tmp_path, [1, 2])
    for step in ("1", "2"):
        largest_file(tmp_path / step).write_bytes(b"")
    with pytest.raises(InputError, match="every checkpoint in .* is damaged"):
        restore(tmp_path)


def test_digest_sees_values_names_types_and_shapes():
    tree = {"a": np.arange(6, dtype=np.float32), "b": np.int32(1)}
    others = [
        {"a": np.arange(6, dtype=np.float32), "b": np.int32(2)},
        {"a": np.arange(6, dtype=np.float32), "c": np.int32(1)},
        {"a": np.arange(6, dtype=np.int32), "b": np.int32(1)},
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int32(1)},
    ]
    assert len({digest(t) for t in [tree, *others]}) == 5
    assert digest(tree) == digest({k: jnp.asarray(v) for k, v in tree.items()})


def test_calls_that_orbax_leaves_behind_are_passed_over_and_no_others(monkeypatch):
    import types

    from train.engine import checkpoints

    heard = []
    monkeypatch.setattr(checkpoints, "_previous_hook", heard.append)
    for message in ("Event loop is closed", "something else"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(message)))
    assert [str(report.exc_value) for report in heard] == ["something else"]
