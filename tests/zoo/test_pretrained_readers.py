"""Reading untrusted weights files: their tensors are read, and no code in them is executed."""

import collections
import io
import json
import os
import pickle
import re
import struct
import zipfile

import h5py
import numpy as np
import pytest
import torch_files
from torch_files import Call, Tensor

import zoo
from zoo.pretrained.readers import read

SAVE = {"new": torch_files.save_new, "old": torch_files.save_old}


def error_of_read(path) -> str:
    with pytest.raises(zoo.InputError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


def tensors() -> dict:
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "plain": plain,
        "transposed": plain.T,
        "half": np.array([1.5, -2], np.float16),
        "double": np.array([1 / 3]),
        "bfloat16": np.array([1.0, -0.5], np.float32),
        "count": np.array(3),
        "parameter": np.ones(2, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }


def as_torch(arrays) -> collections.OrderedDict:
    found = collections.OrderedDict((name, Tensor(array)) for name, array in arrays.items())
    found["bfloat16"] = Tensor(
        (arrays["bfloat16"].view(np.uint32) >> 16).astype(np.uint16), "bfloat16"
    )
    found["parameter"] = Tensor(arrays["parameter"], parameter=True)
    found._metadata = collections.OrderedDict({"": {"version": 1}})
    return found


@pytest.mark.parametrize("version", SAVE)
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_torch_round_trip(tmp_path, version, wrapped):
    path = tmp_path / "w.pth"
    value = as_torch(tensors())
    other = {"epoch": 3, "best": 0.5, "optimizer": {"state": {0: [Tensor(np.ones(4))]}}}
    SAVE[version](path, {wrapped: value, **other} if wrapped else value)
    found = read(path)
    assert set(found) == set(tensors())
    for name, expected in tensors().items():
        np.testing.assert_array_equal(found[name], np.asarray(expected, found[name].dtype))
        assert found[name].dtype == (np.int64 if name == "count" else np.float32)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("version", SAVE)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"w": Malicious()}, "calls (posix|nt).system"),
        (
            {"w": Tensor(np.ones(2)), "x": Call(eval, "open('executed', 'w')")},
            "calls __builtin__.eval",
        ),
        ({"w": Tensor(np.ones(2)), "x": io.BytesIO}, None),  # referenced, never called: harmless
        ({"w": collections.Counter()}, "calls collections.Counter"),
        ({("a",): Tensor(np.ones(2))}, "keys are not names"),
        ({"w": Tensor(np.ones(2), shape=(3,), strides=(1,))}, "larger than its storage"),
        ({"w": Tensor(np.ones(2), shape=(2,), strides=(1,), offset=1)}, "larger than its storage"),
        ({"w": Tensor(np.ones(2), shape=(2**40,), strides=(0,))}, "larger than its storage"),
        ({"w": Tensor(np.ones(2), shape=(2,), strides=(-1,))}, "invalid shape"),
        ([Tensor(np.ones(2))], "contains no state dict"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_pickles_cannot_execute_code(tmp_path, monkeypatch, version, value, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    SAVE[version](path, value)
    if message is None:
        assert set(read(path)) == {"w"}
    else:
        assert re.search(message, error_of_read(path))
    assert not (tmp_path / "executed").exists()


def test_malicious_pickle_executes_code_when_unpickled(tmp_path, monkeypatch):
    """Otherwise the test above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("version", SAVE)
def test_truncated_torch_files_are_rejected(tmp_path, version):
    path = tmp_path / "w.pth"
    SAVE[version](path, {"w": Tensor(np.ones(100, np.float32))})
    content = path.read_bytes()
    for length in (0, 3, 40, len(content) // 2, len(content) - 4):
        path.write_bytes(content[:length])
        error_of_read(path)


def test_zip_bomb_is_rejected(tmp_path):
    path = tmp_path / "w.pth"
    torch_files.save_new(path, {"w": Tensor(np.ones(100, np.float32))})
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, b"\0" * 2**24 if name.endswith("data/0") else old.read(name))
    assert "data/0 claims 16,777,216 bytes, but at most 400" in error_of_read(bomb)


@pytest.mark.parametrize("suffix", [".pth", ".h5", ".keras", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>", b"\x80", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"]
)
def test_other_files_are_rejected(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    error_of_read(path)
    error_of_read(tmp_path / f"none{suffix}")
    error_of_read(tmp_path)


def test_safetensors_half_precision(tmp_path):
    path = tmp_path / "w.safetensors"
    header = {
        "a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [4, 8]},
    }
    text = json.dumps(header).encode()
    data = np.array([1.5, -2], np.float16).tobytes() + struct.pack("<HH", 0x3F80, 0xBF00)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    found = read(path)
    np.testing.assert_array_equal(found["a"], np.array([1.5, -2], np.float32), strict=True)
    np.testing.assert_array_equal(found["b"], np.array([[1, -0.5]], np.float32), strict=True)

    path.write_bytes(struct.pack("<Q", 100 * 10**9) + text + data)
    assert "not a valid safetensors file" in error_of_read(path)


def hdf5(path, damage) -> None:
    """Write a Keras file of one dense layer, with a structure that no weights file needs."""
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["secret"] = np.ones((3, 2), np.float32)
    secret = path.with_name("secret.bin")
    secret.write_bytes(b"\0" * 24)
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group["1"] = np.ones(2, np.float32)
        match damage:
            case "none":
                group["0"] = np.ones((3, 2), np.float32)
            case "external link":
                group["0"] = h5py.ExternalLink("other.h5", "secret")
            case "soft link":
                group["0"] = h5py.SoftLink("/layers/dense/vars/1")
            case "external storage":
                group.create_dataset("0", (3, 2), "f4", external=[(str(secret), 0, 24)])
            case "virtual":
                layout = h5py.VirtualLayout((3, 2), "f4")
                layout[:] = h5py.VirtualSource("other.h5", "secret", (3, 2))
                group.create_virtual_dataset("0", layout)
            case "cycle":
                group["layers"] = file["layers"]
            case "size":
                group.create_dataset("0", (2**20, 2**20), "f4", chunks=(64, 64))


def test_hdf5_of_one_layer(tmp_path):
    hdf5(tmp_path / "w.weights.h5", "none")
    (layer,) = read(tmp_path / "w.weights.h5").layers
    assert (layer.key, layer.kind, set(layer.variables)) == ("dense", "dense", {"kernel", "bias"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("external link", "layers/dense/vars/0 is a link"),
        ("soft link", "is a link"),
        ("external storage", "stored outside the file"),
        ("virtual", "stored outside the file"),
        ("cycle", "cyclic or too many groups"),
        ("size", "claims 4,398,046,511,104 bytes"),
    ],
)
def test_unsafe_hdf5_is_rejected(tmp_path, damage, message):
    hdf5(tmp_path / "w.weights.h5", damage)
    assert message in error_of_read(tmp_path / "w.weights.h5")


@pytest.mark.parametrize(
    "config", ["[" * 200_000, '{"config": ' * 500 + "1" + "}" * 500, "[1]", "{"]
)
def test_invalid_configurations(tmp_path, config):
    path = tmp_path / "w.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", b"")
    error_of_read(path)
    hdf5(tmp_path / "w.h5", "none")
    with h5py.File(tmp_path / "w.h5", "a") as file:
        file.attrs["model_config"] = config[:60_000]  # the maximum of HDF5
    if config.startswith("{") and len(config) > 1:
        assert len(read(tmp_path / "w.h5").layers) == 1  # harmless: it lists no layers
    else:
        error_of_read(tmp_path / "w.h5")
