"""Fast CPU kernels: equality with XLA and Flax, forward and backward, and the context that enables them."""

import concurrent.futures
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import cpu
from zoo.cpu import conv as conv_module
from zoo.cpu import transposed, winograd
from zoo.cpu.conv import conv, depthwise_conv
from zoo.cpu.pool import max_pool
from zoo.cpu.sums import add_bias, batch_norm, channel_sums, sum_of_squares
from zoo.cpu.transposed import conv_transpose
from zoo.cpu.windows import explicit_padding
from zoo.layers import ConvNormAct, MaxPool, TorchBatchNorm


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def long_but(cases, short):
    """The cases, all marked as long but `short`."""
    cases = list(cases)
    assert all(case in cases for case in short)
    return [
        case if case in short else pytest.param(*case, marks=pytest.mark.long) for case in cases
    ]


def forward_and_backward(function):
    """Function of the same arguments that returns the output, and their gradients for one random cotangent."""

    @jax.jit
    def run(*arguments):
        y, vjp = jax.vjp(function, *arguments)
        return y, *vjp(random(*y.shape, seed=99).astype(y.dtype))

    return run


def assert_same(actual, expected, tolerance=1e-5):
    for a, b in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# Depthwise convolution, against XLA's grouped convolution.


def grouped_conv(x, kernel, strides=(1, 1), padding="SAME"):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=layout, feature_group_count=x.shape[-1]
    )


DEPTHWISE = [
    *long_but(
        itertools.product(
            [(6, 9), (7, 8)],
            [(3, 3)],
            [(1, 1), (2, 2)],
            ["SAME", "VALID", ((1, 1), (1, 1)), ((0, 1), (0, 1))],
        ),
        [((6, 9), (3, 3), (1, 1), "SAME"), ((6, 9), (3, 3), (2, 2), "VALID")],
    ),
    ((5, 5), (3, 3), (2, 2), ((0, 2), (1, 0))),
    ((8, 7), (5, 2), (2, 1), "SAME"),
    ((9, 9), (2, 2), (3, 3), "VALID"),  # the last row and column are unused
    ((4, 4), (1, 1), (2, 2), "SAME"),
    ((1, 1), (3, 3), (1, 1), "SAME"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kernel", "strides", "padding"), DEPTHWISE)
def test_depthwise_equals_grouped_convolution(size, kernel, strides, padding):
    arguments = random(3, *size, 4), random(*kernel, 1, 4, seed=1)
    actual, expected = (
        forward_and_backward(functools.partial(convolve, strides=strides, padding=padding))(
            *arguments
        )
        for convolve in (depthwise_conv, grouped_conv)
    )
    assert_same(actual, expected)


@pytest.mark.slow
def test_depthwise_bfloat16_accumulates_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 4), jnp.bfloat16)
    exact = grouped_conv(x.astype(jnp.float32), kernel.astype(jnp.float32))
    actual = depthwise_conv(x, kernel)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_array_equal(actual, exact.astype(jnp.bfloat16))  # rounds once, at the end


@pytest.mark.slow
def test_depthwise_gradients_under_vmap_and_pmap():
    x = jax.random.normal(jax.random.key(0), (2, 2, 6, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 4))

    def gradients(x, kernel, convolve):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, (2, 2), "SAME")))

        return jax.grad(loss, argnums=(0, 1))(x, kernel)

    expected = jax.jit(jax.vmap(lambda x: gradients(x, kernel, grouped_conv)))(x)
    mapped = jax.jit(jax.vmap(lambda x: gradients(x, kernel, depthwise_conv)))(x)
    devices = jax.devices()[:2]
    replicated = jax.pmap(
        lambda x, k: gradients(x, k, depthwise_conv), "batch", in_axes=(0, None), devices=devices
    )(x, kernel)
    assert_same(mapped, expected)
    assert_same(replicated, expected)


# Transposed convolution, against XLA's.


