"""Every objective: per-example outputs, finite at extremes, and lower after a few steps."""

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
    objectives_of,
)
from train.recipe import InputError, Stage
from zoo import variational
from zoo.vade import with_mixture

CASES = [
    ("classification", "resnet_tiny", ()),
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


def build(objective, model, **fields):
    """The objective of a model, as a stage of these fields asks for it."""
    return OBJECTIVES[objective].build(model, Stage(objective=objective, **fields))


@functools.cache
def prepared(objective, name, options):
    model = zoo.create_model(name, 3, **dict(options))
    x = jax.random.uniform(jax.random.key(1), (6, *zoo.get_entry(name).input_shape))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return build(objective, model), variables, {"image": x, "label": jnp.arange(6) % 3}


def test_recipes_and_models_know_the_same_objectives():
    """The flag's help names them all, the recipes use no other, and there are models for each."""
    (described,) = re.findall(r"What is minimised: ([^.]*)", inspect.getsource(Stage))
    words = set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", described)))
    assert words - {"or", "an", "objective", "of", "another", "package"} == set(OBJECTIVES)
    used = {stage.objective for made in recipes.RECIPES.values() for stage in made.stages}
    assert used <= set(OBJECTIVES) and Stage().objective in OBJECTIVES
    registered = {zoo.get_entry(name).objective for name in zoo.list_models()}
    assert registered == set(OBJECTIVES)
    assert frozenset.union(*(entry.trains for entry in OBJECTIVES.values())) == registered


def test_objectives_by_name_and_by_model():
    assert get_objective("vade") is OBJECTIVES["vade"]
    with pytest.raises(InputError, match="unknown objective 'vad': did you mean vade"):
        get_objective("vad")
    assert objectives_of("classification") == ["classification"]
    assert objectives_of("vade") == ["autoencoder", "vade"]


def test_a_stage_says_how_smooth_the_targets_are():
    batch = {"image": np.eye(3, dtype=np.float32)[:2] * 3, "label": np.array([0, 2])}

    class Identity(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return x

    for smoothing in (0.0, 0.2):
        asked = build("classification", Identity(), label_smoothing=smoothing)
        made = classification(Identity(), smoothing)
        key = jax.random.key(0)
        assert asked.loss({}, {}, batch, key)[0] == made.loss({}, {}, batch, key)[0]


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 3), theirs, rtol=1e-6)
    assert np.mean(theirs[labels]) == pytest.approx(1)
    # A class without examples changes nothing for the others.
    np.testing.assert_allclose(balanced_weights(labels, 4), [*theirs, 0], rtol=1e-6)


def test_weighted_loss_and_its_gradient_are_those_of_keras():
    """One step of SGD on a batch in which classes are unequal, with class_weight."""
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
    # The metric is what is minimised: the sum of the weighted losses over the number of examples.
    losses = optax.softmax_cross_entropy_with_integer_labels(x @ kernel, labels)
    expected = float(np.sum(weights[labels] * losses) / 8)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_smoothed_loss_is_that_of_keras():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5)).astype("f"), rng.integers(0, 5, 6)

    class Identity(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return x

    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = float(theirs(np.eye(5, dtype="f")[labels], logits))
    batch = {"image": logits, "label": labels}
    for smoothing, matches in ((0.1, True), (0.0, False)):
        goal = classification(Identity(), smoothing)
        value, (_, metrics) = goal.loss({}, {}, batch, jax.random.key(0))
        assert (abs(float(value) - expected) < 1e-6) == matches
        assert float(metrics["accuracy"]) == np.mean(logits.argmax(1) == labels)


@pytest.mark.parametrize(("objective", "name", "options"), CASES)
def test_a_few_steps_lower_the_loss(objective, name, options):
    goal, variables, batch = prepared(objective, name, options)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, batch_stats, opt_state, key):
        gradient = jax.grad(goal.loss, has_aux=True)
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
    assert min(losses) > 0  # so is every loss here; with its sign turned it would fall, too


