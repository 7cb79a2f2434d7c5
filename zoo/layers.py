"""Blocks that several families share."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.registry import InputError

# Keras's defaults (BatchNormalization, Conv2D, Dense), which documents 1 and 5 were trained with.
KERAS_NORM_MOMENTUM = 0.99
KERAS_NORM_EPSILON = 1e-3
glorot_uniform = nn.initializers.glorot_uniform()


class MaxPool(nn.Module):
    """Max-pooling as a module, so that it has a name in layer tables and in `zoo.features`."""

    window: int = 3
    stride: int = 2
    padding: str = "VALID"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window, strides = (self.window, self.window), (self.stride, self.stride)
        return nn.max_pool(x, window, strides, self.padding)


class ConvNormAct(nn.Module):
    """Convolution, optional batch normalisation, optional activation: the unit of nearly every net here."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "VALID"
    norm: bool = True
    norm_momentum: float = KERAS_NORM_MOMENTUM
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    axis_name: str | None = None  # batch statistics are averaged over this mapped axis
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            kernel_init=glorot_uniform,
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.norm:
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=self.norm_momentum,
                epsilon=KERAS_NORM_EPSILON,
                axis_name=self.axis_name,
                # E[x^2] - E[x]^2 cancels where a channel hardly varies, as in a SAM: losses of one and of
                # four devices then differ by 1e-3 after ten steps instead of 1e-6.
                use_fast_variance=False,
                dtype=self.dtype,
                name="norm",
            )(x)
        return x if self.activation is None else self.activation(x)


class SpatialAttention(nn.Module):
    """The spatial attention module (SAM) of document 1 (pig_faces, section "SAM module", Figure 3).

    In the document's three operations, x being the input of C channels: (1) m = ReLU(BN(Conv3x3(x))) and
    s = x + m; (2) the mean of s over its channels, [B, H, W, 1], through two 1x1 convolutions of C
    channels, ReLU and sigmoid, gives weights, and a = weights * x; (3) the output is m + a.

    Our reading, where the text is open: operation 2 multiplies the input x, not s, and both 1x1
    convolutions carry batch normalisation. The number of kernels of the first is free in the document,
    which takes C.
    """

    norm: bool = True
    norm_momentum: float = KERAS_NORM_MOMENTUM
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        channels = x.shape[-1]

        def conv(kernel: int, activation: Callable, name: str) -> Callable:
            block = ConvNormAct(
                channels,
                (kernel, kernel),
                padding="SAME",
                norm=self.norm,
                norm_momentum=self.norm_momentum,
                activation=activation,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )
            return lambda inputs: block(inputs, train=train)

        middle = conv(3, nn.relu, "middle")(x)  # [B, H, W, C]
        pooled = jnp.mean(x + middle, axis=-1, keepdims=True)  # [B, H, W, 1]
        weights = conv(1, nn.sigmoid, "excite")(conv(1, nn.relu, "squeeze")(pooled))  # [B, H, W, C]
        return middle + weights * x


class Classifier(nn.Module):
    """Flatten, hidden dense layers with ReLU and dropout, and no output layer: AlexNet's and VGG's top."""

    widths: Sequence[int]
    dropout_rate: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if 0 in x.shape:
            raise InputError(
                "the images are too small for this model: nothing is left after its pooling"
            )
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.widths, start=1):
            x = nn.Dense(width, kernel_init=glorot_uniform, dtype=self.dtype, name=f"fc{index}")(x)
            x = nn.relu(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x


def head(num_classes: int, x: jax.Array) -> jax.Array:
    """The output layer: logits in float32 whatever the net computes in; without classes, features."""
    x = x.astype(jnp.float32)
    return nn.Dense(num_classes, kernel_init=glorot_uniform, name="head")(x) if num_classes else x
