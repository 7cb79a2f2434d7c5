"""AlexNets of two papers (pig_faces, cats_dogs): all reported sizes and parameter counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo.layers import KERAS_NORM_EPSILON, LocalResponseNorm, SpatialAttention


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
    top = {f"top/fc{index}": (4096,) for index in (1, 2, 3)}
    sizes = PIG_FACES_SIZES | top | {"head": (10,)}
    assert {name: rows[name].output_shape for name in sizes} == sizes
    assert not any("sam" in name for name in rows)
    # Convolutions with bias; scale and bias of the 96 + 256 channels after which AlexNet normalizes; a
    # 4096-4096-4096-10 top: "9 weight layers, among which 5 convolution layers and 4 fully connected layers".
    convolutions = 34_944 + 614_656 + 885_120 + 1_327_488 + 884_992
    top = (1024 + 1) * 4096 + 2 * (4096 + 1) * 4096 + (4096 + 1) * 10
    assert sum(r.parameters for r in rows.values()) == convolutions + 2 * 352 + top
    assert {name for name, r in rows.items() if r.statistics} == {"conv1/norm", "conv2/norm"}
    assert sum(r.parameters > 0 and "norm" not in name for name, r in rows.items()) == 9


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


def normalized(model):
    """Paths of the modules with batch statistics."""
    rows = zoo.layer_table(model, (64, 64, 3))
    return {row.path.removesuffix("/norm") for row in rows if row.statistics}


SAM = {f"sam{index}/{part}" for index in (3, 4) for part in ("middle", "squeeze", "excite")}


@pytest.mark.parametrize("layers", [(), (1, 2), (5,), (1, 2, 3, 4, 5)])
def test_norm_layers_are_chosen_without_touching_the_attention_modules(layers):
    model = zoo.create_model("sam_alexnet_tiny", norm_layers=layers)
    assert normalized(model) == SAM | {f"conv{index}" for index in layers}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("pig_alexnet", {}, {"norm_layers": (1, 2, 3, 4, 5), "head_widths": (4096, 4096)}),
        ("pig_alexnet", {"head_widths": (64,)}, {"head_widths": (64,)}),
        ("sam_alexnet", {"norm": True}, {"norm_layers": (1, 2, 3, 4, 5), "attention_norm": True}),
        ("sam_alexnet_tiny", {"norm": False}, {"norm_layers": (), "attention_norm": False}),
        ("alexnet", {"dropout_rate": 0.1}, {"dropout_rate": 0.1}),
    ],
)
def test_options_of_version_0_1(name, options, expected):
    converted = zoo.options_of_version_0_1(name, options)
    model = zoo.create_model(name, **converted)
    assert {option: getattr(model, option) for option in expected} == expected


def test_nets_of_version_0_1_have_their_parameters():
    """The counts of version 0.1."""
    for name, count in (("pig_alexnet", 24_770_634), ("sam_alexnet", 8_816_202)):
        model = zoo.create_model(name, **zoo.options_of_version_0_1(name, {}))
        rows = zoo.layer_table(model, (256, 256, 3))
        assert sum(row.parameters for row in rows) == count
    model = zoo.create_model(
        "sam_alexnet_tiny", **zoo.options_of_version_0_1("sam_alexnet_tiny", {"norm": False})
    )
    assert normalized(model) == set()


def test_original_alexnet_has_two_towers_and_the_quoted_share_of_dense_layers():
    """The cifar10 paper: "a total of 60 million parameters" (section 3.1), 96.2% of them "about the full connection
    layer" (section 1)."""
    rows = table("alexnet_original")
    counts = {name: row.parameters for name, row in rows.items() if row.parameters}
    assert counts == {
        "conv1": 34_944,
        "conv2": 5 * 5 * 48 * 256 + 256,  # half of the 96 channels
        "conv3": 885_120,  # all channels: the towers communicate
        "conv4": 3 * 3 * 192 * 384 + 384,
        "conv5": 3 * 3 * 192 * 256 + 256,
        "top/fc1": 37_752_832,
        "top/fc2": 16_781_312,
        "head": 4_097_000,
    }
    dense = counts["top/fc1"] + counts["top/fc2"] + counts["head"]
    assert round(dense / sum(counts.values()), 4) == 0.9617


def test_local_response_normalization_equals_the_formula():
    """Krizhevsky et al. 2012, section 3.3, with n = 5 channels, fewer at the ends."""
    x = np.random.default_rng(0).normal(0, 30, (2, 3, 2, 7)).astype("f")
    expected = np.empty_like(x)
    for i in range(7):
        near = x[..., max(0, i - 2) : min(7, i + 3)].astype(np.float64)
        expected[..., i] = x[..., i] / (2 + 1e-4 * (near**2).sum(axis=-1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNorm().apply({}, x), expected, rtol=1e-5)


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
