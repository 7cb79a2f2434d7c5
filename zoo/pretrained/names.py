"""Conversion of tensor names and layouts from torchvision, timm and Keras to this zoo.

Models implement `torchvision_names`, `timm_names` and `keras_names`, which map layer names of that library to paths of
the model. These are computed from the model's fields, so narrow and shallow variants are covered. A path is that of a
convolution, batch normalization or dense layer, such as "layer1/0/conv1/conv"; a leaf is "collection/path/variable",
such as "params/layer1/0/conv1/conv/kernel".

    torch, timm   kernels [out, in, kh, kw] and [out, in] become [kh, kw, in, out] and [in, out]. The first dense layer
                  of AlexNet and VGG takes features flattened channels first, like the zoo's torch variants, so it needs
                  no permutation. timm's VGG has convolutions instead of dense layers; their kernels are flattened
    keras         same layout, except that depthwise kernels [kh, kw, C, 1] become [kh, kw, 1, C]
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from zoo.common.errors import InputError
from zoo.pretrained.readers import Arrays, KerasFile, KerasLayer

# Prefixes added by torch.compile, DataParallel, and modules that contain the net. No torchvision or timm net that the
# zoo supports has a layer with such a name.
WRAPPERS = ("_orig_mod.", "module.", "model.", "backbone.")
# Entries of a state dict that are not weights.
IGNORED = ("num_batches_tracked",)


@dataclasses.dataclass
class Converted:
    """Tensors of a file with the names and layout of this zoo."""

    arrays: Arrays  # by leaf, such as "params/head/kernel"
    names: dict[str, str]  # leaf to the name in the file
    unknown: list[str]  # names in the file that the model does not have
    unused: list[str]  # layers around a Keras backbone that are not loaded, such as another head


def torchvision_modules(module: Any) -> dict[str, str]:
    """Map torchvision's module names to paths of the model. Raises InputError if torchvision has no such model."""
    return _names(module, "torchvision_names", "torchvision")


def timm_modules(module: Any) -> dict[str, str]:
    """Map timm's module names to paths of the model. Raises InputError if timm has no such model."""
    return _names(module, "timm_names", "timm")


def keras_layers(module: Any) -> dict[str, str]:
    """Map names of Keras layers with variables to paths of the model, in the order of Keras's `model.layers`.

    Raises InputError if Keras applications have no such model.
    """
    return _names(module, "keras_names", "Keras")


def _names(module: Any, method: str, origin: str) -> dict[str, str]:
    names = getattr(module, method)() if hasattr(module, method) else None
    if names is None:
        raise InputError(f"{origin} has no such model")
    return names


def published_width(weights: Arrays | KerasFile) -> float | None:
    """Infer MobileNetV2's published width from the input channels of the last 1x1 convolution; None if unknown."""
    if isinstance(weights, KerasFile):
        arrays: Iterable[np.ndarray] = (
            array for layer in weights.layers for array in layer.variables.values()
        )
        shapes = {array.shape for array in arrays}
    else:
        shapes = {a.shape[::-1] for a in weights.values()}
    pointwise = [shape for shape in shapes if len(shape) == 4 and shape[:2] == (1, 1)]
    widest = max(pointwise, key=lambda shape: shape[3], default=(1, 1, 0, 0))
    widths = {112: 0.35, 160: 0.5, 240: 0.75, 320: 1.0, 416: 1.3, 448: 1.4}
    return widths.get(widest[2])


def without_wrappers(tensors: Arrays) -> Arrays:
    """Remove the prefixes that wrappers add to names, however nested, unless two tensors would get the same name."""
    found = {}
    for name, array in tensors.items():
        while prefix := next(filter(name.startswith, WRAPPERS), ""):
            name = name.removeprefix(prefix)
        found[name] = array
    return found if len(found) == len(tensors) else tensors


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
    """Split a leaf into collection, path of the layer and variable."""
    collection, _, rest = leaf.partition("/")
    path, _, variable = rest.rpartition("/")
    return collection, path, variable


