"""The zoo's nets in idiomatic torch.

Modules have the zoo's names, so that weights are copied by name (`load_weights`). Memory is channels-last throughout,
so flattening in NHWC order is free and gives dense layers the zoo's order of inputs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers import NOT_AVAILABLE
from benchmarks.workers import Unsupported

KERAS_NORM_MOMENTUM = 0.99
KERAS_NORM_EPSILON = 1e-3
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
InplaceReLU = functools.partial(nn.ReLU, inplace=True)


class ConvNormAct(nn.Module):
    """zoo.layers.ConvNormAct."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | str = 0,
        *,
        norm: bool = True,
        groups: int = 1,
        activation: Callable[[], nn.Module] = InplaceReLU,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)
        # torch's momentum is the weight of the new value, Keras's that of the moving average.
        momentum = 1 - KERAS_NORM_MOMENTUM
        self.norm = nn.BatchNorm2d(outputs, KERAS_NORM_EPSILON, momentum) if norm else nn.Identity()
        self.activation = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.norm(self.conv(x)))


class SpatialAttention(nn.Module):
    """zoo.layers.SpatialAttention."""

    def __init__(self, channels: int):
        super().__init__()
        self.middle = ConvNormAct(channels, channels, 3, padding=1)
        self.squeeze = ConvNormAct(1, channels, 1)
        self.excite = ConvNormAct(channels, channels, 1, activation=nn.Sigmoid)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = self.middle(x)
        pooled = (x + middle).mean(dim=1, keepdim=True)
        return middle + self.excite(self.squeeze(pooled)) * x


class Classifier(nn.Module):
    """zoo.layers.Classifier."""

    def __init__(self, inputs: int, widths: Sequence[int], dropout_rate: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.count = len(widths)
        for index, width in enumerate(widths, start=1):
            self.add_module(f"fc{index}", nn.Linear(inputs, width))
            inputs = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1).flatten(1)  # NHWC order: a view of channels-last memory
        for index in range(1, self.count + 1):
            x = self.dropout(nn.functional.relu(self.get_submodule(f"fc{index}")(x)))
        return x


