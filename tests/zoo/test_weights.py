"""Saving and loading variables as safetensors."""

import hashlib

import numpy as np
import pytest

import zoo


@pytest.fixture
def variables():
    rng = np.random.default_rng(0)
    return {
        "params": {"conv1": {"conv": {"kernel": rng.normal(size=(3, 3, 3, 4)).astype(np.float32)}}},
        "batch_stats": {"conv1": {"norm": {"mean": np.arange(4, dtype=np.float32)}}},
    }


def test_round_trip(tmp_path, variables):
    path = tmp_path / "w.safetensors"
    digest = zoo.save_variables(path, variables)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    loaded = zoo.load_variables(path, variables)
    np.testing.assert_equal(loaded, variables)
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


def test_empty_collections_are_restored(tmp_path, variables):
    path = tmp_path / "w.safetensors"
    zoo.save_variables(path, {"params": variables["params"], "batch_stats": {}})
    loaded = zoo.load_variables(path, {"params": variables["params"], "batch_stats": {}})
    assert loaded["batch_stats"] == {}


def test_weights_of_another_model_report_the_first_differences(tmp_path, variables):
    path = tmp_path / "w.safetensors"
    zoo.save_variables(path, variables)
    other = {"params": {"conv1": {"conv": {"kernel": np.zeros((5, 5, 3, 4)), "bias": np.zeros(4)}}}}
    with pytest.raises(zoo.InputError) as caught:
        zoo.load_variables(path, other)
    text = str(caught.value)
    assert "params/conv1/conv/bias is missing" in text
    assert "batch_stats/conv1/norm/mean is not in the model" in text
    assert "params/conv1/conv/kernel has shape [3, 3, 3, 4], the model's has [5, 5, 3, 4]" in text


@pytest.mark.parametrize("damage", ["missing", "truncated", "zip", "empty", "huge header", "nan"])
def test_damaged_files_raise_a_one_line_error(tmp_path, variables, damage):
    path = tmp_path / "w.safetensors"
    if damage == "nan":
        variables["params"]["conv1"]["conv"]["kernel"][0, 0, 0, 0] = np.nan
    zoo.save_variables(path, variables)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-8])
    elif damage == "zip":
        path.write_bytes(b"PK\x03\x04 some other kind of file")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "huge header":
        path.write_bytes((100 * 2**30).to_bytes(8, "little") + content[8:])
    with pytest.raises(zoo.InputError) as caught:
        zoo.load_variables(path, variables)
    assert "\n" not in str(caught.value)
    assert "w.safetensors" in str(caught.value)
