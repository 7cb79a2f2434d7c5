"""Every objective: per-sample outputs, finite losses for extreme inputs, and a loss that falls in training."""

import functools
import inspect
import re
from itertools import permutations

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from sklearn.mixture import GaussianMixture
from sklearn.utils.class_weight import compute_class_weight

import zoo
from train import recipes
from train.engine.objectives import (
    OBJECTIVES,
    balanced_weights,
    classification,
    get_objective,
    objectives_for,
)
from train.recipe import InputError, Stage
from zoo import variational
from zoo.vade import with_mixture

CASES = [
    ("classification", "deconv_alexnet_tiny", ()),
    ("autoencoder", "conv_autoencoder_tiny", ()),
    ("autoencoder", "conv_autoencoder_tiny", (("bottleneck", None),)),
    ("autoencoder", "vade_tiny", ()),
    ("autoencoder", "gmvae_tiny", (("likelihood", "bernoulli"),)),
    ("vade", "vade_tiny", ()),
    ("vade", "vade_tiny", (("likelihood", "bernoulli"),)),
    ("gmvae", "gmvae_tiny", ()),
    ("gmvae", "gmvae_tiny", (("likelihood", "bernoulli"), ("free_bits", 0.3))),
]
UNSUPERVISED = CASES[1:]
# One net per objective, each option in one of them; the other cases are long tests.
SHORT = (CASES[0], CASES[2], CASES[6], CASES[8])


def with_long(cases):
    """The cases, those that are not in `SHORT` as long tests."""
    return [pytest.param(*c, marks=() if c in SHORT else pytest.mark.long) for c in cases]


def build(objective, model, **fields):
    """The objective of a model, built for a stage with these fields."""
    return OBJECTIVES[objective].build(model, Stage(objective=objective, **fields))


@functools.cache
def prepared(objective, name, options):
    model = zoo.create_model(name, 3, **dict(options))
    x = jax.random.uniform(jax.random.key(1), (6, *zoo.get_entry(name).input_shape))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return build(objective, model), variables, {"image": x, "label": jnp.arange(6) % 3}


def test_objectives_of_flag_help_recipes_and_models_agree():
    """The help of the flag names all of them, recipes use no others, and each has models."""
    (described,) = re.findall(r"Training loss: ([^.]*)", inspect.getsource(Stage))
    words = set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", described)))
    assert words - {"or", "an", "objective", "from", "another", "package"} == set(OBJECTIVES)
    used = {stage.objective for made in recipes.RECIPES.values() for stage in made.stages}
    assert used <= set(OBJECTIVES) and Stage().objective in OBJECTIVES
    registered = {zoo.get_entry(name).objective for name in zoo.list_models()}
    assert registered == set(OBJECTIVES)
    assert frozenset.union(*(entry.trains for entry in OBJECTIVES.values())) == registered


def test_lookup_by_name_and_by_model():
    assert get_objective("vade") is OBJECTIVES["vade"]
    with pytest.raises(InputError, match="unknown objective 'vad': did you mean vade"):
        get_objective("vad")
    assert objectives_for("classification") == ["classification"]
    assert objectives_for("vade") == ["autoencoder", "vade"]


@pytest.mark.slow
def test_label_smoothing_comes_from_the_stage():
    batch = {"image": np.eye(3, dtype=np.float32)[:2] * 3, "label": np.array([0, 2])}

    class Identity(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return x

    for smoothing in (0.0, 0.2):
        of_stage = build("classification", Identity(), label_smoothing=smoothing)
        expected = classification(Identity(), smoothing)
        key = jax.random.key(0)
        assert of_stage.loss({}, {}, batch, key)[0] == expected.loss({}, {}, batch, key)[0]


def test_balanced_weights_equal_scikit_learn():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 3), expected, rtol=1e-6)
    assert np.mean(expected[labels]) == pytest.approx(1)
    # A class without samples does not change the weights of the others.
    np.testing.assert_allclose(balanced_weights(labels, 4), [*expected, 0], rtol=1e-6)