WIDE = transposed.NARROW + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "features"),
    long_but(
        [
            (*sizes, padding, features)
            for sizes, padding, features in itertools.product(
                [
                    *[((4, 4), (2, 2)), ((3, 5), (2, 3)), ((2, 2), (2, 2))],
                    *[((4, 3), (1, 2)), ((7, 6), (3, 2))],
                ],
                ["SAME", "VALID"],
                [3, WIDE],
            )
        ],
        [
            ((4, 4), (2, 2), "SAME", 3),
            ((2, 2), (2, 2), "VALID", WIDE),
            ((3, 5), (2, 3), "SAME", WIDE),
            ((4, 3), (1, 2), "VALID", 3),
            ((7, 6), (3, 2), "SAME", 3),
        ],
    ),
)
def test_transposed_convolution_equals_xla(kernel, strides, padding, features):
    arguments = random(2, 5, 4, 3), random(*kernel, 3, features, seed=1)
    actual, expected = (
        forward_and_backward(lambda x, k, f=f: f(x, k, strides, padding))(*arguments)
        for f in (conv_transpose, jax.lax.conv_transpose)
    )
    assert_same(actual, expected, 2e-5)


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        ({}, True),
        ({"padding": "VALID", "use_bias": False, "dtype": jnp.bfloat16}, True),
        ({"strides": None}, False),
        ({"strides": (4, 1)}, False),  # larger than the kernel
        ({"padding": "CIRCULAR"}, False),
        ({"padding": ((1, 1), (2, 0))}, False),
        ({"kernel_dilation": (2, 1)}, False),
        ({"transpose_kernel": True}, False),
    ],
)
def test_flax_transposed_convolutions_compute_the_same_with_kernels(options, replaced):
    x = random(1, 4, 5, 2)
    module = nn.ConvTranspose(9, (3, 3), **{"strides": (2, 2), **options})
    variables = jax.tree.map(lambda leaf: leaf + 0.5, module.init(jax.random.key(1), x))
    expected = module.apply(variables, x)
    with cpu.kernels():
        program = str(jax.make_jaxpr(module.apply)(variables, x))
        actual = module.apply(variables, x)
    assert ("lhs_dilation=(1, 1)" in program) == (replaced or options == {"strides": None})
    assert actual.dtype == expected.dtype
    tolerance = 1e-5 if actual.dtype == jnp.float32 else 2e-2
    assert_same([actual], [expected], tolerance)


def test_the_decoder_of_an_autoencoder_uses_the_transposed_kernel():
    """In its forward pass and its gradient, no image is dilated with zeros but the inputs of strided convolutions."""
    module = zoo.create_model("conv_autoencoder_tiny")
    images = random(2, 32, 32, 3)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)

    def dilations(*names):
        with cpu.kernels(names):
            latent = jax.eval_shape(lambda v: module.apply(v, images, method="encode"), variables)
            decode = functools.partial(module.apply, method="decode")
            gradient = jax.grad(lambda v, z: jnp.sum(decode(v, z)))
            return str(jax.make_jaxpr(gradient)(variables, latent)).count("lhs_dilation=(2, 2)")

    assert dilations() > 0
    assert dilations("transposed") == 0


# Max pooling, against Flax's.


POOLS = [
    *long_but(
        itertools.product([(7, 9), (8, 6)], [(3, 2), (2, 2), (3, 1), (2, 3)], ["SAME", "VALID"]),
        [
            ((7, 9), (3, 2), "SAME"),
            ((7, 9), (3, 1), "VALID"),
            ((8, 6), (2, 2), "VALID"),
            ((8, 6), (2, 3), "SAME"),
        ],
    ),
    pytest.param((9, 7), (3, 2), ((1, 1), (1, 1)), marks=pytest.mark.long),
    ((5, 5), (3, 2), ((0, 2), (1, 0))),
    ((4, 4), (1, 2), "VALID"),
    ((2, 3), (3, 2), "SAME"),
]


def flax_pool(x, size, stride, padding):
    return nn.max_pool(x, (size, size), (stride, stride), padding)