def convert_torch(
    tensors: Arrays, modules: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Converted:
    """Convert the tensors of a state dict.

    Args:
      tensors: by name in the state dict.
      modules: `torchvision_modules` or `timm_modules` of the model.
      shapes: shapes of the model's leaves.
    """
    names = {path: module for module, path in modules.items()}
    converted = Converted({}, {}, [], [])
    used = set()
    for leaf in shapes:
        collection, path, variable = _split(leaf)
        name = f"{names.get(path, path)}.{_TORCH_LEAVES[f'{collection}/{variable}']}"
        converted.names[leaf] = name
        if name in tensors:
            converted.arrays[leaf] = _from_torch(tensors[name], len(shapes[leaf]))
            used.add(name)
    ignored = {name for name in tensors if name.rpartition(".")[2] in IGNORED}
    converted.unknown = [name for name in tensors if name not in used | ignored]
    return converted


def _from_torch(array: np.ndarray, rank: int) -> np.ndarray:
    if rank == 2 and array.ndim in (2, 4):
        array = array.reshape(len(array), -1).T
    elif array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(array)


def convert_keras(
    file: KerasFile, layers: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Converted:
    """Convert the layers of a Keras file: the backbone, at any nesting level, and a head that fits.

    Args:
      file: file returned by `readers.read`.
      layers: `keras_layers` of the model.
      shapes: shapes of the model's leaves.
    """
    found = _backbone(file, layers)
    names = {path: layer for layer, path in layers.items()}
    others = [layer for layer in file.layers if layer not in found.values()]
    # Additional convolutions next to the backbone's mean a deeper net; other layers may belong to a head.
    parents = {layer.parent for layer in found.values()}
    unknown = [
        layer
        for layer in others
        if not found or layer.parent in parents and layer.kind in ("conv", "depthwise")
    ]
    others = [layer for layer in others if layer not in unknown]
    if "params/head/kernel" in shapes and names["head"] not in found and len(others) == 1:
        kernel = others[0].variables.get("kernel")
        # A binary head with a single output does not fit: softmax needs one logit per class.
        if kernel is not None and kernel.ndim == 2 and kernel.shape[1] > 1:
            found[names["head"]] = others.pop()
    converted = Converted({}, {}, list(map(str, unknown)), list(map(str, others)))
    for leaf in shapes:
        collection, path, variable = _split(leaf)
        norm = path.endswith("norm") and variable == "bias"
        key = _KERAS_LEAVES[f"{collection}/{'norm/' if norm else ''}{variable}"]
        layer = found.get(names[path])
        converted.names[leaf] = f"{names[path] if layer is None else layer}/{key}"
        if layer is not None and key in layer.variables:
            array = layer.variables[key]
            if path.endswith("depthwise/conv") and array.ndim == 4:
                array = np.swapaxes(array, 2, 3)
            converted.arrays[leaf] = np.ascontiguousarray(array)
    return converted


def _backbone(file: KerasFile, layers: Mapping[str, str]) -> dict[str, KerasLayer]:
    """Map Keras's layer names to the file's layers; empty if the file does not contain the backbone."""
    groups: dict[tuple[str, ...], list[KerasLayer]] = {}
    for layer in file.layers:
        groups.setdefault(layer.parent, []).append(layer)
    named = [
        {layer.name: layer for layer in group if layer.name in layers} for group in groups.values()
    ]
    best = max(named, key=len, default={})
    if len(best) >= len(layers) // 2:
        return {str(name): layer for name, layer in best.items()}
    nameless = [group for group in groups.values() if all(layer.name is None for layer in group)]
    if not nameless:
        return {}
    # Keys are numbered per class, in the order of the model's layers of that class.
    group = max(nameless, key=lambda group: sum(layer.kind == "conv" for layer in group))
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
