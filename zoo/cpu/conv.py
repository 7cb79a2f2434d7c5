"""Convolutions by other ways than XLA's: matrix products, shifted images, Winograd's method, the frequency domain.

Each gives XLA's numbers up to rounding (`tests/zoo/test_cpu.py`); most have a gradient of their own, in reverse mode
only.
"""

import functools
import math
from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax import lax

from zoo.cpu.fourier import fourier_conv
from zoo.cpu.windows import Padding, amounts, pad, window
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
    """Convolution (cross-correlation, as ever) of [B, H, W, C] with a kernel [kh, kw, C, F].

    `method` "xla" is XLA's convolution; "matmul", for a kernel of 1 x 1 without padding, a matrix product of
    the pixels with it; "winograd", for 3 x 3 at stride 1, `zoo.cpu.winograd`, which knows reverse mode only; "fourier",
    for any kernel at stride 1, `zoo.cpu.fourier`. None takes the first of `methods` that fits and pays: "matmul" where
    it can, since the gradient of such a kernel takes XLA more than twice the time (16 images of 56 x 56 x 64 to 256
    channels, two cores: 42 ms against 15); in float32 "winograd" or, from 5 x 5 on, "fourier", where channels and
    outputs are enough to pay for their transforms (`_pays`); else "xla".
    """
    steps, pads = _geometry(x, kernel, strides, padding)
    fits = {
        "matmul": kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)),
        "winograd": _winograd_fits(x, kernel, steps, pads),
        "fourier": _fourier_fits(x, kernel, steps, pads),
        "xla": True,
    }
    if method is None:
        pay = (m for m in METHODS if m in methods and fits[m] and _pays(m, x, kernel, pads))
        method = next(pay, "xla")
    if method not in fits:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(sorted(fits))}")
    if not fits[method]:
        raise ValueError(f"{method} is for {_FITS[method]}")
    if method == "xla":
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, steps, pads, dimension_numbers=layout)
    if method == "matmul":
        x = x[:, :: steps[0], :: steps[1]]
        y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return y.reshape(*x.shape[:3], kernel.shape[-1])
    if x.dtype != kernel.dtype:
        raise ValueError(
            f"{method} takes one dtype, not {x.dtype} images and a {kernel.dtype} kernel"
        )
    return (winograd_conv if method == "winograd" else fourier_conv)(x, kernel, pads)


_FITS = {
    "matmul": "1 x 1 kernels without padding only",
    "winograd": "3 x 3 kernels at stride 1, on one image or more of 3 pixels or more a side with a padding of at"
    " most 2",
    "fourier": "stride 1 in float32 or float64, on one image or more, that with their padding, none of it negative, are"
    " no smaller than the kernel",
}


def _winograd_fits(x: jax.Array, kernel: jax.Array, steps: tuple, pads: tuple) -> bool:
    small = kernel.shape[:2] == (3, 3) and all(amount <= 2 for pad in pads for amount in pad)
    return small and _slides(x, kernel, steps, pads)


def _fourier_fits(x: jax.Array, kernel: jax.Array, steps: tuple, pads: tuple) -> bool:
    # Transforms in bfloat16 would round several times; in integers they are nothing.
    return x.dtype in (jnp.float32, jnp.float64) and _slides(x, kernel, steps, pads)


def _slides(x: jax.Array, kernel: jax.Array, steps: tuple, pads: tuple) -> bool:
    """Whether the kernel slides over an image or more pixel by pixel, and has a place where it fits."""
    there = min(x.size, kernel.size) > 0 and x.shape[-1] == kernel.shape[2]
    padded = min(amount for pad in pads for amount in pad) >= 0
    return there and padded and steps == (1, 1) and min(_outputs(x, kernel, pads)) >= 1


def _outputs(x: jax.Array, kernel: jax.Array, pads: tuple) -> list[int]:
    """Height and width of what a kernel makes at stride 1."""
    sizes = zip(x.shape[1:3], pads, kernel.shape[:2], strict=True)
    return [size + sum(pad) - k + 1 for size, pad, k in sizes]


def _pays(method: str, x: jax.Array, kernel: jax.Array, pads: tuple) -> bool:
    """Whether a method that fits is faster than XLA's on a CPU.

    Transforms cost in proportion to C + F what they save in proportion to C * F: Winograd's method is faster by a
    quarter or more from 64 to 64 channels on, from 32 to 64 hardly; Fourier's from 64 to 192 on. And the kernel's own
    has to be shared by many outputs: one image of 13 x 13 x 384 is slower by Winograd's method, 16 are faster; of
    27 x 27 x 96, to 256 by 5 x 5, four are slower by Fourier's, and eight or more faster, forward and both gradients in
    two thirds of the time at 8 images and in half of it at 64. Fourier's is for what was measured: kernels of 5 to 7,
    outputs of 14 or more a side, and no more of them than make arrays of some hundred MB.
    """
    if method == "matmul":
        return True
    if x.dtype != jnp.float32 or kernel.dtype != jnp.float32:
        return False
    *_, inputs, features = kernel.shape
    gain = inputs * features / (inputs + features)
    if method == "winograd":
        return gain >= 32 and len(x) * x.shape[1] * x.shape[2] >= 512
    outputs = _outputs(x, kernel, pads)
    sizes = all(5 <= k <= 7 for k in kernel.shape[:2]) and min(outputs) >= 14
    return sizes and gain >= 48 and 5000 <= len(x) * math.prod(outputs) <= 100_000


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | tuple[int, int] = 1,
    padding: Padding = "SAME",
) -> jax.Array:
    """Depthwise convolution (cross-correlation, as ever) of [B, H, W, C] with a kernel [kh, kw, 1, C].

    A sum of kh * kw shifted images, each times its entry of the kernel, with a gradient of its own (reverse mode only).
    XLA's grouped convolution is its slowest operation on a CPU (16 images of 56 x 56 x 144, two cores: 648 ms forward
    against 8, 1012 ms backward against 30).
    """
    return _shifted(x, kernel, *_geometry(x, kernel, strides, padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, strides: tuple, pads: tuple) -> jax.Array:
    return _sum_of_shifts(pad(x, pads), kernel, strides)


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
    dx = _sum_of_shifts(pad(dy, spread), kernel[::-1, ::-1], (1, 1))
    return dx, _kernel_gradient(pad(x, pads), dy, kernel, strides)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, strides: tuple) -> jax.Array:
    rows, columns = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    terms = []
    for i in range(rows):
        for j in range(columns):
            where_i = window(x.shape[1], i, strides[0], rows)
            where_j = window(x.shape[2], j, strides[1], columns)
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
            block[i, window(x.shape[2], j, strides[1], columns)]
            for i in range(rows)
            for j in range(columns)
        ]
        return tuple(total + shift * one for total, shift in zip(sums, shifts, strict=True))

    zero = jnp.zeros((width, channels), wide)
    sums = lax.fori_loop(0, batch * height, add_row, (zero,) * (rows * columns))
    return jnp.stack(sums).sum(axis=1).reshape(kernel.shape).astype(kernel.dtype)


def _geometry(x: jax.Array, kernel: jax.Array, strides: int | tuple[int, int], padding: Padding):
    """Strides and paddings of both axes, of a convolution of x."""
    steps = (strides, strides) if isinstance(strides, int) else tuple(strides)
    return steps, amounts(padding, x.shape[1:3], kernel.shape[:2], steps)