def cpu_pool(x, size, stride, padding):
    pads = explicit_padding(padding, x.shape[1:3], (size, size), (stride, stride))
    return max_pool(x, size, stride, pads)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "pool", "padding"), POOLS)
def test_max_pool_equals_flax(size, pool, padding):
    actual, expected = (
        forward_and_backward(lambda x, f=f: f(x, *pool, padding)) for f in (cpu_pool, flax_pool)
    )
    x = random(3, *size, 5)
    assert_same(actual(x), expected(x))
    # Rounding gives many windows with several equal maxima, as after a ReLU.
    ties = nn.relu(jnp.round(x))
    assert_same(actual(ties), expected(ties))


@pytest.mark.slow
def test_max_pool_propagates_nan():
    x = random(1, 6, 6, 2).at[0, 2, 3, 1].set(jnp.nan)
    y, dx = forward_and_backward(lambda x: cpu_pool(x, 3, 3, "VALID"))(x)
    assert np.isnan(y).sum() == 1 and np.isnan(y[0, 0, 1, 1])
    assert np.count_nonzero(dx) == 8  # one per window and channel


@pytest.mark.slow
def test_max_pool_in_bfloat16():
    x = random(2, 6, 6, 4).astype(jnp.bfloat16)
    actual, expected = (
        forward_and_backward(lambda x, f=f: f(x, 2, 2, "VALID"))(x) for f in (cpu_pool, flax_pool)
    )
    assert actual[0].dtype == actual[1].dtype == jnp.bfloat16
    assert_same(actual, expected, 0)


# Batch normalization and sums, against Flax's.


def flax_norm(x, scale, bias, epsilon, axis_name=None):
    """`batch_norm` by Flax."""
    module = nn.BatchNorm(
        use_running_average=False,
        momentum=0.0,  # moving statistics = batch statistics
        epsilon=epsilon,
        axis_name=axis_name,
        use_fast_variance=False,
    )
    zeros = jnp.zeros(x.shape[-1])
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": zeros, "var": zeros},
    }
    y, updated = module.apply(variables, x, mutable=["batch_stats"])
    statistics = updated["batch_stats"]
    return y, jax.lax.stop_gradient(statistics["mean"]), jax.lax.stop_gradient(statistics["var"])


# The second shape has two blocks and a remainder.
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (2, 100, 150, 5), (7, 4)])
def test_batch_norm_equals_flax(shape):
    x = 3 * random(*shape) + 1
    scale, bias = random(shape[-1], seed=1), random(shape[-1], seed=2)

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(norm, x, scale, bias):
        _, mean, var = norm(x, scale, bias, 1e-3)
        return mean, var, *forward_and_backward(lambda *a: norm(*a, 1e-3)[0])(x, scale, bias)

    actual = outputs(batch_norm, x, scale, bias)
    np.testing.assert_allclose(
        actual[0], np.mean(x, axis=tuple(range(x.ndim - 1))), rtol=1e-4, atol=1e-6
    )
    # The gradients of scale and bias are sums of up to 30,000 values of either sign.
    for a, b in zip(actual, outputs(flax_norm, x, scale, bias), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.sqrt(x.size))


@pytest.mark.slow
def test_batch_norm_over_devices_equals_that_of_the_whole_batch():
    x, scale, bias = random(4, 3, 5, 5, 6), random(6, seed=1), random(6, seed=2)
    weights = random(*x.shape, seed=3)

    def outputs(norm, axis_name):
        def run(x, weights):
            def loss(x, scale, bias):
                y, mean, var = norm(x, scale, bias, 1e-3, axis_name)
                return jnp.sum(weights * y), (mean, var)

            return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

        return run

    (dx, dscale, dbias), statistics = outputs(flax_norm, None)(
        x.reshape(-1, *x.shape[2:]), weights.reshape(-1, *x.shape[2:])
    )
    for norm in (batch_norm, flax_norm):
        run = jax.pmap(outputs(norm, "devices"), "devices", devices=jax.devices()[:4])
        (dx_each, dscale_each, dbias_each), statistics_each = run(x, weights)
        np.testing.assert_allclose(dx_each.reshape(dx.shape), dx, rtol=1e-4, atol=1e-5)
        # Per-device gradients of the parameters, which the training step sums.
        np.testing.assert_allclose(dscale_each.sum(axis=0), dscale, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(dbias_each.sum(axis=0), dbias, rtol=1e-4, atol=1e-4)
        for each, expected in zip(statistics_each, statistics, strict=True):
            expected = np.broadcast_to(expected, each.shape)
            np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_batch_norm_of_a_small_variance_with_a_large_mean():
    x = 1000 + 0.1 * random(64, 8, 8, 3)
    _, _, var = batch_norm(x, jnp.ones(3), jnp.zeros(3), 1e-3)
    np.testing.assert_allclose(var, np.var(np.float64(x), axis=(0, 1, 2)), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 150, 150, 2), (0, 4)])
