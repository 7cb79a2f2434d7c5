"""Whose tensor is which of ours: names and layouts per origin.

The nets of a family say how an origin calls their layers: methods `torchvision_names`, `timm_names`, `keras_names`,
computed from their fields, so that narrow and shallow variants are covered too. Paths are those of convolutions, batch
normalizations and dense layers ("layer1/0/conv1/conv"); a leaf is a path, its collection in front and its variable
behind.

    torch, timm   kernels [out, in, kh, kw] and [out, in] become [kh, kw, in, out] and [in, out]. The first dense
                  layer of AlexNet and VGG reads an image flattened channels first, and so do our torch dialects:
                  no permutation is needed. timm's VGG has convolutions for dense layers: flattened likewise
    keras         as ours, but for depthwise kernels: [kh, kw, C, 1] become [kh, kw, 1, C]
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from zoo.common.errors import InputError
from zoo.pretrained.readers import Arrays, KerasFile, KerasLayer

# Entries of a state dict that are no weights.
IGNORED = ("num_batches_tracked",)


@dataclasses.dataclass
class Taken:
    """Tensors of a file under the names of our leaves and in our layout."""

    arrays: Arrays  # "params/head/kernel": array
    names: dict[str, str]  # the same leaves: what the file calls them
    unknown: list[str]  # names in the file that the model has no place for
    left: list[str]  # layers around a Keras backbone that are not taken, such as another head


def torchvision_modules(module: Any) -> dict[str, str]:
    """torchvision's modules, by name, and our paths. Raises InputError for other architectures."""
    return _names(module, "torchvision_names", "torchvision")


def timm_modules(module: Any) -> dict[str, str]:
    """timm's modules, by name, and our paths. Raises InputError for other architectures."""
    return _names(module, "timm_names", "timm")


def keras_layers(module: Any) -> dict[str, str]:
    """Keras applications' layers with variables, by name, and our paths, in the order of `model.layers`.

    Raises InputError for other architectures.
    """
    return _names(module, "keras_names", "Keras")


def _names(module: Any, method: str, origin: str) -> dict[str, str]:
    """What a family's net says of its names at an origin; None where there is no such net."""
    found = getattr(module, method)() if hasattr(module, method) else None
    if found is None:
        raise InputError(f"{origin} has no such model")
    return found


def published_width(weights: Arrays | KerasFile) -> float | None:
    """MobileNetV2's published width whose last 1x1 convolution has as many input channels as the file's."""
    if isinstance(weights, KerasFile):
        arrays: Iterable[np.ndarray] = (a for la in weights.layers for a in la.variables.values())
        shapes = {array.shape for array in arrays}
    else:
        shapes = {a.shape[::-1] for a in weights.values()}
    pointwise = [shape for shape in shapes if len(shape) == 4 and shape[:2] == (1, 1)]
    widest = max(pointwise, key=lambda shape: shape[3], default=(1, 1, 0, 0))
    known = {112: 0.35, 160: 0.5, 240: 0.75, 320: 1.0, 416: 1.3, 448: 1.4}
    return known.get(widest[2])


_TORCH_LEAVES = {
    "params/kernel": "weight",
    "params/scale": "weight",
    "params/bias": "bias",
    "batch_stats/mean": "running_mean",
    "batch_stats/var": "running_var",
}
_KERAS_LEAVES = {
    "params/kernel": "kernel",
    "params/scale": "gamma",
    "params/bias": "bias",
    "params/norm/bias": "beta",
    "batch_stats/mean": "moving_mean",
    "batch_stats/var": "moving_variance",
}


def _split(leaf: str) -> tuple[str, str, str]:
    """collection, path of the layer, variable."""
    collection, _, rest = leaf.partition("/")
    path, _, variable = rest.rpartition("/")
    return collection, path, variable


