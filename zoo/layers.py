"""Layers and blocks shared by several model families."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zoo.common.errors import ImageTooSmall, InputError

Padding = str | Sequence[tuple[int, int]]  # "SAME", "VALID", or (before, after) for each axis

# Keras's defaults (BatchNormalization, Conv2D, Dense), used by the papers that trained in Keras.
KERAS_NORM_MOMENTUM = 0.99
KERAS_NORM_EPSILON = 1e-3
glorot_uniform = nn.initializers.glorot_uniform()
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # torchvision's


def choose(table: Mapping[str, Any], key: str, option: str) -> Any:
    """Return `table[key]`. Raises InputError that names the option and its choices if the key is unknown."""
    if key not in table:
        near = difflib.get_close_matches(str(key), table, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(table)}"
        raise InputError(f"unknown {option} {key!r}: {hint}")
    return table[key]


class MaxPool(nn.Module):
    """Max pooling as a module, so that it has a name in layer tables and in `zoo.features`."""

    window: int = 3
    stride: int = 2
    padding: Padding = "VALID"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, stride = self.window, self.stride
        return nn.max_pool(x, (size, size), (stride, stride), self.padding)


class LocalResponseNorm(nn.Module):
    """Local response normalization over channels, [B, H, W, C] to the same shape (Krizhevsky et al. 2012, section 3.3).

    Divides by (k + alpha * the sum of squares over `size` adjacent channels) ** beta. torch and Caffe divide alpha by
    `size`.
    """

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        squares = jnp.square(x.astype(jnp.float32))
        window, strides = (1, 1, 1, self.size), (1, 1, 1, 1)
        sums = lax.reduce_window(squares, 0.0, lax.add, window, strides, "SAME")
        return (x / (self.k + self.alpha * sums) ** self.beta).astype(x.dtype)


class ConvNormAct(nn.Module):
    """Convolution, optional batch normalization, optional activation.

    The submodules are named `conv` and `norm`. The defaults are Keras's; families with several variants set the last
    fields from their table of variants.
    """

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: Padding = "VALID"
    norm: bool = True
    norm_momentum: float = KERAS_NORM_MOMENTUM
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    axis_name: str | None = None  # mapped axis over which batch statistics are averaged
    dtype: Any = jnp.float32
    groups: int = 1  # of channels; a depthwise convolution has as many as channels
    use_bias: bool = True
    kernel_init: Callable = glorot_uniform
    bias_init: Callable = nn.initializers.zeros
    norm_epsilon: float = KERAS_NORM_EPSILON
    unbiased_variance: bool = False  # see TorchBatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            feature_group_count=self.groups,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.norm:
            norm = TorchBatchNorm if self.unbiased_variance else nn.BatchNorm
            x = norm(
                use_running_average=not train,
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
                axis_name=self.axis_name,
                # With the one-pass variance E[x^2] - E[x]^2, losses on one and on four devices differ by 1e-3 after
                # ten steps.
                use_fast_variance=False,
                dtype=self.dtype,
                name="norm",
            )(x)
        return x if self.activation is None else self.activation(x)


class SpatialAttention(nn.Module):
    """Spatial attention module (SAM) of the pig face paper: [B, H, W, C] to [B, H, W, C].

    "Pig face identification by AlexNet with a spatial attention module", section "SAM module", Figure 3. The paper
    describes three operations on an input x with C channels:

    1. m = ReLU(BN(Conv3x3(x))) and s = x + m.
    2. The mean of s over its channels, [B, H, W, 1], passes through two 1x1 convolutions with C kernels each, the
       first with ReLU and the second with sigmoid. This gives the weights, and a = weights * x.
    3. The output is m + a.

    The paper is ambiguous or silent on three points. We assume that operation 2 multiplies the input x, not s; that
    both 1x1 convolutions have batch normalization; and that the first has C kernels.
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
    """AlexNet's and VGG's classifier without the output layer: flatten, dense layers with activation and dropout."""

    widths: Sequence[int]
    dropout_rate: float
    dtype: Any = jnp.float32
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Callable = glorot_uniform
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if 0 in x.shape[1:]:
            raise ImageTooSmall(
                "the images are too small for this model: the feature map after its pooling is empty"
            )
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.widths, start=1):
            dense = nn.Dense(
                width,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dtype=self.dtype,
                name=f"fc{index}",
            )
            x = self.activation(dense(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x


def head(num_classes: int, x: jax.Array, kernel_init: Callable = glorot_uniform) -> jax.Array:
    """Output layer: float32 logits, regardless of the network's dtype; the float32 features if `num_classes` is 0."""
    x = x.astype(jnp.float32)
    return nn.Dense(num_classes, kernel_init=kernel_init, name="head")(x) if num_classes else x


def global_average_pool(x: jax.Array) -> jax.Array:
    """Average over height and width: [B, H, W, C] to [B, C]."""
    if 0 in x.shape[1:]:
        raise ImageTooSmall(
            "the images are too small for this model: the feature map before average pooling is empty"
        )
    return jnp.mean(x, axis=(1, 2))


class TorchBatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` with torch's unbiased moving variance.

    The moving average takes n / (n - 1) times the batch variance, where n is the number of values per channel on all
    devices of `axis_name`; at n = 32 this is 3% more. The normalization itself uses the biased variance, as in Flax.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        before: Any = self.get_variable("batch_stats", "var")
        y = super().__call__(x, *args, **kwargs)
        if not self.use_running_average and not self.is_initializing():
            kept = self.momentum * before
            update = self.get_variable("batch_stats", "var") - kept
            self.put_variable("batch_stats", "var", kept + update * self.bessel_correction(x))
        return y

    def bessel_correction(self, x: jax.Array) -> float:
        """n / (n - 1) for n values per channel."""
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        count = x.size // x.shape[-1] * devices
        return count / max(count - 1, 1)


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """torch's `AdaptiveAvgPool2d`: [B, H, W, C] to [B, size, size, C] for any H and W.

    Output i averages rows floor(i H / size) to ceil((i + 1) H / size), so windows may overlap, and pixels of a
    smaller image are repeated.
    """

    def averaging_matrix(extent: int) -> np.ndarray:
        matrix = np.zeros((size, extent))
        for i in range(size):
            first, last = i * extent // size, -(-(i + 1) * extent // size)
            matrix[i, first:last] = 1 / (last - first)
        return matrix

    _, height, width, _ = x.shape
    if (height, width) == (size, size):
        return x
    if 0 in x.shape[1:]:
        raise ImageTooSmall(
            "the images are too small for this model: the feature map before average pooling is empty"
        )
    rows, columns = (jnp.asarray(averaging_matrix(n), x.dtype) for n in (height, width))
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns)