class AlexNet(nn.Module):
    """zoo.alexnet.AlexNet for 3x227x227 images; `feature_size`: height and width of the features before the top.

    `original`: zoo.alexnet.OriginalAlexNet, with two towers and local response normalization.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (96, 256, 384, 384, 256),
        head_widths: Sequence[int] = (4096, 4096),
        *,
        original: bool = False,
        feature_size: int = 6,
        dropout_rate: float = 0.5,
    ):
        super().__init__()
        conv = functools.partial(ConvNormAct, norm=False)
        groups = 2 if original else 1
        self.conv1 = conv(3, widths[0], 11, stride=4)
        self.conv2 = conv(widths[0], widths[1], 5, padding=2, groups=groups)
        self.conv3 = conv(widths[1], widths[2], 3, padding=1)
        self.conv4 = conv(widths[2], widths[3], 3, padding=1, groups=groups)
        self.conv5 = conv(widths[3], widths[4], 3, padding=1, groups=groups)
        self.pool = nn.MaxPool2d(3, 2)
        normalize = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)  # alpha / 5 = 1e-4
        self.normalize = normalize if original else nn.Identity()
        self.top = Classifier(feature_size * feature_size * widths[4], head_widths, dropout_rate)
        self.head = nn.Linear(head_widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.normalize(self.conv1(x)))
        x = self.pool(self.normalize(self.conv2(x)))
        x = self.conv4(self.conv3(x))
        x = self.pool(self.conv5(x))
        return self.head(self.top(x))


class PigAlexNet(nn.Module):
    """zoo.alexnet.PigAlexNet for 3x256x256 images; `feature_size`: height and width of the features before the top."""

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (96, 256, 384, 384, 256),
        head_widths: Sequence[int] = (4096, 4096, 4096),
        stem: tuple[int, int] = (11, 4),
        norm_layers: Sequence[int] = (1, 2),
        *,
        attention: bool = False,
        feature_size: int = 2,
        dropout_rate: float = 0.4,
    ):
        super().__init__()

        def conv(index: int, kernel: int, stride: int = 1) -> ConvNormAct:
            inputs = 3 if index == 1 else widths[index - 2]
            norm = index in norm_layers
            return ConvNormAct(inputs, widths[index - 1], kernel, stride, norm=norm)

        self.conv1 = conv(1, *stem)
        self.conv2 = conv(2, 5)
        self.conv3 = conv(3, 3)
        self.conv4 = conv(4, 3)
        self.conv5 = conv(5, 3)
        self.pool = nn.MaxPool2d(3, 2)
        self.sam3 = SpatialAttention(widths[2]) if attention else nn.Identity()
        self.sam4 = SpatialAttention(widths[3]) if attention else nn.Identity()
        self.top = Classifier(feature_size * feature_size * widths[4], head_widths, dropout_rate)
        self.head = nn.Linear(head_widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        x = self.pool(self.conv2(x))
        x = self.sam3(self.conv3(x))
        x = self.sam4(self.conv4(x))
        x = self.pool(self.conv5(x))
        return self.head(self.top(x))


class TorchAlexNet(nn.Module):
    """zoo.alexnet.TorchAlexNet, torchvision's AlexNet, for 3x224x224 images."""

    def __init__(self, num_classes: int, *, dropout_rate: float = 0.5):
        super().__init__()
        conv = functools.partial(ConvNormAct, norm=False)
        self.conv1 = conv(3, 64, 11, 4, 2)
        self.conv2 = conv(64, 192, 5, padding=2)
        self.conv3 = conv(192, 384, 3, padding=1)
        self.conv4 = conv(384, 256, 3, padding=1)
        self.conv5 = conv(256, 256, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2)
        self.average = nn.AdaptiveAvgPool2d(6)
        self.dropout = nn.Dropout(dropout_rate)
        self.fc1 = nn.Linear(256 * 6 * 6, 4096)
        self.fc2 = nn.Linear(4096, 4096)
        self.head = nn.Linear(4096, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        x = self.pool(self.conv2(x))
        x = self.conv4(self.conv3(x))
        x = self.average(self.pool(self.conv5(x))).flatten(1)  # channels first, as in its weights
        x = nn.functional.relu(self.fc1(self.dropout(x)))
        return self.head(nn.functional.relu(self.fc2(self.dropout(x))))


class FactoredConv(nn.Sequential):
    """zoo.deconv_alexnet.FactoredConv."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        middle = outputs // 2
        self.reduce = ConvNormAct(inputs, middle, 1)
        self.vertical = ConvNormAct(middle, middle, (3, 1), padding="same")
        self.horizontal = ConvNormAct(middle, middle, (1, 3), padding="same")
        self.expand = ConvNormAct(middle, outputs, 1)


class DeconvAlexNet(nn.Module):
    """zoo.deconv_alexnet.DeconvAlexNet for 3x28x28 images."""

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (64, 64, 128, 256),
        deconv_widths: Sequence[int] = (128, 64),
        head_widths: Sequence[int] = (256,),
        *,
        factored: bool = False,
        norm: bool = True,
        conv_dropout_rate: float = 0.2,
        dropout_rate: float = 0.5,
    ):
        super().__init__()
        one, two, three, four = widths
        conv = functools.partial(ConvNormAct, kernel=3, padding=1, norm=norm)
        wide = FactoredConv if factored else conv
        self.conv1 = conv(3, one)
        self.conv2 = wide(one, two)
        self.conv3 = wide(two, three)
        self.conv4 = wide(three, four)
        self.conv_dropout = nn.Dropout(conv_dropout_rate)
        self.dropout = nn.Dropout(dropout_rate)
        self.deconv1: nn.Module | None = None
        self.deconv2: nn.Module | None = None
        inputs = 4 * 4 * four
        if deconv_widths:  # at stride 1 a deconvolution is a convolution
            self.deconv1 = ConvNormAct(four, deconv_widths[0], 1)
            self.deconv2 = wide(deconv_widths[0], deconv_widths[1])
            inputs = 2 * 2 * deconv_widths[1]
        self.top = Classifier(inputs, head_widths, dropout_rate)
        self.head = nn.Linear(head_widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pool_same(self.conv_dropout(self.conv2(self.conv1(x))))
        x = pool_same(self.conv_dropout(self.conv4(self.conv3(x))))
        if self.deconv1 is None or self.deconv2 is None:
            x = pool_same(x)
        else:
            x = pool_same(self.dropout(self.deconv1(x)))
            x = pool_same(self.dropout(self.deconv2(x)))
        return self.head(self.top(x))


def pool_same(x: torch.Tensor) -> torch.Tensor:
    """Max-pool 3x3 at stride 2 with SAME padding: on both sides for an odd size, only at the end for an even one."""
    odd = x.shape[-1] % 2
    return nn.functional.max_pool2d(x, 3, 2, padding=odd, ceil_mode=not odd)


class VGG(nn.Module):
    """zoo.vgg.VGG in torch's variant, as in torchvision."""

    def __init__(
        self,
        num_classes: int,
        convolutions: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        head_widths: Sequence[int] = (4096, 4096),
        *,
        pooled_size: int = 7,
        dropout_rate: float = 0.5,
    ):
        super().__init__()
        inputs = 3
        self.blocks = len(widths)
        for index, (width, count) in enumerate(zip(widths, convolutions, strict=True), start=1):
            block = nn.Sequential()
            for number in range(1, count + 1):
                block.add_module(
                    f"conv{number}", ConvNormAct(inputs, width, 3, padding=1, norm=False)
                )
                inputs = width
            block.add_module("pool", nn.MaxPool2d(2))
            self.add_module(f"block{index}", block)
        self.average = nn.AdaptiveAvgPool2d(pooled_size)
        self.top = nn.Sequential()
        inputs *= pooled_size**2
        for number, width in enumerate(head_widths, start=1):
            self.top.add_module(f"fc{number}", nn.Linear(inputs, width))
            self.top.add_module(f"act{number}", InplaceReLU())
            self.top.add_module(f"dropout{number}", nn.Dropout(dropout_rate))
            inputs = width
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(1, self.blocks + 1):
            x = self.get_submodule(f"block{index}")(x)
        return self.head(self.top(self.average(x).flatten(1)))


class TorchConvNorm(nn.Sequential):
    """zoo.layers.ConvNormAct with torch's defaults, as in torchvision's nets; without activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)


class InvertedResidual(nn.Module):
    """zoo.mobilenet.InvertedResidual."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = TorchConvNorm(inputs, hidden, 1) if expansion != 1 else None
        self.depthwise = TorchConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.project = TorchConvNorm(hidden, outputs, 1)
        self.activation = nn.ReLU6(inplace=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.activation(self.expand(x))
        y = self.project(self.activation(self.depthwise(y)))
        return x + y if self.residual else y


class Residual(nn.Module):
    """zoo.resnet.Residual in torch's variant."""

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool):
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        self.conv3: nn.Module | None = None
        if bottleneck:
            self.conv1 = TorchConvNorm(inputs, width, 1)
            self.conv2 = TorchConvNorm(width, width, 3, stride)
            self.conv3 = TorchConvNorm(width, outputs, 1)
        else:
            self.conv1 = TorchConvNorm(inputs, width, 3, stride)
            self.conv2 = TorchConvNorm(width, width, 3)
        self.activation = InplaceReLU()
        changes = stride != 1 or inputs != outputs
        self.downsample = TorchConvNorm(inputs, outputs, 1, stride) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.activation(self.conv1(x)))
        if self.conv3 is not None:
            y = self.conv3(self.activation(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.activation(y)


class ResNet(nn.Module):
    """zoo.resnet.ResNet in torch's variant, as in torchvision."""

    def __init__(
        self,
        num_classes: int,
        blocks: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        bottleneck: bool = True,
    ):
        super().__init__()
        self.conv1 = TorchConvNorm(3, widths[0], 7, 2).append(InplaceReLU())
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = len(blocks)
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            layer = nn.Sequential()
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                layer.append(Residual(channels, width, stride, bottleneck=bottleneck))
                channels = width * (4 if bottleneck else 1)
            self.add_module(f"layer{stage}", layer)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.head(x.mean(dim=(2, 3)))


class MobileNetV2(nn.Module):
    """zoo.mobilenet.MobileNetV2 in torch's variant, width 1."""

    # Expansion, output channels, blocks, stride of the first block (Sandler et al. 2018, Table 2).
    TABLE = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(
        self,
        num_classes: int,
        table: Sequence[tuple[int, int, int, int]] = TABLE,
        stem: int = 32,
        last: int = 1280,
        *,
        dropout_rate: float = 0.2,
    ):
        super().__init__()
        act = functools.partial(nn.ReLU6, inplace=True)
        self.features = nn.Sequential(TorchConvNorm(3, stem, 3, stride=2))
        self.features[0].append(act())
        channels = stem
        for expansion, outputs, count, stride in table:
            for index in range(count):
                step = stride if index == 0 else 1
                self.features.append(InvertedResidual(channels, outputs, step, expansion))
                channels = outputs
        self.features.append(TorchConvNorm(channels, last, 1).append(act()))
        self.dropout = nn.Dropout(dropout_rate)
        self.head = nn.Linear(last, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.features(x).mean(dim=(2, 3))))


TINY, TINY_TOP = (16, 24, 32, 32, 24), (64, 64)
HALVED: dict[str, Any] = {
    "widths": (32, 32, 64, 128),
    "deconv_widths": (64, 32),
    "head_widths": (128,),
}
PLAIN: dict[str, Any] = {"deconv_widths": (), "norm": False}
VGG_TINY: dict[str, Any] = {
    "widths": (8, 16, 24, 32, 32),
    "head_widths": (32, 32),
    "pooled_size": 1,
}
MOBILE_TINY: dict[str, Any] = {
    "table": ((1, 8, 1, 1), (4, 8, 2, 2), (4, 16, 2, 2)),
    "stem": 8,
    "last": 64,
}

# The zoo's registered names, each with a factory that takes num_classes.
NETS: dict[str, Callable[[int], nn.Module]] = {
    "alexnet": AlexNet,
    "alexnet_original": functools.partial(AlexNet, original=True),
    "pig_alexnet": PigAlexNet,
    "sam_alexnet": functools.partial(PigAlexNet, attention=True, head_widths=(1024, 1024)),
    "alexnet_torchvision": TorchAlexNet,
    "cifar_alexnet_1": functools.partial(
        DeconvAlexNet, **HALVED | PLAIN | {"head_widths": (1024,)}
    ),
    "cifar_alexnet_2": functools.partial(DeconvAlexNet, **PLAIN, head_widths=(2048,)),
    "deconv_alexnet_1": functools.partial(DeconvAlexNet, **HALVED),
    "deconv_alexnet_2": DeconvAlexNet,
    "deconv_alexnet_1_factored": functools.partial(DeconvAlexNet, factored=True, **HALVED),
    "deconv_alexnet_2_factored": functools.partial(DeconvAlexNet, factored=True),
    "vgg11": functools.partial(VGG, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": functools.partial(VGG, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": functools.partial(VGG, convolutions=(2, 2, 3, 3, 3)),
    "vgg19": functools.partial(VGG, convolutions=(2, 2, 4, 4, 4)),
    "resnet18": functools.partial(ResNet, blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet34": functools.partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=False),
    "resnet50": functools.partial(ResNet, blocks=(3, 4, 6, 3)),
    "resnet101": functools.partial(ResNet, blocks=(3, 4, 23, 3)),
    "resnet152": functools.partial(ResNet, blocks=(3, 8, 36, 3)),
    "mobilenet_v2": MobileNetV2,
    "alexnet_tiny": functools.partial(AlexNet, widths=TINY, head_widths=TINY_TOP, feature_size=1),
    "alexnet_original_tiny": functools.partial(
        AlexNet, widths=TINY, head_widths=TINY_TOP, original=True, feature_size=1
    ),
    "sam_alexnet_tiny": functools.partial(
        PigAlexNet,
        widths=TINY,
        head_widths=TINY_TOP,
        stem=(5, 1),
        norm_layers=(1, 2, 3, 4, 5),
        attention=True,
    ),
    "deconv_alexnet_tiny": functools.partial(
        DeconvAlexNet, widths=(8, 8, 16, 32), deconv_widths=(16, 8), head_widths=(32,)
    ),
    "vgg_tiny": functools.partial(VGG, convolutions=(1, 1, 2, 2, 2), **VGG_TINY),
    "resnet_tiny": functools.partial(ResNet, blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16)),
    "mobilenet_v2_tiny": functools.partial(MobileNetV2, **MOBILE_TINY),
}


def create(model: str, num_classes: int) -> nn.Module:
    """Create the torch version of a zoo model. Raises Unsupported if there is none."""
    if model not in NETS:
        raise Unsupported(NOT_AVAILABLE)
    return NETS[model](num_classes).to(memory_format=torch.channels_last)


def load_weights(net: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Copy the zoo's weights (see `benchmarks.peers`) into a net; RuntimeError if names or shapes differ."""
    state = {}
    for path, array in arrays.items():
        if not path.startswith(("params/", "batch_stats/")):
            continue
        _, *scopes, leaf = path.split("/")
        if leaf == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        state[".".join([*scopes, LEAVES.get(leaf, leaf)])] = torch.from_numpy(array.copy())
    missing, unexpected = net.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"weights do not fit: missing {missing}, unexpected {unexpected}")


def count_parameters(net: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
