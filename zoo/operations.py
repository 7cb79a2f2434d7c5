"""Operations that XLA is slow at on some backend, with a gradient of their own.

Each takes a `method`: one is XLA's own operation, the other ours; None chooses by the backend, when the function
is traced. Both give the same numbers up to rounding (`tests/zoo/test_operations.py`); most of ours know reverse mode
only: differentiate a net forwards within `plain_operations`.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from zoo.fourier import fourier_conv
from zoo.winograd import winograd_conv

Padding = str | Sequence[tuple[int, int]]  # "SAME", "VALID", or how much before and after each axis


_plain = jax.make_user_context(
    default_value=False
)  # a part of jit's key, unlike a variable of our own


def plain_operations() -> contextlib.AbstractContextManager[None]:
    """What is called within takes XLA's own operations on every backend, unless a method is named; what is jitted is
    traced anew for it."""
    return _plain(True)


def uses_cpu_forms() -> bool:
    """Whether operations traced now take their forms for a CPU: on one, outside `plain_operations`."""
    return jax.default_backend() == "cpu" and not _plain.value


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int | tuple[int, int] = 1,
    padding: Padding = "SAME",
    method: str | None = None,
) -> jax.Array:
    """Convolution (cross-correlation, as ever) of [B, H, W, C] with a kernel [kh, kw, C, F].

    `method` "xla" is XLA's convolution; "matmul", for a kernel of 1 x 1 without padding, a matrix product of
    the pixels with it; "winograd", for 3 x 3 at stride 1, `zoo.winograd`, which knows reverse mode only; "fourier", for
    any kernel at stride 1, `zoo.fourier`. On a CPU None takes "matmul" where it can: there the gradient of such a
    kernel takes XLA more than twice the time (16 images of 56 x 56 x 64 to 256 channels, two cores: 42 ms against 15).
    And in float32 "winograd" or, from 5 x 5 on, "fourier", where channels and outputs are enough to pay for their
    transforms (`_pays`).
    """
    steps, pads = _geometry(x, kernel, strides, padding)
    fits = {
        "matmul": kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)),
        "winograd": _winograd_fits(x, kernel, steps, pads),
        "fourier": _fourier_fits(x, kernel, steps, pads),
        "xla": True,
    }
    if method is None:
        pay = (name for name in fits if fits[name] and _pays(name, x, kernel, pads))
        method = next(pay) if uses_cpu_forms() else "xla"
    if method not in fits:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(sorted(fits))}")
    if not fits[method]:
        raise ValueError(f"{method} is for {_FITS[method]}")
    x = materialise(x)
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
    if method in ("matmul", "xla"):
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
    method: str | None = None,
) -> jax.Array:
    """Depthwise convolution (cross-correlation, as ever) of [B, H, W, C] with a kernel [kh, kw, 1, C].

    `method` "grouped" is XLA's grouped convolution; "shifted" the same as a sum of kh * kw shifted images,
    each times its entry of the kernel, with a gradient of its own (reverse mode only). None takes "shifted"
    on a CPU, decided when the function is traced: there XLA's grouped convolution is its slowest operation
    (16 images of 56 x 56 x 144, two cores: 648 ms forward against 8, 1012 ms backward against 30).
    """
    if method is None:
        method = "shifted" if uses_cpu_forms() else "grouped"
    steps, pads = _geometry(x, kernel, strides, padding)
    if method == "grouped":
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, steps, pads, dimension_numbers=layout, feature_group_count=x.shape[-1]
        )
    if method != "shifted":
        raise ValueError(f"unknown method {method!r}: choose from grouped, shifted")
    return _shifted(x, kernel, steps, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, strides: tuple, pads: tuple) -> jax.Array:
    return _sum_of_shifts(_pad(x, pads), kernel, strides)


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
    dx = _sum_of_shifts(_pad(dy, spread), kernel[::-1, ::-1], (1, 1))
    return dx, _kernel_gradient(_pad(x, pads), dy, kernel, strides)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _pad(x: jax.Array, pads: Sequence[tuple[int, ...]], value: float = 0.0) -> jax.Array:
    rows, columns = ((pad[0], pad[1], pad[2] if len(pad) > 2 else 0) for pad in pads)
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def _window(extent: int, offset: int, stride: int, kernel: int) -> slice:
    """What a kernel's entry at `offset` sees along one axis as the kernel slides."""
    outputs = (extent - kernel) // stride + 1
    return slice(offset, offset + stride * (outputs - 1) + 1, stride)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, strides: tuple) -> jax.Array:
    rows, columns = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    terms = []
    for i in range(rows):
        for j in range(columns):
            where_i = _window(x.shape[1], i, strides[0], rows)
            where_j = _window(x.shape[2], j, strides[1], columns)
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
            block[i, _window(x.shape[2], j, strides[1], columns)]
            for i in range(rows)
            for j in range(columns)
        ]
        return tuple(total + shift * one for total, shift in zip(sums, shifts, strict=True))

    zero = jnp.zeros((width, channels), wide)
    sums = lax.fori_loop(0, batch * height, add_row, (zero,) * (rows * columns))
    return jnp.stack(sums).sum(axis=1).reshape(kernel.shape).astype(kernel.dtype)


