"""VGG: published parameter counts, sizes, activations, and equality with Keras."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import zoo
from zoo.inspect import count_parameters
from zoo.layers import adaptive_average_pool


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's table of weights; Keras has the same for 16 and 19
    [
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
    ],
)
@pytest.mark.parametrize("variant", ["torch", "keras"])
def test_published_parameter_counts(name, published, variant):
    model = zoo.create_model(name, variant=variant)
    assert count_parameters(model, (224, 224, 3)) == (published, published)


def test_sizes_of_named_stages():
    rows = {
        row.path: row.output_shape
        for row in zoo.layer_table(zoo.create_model("vgg16"), (224, 224, 3), leaves_only=False)
    }
    stages = {
        "block1": (112, 112, 64),
        "block2": (56, 56, 128),
        "block3": (28, 28, 256),
        "block4": (14, 14, 512),
        "block5": (7, 7, 512),
        "top/fc1": (4096,),
        "top/fc2": (4096,),
        "head": (1000,),
    }
    assert {name: rows[name] for name in stages} == stages
    assert rows["block5/conv3"] == (14, 14, 512)


@pytest.mark.slow
@pytest.mark.parametrize("size", [pytest.param((32, 32), marks=pytest.mark.long), (48, 71)])
def test_logits_equal_keras(size):
    model = zoo.create_model("vgg16", 10, variant="keras")
    parity.assert_logits_equal_keras(model, "VGG16", parity.vgg_path, size)


@pytest.mark.slow
def test_training_step_of_a_small_net_equals_keras():
    options = {"widths": (4, 8, 16, 32, 32), "head_widths": (256, 256)}
    model = zoo.create_model("vgg16", 10, variant="keras", dropout_rate=0.0, **options)
    parity.assert_step_equals_keras(model, parity.small_vgg16, parity.vgg_path, (32, 32))


@pytest.mark.long
def test_training_step_equals_keras():
    model = zoo.create_model("vgg16", 10, variant="keras", dropout_rate=0.0)
    parity.assert_step_equals_keras(model, "VGG16", parity.vgg_path, (32, 32))


@pytest.fixture(scope="module")
def tiny_variables():
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    return jax.jit(zoo.create_model("vgg_tiny").init)(jax.random.key(1), images), images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", lambda z: np.maximum(z, 0)),
        ("tanh", np.tanh),
        ("sigmoid", lambda z: 1 / (1 + np.exp(-z))),
        ("linear", lambda z: z),
    ],
)
def test_activation_applies_to_every_hidden_layer(name, function, tiny_variables):
    variables, images = tiny_variables
    model = zoo.create_model("vgg_tiny", activation=name)
    pairs = (
        ("block1/conv1", "block1/conv1/conv"),
        ("block5/conv2", "block5/conv2/conv"),
        ("top", "top/fc2"),
    )

    @jax.jit
    def outputs(variables):
        return [[zoo.features(model, variables, images, layer) for layer in pair] for pair in pairs]

    for output, linear in outputs(variables):
        np.testing.assert_allclose(output, function(np.asarray(linear)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "rellu"}, "unknown activation 'rellu': did you mean 'relu'"),
        ({"variant": "tf"}, "unknown variant 'tf': choose from torch, keras"),
    ],
)
def test_unknown_activation_and_variant(options, message):
    with pytest.raises(zoo.InputError, match=message):
        count_parameters(zoo.create_model("vgg_tiny", **options), (32, 32, 3))


def test_keras_variant_rejects_images_that_are_too_small():
    with pytest.raises(zoo.ImageTooSmall, match="too small for this model"):
        count_parameters(zoo.create_model("vgg_tiny", variant="keras"), (24, 24, 3))


@pytest.mark.slow
def test_torch_variant_takes_any_size_and_flattens_channels_first():
    model = zoo.create_model("vgg_tiny", 0, pooled_size=2, head_widths=(4,), activation="linear")
    images = jax.random.normal(jax.random.key(0), (1, 64, 96, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)

    @jax.jit
    def outputs(variables):
        return zoo.features(model, variables, images, "block5"), model.apply(variables, images)

    last, output = map(np.asarray, outputs(variables))  # [1, 2, 3, 32], [1, 4]
    pooled = np.stack([last[:, :, 0:2].mean(axis=2), last[:, :, 1:3].mean(axis=2)], axis=2)
    flat = pooled.transpose(0, 3, 1, 2).reshape(1, -1)  # torch's order: channels, rows, columns
    dense = variables["params"]["top"]["fc1"]
    np.testing.assert_allclose(
        output,
        flat @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_adaptive_average_pool_windows():
    """Five columns to three: windows 0-1, 1-3, 3-4. Two rows to three: 0, 0-1, 1."""
    x = jnp.arange(10.0).reshape(1, 2, 5, 1)
    row = np.array([0.5, 2.0, 3.5])
    expected = np.stack([row, row + 2.5, row + 5.0])
    np.testing.assert_allclose(adaptive_average_pool(x, 3)[0, :, :, 0], expected, rtol=1e-6)
    same = jax.random.normal(jax.random.key(0), (1, 3, 3, 2))
    np.testing.assert_array_equal(adaptive_average_pool(same, 3), same)