@pytest.mark.slow
def test_weighted_loss_and_gradient_equal_keras():
    """One step of SGD with class_weight on a batch with unequal classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 5)).astype(np.float32)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2], np.int32)
    weights = np.array([0.5, 2.0, 3.0], np.float32)  # their mean over the batch is not 1
    keras.utils.set_random_seed(0)
    with jax.numpy_rank_promotion("allow"):  # Keras does
        net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        kernel = net.get_weights()[0]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.SGD(0.5), loss)
        net.train_on_batch(x, labels, class_weight=dict(enumerate(weights.tolist())))

    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(3, name="head")(x)

    params = {"head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)}}
    batch = {"image": x, "label": labels, "weight": weights[labels]}
    gradient = jax.grad(classification(Dense()).loss, has_aux=True)
    grads, (_, metrics) = gradient(params, {}, batch, jax.random.key(0))
    updated = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)["head"]
    np.testing.assert_allclose(updated["kernel"], net.get_weights()[0], atol=1e-6)
    np.testing.assert_allclose(updated["bias"], net.get_weights()[1], atol=1e-6)
    assert np.abs(updated["kernel"] - kernel).max() > 0.1
    # The metric is the minimized loss: the sum of the weighted losses divided by the number of samples.
    losses = optax.softmax_cross_entropy_with_integer_labels(x @ kernel, labels)
    expected = float(np.sum(weights[labels] * losses) / 8)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_smoothed_loss_equals_keras():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5)).astype("f"), rng.integers(0, 5, 6)

    class Identity(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return x

    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = float(keras_loss(np.eye(5, dtype="f")[labels], logits))
    batch = {"image": logits, "label": labels}
    for smoothing, matches in ((0.1, True), (0.0, False)):
        objective = classification(Identity(), smoothing)
        value, (_, metrics) = objective.loss({}, {}, batch, jax.random.key(0))
        assert (abs(float(value) - expected) < 1e-6) == matches
        assert float(metrics["accuracy"]) == np.mean(logits.argmax(1) == labels)


@pytest.mark.slow
@pytest.mark.parametrize(("objective_name", "name", "options"), with_long(CASES))
def test_training_reduces_the_loss(objective_name, name, options):
    objective, variables, batch = prepared(objective_name, name, options)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, batch_stats, opt_state, key):
        gradient = jax.grad(objective.loss, has_aux=True)
        grads, (batch_stats, metrics) = gradient(params, batch_stats, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), batch_stats, opt_state, metrics

    params, batch_stats = variables["params"], variables["batch_stats"]
    opt_state = optimizer.init(params)
    losses = []
    for key in jax.random.split(jax.random.key(2), 30):
        params, batch_stats, opt_state, metrics = step(params, batch_stats, opt_state, key)
        assert all(np.shape(value) == () for value in metrics.values())
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])
    assert min(losses) > 0  # a loss of the wrong sign would fall too


@pytest.mark.slow
@pytest.mark.parametrize(("objective_name", "name", "options"), with_long(UNSUPERVISED))
def test_outputs_are_per_sample_and_independent_of_the_batch(objective_name, name, options):
    objective, variables, batch = prepared(objective_name, name, options)
    compiled = jax.jit(objective.outputs)
    outputs = compiled(variables, {"image": batch["image"]})
    expected = {"latent", "loss"}
    if objective_name in ("vade", "gmvae"):
        expected |= {"cluster_log_probabilities"}
    assert outputs.keys() == expected
    assert outputs["loss"].shape == (6,)
    assert np.all(outputs["loss"] > 0)
    assert outputs["latent"].shape[0] == 6
    assert outputs["latent"].ndim == 2
    alone = compiled(variables, {"image": batch["image"][2:3]})
    for key in expected:
        np.testing.assert_allclose(alone[key][0], outputs[key][2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective_name", "name", "options", "dtype"),
    [
        *((*case, "float32") for case in UNSUPERVISED),
        (*CASES[5], "bfloat16"),
        (*CASES[8], "bfloat16"),
        *(
            pytest.param(*case, "bfloat16", marks=pytest.mark.long)
            for case in UNSUPERVISED
            if case not in (CASES[5], CASES[8])
        ),
    ],
)
def test_extreme_inputs_give_finite_losses_and_gradients(objective_name, name, options, dtype):
    _, variables, batch = prepared(objective_name, name, options)
    objective = build(objective_name, zoo.create_model(name, 3, **dict(options), dtype=dtype))
    gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    for scale in (0.0, 1e4, -1e4):
        inputs = {"image": jnp.full_like(batch["image"], scale).at[0].multiply(-1.0)}
        (loss, _), grads = gradient(variables["params"], {}, inputs, jax.random.key(0))
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
def test_extreme_mixtures_give_finite_losses_and_gradients():
    objective, variables, batch = prepared("vade", "vade_tiny", ())
    signs = jnp.array([1.0, -1.0, 0.0])
    mixture = {
        "logits": 1e4 * signs,
        "means": 1e4 * signs[:, None] * jnp.ones((3, 4)),
        "log_variances": -1e4 * signs[:, None] * jnp.ones((3, 4)),
    }
    params = {**variables["params"], "mixture": mixture}
    gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (loss, _), grads = gradient(params, {}, batch, jax.random.key(0))
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("likelihood", variational.LIKELIHOODS)
def test_reconstruction_error_by_hand(likelihood):
    x, y = np.array([[0.0, 1.0], [0.25, 0.5]]), np.array([[1.0, 3.0], [-2.0, 0.0]])
    p = 1 / (1 + np.exp(-y))
    naive = (
        (x - y) ** 2 if likelihood == "gaussian" else -x * np.log(p) - (1 - x) * np.log(1 - p)
    ).mean(axis=1)
    found = variational.reconstruction_error(jnp.asarray(x), jnp.asarray(y), likelihood)
    np.testing.assert_allclose(found, naive, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vade_tiny", "gmvae_tiny"])
def test_loss_uses_the_models_likelihood(name):
    """The KL divergences do not depend on it, so two losses differ by as much as the log-likelihoods."""
    objective = zoo.get_entry(name).objective
    losses, likelihoods = [], []
    for likelihood in variational.LIKELIHOODS:
        model = zoo.create_model(name, 3, likelihood=likelihood)
        _, variables, batch = prepared(objective, name, ())
        losses.append(jax.jit(build(objective, model).outputs)(variables, batch)["loss"])
        y = jax.jit(model.apply)(variables, batch["image"])["reconstruction"]
        likelihoods.append(variational.log_likelihood(batch["image"], y, likelihood))
    np.testing.assert_allclose(
        losses[0] - losses[1], likelihoods[1] - likelihoods[0], rtol=1e-4, atol=1e-4
    )
    assert np.all(np.abs(likelihoods[0] - likelihoods[1]) > 0.1)


@pytest.mark.slow
def test_loss_uses_the_models_free_bits():
    _, variables, batch = prepared("gmvae", "gmvae_tiny", ())
    losses = []
    for bits in (50.0, 60.0):
        objective = build("gmvae", zoo.create_model("gmvae_tiny", 3, free_bits=bits))
        losses.append(jax.jit(objective.outputs)(variables, batch)["loss"])
    np.testing.assert_allclose(losses[1] - losses[0], 10, rtol=1e-4)


@pytest.mark.slow
def test_pretraining_has_no_gradient_for_the_mixture():
    objective, variables, batch = prepared("autoencoder", "vade_tiny", ())
    gradient = jax.jit(jax.grad(objective.loss, has_aux=True))
    grads, _ = gradient(variables["params"], {}, batch, jax.random.key(0))
    for module, tree in grads.items():
        is_zero = module in ("mixture", "log_variance")
        assert all(bool(np.any(leaf != 0)) != is_zero for leaf in jax.tree.leaves(tree)), module


def blobs(seed):
    """120 vectors around three centers, and the index of each vector's center."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    vectors = 2 * rng.normal(size=(3, 16))[labels] + rng.normal(size=(120, 16))
    return jnp.asarray(vectors, jnp.float32), labels


