"""Tests of all registered models, from one table."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from train.engine.objectives import OBJECTIVES
from train.recipe import Stage

# name: (trainable parameters, the same including batch norm moving statistics), with default classes.
PARAMETERS = {
    "alexnet": (62_378_344, 62_378_344),  # cats_dogs, model summary
    "alexnet_original": (60_965_224, 60_965_224),  # cifar10 quotes 60 million
    "alexnet_original_tiny": (32_122, 32_122),
    "alexnet_tiny": (44_986, 44_986),
    "alexnet_torchvision": (61_100_840, 61_100_840),  # torchvision's documentation
    "cifar_alexnet_1": (2_210_922, 2_210_922),  # cifar10, Table 2
    "cifar_alexnet_2": (8_818_890, 8_818_890),  # cifar10, Table 2
    "conv_autoencoder": (26_121_667, 26_121_667),  # formula in test_autoencoders.py
    "conv_autoencoder_deep": (6_701_635, 6_701_635),  # formula in test_autoencoders.py
    "conv_autoencoder_tiny": (15_427, 15_427),
    "deconv_alexnet_1": (147_722, 148_426),  # cifar10, Table 2
    "deconv_alexnet_1_factored": (80_778, 82_250),  # own design
    "deconv_alexnet_2": (584_202, 585_610),  # cifar10, Table 2
    "deconv_alexnet_2_factored": (314_122, 317_066),  # own design
    "deconv_alexnet_tiny": (9_866, 10_042),
    "gmvae": (4_691_648, 4_691_648),  # formula in test_autoencoders.py
    "gmvae_tiny": (2_726, 2_726),
    "mobilenet_v2": (3_504_872, 3_538_984),  # torchvision's documentation, Keras's summary
    "mobilenet_v2_tiny": (8_218, 9_130),
    "pig_alexnet": (41_549_898, 41_550_602),  # not reported; formula in test_alexnet.py
    "resnet101": (44_549_160, 44_654_504),  # torchvision's documentation, also the next four
    "resnet152": (60_192_808, 60_344_232),
    "resnet18": (11_689_512, 11_699_112),
    "resnet34": (21_797_672, 21_814_696),
    "resnet50": (25_557_032, 25_610_152),
    "resnet_tiny": (20_402, 21_378),
    "sam_alexnet": (8_814_154, 8_819_466),
    "sam_alexnet_tiny": (66_362, 67_002),
    "vade": (4_616_131, 4_616_131),  # formula in test_autoencoders.py
    "vade_tiny": (2_243, 2_243),
    "vgg11": (132_863_336, 132_863_336),  # torchvision's documentation, also the next three
    "vgg13": (133_047_848, 133_047_848),
    "vgg16": (138_357_544, 138_357_544),
    "vgg19": (143_667_240, 143_667_240),
    "vgg_tiny": (47_210, 47_210),
}
# Small enough to run in tests; every family has one.
TINY = [name for name in PARAMETERS if name.endswith("_tiny")]
leaves = jax.tree.leaves
# Classifiers return logits, autoencoders a dict.
CLASSIFIERS = [n for n in PARAMETERS if zoo.get_entry(n).objective == "classification"]
AUTOENCODERS = [name for name in PARAMETERS if name not in CLASSIFIERS]
TINY_CLASSIFIERS = [name for name in TINY if name in CLASSIFIERS]
TINY_AUTOENCODERS = [name for name in TINY if name in AUTOENCODERS]
# Nets of the layers and blocks of others, whose shapes take a second or more to trace.
LARGE = (
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg13",
    "vgg16",
    "vgg19",
    "mobilenet_v2",
)


def with_large(names, mark):
    """The names, those of large nets with this mark."""
    return [pytest.param(n, marks=mark) if n in LARGE else n for n in names]


def test_table_is_complete():
    assert set(PARAMETERS) == set(zoo.list_models())


def test_every_family_has_a_tiny_model():
    families = {zoo.get_entry(name).module for name in PARAMETERS}
    assert {zoo.get_entry(name).module for name in TINY} == families


@pytest.mark.parametrize("name", with_large(PARAMETERS, pytest.mark.slow))
def test_parameter_counts(name):
    info = zoo.model_info(name)
    assert (info.parameters, info.total_parameters) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", with_large(PARAMETERS, pytest.mark.long))
def test_outputs_and_variables_are_float32_in_any_compute_dtype(name):
    """Also, every output has one row per sample. From shapes only."""
    shape = (2, *zoo.get_entry(name).input_shape)
    for options in ({}, {"dtype": "bfloat16"}):
        model = zoo.create_model(name, 7, **options)
        outputs, variables = jax.eval_shape(
            lambda m=model: m.init_with_output(jax.random.key(0), jnp.zeros(shape))
        )
        assert all((leaf.shape[0], leaf.dtype) == (2, jnp.float32) for leaf in leaves(outputs))
        assert set(variables) <= {"params", "batch_stats"}
        assert all(leaf.dtype == jnp.float32 for leaf in leaves(variables))


@pytest.mark.slow
@pytest.mark.parametrize("name", with_large(CLASSIFIERS, pytest.mark.long))
def test_zero_classes_omit_the_head(name):
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


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders_reconstruct_the_shape_of_their_input(name):
    entry = zoo.get_entry(name)
    assert entry.objective in OBJECTIVES
    model, inputs = zoo.create_model(name, 7), jnp.zeros((2, *entry.input_shape))
    outputs, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), inputs))
    assert outputs["reconstruction"].shape == inputs.shape
    features = jax.eval_shape(lambda v: zoo.features(model, v, inputs), variables)
    assert features.shape == (2, math.prod(outputs["latent"].shape[1:]))
    if "cluster_log_probabilities" in outputs:
        assert outputs["cluster_log_probabilities"].shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", with_large(PARAMETERS, pytest.mark.long))
def test_layer_table_lists_every_parameter_once(name):
    rows = zoo.layer_table(zoo.create_model(name), zoo.get_entry(name).input_shape)
    paths = [row.path for row in rows]
    assert len(set(paths)) == len(paths)
    trainable, total = PARAMETERS[name]
    assert sum(row.parameters for row in rows) == trainable
    assert sum(row.statistics for row in rows) == total - trainable


# The tests below share what they compile.


@functools.cache
def prepared(name):
    model = zoo.create_model(name, 5)
    shape = (4, *zoo.get_entry(name).input_shape)
    images = jax.random.uniform(jax.random.key(1), shape)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@functools.cache
def evaluation(name):
    """A function of images that returns the outputs and the batch statistics after the call."""
    model, variables, _ = prepared(name)
    return jax.jit(lambda images: model.apply(variables, images, mutable=["batch_stats"]))


def outputs(name):
    return evaluation(name)(prepared(name)[2])[0]


@functools.cache
def two_steps(name):
    """The gradients and new batch statistics of a training step; and how often two steps were compiled."""
    _, variables, images = prepared(name)
    batch = {"image": images, "label": jnp.arange(4) % 5}
    compiled = 0

    @functools.partial(jax.jit, static_argnums=0)
    def step(model, params, statistics):
        nonlocal compiled
        compiled += 1
        objective = OBJECTIVES[zoo.get_entry(name).objective].build(model, Stage())
        gradients, (statistics, _) = jax.grad(objective.loss, has_aux=True)(
            params, statistics, batch, jax.random.key(2)
        )
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients)
        return gradients, params, statistics

    statistics = variables.get("batch_stats", {})
    first = step(zoo.create_model(name, 5), variables["params"], statistics)
    step(zoo.create_model(name, 5), *first[1:])
    return first[0], first[2], compiled


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_gradient(name):
    gradients, _, _ = two_steps(name)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        where = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(leaf)), where
        assert np.any(leaf != 0), where


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_only_training_updates_batch_statistics(name):
    _, variables, images = prepared(name)
    first, evaluated = evaluation(name)(images)
    second, _ = evaluation(name)(images)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves(first))
    initial = variables.get("batch_stats", {})
    jax.tree.map(np.testing.assert_array_equal, evaluated.get("batch_stats", {}), initial)

    _, trained, _ = two_steps(name)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), trained, initial)
    assert all(leaves(changed))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_one_compilation(name):
    """A second step, with an equal module and the state that the first one returned, does not compile again.

    It would if a module had fields that differ between instances, or if a step changed the shape, dtype or weak type of
    a variable.
    """
    _, _, compiled = two_steps(name)
    assert compiled == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_close_to_float32(name):
    model, variables, images = prepared(name)
    rounded = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images)
    for actual, expected in zip(leaves(rounded), leaves(outputs(name)), strict=True):
        assert actual.dtype == jnp.float32
        # bfloat16 has 8 significant bits: 0.4 % per rounding, over a few dozen layers.
        assert np.max(np.abs(actual - expected)) < 0.05 * np.max(np.abs(expected)) + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_training_in_bfloat16_keeps_float32(name):
    """Loss, metrics, gradients and statistics, from shapes only; and sums: 300 ones are 256 in bfloat16."""
    entry = zoo.get_entry(name)
    model = zoo.create_model(name, 5, dtype="bfloat16")
    loss = OBJECTIVES[entry.objective].build(model, Stage()).loss
    image = jnp.zeros((4, *entry.input_shape))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    batch = {"image": image, "label": jnp.zeros(4, jnp.int32)}
    arguments = (variables["params"], variables.get("batch_stats", {}), batch, jax.random.key(0))
    found = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), *arguments)
    assert {leaf.dtype for leaf in leaves(found)} == {jnp.dtype("float32")}
    dtypes = [
        (e.primitive.name, str(v.aval.dtype)) for e in equations(loss, *arguments) for v in e.invars
    ]
    assert "bfloat16" in {dtype for _, dtype in dtypes}
    assert {dtype for name, dtype in dtypes if name == "reduce_sum"} == {"float32"}


def equations(function, *arguments):
    """All primitive operations of a function, with those of the functions that it calls."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_CLASSIFIERS)
def test_features_of_classifiers_are_the_input_of_the_head(name):
    model, variables, images = prepared(name)
    features = jax.jit(lambda images: zoo.features(model, variables, images))(images)
    head = variables["params"]["head"]
    logits = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, outputs(name), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_AUTOENCODERS)
def test_features_of_autoencoders_are_the_latents_in_evaluation(name):
    model, variables, images = prepared(name)
    latent = outputs(name)["latent"]
    features = jax.jit(lambda images: zoo.features(model, variables, images))(images)
    np.testing.assert_allclose(features, latent.reshape(features.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_evaluation_is_independent_of_batch_order(name):
    _, _, images = prepared(name)
    reversed_outputs, _ = evaluation(name)(images[::-1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[::-1], b, rtol=1e-5, atol=1e-6),
        outputs(name),
        reversed_outputs,
    )
