"""Writing files in the formats of torch.save, without torch."""

import contextlib
import io
import pickle
import sys
import types
import zipfile
from unittest import mock

import numpy as np

PROTOCOL = 2  # torch.save's default
STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
}


class Storage:
    """The memory of one tensor."""

    def __init__(self, array: np.ndarray, dtype: str):
        self.array, self.dtype = array, dtype


class Tensor:
    """Pickles like a torch tensor. For `dtype` "bfloat16", the array has the upper halves as uint16."""

    def __init__(self, array, dtype=None, parameter=False, shape=None, strides=None, offset=0):
        array = np.asarray(array)
        self.storage = Storage(array, dtype or str(array.dtype))
        self.shape = array.shape if shape is None else shape
        self.strides = [s // array.itemsize for s in array.strides] if strides is None else strides
        self.offset, self.parameter = offset, parameter

    def __reduce__(self):
        import torch

        arguments = (self.storage, self.offset, self.shape, tuple(self.strides), False, {})
        if self.parameter:
            plain = Tensor(self.storage.array, self.storage.dtype)
            return torch._utils._rebuild_parameter, (plain, True, {})
        return torch._utils._rebuild_tensor_v2, arguments


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@contextlib.contextmanager
def fake_torch():
    """Install fake modules with torch's names, of which pickle writes only the names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch._utils = utils
    for module, names in (
        (torch, STORAGES.values()),
        (utils, ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_sparse_tensor")),
    ):
        for name in names:
            setattr(module, name, type(name, (), {"__module__": module.__name__}))
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield torch


class Pickler(pickle.Pickler):
    """Collects the storages in `storages` and pickles only their keys."""

    def __init__(self, stream, old: bool):
        super().__init__(stream, protocol=PROTOCOL)
        self.old, self.storages = old, []

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        import torch

        if value not in self.storages:
            self.storages.append(value)
        kind, key = getattr(torch, STORAGES[value.dtype]), str(self.storages.index(value))
        return ("storage", kind, key, "cpu", value.array.size, *([None] if self.old else []))


def storage_bytes(storage: Storage) -> bytes:
    return storage.array.tobytes(order="A")


def save_new(path, value) -> None:
    """Format of torch.save since 1.6."""
    stream = io.BytesIO()
    with fake_torch():
        pickler = Pickler(stream, old=False)
        pickler.dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for key, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{key}", storage_bytes(storage))
        archive.writestr("archive/version", b"3\n")


def save_old(path, value) -> None:
    """Format of torch.save before 1.6."""
    stream = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    for header in (0x1950A86A20F9469CFC6C, 1001, system):
        pickle.dump(header, stream, protocol=2)
    with fake_torch():
        pickler = Pickler(stream, old=True)
        pickler.dump(value)
    pickle.dump([str(key) for key in range(len(pickler.storages))], stream, protocol=2)
    for storage in pickler.storages:
        stream.write(storage.array.size.to_bytes(8, "little") + storage_bytes(storage))
    with open(path, "wb") as file:
        file.write(stream.getvalue())
