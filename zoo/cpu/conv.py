"""Convolution algorithms besides XLA's: matrix products, shifted images, Winograd, Fourier.

All agree with XLA up to rounding (`tests/zoo/test_cpu.py`). Most define a custom gradient, in reverse mode only.
"""

import functools
import math
from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax import lax

from zoo.cpu.fourier import fourier_conv
from zoo.cpu.windows import Padding, explicit_padding, pad, tap_slice
from zoo.cpu.winograd import winograd_conv

METHODS = ("matmul", "winograd", "fourier")


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | tuple[int, int] = 1,
    padding: Padding = "SAME",
    method: str | None = None,
    methods: Collection[str] = METHODS,
) -> jax.Array:
    """Convolution (cross-correlation) of [B, H, W, C] with a kernel [kh, kw, C, F].

    Args:
      x: images.
      kernel: kernel with the dtype of `x`.
      strides: one for both axes, or one each.
      padding: "SAME", "VALID", or (before, after) for each axis.
      method: None for one of `methods` that is faster than XLA for these arguments, else XLA; or one of:
        "matmul": a matrix product of pixels and kernel, for 1 x 1 kernels without padding. XLA needs more than twice
          the time for their gradient (16 images of 56 x 56 x 64 to 256 channels, two cores: 42 ms against 15).
        "winograd": `zoo.cpu.winograd`, for 3 x 3 kernels with stride 1; reverse mode only.
        "fourier": `zoo.cpu.fourier`, for any kernel with stride 1.
        "xla": XLA's convolution.
      methods: candidates if `method` is None. "matmul" is always chosen if possible; "winograd", and "fourier" from
        5 x 5 kernels on, in float32 with enough channels and outputs to amortize their transforms (`_is_faster`).

    Raises ValueError for an unknown method, or one that does not support these arguments.
    """
    steps, pads = _strides_and_pads(x, kernel, strides, padding)
    supported = {
        "matmul": kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)),
        "winograd": _winograd_supports(x, kernel, steps, pads),
        "fourier": _fourier_supports(x, kernel, steps, pads),
        "xla": True,
    }
    if method is None:
        candidates = (m for m in METHODS if m in methods and supported[m])
        method = next((m for m in candidates if _is_faster(m, x, kernel, pads)), "xla")
    if method not in supported:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(sorted(supported))}")
    if not supported[method]:
        raise ValueError(f"method {method!r} requires {_REQUIREMENTS[method]}")
    if method == "xla":
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, steps, pads, dimension_numbers=layout)
    if method == "matmul":
        x = x[:, :: steps[0], :: steps[1]]
        y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return y.reshape(*x.shape[:3], kernel.shape[-1])
    if x.dtype != kernel.dtype:
        raise ValueError(
            f"method {method!r} requires images and kernel of one dtype, not {x.dtype} and {kernel.dtype}"
        )
    return (winograd_conv if method == "winograd" else fourier_conv)(x, kernel, pads)


_REQUIREMENTS = {
    "matmul": "a 1 x 1 kernel and no padding",
    "winograd": "a 3 x 3 kernel, stride 1, padding of 0 to 2, and at least one image that, padded, is no smaller than"
    " the kernel",
    "fourier": "stride 1, float32 or float64, non-negative padding, and at least one image that, padded, is no smaller"
    " than the kernel",
}


def _winograd_supports(x: jax.Array, kernel: jax.Array, steps: tuple, pads: tuple) -> bool:
    small = kernel.shape[:2] == (3, 3) and all(amount <= 2 for pad in pads for amount in pad)
    return small and _has_dense_output(x, kernel, steps, pads)


def _fourier_supports(x: jax.Array, kernel: jax.Array, steps: tuple, pads: tuple) -> bool:
    # In bfloat16 the transforms would round several times; in integers they are meaningless.
    return x.dtype in (jnp.float32, jnp.float64) and _has_dense_output(x, kernel, steps, pads)


def _has_dense_output(x: jax.Array, kernel: jax.Array, steps: tuple, pads: tuple) -> bool:
    """Whether this is a convolution with stride 1, non-negative padding and a non-empty output."""
    valid = min(x.size, kernel.size) > 0 and x.shape[-1] == kernel.shape[2]
    padded = min(amount for pad in pads for amount in pad) >= 0
    return valid and padded and steps == (1, 1) and min(_output_size(x, kernel, pads)) >= 1


def _output_size(x: jax.Array, kernel: jax.Array, pads: tuple) -> list[int]:
    """Height and width of the output at stride 1."""
    sizes = zip(x.shape[1:3], pads, kernel.shape[:2], strict=True)
    return [size + sum(pad) - k + 1 for size, pad, k in sizes]


