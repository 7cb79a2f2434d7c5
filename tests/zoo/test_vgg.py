"""VGG: published counts, sizes, activations, and equality with Keras."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import zoo
from zoo.inspect import count_parameters
from zoo.layers import adaptive_average_pool


@pytest.mark.parametrize(
    ("name", "published"),  # torchvision's table of weights; Keras says the same of 16 and 19
    [
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
    ],
)
@pytest.mark.parametrize("dialect", ["torch", "keras"])
def test_published_parameter_counts(name, published, dialect):
    model = zoo.create_model(name, dialect=dialect)
    assert count_parameters(model, (224, 224, 3)) == (published, published)


def test_sizes_and_stage_names():
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


@pytest.mark.parametrize("size", [(32, 32), (48, 71)])
def test_logits_equal_keras(size):
    ours = zoo.create_model("vgg16", 10, dialect="keras")
    parity.assert_logits_equal_keras(ours, "VGG16", parity.vgg_path, size)


@pytest.mark.slow
def test_training_step_equals_keras():
    ours = zoo.create_model("vgg16", 10, dialect="keras", dropout_rate=0.0)
    parity.assert_step_equals_keras(ours, "VGG16", parity.vgg_path, (32, 32))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", lambda z: np.maximum(z, 0)),
        ("tanh", np.tanh),
        ("sigmoid", lambda z: 1 / (1 + np.exp(-z))),
        ("linear", lambda z: z),
    ],
)
def test_activation_is_that_of_every_hidden_layer(name, function):
    model = zoo.create_model("vgg_tiny", activation=name)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    for layer, before in (
        ("block1/conv1", "block1/conv1/conv"),
        ("block5/conv2", "block5/conv2/conv"),
        ("top", "top/fc2"),
    ):
        raw = np.asarray(zoo.features(model, variables, images, before))
        out = zoo.features(model, variables, images, layer)
        np.testing.assert_allclose(out, function(raw), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "rellu"}, "unknown activation 'rellu': did you mean 'relu'"),
        ({"dialect": "tf"}, "unknown dialect 'tf': choose from torch, keras"),
    ],
)
def test_mistyped_options(options, message):
    with pytest.raises(zoo.InputError, match=message):
        count_parameters(zoo.create_model("vgg_tiny", **options), (32, 32, 3))


def test_keras_dialect_names_images_that_are_too_small():
    with pytest.raises(zoo.ImageTooSmall, match="too small for this model"):
        count_parameters(zoo.create_model("vgg_tiny", dialect="keras"), (24, 24, 3))


def test_torch_dialect_takes_any_size_and_flattens_channels_first():
    model = zoo.create_model("vgg_tiny", 0, pooled_size=2, head_widths=(4,), activation="linear")
    images = jax.random.normal(jax.random.key(0), (1, 64, 96, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    last = np.asarray(zoo.features(model, variables, images, "block5"))  # [1, 2, 3, 32]
    pooled = np.stack([last[:, :, 0:2].mean(axis=2), last[:, :, 1:3].mean(axis=2)], axis=2)
    flat = pooled.transpose(0, 3, 1, 2).reshape(1, -1)  # torch: channels, rows, columns
    dense = variables["params"]["top"]["fc1"]
    np.testing.assert_allclose(
        model.apply(variables, images),
        flat @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_adaptive_pool_by_hand():
    """Five columns to three: windows 0-1, 1-3, 3-4; two rows to three: 0, 0-1, 1."""
    x = jnp.arange(10.0).reshape(1, 2, 5, 1)
    row = np.array([0.5, 2.0, 3.5])
    expected = np.stack([row, row + 2.5, row + 5.0])
    np.testing.assert_allclose(adaptive_average_pool(x, 3)[0, :, :, 0], expected, rtol=1e-6)
    same = jax.random.normal(jax.random.key(0), (1, 3, 3, 2))
    np.testing.assert_array_equal(adaptive_average_pool(same, 3), same)