def test_channel_sums_counts_every_row_once(shape):
    x, y = random(*shape), random(*shape, seed=1)
    sums = channel_sums(lambda a, b: (a, a * b), x, y)
    axes = tuple(range(x.ndim - 1))
    for total, values in zip(sums, (x, x * y), strict=True):
        assert total.dtype == jnp.float32
        np.testing.assert_allclose(
            total, np.sum(np.float64(values), axes), rtol=1e-5, atol=1e-5 * np.sqrt(x.size) + 1e-6
        )


@pytest.mark.slow
def test_add_bias_equals_broadcasting():
    x, bias = random(2, 6, 7, 3), random(3, seed=1)
    actual = forward_and_backward(add_bias)(x, bias)
    assert_same(actual, forward_and_backward(lambda x, b: x + b.reshape(1, 1, 1, 3))(x, bias))
    actual = forward_and_backward(add_bias)(x.astype(jnp.bfloat16), bias.astype(jnp.bfloat16))
    assert {array.dtype for array in actual} == {jnp.dtype(jnp.bfloat16)}


# Convolution methods, against XLA's convolution.


@pytest.mark.slow
@pytest.mark.parametrize("strides", [1, pytest.param(2, marks=pytest.mark.long), (2, 3)])
def test_matmul_equals_pointwise_convolution(strides):
    x, kernel = random(2, 7, 6, 5), random(1, 1, 5, 4, seed=1)
    results = [
        forward_and_backward(lambda x, k, m=method: conv(x, k, strides, "VALID", m))(x, kernel)
        for method in ("matmul", "xla")
    ]
    assert_same(*results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "padding"),
    [
        *long_but(
            itertools.product([(8, 8), (7, 10), (3, 5)], ["SAME", "VALID", ((2, 0), (1, 2))]),
            [((8, 8), "SAME"), ((7, 10), ((2, 0), (1, 2))), ((3, 5), "VALID")],
        ),
        pytest.param((1, 1), "SAME", marks=pytest.mark.long),
        ((1, 1), ((2, 2), (2, 2))),
    ],
)
def test_winograd_equals_xla(size, padding):
    arguments = random(2, *size, 5), random(3, 3, 5, 7, seed=1)
    actual, expected = (
        forward_and_backward(functools.partial(conv, padding=padding, method=method))(*arguments)
        for method in ("winograd", "xla")
    )
    assert_same(actual, expected, 2e-5)


# (number of chunks, images per chunk). 42 tiles are three images of 12 tiles; a last chunk that is not full overlaps.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "chunks"),
    long_but([(6, (2, 3)), (5, (2, 3)), (10, (4, 3)), (3, (1, 3))], [(6, (2, 3)), (5, (2, 3))]),
)
def test_winograd_in_chunks_equals_xla(batch, chunks, monkeypatch):
    monkeypatch.setattr(winograd, "TILES", 42)
    found = winograd.Chunks.of(batch, 5, 7)
    assert (found.count, found.images) == chunks
    arguments = random(batch, 5, 7, 5), random(3, 3, 5, 7, seed=1)
    actual, expected = (
        forward_and_backward(functools.partial(conv, method=method))(*arguments)
        for method in ("winograd", "xla")
    )
    assert_same(actual, expected, 2e-5)


