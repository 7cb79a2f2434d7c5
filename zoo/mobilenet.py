"""MobileNetV2 (Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", Table 2).

Liu, "Animal Image Classification Recognition based on Transfer Learning", fine-tunes it: t = 6, ReLU6, linear
bottlenecks, a new head, dropout (rate not stated: `dropout_rate` is torchvision's 0.2). `width` is the width
multiplier; Keras publishes weights for 0.35 to 1.4.

`dialect` says whose weights fit:

                          torch (torchvision)            keras (Keras applications)
    padding at stride 2   one zero on every side         SAME: for an even size only below and right
    batch-norm epsilon    1e-5                           1e-3
    momentum              0.9                            0.999 (short runs need less: `norm_momentum=0.9`)
    moving variance       unbiased                       biased
    initialisation        He normal over the fan-out,    Glorot uniform
                          0.01 normal for the head
    dropout               0.2                            none: `dropout_rate=0` gives its training step

Both have 3,504,872 parameters at width 1, and 3,538,984 with moving statistics.

Names, and how those of the origins follow from them (each with conv and norm inside; n from 1 to 17):

    here                     torchvision                     Keras (convolution, batch-norm)
    features/0               features.0.0, .1                Conv1, bn_Conv1
    features/1/depthwise     features.1.conv.0.0, .0.1       expanded_conv_depthwise, _depthwise_BN
    features/1/project       features.1.conv.1, .2           expanded_conv_project, _project_BN
    features/{n}/expand      features.{n}.conv.0.0, .0.1     block_{n-1}_expand, _expand_BN
    features/{n}/depthwise   features.{n}.conv.1.0, .1.1     block_{n-1}_depthwise, _depthwise_BN
    features/{n}/project     features.{n}.conv.2, .3         block_{n-1}_project, _project_BN
    features/18              features.18.0, .1               Conv_1, Conv_1_bn
    head                     classifier.1                    predictions

A depthwise kernel is [3, 3, 1, C] here, [C, 1, 3, 3] in torch and [3, 3, C, 1] in Keras.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.common.errors import InputError
from zoo.layers import (
    ConvNormAct,
    choose,
    global_average_pool,
    glorot_uniform,
    he_normal_fan_out,
    head,
)
from zoo.registry import register_model

# Table 2: expansion t, output channels c, repetitions n, stride s of the first.
TABLE_2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
DIALECTS: dict[str, dict[str, Any]] = {
    "torch": {
        "norm_epsilon": 1e-5,
        "norm_momentum": 0.9,
        "unbiased_variance": True,
        "kernel_init": he_normal_fan_out,
    },
    "keras": {
        "norm_epsilon": 1e-3,
        "norm_momentum": 0.999,
        "unbiased_variance": False,
        "kernel_init": glorot_uniform,
    },
}


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, but at least 8 and never more than 10 % below (the authors' rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: [B, H, W, C] to [B, H / stride, W / stride, features]."""

    features: int
    stride: int
    expansion: int
    padding: Any  # of the depthwise convolution
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        y = x
        if self.expansion != 1:
            y = self.conv(x.shape[-1] * self.expansion, (1, 1), name="expand")(y, train=train)
        y = self.conv(
            y.shape[-1], (3, 3), self.stride, self.padding, depthwise=True, name="depthwise"
        )(y, train=train)
        y = self.conv(self.features, (1, 1), activation=None, name="project")(y, train=train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class Features(nn.Module):
    """All but the head, its parts named 0 (stem), 1, 2, ... (inverted residuals), and the last 1x1 convolution."""

    stem: int
    blocks: Sequence[tuple[int, int, int]]  # expansion, output channels, stride
    last: int
    padding: Any
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.conv(self.stem, (3, 3), 2, self.padding, name="0")(x, train=train)
        for index, (expansion, channels, stride) in enumerate(self.blocks, start=1):
            block = InvertedResidual(
                channels, stride, expansion, self.padding, self.conv, name=str(index)
            )
            x = block(x, train=train)
        return self.conv(self.last, (1, 1), name=str(len(self.blocks) + 1))(x, train=train)


class MobileNetV2(nn.Module):
    """Images [B, 224, 224, 3] to float32 logits [B, num_classes]. Stages: features/0 to features/18, head."""

    num_classes: int
    width: float = 1.0
    table: Sequence[tuple[int, int, int, int]] = TABLE_2
    stem_width: int = 32
    last_width: int = 1280  # not narrowed by a width below 1
    dropout_rate: float = 0.2  # before the head
    dialect: str = "torch"
    norm_momentum: float | None = None  # None: the dialect's
    axis_name: str | None = None  # averages batch statistics over a mapped axis
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if not self.width > 0:
            raise InputError(f"width is {self.width}: give a positive multiplier, such as 0.5")
        settings = choose(DIALECTS, self.dialect, "dialect") | {
            "activation": nn.relu6,
            "use_bias": False,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        if self.norm_momentum is not None:
            settings["norm_momentum"] = self.norm_momentum
        keras = self.dialect == "keras"
        blocks = []
        for expansion, channels, repetitions, stride in self.table:
            scaled = channels * self.width
            # Keras cuts to an integer first, which at some widths (0.556) rounds to another multiple of 8.
            features = round_channels(int(scaled) if keras else scaled)
            for index in range(repetitions):
                blocks.append((expansion, features, stride if index == 0 else 1))
        x = Features(
            stem=round_channels(self.stem_width * self.width),
            blocks=blocks,
            last=round_channels(self.last_width * max(1.0, self.width)),
            padding="SAME" if keras else ((1, 1), (1, 1)),
            conv=functools.partial(ConvNormAct, **settings),
            name="features",
        )(x.astype(self.dtype), train=train)  # [B, 7, 7, 1280]
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return head(self.num_classes, x, glorot_uniform if keras else nn.initializers.normal(0.01))


@register_model(
    input_shape=(224, 224, 3),
    num_classes=1000,
    source='Liu, "Animal Image Classification Recognition based on Transfer Learning"; Sandler et al. 2018, Table 2',
    notes="Liu states no dropout rate: 0.2 is torchvision's",
    pretrained=("torchvision", "torchvision_v2", "keras", "keras_no_top"),
)
def mobilenet_v2(num_classes: int) -> MobileNetV2:
    """MobileNetV2: inverted residuals with linear bottlenecks, for little computing."""
    return MobileNetV2(num_classes)


@register_model(input_shape=(32, 32, 3), num_classes=10, source="ours, for small images and tests")
def mobilenet_v2_tiny(num_classes: int) -> MobileNetV2:
    """mobilenet_v2 with five narrow blocks, for 32x32 images."""
    return MobileNetV2(
        num_classes,
        table=((1, 8, 1, 1), (4, 8, 2, 2), (4, 16, 2, 2)),
        stem_width=8,
        last_width=64,
    )
