"""Blocks that several families share."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zoo.common.errors import ImageTooSmall, InputError
from zoo.operations import (
    Padding,
    add_bias,
    batch_norm,
    conv,
    depthwise_conv,
    max_pool,
    normalise,
)

# Keras's defaults (BatchNormalization, Conv2D, Dense), with which the Keras papers trained.
KERAS_NORM_MOMENTUM = 0.99
KERAS_NORM_EPSILON = 1e-3
glorot_uniform = nn.initializers.glorot_uniform()
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # torchvision's


def choose(table: Mapping[str, Any], key: str, option: str) -> Any:
    """`table[key]`; raises InputError that names the option and its choices for an unknown key."""
    if key not in table:
        near = difflib.get_close_matches(str(key), table, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(table)}"
        raise InputError(f"unknown {option} {key!r}: {hint}")
    return table[key]


class MaxPool(nn.Module):
    """Max-pooling as a module, so that it has a name in layer tables and in `zoo.features`."""

    window: int = 3
    stride: int = 2
    padding: Padding = "VALID"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(x, self.window, self.stride, self.padding)


class ConvNormAct(nn.Module):
    """Convolution, optional batch normalisation, optional activation: the unit of nearly every net here.

    Variables are named `conv` and `norm`. The defaults are Keras's; a family that knows other origins
    sets the last fields from its table of dialects.
    """

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: Padding = "VALID"
    norm: bool = True
    norm_momentum: float = KERAS_NORM_MOMENTUM
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    axis_name: str | None = None  # batch statistics are averaged over this mapped axis
    dtype: Any = jnp.float32
    depthwise: bool = False  # one kernel per channel; `features` is then the number of channels
    use_bias: bool = True
    kernel_init: Callable = glorot_uniform
    norm_epsilon: float = KERAS_NORM_EPSILON
    unbiased_variance: bool = False  # see BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            depthwise=self.depthwise,
            name="conv",
        )(x)
        if self.norm:
            x = BatchNorm(
                use_running_average=not train,
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
                axis_name=self.axis_name,
                unbiased_variance=self.unbiased_variance,
                dtype=self.dtype,
                name="norm",
            )(x)
        return x if self.activation is None else self.activation(x)


class SpatialAttention(nn.Module):
    """The spatial attention module (SAM) of the pig face paper.

    "Pig face identification by AlexNet with a spatial attention module", section "SAM module", Figure 3. In the
    paper's three operations, x being the input of C channels: (1) m = ReLU(BN(Conv3x3(x))) and s = x + m; (2) the
    mean of s over its channels, [B, H, W, 1], through two 1x1 convolutions of C channels, ReLU and sigmoid, gives
    weights, and a = weights * x; (3) the output is m + a.

    Our reading, where the text is open: operation 2 multiplies the input x, not s, and both 1x1
    convolutions carry batch normalisation. The number of kernels of the first is not stated:
    it takes C.
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
    """Flatten, hidden dense layers, each with activation and dropout, no output layer: AlexNet's and VGG's top."""

    widths: Sequence[int]
    dropout_rate: float
    dtype: Any = jnp.float32
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Callable = glorot_uniform

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if 0 in x.shape:
            raise ImageTooSmall(
                "the images are too small for this model: nothing is left after its pooling"
            )
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.widths, start=1):
            dense = nn.Dense(
                width, kernel_init=self.kernel_init, dtype=self.dtype, name=f"fc{index}"
            )
            x = self.activation(dense(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x


def head(num_classes: int, x: jax.Array, kernel_init: Callable = glorot_uniform) -> jax.Array:
    """The output layer: logits in float32 whatever the net computes in; without classes, features."""
    x = x.astype(jnp.float32)
    return nn.Dense(num_classes, kernel_init=kernel_init, name="head")(x) if num_classes else x


def global_average_pool(x: jax.Array) -> jax.Array:
    """Mean over the image: [B, H, W, C] to [B, C]."""
    if 0 in x.shape:
        raise ImageTooSmall("the images are too small for this model: nothing is left to average")
    return jnp.mean(x, axis=(1, 2))


class BatchNorm(nn.BatchNorm):
    """Batch normalisation with the variables of `nn.BatchNorm`, and a choice of what the moving variance takes.

    Keras and Flax store the batch's variance; torch stores n / (n - 1) of it (`unbiased_variance`), n being the
    number of values per channel over all devices of `axis_name`; at n = 32 the two differ by 3 %. What is
    normalised is the same. The variance is computed in two passes.
    """

    unbiased_variance: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        if mask is not None:
            raise NotImplementedError("BatchNorm takes no mask")
        average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        channels = x.shape[-1]
        moving_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        moving_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        dtype = self.dtype or x.dtype
        if average:
            mean, var = moving_mean.value, moving_var.value
            return normalise(x, mean, var, scale, bias, self.epsilon).astype(dtype)
        devices = None if self.is_initializing() else self.axis_name
        y, mean, var = batch_norm(x, scale, bias, self.epsilon, devices)
        if not self.is_initializing():
            if self.unbiased_variance:
                count = x.size // channels * (1 if devices is None else lax.axis_size(devices))
                var = var * (count / max(count - 1, 1))
            for moving, value in ((moving_mean, mean), (moving_var, var)):
                moving.value = self.momentum * moving.value + (1 - self.momentum) * value
        return y.astype(dtype)


class Conv(nn.Conv):
    """A convolution of images [B, H, W, C] with the variables of `nn.Conv`: [kh, kw, C, features].

    With `depthwise` it has one kernel per channel, [kh, kw, 1, C], and as many features as channels. On a CPU
    it is faster than `nn.Conv` (see `zoo.operations`). It knows no dilation and no groups but these.
    """

    depthwise: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        channels = inputs.shape[-1]
        if self.depthwise and self.features != channels:
            raise ValueError(f"{channels} channels need as many features, not {self.features}")
        for name in ("input_dilation", "kernel_dilation", "feature_group_count"):
            if getattr(self, name) not in (None, 1):
                raise NotImplementedError(f"Conv takes no {name}: nn.Conv does")
        shape = (*self.kernel_size, 1 if self.depthwise else channels, self.features)  # type: ignore[misc]
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        dtype = self.dtype or inputs.dtype
        convolve = depthwise_conv if self.depthwise else conv
        strides = self.strides or 1
        y = convolve(inputs.astype(dtype), kernel.astype(dtype), strides, self.padding)  # type: ignore[arg-type]
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
            y = add_bias(y, bias.astype(dtype))
        return y


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """torch's `AdaptiveAvgPool2d`: [B, H, W, C] to [B, size, size, C] from any H and W.

    Output i averages rows floor(i H / size) to ceil((i + 1) H / size): windows that overlap, or repeat pixels
    of a smaller image.
    """

    def averaging(extent: int) -> np.ndarray:
        matrix = np.zeros((size, extent))
        for i in range(size):
            first, last = i * extent // size, -(-(i + 1) * extent // size)
            matrix[i, first:last] = 1 / (last - first)
        return matrix

    _, height, width, _ = x.shape
    if (height, width) == (size, size):
        return x
    if 0 in x.shape:
        raise ImageTooSmall("the images are too small for this model: nothing is left to average")
    rows, columns = (jnp.asarray(averaging(n), x.dtype) for n in (height, width))
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns)
