"""Our operations against XLA's and Flax's own, forward and backward."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import winograd
from zoo.layers import BatchNorm, Conv
from zoo.operations import (
    add_bias,
    batch_norm,
    channel_sums,
    conv,
    depthwise_conv,
    max_pool,
    plain_operations,
    uses_cpu_forms,
)


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def forward_and_backward(function, *arguments):
    """What the function gives, and the gradient of each argument for one random cotangent."""
    y, pull = jax.vjp(function, *arguments)
    return y, *pull(random(*y.shape, seed=99).astype(y.dtype))


def assert_same(ours, reference, tolerance=1e-5):
    for one, other in zip(ours, reference, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# The depthwise convolution as a sum of shifts, against XLA's grouped one.


def both(function):
    return [function(functools.partial(depthwise_conv, method=m)) for m in ("shifted", "grouped")]


DEPTHWISE = [
    *itertools.product(
        [(6, 9), (7, 8)],
        [(3, 3)],
        [(1, 1), (2, 2)],
        ["SAME", "VALID", ((1, 1), (1, 1)), ((0, 1), (0, 1))],
    ),
    ((5, 5), (3, 3), (2, 2), ((0, 2), (1, 0))),
    ((8, 7), (5, 2), (2, 1), "SAME"),
    ((9, 9), (2, 2), (3, 3), "VALID"),  # the last row and column are not seen
    ((4, 4), (1, 1), (2, 2), "SAME"),
    ((1, 1), (3, 3), (1, 1), "SAME"),
]


@pytest.mark.parametrize(("size", "kernel", "strides", "padding"), DEPTHWISE)
def test_depthwise_shifted_equals_grouped(size, kernel, strides, padding):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, *size, 4))
    weights = jax.random.normal(keys[1], (*kernel, 1, 4))

    def outputs(conv):
        y, pull = jax.vjp(lambda x, k: conv(x, k, strides, padding), x, weights)
        return y, *pull(jax.random.normal(keys[2], y.shape))

    for ours, reference in zip(*both(outputs), strict=True):
        assert ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-5)


def test_depthwise_shifted_bfloat16_sums_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 4), jnp.bfloat16)
    exact = depthwise_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), method="grouped")
    ours = depthwise_conv(x, kernel, method="shifted")
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))  # one rounding, at the end


def test_depthwise_shifted_runs_inside_pmap_and_under_vmap():
    x = jax.random.normal(jax.random.key(0), (2, 2, 6, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 4))

    def gradients(x, kernel, method):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(depthwise_conv(x, kernel, (2, 2), "SAME", method)))

        return jax.grad(loss, argnums=(0, 1))(x, kernel)

    expected = jax.vmap(lambda x: gradients(x, kernel, "grouped"))(x)
    mapped = jax.vmap(lambda x: gradients(x, kernel, "shifted"))(x)
    devices = jax.devices()[:2]
    replicated = jax.pmap(
        lambda x, k: gradients(x, k, "shifted"), "batch", in_axes=(0, None), devices=devices
    )(x, kernel)
    for ours in (mapped, replicated):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, expected
        )


POOLS = [
    *itertools.product([(7, 9), (8, 6)], [(3, 2), (2, 2), (3, 1), (2, 3)], ["SAME", "VALID"]),
    ((9, 7), (3, 2), ((1, 1), (1, 1))),
    ((5, 5), (3, 2), ((0, 2), (1, 0))),
    ((4, 4), (1, 2), "VALID"),
    ((2, 3), (3, 2), "SAME"),
]


@pytest.mark.parametrize(("size", "pool", "padding"), POOLS)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_shifted_equals_scatter(size, pool, padding, ties):
    x = random(3, *size, 5)
    x = (
        nn.relu(jnp.round(x)) if ties else x
    )  # many windows with several equal maxima, as after a ReLU
    results = [
        forward_and_backward(lambda x, m=method: max_pool(x, *pool, padding, m), x)
        for method in ("shifted", "scatter")
    ]
    assert_same(*results)
    np.testing.assert_array_equal(
        results[0][0], nn.max_pool(x, (pool[0],) * 2, (pool[1],) * 2, padding)
    )


def test_max_pool_lets_nan_through_and_keeps_bfloat16():
    x = random(1, 6, 6, 2).at[0, 2, 3, 1].set(jnp.nan)
    y, dx = forward_and_backward(lambda x: max_pool(x, 3, 3, method="shifted"), x)
    assert np.isnan(y).sum() == 1 and np.isnan(y[0, 0, 1, 1])
    assert np.count_nonzero(dx) == 8  # one a window and channel
    small = random(2, 6, 6, 4).astype(jnp.bfloat16)
    results = [
        forward_and_backward(lambda x, m=method: max_pool(x, 2, 2, method=m), small)
        for method in ("shifted", "scatter")
    ]
    assert results[0][0].dtype == results[0][1].dtype == jnp.bfloat16
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "shape", [(4, 5, 3, 6), (2, 200, 180, 5), (7, 4)]
)  # 5 channels: blocks and a rest
def test_batch_norm_looped_equals_plain(shape):
    x = 3 * random(*shape) + 1
    scale, bias = random(shape[-1], seed=1), random(shape[-1], seed=2)

    def outputs(method):
        _, mean, var = batch_norm(x, scale, bias, 1e-3, method=method)
        return (
            mean,
            var,
            *forward_and_backward(
                lambda *a: batch_norm(*a, 1e-3, method=method)[0], x, scale, bias
            ),
        )

    ours = outputs("looped")
    np.testing.assert_allclose(
        ours[0], np.mean(x, axis=tuple(range(x.ndim - 1))), rtol=1e-4, atol=1e-6
    )
    # The gradients of scale and bias are sums of up to 72,000 numbers of either sign.
    for one, other in zip(ours, outputs("plain"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.sqrt(x.size))


def test_batch_norm_over_devices_is_that_of_the_whole_batch():
    x, scale, bias = random(4, 3, 5, 5, 6), random(6, seed=1), random(6, seed=2)
    weights = random(*x.shape, seed=3)

    def outputs(method, axis_name):
        def run(x, weights):
            def loss(x, scale, bias):
                y, mean, var = batch_norm(x, scale, bias, 1e-3, axis_name, method)
                return jnp.sum(weights * y), (mean, var)

            return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

        return run

    (dx, dscale, dbias), moments = outputs("plain", None)(
        x.reshape(-1, *x.shape[2:]), weights.reshape(-1, *x.shape[2:])
    )
    for method in ("looped", "plain"):
        run = jax.pmap(outputs(method, "devices"), "devices", devices=jax.devices()[:4])
        (dx_each, dscale_each, dbias_each), moments_each = run(x, weights)
        np.testing.assert_allclose(dx_each.reshape(dx.shape), dx, rtol=1e-4, atol=1e-5)
        # A device has its own part of these two: the engine sums them up with all the gradients.
        np.testing.assert_allclose(dscale_each.sum(axis=0), dscale, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(dbias_each.sum(axis=0), dbias, rtol=1e-4, atol=1e-4)
        for each, one in zip(moments_each, moments, strict=True):
            np.testing.assert_allclose(each, np.broadcast_to(one, each.shape), rtol=1e-5, atol=1e-6)


def test_batch_norm_finds_a_small_variance_beside_a_large_mean():
    x = 1000 + 0.1 * random(64, 8, 8, 3)
    _, _, var = batch_norm(x, jnp.ones(3), jnp.zeros(3), 1e-3, method="looped")
    np.testing.assert_allclose(var, np.var(np.float64(x), axis=(0, 1, 2)), rtol=1e-3)


def test_batch_norm_module_is_flax_s():
    x = random(4, 5, 5, 3)
    settings = {"use_running_average": False, "momentum": 0.9, "epsilon": 1e-3}
    theirs, ours = nn.BatchNorm(**settings, use_fast_variance=False), BatchNorm(**settings)
    variables = theirs.init(jax.random.key(0), x)
    for one, other in zip(
        *(jax.tree.leaves(m.apply(variables, x, mutable=["batch_stats"])) for m in (ours, theirs)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 150, 150, 2), (0, 4)])
def test_channel_sums_reads_all_rows_once(shape):
    x, y = random(*shape), random(*shape, seed=1)
    sums = channel_sums(lambda a, b: (a, a * b), x, y)
    axes = tuple(range(x.ndim - 1))
    for ours, expected in zip(sums, (x, x * y), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(
            ours, np.sum(np.float64(expected), axes), rtol=1e-5, atol=1e-5 * np.sqrt(x.size) + 1e-6
        )


def test_add_bias_has_the_gradient_of_a_sum():
    x, bias = random(2, 6, 7, 3), random(3, seed=1)
    ours = forward_and_backward(functools.partial(add_bias, method="looped"), x, bias)
    assert_same(ours, forward_and_backward(lambda x, b: x + b.reshape(1, 1, 1, 3), x, bias))
    half = forward_and_backward(
        functools.partial(add_bias, method="looped"),
        x.astype(jnp.bfloat16),
        bias.astype(jnp.bfloat16),
    )
    assert {part.dtype for part in half} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("strides", [1, 2, (2, 3)])
def test_pointwise_convolution_as_matrix_product(strides):
    x, kernel = random(2, 7, 6, 5), random(1, 1, 5, 4, seed=1)
    results = [
        forward_and_backward(lambda x, k, m=method: conv(x, k, strides, "VALID", m), x, kernel)
        for method in ("matmul", "xla")
    ]
    assert_same(*results)


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        *itertools.product([(8, 8), (7, 10), (3, 5)], ["SAME", "VALID", ((2, 0), (1, 2))]),
        ((1, 1), "SAME"),
        ((1, 1), ((2, 2), (2, 2))),
    ],
)
def test_winograd_equals_the_convolution(size, padding):
    """Even and odd sizes, any padding; forward, and the gradients of image and kernel."""
    arguments = random(2, *size, 5), random(3, 3, 5, 7, seed=1)
    ours, reference = (
        forward_and_backward(functools.partial(conv, padding=padding, method=method), *arguments)
        for method in ("winograd", "xla")
    )
    assert_same(ours, reference, 2e-5)


@pytest.mark.parametrize(("batch", "pieces"), [(6, (2, 3)), (5, (2, 3)), (10, (4, 3)), (3, (1, 3))])
def test_winograd_in_pieces_equals_the_convolution(batch, pieces, monkeypatch):
    """Three images of 12 tiles at a time, or as many as make equal pieces; a last piece that is not full overlaps."""
    monkeypatch.setattr(winograd, "TILES", 42)
    found = winograd.Pieces.of(batch, 5, 7)
    assert (found.count, found.images) == pieces
    arguments = random(batch, 5, 7, 5), random(3, 3, 5, 7, seed=1)
    ours, reference = (
        forward_and_backward(functools.partial(conv, method=method), *arguments)
        for method in ("winograd", "xla")
    )
    assert_same(ours, reference, 2e-5)


@pytest.mark.parametrize("batch", [1, 16, 17, 31, 50, 53, 127, 128])
@pytest.mark.parametrize("size", [7, 13, 56, 224])
def test_pieces_are_large_and_cover_the_batch_once(batch, size):
    pieces = winograd.Pieces.of(batch, size, size)
    tiles = ((size + 1) // 2) ** 2
    assert pieces.images == 1 or pieces.images * tiles <= winograd.TILES
    assert pieces.count == 1 or 2 * pieces.images * tiles > winograd.TILES
    images = jnp.arange(1, batch + 1).reshape(-1, 1, 1, 1)
    taken = [pieces.take(images, index, once=True) for index in range(pieces.count)]
    taken = np.concatenate(taken).ravel()
    np.testing.assert_array_equal(taken[taken > 0], np.arange(1, batch + 1))


@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        ((27, 13), (5, 5), "SAME"),  # 3 x 1 tiles
        ((20, 31), (5, 5), ((2, 0), (1, 6))),  # tiles that are not full; more padding than any use
        ((11, 12), (5, 7), "VALID"),
        ((9, 9), (4, 6), "SAME"),  # tiles of even sides have frequencies that are real
        ((5, 7), (5, 7), "VALID"),  # one output
        ((2, 3), (5, 5), ((2, 2), (2, 2))),
        ((6, 7), (1, 3), "SAME"),
        ((40, 50), (5, 5), "SAME"),  # 4 x 6 tiles
    ],
)
def test_fourier_equals_the_convolution(size, kernel, padding):
    arguments = random(2, *size, 5), random(*kernel, 5, 7, seed=1)
    ours, reference = (
        forward_and_backward(functools.partial(conv, padding=padding, method=method), *arguments)
        for method in ("fourier", "xla")
    )
    assert_same(ours, reference, 1e-4)  # of sums up to 60


def test_fourier_can_be_mapped_and_differentiated_forwards():
    x, kernel = random(3, 1, 9, 9, 2), random(5, 5, 2, 3, seed=1)
    mapped = jax.vmap(lambda image: conv(image, kernel, method="fourier"))(x)
    assert_same([mapped[:, 0]], [conv(x[:, 0], kernel, method="xla")], 2e-5)
    tangents = random(1, 9, 9, 2, seed=2), random(5, 5, 2, 3, seed=3)
    ours, theirs = (
        jax.jvp(functools.partial(conv, method=method), (x[0], kernel), tangents)
        for method in ("fourier", "xla")
    )
    assert_same(ours, theirs, 2e-5)


@pytest.mark.parametrize(
    ("method", "size", "kernel"),
    [("winograd", 13, (3, 3, 384, 384)), ("fourier", 27, (5, 5, 96, 256))],
)
def test_rounds_as_the_direct_sum_does(method, size, kernel):
    """Against float64, at AlexNet's fourth and second convolutions: no more than twice XLA's own error."""
    x, kernel = random(1, size, size, kernel[2]), random(*kernel, seed=1)
    pad = kernel.shape[0] // 2
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
    exact = np.einsum("bhwcij,ijcf->bhwf", windows, np.asarray(kernel, np.float64), optimize=True)
    ours, direct = (
        np.sqrt(np.mean((np.asarray(conv(x, kernel, method=name)) - exact) ** 2))
        for name in (method, "xla")
    )
    assert ours < 2 * direct


@pytest.mark.parametrize(
    ("images", "kernel", "strides", "dtype", "chosen"),
    [
        (16, (3, 3, 256, 384), 1, jnp.float32, True),
        (16, (3, 3, 128, 256), 1, jnp.float32, True),
        (16, (3, 3, 64, 64), 1, jnp.float32, True),
        (16, (3, 3, 32, 64), 1, jnp.float32, False),  # transforms would cost what they save
        (1, (3, 3, 256, 384), 1, jnp.float32, False),
        (16, (3, 3, 256, 384), 2, jnp.float32, False),
        (16, (5, 5, 256, 384), 1, jnp.float32, False),
        (16, (3, 3, 256, 384), 1, jnp.bfloat16, False),
    ],
)
def test_winograd_is_chosen_where_it_is_faster(images, kernel, strides, dtype, chosen):
    taken = chosen_for((images, 6, 6, kernel[2]), kernel, strides, dtype=dtype)
    assert taken == ("winograd" if chosen else "xla")


@pytest.mark.parametrize(
    ("images", "kernel", "options", "chosen"),
    [
        ((16, 27, 27), (5, 5, 96, 256), {}, True),  # AlexNet's
        ((16, 26, 26), (5, 5, 96, 256), {}, True),  # SAM-AlexNet's
        ((128, 27, 27), (5, 5, 64, 192), {}, True),
        ((4, 27, 27), (5, 5, 96, 256), {}, False),
        ((256, 27, 27), (5, 5, 96, 256), {}, False),  # gigabytes
        ((16, 27, 27), (5, 5, 64, 64), {}, False),
        ((16, 27, 27), (5, 5, 96, 256), {"strides": 2}, False),
        ((16, 27, 27), (4, 5, 96, 256), {}, False),
        ((16, 27, 27), (9, 9, 96, 256), {}, False),
        ((200, 6, 6), (6, 6, 256, 512), {"padding": "VALID"}, False),  # one output an image
        ((16, 27, 27), (5, 5, 96, 256), {"dtype": jnp.bfloat16}, False),
    ],
)
def test_fourier_is_chosen_where_it_is_faster(images, kernel, options, chosen):
    assert chosen_for((*images, kernel[2]), kernel, **options) == ("fourier" if chosen else "xla")


def chosen_for(images, kernel, strides=1, padding="SAME", dtype=jnp.float32):
    """The method that `conv` takes by itself, told by its program."""
    shapes = jax.ShapeDtypeStruct(images, dtype), jax.ShapeDtypeStruct(kernel, dtype)
    text = str(jax.make_jaxpr(lambda x, k: conv(x, k, strides, padding))(*shapes))
    if "conv_general_dilated" in text:
        return "xla"
    return "winograd" if "custom_vjp" in text else "fourier"  # which leaves its gradient to JAX


@pytest.mark.parametrize(
    ("kernel", "strides", "padding"),
    [((5, 5), 1, "SAME"), ((3, 3), 2, "SAME"), ((3, 3), 1, ((3, 0), (0, 0))), ((3, 3), 1, "VALID")],
)
def test_winograd_refuses_what_it_is_not_for(kernel, strides, padding):
    with pytest.raises(ValueError, match="winograd is for 3 x 3 kernels at stride 1"):
        conv(random(1, 2, 9, 2), random(*kernel, 2, 2), strides, padding, "winograd")


def test_winograd_refuses_no_images_and_two_dtypes():
    x, kernel = random(2, 5, 5, 3), random(3, 3, 3, 3)
    with pytest.raises(ValueError, match="on one image or more"):
        conv(x[:0], kernel, method="winograd")
    assert conv(x[:0], kernel).shape == (0, 5, 5, 3)
    for method in ("winograd", "fourier"):
        with pytest.raises(ValueError, match="one dtype, not float32 images and a bfloat16 kernel"):
            conv(x, kernel.astype(jnp.bfloat16), method=method)


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (1, {"strides": 2}),
        (0, {}),
        (1, {"padding": ((4, -1), (0, 0))}),
        (1, {"padding": "VALID"}),
        (1, {"dtype": jnp.bfloat16}),
        (1, {"dtype": jnp.int32}),
    ],
)
def test_fourier_refuses_what_it_is_not_for(images, options):
    dtype = options.get("dtype", jnp.float32)
    rest = {name: value for name, value in options.items() if name != "dtype"}
    x, kernel = random(images, 4, 9, 2).astype(dtype), random(5, 5, 2, 2).astype(dtype)
    with pytest.raises(ValueError, match="fourier is for stride 1 in float32 or float64, on one"):
        conv(x, kernel, method="fourier", **rest)


def test_channels_that_differ_are_xla_s_to_name():
    with pytest.raises(ValueError, match="conv_general_dilated lhs feature dimension"):
        conv(random(16, 27, 27, 64), random(5, 5, 96, 256))


def test_pointwise_convolution_refuses_what_is_none():
    for kernel, padding in ((random(3, 3, 5, 4), "SAME"), (random(1, 1, 5, 4), ((1, 1), (1, 1)))):
        with pytest.raises(ValueError, match="matmul is for 1 x 1 kernels without padding only"):
            conv(random(2, 7, 6, 5), kernel, 1, padding, "matmul")


def program(function, *arguments):
    gradient = jax.grad(lambda *a: jnp.sum(function(*a)), tuple(range(len(arguments))))
    return str(jax.make_jaxpr(gradient)(*arguments))


def normed(*arguments, **options):
    return batch_norm(*arguments, **options)[0]


X, KERNEL = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 2))
LARGE, LARGE_KERNEL = jnp.ones((26, 14, 14, 96)), jnp.ones((5, 5, 96, 96))
WIDE, WIDE_KERNEL = jnp.ones((16, 6, 6, 64)), jnp.ones((3, 3, 64, 64))


@pytest.mark.parametrize(
    ("function", "arguments", "sign", "methods"),
    [
        (depthwise_conv, (X, jnp.ones((3, 3, 1, 2))), "conv_general_dilated", "grouped, shifted"),
        (conv, (X, KERNEL), "conv_general_dilated", "matmul, xla"),
        (conv, (WIDE, WIDE_KERNEL), "conv_general_dilated", "winograd, fourier, xla"),
        (conv, (LARGE, LARGE_KERNEL), "conv_general_dilated", "fourier, xla"),
        (max_pool, (X, 2, 2), "select_and", "scatter, shifted"),
        (normed, (X, X[0, 0, 0], X[0, 0, 0], 1e-3), "axes=(0, 1, 2)", "looped, plain"),
        (add_bias, (X, X[0, 0, 0]), "axes=(1, 2)", "looped, plain"),
    ],
)
def test_method_follows_the_backend_and_can_be_set(function, arguments, sign, methods):
    theirs = {"grouped", "xla", "scatter", "plain"}
    arrays = [a for a in arguments if isinstance(a, jax.Array)]
    numbers = arguments[len(arrays) :]

    def uses_xla_s(**options):
        return sign in program(lambda *a: function(*a, *numbers, **options), *arrays)

    assert not uses_xla_s()  # this suite runs on the CPU
    with plain_operations():
        assert uses_xla_s()
    assert not uses_xla_s()
    for method in methods.split(", "):
        assert uses_xla_s(method=method) == (method in theirs)
    known = "fourier, matmul, winograd, xla" if function is conv else methods
    with pytest.raises(ValueError, match=f"unknown method 'magic': choose from {known}"):
        uses_xla_s(method="magic")


def test_a_net_of_plain_operations_can_be_differentiated_forwards():
    """A training step's loss, jitted before, along one direction: against the gradient times that direction. The net
    has max-pooling, batch normalisation, and a convolution that Winograd's method takes."""
    model = zoo.create_model("deconv_alexnet_1", num_classes=3, widths=(8, 64, 64, 8))
    images = random(4, 28, 28, 3)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    def loss(images):
        logits, _ = model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.sum(jnp.tanh(logits))

    direction = random(*images.shape, seed=1)
    expected = jnp.vdot(jax.grad(loss)(images), direction)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(loss, (images,), (direction,))
    with plain_operations():
        _, slope = jax.jvp(loss, (images,), (direction,))
        assert not uses_cpu_forms()
    np.testing.assert_allclose(slope, expected, rtol=1e-3)
    assert "custom_vjp" in str(jax.make_jaxpr(loss)(images))  # nothing of it stays


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_module_has_the_variables_and_results_of_flax_s(kernel, depthwise):
    x = random(2, 5, 5, 4)
    ours = Conv(4, (kernel, kernel), depthwise=depthwise)
    theirs = nn.Conv(4, (kernel, kernel), feature_group_count=4 if depthwise else 1)
    variables = theirs.init(jax.random.key(1), x)
    assert_same(
        jax.tree.leaves(ours.init(jax.random.key(1), x)), jax.tree.leaves(variables), tolerance=0
    )
    variables = {"params": variables["params"] | {"bias": jnp.arange(4.0)}}
    assert_same([ours.apply(variables, x)], [theirs.apply(variables, x)])


def test_depthwise_module_refuses_other_features():
    with pytest.raises(ValueError, match="4 channels need as many features, not 8"):
        Conv(8, (3, 3), depthwise=True).init(jax.random.key(0), random(2, 5, 5, 4))


def test_conv_module_refuses_what_it_would_ignore():
    with pytest.raises(NotImplementedError, match="Conv takes no kernel_dilation"):
        Conv(8, (3, 3), kernel_dilation=2).init(jax.random.key(0), random(2, 5, 5, 4))
