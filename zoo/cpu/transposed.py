"""Transposed convolution as interleaved convolutions of the small image.

With stride s, the outputs whose positions have one remainder modulo s use every s-th tap of the kernel, and are an
ordinary convolution with stride 1. XLA inserts s - 1 zeros between the pixels instead, and has no fast CPU code for the
gradient of that. The form is that of Shi et al. 2016, "Real-time single image and video super-resolution using an
efficient sub-pixel convolutional neural network".
"""

import jax
import jax.numpy as jnp

from zoo.cpu import conv
from zoo.cpu.windows import Pads


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str,
    methods: tuple[str, ...] | frozenset[str] = conv.METHODS,
) -> jax.Array:
    """`lax.conv_transpose` of [B, H, W, C] with a kernel [kh, kw, C, F] at least as large as the strides.

    `padding` is "SAME" (outputs [B, s H, s W, F]) or "VALID"; `methods` as in `conv.conv`.
    """
    axes = [
        _phases(size, k, s, padding)
        for size, k, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
    ]
    (rows, height), (columns, width) = axes
    outputs = []
    for i, row_pads in rows:
        line = []
        for j, column_pads in columns:
            pads: Pads = (row_pads, column_pads)
            taps = kernel[i :: strides[0], j :: strides[1]]
            line.append(conv.conv(x, taps, 1, pads, methods=methods))
        outputs.append(jnp.stack(line, axis=3))  # [B, H', W', column phase, F]
    y = jnp.stack(outputs, axis=2)  # [B, H', row phase, W', column phase, F]
    y = y.reshape(len(x), y.shape[1] * y.shape[2], -1, y.shape[-1])
    return y[:, :height, :width]


def _phases(
    size: int, kernel: int, stride: int, padding: str
) -> tuple[list[tuple[int, tuple[int, int]]], int]:
    """Along one axis, the first tap and the padding of the convolution of each remainder; and the number of outputs."""
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
        ) // stride  # of the first pixel that the first output reads
        phases.append((first, (-offset, count + offset + taps - 1 - size)))
    return phases, outputs