def fit(objective, params, x, steps):
    optimizer = optax.adam(3e-3)

    def step(carry, key):
        params, opt_state = carry
        grads, _ = jax.grad(objective.loss, has_aux=True)(params, {}, {"image": x}, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def run(params, keys):
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return {"params": run(params, jax.random.split(jax.random.key(0), steps))}


def matched_accuracy(objective, variables, x, labels):
    """Accuracy of the best one-to-one matching of clusters to labels."""
    outputs = objective.outputs(variables, {"image": x})
    clusters = np.argmax(outputs["cluster_log_probabilities"], axis=1)
    return max(np.mean(np.take(order, clusters) == labels) for order in permutations(range(3)))


@pytest.mark.slow
def test_vade_finds_the_clusters_in_two_stages():
    x, labels = blobs(2)
    model = zoo.create_model("vade_tiny", 3)
    params = jax.jit(model.init)(jax.random.key(2), x)["params"]
    pretrained = fit(build("autoencoder", model), params, x, 200)
    latents = np.asarray(zoo.features(model, pretrained, x))
    mixture = GaussianMixture(3, covariance_type="diag", random_state=0).fit(latents)
    variables = with_mixture(pretrained, mixture.weights_, mixture.means_, mixture.covariances_)
    objective = build("vade", model)
    initial = objective.outputs(variables, {"image": x})
    np.testing.assert_allclose(
        np.exp(initial["cluster_log_probabilities"]), mixture.predict_proba(latents), atol=1e-3
    )
    variables = fit(objective, variables["params"], x, 300)
    assert matched_accuracy(objective, variables, x, labels) > 0.95
    assert np.mean(objective.outputs(variables, {"image": x})["loss"]) < np.mean(initial["loss"])


@pytest.mark.slow
def test_gmvae_finds_the_clusters():
    """With free bits; without them, two of the three clusters merge (over-regularization, as in the paper)."""
    x, labels = blobs(2)
    model = zoo.create_model("gmvae_tiny", 3, free_bits=0.5)
    objective = build("gmvae", model)
    variables = fit(objective, jax.jit(model.init)(jax.random.key(2), x)["params"], x, 1000)
    assert matched_accuracy(objective, variables, x, labels) > 0.95