# Images of these sizes have 16, 49, 784 and 12,544 tiles.
@pytest.mark.parametrize(
    ("size", "batch"),
    long_but(
        itertools.product([7, 13, 56, 224], [1, 16, 17, 31, 50, 53, 127, 128]),
        [(7, 1), (7, 50), (7, 53), (7, 127), (13, 16), (13, 17), (56, 16), (224, 17)],
    ),
)
def test_chunks_are_large_and_cover_the_batch_once(batch, size):
    chunks = winograd.Chunks.of(batch, size, size)
    tiles = ((size + 1) // 2) ** 2
    assert chunks.images == 1 or chunks.images * tiles <= winograd.TILES
    assert chunks.count == 1 or 2 * chunks.images * tiles > winograd.TILES
    images = jnp.arange(1, batch + 1).reshape(-1, 1, 1, 1)
    taken = [chunks.take(images, index, mask_overlap=True) for index in range(chunks.count)]
    taken = np.concatenate(taken).ravel()
    np.testing.assert_array_equal(taken[taken > 0], np.arange(1, batch + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    long_but(
        [
            ((27, 13), (5, 5), "SAME"),  # 3 x 1 tiles
            # Partial tiles, and more padding than the kernel uses.
            ((20, 31), (5, 5), ((2, 0), (1, 6))),
            ((11, 12), (5, 7), "VALID"),
            # Tiles with even sides have more frequencies with a real spectrum.
            ((9, 9), (4, 6), "SAME"),
            ((5, 7), (5, 7), "VALID"),  # one output
            ((2, 3), (5, 5), ((2, 2), (2, 2))),
            ((6, 7), (1, 3), "SAME"),
            ((40, 50), (5, 5), "SAME"),  # 4 x 6 tiles
        ],
        [
            ((20, 31), (5, 5), ((2, 0), (1, 6))),
            ((9, 9), (4, 6), "SAME"),
            ((5, 7), (5, 7), "VALID"),
        ],
    ),
)
def test_fourier_equals_xla(size, kernel, padding):
    arguments = random(2, *size, 5), random(*kernel, 5, 7, seed=1)
    actual, expected = (
        forward_and_backward(functools.partial(conv, padding=padding, method=method))(*arguments)
        for method in ("fourier", "xla")
    )
    assert_same(actual, expected, 1e-4)  # sums up to 60


@pytest.mark.slow
def test_fourier_supports_vmap_and_forward_mode():
    x, kernel = random(3, 1, 9, 9, 2), random(5, 5, 2, 3, seed=1)
    mapped = jax.jit(jax.vmap(lambda image: conv(image, kernel, method="fourier")))(x)
    assert_same([mapped[:, 0]], [conv(x[:, 0], kernel, method="xla")], 2e-5)
    tangents = random(1, 9, 9, 2, seed=2), random(5, 5, 2, 3, seed=3)
    actual, expected = (
        jax.jit(functools.partial(jax.jvp, functools.partial(conv, method=method)))(
            (x[0], kernel), tangents
        )
        for method in ("fourier", "xla")
    )
    assert_same(actual, expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "size", "kernel"),
    [("winograd", 13, (3, 3, 384, 384)), ("fourier", 27, (5, 5, 96, 256))],
)
def test_rounding_error_is_at_most_twice_that_of_xla(method, size, kernel):
    """Against float64, for AlexNet's fourth and second convolutions."""
    x, kernel = random(1, size, size, kernel[2]), random(*kernel, seed=1)
    pad = kernel.shape[0] // 2
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
    exact = np.einsum("bhwcij,ijcf->bhwf", windows, np.asarray(kernel, np.float64), optimize=True)
    error, xla_error = (
        np.sqrt(np.mean((np.asarray(conv(x, kernel, method=name)) - exact) ** 2))
        for name in (method, "xla")
    )
    assert error < 2 * xla_error


def chosen_methods(model, images, **options):
    """Trace a net within `cpu.kernels()` and return the method of each dense convolution, by layer."""
    module = zoo.create_model(model, **options)
    shape = (images, *zoo.get_entry(model).input_shape)
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
    methods, layer = {}, ""

    def enter_layer(call, args, kwargs, context):
        nonlocal layer
        if type(context.module) is nn.Conv and context.module.feature_group_count == 1:
            layer = "/".join(context.module.path)
            methods[layer] = "matmul"  # unless one of the functions below is called
        return call(*args, **kwargs)

    def recorded(method, function):
        def call(*args, **kwargs):
            methods[layer] = method
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch, nn.intercept_methods(enter_layer), cpu.kernels():
        for method, owner, name in (
            ("winograd", conv_module, "winograd_conv"),
            ("fourier", conv_module, "fourier_conv"),
            ("xla", jax.lax, "conv_general_dilated"),
        ):
            patch.setattr(owner, name, recorded(method, getattr(owner, name)))
        jax.eval_shape(module.apply, variables, inputs)
    return methods


# The measured speed of these layers is the reason for each choice: see `_is_faster` in zoo/cpu/conv.py.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "images", "expected"),
    [
        (
            "alexnet",
            16,
            {"conv1": "xla", "conv2": "fourier", "conv3": "winograd", "conv5": "winograd"},
        ),
        ("alexnet", 1, {"conv1": "xla", "conv2": "xla", "conv3": "xla", "conv5": "xla"}),
        ("alexnet", 4, {"conv2": "xla"}),
        ("alexnet", 8, {"conv2": "fourier"}),
        ("alexnet", 256, {"conv2": "xla", "conv3": "winograd"}),  # Fourier would take gigabytes
        ("alexnet_torchvision", 128, {"conv2": "fourier"}),
        (
            "sam_alexnet",
            16,
            {"conv2": "fourier", "sam3/middle": "winograd", "sam3/excite": "matmul"},
        ),
        (
            "vgg11",
            16,
            {"block1/conv1": "xla", "block2/conv1": "winograd", "block5/conv2": "winograd"},
        ),
        ("vgg11", 1, {"block1/conv1": "xla", "block2/conv1": "winograd", "block5/conv2": "xla"}),
        ("vgg16", 16, {"block1/conv1": "xla", "block1/conv2": "winograd"}),
        (
            "resnet18",
            16,
            {
                "conv1": "xla",  # 7 x 7, stride 2
                "layer1/0/conv1": "winograd",
                "layer2/0/conv1": "xla",  # stride 2
                "layer2/0/downsample": "matmul",
            },
        ),
        ("deconv_alexnet_1", 16, {"conv1": "xla", "conv2": "xla", "conv4": "winograd"}),
    ],
)
def test_method_chosen_for_layers_of_the_nets(model, images, expected):
    methods = chosen_methods(model, images)
    assert {layer: methods[f"{layer}/conv"] for layer in expected} == expected


