"""ResNet (He et al. 2015, "Deep residual learning for image recognition", Table 1).

`resnet18` and `resnet34` have basic blocks (two 3x3 convolutions); `resnet50`, `resnet101` and `resnet152` have
bottlenecks (1x1, 3x3, 1x1). Han et al., "Animal face classification based on deep learning", train ResNet-50 from
scratch with Kaiming-uniform initialization (`kernel_init="kaiming_uniform"`), fine-tune it, and add dropout before the
head (`dropout_rate`; they do not state the rate). The 2048-dimensional features (`num_classes=0`) are the input of
their VaDE and GMVAE.

`variant` selects the layout of torchvision or of Keras, to load their weights:

                             torch (torchvision)                  keras (Keras applications: 50, 101, 152)
    bias of convolutions     no                                   yes
    stride of a stage        in the 3x3 of its first bottleneck   in the first 1x1, as in the original
    batch norm epsilon       1e-5                                 1.001e-5
    momentum                 0.9                                  0.99
    moving variance          unbiased                             biased
    initialization           He normal over the fan-out           Glorot uniform
    parameters, resnet50     25,557,032                           25,583,592 (25,636,712 with statistics)

Names here and in the original libraries (stage s and convolution k count from 1, block b from 0):

    here                     torchvision                 Keras
    conv1/conv, /norm        conv1, bn1                  conv1_conv, conv1_bn
    layer{s}/{b}/conv{k}     layer{s}.{b}.conv{k}        conv{s+1}_block{b+1}_{k}_conv   (its conv)
                             layer{s}.{b}.bn{k}          conv{s+1}_block{b+1}_{k}_bn     (its norm)
    layer{s}/0/downsample    layer{s}.0.downsample.0, .1 conv{s+1}_block1_0_conv, _bn
    head                     fc                          predictions
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import (
    ConvNormAct,
    MaxPool,
    choose,
    global_average_pool,
    glorot_uniform,
    he_normal_fan_out,
    head,
)
from zoo.pretrained.sources import CAFFE, keras_sources, torchvision_source
from zoo.registry import register_model

VARIANTS: dict[str, dict[str, Any]] = {
    "torch": {
        "use_bias": False,
        "norm_epsilon": 1e-5,
        "norm_momentum": 0.9,
        "unbiased_variance": True,
        "kernel_init": he_normal_fan_out,
    },
    "keras": {
        "use_bias": True,
        "norm_epsilon": 1.001e-5,
        "norm_momentum": 0.99,
        "unbiased_variance": False,
        "kernel_init": glorot_uniform,
    },
}
KERNEL_INITS = {
    "kaiming_normal": he_normal_fan_out,
    "kaiming_uniform": nn.initializers.he_uniform(),  # over the fan-in, torch's default
    "glorot_uniform": glorot_uniform,
}


class Residual(nn.Module):
    """Residual block: [B, H, W, C] to [B, H / stride, W / stride, 4 * features] (a basic block: features)."""

    features: int
    bottleneck: bool
    stride: int
    stride_first: bool  # bottlenecks only: stride in the first convolution, not in the 3x3
    conv: Callable[..., nn.Module]  # (features, kernel, stride, padding, activation, name)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if self.bottleneck:
            first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
            layers = [(1, first, 1), (3, second, 1), (1, 1, 4)]  # kernel, stride, width multiplier
        else:
            layers = [(3, self.stride, 1), (3, 1, 1)]
        y = x
        for index, (kernel, stride, multiplier) in enumerate(layers, start=1):
            y = self.conv(
                self.features * multiplier,
                (kernel, kernel),
                stride,
                ((kernel // 2, kernel // 2),) * 2,
                activation=nn.relu if index < len(layers) else None,
                name=f"conv{index}",
            )(y, train=train)
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = self.conv(
                y.shape[-1], (1, 1), self.stride, "VALID", activation=None, name="downsample"
            )(x, train=train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Residual blocks of one width, named 0, 1, ...; the first may downsample."""

    blocks: int
    stride: int
    block: Callable[..., nn.Module]  # (stride, name)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for index in range(self.blocks):
            block = self.block(stride=self.stride if index == 0 else 1, name=str(index))
            x = block(x, train=train)
        return x