def take_torch(
    tensors: Arrays, modules: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Taken:
    """Tensors of a state dict as leaves of ours; `shapes` are those of the leaves."""
    names = {path: module for module, path in modules.items()}
    taken = Taken({}, {}, [], [])
    used = set()
    for leaf in shapes:
        collection, path, variable = _split(leaf)
        name = f"{names.get(path, path)}.{_TORCH_LEAVES[f'{collection}/{variable}']}"
        taken.names[leaf] = name
        if name in tensors:
            taken.arrays[leaf] = _from_torch(tensors[name], len(shapes[leaf]))
            used.add(name)
    ignored = {name for name in tensors if name.rpartition(".")[2] in IGNORED}
    taken.unknown = [name for name in tensors if name not in used | ignored]
    return taken


def _from_torch(array: np.ndarray, rank: int) -> np.ndarray:
    if rank == 2 and array.ndim in (2, 4):
        array = array.reshape(len(array), -1).T
    elif array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(array)


def take_keras(
    file: KerasFile, layers: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Taken:
    """Layers of a Keras file as leaves of ours: the backbone wherever it is nested, and a head that fits."""
    found = _backbone(file, layers)
    theirs = {path: layer for layer, path in layers.items()}
    others = [la for la in file.layers if la not in found.values()]
    # A convolution beside the backbone's own means a deeper net; anything else there may be a head's.
    parents = {layer.parent for layer in found.values()}
    unknown = [
        la
        for la in others
        if not found or la.parent in parents and la.kind in ("conv", "depthwise")
    ]
    others = [la for la in others if la not in unknown]
    if "params/head/kernel" in shapes and theirs["head"] not in found and len(others) == 1:
        kernel = others[0].variables.get("kernel")
        # One number for two classes is no head here: a softmax needs a logit for each.
        if kernel is not None and kernel.ndim == 2 and kernel.shape[1] > 1:
            found[theirs["head"]] = others.pop()
    taken = Taken({}, {}, [str(la) for la in unknown], [str(la) for la in others])
    for leaf in shapes:
        collection, path, variable = _split(leaf)
        norm = path.endswith("norm") and variable == "bias"
        key = _KERAS_LEAVES[f"{collection}/{'norm/' if norm else ''}{variable}"]
        layer = found.get(theirs[path])
        taken.names[leaf] = f"{theirs[path] if layer is None else layer}/{key}"
        if layer is not None and key in layer.variables:
            array = layer.variables[key]
            if path.endswith("depthwise/conv") and array.ndim == 4:
                array = np.swapaxes(array, 2, 3)
            taken.arrays[leaf] = np.ascontiguousarray(array)
    return taken


def _backbone(file: KerasFile, layers: Mapping[str, str]) -> dict[str, KerasLayer]:
    """Keras's names and the file's layers of them; {} when the file holds no such backbone."""
    groups: dict[tuple[str, ...], list[KerasLayer]] = {}
    for layer in file.layers:
        groups.setdefault(layer.parent, []).append(layer)
    named = [{la.name: la for la in group if la.name in layers} for group in groups.values()]
    best = max(named, key=len, default={})
    if len(best) >= len(layers) // 2:
        return {str(name): layer for name, layer in best.items()}
    nameless = [group for group in groups.values() if all(la.name is None for la in group)]
    if not nameless:
        return {}
    # Keys are counters of a class: their order is that of the model's layers of this class.
    group = max(nameless, key=lambda group: sum(la.kind == "conv" for la in group))
    found: dict[str, KerasLayer] = {}
    for kind in ("conv", "depthwise", "norm", "dense"):
        expected = [name for name, path in layers.items() if _kind(path) == kind]
        members = [layer for layer in group if layer.kind == kind]
        if kind != "dense" or len(members) == len(expected):
            found |= dict(zip(expected, members, strict=False))
    return found


def _kind(path: str) -> str:
    if path.endswith("depthwise/conv"):
        return "depthwise"
    last = path.rpartition("/")[2]
    return last if last in ("conv", "norm") else "dense"