def test_transforms_are_not_chosen_in_bfloat16():
    methods = chosen_methods("alexnet", 16, dtype=jnp.bfloat16)
    assert set(methods.values()) == {"xla"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "strides", "padding"),
    [((5, 5), 1, "SAME"), ((3, 3), 2, "SAME"), ((3, 3), 1, ((3, 0), (0, 0))), ((3, 3), 1, "VALID")],
)
def test_winograd_rejects_unsupported_arguments(kernel, strides, padding):
    with pytest.raises(ValueError, match="'winograd' requires a 3 x 3 kernel, stride 1"):
        conv(random(1, 2, 9, 2), random(*kernel, 2, 2), strides, padding, "winograd")


@pytest.mark.slow
def test_empty_batch():
    x, kernel = random(2, 5, 5, 3), random(3, 3, 3, 3)
    with pytest.raises(ValueError, match="at least one image"):
        conv(x[:0], kernel, method="winograd")
    assert conv(x[:0], kernel).shape == (0, 5, 5, 3)


@pytest.mark.parametrize("method", ["winograd", "fourier"])
def test_images_and_kernel_of_different_dtypes_are_rejected(method):
    with pytest.raises(ValueError, match="one dtype, not float32 and bfloat16"):
        conv(random(2, 5, 5, 3), random(3, 3, 3, 3).astype(jnp.bfloat16), method=method)


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
def test_fourier_rejects_unsupported_arguments(images, options):
    options = dict(options)
    dtype = options.pop("dtype", jnp.float32)
    x, kernel = random(images, 4, 9, 2).astype(dtype), random(5, 5, 2, 2).astype(dtype)
    with pytest.raises(ValueError, match="'fourier' requires stride 1, float32 or float64"):
        conv(x, kernel, method="fourier", **options)


