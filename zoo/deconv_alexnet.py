"""The four small AlexNets of Li et al. 2021, "Image Classification Algorithm Based on Improved AlexNet".

`cifar_alexnet_1` and `_2` end in wide fully connected layers; `deconv_alexnet_1` and `_2` put two deconvolutions
in front of narrow ones, which cuts the parameters fifteenfold. `_1` halves every width of `_2`. Input 28x28x3.
All four totals and shares of the paper's Table 2 are met, counting moving statistics as Keras does:

    name               parameters   fully connected   reported
    cifar_alexnet_1     2,210,922        95.36 %       2211k, 95.4 %
    cifar_alexnet_2     8,818,890        95.38 %       8819k, 95.4 %
    deconv_alexnet_1      148,426        11.99 %        148k, 12 %
    deconv_alexnet_2      585,610        11.67 %        586k, 11.6 %

A deconvolution is a transposed convolution. At stride 1 and SAME padding that is a plain convolution with the
kernel turned by 180 degrees; since the kernel is learned, the two are the same family of functions, and ours are
plain convolutions, which every backend runs faster.

Where the paper contradicts itself or states nothing, and our reading:
- Table 1 has a 3x3 kernel for DeConv1, Table 2's totals need 1x1: the registered nets follow Table 2, whose four
  rows then fit at once. `deconv_kernels=(3, 3)` gives Table 1's net: 847,754 and 213,962 parameters, 8.1 % and
  8.2 % of them in fully connected layers.
- Batch normalization follows each convolution and deconvolution of the improved nets and none of the others, which
  alone gives the totals.
- "Dropout 0.8" right after a convolution is TensorFlow 1's probability of keeping: rates 0.2 and 0.5. Table 1
  describes the improved net; the other gets the same rates where it has the same layers.
- The other nets' top is not stated: three pools to 4x4, then 2048 (1024 halved) units, which gives their totals.

Its future work, "dividing a 3x3 convolution operation into 3x1 and 1x3" with 1x1 convolutions "increasing and
decreasing dimensions", is `deconv_alexnet_1_factored` and `_2_factored`, a variant of our own design: every 3x3 layer
but the first (3 channels leave nothing to reduce) becomes 1x1, 3x1, 1x3, 1x1 through half its output's channels,
each with batch normalization and ReLU. Parameters beside the parent's, moving statistics counted:

    deconv_alexnet_1_factored    82,250  of  148,426  (55 %)
    deconv_alexnet_2_factored   317,066  of  585,610  (54 %)
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
    """A 3x3 convolution as 1x1 (fewer channels), 3x1, 1x3, 1x1: [B, H, W, C] to [B, H, W, features]."""

    features: int
    reduction: int  # the middle has features / reduction channels
    norm: bool
    norm_momentum: float
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        middle = max(1, self.features // self.reduction)
        for name, features, kernel in (
            ("reduce", middle, (1, 1)),
            ("vertical", middle, (3, 1)),
            ("horizontal", middle, (1, 3)),
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
    deconv_widths: Sequence[int] = (128, 64)  # empty: the net without deconvolutions
    deconv_kernels: Sequence[int] = (1, 3)  # (3, 3): Table 1's
    head_widths: Sequence[int] = (256,)
    factored: bool = False  # split 3x3 layers, the paper's future work
    reduction: int = 2  # of channels inside a split layer
    conv_dropout_rate: float = 0.2  # after conv2 and conv4
    dropout_rate: float = 0.5  # after deconvolutions and hidden dense layers
    norm: bool = True
    norm_momentum: float = KERAS_NORM_MOMENTUM
    axis_name: str | None = None  # averages batch statistics over a mapped axis
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if len(self.deconv_kernels) != len(self.deconv_widths):
            raise InputError(
                f"deconv_kernels has {len(self.deconv_kernels)} entries, but this model has"
                f" {len(self.deconv_widths)} deconvolutions: give one kernel size for each"
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

        one, two, three, four = self.widths
        x = x.astype(self.dtype)
        x = conv(x, "conv1", one)  # [B, 28, 28, 64]
        x = conv(x, "conv2", two)  # [B, 28, 28, 64]
        x = pool(x, 2, self.conv_dropout_rate)  # [B, 14, 14, 64]
        x = conv(x, "conv3", three)  # [B, 14, 14, 128]
        x = conv(x, "conv4", four)  # [B, 14, 14, 256]
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
TABLE_2_NOTES = "DeConv1 is 1x1 as Table 2's totals need it; deconv_kernels=(3, 3) gives Table 1's"
PAPER = 'Li et al. 2021, "Image Classification Algorithm Based on Improved AlexNet"'
OURS = f"ours, after the future work of {PAPER}"


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


@register_model(input_shape=(28, 28, 3), num_classes=10, source=OURS)
def deconv_alexnet_1_factored(num_classes: int) -> DeconvAlexNet:
    """deconv_alexnet_1 with its 3x3 layers split into 1x1, 3x1, 1x3, 1x1."""
    return DeconvAlexNet(num_classes, factored=True, **HALVED)


@register_model(input_shape=(28, 28, 3), num_classes=10, source=OURS)
def deconv_alexnet_2_factored(num_classes: int) -> DeconvAlexNet:
    """deconv_alexnet_2 with its 3x3 layers split into 1x1, 3x1, 1x3, 1x1."""
    return DeconvAlexNet(num_classes, factored=True)


@register_model(input_shape=(28, 28, 3), num_classes=10, source="ours, for tests")
def deconv_alexnet_tiny(num_classes: int) -> DeconvAlexNet:
    """deconv_alexnet_2 an eighth as wide."""
    return DeconvAlexNet(
        num_classes, widths=(8, 8, 16, 32), deconv_widths=(16, 8), head_widths=(32,)
    )
