"""Max-pooling that keeps where each maximum was."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from zoo.cpu.windows import Pads, pad, window

MAX_WINDOW = 16  # more places than a byte tells apart


def max_pool(x: jax.Array, size: int, stride: int, pads: Pads) -> jax.Array:
    """Max-pooling of [B, H, W, C] over windows of `size` x `size`, in floats; padding never wins.

    Of equal values the first in the window, row by row, has the gradient. XLA's gradient looks for each maximum anew;
    this one keeps where it was, a byte an output, and sums size * size shifted images (16 images of 55 x 55 x 96,
    window 3, stride 2, two cores: forward and backward 4 ms instead of 69). Reverse mode only.
    """
    return _shifted_max(x, size, stride, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _shifted_max(x: jax.Array, size: int, stride: int, pads: Pads) -> jax.Array:
    sizes, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, ((0, 0), *pads, (0, 0)))


def _shifted_max_forward(x: jax.Array, size: int, stride: int, pads: Pads) -> tuple:
    padded = pad(x, pads, -jnp.inf)
    first, *others = (
        padded[:, rows, columns] for rows, columns in _offsets(padded.shape, size, stride)
    )
    best, place = first, jnp.zeros(first.shape, jnp.uint8)
    for number, value in enumerate(others, start=1):
        # NaN is greater than any number, as it is to XLA's maximum.
        greater = (value > best) | jnp.isnan(value)
        best = jnp.where(greater, value, best)
        place = jnp.where(greater, jnp.uint8(number), place)
    return best, (place, jnp.zeros((0, *x.shape[1:]), x.dtype))  # the second for its shape


def _shifted_max_backward(size: int, stride: int, pads: Pads, saved: tuple, dy: jax.Array):
    place, like = saved
    _, height, width, _ = like.shape
    extents = (height + sum(pads[0]), width + sum(pads[1]))
    outputs = [stride * (out - 1) + 1 for out in dy.shape[1:3]]  # spread to the strides of x
    terms = []
    for number in range(size * size):
        spread = tuple(
            (offset, extent - offset - out, stride - 1)
            for offset, extent, out in zip(divmod(number, size), extents, outputs, strict=True)
        )
        terms.append(pad(jnp.where(place == number, dy, 0), spread))
    dx = functools.reduce(jnp.add, terms)
    (top, _), (left, _) = pads
    return (dx[:, top : top + height, left : left + width],)


_shifted_max.defvjp(_shifted_max_forward, _shifted_max_backward)


def _offsets(shape: tuple, size: int, stride: int) -> list[tuple[slice, slice]]:
    """What each entry of a window sees as it slides: rows and columns, entry after entry."""
    return [
        (window(shape[1], i, stride, size), window(shape[2], j, stride, size))
        for i in range(size)
        for j in range(size)
    ]