def test_mismatched_channels_get_the_error_of_xla():
    with pytest.raises(ValueError, match="conv_general_dilated lhs feature dimension"):
        conv(random(16, 27, 27, 64), random(5, 5, 96, 256))


def test_matmul_rejects_larger_kernels_and_padding():
    for kernel, padding in ((random(3, 3, 5, 4), "SAME"), (random(1, 1, 5, 4), ((1, 1), (1, 1)))):
        with pytest.raises(ValueError, match="'matmul' requires a 1 x 1 kernel and no padding"):
            conv(random(2, 7, 6, 5), kernel, 1, padding, "matmul")


@pytest.mark.slow
def test_sum_of_squares_of_a_large_array():
    x = random(300_001)
    np.testing.assert_allclose(sum_of_squares(x), np.sum(np.float64(x) ** 2), rtol=1e-5)


# The context manager.

TINY_CLASSIFIERS = [
    name for name in zoo.list_models("*_tiny") if zoo.get_entry(name).objective == "classification"
]


@functools.cache
def trainable(name, **options):
    """A net without dropout, its variables, images, and a function that returns loss and batch statistics."""
    module = zoo.create_model(name, num_classes=3, **options)
    rates = [rate for rate in ("dropout_rate", "conv_dropout_rate") if hasattr(module, rate)]
    module = module.clone(**dict.fromkeys(rates, 0.0))
    images = random(4, *zoo.get_entry(name).input_shape)
    variables = jax.jit(module.init)(jax.random.key(0), images)

    def loss(params, images):
        logits, updated = module.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.tanh(logits)), updated

    return module, variables, images, loss


ONE_BLOCK = (
    (1, 8, 1, 1),
)  # of MobileNetV2: a depthwise convolution, a matrix product and normalization
# In CI: matrix products, a depthwise convolution and torch's normalization; pools and Keras's normalization.
SHORT = [("mobilenet_v2_tiny", {"table": ONE_BLOCK}), ("sam_alexnet_tiny", {})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    long_but([*((name, {}) for name in TINY_CLASSIFIERS), SHORT[0]], SHORT),
)
def test_nets_compute_the_same_with_kernels(name, options):
    """Loss, batch statistics, gradients and evaluation, from the same variables."""
    module, variables, images, loss = trainable(name, **options)

    def outputs():
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return step(variables["params"], images), jax.jit(module.apply)(variables, images)

    plain = outputs()
    with cpu.kernels():
        fast = outputs()
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(plain[0][1]))
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4 * max(scale, 1))


@pytest.mark.slow
def test_a_jitted_function_is_retraced_in_the_context_of_its_thread():
    """The context applies to the thread that entered it, even for a function that was traced outside before."""
    _, variables, images, loss = trainable("mobilenet_v2_tiny", table=ONE_BLOCK)
    function = jax.jit(lambda images: loss(variables["params"], images)[0])

    def uses_kernels():
        return "custom_vjp" in str(jax.make_jaxpr(function)(images))

    def supports_forward_mode():
        try:
            jax.jvp(function, (images,), (images,))
        except TypeError:
            return False
        return True

    assert (uses_kernels(), supports_forward_mode()) == (False, True)
    with cpu.kernels(), concurrent.futures.ThreadPoolExecutor(1) as thread:
        assert (uses_kernels(), supports_forward_mode()) == (True, False)
        assert not thread.submit(uses_kernels).result()

        def in_own_context():
            with cpu.kernels():
                return uses_kernels()

        assert thread.submit(in_own_context).result()
        assert not thread.submit(uses_kernels).result()
    assert (uses_kernels(), supports_forward_mode()) == (False, True)


