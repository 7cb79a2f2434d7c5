"""Padding and slicing for sliding windows."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = str | Sequence[tuple[int, int]]  # "SAME", "VALID", or (before, after) for each axis
Pads = tuple[tuple[int, int], ...]  # ((top, bottom), (left, right))


def explicit_padding(padding: Padding, size: tuple, kernel: tuple, strides: tuple) -> Pads:
    """Convert "SAME" or "VALID" to explicit padding for images of this size."""
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(size, kernel, strides, padding))
    return tuple((int(low), int(high)) for low, high in padding)


def pad(x: jax.Array, pads: Sequence[tuple[int, ...]], value: float = 0.0) -> jax.Array:
    """Pad images [B, H, W, C] with `value`; `pads` are (before, after) or (before, after, interior) for each axis."""
    rows, columns = ((p[0], p[1], p[2] if len(p) > 2 else 0) for p in pads)
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def tap_slice(extent: int, offset: int, stride: int, kernel: int) -> slice:
    """Input positions along one axis that the kernel's tap at `offset` reads as the kernel slides."""
    outputs = (extent - kernel) // stride + 1
    return slice(offset, offset + stride * (outputs - 1) + 1, stride)