def _is_faster(method: str, x: jax.Array, kernel: jax.Array, pads: tuple) -> bool:
    """Whether a supported method is faster than XLA's on a CPU.

    The cost of the transforms is proportional to C + F, the savings to C * F. Winograd's method is faster by a quarter
    or more from C = F = 64 on, but hardly from 32 to 64 channels; Fourier's is faster from 64 to 192 channels on.

    The kernel's transform must be shared by many outputs. Winograd's method is slower for one image of 13 x 13 x 384
    and faster for 16. For 5 x 5 kernels from 27 x 27 x 96 to 256 channels, Fourier's method is slower for four images
    and faster for eight or more: forward and both gradients take two thirds of the time at 8 images and half at 64.

    Fourier's method is restricted to the measured range: kernel sizes 5 to 7, output sizes of at least 14, and arrays
    of up to a few hundred MB.
    """
    if method == "matmul":
        return True
    if x.dtype != jnp.float32 or kernel.dtype != jnp.float32:
        return False
    *_, inputs, features = kernel.shape
    gain = inputs * features / (inputs + features)
    if method == "winograd":
        return gain >= 32 and len(x) * x.shape[1] * x.shape[2] >= 512
    output = _output_size(x, kernel, pads)
    measured = all(5 <= k <= 7 for k in kernel.shape[:2]) and min(output) >= 14
    return measured and gain >= 48 and 5000 <= len(x) * math.prod(output) <= 100_000


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | tuple[int, int] = 1,
    padding: Padding = "SAME",
) -> jax.Array:
    """Depthwise convolution (cross-correlation) of [B, H, W, C] with a kernel [kh, kw, 1, C].

    Computed as a sum of kh * kw shifted images, each multiplied by one kernel tap, with a custom gradient (reverse mode
    only). XLA's grouped convolution is slow on a CPU: for 16 images of 56 x 56 x 144 on two cores it takes 648 ms
    forward instead of 8, and 1012 ms backward instead of 30.
    """
    return _shifted(x, kernel, *_strides_and_pads(x, kernel, strides, padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, strides: tuple, pads: tuple) -> jax.Array:
    return _sum_of_shifts(pad(x, pads), kernel, strides)


def _shifted_forward(x: jax.Array, kernel: jax.Array, strides: tuple, pads: tuple) -> tuple:
    return _shifted(x, kernel, strides, pads), (x, kernel)


def _shifted_backward(strides: tuple, pads: tuple, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel = saved
    # dx is dy, dilated by the stride and padded to the size of x, convolved with the flipped kernel.
    dy_pads = tuple(
        (k - 1 - low, size + low - 1 - (out - 1) * s, s - 1)
        for k, s, (low, _), size, out in zip(
            kernel.shape[:2], strides, pads, x.shape[1:3], dy.shape[1:3], strict=True
        )
    )
    dx = _sum_of_shifts(pad(dy, dy_pads), kernel[::-1, ::-1], (1, 1))
    return dx, _kernel_gradient(pad(x, pads), dy, kernel, strides)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, strides: tuple) -> jax.Array:
    rows, columns = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    terms = []
    for i in range(rows):
        for j in range(columns):
            slice_i = tap_slice(x.shape[1], i, strides[0], rows)
            slice_j = tap_slice(x.shape[2], j, strides[1], columns)
            tap = kernel[i, j].reshape(1, 1, 1, -1).astype(wide)
            terms.append(x[:, slice_i, slice_j].astype(wide) * tap)
    total = functools.reduce(jnp.add, terms)  # in float32, at no extra cost once fused
    return total.astype(x.dtype)


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, strides: tuple) -> jax.Array:
    """Gradient of the kernel: the sum of shifted x times dy over images and positions.

    XLA runs kh * kw separate reductions with the channels outermost, with one cache miss per value. Accumulating row by
    row and summing columns at the end is about fifteen times faster.
    """
    rows, columns = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    batch, height, width, channels = dy.shape

    def add_row(index: jax.Array, sums: tuple) -> tuple:
        image, row = index // height, index % height
        block = lax.dynamic_slice(
            x, (image, row * strides[0], 0, 0), (1, rows, x.shape[2], channels)
        )[0].astype(wide)
        dy_row = lax.dynamic_slice(dy, (image, row, 0, 0), (1, 1, width, channels))[0, 0]
        dy_row = dy_row.astype(wide)
        shifts = [
            block[i, tap_slice(x.shape[2], j, strides[1], columns)]
            for i in range(rows)
            for j in range(columns)
        ]
        return tuple(total + shift * dy_row for total, shift in zip(sums, shifts, strict=True))

    zero = jnp.zeros((width, channels), wide)
    sums = lax.fori_loop(0, batch * height, add_row, (zero,) * (rows * columns))
    return jnp.stack(sums).sum(axis=1).reshape(kernel.shape).astype(kernel.dtype)


def _strides_and_pads(
    x: jax.Array, kernel: jax.Array, strides: int | tuple[int, int], padding: Padding
):
    """Strides and explicit padding of both axes."""
    steps = (strides, strides) if isinstance(strides, int) else tuple(strides)
    return steps, explicit_padding(padding, x.shape[1:3], kernel.shape[:2], steps)
