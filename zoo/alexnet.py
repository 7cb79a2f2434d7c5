"""AlexNet: the original, the three variants of two papers, and torchvision's.

`alexnet_original` is the net of Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional
neural networks": two towers, one per GPU, written as convolutions with two groups of channels, and local response
normalization. It has 60,965,224 parameters, 96.17% of them in dense layers: the "60 million" and "96.2%" that "Image
Classification Algorithm Based on Improved AlexNet" quotes.

`alexnet` is the Keras variant of Le 2021, "Alexnet and image classification" (after Krizhevsky et al. 2012): one tower,
227x227 input, no local response normalization, 62,378,344 parameters with 1000 classes. All output shapes and
parameter counts match the reported ones.

`pig_alexnet` and `sam_alexnet` are the baseline and the Attention-AlexNet of "Pig face identification by AlexNet with a
spatial attention module". Both take 256x256 input and use valid padding ("effective filling"): only valid padding
reproduces all sizes that the paper reports. `sam_alexnet` adds a spatial attention module after each of the two
384-channel convolutions and has a narrower top.

Our interpretation of that paper (`norm_layers` and `head_widths` change it):
- Batch normalization follows convolutions 1 and 2, where "AlexNet jointed the LRN layer after the 1st and 2nd
  convolution layer", which the paper removes. Figure 2 distinguishes "the conventional convolution operation" from
  "conv+bn", and the third level has "384 conventional convolutions". Whether the fifth convolution is normalized is
  open; here it is not. The batch normalization in the attention modules is stated; `norm_layers` does not affect it.
- The baseline's top is 4096-4096-4096-10: "A total of 9 weight layers were there, among which 5 convolution layers and
  4 fully connected layers". Figure 2 shows only one 4,096 and the 10.
- Dropout 0.4 follows each hidden fully connected layer.
- Convolutions before batch normalization keep their bias, which is Keras's default.
Version 0.1 normalized every convolution, and its baseline's top was 4096-4096-10. Weights saved by that version are
loaded with those options.

`alexnet_torchvision` is the net of torchvision's weights (Krizhevsky 2014, "One weird trick for parallelizing
convolutional neural networks"): narrower convolutions, dropout before each hidden dense layer, any image size. Biases
are initialized to zero; torch initializes them to small random values. Names here and in torchvision:

    conv1/conv to conv5/conv    features.0, .3, .6, .8, .10
    fc1, fc2                    classifier.1, .4
    head                        classifier.6
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import (
    KERAS_NORM_MOMENTUM,
    Classifier,
    ConvNormAct,
    LocalResponseNorm,
    MaxPool,
    SpatialAttention,
    adaptive_average_pool,
    head,
)
from zoo.pretrained.sources import torchvision_source
from zoo.registry import register_model

# torch's default for convolutions and dense layers: uniform in +-1 / sqrt(fan-in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class AlexNet(nn.Module):
    """The Keras AlexNet of Le 2021: images [B, 227, 227, 3] to float32 logits [B, num_classes]."""

    num_classes: int
    widths: Sequence[int] = (96, 256, 384, 384, 256)
    head_widths: Sequence[int] = (4096, 4096)
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        def conv(index: int, kernel: int, stride: int = 1, padding: str = "SAME") -> ConvNormAct:
            return ConvNormAct(
                self.widths[index - 1],
                (kernel, kernel),
                stride,
                padding,
                norm=False,
                dtype=self.dtype,
                name=f"conv{index}",
            )

        x = x.astype(self.dtype)
        x = conv(1, 11, stride=4, padding="VALID")(x)  # [B, 55, 55, 96]
        x = MaxPool(name="pool1")(x)  # [B, 27, 27, 96]
        x = conv(2, 5)(x)  # [B, 27, 27, 256]
        x = MaxPool(name="pool2")(x)  # [B, 13, 13, 256]
        x = conv(3, 3)(x)  # [B, 13, 13, 384]
        x = conv(4, 3)(x)  # [B, 13, 13, 384]
        x = conv(5, 3)(x)  # [B, 13, 13, 256]
        x = MaxPool(name="pool5")(x)  # [B, 6, 6, 256]
        x = Classifier(self.head_widths, self.dropout_rate, self.dtype, name="top")(x, train=train)
        return head(self.num_classes, x)


class OriginalAlexNet(nn.Module):
    """AlexNet of Krizhevsky et al. 2012: images [B, 227, 227, 3] to float32 logits [B, num_classes].

    Images of 224 pixels, as stated, do not give the stated feature maps of 55x55; those of 227 do. Weights are drawn
    from N(0, 0.01); the biases of convolutions 2, 4 and 5 and of the hidden dense layers start at 1 (section 5).
    """

    num_classes: int
    widths: Sequence[int] = (96, 256, 384, 384, 256)
    groups: Sequence[int] = (1, 2, 1, 2, 2)
    head_widths: Sequence[int] = (4096, 4096)
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        normal, zeros, ones = (
            nn.initializers.normal(0.01),
            nn.initializers.zeros,
            nn.initializers.ones,
        )

        def conv(index: int, kernel: int, stride: int = 1, padding: str = "SAME") -> ConvNormAct:
            return ConvNormAct(
                self.widths[index - 1],
                (kernel, kernel),
                stride,
                padding,
                norm=False,
                groups=self.groups[index - 1],
                kernel_init=normal,
                bias_init=ones if index in (2, 4, 5) else zeros,
                dtype=self.dtype,
                name=f"conv{index}",
            )

        x = x.astype(self.dtype)
        x = LocalResponseNorm(name="norm1")(conv(1, 11, stride=4, padding="VALID")(x))
        x = MaxPool(name="pool1")(x)  # [B, 27, 27, 96]
        x = LocalResponseNorm(name="norm2")(conv(2, 5)(x))
        x = MaxPool(name="pool2")(x)  # [B, 13, 13, 256]
        x = conv(3, 3)(x)  # [B, 13, 13, 384]
        x = conv(4, 3)(x)  # [B, 13, 13, 384]
        x = conv(5, 3)(x)  # [B, 13, 13, 256]
        x = MaxPool(name="pool5")(x)  # [B, 6, 6, 256]
        top = Classifier(
            self.head_widths,
            self.dropout_rate,
            self.dtype,
            kernel_init=normal,
            bias_init=ones,
            name="top",
        )
        return head(self.num_classes, top(x, train=train), normal)


class PigAlexNet(nn.Module):
    """AlexNets of the pig face paper: images [B, 256, 256, 3] to float32 logits [B, num_classes]."""

    num_classes: int
    attention: bool = False  # SAM after each of the two 384-channel convolutions (Figure 4)
    widths: Sequence[int] = (96, 256, 384, 384, 256)
    head_widths: Sequence[int] = (4096, 4096, 4096)
    stem: tuple[int, int] = (11, 4)  # kernel and stride of the first convolution
    dropout_rate: float = 0.4
    norm_layers: Sequence[int] = (1, 2)  # numbers of the convolutions with batch normalization
    attention_norm: bool = True  # False: weights of version 0.1 without any batch normalization
    norm_momentum: float = KERAS_NORM_MOMENTUM
    axis_name: str | None = None  # mapped axis over which batch statistics are averaged
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        shared = {
            "norm_momentum": self.norm_momentum,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }

        def conv(x: jax.Array, index: int, kernel: int, stride: int = 1) -> jax.Array:
            block = ConvNormAct(
                self.widths[index - 1],
                (kernel, kernel),
                stride,
                norm=index in self.norm_layers,
                **shared,
                name=f"conv{index}",
            )
            return block(x, train=train)

        def attend(x: jax.Array, index: int) -> jax.Array:
            if not self.attention:
                return x
            block = SpatialAttention(norm=self.attention_norm, **shared, name=f"sam{index}")
            return block(x, train=train)

        x = x.astype(self.dtype)
        x = conv(x, 1, *self.stem)  # [B, 62, 62, 96]
        x = MaxPool(name="pool1")(x)  # [B, 30, 30, 96]
        x = conv(x, 2, kernel=5)  # [B, 26, 26, 256]
        x = MaxPool(name="pool2")(x)  # [B, 12, 12, 256]
        x = attend(conv(x, 3, kernel=3), 3)  # [B, 10, 10, 384]
        x = attend(conv(x, 4, kernel=3), 4)  # [B, 8, 8, 384]
        x = conv(x, 5, kernel=3)  # [B, 6, 6, 256]
        x = MaxPool(name="pool5")(x)  # [B, 2, 2, 256]
        x = Classifier(self.head_widths, self.dropout_rate, self.dtype, name="top")(x, train=train)
        return head(self.num_classes, x)


class TorchAlexNet(nn.Module):
    """torchvision's AlexNet: images [B, 224, 224, 3] to float32 logits [B, num_classes]."""

    num_classes: int
    widths: Sequence[int] = (64, 192, 384, 256, 256)
    head_widths: Sequence[int] = (4096, 4096)
    pooled_size: int = 6  # height and width of the input of the first dense layer
    dropout_rate: float = 0.5  # before each hidden dense layer
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        def conv(index: int, kernel: int, padding: int, stride: int = 1) -> ConvNormAct:
            return ConvNormAct(
                self.widths[index - 1],
                (kernel, kernel),
                stride,
                ((padding, padding),) * 2,
                norm=False,
                kernel_init=torch_default,
                dtype=self.dtype,
                name=f"conv{index}",
            )

        x = x.astype(self.dtype)
        x = conv(1, 11, padding=2, stride=4)(x)  # [B, 55, 55, 64]
        x = MaxPool(name="pool1")(x)  # [B, 27, 27, 64]
        x = conv(2, 5, padding=2)(x)  # [B, 27, 27, 192]
        x = MaxPool(name="pool2")(x)  # [B, 13, 13, 192]
        x = conv(3, 3, padding=1)(x)  # [B, 13, 13, 384]
        x = conv(4, 3, padding=1)(x)  # [B, 13, 13, 256]
        x = conv(5, 3, padding=1)(x)  # [B, 13, 13, 256]
        x = MaxPool(name="pool5")(x)  # [B, 6, 6, 256]
        x = adaptive_average_pool(x, self.pooled_size).transpose(0, 3, 1, 2)  # [B, 256, 6, 6]
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.head_widths, start=1):
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            dense = nn.Dense(width, kernel_init=torch_default, dtype=self.dtype, name=f"fc{index}")
            x = nn.relu(dense(x))
        return head(self.num_classes, x, torch_default)

    @nn.nowrap
    def torchvision_names(self) -> dict[str, str]:
        """Map torchvision's module names to paths of this model."""
        convs = {f"features.{i}": f"conv{n}/conv" for n, i in enumerate((0, 3, 6, 8, 10), start=1)}
        return convs | {"classifier.1": "fc1", "classifier.4": "fc2", "classifier.6": "head"}


