"""Every registered model, from one table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo

# name: (trainable parameters, the same with batch-norm moving statistics), both with default classes.
PARAMETERS = {
    "alexnet": (62_378_344, 62_378_344),  # document 5, model summary
    "alexnet_tiny": (44_986, 44_986),
    "alexnet_torchvision": (61_100_840, 61_100_840),  # torchvision's page
    "cifar_alexnet_1": (
        2_210_922,
        2_210_922,
    ),  # document 3, Table 2, and the next three that are not ours
    "cifar_alexnet_2": (8_818_890, 8_818_890),
    "deconv_alexnet_1": (147_722, 148_426),
    "deconv_alexnet_1_factored": (80_778, 82_250),  # our own
    "deconv_alexnet_2": (584_202, 585_610),
    "deconv_alexnet_2_factored": (314_122, 317_066),  # our own
    "deconv_alexnet_tiny": (9_866, 10_042),
    "mobilenet_v2": (3_504_872, 3_538_984),  # torchvision's page, Keras's summary
    "mobilenet_v2_tiny": (8_218, 9_130),
    "pig_alexnet": (24_770_634, 24_773_386),  # not printed; by hand in test_alexnet.py
    "resnet101": (44_549_160, 44_654_504),  # torchvision's page, and so are the other four
    "resnet152": (60_192_808, 60_344_232),
    "resnet18": (11_689_512, 11_699_112),
    "resnet34": (21_797_672, 21_814_696),
    "resnet50": (25_557_032, 25_610_152),
    "resnet_tiny": (20_402, 21_378),
    "sam_alexnet": (8_816_202, 8_823_562),
    "sam_alexnet_tiny": (66_362, 67_002),
    "vgg11": (132_863_336, 132_863_336),  # torchvision's page, and so are the other three
    "vgg13": (133_047_848, 133_047_848),
    "vgg16": (138_357_544, 138_357_544),
    "vgg19": (143_667_240, 143_667_240),
    "vgg_tiny": (47_210, 47_210),
}
# Small enough to be run here; each family has one.
TINY = [name for name in PARAMETERS if name.endswith("_tiny")]


def test_table_is_complete():
    assert set(PARAMETERS) == set(zoo.list_models())


def test_every_family_has_a_tiny_model():
    families = {zoo.get_entry(name).module for name in PARAMETERS}
    assert {zoo.get_entry(name).module for name in TINY} == families


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    info = zoo.model_info(name)
    assert (info.parameters, info.total_parameters) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_without_computing(name):
    """Logits are float32 [B, classes] in any compute type; without a head, features come out."""
    shape = (2, *zoo.get_entry(name).input_shape)
    for options in ({}, {"dtype": "bfloat16"}):
        model = zoo.create_model(name, 7, **options)
        logits, variables = jax.eval_shape(
            lambda m=model: m.init_with_output(jax.random.key(0), jnp.zeros(shape))
        )
        assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
        assert set(variables) <= {"params", "batch_stats"}
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
        assert "head" in variables["params"]
    headless = zoo.create_model(name, 0)
    features, variables = jax.eval_shape(
        lambda: headless.init_with_output(jax.random.key(0), jnp.zeros(shape))
    )
    assert "head" not in variables["params"]
    assert features.ndim == 2


@functools.cache
def prepared(name):
    model = zoo.create_model(name, 5)
    shape = (4, *zoo.get_entry(name).input_shape)
    images = jax.random.uniform(jax.random.key(1), shape)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_gradient(name):
    model, variables, images = prepared(name)
    labels = jnp.arange(4) % 5

    @jax.jit
    def gradients(params):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(variables["params"])):
        where = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(gradient)), where
        assert np.any(gradient != 0), where


@pytest.mark.parametrize("name", TINY)
def test_evaluation_is_pure_and_training_moves_statistics(name):
    model, variables, images = prepared(name)
    first, untouched = model.apply(variables, images, train=False, mutable=["batch_stats"])
    again = model.apply(variables, images, train=False)
    np.testing.assert_array_equal(first, again)
    assert np.all(np.isfinite(first))
    before = variables.get("batch_stats", {})
    jax.tree.map(np.testing.assert_array_equal, untouched.get("batch_stats", {}), before)

    _, moved = model.apply(
        variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
    )
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), moved.get("batch_stats", {}), before)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("name", TINY)
def test_one_compilation(name):
    model, variables, images = prepared(name)
    traces = []

    @jax.jit
    def forward(variables, images):
        traces.append(1)
        return model.apply(variables, images, train=False)

    forward(variables, images)
    forward(jax.tree.map(lambda leaf: leaf + 1, variables), images * 0.5)
    assert len(traces) == 1


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_close_to_float32(name):
    model, variables, images = prepared(name)
    exact = model.apply(variables, images, train=False)
    rounded = model.clone(dtype=jnp.bfloat16).apply(variables, images, train=False)
    assert rounded.dtype == jnp.float32
    # bfloat16 keeps 8 bits: 0.4 % a rounding, a few dozen roundings deep.
    assert np.max(np.abs(rounded - exact)) < 0.05 * np.max(np.abs(exact)) + 0.02


@pytest.mark.parametrize("name", TINY)
def test_features_are_what_enters_the_head(name):
    model, variables, images = prepared(name)
    features = zoo.features(model, variables, images)
    head = variables["params"]["head"]
    logits = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, model.apply(variables, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_batch_order_does_not_matter_in_evaluation(name):
    model, variables, images = prepared(name)
    forward = jax.jit(lambda x: model.apply(variables, x))
    np.testing.assert_allclose(forward(images)[::-1], forward(images[::-1]), rtol=1e-5, atol=1e-6)
