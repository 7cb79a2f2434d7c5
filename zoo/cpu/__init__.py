"""Fast forms of layers for a CPU, behind one switch:

    with zoo.cpu.kernels():
        logits = jax.jit(model.apply)(variables, images)

Within it the convolutions, poolings and batch normalizations of any Linen module are computed by the files of this
folder, with the same variables and the same numbers up to rounding. The price: reverse-mode gradients only, shapes that
are known, and more to compile. Outside of it a net is what Flax makes of it. The training and evaluation steps of
`train.engine.parallel` are within it where the devices are CPUs.

The switch is part of what `jax.jit` remembers a trace by: a function that was jitted outside is traced again within. It
holds for the thread that enters it.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen import dtypes
from jax import lax

from zoo.cpu import conv, pool, sums, windows
from zoo.layers import MaxPool, TorchBatchNorm

FORMS = frozenset(["matmul", "winograd", "fourier", "depthwise", "max_pool", "sums", "barriers"])

# A part of jit's key, unlike the interceptor, and unlike a variable of our own.
_forms = jax.make_user_context(default_value=frozenset())


@contextlib.contextmanager
def kernels(forms: Collection[str] = FORMS) -> Iterator[None]:
    """Compute layers by these forms; the others stay as Flax has them. ValueError for an unknown one."""
    chosen = frozenset(forms)
    if chosen - FORMS:
        raise ValueError(f"unknown forms {sorted(chosen - FORMS)}: choose from {sorted(FORMS)}")
    if chosen == _forms.value:
        yield
        return
    entered = False

    def enter(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        """Flax asks interceptors in the order in which they were entered. Ours, which replaces calls, has to come
        after those that change what a layer is given or does: it is entered when the whole net is called."""
        nonlocal entered
        if entered or context.module.path:
            return call(*args, **kwargs)
        entered = True
        try:
            with nn.intercept_methods(_intercept):
                return _intercept(call, args, kwargs, context)
        finally:
            entered = False

    with _forms(chosen), nn.intercept_methods(enter):
        yield


def uses(form: str) -> bool:
    """Whether what is traced now is to take this form."""
    return form in _forms.value


def _intercept(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
    """Flax asks this in place of every method of a module. Initialization is Flax's own."""
    module = context.module
    if context.method_name != "__call__" or not args or module.is_initializing():
        return call(*args, **kwargs)
    x, *others = args
    if getattr(x, "ndim", 0) == 4:
        if type(module) is nn.Conv and _has_form(module, x, others, kwargs):
            return _conv(module, x)
        if type(module) is MaxPool and uses("max_pool") and module.window <= pool.MAX_WINDOW:
            return _max_pool(module, x)
        if type(module) in (nn.BatchNorm, TorchBatchNorm) and _is_plain_norm(
            module, others, kwargs
        ):
            return _batch_norm(module, x)
        inner = not isinstance(module, nn.Dropout | MaxPool | nn.BatchNorm)
        if uses("barriers") and inner:
            # Written down once: XLA would compute it anew in each fusion that reads it.
            x = lax.optimization_barrier(x)
    return call(x, *others, **kwargs)


def _has_form(module: nn.Conv, x: jax.Array, others: list, kwargs: dict[str, Any]) -> bool:
    """Whether this is a convolution of images without dilation, dense or depthwise."""
    padding = module.padding
    paired = not isinstance(padding, str | int) and all(not isinstance(p, int) for p in padding)
    dense = module.feature_group_count == 1
    depthwise = module.feature_group_count == x.shape[-1] == module.features
    return (
        not others
        and not kwargs
        and np.shape(module.kernel_size) == (2,)
        and (padding in ("SAME", "VALID") or paired)
        and (dense or (depthwise and uses("depthwise")))
        and module.mask is None
        and all(d in (None, 1, (1, 1)) for d in (module.input_dilation, module.kernel_dilation))
        and module.conv_general_dilated is None
    )


def _conv(module: nn.Conv, x: jax.Array) -> jax.Array:
    kernel: Any = module.get_variable("params", "kernel")
    bias: Any = module.get_variable("params", "bias") if module.use_bias else None
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=module.dtype)
    if uses("barriers"):
        x = lax.optimization_barrier(x)
    strides: Any = module.strides or 1
    padding: Any = module.padding
    if module.feature_group_count == 1:
        y = conv.conv(x, kernel, strides, padding, methods=_forms.value)
    else:
        y = conv.depthwise_conv(x, kernel, strides, padding)
    if bias is None:
        return y
    return sums.add_bias(y, bias) if uses("sums") else y + bias


def _max_pool(module: MaxPool, x: jax.Array) -> jax.Array:
    size, stride = module.window, module.stride
    pads = windows.amounts(module.padding, x.shape[1:3], (size, size), (stride, stride))
    return pool.max_pool(x, size, stride, pads)


def _is_plain_norm(module: nn.BatchNorm, others: list, kwargs: dict[str, Any]) -> bool:
    """Whether this is batch normalization by the batch's own statistics, over channels, in two passes."""
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
        var = var * module.correction(x)
    for name, value in (("mean", mean), ("var", var)):
        moving: Any = module.get_variable("batch_stats", name)
        module.put_variable(
            "batch_stats", name, module.momentum * moving + (1 - module.momentum) * value
        )
    return y.astype(dtypes.canonicalize_dtype(x, scale, bias, dtype=module.dtype))