@register_model(
    input_shape=(227, 227, 3),
    num_classes=1000,
    source='Le 2021, "Alexnet and image classification", model summaries',
)
def alexnet(num_classes: int) -> AlexNet:
    """AlexNet as commonly written in Keras: one tower, no LRN (Krizhevsky et al. 2012)."""
    return AlexNet(num_classes)


@register_model(
    input_shape=(227, 227, 3),
    num_classes=1000,
    source='Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks"',
)
def alexnet_original(num_classes: int) -> OriginalAlexNet:
    """The original AlexNet: two towers, local response normalization."""
    return OriginalAlexNet(num_classes)


@register_model(
    input_shape=(256, 256, 3),
    num_classes=10,
    source='"Pig face identification by AlexNet with a spatial attention module", Figure 2',
    notes="batch norm after convolutions 1 and 2 and the 4096-4096-4096-10 top are our interpretation",
)
def pig_alexnet(num_classes: int) -> PigAlexNet:
    """AlexNet with valid padding and batch norm: the pig face paper's baseline."""
    return PigAlexNet(num_classes)


@register_model(
    input_shape=(256, 256, 3),
    num_classes=10,
    source='"Pig face identification by AlexNet with a spatial attention module", Figures 3 and 4',
    notes="batch norm after convolutions 1 and 2, and operation 2 of the SAM on its input, are our interpretation",
)
def sam_alexnet(num_classes: int) -> PigAlexNet:
    """Attention-AlexNet: two spatial attention modules and a 1024-1024-10 top."""
    return PigAlexNet(num_classes, attention=True, head_widths=(1024, 1024))