def max_pool(
    x: jax.Array, window: int, stride: int, padding: Padding = "VALID", method: str | None = None
) -> jax.Array:
    """Max-pooling of [B, H, W, C] over square windows, in floats; padding never wins.

    Of equal values the first in the window, row by row, has the gradient. `method` "scatter" is XLA's, whose
    gradient looks for each maximum anew; "shifted" keeps where it was, a byte an output, and sums window * window
    shifted images. None takes "shifted" on a CPU (16 images of 55 x 55 x 96, window 3, stride 2, two cores:
    forward and backward 4 ms instead of 69).
    """
    if method is None:
        method = "shifted" if uses_cpu_forms() else "scatter"
    if window * window > 256:  # more than a byte tells apart
        method = "scatter"
    pads = _amounts(padding, x.shape[1:3], (window, window), (stride, stride))
    if method == "scatter":
        return _reduce_window_max(x, window, stride, pads)
    if method != "shifted":
        raise ValueError(f"unknown method {method!r}: choose from scatter, shifted")
    return _shifted_max(x, window, stride, pads)


def _reduce_window_max(x: jax.Array, window: int, stride: int, pads: tuple) -> jax.Array:
    sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, ((0, 0), *pads, (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _shifted_max(x: jax.Array, window: int, stride: int, pads: tuple) -> jax.Array:
    return _reduce_window_max(x, window, stride, pads)


def _shifted_max_forward(x: jax.Array, window: int, stride: int, pads: tuple) -> tuple:
    padded = _pad(x, pads, -jnp.inf)
    first, *others = (
        padded[:, rows, columns] for rows, columns in _offsets(padded.shape, window, stride)
    )
    best, place = first, jnp.zeros(first.shape, jnp.uint8)
    for number, value in enumerate(others, start=1):
        # NaN is greater than any number, as it is to XLA's maximum.
        greater = (value > best) | jnp.isnan(value)
        best = jnp.where(greater, value, best)
        place = jnp.where(greater, jnp.uint8(number), place)
    return best, (place, jnp.zeros((0, *x.shape[1:]), x.dtype))  # the second for its shape


def _shifted_max_backward(window: int, stride: int, pads: tuple, saved: tuple, dy: jax.Array):
    place, like = saved
    _, height, width, _ = like.shape
    extents = (height + sum(pads[0]), width + sum(pads[1]))
    outputs = [stride * (out - 1) + 1 for out in dy.shape[1:3]]  # spread to the strides of x
    terms = []
    for number in range(window * window):
        spread = tuple(
            (offset, extent - offset - out, stride - 1)
            for offset, extent, out in zip(divmod(number, window), extents, outputs, strict=True)
        )
        terms.append(_pad(jnp.where(place == number, dy, 0), spread))
    dx = functools.reduce(jnp.add, terms)
    (top, _), (left, _) = pads
    return (dx[:, top : top + height, left : left + width],)


_shifted_max.defvjp(_shifted_max_forward, _shifted_max_backward)


def normalise(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias`, channel by channel: [..., C], at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    factor = lax.rsqrt(var + epsilon) * scale
    return (x - _row(mean, x)) * _row(factor, x) + _row(bias, x)


def _row(channels: jax.Array, x: jax.Array) -> jax.Array:
    """[C] as [1, ..., 1, C], to go with x."""
    return channels.reshape((1,) * (x.ndim - 1) + (-1,))


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    axis_name: str | None = None,
    method: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[..., C] normalised by its own mean and variance per channel, over all devices of `axis_name`: the
    result, at least float32, and the mean and the variance (biased) [C], through which no gradient flows.

    The variance takes a second pass: E[x^2] - E[x]^2 cancels where a channel hardly varies, as in a SAM, and
    losses of one and of four devices then differ by 1e-3 after ten steps instead of 1e-6.

    `method` "plain" leaves the gradient to JAX; "looped" has its own, and sums by `channel_sums`. None takes
    "looped" on a CPU, where XLA computes a sum's operands anew for each of the sums (ResNet-50, 16 images, two
    cores: 2.6 of the 5.8 s of a training step).
    """
    if method is None:
        method = "looped" if uses_cpu_forms() else "plain"
    if method not in ("plain", "looped"):
        raise ValueError(f"unknown method {method!r}: choose from looped, plain")
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if method == "looped":
        y, mean, var = _batch_norm(x, scale, bias, epsilon, axis_name)
    else:
        axes = tuple(range(x.ndim - 1))
        mean = _mean_over_devices(jnp.mean(x, axes), axis_name)
        var = _mean_over_devices(jnp.mean(jnp.square(x - _row(mean, x)), axes), axis_name)
        y = normalise(x, mean, var, scale, bias, epsilon)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def _mean_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else lax.pmean(x, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    count = x.size // x.shape[-1]
    (total,) = channel_sums(lambda part: (part,), x)
    mean = _mean_over_devices(total / count, axis_name)
    (total,) = channel_sums(lambda part: (jnp.square(part - _row(mean, part)),), x)
    var = _mean_over_devices(total / count, axis_name)
    return normalise(x, mean, var, scale, bias, epsilon), mean, var


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
    dy, _, _ = cotangents  # no gradient comes through the other two
    inverse = lax.rsqrt(var + epsilon)
    sums = channel_sums(lambda d, part: (d, d * (part - _row(mean, part))), dy, x)
    of_dy, of_product = (_mean_over_devices(s, axis_name) for s in sums)
    count = x.size // x.shape[-1]
    slope = _row(inverse**2 * of_product / count, x)
    centred = dy - _row(of_dy / count, x) - (x - _row(mean, x)) * slope
    return centred * _row(scale * inverse, x), sums[1] * inverse, sums[0]


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def add_bias(x: jax.Array, bias: jax.Array, method: str | None = None) -> jax.Array:
    """[..., C] plus [C]. `method` as for `batch_norm`: who sums up the gradient of the bias."""
    if method is None:
        method = "looped" if uses_cpu_forms() else "plain"
    if method not in ("plain", "looped"):
        raise ValueError(f"unknown method {method!r}: choose from looped, plain")
    return x + _row(bias, x) if method == "plain" else _add_bias(x, bias)


@jax.custom_vjp
def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + _row(bias, x)


_add_bias.defvjp(
    lambda x, bias: (_add_bias(x, bias), None),
    lambda _, dy: (dy, channel_sums(lambda part: (part,), dy)[0].astype(dy.dtype)),
)


def channel_sums(function: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sums over all but the last axis: of each array [rows, C] that `function` makes of as many rows of `arrays`
    ([..., C], all of one shape); float32 [C].

    A loop over blocks that a core's cache holds, for a CPU: it reads the arrays once, whatever they were
    computed from, where XLA fuses that into each of its sums, or sums with a cache miss a number.
    """
    channels = arrays[0].shape[-1]
    flat = [array.reshape(-1, channels) for array in arrays]
    count = len(flat[0])
    rows = max(BLOCK // channels, 1)
    blocks = count // rows

    def wide(parts: list[jax.Array]) -> list[jax.Array]:
        return [p.astype(jnp.promote_types(p.dtype, jnp.float32)) for p in parts]

    def ends(parts: list[jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(jnp.ones(len(s), s.dtype) @ s for s in parts)

    rest = ends(function(*wide([array[blocks * rows :] for array in flat])))
    if not blocks:
        return rest

    def add_block(index: jax.Array, sums: tuple) -> tuple:
        parts = [lax.dynamic_slice(a, (index * rows, 0), (rows, channels)) for a in flat]
        return tuple(s + p for s, p in zip(sums, function(*wide(parts)), strict=True))

    zeros = tuple(jnp.zeros((rows, channels), r.dtype) for r in rest)
    sums = ends(lax.fori_loop(0, blocks, add_block, zeros))
    return tuple(s + r for s, r in zip(sums, rest, strict=True)) if count % rows else sums


BLOCK = 1 << 16  # numbers: 256 KiB in float32


def materialise(x: jax.Array) -> jax.Array:
    """x itself. On a CPU it is written down once, where XLA may compute it anew in each fusion that reads it."""
    return lax.optimization_barrier(x) if uses_cpu_forms() else x


def _geometry(x: jax.Array, kernel: jax.Array, strides: int | tuple[int, int], padding: Padding):
    """Strides and paddings of both axes, of a convolution of x."""
    steps = (strides, strides) if isinstance(strides, int) else tuple(strides)
    return steps, _amounts(padding, x.shape[1:3], kernel.shape[:2], steps)


def _amounts(padding: Padding, size: tuple, kernel: tuple, strides: tuple) -> tuple:
    """What `padding` means for an image of that size: ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(size, kernel, strides, padding))
    return tuple((int(low), int(high)) for low, high in padding)


def _offsets(shape: tuple, window: int, stride: int) -> list[tuple[slice, slice]]:
    """What each entry of a window sees as it slides: rows and columns, entry after entry."""
    return [
        (_window(shape[1], i, stride, window), _window(shape[2], j, stride, window))
        for i in range(window)
        for j in range(window)
    ]
