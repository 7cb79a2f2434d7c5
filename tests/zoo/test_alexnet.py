"""AlexNets of two papers (pig_faces, cats_dogs): all reported sizes and parameter counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo.layers import KERAS_NORM_EPSILON, SpatialAttention


def table(name, **options):
    model = zoo.create_model(name, **options)
    rows = zoo.layer_table(model, zoo.get_entry(name).input_shape)
    return {row.path.removesuffix("/conv"): row for row in rows}


def test_alexnet_matches_the_reported_model_summary():
    reported = {
        "conv1": ((55, 55, 96), 34_944),
        "pool1": ((27, 27, 96), 0),
        "conv2": ((27, 27, 256), 614_656),
        "pool2": ((13, 13, 256), 0),
        "conv3": ((13, 13, 384), 885_120),
        "conv4": ((13, 13, 384), 1_327_488),
        "conv5": ((13, 13, 256), 884_992),
        "pool5": ((6, 6, 256), 0),
        "top/fc1": ((4096,), 37_752_832),
        "top/fc2": ((4096,), 16_781_312),
        "head": ((1000,), 4_097_000),
    }
    rows = table("alexnet")
    assert {n: (rows[n].output_shape, rows[n].parameters) for n in reported} == reported
    assert sum(row.parameters for row in rows.values()) == 62_378_344


def test_alexnet_with_two_classes():
    rows = table("alexnet", num_classes=2)
    assert rows["head"].parameters == 8_194
    assert sum(row.parameters for row in rows.values()) == 58_289_538


PIG_FACES_SIZES = {  # reported, of both nets
    "conv1": (62, 62, 96),
    "pool1": (30, 30, 96),
    "conv2": (26, 26, 256),
    "pool2": (12, 12, 256),
    "conv3": (10, 10, 384),
    "conv4": (8, 8, 384),
    "conv5": (6, 6, 256),
    "pool5": (2, 2, 256),
}


def test_pig_alexnet_matches_the_reported_sizes():
    rows = table("pig_alexnet")
    sizes = PIG_FACES_SIZES | {"top/fc1": (4096,), "top/fc2": (4096,), "head": (10,)}
    assert {name: rows[name].output_shape for name in sizes} == sizes
    assert not any("sam" in name for name in rows)
    # Convolutions with bias; scale and bias of 1,376 normalized channels; a 4096-4096-10 top.
    convolutions = 34_944 + 614_656 + 885_120 + 1_327_488 + 884_992
    top = (1024 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 10
    assert sum(r.parameters for r in rows.values()) == convolutions + 2 * 1_376 + top
    assert sum(r.statistics for r in rows.values()) == 2 * 1_376


def test_sam_alexnet_matches_the_reported_sizes():
    rows = table("sam_alexnet")
    sizes = PIG_FACES_SIZES | {"top/fc1": (1024,), "top/fc2": (1024,), "head": (10,)}
    assert {name: rows[name].output_shape for name in sizes} == sizes
    for sam, side in (("sam3", 10), ("sam4", 8)):
        for part in ("middle", "squeeze", "excite"):
            assert rows[f"{sam}/{part}"].output_shape == (side, side, 384)
        assert rows[f"{sam}/middle"].parameters == 3 * 3 * 384 * 384 + 384
        assert rows[f"{sam}/squeeze"].parameters == 384 + 384  # one input channel
        assert rows[f"{sam}/excite"].parameters == 384 * 384 + 384


def test_flops_count_two_per_multiply_add():
    rows = table("alexnet")
    assert rows["conv1"].flops == 2 * (11 * 11 * 3) * (55 * 55 * 96)
    assert rows["top/fc1"].flops == 2 * 9216 * 4096
    assert rows["pool1"].flops == 0


def test_norm_can_be_turned_off():
    variables = jax.eval_shape(
        zoo.create_model("sam_alexnet_tiny", norm=False).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    )
    assert set(variables) == {"params"}


@pytest.mark.slow
def test_spatial_attention_equals_numpy():
    """The three operations of the paper's Figure 3, with random moving statistics."""
    module = SpatialAttention()
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 6))
    variables = module.init(jax.random.key(1), x)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    random = [
        jax.random.uniform(k, leaf.shape, minval=0.1) for k, leaf in zip(keys, leaves, strict=True)
    ]
    variables = jax.tree.map(np.asarray, jax.tree.unflatten(structure, random))

    def block(name, inputs, activation):
        params = variables["params"][name]
        stats = variables["batch_stats"][name]["norm"]
        kernel = params["conv"]["kernel"]
        height = kernel.shape[0]
        pad = height // 2
        padded = np.pad(inputs, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        out = params["conv"]["bias"] + sum(
            padded[:, i : i + 4, j : j + 5] @ kernel[i, j]
            for i in range(height)
            for j in range(height)
        )
        out = (out - stats["mean"]) / np.sqrt(stats["var"] + KERAS_NORM_EPSILON)
        return activation(out * params["norm"]["scale"] + params["norm"]["bias"])

    def relu(z):
        return np.maximum(z, 0)

    x = np.asarray(x)
    middle = block("middle", x, relu)
    pooled = (x + middle).mean(axis=-1, keepdims=True)
    weights = block("excite", block("squeeze", pooled, relu), lambda z: 1 / (1 + np.exp(-z)))
    np.testing.assert_allclose(
        module.apply(variables, x), middle + weights * x, rtol=1e-5, atol=1e-5
    )


@pytest.fixture(scope="module")
def tiny():
    """sam_alexnet_tiny without a head, and its variables."""
    model = zoo.create_model("sam_alexnet_tiny", 0)
    return model, jax.jit(model.init)(jax.random.key(1), jnp.ones((1, 64, 64, 3)))


@pytest.mark.slow
def test_dropout_is_active_only_in_training_and_has_the_reported_rates(tiny):
    model, variables = tiny
    images = jax.random.uniform(jax.random.key(0), (16, 64, 64, 3))

    @jax.jit
    def train(variables, images, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    # Units that ReLU does not zero for all images.
    active = np.any(np.asarray(jax.jit(model.apply)(variables, images)) > 0, axis=0)
    first = np.asarray(train(variables, images, 0))
    assert np.mean(first[:, active] == 0) > 0.35
    assert np.any(first != train(variables, images, 1))
    assert zoo.create_model("sam_alexnet").dropout_rate == 0.4
    assert zoo.create_model("alexnet").dropout_rate == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["conv3", "sam3", "top/fc1", "pool5", "top.fc1"])
def test_features_of_a_named_layer(tiny, layer):
    model, variables = tiny
    images = jnp.ones((2, 64, 64, 3))
    shapes = {
        "conv3": (2, 10, 10, 32),
        "sam3": (2, 10, 10, 32),
        "top/fc1": (2, 64),
        "top.fc1": (2, 64),
        "pool5": (2, 2, 2, 24),
    }
    features = jax.eval_shape(lambda v: zoo.features(model, v, images, layer), variables)
    assert features.shape == shapes[layer]


@pytest.mark.slow
def test_features_of_an_unknown_layer_suggest_the_closest_name(tiny):
    model, variables = tiny
    images = jnp.ones((1, 64, 64, 3))
    with pytest.raises(zoo.InputError, match="no layer 'convv3' in this model: did you mean conv3"):
        jax.eval_shape(lambda v: zoo.features(model, v, images, "convv3"), variables)


def test_images_too_small_for_the_model_raise():
    with pytest.raises(zoo.ImageTooSmall, match="too small for this model"):
        zoo.layer_table(zoo.create_model("sam_alexnet"), (64, 64, 3))