@register_model(
    input_shape=(224, 224, 3),
    num_classes=1000,
    source="Krizhevsky 2014, as in torchvision",
    pretrained=(torchvision_source("alexnet-owt-7be5be79.pth"),),
)
def alexnet_torchvision(num_classes: int) -> TorchAlexNet:
    """torchvision's AlexNet, for its pretrained weights."""
    return TorchAlexNet(num_classes)


@register_model(
    input_shape=(67, 67, 3), num_classes=10, source="no paper: for small images and tests"
)
def alexnet_tiny(num_classes: int) -> AlexNet:
    """alexnet with narrow layers, for 67x67 images."""
    return AlexNet(num_classes, widths=(16, 24, 32, 32, 24), head_widths=(64, 64))


@register_model(
    input_shape=(67, 67, 3), num_classes=10, source="no paper: for small images and tests"
)
def alexnet_original_tiny(num_classes: int) -> OriginalAlexNet:
    """alexnet_original with narrow layers, for 67x67 images."""
    return OriginalAlexNet(num_classes, widths=(16, 24, 32, 32, 24), head_widths=(64, 64))


@register_model(
    input_shape=(64, 64, 3),
    num_classes=10,
    source="no paper: for small images and tests",
)
def sam_alexnet_tiny(num_classes: int) -> PigAlexNet:
    """sam_alexnet with a small stem, narrow layers and batch norm after every convolution, for 64x64 images."""
    return PigAlexNet(
        num_classes,
        attention=True,
        widths=(16, 24, 32, 32, 24),
        head_widths=(64, 64),
        stem=(5, 1),
        norm_layers=(1, 2, 3, 4, 5),
    )
