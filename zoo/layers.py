"""Blocks that several families share."""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zoo.registry import InputError

# Keras's defaults (BatchNormalization, Conv2D, Dense), which documents 1 and 5 were trained with.
KERAS_NORM_MOMENTUM = 0.99
KERAS_NORM_EPSILON = 1e-3
glorot_uniform = nn.initializers.glorot_uniform()
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # torchvision's

Padding = str | Sequence[tuple[int, int]]  # "SAME", "VALID", or zeros before and after each axis


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
        window, strides = (self.window, self.window), (self.stride, self.stride)
        return nn.max_pool(x, window, strides, self.padding)


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
    unbiased_variance: bool = False  # see UnbiasedBatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        conv = DepthwiseConv if self.depthwise else nn.Conv
        x = conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.norm:
            norm = UnbiasedBatchNorm if self.unbiased_variance else nn.BatchNorm
            x = norm(
                use_running_average=not train,
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
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
    """Flatten, hidden dense layers, each with activation and dropout, no output layer: AlexNet's and VGG's top."""

    widths: Sequence[int]
    dropout_rate: float
    dtype: Any = jnp.float32
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Callable = glorot_uniform

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if 0 in x.shape:
            raise InputError(
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
        raise InputError("the images are too small for this model: nothing is left to average")
    return jnp.mean(x, axis=(1, 2))


class UnbiasedBatchNorm(nn.BatchNorm):
    """Batch normalisation as torch keeps its statistics: the moving variance takes n / (n - 1) of the batch's.

    n is the number of values per channel, over all devices of `axis_name`. Keras and Flax store the biased
    variance; at n = 32 the two differ by 3 %. What is normalised is the same.
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        if mask is not None:
            raise NotImplementedError("UnbiasedBatchNorm takes no mask")
        average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        channels = x.shape[-1]
        shape = (1,) * (x.ndim - 1) + (channels,)
        moving_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        moving_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if average:
            mean, var = moving_mean.value, moving_var.value
        else:
            axes = tuple(range(x.ndim - 1))
            count = x.size // channels
            devices = None if self.is_initializing() else self.axis_name
            mean = _mean_over_devices(jnp.mean(x, axes), devices)
            var = _mean_over_devices(jnp.mean(jnp.square(x - mean.reshape(shape)), axes), devices)
            if not self.is_initializing():
                if devices is not None:
                    count = count * lax.axis_size(devices)
                unbiased = var * (count / max(count - 1, 1))
                for moving, value in ((moving_mean, mean), (moving_var, unbiased)):
                    moving.value = self.momentum * moving.value + (1 - self.momentum) * value
        factor = lax.rsqrt(var + self.epsilon) * scale
        y = (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)
        return y.astype(self.dtype or x.dtype)


def _mean_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else lax.pmean(x, axis_name)


class DepthwiseConv(nn.Conv):
    """A convolution with one kernel per channel: [B, H, W, C] to [B, H', W', C], kernel [kh, kw, 1, C].

    Parameters as `nn.Conv` with `feature_group_count=C` has them. See `depthwise_conv` for `method`.
    """

    method: str | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        channels = inputs.shape[-1]
        if self.features != channels:
            raise ValueError(f"{channels} channels need as many features, not {self.features}")
        rows, columns = self.kernel_size  # type: ignore[misc]
        kernel = self.param(
            "kernel", self.kernel_init, (rows, columns, 1, channels), self.param_dtype
        )
        dtype = self.dtype or inputs.dtype
        y = depthwise_conv(
            inputs.astype(dtype),
            kernel.astype(dtype),
            self.strides,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.method,
        )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (channels,), self.param_dtype)
            y = y + bias.astype(dtype).reshape(1, 1, 1, channels)
        return y


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | tuple[int, int] = 1,
    padding: Padding = "SAME",
    method: str | None = None,
) -> jax.Array:
    """Depthwise convolution (cross-correlation, as ever) of [B, H, W, C] with a kernel [kh, kw, 1, C].

    `method` "grouped" is XLA's grouped convolution; "shifted" the same as a sum of kh * kw shifted images,
    each times its entry of the kernel, with a gradient of its own (reverse mode only). None takes "shifted"
    on a CPU, decided when the function is traced: there XLA's grouped convolution is its slowest operation
    (16 images of 56 x 56 x 144, two cores: 648 ms forward against 8, 1012 ms backward against 30).
    """
    if method is None:
        method = "shifted" if jax.default_backend() == "cpu" else "grouped"
    size = kernel.shape[:2]
    steps = (strides, strides) if isinstance(strides, int) else tuple(strides)
    if isinstance(padding, str):
        pads = tuple(lax.padtype_to_pads(x.shape[1:3], size, steps, padding))
    else:
        pads = tuple((int(low), int(high)) for low, high in padding)
    if method == "grouped":
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, steps, pads, dimension_numbers=layout, feature_group_count=x.shape[-1]
        )
    if method != "shifted":
        raise ValueError(f"unknown method {method!r}: choose from grouped, shifted")
    return _shifted(x, kernel, steps, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, strides: tuple, pads: tuple) -> jax.Array:
    return _sum_of_shifts(_pad(x, pads), kernel, strides)


def _shifted_forward(x: jax.Array, kernel: jax.Array, strides: tuple, pads: tuple) -> tuple:
    return _shifted(x, kernel, strides, pads), (x, kernel)


def _shifted_backward(strides: tuple, pads: tuple, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel = saved
    # dx: dy, spread to the strides of x and padded to its size, through the turned kernel.
    spread = tuple(
        (k - 1 - low, size + low - 1 - (out - 1) * s, s - 1)
        for k, s, (low, _), size, out in zip(
            kernel.shape[:2], strides, pads, x.shape[1:3], dy.shape[1:3], strict=True
        )
    )
    dx = _sum_of_shifts(_pad(dy, spread), kernel[::-1, ::-1], (1, 1))
    return dx, _kernel_gradient(_pad(x, pads), dy, kernel, strides)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _pad(x: jax.Array, pads: Sequence[tuple[int, ...]]) -> jax.Array:
    rows, columns = ((pad[0], pad[1], pad[2] if len(pad) > 2 else 0) for pad in pads)
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def _window(extent: int, offset: int, stride: int, kernel: int) -> slice:
    """What a kernel's entry at `offset` sees along one axis as the kernel slides."""
    outputs = (extent - kernel) // stride + 1
    return slice(offset, offset + stride * (outputs - 1) + 1, stride)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, strides: tuple) -> jax.Array:
    rows, columns = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    terms = []
    for i in range(rows):
        for j in range(columns):
            where_i = _window(x.shape[1], i, strides[0], rows)
            where_j = _window(x.shape[2], j, strides[1], columns)
            entry = kernel[i, j].reshape(1, 1, 1, -1).astype(wide)
            terms.append(x[:, where_i, where_j].astype(wide) * entry)
    total = functools.reduce(jnp.add, terms)  # in float32, which costs nothing once fused
    return total.astype(x.dtype)


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, strides: tuple) -> jax.Array:
    """Sum over images and positions of x, shifted, times dy.

    Written as kh * kw reductions XLA runs it with the channels outermost, a cache miss a number; row after
    row, summing columns at the end, it is about fifteen times faster.
    """
    rows, columns = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    batch, height, width, channels = dy.shape

    def add_row(index: jax.Array, sums: tuple) -> tuple:
        image, row = index // height, index % height
        block = lax.dynamic_slice(
            x, (image, row * strides[0], 0, 0), (1, rows, x.shape[2], channels)
        )[0].astype(wide)
        one = lax.dynamic_slice(dy, (image, row, 0, 0), (1, 1, width, channels))[0, 0]
        one = one.astype(wide)
        shifts = [
            block[i, _window(x.shape[2], j, strides[1], columns)]
            for i in range(rows)
            for j in range(columns)
        ]
        return tuple(total + shift * one for total, shift in zip(sums, shifts, strict=True))

    zero = jnp.zeros((width, channels), wide)
    sums = lax.fori_loop(0, batch * height, add_row, (zero,) * (rows * columns))
    return jnp.stack(sums).sum(axis=1).reshape(kernel.shape).astype(kernel.dtype)


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
        raise InputError("the images are too small for this model: nothing is left to average")
    rows, columns = (jnp.asarray(averaging(n), x.dtype) for n in (height, width))
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns)
