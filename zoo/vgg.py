"""VGG (Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition").

Configurations A, B, D and E of its Table 1: `vgg11`, `vgg13`, `vgg16`, `vgg19`, without batch normalization. Han et
al., "Animal face classification based on deep learning", train VGG16 and compare activations: `activation="relu"`,
"tanh", "sigmoid" or "linear", which we apply to every hidden layer, convolutional and dense. Their dropout "after the
fully connected layer" is `dropout_rate`: 0.5 here, as in the original; 0.1 in their best run.

`variant` selects the layout of torchvision or of Keras, to load their weights. They differ between the last pool and
the first dense layer:

    torch   average pooling to 7x7 for any image size, then flattening channels first; torchvision's initialization
            (normal: He over the fan-out for convolutions, standard deviation 0.01 for dense layers)
    keras   flattening channels last without pooling, so the image size determines the size of the first dense layer;
            Glorot uniform. Keras's model has no dropout: `dropout_rate=0` reproduces its training step

Names here and in the original libraries:

    here                torchvision              Keras
    block3/conv2/conv   features.12              block3_conv2
    top/fc1, top/fc2    classifier.0, .3         fc1, fc2
    head                classifier.6             predictions

torchvision's index starts at 0 and counts two entries per convolution (the convolution and its ReLU) and one per pool.
Convolution kernels are [kh, kw, in, out] here and in Keras, [out, in, kh, kw] in torch; dense kernels are [in, out] and
[out, in].
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import (
    Classifier,
    ConvNormAct,
    MaxPool,
    adaptive_average_pool,
    choose,
    glorot_uniform,
    he_normal_fan_out,
    head,
)
from zoo.pretrained.sources import CAFFE, keras_sources, torchvision_source
from zoo.registry import register_model

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "linear": lambda x: x,
}
# Kernel initializers of convolutions and of dense layers.
VARIANTS = {
    "torch": (he_normal_fan_out, nn.initializers.normal(0.01)),
    "keras": (glorot_uniform, glorot_uniform),
}


class Block(nn.Module):
    """3x3 convolutions of one width and a max pool: [B, H, W, C] to [B, H / 2, W / 2, features]."""

    features: int
    convolutions: int
    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for index in range(1, self.convolutions + 1):
            x = ConvNormAct(
                self.features,
                (3, 3),
                padding="SAME",
                norm=False,
                activation=self.activation,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"conv{index}",
            )(x, train=train)
        return MaxPool(window=2, name="pool")(x)


class VGG(nn.Module):
    """Images [B, 224, 224, 3] to float32 logits [B, num_classes]. Stages: block1 to block5, top, head."""

    num_classes: int
    convolutions: Sequence[int]  # per block
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    head_widths: Sequence[int] = (4096, 4096)
    pooled_size: int = 7  # height and width of the top's input, in the torch variant
    activation: str = "relu"
    dropout_rate: float = 0.5  # after each hidden dense layer
    variant: str = "torch"
    dtype: Any = jnp.float32
    keras_arithmetic = CAFFE

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        activation = choose(ACTIVATIONS, self.activation, "activation")
        conv_init, dense_init = choose(VARIANTS, self.variant, "variant")
        x = x.astype(self.dtype)
        for index, (width, count) in enumerate(
            zip(self.widths, self.convolutions, strict=True), start=1
        ):
            block = Block(width, count, activation, conv_init, self.dtype, name=f"block{index}")
            x = block(x, train=train)  # from [B, 112, 112, 64] to [B, 7, 7, 512]
        if self.variant == "torch":
            x = adaptive_average_pool(x, self.pooled_size).transpose(0, 3, 1, 2)  # [B, 512, 7, 7]
        x = Classifier(
            self.head_widths, self.dropout_rate, self.dtype, activation, dense_init, name="top"
        )(x, train=train)
        return head(self.num_classes, x, dense_init)

    @nn.nowrap
    def torchvision_names(self) -> dict[str, str]:
        """Map torchvision's module names to paths of this model."""
        return self._convolution_names() | {
            "classifier.0": "top/fc1",
            "classifier.3": "top/fc2",
            "classifier.6": "head",
        }

    @nn.nowrap
    def timm_names(self) -> dict[str, str]:
        """Map timm's module names to paths of this model."""
        return self._convolution_names() | {
            "pre_logits.fc1": "top/fc1",
            "pre_logits.fc2": "top/fc2",
            "head.fc": "head",
        }

    @nn.nowrap
    def _convolution_names(self) -> dict[str, str]:
        names = {}
        index = 0
        for block, count in enumerate(self.convolutions, start=1):
            for conv in range(1, count + 1):
                names[f"features.{index}"] = f"block{block}/conv{conv}/conv"
                index += 2  # convolution and ReLU
            index += 1  # pool
        return names

    @nn.nowrap
    def keras_names(self) -> dict[str, str]:
        """Map Keras's layer names to paths of this model."""
        layers = {
            f"block{block}_conv{conv}": f"block{block}/conv{conv}/conv"
            for block, count in enumerate(self.convolutions, start=1)
            for conv in range(1, count + 1)
        }
        return layers | {"fc1": "top/fc1", "fc2": "top/fc2", "predictions": "head"}


@register_model(
    input_shape=(224, 224, 3), num_classes=1000, source="Simonyan and Zisserman 2014, Table 1, A"
)
def vgg11(num_classes: int) -> VGG:
    """VGG with 8 convolutions and 3 dense layers."""
    return VGG(num_classes, convolutions=(1, 1, 2, 2, 2))


@register_model(
    input_shape=(224, 224, 3), num_classes=1000, source="Simonyan and Zisserman 2014, Table 1, B"
)
def vgg13(num_classes: int) -> VGG:
    """VGG with 10 convolutions and 3 dense layers."""
    return VGG(num_classes, convolutions=(2, 2, 2, 2, 2))


@register_model(
    input_shape=(224, 224, 3),
    num_classes=1000,
    source='Han et al., "Animal face classification based on deep learning", section C;'
    " Simonyan and Zisserman 2014, Table 1, D",
    notes="Han et al. compare activations; we apply them to every hidden layer",
    pretrained=(
        torchvision_source("vgg16-397923af.pth"),
        *keras_sources(
            "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
            "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            ("64373286793e3c8b2b4e3219cbf3544b", "6d6bbae143d832006294945121d1f1fc"),
            CAFFE,
        ),
    ),
)
def vgg16(num_classes: int) -> VGG:
    """VGG with 13 convolutions and 3 dense layers: the best classifier of Han et al."""
    return VGG(num_classes, convolutions=(2, 2, 3, 3, 3))


@register_model(
    input_shape=(224, 224, 3), num_classes=1000, source="Simonyan and Zisserman 2014, Table 1, E"
)
def vgg19(num_classes: int) -> VGG:
    """VGG with 16 convolutions and 3 dense layers."""
    return VGG(num_classes, convolutions=(2, 2, 4, 4, 4))


@register_model(
    input_shape=(32, 32, 3), num_classes=10, source="no paper: for small images and tests"
)
def vgg_tiny(num_classes: int) -> VGG:
    """vgg11 with narrow layers, for 32x32 images."""
    return VGG(
        num_classes,
        convolutions=(1, 1, 2, 2, 2),
        widths=(8, 16, 24, 32, 32),
        head_widths=(32, 32),
        pooled_size=1,
    )
