"""ResNet: published parameter counts, sizes, variants, and equality with Keras."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import zoo
from zoo.inspect import count_parameters
from zoo.layers import TorchBatchNorm

IMAGE = (224, 224, 3)


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's table of weights
    [
        ("resnet18", 11_689_512),
        # The others are in the table of test_models.py, too.
        long("resnet34", 21_797_672),
        long("resnet50", 25_557_032),
        long("resnet101", 44_549_160),
        long("resnet152", 60_192_808),
    ],
)
def test_parameter_counts_equal_torchvision(name, published):
    assert count_parameters(zoo.create_model(name), IMAGE)[0] == published


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),  # total of model.summary(), including moving statistics
    [
        ("resnet50", 25_636_712),
        long("resnet101", 44_707_176),
        long("resnet152", 60_419_944),
    ],
)
def test_parameter_counts_equal_keras(name, published):
    assert count_parameters(zoo.create_model(name, variant="keras"), IMAGE)[1] == published


@functools.cache
def rows(name, **options):
    model = zoo.create_model(name, **options)
    return {r.path: r.output_shape for r in zoo.layer_table(model, IMAGE, leaves_only=False)}


@pytest.mark.slow
def test_sizes_of_named_stages():
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


@pytest.mark.slow
def test_variant_determines_the_convolution_with_the_stride():
    assert rows("resnet50")["layer2/0/conv1"] == (56, 56, 128)
    assert rows("resnet50", variant="keras")["layer2/0/conv1"] == (28, 28, 128)


@pytest.mark.slow
@pytest.mark.parametrize("size", [long((64, 64)), (47, 75)])
def test_logits_equal_keras(size):
    model = zoo.create_model("resnet50", 10, variant="keras")
    parity.assert_logits_equal_keras(model, "ResNet50", parity.resnet_path, size)


@pytest.mark.slow
def test_training_step_of_a_small_net_equals_keras():
    model = zoo.create_model("resnet50", 10, variant="keras", blocks=(2, 1), widths=(64, 8))
    parity.assert_step_equals_keras(model, parity.small_resnet, parity.resnet_path, (48, 48))


@pytest.mark.long
def test_training_step_equals_keras():
    model = zoo.create_model("resnet50", 10, variant="keras")
    parity.assert_step_equals_keras(model, "ResNet50", parity.resnet_path, (48, 48))


@pytest.fixture(scope="module")
def tiny_variables():
    model = zoo.create_model("resnet_tiny", 0)
    return jax.jit(model.init)(jax.random.key(1), jnp.ones((1, 64, 64, 3)))


@pytest.mark.slow
def test_norm_momentum_overrides_the_variant(tiny_variables):
    images = jnp.ones((4, 64, 64, 3))
    model = zoo.create_model("resnet_tiny", 0, norm_momentum=0.25)

    @jax.jit
    def updated_mean(variables):
        _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]["conv1"]["norm"]["mean"]  # the rest is not compiled

    kernel = tiny_variables["params"]["conv1"]["conv"]["kernel"]
    out = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        updated_mean(tiny_variables),
        0.75 * out.mean(axis=(0, 1, 2)),  # the initial moving mean is zero
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("init", "bound"),
    [(None, None), ("kaiming_uniform", (6 / (3 * 3 * 128)) ** 0.5)],  # over the fan-in
)
def test_kernel_init(init, bound):
    model = zoo.create_model(
        "resnet_tiny", widths=(8, 8, 16, 128), kernel_init=init, bottleneck=False
    )

    @jax.jit
    def initial_kernel():
        variables = model.init(jax.random.key(0), jnp.ones((1, 64, 64, 3)))
        return variables["params"]["layer4"]["0"]["conv2"]["conv"]["kernel"]  # 147,456 values

    kernel = np.asarray(initial_kernel())
    if bound is None:  # He normal over the fan-out
        assert np.std(kernel) == pytest.approx((2 / (3 * 3 * 128)) ** 0.5, rel=0.02)
        assert np.max(np.abs(kernel)) > 3.5 * np.std(kernel)  # not truncated
    else:
        assert bound * 0.999 < np.max(np.abs(kernel)) <= bound
    with pytest.raises(zoo.InputError, match="did you mean 'kaiming_normal'"):
        count_parameters(model.clone(kernel_init="kaiming_norml"), (64, 64, 3))


@pytest.mark.slow
def test_dropout_applies_to_the_features(tiny_variables):
    model = zoo.create_model("resnet_tiny", 0, dropout_rate=0.5)
    images = jax.random.normal(jax.random.key(0), (8, 64, 64, 3))

    @jax.jit
    def train(variables):
        outputs = [
            model.clone(dropout_rate=rate).apply(
                variables,
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )
            for rate in (0.5, 0.0)
        ]
        return [features for features, _ in outputs]

    dropped, complete = train(tiny_variables)
    kept = np.asarray(dropped != 0)
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped, np.where(kept, 2 * complete, 0), rtol=1e-5)


@pytest.mark.slow
def test_torch_moving_variance_is_unbiased_over_all_devices():
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 2, 1, 4)))  # devices, batch, ...
    norm = TorchBatchNorm(False, momentum=0.9, axis_name="batch", use_fast_variance=False)
    variables = norm.init(jax.random.key(0), x[0])

    def apply(x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    y, updated = jax.pmap(apply, axis_name="batch", devices=jax.devices()[:2])(x)
    values = x.reshape(-1, 4)
    for device in range(2):
        stats = jax.tree.map(lambda leaf, d=device: np.asarray(leaf[d]), updated["batch_stats"])
        np.testing.assert_allclose(stats["mean"], 0.1 * values.mean(axis=0), rtol=1e-5, atol=1e-7)
        expected = 0.9 + 0.1 * values.var(axis=0, ddof=1)
        np.testing.assert_allclose(stats["var"], expected, rtol=1e-5)
    normalized = (values - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 4), normalized, rtol=1e-4, atol=1e-5)
