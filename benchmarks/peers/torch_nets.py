"""The zoo's nets in torch, as an experienced torch user would write them.

Modules carry the zoo's names, so that weights are copied by name (`load_weights`). Channels-last memory
throughout; flattening in NHWC order is then free, and gives dense layers the zoo's order of inputs.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

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
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        *,
        norm: bool = True,
        activation: Callable[[], nn.Module] = InplaceReLU,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        # torch's momentum is the weight of the new value, Keras's that of the old one.
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
    """zoo.alexnet.AlexNet: 3x227x227 images, or what leaves `side` x `side` before the top."""

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (96, 256, 384, 384, 256),
        head_widths: Sequence[int] = (4096, 4096),
        *,
        side: int = 6,
        dropout_rate: float = 0.5,
    ):
        super().__init__()
        conv = functools.partial(ConvNormAct, norm=False)
        self.conv1 = conv(3, widths[0], 11, stride=4)
        self.conv2 = conv(widths[0], widths[1], 5, padding=2)
        self.conv3 = conv(widths[1], widths[2], 3, padding=1)
        self.conv4 = conv(widths[2], widths[3], 3, padding=1)
        self.conv5 = conv(widths[3], widths[4], 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2)
        self.top = Classifier(side * side * widths[4], head_widths, dropout_rate)
        self.head = nn.Linear(head_widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        x = self.pool(self.conv2(x))
        x = self.conv4(self.conv3(x))
        x = self.pool(self.conv5(x))
        return self.head(self.top(x))


class PigAlexNet(nn.Module):
    """zoo.alexnet.PigAlexNet: 3x256x256 images, or what leaves `side` x `side` before the top."""

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (96, 256, 384, 384, 256),
        head_widths: Sequence[int] = (4096, 4096),
        stem: tuple[int, int] = (11, 4),
        *,
        attention: bool = False,
        side: int = 2,
        dropout_rate: float = 0.4,
    ):
        super().__init__()
        self.conv1 = ConvNormAct(3, widths[0], *stem)
        self.conv2 = ConvNormAct(widths[0], widths[1], 5)
        self.conv3 = ConvNormAct(widths[1], widths[2], 3)
        self.conv4 = ConvNormAct(widths[2], widths[3], 3)
        self.conv5 = ConvNormAct(widths[3], widths[4], 3)
        self.pool = nn.MaxPool2d(3, 2)
        self.sam3 = SpatialAttention(widths[2]) if attention else nn.Identity()
        self.sam4 = SpatialAttention(widths[3]) if attention else nn.Identity()
        self.top = Classifier(side * side * widths[4], head_widths, dropout_rate)
        self.head = nn.Linear(head_widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x))
        x = self.pool(self.conv2(x))
        x = self.sam3(self.conv3(x))
        x = self.sam4(self.conv4(x))
        x = self.pool(self.conv5(x))
        return self.head(self.top(x))


class TorchConvNorm(nn.Sequential):
    """zoo.layers.ConvNormAct with torch's settings, which nets from torchvision have."""

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


class MobileNetV2(nn.Module):
    """zoo.mobilenet.MobileNetV2 in torch's dialect, width 1."""

    # Expansion, output channels, repetitions, stride of the first (Sandler et al. 2018, Table 2).
    TABLE = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, num_classes: int, *, dropout_rate: float = 0.2):
        super().__init__()
        act = functools.partial(nn.ReLU6, inplace=True)
        self.features = nn.Sequential(TorchConvNorm(3, 32, 3, stride=2))
        self.features[0].append(act())
        channels = 32
        for expansion, outputs, count, stride in self.TABLE:
            for index in range(count):
                step = stride if index == 0 else 1
                self.features.append(InvertedResidual(channels, outputs, step, expansion))
                channels = outputs
        self.features.append(TorchConvNorm(channels, 1280, 1).append(act()))
        self.dropout = nn.Dropout(dropout_rate)
        self.head = nn.Linear(1280, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.features(x).mean(dim=(2, 3))))


TINY, TINY_TOP = (16, 24, 32, 32, 24), (64, 64)

# The zoo's registered names: a factory that takes num_classes.
NETS: dict[str, Callable[[int], nn.Module]] = {
    "alexnet": AlexNet,
    "pig_alexnet": PigAlexNet,
    "sam_alexnet": functools.partial(PigAlexNet, attention=True, head_widths=(1024, 1024)),
    "mobilenet_v2": MobileNetV2,
    "alexnet_tiny": functools.partial(AlexNet, widths=TINY, head_widths=TINY_TOP, side=1),
    "sam_alexnet_tiny": functools.partial(
        PigAlexNet, widths=TINY, head_widths=TINY_TOP, stem=(5, 1), attention=True
    ),
}


def create(model: str, num_classes: int) -> nn.Module:
    """The twin of a model of the zoo; LookupError when there is none."""
    if model not in NETS:
        raise LookupError(f"no torch twin of {model} in benchmarks/peers/torch_nets.py")
    return NETS[model](num_classes).to(memory_format=torch.channels_last)


def load_weights(net: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Copy the zoo's weights (see `benchmarks.peers`) into a net; RuntimeError unless each fits."""
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
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
