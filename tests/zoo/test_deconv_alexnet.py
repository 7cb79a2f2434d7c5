"""AlexNets of Li et al. 2021 (cifar10): totals and fractions of Table 2, sizes of Table 1, deconvolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
import zoo.deconv_alexnet
from zoo.inspect import count_parameters
from zoo.layers import ConvNormAct

SHAPE = (28, 28, 3)


def rows(name, **options):
    return zoo.layer_table(zoo.create_model(name, **options), SHAPE)


def dense_percentage(name, **options):
    """Percentage of parameters, including moving statistics, in fully connected layers."""
    table = rows(name, **options)
    total = sum(row.parameters + row.statistics for row in table)
    return 100 * sum(row.parameters for row in table if row.kind == "Dense") / total


@pytest.mark.parametrize(
    ("name", "total", "reported", "percentage", "reported_percentage"),
    [
        ("cifar_alexnet_1", 2_210_922, "2211k", 95.36, 95.4),
        ("cifar_alexnet_2", 8_818_890, "8819k", 95.38, 95.4),
        ("deconv_alexnet_1", 148_426, "148k", 11.99, 12.0),
        ("deconv_alexnet_2", 585_610, "586k", 11.67, 11.6),  # the paper truncates here
    ],
)
def test_table_2(name, total, reported, percentage, reported_percentage):
    _, counted = count_parameters(zoo.create_model(name), SHAPE)
    assert counted == total
    assert f"{counted / 1000:.0f}k" == reported
    assert dense_percentage(name) == pytest.approx(percentage, abs=0.005)
    assert dense_percentage(name) == pytest.approx(reported_percentage, abs=0.1)


@pytest.mark.parametrize(
    ("name", "total", "percentage"),
    [("deconv_alexnet_1", 213_962, 8.32), ("deconv_alexnet_2", 847_754, 8.06)],
)
def test_nets_with_the_kernels_of_table_1(name, total, percentage):
    model = zoo.create_model(name, deconv_kernels=(3, 3))
    assert count_parameters(model, SHAPE)[1] == total
    assert dense_percentage(name, deconv_kernels=(3, 3)) == pytest.approx(percentage, abs=0.005)


@pytest.mark.parametrize("name", ["deconv_alexnet_1", "deconv_alexnet_2"])
def test_table_2_does_not_say_whether_conv4_or_deconv1_is_1x1(name):
    """Exchanging the two kernel sizes leaves the total as it is."""
    image = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    params = jax.eval_shape(zoo.create_model(name).init, jax.random.key(0), image)["params"]
    conv4, deconv1 = (params[layer]["conv"]["kernel"].shape for layer in ("conv4", "deconv1"))
    assert (conv4[:2], deconv1[:2]) == ((3, 3), (1, 1))
    assert conv4[2] * conv4[3] == deconv1[2] * deconv1[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "total", "parent"),
    [
        ("deconv_alexnet_1_factored", 82_250, 148_426),
        ("deconv_alexnet_2_factored", 317_066, 585_610),
    ],
)
def test_factored_nets_have_the_parameters_stated_in_the_docstring(name, total, parent):
    assert count_parameters(zoo.create_model(name), SHAPE)[1] == total
    parent_name = name.removesuffix("_factored")
    assert count_parameters(zoo.create_model(parent_name), SHAPE)[1] == parent
    line = f"{total:,}  of  {parent:,}  ({100 * total / parent:.0f}%)"
    assert line in zoo.deconv_alexnet.__doc__
    kernels = {row.path for row in rows(name) if row.kind == "Conv"}
    assert {f"conv2/{part}/conv" for part in ("reduce", "vertical", "horizontal", "expand")} <= (
        kernels
    )
    assert {"conv1/conv", "deconv1/conv"} <= kernels  # not factored: 3 channels; a 1x1 kernel


def test_parameters_of_a_factored_layer():
    """conv2 of the full net: 64 to 64 channels through 32. Each convolution has a bias and a norm."""
    own = {r.path: r.parameters for r in rows("deconv_alexnet_2_factored") if "conv2/" in r.path}
    assert own["conv2/reduce/conv"] == 64 * 32 + 32
    assert own["conv2/vertical/conv"] == own["conv2/horizontal/conv"] == 3 * 32 * 32 + 32
    assert own["conv2/expand/conv"] == 32 * 64 + 64
    assert own["conv2/reduce/norm"] == 2 * 32


def test_sizes_match_table_1():
    sizes = {row.path.removesuffix("/norm"): row.output_shape for row in rows("deconv_alexnet_2")}
    reported = {
        "conv1": (28, 28, 64),
        "conv2": (28, 28, 64),
        "pool2": (14, 14, 64),
        "conv3": (14, 14, 128),
        "conv4": (14, 14, 256),
        "pool4": (7, 7, 256),
        "deconv1": (7, 7, 128),
        "pool5": (4, 4, 128),
        "deconv2": (4, 4, 64),
        "pool6": (2, 2, 64),
        "top/fc1": (256,),
        "head": (10,),
    }
    assert {name: sizes[name] for name in reported} == reported


def test_halved_net_has_half_the_widths():
    halved, full = rows("deconv_alexnet_1"), rows("deconv_alexnet_2")
    for a, b in zip(halved[:-1], full[:-1], strict=True):
        assert a.path == b.path
        assert 2 * a.output_shape[-1] == b.output_shape[-1]


def test_plain_nets_have_no_batch_norm_and_three_pools():
    table = {row.path: row.output_shape for row in rows("cifar_alexnet_2")}
    assert not any("norm" in path for path in table)
    assert [table[f"pool{i}"] for i in (2, 4, 5)] == [(14, 14, 64), (7, 7, 256), (4, 4, 256)]
    assert table["top/fc1"] == (2048,)


@pytest.mark.parametrize("size", [1, 3])
def test_deconvolution_with_stride_1_is_a_convolution_with_the_rotated_kernel(size):
    """A transposed convolution is, by definition, the adjoint of a convolution."""
    forward_kernel = jax.random.normal(jax.random.key(0), (size, size, 5, 7))  # 5 to 7 channels

    def convolution(z):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            z, forward_kernel, (1, 1), "SAME", dimension_numbers=layout
        )

    x = jax.random.normal(jax.random.key(1), (2, 6, 5, 7))
    _, transposed_convolution = jax.vjp(convolution, jnp.zeros((2, 6, 5, 5)))
    deconv = ConvNormAct(5, (size, size), padding="SAME", norm=False, activation=None)
    rotated = forward_kernel[::-1, ::-1].swapaxes(2, 3)
    actual = deconv.apply({"params": {"conv": {"kernel": rotated, "bias": jnp.zeros(5)}}}, x)
    np.testing.assert_allclose(actual, transposed_convolution(x)[0], rtol=1e-5, atol=1e-5)


def test_dropout_keeps_the_reported_probabilities():
    """0.8, 0.8, 0.5, 0.5, 0.5, in the order of Table 1."""
    keep_probabilities = []

    def record(call, args, kwargs, context):
        if type(context.module).__name__ == "Dropout":
            keep_probabilities.append(1 - context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        count_parameters(zoo.create_model("deconv_alexnet_2"), SHAPE)
    assert keep_probabilities == [0.8, 0.8, 0.5, 0.5, 0.5]


def test_each_deconvolution_needs_one_kernel_size():
    with pytest.raises(zoo.InputError, match="has 1 entries, but this model has 2 deconvolutions"):
        rows("deconv_alexnet_2", deconv_kernels=(3,))
    with pytest.raises(zoo.InputError, match="has 2 entries, but this model has 0 deconvolutions"):
        rows("cifar_alexnet_2", deconv_kernels=(3, 3))
