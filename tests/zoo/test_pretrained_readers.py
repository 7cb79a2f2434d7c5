"""Reading untrusted weights files: their tensors are read, and no code in them is executed."""

import argparse
import collections
import contextlib
import io
import json
import os
import pickle
import re
import struct
import sys
import types
import zipfile
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
import torch_files
from torch_files import Call, Tensor

import zoo
from zoo.pretrained import readers
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


class Sparse:
    def __reduce__(self):
        import torch

        return torch._utils._rebuild_sparse_tensor, ()


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("version", SAVE)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"w": Malicious()}, "contains no state dict:"),
        (Malicious(), "contains no state dict but a (posix|nt).system:"),
        ({"w": Tensor(np.ones(2)), "x": Malicious()}, None),
        ({"w": Tensor(np.ones(2)), "x": Call(eval, "open('executed', 'w')")}, None),
        ({"w": Tensor(np.ones(2)), "x": {"deep": [(Malicious(),)], Malicious: 1}}, None),
        ({"w": Tensor(np.ones(2)), "x": io.BytesIO}, None),  # referenced, never called
        ({"w": collections.Counter()}, "contains no state dict:"),
        ({("a",): Tensor(np.ones(2))}, "contains no state dict:"),
        ({"w": Tensor(np.ones(2)), "x": Sparse()}, "x is a tensor of an unsupported kind"),
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


class Config(dict):
    """A dictionary with attributes, as pickled by libraries of configurations."""


Config.__module__ = "no_such_package"


@contextlib.contextmanager
def installed_config():
    """While a file is written, the package of `Config` is there."""
    module = types.ModuleType("no_such_package")
    module.Config = Config
    with mock.patch.dict(sys.modules, {"no_such_package": module}):
        yield


@pytest.mark.parametrize("version", SAVE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_checkpoints_of_training_scripts(tmp_path, monkeypatch, version, protocol):
    """The tensors are read from among objects of classes that need not be installed."""
    monkeypatch.setattr(torch_files, "PROTOCOL", protocol)
    found = collections.defaultdict(list, {(1, 2): ["a"]})
    recursive = [Config(lr=0.1)]
    recursive.append((recursive,))
    other = {
        "args": argparse.Namespace(lr=0.1, model="resnet18", out=Path("runs"), seen={1, 2}),
        "config": Config(lr=0.1, betas=(0.9, 0.99)),
        "best_acc1": np.float64(0.75),
        "history": np.arange(3),
        "lr_lambda": os.path.join,
        "found": found,
        "frozen": frozenset("ab"),
        "range": slice(1, 2),
        "recursive": recursive,
    }
    tensors = {"w": Tensor(np.arange(2, dtype=np.float32)), "version": np.int64(3)}
    with installed_config():
        for index, value in enumerate(
            (
                {"state_dict": tensors, **other},
                {"ema": {"w": Tensor(np.ones(2))}, "model": {"state_dict": tensors}, **other},
                {"model": {}, "ema": {"module": tensors, "updates": 3}, **other},
                {**tensors, **other},
            )
        ):
            SAVE[version](tmp_path / f"{index}.pth", value)
    for index in range(4):
        found = read(tmp_path / f"{index}.pth")
        assert list(found) == ["w"]
        np.testing.assert_array_equal(found["w"], np.array([0, 1], np.float32), strict=True)
    assert "no_such_package" not in sys.modules


def test_a_whole_module_is_rejected_by_its_class(tmp_path):
    with installed_config():
        torch_files.save_new(tmp_path / "w.pth", Config(w=Tensor(np.ones(2))))
    assert "no state dict but a no_such_package.Config" in error_of_read(tmp_path / "w.pth")


def pickled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


# Instructions of hostile pickles, and the error. MARK, GLOBAL and so on by their letters.
HOSTILE = {
    "nested tuples": (b")" + b"\x85" * 20_000, "no state dict"),
    "nested lists": (b"]" * 20_000 + b"a" * 19_999, "no state dict"),
    "nested calls": (b"cos\nsystem\n" * 20_000 + b")R" + b"\x85R" * 19_999, "no state dict"),
    "a dictionary in itself": (b"}q\x00X\x05\x00\x00\x00modelh\x00s", "no state dict"),
    "popping too much": (b")R", "pops from an empty stack"),
    "state of nothing": (b")b", "damaged|empty stack|plain data"),
    "state of a string": (b"X\x01\x00\x00\x00a}b", "sets the state of plain data"),
    "no marks": (b"(ttt", "damaged"),
    "huge string": (b"\x8d" + (2**62).to_bytes(8, "little") + b"abc", "damaged"),
    "huge bytes": (b"\x8e" + (2**62).to_bytes(8, "little") + b"abc", "damaged"),
    "huge index": (b"}r\xff\xff\xff\xffj\xfe\xff\xff\xff", "damaged"),
    "extension registry": (b"\x82\x01", "contains the instruction EXT1"),
    "long integer": (b"L" + b"9" * 100_000 + b"L\n", "damaged"),
    "too many instructions": (b"N0" * 60_000, "longer than any state dict"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_rejected(tmp_path, monkeypatch, name):
    monkeypatch.setattr(readers, "MAX_OBJECTS", 100_000)
    content, message = HOSTILE[name]
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(content))
    assert re.search(message, error_of_read(path))


def test_tensors_of_huge_declared_sizes_are_rejected(tmp_path, monkeypatch):
    """The product of a thousand large sizes would take long to compute; copies of one storage need more than it."""
    path = tmp_path / "w.pth"
    monkeypatch.setattr(readers, "MAX_BYTES", 100_000)
    many = {f"w{i}": Tensor(np.ones(1000, np.float32)) for i in range(50)}
    for tensor in many.values():
        tensor.storage = many["w0"].storage
    torch_files.save_new(path, many)
    assert "claims 200,000 bytes of tensors" in error_of_read(path)
    huge = {"shape": (2**62,) * 1000, "strides": (0,) * 1000}
    torch_files.save_new(path, {"w": Tensor(np.ones(2), **huge)})
    assert "invalid shape" in error_of_read(path)
    torch_files.save_new(path, {"w": Tensor(np.ones(2), shape=(2**2000,), strides=(0,))})
    assert "invalid shape" in error_of_read(path)


@pytest.mark.parametrize("version", SAVE)
@pytest.mark.parametrize("suffix", [".tar", ".bin", ".ckpt"])
def test_torch_files_of_other_suffixes(tmp_path, version, suffix):
    path = tmp_path / f"checkpoint.pth{suffix}"
    SAVE[version](path, {"state_dict": {"w": Tensor(np.ones(2))}})
    assert set(read(path)) == {"w"}


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
