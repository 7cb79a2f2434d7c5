"""The four small AlexNets of Li et al. 2021, "Image Classification Algorithm Based on Improved AlexNet".

`cifar_alexnet_1` and `_2` end in wide fully connected layers; `deconv_alexnet_1` and `_2` have two deconvolutions
before narrow ones, with 15 times fewer parameters. `_1` has half the widths of `_2`. The input is 28x28x3. The
parameters of all four nets and the fractions in fully connected layers match the paper's Table 2 when moving statistics
are counted, as Keras does:

    name               parameters   fully connected   reported
    cifar_alexnet_1     2,210,922        95.36%        2211k, 95.4%
    cifar_alexnet_2     8,818,890        95.38%        8819k, 95.4%
    deconv_alexnet_1      148,426        11.99%         148k, 12%
    deconv_alexnet_2      585,610        11.67%         586k, 11.6%

A deconvolution is a transposed convolution. With stride 1 and SAME padding it is an ordinary convolution with the
kernel rotated by 180 degrees. Since the kernel is learned, both represent the same functions; we use ordinary
convolutions, which are faster on every backend.

Where the paper contradicts itself or is silent, we assume:
- Table 1 has a 3x3 kernel for DeConv1, but the totals of Table 2 require 1x1. The registered nets follow Table 2, and
  then all four of its rows match. `deconv_kernels=(3, 3)` gives the net of Table 1: 847,754 and 213,962 parameters,
  8.1% and 8.3% of them in fully connected layers. (A 1x1 Conv4 with a 3x3 DeConv1 also gives Table 2's totals: both
  have the same number of weights per pixel of the kernel. We keep the Conv4 that all four nets share.)
- Batch normalization follows each convolution and deconvolution in the improved nets, and no layer in the others: no
  other choice gives the totals.
- "Dropout 0.8" directly after a convolution is TensorFlow 1's keep probability: rates 0.2 and 0.5. Table 1 describes
  the improved net; the other nets have the same rates in the layers that they share with it.
- The top of the other nets is not stated. Three pools down to 4x4 and 2048 units (1024 in the halved net) give their
  totals.

The paper's future work, "dividing a 3x3 convolution operation into 3x1 and 1x3" with 1x1 convolutions "increasing and
decreasing dimensions", is implemented by `deconv_alexnet_1_factored` and `_2_factored`, in our own design: every 3x3
layer except the first (3 input channels leave nothing to reduce) becomes 1x1, 3x1, 1x3, 1x1 with half the output
channels in between, each with batch normalization and ReLU. Parameters, including moving statistics, compared with the
original net:

    deconv_alexnet_1_factored    82,250  of  148,426  (55%)
    deconv_alexnet_2_factored   317,066  of  585,610  (54%)
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.common.errors import InputError
from zoo.layers import KERAS_NORM_MOMENTUM, Classifier, ConvNormAct, MaxPool, head
from zoo.registry import register_model


class FactoredConv(nn.Module):
    """A 3x3 convolution factored into 1x1 (reduce), 3x1, 1x3, 1x1 (expand): [B, H, W, C] to [B, H, W, features]."""

    features: int
    reduction: int  # the inner layers have features / reduction channels
    norm: bool
    norm_momentum: float
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        inner = max(1, self.features // self.reduction)
        for name, features, kernel in (
            ("reduce", inner, (1, 1)),
            ("vertical", inner, (3, 1)),
            ("horizontal", inner, (1, 3)),
            ("expand", self.features, (1, 1)),
        ):
            x = ConvNormAct(
                features,
                kernel,
                padding="SAME",
                norm=self.norm,
                norm_momentum=self.norm_momentum,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )(x, train=train)
        return x


class DeconvAlexNet(nn.Module):
    """The nets of Li et al. 2021: images [B, 28, 28, 3] to float32 logits [B, num_classes].

    Stages: conv1, conv2, pool2, conv3, conv4, pool4, then deconv1, pool5, deconv2, pool6 (or pool5 alone), top, head.
    """

    num_classes: int
    widths: Sequence[int] = (64, 64, 128, 256)
    deconv_widths: Sequence[int] = (128, 64)  # empty: no deconvolutions
    deconv_kernels: Sequence[int] = (1, 3)  # (3, 3): Table 1's
    head_widths: Sequence[int] = (256,)
    factored: bool = False  # factor 3x3 layers, the paper's future work
    reduction: int = 2  # of channels inside a factored layer
    conv_dropout_rate: float = 0.2  # after conv2 and conv4
    dropout_rate: float = 0.5  # after deconvolutions and hidden dense layers
    norm: bool = True
    norm_momentum: float = KERAS_NORM_MOMENTUM
    axis_name: str | None = None  # mapped axis over which batch statistics are averaged
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if len(self.deconv_kernels) != len(self.deconv_widths):
            raise InputError(
                f"deconv_kernels has {len(self.deconv_kernels)} entries, but this model has"
                f" {len(self.deconv_widths)} deconvolutions: use one kernel size for each"
            )
        norm = {
            "norm": self.norm,
            "norm_momentum": self.norm_momentum,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }

        def conv(x: jax.Array, name: str, features: int, size: int = 3) -> jax.Array:
            block: nn.Module
            if self.factored and size == 3 and name != "conv1":
                block = FactoredConv(features, self.reduction, **norm, name=name)
            else:
                block = ConvNormAct(features, (size, size), padding="SAME", **norm, name=name)
            return block(x, train=train)

        def pool(x: jax.Array, index: int, rate: float = 0.0) -> jax.Array:
            x = nn.Dropout(rate, deterministic=not train)(x)
            return MaxPool(padding="SAME", name=f"pool{index}")(x)

        width1, width2, width3, width4 = self.widths
        x = x.astype(self.dtype)
        x = conv(x, "conv1", width1)  # [B, 28, 28, 64]
        x = conv(x, "conv2", width2)  # [B, 28, 28, 64]
        x = pool(x, 2, self.conv_dropout_rate)  # [B, 14, 14, 64]
        x = conv(x, "conv3", width3)  # [B, 14, 14, 128]
        x = conv(x, "conv4", width4)  # [B, 14, 14, 256]
        x = pool(x, 4, self.conv_dropout_rate)  # [B, 7, 7, 256]
        layers = zip(self.deconv_widths, self.deconv_kernels, strict=True)
        for index, (width, size) in enumerate(layers, start=1):
            x = conv(x, f"deconv{index}", width, size)  # [B, 7, 7, 128], then [B, 4, 4, 64]
            x = pool(x, 4 + index, self.dropout_rate)  # [B, 4, 4, 128], then [B, 2, 2, 64]
        if not self.deconv_widths:
            x = pool(x, 5)  # [B, 4, 4, 256]
        x = Classifier(self.head_widths, self.dropout_rate, self.dtype, name="top")(x, train=train)
        return head(self.num_classes, x)


HALVED: dict[str, Any] = {
    "widths": (32, 32, 64, 128),
    "deconv_widths": (64, 32),
    "head_widths": (128,),
}
PLAIN: dict[str, Any] = {"deconv_widths": (), "deconv_kernels": (), "norm": False}
TABLE_2_NOTES = (
    "DeConv1 is 1x1, as the totals of Table 2 require; deconv_kernels=(3, 3) follows Table 1"
)
PAPER = 'Li et al. 2021, "Image Classification Algorithm Based on Improved AlexNet"'
FUTURE_WORK = f"after the future work of {PAPER}; our own design"


@register_model(input_shape=(28, 28, 3), num_classes=10, source=f"{PAPER}, Table 2")
def cifar_alexnet_1(num_classes: int) -> DeconvAlexNet:
    """AlexNet_1: four convolutions of halved width and a 1024-10 top, no deconvolution."""
    return DeconvAlexNet(num_classes, **{**HALVED, **PLAIN, "head_widths": (1024,)})


@register_model(input_shape=(28, 28, 3), num_classes=10, source=f"{PAPER}, Table 2")
def cifar_alexnet_2(num_classes: int) -> DeconvAlexNet:
    """AlexNet_2: four convolutions and a 2048-10 top, no deconvolution."""
    return DeconvAlexNet(num_classes, head_widths=(2048,), **PLAIN)


@register_model(
    input_shape=(28, 28, 3), num_classes=10, source=f"{PAPER}, Table 2", notes=TABLE_2_NOTES
)
def deconv_alexnet_1(num_classes: int) -> DeconvAlexNet:
    """new_AlexNet_1: two deconvolutions before a 128-10 top, halved width."""
    return DeconvAlexNet(num_classes, **HALVED)


@register_model(
    input_shape=(28, 28, 3), num_classes=10, source=f"{PAPER}, Tables 1 and 2", notes=TABLE_2_NOTES
)
def deconv_alexnet_2(num_classes: int) -> DeconvAlexNet:
    """new_AlexNet_2: two deconvolutions before a 256-10 top."""
    return DeconvAlexNet(num_classes)


@register_model(input_shape=(28, 28, 3), num_classes=10, source=FUTURE_WORK)
def deconv_alexnet_1_factored(num_classes: int) -> DeconvAlexNet:
    """deconv_alexnet_1 with its 3x3 layers factored into 1x1, 3x1, 1x3, 1x1."""
    return DeconvAlexNet(num_classes, factored=True, **HALVED)


@register_model(input_shape=(28, 28, 3), num_classes=10, source=FUTURE_WORK)
def deconv_alexnet_2_factored(num_classes: int) -> DeconvAlexNet:
    """deconv_alexnet_2 with its 3x3 layers factored into 1x1, 3x1, 1x3, 1x1."""
    return DeconvAlexNet(num_classes, factored=True)


@register_model(input_shape=(28, 28, 3), num_classes=10, source="no paper: for tests")
def deconv_alexnet_tiny(num_classes: int) -> DeconvAlexNet:
    """deconv_alexnet_2 with an eighth of the width."""
    return DeconvAlexNet(
        num_classes, widths=(8, 8, 16, 32), deconv_widths=(16, 8), head_widths=(32,)
    )
