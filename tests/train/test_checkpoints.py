"""Checkpoints restore exactly, or report what is wrong with them."""

import asyncio
import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from train import recipe
from train.engine import steps
from train.engine.checkpoints import MAX_PACKED_BYTES, Checkpoints, digest, pack, unpack
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.engine.state import LoopState
from train.errors import InputError, RunError


def state_of(seed):
    rng = np.random.default_rng(seed)
    params = {"layer": {"kernel": rng.normal(size=(64, 32)).astype("f"), "bias": np.zeros(32, "f")}}
    optimizer = build_optimizer(recipe.Optimizer())
    state = steps.init_state({"params": params, "batch_stats": {}}, optimizer)
    return state.replace(step=jnp.int32(seed))


def loop_of(step):
    """A loop state with floats that have no short decimal form, or no finite one."""
    loop = LoopState(state_of(step), epoch=7, step=step, train_seconds=0.1 + 0.2)
    loop.plateau.update(1 / 3, recipe.Plateau(patience=1))
    loop.best.update(-1 / 7, 5)
    return loop


def save(directory, steps):
    checkpoints = Checkpoints(directory)
    for step in steps:
        checkpoints.save(loop_of(step))
    checkpoints.close()


def save_as_version_0_1(directory, steps):
    """Each array is stored on its own, and the structure is not recorded."""
    manager = ocp.CheckpointManager(directory, item_names=("state", "meta"))
    for step in steps:
        loop = loop_of(step)
        state = loop.train.on_host()
        meta = {"position": loop.to_json(), "digest": digest(state)}
        args = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
        manager.save(step, args=ocp.args.Composite(**args))
    manager.close()


def restore(directory):
    warnings = []
    checkpoints = Checkpoints(directory)
    try:
        return checkpoints.restore(lambda stage: state_of(stage), warnings.append), warnings
    finally:
        checkpoints.close()


def assert_is(restored, step):
    expected = state_of(step)
    jax.tree.map(np.testing.assert_array_equal, restored.train, expected)
    assert jax.tree.structure(restored.train) == jax.tree.structure(expected)
    assert dataclasses.replace(restored, train=None) == dataclasses.replace(
        loop_of(step), train=None
    )


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_latest_two_are_kept_and_newest_is_restored(tmp_path):
    save(tmp_path, [1, 2, 3])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]
    restored, warnings = restore(tmp_path)
    assert_is(restored, 3)
    assert warnings == []


def test_restore_without_checkpoints_returns_none(tmp_path):
    assert restore(tmp_path) == (None, [])


def test_latest_step(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() is None
    for step in (9, 10):
        checkpoints.save(loop_of(step))
    checkpoints.wait()
    assert checkpoints.latest_step() == 10
    checkpoints.close()


def test_state_of_several_devices_is_restored_on_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    on_all = Devices(jax.local_devices()).replicate(state_of(5))
    checkpoints.save(dataclasses.replace(loop_of(5), train=on_all))
    checkpoints.close()
    assert_is(restore(tmp_path)[0], 5)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "metadata", "empty folder"])
def test_damaged_checkpoint_is_reported_and_older_one_restored(tmp_path, damage):
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
    step = 2 if damage == "empty folder" else 1
    assert_is(restored, step)
    assert len(warnings) == 1
    assert f"checkpoint {tmp_path / str(step + 1)} is damaged" in warnings[0]
    # Nothing is deleted, and a resumed run can save this step again.
    assert (tmp_path / f"damaged-{step + 1}").is_dir()
    save(tmp_path, [step + 1])
    assert_is(restore(tmp_path)[0], step + 1)


def test_restored_structure_is_that_of_the_saved_stage(tmp_path):
    stages, checkpoints = [], Checkpoints(tmp_path)
    checkpoints.save(dataclasses.replace(loop_of(4), stage=2))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore(lambda stage: stages.append(stage) or state_of(0), pytest.fail)
    checkpoints.close()
    assert stages == [2] == [restored.stage]


