"""Transposed convolution as interleaved convolutions of the small image.

With stride s, the outputs whose positions are equal modulo s use every s-th tap of the kernel, and form an ordinary
convolution with stride 1. XLA instead inserts s - 1 zeros between the pixels, and has no fast CPU code for the gradient
of that. The formulation is that of Shi et al. 2016, "Real-time single image and video super-resolution using an
efficient sub-pixel convolutional neural network".
"""

import jax
import jax.numpy as jnp

from zoo.cpu import conv
from zoo.cpu.windows import Pads, pad


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str,
    methods: tuple[str, ...] | frozenset[str] = conv.METHODS,
) -> jax.Array:
    """`lax.conv_transpose` of [B, H, W, C] with a kernel [kh, kw, C, F] at least as large as the strides.

    `padding` is "SAME" (outputs [B, s H, s W, F]) or "VALID"; `methods` as in `conv.conv`. For 4 images of
    56 x 56 x 64 to 64 channels, kernel 4 and stride 2, on two cores, the gradient takes 109 ms instead of 2,644.
    """
    axes = [
        _phases(size, k, s, padding)
        for size, k, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
    ]
    (rows, height), (columns, width) = axes
    narrow = kernel.shape[-1] <= NARROW
    products = _tap_products(x, kernel) if narrow else None
    outputs = []
    for i, row_pads in rows:
        line = []
        for j, column_pads in columns:
            pads: Pads = (row_pads, column_pads)
            if products is None:
                taps = kernel[i :: strides[0], j :: strides[1]]
                line.append(conv.conv(x, taps, 1, pads, methods=methods))
            else:
                taps = products[:, :, :, i :: strides[0], j :: strides[1]]
                line.append(_shifted_sum(taps, pads).astype(x.dtype))
        outputs.append(jnp.stack(line, axis=3))  # [B, H', W', column phase, F]
    y = jnp.stack(outputs, axis=2)  # [B, H', row phase, W', column phase, F]
    y = y.reshape(len(x), y.shape[1] * y.shape[2], -1, y.shape[-1])
    return y[:, :height, :width]


# Up to this many features, one matrix product of all pixels and taps replaces the convolutions. For 3 features, it
# takes half of their forward time; for 32, twice as long. Values in between were not measured.
NARROW = 8


def _tap_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each pixel times each tap of the kernel, [B, H, W, kh, kw, F], at least float32."""
    batch, height, width, channels = x.shape
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    products = jnp.matmul(x.reshape(-1, channels), matrix, preferred_element_type=wide)
    return products.reshape(batch, height, width, *kernel.shape[:2], -1)


def _shifted_sum(products: jax.Array, pads: Pads) -> jax.Array:
    """Convolution with stride 1, given the products of pixels and taps, [B, H, W, n, m, F]."""
    (top, bottom), (left, right) = pads
    rows, columns = products.shape[3:5]
    total: jax.Array | None = None
    for a in range(rows):
        for b in range(columns):
            shifts = (
                (top - a, bottom - (rows - 1 - a)),
                (left - b, right - (columns - 1 - b)),
            )
            term = pad(products[:, :, :, a, b], shifts)
            total = term if total is None else total + term
    assert total is not None
    return total


def _phases(
    size: int, kernel: int, stride: int, padding: str
) -> tuple[list[tuple[int, tuple[int, int]]], int]:
    """First tap and padding of the convolution for each remainder, along one axis, and the number of outputs."""
    # As in lax.conv_transpose: `low` zeros before the dilated image.
    if padding == "VALID":
        low, outputs = kernel - 1, stride * size + max(kernel - stride, 0)
    else:
        total = kernel + stride - 2
        low, outputs = kernel - 1 if stride > kernel - 1 else -(-total // 2), stride * size
    count = -(-outputs // stride)
    phases = []
    for remainder in range(stride):
        first = (low - remainder) % stride
        taps = -(-(kernel - first) // stride)
        offset = (
            remainder + first - low
        ) // stride  # index of the first pixel that the first output reads
        phases.append((first, (-offset, count + offset + taps - 1 - size)))
    return phases, outputs