@pytest.mark.parametrize(("objective", "name", "options"), UNSUPERVISED)
def test_outputs_are_per_example_and_pure(objective, name, options):
    goal, variables, batch = prepared(objective, name, options)
    outputs = goal.outputs(variables, {"image": batch["image"]})
    wanted = {"latent", "loss"} | ({"cluster_log_probabilities"} & outputs.keys())
    if objective in ("vade", "gmvae"):
        wanted |= {"cluster_log_probabilities"}
    assert outputs.keys() == wanted
    assert outputs["loss"].shape == (6,)
    assert np.all(outputs["loss"] > 0)
    assert outputs["latent"].shape[0] == 6
    assert outputs["latent"].ndim == 2
    alone = goal.outputs(variables, {"image": batch["image"][2:3]})
    for key in wanted:
        np.testing.assert_allclose(alone[key][0], outputs[key][2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("objective", "name", "options"), UNSUPERVISED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_extreme_inputs_give_finite_losses_and_gradients(objective, name, options, dtype):
    _, variables, batch = prepared(objective, name, options)
    goal = build(objective, zoo.create_model(name, 3, **dict(options), dtype=dtype))
    gradient = jax.jit(jax.value_and_grad(goal.loss, has_aux=True))
    for scale in (0.0, 1e4, -1e4):
        inputs = {"image": jnp.full_like(batch["image"], scale).at[0].multiply(-1.0)}
        (loss, _), grads = gradient(variables["params"], {}, inputs, jax.random.key(0))
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_extreme_mixtures_give_finite_losses_and_gradients():
    goal, variables, batch = prepared("vade", "vade_tiny", ())
    signs = jnp.array([1.0, -1.0, 0.0])
    mixture = {
        "logits": 1e4 * signs,
        "means": 1e4 * signs[:, None] * jnp.ones((3, 4)),
        "log_variances": -1e4 * signs[:, None] * jnp.ones((3, 4)),
    }
    params = {**variables["params"], "mixture": mixture}
    (loss, _), grads = jax.value_and_grad(goal.loss, has_aux=True)(
        params, {}, batch, jax.random.key(0)
    )
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


@pytest.mark.parametrize("name", ["vade_tiny", "gmvae_tiny"])
def test_the_models_likelihood_is_the_one_that_is_minimised(name):
    """The divergences do not depend on it, so two losses differ by what the likelihoods do."""
    objective = zoo.get_entry(name).objective
    losses, likelihoods = [], []
    for likelihood in variational.LIKELIHOODS:
        model = zoo.create_model(name, 3, likelihood=likelihood)
        _, variables, batch = prepared(objective, name, ())
        losses.append(build(objective, model).outputs(variables, batch)["loss"])
        y = model.apply(variables, batch["image"])["reconstruction"]
        likelihoods.append(variational.log_likelihood(batch["image"], y, likelihood))
    np.testing.assert_allclose(
        losses[0] - losses[1], likelihoods[1] - likelihoods[0], rtol=1e-4, atol=1e-4
    )
    assert np.all(np.abs(likelihoods[0] - likelihoods[1]) > 0.1)


def test_the_models_free_bits_are_the_ones_that_cost_nothing():
    _, variables, batch = prepared("gmvae", "gmvae_tiny", ())
    losses = [
        build("gmvae", zoo.create_model("gmvae_tiny", 3, free_bits=bits)).outputs(variables, batch)[
            "loss"
        ]
        for bits in (50.0, 60.0)
    ]
    np.testing.assert_allclose(losses[1] - losses[0], 10, rtol=1e-4)


def test_pretraining_leaves_the_mixture_alone():
    goal, variables, batch = prepared("autoencoder", "vade_tiny", ())
    grads, _ = jax.grad(goal.loss, has_aux=True)(variables["params"], {}, batch, jax.random.key(0))
    for part, tree in grads.items():
        still = part in ("mixture", "log_variance")
        assert all(bool(np.any(leaf != 0)) != still for leaf in jax.tree.leaves(tree)), part


def blobs(seed):
    """120 vectors around three centres, and whose centre it is."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    vectors = 2 * rng.normal(size=(3, 16))[labels] + rng.normal(size=(120, 16))
    return jnp.asarray(vectors, jnp.float32), labels


def fit(goal, params, x, steps):
    optimizer = optax.adam(3e-3)

    def step(carry, key):
        params, opt_state = carry
        grads, _ = jax.grad(goal.loss, has_aux=True)(params, {}, {"image": x}, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def run(params, keys):
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return {"params": run(params, jax.random.split(jax.random.key(0), steps))}


def matched_accuracy(goal, variables, x, labels):
    """By the best one-to-one matching of clusters and labels."""
    found = np.argmax(goal.outputs(variables, {"image": x})["cluster_log_probabilities"], axis=1)
    return max(np.mean(np.take(order, found) == labels) for order in permutations(range(3)))


@pytest.mark.slow
def test_vade_in_its_two_stages_finds_the_clusters():
    x, labels = blobs(2)
    model = zoo.create_model("vade_tiny", 3)
    params = jax.jit(model.init)(jax.random.key(2), x)["params"]
    pretrained = fit(build("autoencoder", model), params, x, 200)
    codes = np.asarray(zoo.features(model, pretrained, x))
    fitted = GaussianMixture(3, covariance_type="diag", random_state=0).fit(codes)
    variables = with_mixture(pretrained, fitted.weights_, fitted.means_, fitted.covariances_)
    goal = build("vade", model)
    started = goal.outputs(variables, {"image": x})
    np.testing.assert_allclose(
        np.exp(started["cluster_log_probabilities"]), fitted.predict_proba(codes), atol=1e-3
    )
    variables = fit(goal, variables["params"], x, 300)
    assert matched_accuracy(goal, variables, x, labels) > 0.95
    assert np.mean(goal.outputs(variables, {"image": x})["loss"]) < np.mean(started["loss"])


@pytest.mark.slow
def test_gmvae_finds_the_clusters():
    """With free bits; without them two of these three clusters merge, the paper's over-regularisation."""
    x, labels = blobs(2)
    model = zoo.create_model("gmvae_tiny", 3, free_bits=0.5)
    goal = build("gmvae", model)
    variables = fit(goal, jax.jit(model.init)(jax.random.key(2), x)["params"], x, 1000)
    assert matched_accuracy(goal, variables, x, labels) > 0.95
