"""Reading tensors from untrusted weights files without executing code from them.

    .pth, .pt                         torch: the zip format (1.6 and later) and the legacy format
    .safetensors                      timm, Hugging Face, this zoo
    .h5                               legacy Keras: weights or a whole model
    .weights.h5, .keras               Keras 3: weights; a whole model

torch files contain a pickle, which is never unpickled: `_PickleInterpreter` interprets its instructions on plain data
and tensors. Anything else in a checkpoint (an `argparse.Namespace`, a NumPy scalar, a call of any function) becomes an
`_Inert` placeholder: its class is neither imported nor called. HDF5 can refer to other files, so links that are not
hard links, external storage and virtual data sets are rejected. Sizes stated in a file are checked before use.

Every function raises InputError (one line: what, where, what to do) for a file that it cannot use.
"""

import dataclasses
import io
import json
import math
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import safetensors

from zoo.common.errors import InputError

MAX_BYTES = 4 * 2**30  # of a file, and of its unpacked content; vgg19 takes 0.6 GiB
MAX_TEXT = 64 * 2**20  # bytes of a configuration, or of a pickle without its tensors
MAX_DIMENSIONS = 64  # of a tensor, as in NumPy; a product of more sizes could take forever
MAX_OBJECTS = 1_000_000  # instructions of a pickle, objects of an HDF5 file

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class KerasLayer:
    """A layer with its variables.

    In Keras 3 files, the key of a layer is its class and a counter ("conv2d_1"). Its name ("block1_conv2") is an
    attribute since Keras 3.9, or in a whole model's configuration; otherwise it is unknown.
    """

    parent: tuple[str, ...]  # keys of the enclosing models; () for the outermost
    key: str
    name: str | None
    variables: Arrays  # kernel, bias, gamma, beta, moving_mean, moving_variance; else "0", "1", ...

    @property
    def kind(self) -> str:
        """ "norm", "dense", "conv", "depthwise" or "other"."""
        if "gamma" in self.variables or "moving_mean" in self.variables:
            return "norm"
        if "depthwise" in self.key:
            return "depthwise"
        kernel = self.variables.get("kernel")
        return "other" if kernel is None else {2: "dense", 4: "conv"}.get(kernel.ndim, "other")

    def __str__(self) -> str:
        return "/".join([*self.parent, self.name or self.key])


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """Layers in the order of the file, and the configuration if the file contains a whole model."""

    layers: tuple[KerasLayer, ...]
    config: dict[str, Any] | None


