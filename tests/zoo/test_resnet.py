"""ResNet: published counts, sizes, dialects, and equality with Keras."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import zoo
from zoo.inspect import count_parameters
from zoo.layers import TorchBatchNorm

IMAGE = (224, 224, 3)


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's table of weights
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameter_counts_of_torchvision(name, published):
    assert count_parameters(zoo.create_model(name), IMAGE)[0] == published


@pytest.mark.parametrize(
    ("name", "published"),  # with moving statistics, as model.summary() says
    [("resnet50", 25_636_712), ("resnet101", 44_707_176), ("resnet152", 60_419_944)],
)
def test_parameter_counts_of_keras(name, published):
    assert count_parameters(zoo.create_model(name, dialect="keras"), IMAGE)[1] == published


def rows(name, **options):
    model = zoo.create_model(name, **options)
    return {r.path: r.output_shape for r in zoo.layer_table(model, IMAGE, leaves_only=False)}


def test_sizes_and_stage_names():
    sizes = rows("resnet50")
    stages = {
        "conv1": (112, 112, 64),
        "pool1": (56, 56, 64),
        "layer1": (56, 56, 256),
        "layer2": (28, 28, 512),
        "layer3": (14, 14, 1024),
        "layer4": (7, 7, 2048),
        "layer4/2/conv2": (7, 7, 512),
        "head": (1000,),
    }
    assert {name: sizes[name] for name in stages} == stages
    assert {path for path in sizes if path.endswith("downsample")} == {
        f"layer{stage}/0/downsample" for stage in (1, 2, 3, 4)
    }
    basic = {path for path in rows("resnet18") if path.endswith("downsample")}
    assert basic == {f"layer{stage}/0/downsample" for stage in (2, 3, 4)}


def test_the_dialect_moves_the_stride():
    assert rows("resnet50")["layer2/0/conv1"] == (56, 56, 128)
    assert rows("resnet50", dialect="keras")["layer2/0/conv1"] == (28, 28, 128)


@pytest.mark.parametrize("size", [(64, 64), (47, 75)])
def test_logits_equal_keras(size):
    ours = zoo.create_model("resnet50", 10, dialect="keras")
    parity.assert_logits_equal_keras(ours, "ResNet50", parity.resnet_path, size)


@pytest.mark.slow
def test_training_step_equals_keras():
    ours = zoo.create_model("resnet50", 10, dialect="keras")
    parity.assert_step_equals_keras(ours, "ResNet50", parity.resnet_path, (48, 48))


def test_options_override_the_dialect():
    images = jnp.ones((4, 64, 64, 3))
    model = zoo.create_model("resnet_tiny", norm_momentum=0.25)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    _, moved = model.apply(variables, images, train=True, mutable=["batch_stats"])
    kernel = variables["params"]["conv1"]["conv"]["kernel"]
    out = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        moved["batch_stats"]["conv1"]["norm"]["mean"],
        0.75 * out.mean(axis=(0, 1, 2)),  # from zero
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("init", "bound"),
    [(None, None), ("kaiming_uniform", (6 / (3 * 3 * 128)) ** 0.5)],  # over the fan-in
)
def test_kernel_init(init, bound):
    model = zoo.create_model(
        "resnet_tiny", widths=(8, 8, 16, 128), kernel_init=init, bottleneck=False
    )
    params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 64, 64, 3)))["params"]
    kernel = np.asarray(params["layer4"]["0"]["conv2"]["conv"]["kernel"])  # 147,456 numbers
    if bound is None:  # He normal over the fan-out
        assert np.std(kernel) == pytest.approx((2 / (3 * 3 * 128)) ** 0.5, rel=0.02)
        assert np.max(np.abs(kernel)) > 3.5 * np.std(kernel)  # not truncated
    else:
        assert bound * 0.999 < np.max(np.abs(kernel)) <= bound
    with pytest.raises(zoo.InputError, match="did you mean 'kaiming_normal'"):
        count_parameters(model.clone(kernel_init="kaiming_norml"), (64, 64, 3))


def test_dropout_is_before_the_head():
    model = zoo.create_model("resnet_tiny", 0, dropout_rate=0.5)
    images = jax.random.normal(jax.random.key(0), (8, 64, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)

    def train(rate):
        return model.clone(dropout_rate=rate).apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )[0]

    kept = np.asarray(train(0.5) != 0)
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(train(0.5), np.where(kept, 2 * train(0.0), 0), rtol=1e-5)


def test_moving_variance_is_unbiased_over_all_devices():
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 2, 1, 4)))  # devices, batch, ...
    norm = TorchBatchNorm(False, momentum=0.9, axis_name="batch", use_fast_variance=False)
    variables = norm.init(jax.random.key(0), x[0])

    def apply(x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    y, moved = jax.pmap(apply, axis_name="batch", devices=jax.devices()[:2])(x)
    values = x.reshape(-1, 4)
    for device in range(2):
        stats = jax.tree.map(lambda leaf, d=device: np.asarray(leaf[d]), moved["batch_stats"])
        np.testing.assert_allclose(stats["mean"], 0.1 * values.mean(axis=0), rtol=1e-5, atol=1e-7)
        expected = 0.9 + 0.1 * values.var(axis=0, ddof=1)
        np.testing.assert_allclose(stats["var"], expected, rtol=1e-5)
    normalised = (values - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 4), normalised, rtol=1e-4, atol=1e-5)
