"""Every registered model, from one table."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from train.engine.objectives import OBJECTIVES
from train.recipe import Stage

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
    "conv_autoencoder": (6_701_635, 6_701_635),  # by formula in test_autoencoders.py
    "conv_autoencoder_tiny": (15_427, 15_427),
    "deconv_alexnet_1": (147_722, 148_426),
    "deconv_alexnet_1_factored": (80_778, 82_250),  # our own
    "deconv_alexnet_2": (584_202, 585_610),
    "deconv_alexnet_2_factored": (314_122, 317_066),  # our own
    "deconv_alexnet_tiny": (9_866, 10_042),
    "gmvae": (4_691_648, 4_691_648),  # by formula in test_autoencoders.py
    "gmvae_tiny": (2_726, 2_726),
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
    "vade": (4_616_131, 4_616_131),  # by formula in test_autoencoders.py
    "vade_tiny": (2_243, 2_243),
    "vgg11": (132_863_336, 132_863_336),  # torchvision's page, and so are the other three
    "vgg13": (133_047_848, 133_047_848),
    "vgg16": (138_357_544, 138_357_544),
    "vgg19": (143_667_240, 143_667_240),
    "vgg_tiny": (47_210, 47_210),
}
# Small enough to be run here; each family has one.
TINY = [name for name in PARAMETERS if name.endswith("_tiny")]
leaves = jax.tree.leaves
# Classifiers return logits; the others a dict, and are known by their latents.
CLASSIFIERS = [n for n in PARAMETERS if zoo.get_entry(n).objective == "classification"]
OTHERS = [name for name in PARAMETERS if name not in CLASSIFIERS]


def among(names, others):
    return [name for name in names if name in others]


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
    """Everything that comes out is float32 in any compute type, an example a row; parameters are float32."""
    shape = (2, *zoo.get_entry(name).input_shape)
    for options in ({}, {"dtype": "bfloat16"}):
        model = zoo.create_model(name, 7, **options)
        outputs, variables = jax.eval_shape(
            lambda m=model: m.init_with_output(jax.random.key(0), jnp.zeros(shape))
        )
        assert all((leaf.shape[0], leaf.dtype) == (2, jnp.float32) for leaf in leaves(outputs))
        assert set(variables) <= {"params", "batch_stats"}
        assert all(leaf.dtype == jnp.float32 for leaf in leaves(variables))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_without_a_head_are_features(name):
    shape = (2, *zoo.get_entry(name).input_shape)

    def build(num_classes):
        model = zoo.create_model(name, num_classes)
        return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros(shape)))

    logits, variables = build(7)
    assert logits.shape == (2, 7)
    assert "head" in variables["params"]
    features, variables = build(0)
    assert features.ndim == 2
    assert "head" not in variables["params"]


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_are_no_classifiers_reconstruct_their_input(name):
    entry = zoo.get_entry(name)
    assert entry.objective in OBJECTIVES
    model, inputs = zoo.create_model(name, 7), jnp.zeros((2, *entry.input_shape))
    outputs, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), inputs))
    assert outputs["reconstruction"].shape == inputs.shape
    features = jax.eval_shape(lambda v: zoo.features(model, v, inputs), variables)
    assert features.shape == (2, math.prod(outputs["latent"].shape[1:]))
    if "cluster_log_probabilities" in outputs:
        assert outputs["cluster_log_probabilities"].shape == (2, 7)


@pytest.mark.parametrize("name", PARAMETERS)
def test_layers_add_up_to_the_model(name):
    """Each layer is listed once."""
    rows = zoo.layer_table(zoo.create_model(name), zoo.get_entry(name).input_shape)
    paths = [row.path for row in rows]
    assert len(set(paths)) == len(paths)
    trainable, total = PARAMETERS[name]
    assert sum(row.parameters for row in rows) == trainable
    assert sum(row.statistics for row in rows) == total - trainable


@functools.cache
def prepared(name):
    model = zoo.create_model(name, 5)
    shape = (4, *zoo.get_entry(name).input_shape)
    images = jax.random.uniform(jax.random.key(1), shape)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_gradient(name):
    model, variables, images = prepared(name)
    objective = OBJECTIVES[zoo.get_entry(name).objective].build(model, Stage())
    gradients = jax.jit(jax.grad(objective.loss, has_aux=True))
    batch = {"image": images, "label": jnp.arange(4) % 5}
    gradient, _ = gradients(
        variables["params"], variables.get("batch_stats", {}), batch, jax.random.key(2)
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        where = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(leaf)), where
        assert np.any(leaf != 0), where


@pytest.mark.parametrize("name", TINY)
def test_evaluation_is_pure_and_training_moves_statistics(name):
    model, variables, images = prepared(name)
    first, untouched = model.apply(variables, images, train=False, mutable=["batch_stats"])
    again = model.apply(variables, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves(first))
    before = variables.get("batch_stats", {})
    jax.tree.map(np.testing.assert_array_equal, untouched.get("batch_stats", {}), before)

    rngs = {"dropout": jax.random.key(0), "sample": jax.random.key(1)}
    _, moved = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
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
    for ours, wanted in zip(leaves(rounded), leaves(exact), strict=True):
        assert ours.dtype == jnp.float32
        # bfloat16 keeps 8 bits: 0.4 % a rounding, a few dozen roundings deep.
        assert np.max(np.abs(ours - wanted)) < 0.05 * np.max(np.abs(wanted)) + 0.02


@pytest.mark.parametrize("name", among(TINY, CLASSIFIERS))
def test_features_are_what_enters_the_head(name):
    model, variables, images = prepared(name)
    features = zoo.features(model, variables, images)
    head = variables["params"]["head"]
    logits = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, model.apply(variables, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", among(TINY, OTHERS))
def test_features_are_the_latents_in_evaluation(name):
    model, variables, images = prepared(name)
    latent = model.apply(variables, images)["latent"]
    features = zoo.features(model, variables, images)
    np.testing.assert_allclose(features, latent.reshape(features.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_batch_order_does_not_matter_in_evaluation(name):
    model, variables, images = prepared(name)
    forward = jax.jit(lambda x: model.apply(variables, x))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[::-1], b, rtol=1e-5, atol=1e-6),
        forward(images),
        forward(images[::-1]),
    )