def read(path: str | os.PathLike) -> Arrays | KerasFile:
    """Read a local weights file: tensors by name (torch, safetensors) or Keras layers.

    Floating-point tensors are converted to float32; integer tensors keep their dtype. HDF5, zip and torch files are
    recognized by their first bytes, whatever their suffix; other files by their suffix.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): use a weights file") from None
    if size > MAX_BYTES:
        raise InputError(
            f"{path} has {size / 2**30:.1f} GiB, more than any model of this zoo: check the file"
        )
    readers: dict[str, Callable[[Path], Arrays | KerasFile]] = {
        ".safetensors": _read_safetensors,
        ".pth": _read_legacy_torch,
        ".pt": _read_legacy_torch,
    }
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        reader: Callable[[Path], Arrays | KerasFile] = _read_hdf5
    elif start.startswith(b"PK\x03\x04"):
        reader = _read_zip
    elif start == _LEGACY_START:
        reader = _read_legacy_torch
    elif path.suffix in readers:
        reader = readers[path.suffix]
    else:
        raise InputError(
            f"{path} is not a supported weights file: use a .pth, .pt, .safetensors, .h5 or .keras file"
        )
    try:
        return reader(path)
    except InputError:
        raise
    # The exceptions that parsers of pickle, zip, JSON and HDF5 raise for damaged files are not documented.
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(
            f"{path} is damaged ({reason[:200]}): download or copy it again"
        ) from error


def _float32(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    # A float64 value beyond the range of float32 becomes inf, which the caller rejects.
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def _widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert bfloat16, the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


# safetensors

_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def _read_safetensors(path: Path) -> Arrays:
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not a valid safetensors file ({error}): download or copy it again"
        ) from None
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_TYPES:
            raise InputError(
                f"{path}: {name} has the unsupported dtype {entry['dtype']}: convert it to float32"
            )
        array = np.frombuffer(entry["data"], _SAFETENSORS_TYPES[entry["dtype"]])
        array = _widen_bfloat16(array) if entry["dtype"] == "BF16" else array
        arrays[name] = _float32(array.reshape(entry["shape"]))
    return arrays


# torch

_STORAGE_TYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")[:4]
# Keys under which checkpoints store their state dict; the first that exists is used. Averaged weights come last.
_CHECKPOINT_KEYS = (
    *("state_dict", "model_state_dict", "model", "module", "net"),
    *("state_dict_ema", "model_ema", "ema"),
)


@dataclasses.dataclass(frozen=True)
class _Global:
    """A global that a pickle refers to by name; it is never resolved."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Inert:
    """Placeholder for an object that the pickle would create by a call; only the name of the callable is kept."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    count: int

    def array(self, data: bytes) -> np.ndarray:
        if self.dtype == "bfloat16":
            return _widen_bfloat16(np.frombuffer(data, "<u2"))
        return np.frombuffer(data, self.dtype)

    @property
    def bytes(self) -> int:
        return self.count * (2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    def array(self, storage: np.ndarray) -> np.ndarray:
        """Copy the tensor out of its storage, as float32 if it is floating point."""
        if 0 in self.shape:
            return _float32(np.zeros(self.shape, storage.dtype))
        view = np.lib.stride_tricks.as_strided(
            storage[self.offset :],
            self.shape,
            [stride * storage.itemsize for stride in self.strides],
            writeable=False,
        )
        return _float32(np.array(view))  # C order, independent of the file's buffer


class _Rejected(Exception):
    """The pickle contains something that does not occur in checkpoints."""


class _PickleInterpreter:
    """Interpreter for pickles that never imports, calls or unpickles anything: it supports plain data and tensors, and
    replaces any other object by an `_Inert` placeholder."""

    _LITERALS = frozenset(
        ("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT")
        + ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
        + ("BINSTRING", "SHORT_BINSTRING", "STRING")
        + ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
    )
    _CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
    _TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self, stream: BinaryIO) -> Any:
        """Evaluate the pickle at the current position of the stream, and advance past it."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OBJECTS:
                raise _Rejected("is longer than any state dict")
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise _Rejected("is truncated")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in self._LITERALS:
            stack.append(argument)
        elif name in self._CONSTANTS:
            stack.append(self._CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in self._TUPLES:
            stack.append(tuple(self._take(len(stack) - self._TUPLES[name])))
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self._take(self.marks.pop())
            if name == "DICT":
                stack.append({})
                self._set(items)
            else:
                stack.append(tuple(items) if name == "TUPLE" else items)
        elif name == "APPEND":
            self._append([stack.pop()])
        elif name == "APPENDS":
            self._append(self._take(self.marks.pop()))
        elif name == "SETITEM":
            self._set(self._take(len(stack) - 2))
        elif name == "SETITEMS":
            self._set(self._take(self.marks.pop()))
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = self._take(len(stack) - 2)
            stack.append(_Global(f"{module} {attribute}"))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._take(len(stack) - 2)
            stack.append(self._reduce(function, arguments))
        elif (
            name == "BUILD"
        ):  # attributes of an OrderedDict (versions of a state dict) or another object
            self._take(len(stack) - 1)
            if not isinstance(stack[-1], dict | _Inert | _Tensor):
                raise _Rejected("sets the state of plain data")
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            kind, *_ = self._take(len(stack) - (2 if name == "NEWOBJ" else 3))
            stack.append(_Inert(_name(kind)))
        elif name == "OBJ":
            kind, *_ = self._take(self.marks.pop())
            stack.append(_Inert(_name(kind)))
        elif name == "INST":
            self._take(self.marks.pop())
            stack.append(_Inert(argument))
        elif name == "EMPTY_SET":
            stack.append(_Inert("builtins set"))
        elif name == "FROZENSET":
            self._take(self.marks.pop())
            stack.append(_Inert("builtins frozenset"))
        elif name == "ADDITEMS":
            self._append(self._take(self.marks.pop()))
        elif name == "POP":
            if self.marks and self.marks[-1] == len(stack):
                self.marks.pop()
            else:
                stack.pop()
        elif name == "POP_MARK":
            self._take(self.marks.pop())
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            raise _Rejected(f"contains the instruction {name}")

    def _take(self, start: int) -> list[Any]:
        if start < 0:
            raise _Rejected("pops from an empty stack")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, _Inert):
            raise _Rejected("appends to an object that is not a list")

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Inert):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise _Rejected("sets items of an object that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tensors have no other keys, and hashing other objects may never end.
            if isinstance(key, str | int | float | None):
                target[key] = value

    def _storage(self, identity: Any) -> _Storage:
        match identity:
            case ("storage", _Global(name), str(key), str(), int(count), *view) if (
                name in _STORAGE_TYPES and count >= 0 and not any(view)
            ):
                return self.storages.setdefault(key, _Storage(key, _STORAGE_TYPES[name], count))
        raise _Rejected("refers to a storage of an unknown type")

    def _reduce(self, function: Any, arguments: Any) -> Any:
        name = _name(function)
        match name, arguments:
            case "collections OrderedDict", ():
                return {}
            case "collections OrderedDict", (list(pairs),):  # Python 2
                if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                    raise _Rejected("contains a dictionary whose items are not pairs")
                self.stack.append({})
                self._set([item for pair in pairs for item in pair])
                return self.stack.pop()
            case "torch Size", ((*sizes,),):
                return tuple(sizes)
            case "torch device", (str(), *_):
                return None
            case (
                "torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state",
                (_Tensor() as tensor, *_),
            ):
                return tensor
            case (
                "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2",
                (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_),
            ):
                if not len(shape) == len(strides) <= MAX_DIMENSIONS or any(
                    not isinstance(n, int) or not 0 <= n < 2**63 for n in (offset, *shape, *strides)
                ):
                    raise _Rejected("contains a tensor with an invalid shape")
                last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
                if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
                    raise _Rejected("contains a tensor that is larger than its storage")
                return _Tensor(storage, offset, shape, strides)
        return _Inert(name)


def _name(function: Any) -> str:
    return function.name if isinstance(function, _Global) else "?"


def _evaluate(path: Path, stream: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
    """Evaluate a pickle: its value, and the storages of its tensors by key."""
    interpreter = _PickleInterpreter()
    try:
        return interpreter.run(stream), interpreter.storages
    except _Rejected as rejected:
        raise InputError(
            f"{path} was rejected: its pickle {rejected}, which is not part of a checkpoint (no code was executed);"
            " save model.state_dict() with torch.save and use that file"
        ) from None


def _state_dict(path: Path, value: Any) -> dict[str, _Tensor]:
    """Tensors of a state dict, or of a checkpoint that contains one."""
    for _ in range(4):  # a dictionary may contain itself
        found = (value[k] for k in _CHECKPOINT_KEYS if isinstance(value, dict) and k in value)
        value = next((inner for inner in found if inner and isinstance(inner, dict)), value)
    named = value if isinstance(value, dict) else {}
    named = {name: item for name, item in named.items() if isinstance(name, str)}
    for name, item in named.items():
        if isinstance(item, _Inert) and item.name.startswith("torch._utils "):
            raise InputError(
                f"{path}: {name[:100]} is a tensor of an unsupported kind ({_dotted(item.name)}): convert it to a dense"
                " float32 tensor"
            )
    tensors = {name: item for name, item in named.items() if isinstance(item, _Tensor)}
    if not tensors:
        inside = f" but a {_dotted(value.name)}" if isinstance(value, _Inert) else ""
        raise InputError(
            f"{path} contains no state dict{inside}: use a file written by torch.save(model.state_dict(), path), or a"
            " checkpoint with one under 'state_dict' or 'model'"
        )
    # Many tensors may share a storage, and each is copied from it.
    total = sum(math.prod(t.shape) * 4 for t in tensors.values())
    if total > MAX_BYTES:
        raise InputError(f"{path} claims {total:,} bytes of tensors: check the file")
    return tensors


def _dotted(name: str) -> str:
    return name.replace(" ", ".")[:100]


def _read_legacy_torch(path: Path) -> Arrays:
    """Read the format before torch 1.6: five pickles (magic number, version, system info, object, storage keys), then
    each storage, preceded by its length."""
    content = path.read_bytes()
    if content[:1] != b"\x80":
        raise InputError(f"{path} is not a torch file: download or copy it again")
    stream = io.BytesIO(content)
    magic, version, system = (_evaluate(path, stream)[0] for _ in range(3))
    if magic != _LEGACY_MAGIC or version != 1001 or not system.get("little_endian"):
        raise InputError(
            f"{path} is a pickle, but not of torch: use a file written by torch.save(model.state_dict(), path)"
        )
    value, storages = _evaluate(path, stream)
    tensors = _state_dict(path, value)
    keys, _ = _evaluate(path, stream)
    arrays = {}
    for key in keys:
        start, storage = stream.tell(), storages[key]
        data = content[start + 8 : start + 8 + storage.bytes]
        length = int.from_bytes(content[start : start + 8], "little")
        if length != storage.count or len(data) != storage.bytes:
            raise InputError(f"{path} is truncated or damaged: download or copy it again")
        arrays[key] = storage.array(data)
        stream.seek(start + 8 + storage.bytes)
    return {name: tensor.array(arrays[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_zip(path: Path) -> Arrays | KerasFile:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" in names:
            return _read_keras_zip(path, archive)
        pickles = [name for name in names if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if len(pickles) != 1:
            raise InputError(
                f"{path} is a zip file, but not from torch or Keras: use a weights file"
            )
        return _read_torch_zip(path, archive, pickles[0])


def _member(path: Path, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Read a member whose stated size is within the limit; `zipfile` never returns more than that size."""
    try:
        stated = archive.getinfo(name).file_size
    except KeyError:
        raise InputError(f"{path} lacks {name}: download or copy it again") from None
    if stated > limit:
        raise InputError(
            f"{path} was rejected: {name} claims {stated:,} bytes, but at most {limit:,} are possible;"
            " download it again from its origin"
        )
    return archive.read(name)


def _read_torch_zip(path: Path, archive: zipfile.ZipFile, pickle: str) -> Arrays:
    root = pickle.removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist():
        order = _member(path, archive, f"{root}byteorder", 16)
        if order != b"little":
            raise InputError(f"{path} is big-endian: save it on a little-endian machine")
    stream = io.BytesIO(_member(path, archive, pickle, MAX_TEXT))
    tensors = _state_dict(path, _evaluate(path, stream)[0])
    total = sum(s.bytes for s in {t.storage.key: t.storage for t in tensors.values()}.values())
    if total > MAX_BYTES:
        raise InputError(f"{path} claims {total:,} bytes of tensors: check the file")
    arrays = {}
    storages: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        if storage.key not in storages:
            data = _member(path, archive, f"{root}data/{storage.key}", storage.bytes)
            if len(data) != storage.bytes:
                raise InputError(f"{path}: {name} is truncated: download or copy it again")
            storages[storage.key] = storage.array(data)
        arrays[name] = tensor.array(storages[storage.key])
    return arrays


# Keras

# Variables in the order of Keras 3's numbering, by the class in the layer's key.
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
_CONTAINERS = {"layers", "_layer_checkpoint_dependencies"}
# HDF5's built-in filters, and lzf, which is part of h5py; any other filter would load a plugin.
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}


def _read_keras_zip(path: Path, archive: zipfile.ZipFile) -> KerasFile:
    config = _config(path, _member(path, archive, "config.json", MAX_TEXT))
    weights = io.BytesIO(_member(path, archive, "model.weights.h5", MAX_BYTES))
    with h5py.File(weights, "r") as file:
        return KerasFile(_new_layers(_contents(path, file), config), config)


def _config(path: Path, text: str | bytes) -> dict[str, Any]:
    config = json.loads(text)
    if not isinstance(config, dict):
        raise InputError(f"{path} has an invalid Keras configuration: save the model again")
    return config


def _read_hdf5(path: Path) -> KerasFile:
    with h5py.File(path, "r") as file:
        contents = _contents(path, file)
        root = "model_weights" if "model_weights" in contents.groups else ""
        config = None
        if "model_config" in file.attrs:
            config = _config(path, file.attrs["model_config"])
        if {"layer_names", "layer_names0"} & set(contents.groups[root].attrs):
            return KerasFile(_legacy_layers(path, contents, root), config)
        return KerasFile(_new_layers(contents, config), config)


@dataclasses.dataclass
class _Contents:
    groups: dict[str, h5py.Group]
    datasets: dict[str, h5py.Dataset]

    def array(self, path: str) -> np.ndarray:
        return _float32(np.asarray(self.datasets[path][()]))


def _contents(path: Path, file: h5py.File) -> _Contents:
    """Groups and data sets by path, after checking that all of them are stored in this file."""
    contents = _Contents({"": file["/"]}, {})
    seen: set[Any] = set()
    total = 0
    stack = [("", file["/"])]
    while stack:
        prefix, group = stack.pop()
        identity = h5py.h5o.get_info(group.id).addr
        if identity in seen or len(seen) + len(contents.datasets) > MAX_OBJECTS:
            raise InputError(
                f"{path} was rejected: it has cyclic or too many groups, unlike any weights file;"
                " download it again from its origin"
            )
        seen.add(identity)
        for key in group:
            where = f"{prefix}/{key}".lstrip("/")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise InputError(
                    f"{path} was rejected: {where} is a link, perhaps to another file, unlike in any weights"
                    " file; download it again from its origin"
                )
            item = group[key]
            if isinstance(item, h5py.Group):
                contents.groups[where] = item
                stack.append((where, item))
                continue
            if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub":
                continue  # a type or text, not a tensor
            properties = item.id.get_create_plist()
            filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
            if item.external or item.is_virtual or filters - _FILTERS:
                raise InputError(
                    f"{path} was rejected: {where} is stored outside the file or needs a plugin, unlike in any"
                    " weights file; download it again from its origin"
                )
            total += item.size * item.dtype.itemsize
            if total > MAX_BYTES:
                raise InputError(f"{path} claims {total:,} bytes of tensors: check the file")
            contents.datasets[where] = item
    return contents


def _legacy_layers(path: Path, contents: _Contents, root: str) -> tuple[KerasLayer, ...]:
    """Layers of the .h5 format of Keras 1 to 3: attributes list the layers, and the paths of each layer's weights."""
    layers = []
    for outer in _names(contents.groups[root], "layer_names"):
        group = f"{root}/{outer}".lstrip("/")
        if group not in contents.groups:
            raise InputError(
                f"{path} lists the layer {outer}, but does not contain it: copy it again"
            )
        inner: dict[str, Arrays] = {}
        for weight in _names(contents.groups[group], "weight_names"):
            if f"{group}/{weight}" not in contents.datasets:
                raise InputError(
                    f"{path} lists {outer}/{weight}, but does not contain it: copy it again"
                )
            owner, _, variable = weight.removesuffix(":0").rpartition("/")
            values = inner.setdefault(owner.rpartition("/")[2] or outer, {})
            values[_variable(variable)] = contents.array(f"{group}/{weight}")
        # A layer has its weights under a single name, a nested model under several.
        if len(inner) == 1:
            layers.append(KerasLayer((), outer, outer, *inner.values()))
        else:
            layers += [KerasLayer((outer,), name, name, v) for name, v in inner.items()]
    return tuple(layers)


def _variable(name: str) -> str:
    """Normalize a variable's name: Keras 1 wrote block1_conv1_W_1, Keras 2 depthwise_kernel."""
    old = re.search(r"(?:^|_)(W|b)(?:_\d+)?$", name)
    return {"W": "kernel", "b": "bias"}[old[1]] if old else name.removeprefix("depthwise_")


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Read a list of names, which Keras splits into several attributes if it is long."""
    names: list[Any] = []
    if attribute in group.attrs:
        names = list(group.attrs[attribute])
    else:
        for index in range(MAX_OBJECTS):
            if f"{attribute}{index}" not in group.attrs:
                break
            names += list(group.attrs[f"{attribute}{index}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _new_layers(contents: _Contents, config: Any) -> tuple[KerasLayer, ...]:
    """Layers in Keras 3's layout: layers/conv2d_1/vars/0, with nested models as layers/functional/layers/..."""
    names = dict(_configured_names(config)) if config else {}
    layers = []
    for where, group in contents.groups.items():
        parts = where.split("/")
        if parts[-1] != "vars" or parts[0] == "optimizer" or "seed_generator" in parts:
            continue
        keys = tuple(part for part in parts[:-1] if part not in _CONTAINERS)
        indices = sorted(
            (key for key in group if f"{where}/{key}" in contents.datasets), key=_sort_key
        )
        if not keys or not indices:
            continue
        name = group.attrs.get("name", names.get(keys))
        variables = _VARIABLES.get(re.sub(r"_\d+$", "", keys[-1]), ())
        layers.append(
            KerasLayer(
                keys[:-1],
                keys[-1],
                None if name is None else str(name),
                {
                    variables[int(i)] if i.isdigit() and int(i) < len(variables) else i: (
                        contents.array(f"{where}/{i}")
                    )
                    for i in indices
                },
            )
        )
    return tuple(sorted(layers, key=lambda layer: (layer.parent, *_sort_key(layer.key))))


def _sort_key(key: str) -> tuple[str, int]:
    """Class and counter, to sort conv2d, conv2d_1, ..., conv2d_10."""
    # Only a trailing number is a counter; the 2 of "conv2d" is not.
    match = re.fullmatch(r"(.*?)_?(\d+)", key)
    return (match[1], int(match[2])) if match else (key, -1)


def _configured_names(
    config: Mapping[str, Any], parent: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (keys in the file, name) for every layer of a configuration.

    Keras numbers the layers of each class within a model, in order.
    """
    counters: dict[str, int] = {}
    for layer in config_layers(config):
        kind = _snake_case(str(layer.get("class_name")))
        kind = "functional" if kind == "model" else kind
        count = counters.get(kind, 0)
        counters[kind] = count + 1
        keys = (*parent, f"{kind}_{count}" if count else kind)
        if isinstance(layer["config"], dict) and "name" in layer["config"]:
            yield keys, str(layer["config"]["name"])
        yield from _configured_names(layer, keys)


def config_layers(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Layers of the configuration of a model or nested model; [] for that of a plain layer."""
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner  # a list: old Sequential
    return [
        item
        for item in (layers if isinstance(layers, list) else [])
        if isinstance(item, dict) and isinstance(item.get("config"), dict | list)
    ]


def _snake_case(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
