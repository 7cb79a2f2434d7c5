"""Fast forms for a CPU against XLA's and Flax's own, forward and backward, and the switch that turns them on."""

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
from zoo.cpu import winograd
from zoo.cpu.conv import conv, depthwise_conv
from zoo.cpu.pool import max_pool
from zoo.cpu.sums import add_bias, batch_norm, channel_sums, sum_of_squares
from zoo.cpu.windows import amounts
from zoo.layers import MaxPool, TorchBatchNorm


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


def grouped(x, kernel, strides=(1, 1), padding="SAME"):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=layout, feature_group_count=x.shape[-1]
    )


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

    for ours, reference in zip(outputs(depthwise_conv), outputs(grouped), strict=True):
        assert ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-5)


def test_depthwise_shifted_bfloat16_sums_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 4), jnp.bfloat16)
    exact = grouped(x.astype(jnp.float32), kernel.astype(jnp.float32))
    ours = depthwise_conv(x, kernel)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))  # one rounding, at the end


def test_depthwise_shifted_runs_inside_pmap_and_under_vmap():
    x = jax.random.normal(jax.random.key(0), (2, 2, 6, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 4))

    def gradients(x, kernel, convolve):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, (2, 2), "SAME")))

        return jax.grad(loss, argnums=(0, 1))(x, kernel)

    expected = jax.vmap(lambda x: gradients(x, kernel, grouped))(x)
    mapped = jax.vmap(lambda x: gradients(x, kernel, depthwise_conv))(x)
    devices = jax.devices()[:2]
    replicated = jax.pmap(
        lambda x, k: gradients(x, k, depthwise_conv), "batch", in_axes=(0, None), devices=devices
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


def scattered(x, size, stride, padding):
    return nn.max_pool(x, (size, size), (stride, stride), padding)


def shifted(x, size, stride, padding):
    pads = amounts(padding, x.shape[1:3], (size, size), (stride, stride))
    return max_pool(x, size, stride, pads)


@pytest.mark.parametrize(("size", "pool", "padding"), POOLS)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_shifted_equals_scatter(size, pool, padding, ties):
    x = random(3, *size, 5)
    # Many windows with several equal maxima, as after a ReLU.
    x = nn.relu(jnp.round(x)) if ties else x
    assert_same(
        *(
            forward_and_backward(lambda x, f=f: f(x, *pool, padding), x)
            for f in (shifted, scattered)
        )
    )


def test_max_pool_lets_nan_through_and_keeps_bfloat16():
    x = random(1, 6, 6, 2).at[0, 2, 3, 1].set(jnp.nan)
    y, dx = forward_and_backward(lambda x: shifted(x, 3, 3, "VALID"), x)
    assert np.isnan(y).sum() == 1 and np.isnan(y[0, 0, 1, 1])
    assert np.count_nonzero(dx) == 8  # one a window and channel
    small = random(2, 6, 6, 4).astype(jnp.bfloat16)
    results = [
        forward_and_backward(lambda x, f=f: f(x, 2, 2, "VALID"), small)
        for f in (shifted, scattered)
    ]
    assert results[0][0].dtype == results[0][1].dtype == jnp.bfloat16
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def plain_norm(x, scale, bias, epsilon, axis_name=None):
    """What `batch_norm` gives, by Flax."""
    module = nn.BatchNorm(
        use_running_average=False,
        momentum=0.0,  # the moving statistics are the batch's
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
    moments = updated["batch_stats"]
    return y, jax.lax.stop_gradient(moments["mean"]), jax.lax.stop_gradient(moments["var"])


@pytest.mark.parametrize(
    "shape", [(4, 5, 3, 6), (2, 200, 180, 5), (7, 4)]
)  # 5 channels: blocks and a rest
def test_batch_norm_looped_equals_plain(shape):
    x = 3 * random(*shape) + 1
    scale, bias = random(shape[-1], seed=1), random(shape[-1], seed=2)

    def outputs(norm):
        _, mean, var = norm(x, scale, bias, 1e-3)
        return (
            mean,
            var,
            *forward_and_backward(lambda *a: norm(*a, 1e-3)[0], x, scale, bias),
        )

    ours = outputs(batch_norm)
    np.testing.assert_allclose(
        ours[0], np.mean(x, axis=tuple(range(x.ndim - 1))), rtol=1e-4, atol=1e-6
    )
    # The gradients of scale and bias are sums of up to 72,000 numbers of either sign.
    for one, other in zip(ours, outputs(plain_norm), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.sqrt(x.size))


def test_batch_norm_over_devices_is_that_of_the_whole_batch():
    x, scale, bias = random(4, 3, 5, 5, 6), random(6, seed=1), random(6, seed=2)
    weights = random(*x.shape, seed=3)

    def outputs(norm, axis_name):
        def run(x, weights):
            def loss(x, scale, bias):
                y, mean, var = norm(x, scale, bias, 1e-3, axis_name)
                return jnp.sum(weights * y), (mean, var)

            return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

        return run

    (dx, dscale, dbias), moments = outputs(plain_norm, None)(
        x.reshape(-1, *x.shape[2:]), weights.reshape(-1, *x.shape[2:])
    )
    for norm in (batch_norm, plain_norm):
        run = jax.pmap(outputs(norm, "devices"), "devices", devices=jax.devices()[:4])
        (dx_each, dscale_each, dbias_each), moments_each = run(x, weights)
        np.testing.assert_allclose(dx_each.reshape(dx.shape), dx, rtol=1e-4, atol=1e-5)
        # A device has its own part of these two: the engine sums them up with all the gradients.
        np.testing.assert_allclose(dscale_each.sum(axis=0), dscale, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(dbias_each.sum(axis=0), dbias, rtol=1e-4, atol=1e-4)
        for each, one in zip(moments_each, moments, strict=True):
            np.testing.assert_allclose(each, np.broadcast_to(one, each.shape), rtol=1e-5, atol=1e-6)


def test_batch_norm_finds_a_small_variance_beside_a_large_mean():
    x = 1000 + 0.1 * random(64, 8, 8, 3)
    _, _, var = batch_norm(x, jnp.ones(3), jnp.zeros(3), 1e-3)
    np.testing.assert_allclose(var, np.var(np.float64(x), axis=(0, 1, 2)), rtol=1e-3)


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
    ours = forward_and_backward(add_bias, x, bias)
    assert_same(ours, forward_and_backward(lambda x, b: x + b.reshape(1, 1, 1, 3), x, bias))
    half = forward_and_backward(
        add_bias,
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


def test_sum_of_squares_of_a_large_array():
    x = random(300_001)
    np.testing.assert_allclose(sum_of_squares(x), np.sum(np.float64(x) ** 2), rtol=1e-5)


# The switch.

FAMILIES = [
    name for name in zoo.list_models("*_tiny") if zoo.get_entry(name).objective == "classification"
]


def trainable(name, **options):
    """A net without dropout, its variables, images, and a function of a training step's loss and statistics."""
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


@pytest.mark.parametrize("name", FAMILIES)
def test_a_net_computes_the_same_within(name):
    """Loss, statistics, gradients and evaluation of every family, from the same variables."""
    module, variables, images, loss = trainable(name)

    def outputs():
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return step(variables["params"], images), jax.jit(module.apply)(variables, images)

    plain = outputs()
    with cpu.kernels():
        fast = outputs()
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(plain[0][1]))
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4 * max(scale, 1))


def test_a_jitted_function_follows_the_switch_in_every_thread():
    """The same one, traced before outside and then within; another thread is outside."""
    _, variables, images, loss = trainable("deconv_alexnet_tiny")
    function = jax.jit(lambda images: loss(variables["params"], images)[0])

    def is_fast():
        return "custom_vjp" in str(jax.make_jaxpr(function)(images))

    def can_be_differentiated_forwards():
        try:
            jax.jvp(function, (images,), (images,))
        except TypeError:
            return False
        return True

    assert (is_fast(), can_be_differentiated_forwards()) == (False, True)
    with cpu.kernels(), concurrent.futures.ThreadPoolExecutor(1) as other:
        assert (is_fast(), can_be_differentiated_forwards()) == (True, False)
        assert not other.submit(is_fast).result()

        def within():
            with cpu.kernels():
                return is_fast()

        assert other.submit(within).result()
        assert not other.submit(is_fast).result()
    assert (is_fast(), can_be_differentiated_forwards()) == (False, True)


def test_one_form_at_a_time():
    _, variables, images, loss = trainable("mobilenet_v2_tiny")

    def program(*forms):
        with cpu.kernels(forms):
            return str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(variables["params"], images))

    plain = program()
    assert "optimization_barrier" not in plain and "feature_group_count=8" in plain
    assert "feature_group_count=8" not in program("depthwise")
    assert "optimization_barrier" in program("barriers")
    assert "feature_group_count=8" in program("barriers")
    assert "axes=(0, 1, 2)" in plain and "axes=(0, 1, 2)" not in program("sums")
    with pytest.raises(ValueError, match=r"unknown forms \['magic'\]: choose from \['barriers'"):
        program("magic")


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("padding", ["SAME", ((1, 0), (2, 1)), 1, "CIRCULAR"])
def test_any_convolution_of_flax_is_the_same_within(kernel, groups, padding):
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


@pytest.mark.parametrize("cls", [nn.BatchNorm, TorchBatchNorm])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_of_flax_is_the_same_within(cls, dtype):
    x = 3 * random(4, 5, 5, 3).astype(dtype) + 1
    module = cls(use_running_average=False, momentum=0.9, use_fast_variance=False, dtype=dtype)
    variables = module.init(jax.random.key(0), x)
    expected = module.apply(variables, x, mutable=["batch_stats"])
    with cpu.kernels():
        found = module.apply(variables, x, mutable=["batch_stats"])
    assert_same(
        jax.tree.leaves(found), jax.tree.leaves(expected), 1e-5 if dtype == jnp.float32 else 1e-2
    )


def test_a_wide_pool_is_left_to_xla():
    x = random(1, 40, 40, 2)
    with cpu.kernels():
        y = MaxPool(17, 17).apply({}, x)
    np.testing.assert_array_equal(y, nn.max_pool(x, (17, 17), (17, 17)))


def test_other_interceptors_are_heard():
    """One that is entered before the net is called changes what a layer is given, inside as outside."""
    module = zoo.create_model("sam_alexnet_tiny", num_classes=3)
    images = random(2, *zoo.get_entry("sam_alexnet_tiny").input_shape)
    variables = jax.jit(module.init)(jax.random.key(0), images)

    def with_zeros(call, args, kwargs, context):
        if context.module.path == ("conv2", "norm") and context.method_name == "__call__":
            args = (jnp.zeros_like(args[0]), *args[1:])
        return call(*args, **kwargs)

    def outputs():
        with nn.intercept_methods(with_zeros):
            return module.apply(
                variables,
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )

    _, plain = outputs()
    with cpu.kernels():
        _, fast = outputs()
    assert not np.any(plain["batch_stats"]["conv2"]["norm"]["mean"])
    assert not np.any(fast["batch_stats"]["conv2"]["norm"]["mean"])
