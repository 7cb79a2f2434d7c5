"""How windows slide over images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = str | Sequence[tuple[int, int]]  # "SAME", "VALID", or how much before and after each axis
Pads = tuple[tuple[int, int], ...]  # ((top, bottom), (left, right))


def amounts(padding: Padding, size: tuple, kernel: tuple, strides: tuple) -> Pads:
    """What `padding` means for an image of that size."""
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(size, kernel, strides, padding))
    return tuple((int(low), int(high)) for low, high in padding)


def pad(x: jax.Array, pads: Sequence[tuple[int, ...]], value: float = 0.0) -> jax.Array:
    """Images [B, H, W, C] with `value` before and after each axis, and, where a third amount is given, between."""
    rows, columns = ((p[0], p[1], p[2] if len(p) > 2 else 0) for p in pads)
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def window(extent: int, offset: int, stride: int, kernel: int) -> slice:
    """What a kernel's entry at `offset` sees along one axis as the kernel slides."""
    outputs = (extent - kernel) // stride + 1
    return slice(offset, offset + stride * (outputs - 1) + 1, stride)
