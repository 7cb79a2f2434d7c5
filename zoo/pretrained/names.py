"""Whose tensor is which of ours: names and layouts per origin.

The tables in the docstrings of zoo/vgg.py, zoo/resnet.py and zoo/mobilenet.py, computed from a module's fields,
so that narrow and shallow variants are covered too. Paths are those of convolutions, batch normalisations and dense
layers ("layer1/0/conv1/conv"); a leaf is a path, its collection in front and its variable behind.

    torch, timm   kernels [out, in, kh, kw] and [out, in] become [kh, kw, in, out] and [in, out]. The first dense
                  layer of AlexNet and VGG reads an image flattened channels first, and so do our torch dialects:
                  no permutation is needed. timm's VGG has convolutions for dense layers: flattened likewise
    keras         as ours, but for depthwise kernels: [kh, kw, C, 1] become [kh, kw, 1, C]
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo.alexnet import TorchAlexNet
from zoo.common.errors import InputError
from zoo.mobilenet import MobileNetV2
from zoo.pretrained.readers import Arrays, KerasFile, KerasLayer
from zoo.resnet import ResNet
from zoo.vgg import VGG

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
    modules: dict[str, str] = {}
    match module:
        case TorchAlexNet():
            for index, conv in zip((0, 3, 6, 8, 10), range(1, 6), strict=True):
                modules[f"features.{index}"] = f"conv{conv}/conv"
            return modules | {"classifier.1": "fc1", "classifier.4": "fc2", "classifier.6": "head"}
        case VGG():
            index = 0
            for block, count in enumerate(module.convolutions, start=1):
                for conv in range(1, count + 1):
                    modules[f"features.{index}"] = f"block{block}/conv{conv}/conv"
                    index += 2  # and a ReLU
                index += 1  # a pool
            dense = {"classifier.0": "top/fc1", "classifier.3": "top/fc2", "classifier.6": "head"}
            return modules | dense
        case ResNet():
            modules = {"conv1": "conv1/conv", "bn1": "conv1/norm", "fc": "head"}
            for stage, block, first in _resnet_blocks(module):
                ours, theirs = f"layer{stage}/{block}", f"layer{stage}.{block}"
                for k in range(1, 4 if module.bottleneck else 3):
                    modules[f"{theirs}.conv{k}"] = f"{ours}/conv{k}/conv"
                    modules[f"{theirs}.bn{k}"] = f"{ours}/conv{k}/norm"
                if first:
                    modules[f"{theirs}.downsample.0"] = f"{ours}/downsample/conv"
                    modules[f"{theirs}.downsample.1"] = f"{ours}/downsample/norm"
            return modules
        case MobileNetV2():
            last = sum(count for _, _, count, _ in module.table) + 1
            for end in (0, last):
                modules[f"features.{end}.0"] = f"features/{end}/conv"
                modules[f"features.{end}.1"] = f"features/{end}/norm"
            for index, _, _, parts in _mobilenet_blocks(module):
                for place, part in enumerate(parts):
                    # All but the last are a convolution with its norm in a list of their own.
                    linear = part == "project"
                    inner, norm = (place, place + 1) if linear else (f"{place}.0", f"{place}.1")
                    modules[f"features.{index}.conv.{inner}"] = f"features/{index}/{part}/conv"
                    modules[f"features.{index}.conv.{norm}"] = f"features/{index}/{part}/norm"
            return modules | {"classifier.1": "head"}
    raise InputError("torchvision has no such model")


def timm_modules(module: Any) -> dict[str, str]:
    """timm's modules, by name, and our paths. Raises InputError for other architectures."""
    match module:
        case VGG():
            modules = {k: v for k, v in torchvision_modules(module).items() if "features" in k}
            dense = {"pre_logits.fc1": "top/fc1", "pre_logits.fc2": "top/fc2", "head.fc": "head"}
            return modules | dense
        case ResNet():
            return torchvision_modules(module)
        case MobileNetV2():
            last = sum(count for _, _, count, _ in module.table) + 1
            modules = {
                "conv_stem": "features/0/conv",
                "bn1": "features/0/norm",
                "conv_head": f"features/{last}/conv",
                "bn2": f"features/{last}/norm",
                "classifier": "head",
            }
            for index, stage, block, parts in _mobilenet_blocks(module):
                convs = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
                if "expand" not in parts:
                    convs["project"] = "conv_pw"
                for place, part in enumerate(parts, start=1):
                    theirs, ours = f"blocks.{stage}.{block}", f"features/{index}/{part}"
                    modules[f"{theirs}.{convs[part]}"] = f"{ours}/conv"
                    modules[f"{theirs}.bn{place}"] = f"{ours}/norm"
            return modules
    raise InputError("timm has no such model")


def keras_layers(module: Any) -> dict[str, str]:
    """Keras applications' layers with variables, by name, and our paths, in the order of `model.layers`.

    Raises InputError for other architectures.
    """
    match module:
        case VGG():
            layers = {
                f"block{block}_conv{conv}": f"block{block}/conv{conv}/conv"
                for block, count in enumerate(module.convolutions, start=1)
                for conv in range(1, count + 1)
            }
            return layers | {"fc1": "top/fc1", "fc2": "top/fc2", "predictions": "head"}
        case ResNet(bottleneck=True):
            layers = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/norm"}
            for stage, block, first in _resnet_blocks(module):
                ours, theirs = f"layer{stage}/{block}", f"conv{stage + 1}_block{block + 1}"
                # Of equal depth, the shortcut's layers come before the third ones.
                for group in ([1], [2], [0, 3] if first else [3]):
                    for kind, variables in (("conv", "conv"), ("bn", "norm")):
                        for k in group:
                            part = f"conv{k}" if k else "downsample"
                            layers[f"{theirs}_{k}_{kind}"] = f"{ours}/{part}/{variables}"
            return layers | {"predictions": "head"}
        case MobileNetV2():
            layers = {"Conv1": "features/0/conv", "bn_Conv1": "features/0/norm"}
            for index, _, _, parts in _mobilenet_blocks(module):
                theirs = f"block_{index - 1}" if index > 1 else "expanded_conv"
                for part in parts:
                    layers[f"{theirs}_{part}"] = f"features/{index}/{part}/conv"
                    layers[f"{theirs}_{part}_BN"] = f"features/{index}/{part}/norm"
            last = f"features/{index + 1}"
            ends = {"Conv_1": f"{last}/conv", "Conv_1_bn": f"{last}/norm", "predictions": "head"}
            return layers | ends
    raise InputError("Keras has no such model")


def _resnet_blocks(module: ResNet) -> Iterable[tuple[int, int, bool]]:
    """(stage from 1, block from 0, whether the block has a shortcut with a convolution)."""
    for stage, count in enumerate(module.blocks, start=1):
        for block in range(count):
            # A basic block of the first stage changes neither size nor width.
            yield stage, block, block == 0 and (module.bottleneck or stage > 1)


def _mobilenet_blocks(module: MobileNetV2) -> Iterable[tuple[int, int, int, Sequence[str]]]:
    """(index from 1, stage from 0, block within it from 0, its convolutions)."""
    index = 1
    for stage, (expansion, _, count, _) in enumerate(module.table):
        for block in range(count):
            parts = ("depthwise", "project")
            yield index, stage, block, parts if expansion == 1 else ("expand", *parts)
            index += 1


def mobilenet_width(weights: Arrays | KerasFile) -> float | None:
    """The published width whose last 1x1 convolution has as many input channels as the file's."""
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