class ResNet(nn.Module):
    """Images [B, 224, 224, 3] to float32 logits [B, num_classes]. Stages: conv1, layer1 to layer4, head."""

    num_classes: int
    blocks: Sequence[int]  # per stage
    bottleneck: bool = True
    widths: Sequence[int] = (64, 128, 256, 512)  # of each stage; the stem uses the first
    dropout_rate: float = 0.0  # before the head
    variant: str = "torch"
    kernel_init: str | None = None  # None: the variant's default
    norm_momentum: float | None = None  # None: the variant's default
    axis_name: str | None = None  # mapped axis over which batch statistics are averaged
    dtype: Any = jnp.float32
    keras_arithmetic = CAFFE

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        settings = choose(VARIANTS, self.variant, "variant") | {
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        if self.norm_momentum is not None:
            settings["norm_momentum"] = self.norm_momentum
        if self.kernel_init is not None:
            settings["kernel_init"] = choose(KERNEL_INITS, self.kernel_init, "kernel_init")
        conv: Callable[..., nn.Module] = functools.partial(ConvNormAct, **settings)

        x = x.astype(self.dtype)
        x = conv(self.widths[0], (7, 7), 2, ((3, 3), (3, 3)), name="conv1")(x, train=train)
        x = MaxPool(padding=((1, 1), (1, 1)), name="pool1")(x)  # [B, 56, 56, 64]
        for index, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            block = functools.partial(
                Residual,
                width,
                self.bottleneck,
                stride_first=self.variant == "keras",
                conv=conv,
            )
            stage = Stage(count, stride=1 if index == 1 else 2, block=block, name=f"layer{index}")
            x = stage(x, train=train)  # from [B, 56, 56, 256] to [B, 7, 7, 2048]
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return head(self.num_classes, x, settings["kernel_init"])

    @nn.nowrap
    def torchvision_names(self) -> dict[str, str]:
        """Map torchvision's module names, which timm uses too, to paths of this model."""
        modules = {"conv1": "conv1/conv", "bn1": "conv1/norm", "fc": "head"}
        for stage, block, projection in self._block_indices():
            path, module = f"layer{stage}/{block}", f"layer{stage}.{block}"
            for k in range(1, 4 if self.bottleneck else 3):
                modules[f"{module}.conv{k}"] = f"{path}/conv{k}/conv"
                modules[f"{module}.bn{k}"] = f"{path}/conv{k}/norm"
            if projection:
                modules[f"{module}.downsample.0"] = f"{path}/downsample/conv"
                modules[f"{module}.downsample.1"] = f"{path}/downsample/norm"
        return modules

    timm_names = torchvision_names

    @nn.nowrap
    def keras_names(self) -> dict[str, str] | None:
        """Map Keras's layer names to paths of this model; None for basic blocks, which Keras does not have."""
        if not self.bottleneck:
            return None
        layers = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/norm"}
        for stage, block, projection in self._block_indices():
            path, prefix = f"layer{stage}/{block}", f"conv{stage + 1}_block{block + 1}"
            # Keras lists layers of equal depth together: the projection's before those of the third convolution.
            for group in ([1], [2], [0, 3] if projection else [3]):
                for kind, variables in (("conv", "conv"), ("bn", "norm")):
                    for k in group:
                        convolution = f"conv{k}" if k else "downsample"
                        layers[f"{prefix}_{k}_{kind}"] = f"{path}/{convolution}/{variables}"
        return layers | {"predictions": "head"}

    @nn.nowrap
    def _block_indices(self) -> Iterator[tuple[int, int, bool]]:
        """Yield (stage from 1, block from 0, whether the block has a projection shortcut)."""
        for stage, count in enumerate(self.blocks, start=1):
            for block in range(count):
                # Basic blocks of the first stage change neither size nor width.
                yield stage, block, block == 0 and (self.bottleneck or stage > 1)


@register_model(input_shape=(224, 224, 3), num_classes=1000, source="He et al. 2015, Table 1")
def resnet18(num_classes: int) -> ResNet:
    """ResNet with 17 convolutions in basic blocks."""
    return ResNet(num_classes, blocks=(2, 2, 2, 2), bottleneck=False)


@register_model(input_shape=(224, 224, 3), num_classes=1000, source="He et al. 2015, Table 1")
def resnet34(num_classes: int) -> ResNet:
    """ResNet with 33 convolutions in basic blocks."""
    return ResNet(num_classes, blocks=(3, 4, 6, 3), bottleneck=False)


@register_model(
    input_shape=(224, 224, 3),
    num_classes=1000,
    source='Han et al., "Animal face classification based on deep learning", section B; He et al. 2015, Table 1',
    pretrained=(
        torchvision_source("resnet50-0676ba61.pth"),
        torchvision_source("resnet50-11ad3fa6.pth", "torchvision_v2", resized=232),
        *keras_sources(
            "resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
            "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
            CAFFE,
        ),
    ),
)
def resnet50(num_classes: int) -> ResNet:
    """ResNet with 49 convolutions in bottlenecks and 2048-dimensional features."""
    return ResNet(num_classes, blocks=(3, 4, 6, 3))


@register_model(input_shape=(224, 224, 3), num_classes=1000, source="He et al. 2015, Table 1")
def resnet101(num_classes: int) -> ResNet:
    """ResNet with 100 convolutions in bottlenecks."""
    return ResNet(num_classes, blocks=(3, 4, 23, 3))


@register_model(input_shape=(224, 224, 3), num_classes=1000, source="He et al. 2015, Table 1")
def resnet152(num_classes: int) -> ResNet:
    """ResNet with 151 convolutions in bottlenecks."""
    return ResNet(num_classes, blocks=(3, 8, 36, 3))


@register_model(
    input_shape=(64, 64, 3), num_classes=10, source="no paper: for small images and tests"
)
def resnet_tiny(num_classes: int) -> ResNet:
    """resnet50 with one narrow bottleneck per stage."""
    return ResNet(num_classes, blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16))