@pytest.mark.slow
def test_kernels_are_enabled_by_name():
    _, variables, images, loss = trainable("mobilenet_v2_tiny", table=ONE_BLOCK)

    def program(*names):
        with cpu.kernels(names):
            return str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(variables["params"], images))

    plain, sums = program(), program("sums")
    assert "feature_group_count=8" in plain and "feature_group_count=8" in sums
    assert "feature_group_count=8" not in program("depthwise")
    assert "axes=(0, 1, 2)" in plain and "axes=(0, 1, 2)" not in sums
    with pytest.raises(ValueError, match=r"unknown kernels \['magic'\]: choose from \['depthwise'"):
        program("magic")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "groups", "padding"),
    long_but(
        itertools.product([1, 3], [1, 4], ["SAME", ((1, 0), (2, 1)), 1, "CIRCULAR"]),
        [
            (1, 1, "SAME"),
            (1, 4, 1),
            (3, 1, ((1, 0), (2, 1))),
            (3, 1, "CIRCULAR"),
            (3, 4, "SAME"),
            (3, 4, ((1, 0), (2, 1))),
        ],
    ),
)
def test_flax_convolutions_compute_the_same_with_kernels(kernel, groups, padding):
    x = random(2, 5, 5, 4)
    module = nn.Conv(4, (kernel, kernel), padding=padding, feature_group_count=groups)
    variables = module.init(jax.random.key(1), x)
    variables = {"params": variables["params"] | {"bias": jnp.arange(4.0)}}
    expected = module.apply(variables, x)
    with cpu.kernels():
        jax.tree.map(
            np.testing.assert_array_equal,
            module.init(jax.random.key(1), x)["params"]["kernel"],
            variables["params"]["kernel"],
        )
        assert_same([module.apply(variables, x)], [expected])


@pytest.mark.slow
@pytest.mark.parametrize("cls", [nn.BatchNorm, TorchBatchNorm])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_flax_batch_norm_computes_the_same_with_kernels(cls, dtype):
    x = 3 * random(4, 5, 5, 3).astype(dtype) + 1
    module = cls(use_running_average=False, momentum=0.9, use_fast_variance=False, dtype=dtype)
    variables = module.init(jax.random.key(0), x)
    expected = module.apply(variables, x, mutable=["batch_stats"])
    with cpu.kernels():
        actual = module.apply(variables, x, mutable=["batch_stats"])
    assert_same(
        jax.tree.leaves(actual), jax.tree.leaves(expected), 1e-5 if dtype == jnp.float32 else 1e-2
    )


def test_windows_too_large_for_a_byte_are_pooled_by_flax():
    x = random(1, 40, 40, 2)
    with cpu.kernels():
        y = MaxPool(17, 17).apply({}, x)
    np.testing.assert_array_equal(y, nn.max_pool(x, (17, 17), (17, 17)))


@pytest.mark.slow
def test_other_interceptors_run_before_the_kernels():
    """An interceptor that changes the input of a layer has the same effect inside and outside the context."""
    module = ConvNormAct(3, (3, 3))
    images = random(2, 5, 5, 3)
    variables = module.init(jax.random.key(0), images)

    def with_ones(call, args, kwargs, context):
        if context.module.path == ("norm",) and context.method_name == "__call__":
            args = (jnp.ones_like(args[0]), *args[1:])
        return call(*args, **kwargs)

    def updated_mean():
        with nn.intercept_methods(with_ones):
            _, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]["norm"]["mean"]

    plain = updated_mean()
    with cpu.kernels():
        fast = updated_mean()
    for mean in (plain, fast):
        np.testing.assert_allclose(mean, 1 - module.norm_momentum, rtol=1e-5)
