"""Fast CPU kernels for convolution, pooling and batch normalization, enabled by a context manager:

    with zoo.cpu.kernels():
        logits = jax.jit(model.apply)(variables, images)

Inside the context, these layers of any Linen module run the implementations of this package, with the same variables
and, up to rounding, the same results. Limitations: reverse-mode gradients only, static shapes, longer compilation.
Outside it, nets run Flax's own layers. `train.engine.parallel` enters the context for training and evaluation steps on
CPUs.

The context is part of the cache key of `jax.jit`, so a function jitted outside is traced again inside. It is local to
the thread that enters it.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen import dtypes

from zoo.cpu import conv, pool, sums, transposed, windows
from zoo.layers import MaxPool, TorchBatchNorm

KERNELS = frozenset(
    ["matmul", "winograd", "fourier", "depthwise", "transposed", "max_pool", "sums"]
)

# A user context is part of jit's cache key; Flax's interceptors and plain Python variables are not.
_enabled = jax.make_user_context(default_value=frozenset())


@contextlib.contextmanager
def kernels(names: Collection[str] = KERNELS) -> Iterator[None]:
    """Enable these kernels; all other operations remain Flax's. Raises ValueError for an unknown name."""
    enabled = frozenset(names)
    if enabled - KERNELS:
        raise ValueError(
            f"unknown kernels {sorted(enabled - KERNELS)}: choose from {sorted(KERNELS)}"
        )
    if enabled == _enabled.value:
        yield
        return
    entered = False

    def enter(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        """Enter the interceptor at the call of the outermost module.

        Flax runs interceptors in the order in which they were entered. This one replaces calls, so it must run after
        any that change a layer's arguments or behavior.
        """
        nonlocal entered
        if entered or context.module.path:
            return call(*args, **kwargs)
        entered = True
        try:
            with nn.intercept_methods(_intercept):
                return _intercept(call, args, kwargs, context)
        finally:
            entered = False

    with _enabled(enabled), nn.intercept_methods(enter):
        yield


def uses(kernel: str) -> bool:
    """Whether this kernel is enabled in the current context."""
    return kernel in _enabled.value


def _intercept(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
    """Replace calls of supported layers. Initialization remains Flax's."""
    module = context.module
    if context.method_name != "__call__" or not args or module.is_initializing():
        return call(*args, **kwargs)
    x, *others = args
    if getattr(x, "ndim", 0) == 4:
        if type(module) is nn.Conv and _supports_conv(module, x, others, kwargs):
            return _conv(module, x)
        if type(module) is nn.ConvTranspose and _supports_transposed(module, others, kwargs):
            return _transposed_conv(module, x)
        if type(module) is MaxPool and uses("max_pool") and module.window <= pool.MAX_WINDOW:
            return _max_pool(module, x)
        if type(module) in (nn.BatchNorm, TorchBatchNorm) and _supports_batch_norm(
            module, others, kwargs
        ):
            return _batch_norm(module, x)
    return call(*args, **kwargs)


def _supports_conv(module: nn.Conv, x: jax.Array, others: list, kwargs: dict[str, Any]) -> bool:
    """Whether this is a 2-D convolution without dilation, dense or depthwise."""
    padding = module.padding
    explicit = not isinstance(padding, str | int) and all(not isinstance(p, int) for p in padding)
    dense = module.feature_group_count == 1
    depthwise = module.feature_group_count == x.shape[-1] == module.features
    return (
        not others
        and not kwargs
        and np.shape(module.kernel_size) == (2,)
        and (padding in ("SAME", "VALID") or explicit)
        and (dense or (depthwise and uses("depthwise")))
        and module.mask is None
        and all(d in (None, 1, (1, 1)) for d in (module.input_dilation, module.kernel_dilation))
        and module.conv_general_dilated is None
    )


def _conv(module: nn.Conv, x: jax.Array) -> jax.Array:
    x, kernel, bias = _inputs(module, x)
    strides: Any = module.strides or 1
    padding: Any = module.padding
    if module.feature_group_count == 1:
        y = conv.conv(x, kernel, strides, padding, methods=_enabled.value)
    else:
        y = conv.depthwise_conv(x, kernel, strides, padding)
    return _with_bias(y, bias)


def _supports_transposed(module: nn.ConvTranspose, others: list, kwargs: dict[str, Any]) -> bool:
    """Whether this is a 2-D transposed convolution whose kernel is at least as large as its strides."""
    strides: Any = module.strides
    sizes: Any = module.kernel_size
    return (
        not others
        and not kwargs
        and uses("transposed")
        and np.shape(sizes) == np.shape(strides) == (2,)
        and max(strides) > 1
        and all(k >= s for k, s in zip(sizes, strides, strict=True))
        and module.padding in ("SAME", "VALID")
        and module.mask is None
        and module.kernel_dilation in (None, 1, (1, 1))
        and not module.transpose_kernel
    )


def _transposed_conv(module: nn.ConvTranspose, x: jax.Array) -> jax.Array:
    x, kernel, bias = _inputs(module, x)
    strides: Any = module.strides
    padding: Any = module.padding
    y = transposed.conv_transpose(x, kernel, tuple(strides), padding, methods=_enabled.value)
    return _with_bias(y, bias)


def _inputs(module: nn.Conv | nn.ConvTranspose, x: jax.Array) -> tuple[Any, Any, Any]:
    """Input, kernel and bias (or None) in the compute dtype."""
    kernel: Any = module.get_variable("params", "kernel")
    bias: Any = module.get_variable("params", "bias") if module.use_bias else None
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=module.dtype)
    return x, kernel, bias


def _with_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    if bias is None:
        return y
    return sums.add_bias(y, bias) if uses("sums") else y + bias.reshape(1, 1, 1, -1)


def _max_pool(module: MaxPool, x: jax.Array) -> jax.Array:
    size, stride = module.window, module.stride
    pads = windows.explicit_padding(module.padding, x.shape[1:3], (size, size), (stride, stride))
    return pool.max_pool(x, size, stride, pads)


def _supports_batch_norm(module: nn.BatchNorm, others: list, kwargs: dict[str, Any]) -> bool:
    """Whether this is batch normalization of channels by batch statistics, with the two-pass variance."""
    return (
        not others
        and not kwargs
        and uses("sums")
        and module.use_running_average is False
        and module.axis == -1
        and module.axis_index_groups is None
        and module.use_bias
        and module.use_scale
        and not module.use_fast_variance
    )


def _batch_norm(module: nn.BatchNorm, x: jax.Array) -> jax.Array:
    scale: Any = module.get_variable("params", "scale")
    bias: Any = module.get_variable("params", "bias")
    y, mean, var = sums.batch_norm(x, scale, bias, module.epsilon, module.axis_name)
    if isinstance(module, TorchBatchNorm):
        var = var * module.bessel_correction(x)
    for name, value in (("mean", mean), ("var", var)):
        moving: Any = module.get_variable("batch_stats", name)
        module.put_variable(
            "batch_stats", name, module.momentum * moving + (1 - module.momentum) * value
        )
    return y.astype(dtypes.canonicalize_dtype(x, scale, bias, dtype=module.dtype))