def test_seconds_since_the_last_save(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.seconds_since_save() == float("inf")
    checkpoints.save(loop_of(1))
    assert 0 <= checkpoints.seconds_since_save() < 600
    checkpoints.close()


def contents(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PermissionError(13, "Permission denied", "/x/d"), RunError, "/x/d cannot be read"),
        (OSError(5, "Input/output error"), RunError, r"/2 cannot be read \(Input/output error"),
        (OSError(24, "Too many open files"), RunError, "Too many open files"),
        (MemoryError(), MemoryError, None),
    ],
    ids=lambda value: f"{value!r}" if isinstance(value, Exception) else "",
)
def test_only_damage_is_taken_for_damage(tmp_path, monkeypatch, error, kind, message):
    """Nothing is changed, and the same command resumes later."""
    save(tmp_path, [1, 2])
    before = contents(tmp_path)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_read", fail)
        with pytest.raises(kind, match=message):
            restore(tmp_path)
    assert contents(tmp_path) == before
    assert_is(restore(tmp_path)[0], 2)


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    """TensorStore reports it in its own way, which says no more than that the restore failed."""
    save(tmp_path, [1, 2])
    file = largest_file(tmp_path / "2")

    def fail(*_, **__):
        raise ValueError("PERMISSION_DENIED: Error opening")

    def guarded(path, *rest, **options):
        if str(path) == str(file):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *rest, **options)

    monkeypatch.setattr(Checkpoints, "_read", fail)
    monkeypatch.setattr("train.engine.checkpoints.open", guarded, raising=False)
    with pytest.raises(RunError, match=f"{file} cannot be read .*nothing is changed"):
        restore(tmp_path)
    assert (tmp_path / "2").is_dir()


@pytest.mark.parametrize("save", [save, save_as_version_0_1])
def test_a_state_of_another_structure_is_not_damage(tmp_path, save):
    """After an upgrade; version 0.1 did not record the structure."""
    save(tmp_path, [1, 2])
    before = contents(tmp_path)
    checkpoints = Checkpoints(tmp_path)

    def other(stage):
        state = state_of(stage)
        return state.replace(params={**state.params, "new": np.zeros(3, "f")})

    with pytest.raises(RunError, match="intact, but its arrays do not match this version"):
        checkpoints.restore(other, pytest.fail)
    checkpoints.close()
    assert contents(tmp_path) == before
    assert_is(restore(tmp_path)[0], 2)


def test_unpacked_arrays_are_those_that_were_packed():
    tree = {
        "large": np.arange(MAX_PACKED_BYTES, dtype=np.int32),
        "half": np.arange(3, dtype=np.float16),  # the next arrays are not aligned
        "scalar": np.int32(7),
        "empty": np.zeros((0, 4), np.float32),
        "matrix": np.arange(6, dtype=np.float64).reshape(2, 3),
    }
    packed = pack(tree)
    assert packed.keys() == {"small", "0"} and packed["0"] is tree["large"]
    unpacked = unpack(packed, jax.tree.map(np.zeros_like, tree))
    assert digest(unpacked) == digest(tree)
    assert all(leaf.flags.aligned for leaf in jax.tree.leaves(unpacked))


def test_all_checkpoints_damaged_raises_input_error(tmp_path):
    save(tmp_path, [1, 2])
    for step in ("1", "2"):
        largest_file(tmp_path / step).write_bytes(b"")
    for _ in range(2):  # the second call must not start over
        with pytest.raises(InputError, match="every checkpoint in .* is damaged"):
            restore(tmp_path)


def test_a_step_that_is_damaged_again_is_set_aside_again(tmp_path):
    save(tmp_path, [1])
    for name in ("damaged-2", "damaged-2-2"):
        save(tmp_path, [2])
        largest_file(tmp_path / "2").write_bytes(b"")
        assert_is(restore(tmp_path)[0], 1)
        assert (tmp_path / name).is_dir() and not (tmp_path / "2").exists()


def test_digest_depends_on_values_names_dtypes_and_shapes():
    tree = {"a": np.arange(6, dtype=np.float32), "b": np.int32(1)}
    others = [
        {"a": np.arange(6, dtype=np.float32), "b": np.int32(2)},
        {"a": np.arange(6, dtype=np.float32), "c": np.int32(1)},
        {"a": np.arange(6, dtype=np.int32), "b": np.int32(1)},
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int32(1)},
    ]
    assert len({digest(t) for t in [tree, *others]}) == 5
    assert digest(tree) == digest({k: jnp.asarray(v) for k, v in tree.items()})


def test_only_calls_into_a_closed_event_loop_are_ignored(monkeypatch):
    """Recognized by where the error is raised, not by its message."""
    from train.engine import checkpoints

    reports = []
    monkeypatch.setattr(checkpoints, "_previous_hook", reports.append)
    loop = asyncio.new_event_loop()
    loop.close()

    def same_message():
        raise RuntimeError("Event loop is closed")

    for call in (lambda: loop.call_soon(print), same_message, lambda: 1 / 0):
        try:
            call()
        except Exception as error:
            sys.unraisablehook(
                types.SimpleNamespace(exc_value=error, exc_traceback=error.__traceback__)
            )
    sys.unraisablehook(types.SimpleNamespace(exc_value=KeyError("bare"), exc_traceback=None))
    assert [str(report.exc_value) for report in reports] == [
        "Event loop is closed",
        "division by zero",
        "'bare'",
    ]
