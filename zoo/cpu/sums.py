"""Batch normalization, bias gradients and norms with cache-blocked sums.

On a CPU, XLA recomputes the operands for each of several sums, or sums with one cache miss per value. For ResNet-50
with 16 images on two cores, this is 2.6 of the 5.8 s of a training step.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 1 << 16  # values per block: 256 KiB in float32


def _normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` per channel: [..., C], at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    factor = lax.rsqrt(var + epsilon) * scale
    return (x - _row(mean, x)) * _row(factor, x) + _row(bias, x)


def _row(channels: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape [C] to [1, ..., 1, C], with the rank of x."""
    return channels.reshape((1,) * (x.ndim - 1) + (-1,))


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize [..., C] by its mean and biased variance per channel, over all devices of `axis_name`.

    Returns the result, at least float32, and the mean and variance [C], through which no gradient flows.

    The variance takes a second pass. E[x^2] - E[x]^2 suffers from cancellation in channels with little variance, as in
    a SAM: losses on one and on four devices then differ by 1e-3 after ten steps instead of 1e-6.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y, mean, var = _batch_norm(x, scale, bias, epsilon, axis_name)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def _mean_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else lax.pmean(x, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    count = x.size // x.shape[-1]
    (total,) = channel_sums(lambda rows: (rows,), x)
    mean = _mean_over_devices(total / count, axis_name)
    (total,) = channel_sums(lambda rows: (jnp.square(rows - _row(mean, rows)),), x)
    var = _mean_over_devices(total / count, axis_name)
    return _normalize(x, mean, var, scale, bias, epsilon), mean, var


def _batch_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple:
    y, mean, var = _batch_norm(x, scale, bias, epsilon, axis_name)
    return (y, mean, var), (x, scale, mean, var)


def _batch_norm_backward(
    epsilon: float, axis_name: str | None, saved: tuple, cotangents: tuple
) -> tuple:
    """dx = scale r (dy - mean(dy) - (x - mean) r^2 mean(dy (x - mean))), with r = 1 / sqrt(var + epsilon)."""
    x, scale, mean, var = saved
    dy, _, _ = cotangents  # mean and variance are behind stop_gradient
    r = lax.rsqrt(var + epsilon)
    sum_dy, sum_product = channel_sums(lambda d, v: (d, d * (v - _row(mean, v))), dy, x)
    count = x.size // x.shape[-1]  # values per channel and device
    global_dy, global_product = (_mean_over_devices(s, axis_name) for s in (sum_dy, sum_product))
    slope = _row(r**2 * global_product / count, x)
    centered = dy - _row(global_dy / count, x) - (x - _row(mean, x)) * slope
    return centered * _row(scale * r, x), sum_product * r, sum_dy


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Add a bias [C] to [..., C], with the bias gradient computed by `channel_sums`."""
    return x + _row(bias, x)


add_bias.defvjp(
    lambda x, bias: (add_bias(x, bias), None),
    lambda _, dy: (dy, channel_sums(lambda rows: (rows,), dy)[0].astype(dy.dtype)),
)


def channel_sums(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sum functions of arrays over all axes but the last.

    Loops over blocks that fit in a core's cache and reads each array once. XLA would fuse the computation of the arrays
    into each of the sums, or sum with one cache miss per value.

    Args:
      function: takes the same rows of every array, each [rows, C], at least float32, and returns the arrays [rows, C]
        to sum.
      arrays: [..., C], all of one shape.

    Returns:
      The sum [C] of each array that `function` returns, at least float32.
    """
    channels = arrays[0].shape[-1]
    flat = [array.reshape(-1, channels) for array in arrays]
    count = len(flat[0])
    rows = max(BLOCK // channels, 1)
    blocks = count // rows

    def widen(arrays: list[jax.Array]) -> list[jax.Array]:
        return [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in arrays]

    def sum_rows(arrays: list[jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(jnp.ones(len(a), a.dtype) @ a for a in arrays)

    remainder = sum_rows(function(*widen([array[blocks * rows :] for array in flat])))
    if not blocks:
        return remainder

    def add_block(index: jax.Array, sums: tuple) -> tuple:
        block = [lax.dynamic_slice(a, (index * rows, 0), (rows, channels)) for a in flat]
        return tuple(s + b for s, b in zip(sums, function(*widen(block)), strict=True))

    zeros = tuple(jnp.zeros((rows, channels), r.dtype) for r in remainder)
    sums = sum_rows(lax.fori_loop(0, blocks, add_block, zeros))
    if count % rows == 0:
        return sums
    return tuple(s + r for s, r in zip(sums, remainder, strict=True))


def sum_of_squares(x: jax.Array) -> jax.Array:
    """Sum of squares in float32.

    XLA materializes the squares of a large array and sums them with one cache miss per value: 65 ms for 38 million
    values. Accumulating blocks of `BLOCK` values takes 6 ms.
    """
    x = x.astype(jnp.float32).reshape(-1)
    blocks = len(x) // BLOCK
    if blocks < 2:
        return jnp.sum(x * x)

    def add_block(index: jax.Array, sums: jax.Array) -> jax.Array:
        block = lax.dynamic_slice(x, (index * BLOCK,), (BLOCK,))
        return sums + block * block

    sums = lax.fori_loop(0, blocks, add_block, jnp.zeros(BLOCK, jnp.float32))
    remainder = x[blocks * BLOCK :]
    return jnp.sum(sums) + jnp.sum(remainder * remainder)
