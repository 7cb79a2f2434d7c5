"""Autoencoders: the bounds of VaDE and GMVAE against NumPy, SciPy and integrals; extreme inputs; bottlenecks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import zoo
from zoo import gmvae, vade, variational
from zoo.conv_autoencoder import ConvAutoencoder, with_bottleneck

CLUSTERING = ["vade_tiny", "gmvae_tiny"]


def dense(*sizes):
    """Number of parameters of a stack of dense layers."""
    return sum((n + 1) * m for n, m in zip(sizes[:-1], sizes[1:], strict=True))


def conv(kernel, *channels):
    """Number of parameters of a stack of convolutions."""
    return sum((kernel**2 * n + 1) * m for n, m in zip(channels[:-1], channels[1:], strict=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "conv_autoencoder",
            conv(4, 3, 32, 64, 128)
            + dense(28 * 28 * 128, 128, 28 * 28 * 128)
            + conv(4, 128, 64, 32, 3),
        ),
        (
            "conv_autoencoder_deep",
            conv(4, 3, 32, 64, 128, 256, 256)
            + dense(7 * 7 * 256, 128, 7 * 7 * 256)
            + conv(4, 256, 256, 128, 64, 32, 3),
        ),
        (
            "conv_autoencoder_tiny",
            conv(4, 3, 8, 8, 16) + dense(4 * 4 * 16, 16, 4 * 4 * 16) + conv(4, 16, 8, 8, 3),
        ),
        (
            "vade",  # plus the second output of the encoder, and 3 clusters with 1 + 10 + 10 parameters
            dense(2048, 500, 500, 2000, 10, 2000, 500, 500, 2048) + dense(2000, 10) + 3 * 21,
        ),
        ("vade_tiny", dense(16, 16, 16, 24, 4, 24, 16, 16, 16) + dense(24, 4) + 3 * 9),
        (
            "gmvae",
            dense(2048, 500, 500, 2000, 10, 2000, 500, 500, 2048)
            + 3 * dense(2000, 10)
            + dense(10, 500)
            + 2 * dense(500, 3 * 10),
        ),
        (
            "gmvae_tiny",
            dense(16, 16, 16, 24, 4, 24, 16, 16, 16)
            + dense(24, 4)
            + 2 * dense(24, 3)
            + dense(3, 12)
            + 2 * dense(12, 3 * 4),
        ),
    ],
)
def test_parameter_counts(name, expected):
    assert zoo.model_info(name).parameters == expected


@functools.cache
def prepared(name, **options):
    model = zoo.create_model(name, **options)
    x = jax.random.uniform(jax.random.key(1), (4, *zoo.get_entry(name).input_shape))
    return model, jax.jit(model.init)(jax.random.key(0), x), x


# One latent dimension, two clusters, three features.
X = np.array([0.2, 0.9, 0.5])
DECODED = np.array([0.1, 1.3, -0.4])  # means, or logits
MEAN, VARIANCE = 0.7, 0.25
WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([1.0, -0.5]), np.array([0.5, 2.0])
POSTERIOR = np.array([0.8, 0.2])


def row(*values):
    return jnp.asarray(values, jnp.float32)[None]


def likelihoods(likelihood):
    """log p(x | z) of X, per element."""
    if likelihood == "gaussian":
        return norm.logpdf(X, DECODED, 1)
    p = 1 / (1 + np.exp(-DECODED))
    return X * np.log(p) + (1 - X) * np.log(1 - p)


def example():
    outputs = {
        "reconstruction": row(*DECODED),
        "mean": row(MEAN),
        "log_variance": jnp.log(row(VARIANCE)),
        "cluster_log_probabilities": jnp.log(row(*POSTERIOR)),
    }
    prior = vade.Mixture(
        jnp.log(row(*WEIGHTS))[0], row(*MEANS)[0][:, None], jnp.log(row(*VARIANCES))[0][:, None]
    )
    return outputs, prior


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", variational.LIKELIHOODS)
def test_vade_bound_is_equation_12(likelihood):
    """In the form of the paper: reconstruction, mixture, weights, entropy."""
    outputs, prior = example()
    expected = (
        likelihoods(likelihood).sum()
        - 0.5
        * np.sum(
            POSTERIOR * (np.log(VARIANCES) + VARIANCE / VARIANCES + (MEAN - MEANS) ** 2 / VARIANCES)
        )
        + np.sum(POSTERIOR * np.log(WEIGHTS / POSTERIOR))
        + 0.5 * (1 + np.log(VARIANCE))
    )
    found = vade.elbo(row(*X), outputs, prior, likelihood)
    np.testing.assert_allclose(found["elbo"], [expected], rtol=1e-5)
    weighted = vade.elbo(row(*X), outputs, prior, likelihood, 0.1)
    reconstruction = likelihoods(likelihood).sum()
    expected = reconstruction + 0.1 * (expected - reconstruction)
    np.testing.assert_allclose(weighted["elbo"], [expected], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("free_bits", [0.0, 0.1, 0.5])
def test_gmvae_bound_is_the_sum_of_its_terms(free_bits):
    outputs, prior = example()
    w_mean, w_variance = np.array([0.3, -1.2]), np.array([0.6, 1.5])
    outputs |= {
        "w_mean": row(*w_mean),
        "w_log_variance": jnp.log(row(*w_variance)),
        "component_means": prior.means[None],
        "component_log_variances": prior.log_variances[None],
    }
    kl_per_cluster = (
        0.5 * np.log(VARIANCES / VARIANCE)
        + (VARIANCE + (MEAN - MEANS) ** 2) / (2 * VARIANCES)
        - 0.5
    )
    cluster_kl = np.log(2) + np.sum(POSTERIOR * np.log(POSTERIOR))  # 0.19: above 0.1, below 0.5
    expected = {
        "log_likelihood": likelihoods("gaussian").sum(),
        "latent_kl": np.sum(POSTERIOR * kl_per_cluster),
        "w_kl": 0.5 * np.sum(w_mean**2 + w_variance - 1 - np.log(w_variance)),
        "cluster_kl": cluster_kl,
    }
    expected["elbo"] = (
        expected["log_likelihood"]
        - expected["latent_kl"]
        - expected["w_kl"]
        - max(free_bits, cluster_kl)
    )
    found = gmvae.elbo(row(*X), outputs, free_bits=free_bits)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [value], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_free_bits_remove_the_gradient_below_the_threshold():
    """The gradient of the y prior term is unchanged above the threshold and zero below."""
    model, variables, x = prepared("gmvae_tiny")
    outputs = jax.jit(model.apply)(variables, x)

    def gradient(free_bits):
        def value(log_posterior):
            found = outputs | {"cluster_log_probabilities": log_posterior}
            found |= {"component_means": 0 * found["component_means"] + found["mean"][:, None]}
            found |= {"component_log_variances": found["component_means"] * 0}
            return jnp.sum(gmvae.elbo(x, found, free_bits=free_bits)["elbo"])

        return jax.grad(value)(outputs["cluster_log_probabilities"])

    kl = gmvae.elbo(x, outputs)["cluster_kl"]
    assert np.all(kl > 0)
    # The other KL terms are equal for all clusters, so only the y prior depends on free_bits.
    np.testing.assert_array_equal(gradient(0.0), gradient(0.5 * float(kl.min())))
    assert np.all(np.any(gradient(0.0) != gradient(1.0), axis=1))


@pytest.mark.slow
def test_gaussian_kl_and_density_against_samples():
    """The closed form against the mean of log q - log p over samples."""
    rng = np.random.default_rng(0)
    mean, log_variance, prior_mean, prior_log_variance = rng.normal(size=(4, 3)).astype(np.float32)
    scale, prior_scale = np.exp(log_variance / 2), np.exp(prior_log_variance / 2)
    z = rng.normal(mean, scale, (200_000, 3))
    logs = norm.logpdf(z, mean, scale) - norm.logpdf(z, prior_mean, prior_scale)
    logs = logs.sum(axis=1)
    found = variational.gaussian_kl(mean, log_variance, prior_mean, prior_log_variance)
    assert abs(found - logs.mean()) < 4 * logs.std() / np.sqrt(len(z))
    assert logs.std() / np.sqrt(len(z)) < 0.01 * found  # the tolerance above is small

    density = variational.gaussian_log_density(
        jnp.asarray(z[:5], jnp.float32), mean[None], log_variance[None]
    )
    np.testing.assert_allclose(density, norm.logpdf(z[:5], mean, scale).sum(axis=1), rtol=1e-5)


@pytest.mark.slow
def test_samples_have_the_given_mean_and_variance():
    mean, log_variance = jnp.array([[1.0, -2.0]]), jnp.log(jnp.array([[0.25, 4.0]]))
    tiled = [jnp.tile(a, (100_000, 1)) for a in (mean, log_variance)]
    z = variational.sample_gaussian(jax.random.key(0), *tiled)
    np.testing.assert_allclose(z.mean(axis=0), mean[0], atol=0.03)
    np.testing.assert_allclose(z.var(axis=0), [0.25, 4.0], rtol=0.03)


GRID = np.linspace(-12, 12, 1201)
STEP = GRID[1] - GRID[0]


def log_integral(logs, axis=-1):
    return logsumexp(logs, axis=axis) + np.log(STEP)


@functools.cache
def narrow(name):
    """A model with one latent dimension and parameters away from their initial values."""
    options = {"latent_size": 1, "widths": (6,), "input_size": 3}
    if name == "gmvae_tiny":
        options["w_size"] = 1
    model = zoo.create_model(name, 2, **options)
    x = jax.random.normal(jax.random.key(1), (4, 3))

    @jax.jit
    def variables(key, noise):
        return jax.tree.map(
            lambda leaf: leaf + 0.3 * jax.random.normal(noise, leaf.shape), model.init(key, x)
        )

    return model, variables(jax.random.key(0), jax.random.key(2)), x


def exact_log_likelihoods(name, model, variables, x):
    """log p(x) by numerical integration over the latents."""
    decoded = np.asarray(model.apply(variables, row(*GRID).T, method="decode"), np.float64)
    given_z = norm.logpdf(np.asarray(x)[:, None], decoded[None], 1).sum(axis=2)  # [B, grid]
    if name == "vade_tiny":
        prior = model.apply(variables, method="prior")
        scale = np.exp(np.asarray(prior.log_variances) / 2)
        logs = np.asarray(prior.log_weights)[:, None] + norm.logpdf(GRID, prior.means, scale)
        log_prior = logsumexp(logs, axis=0)
    else:
        means, log_variances = model.apply(variables, row(*GRID).T, method="components")
        scale = np.exp(np.asarray(log_variances) / 2)
        logs = norm.logpdf(GRID[None, None], means, scale)  # [w, y, z]
        log_prior = logsumexp(logs, axis=1) - np.log(2)  # [w, z]
        log_prior = log_integral(log_prior + norm.logpdf(GRID)[:, None], axis=0)
    assert abs(log_integral(log_prior)) < 1e-3  # the grid covers p(z)
    return log_integral(given_z + log_prior[None])


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERING)
def test_bound_stays_below_the_log_likelihood(name):
    """After training, which closes the gap and would exploit any term that raises the bound above the log-likelihood.

    The log-likelihood is an integral. The bound is averaged over samples, since a single sample may exceed it.
    """
    model, variables, x = narrow(name)

    def bounds(params, key):
        outputs = model.apply({"params": params}, x, train=True, rngs={"sample": key})
        if name == "vade_tiny":
            return vade.elbo(x, outputs, model.apply({"params": params}, method="prior"))["elbo"]
        return gmvae.elbo(x, outputs)["elbo"]

    optimizer = optax.adam(1e-2)

    def step(carry, key):
        params, opt_state = carry
        grads = jax.grad(lambda p: -bounds(p, key).mean())(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def trained(params, keys):
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    params = trained(variables["params"], jax.random.split(jax.random.key(4), 200))
    keys = jax.random.split(jax.random.key(3), 4000)
    found = np.asarray(jax.jit(jax.vmap(bounds, (None, 0)))(params, keys))
    mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(len(found))
    exact = exact_log_likelihoods(name, model, {"params": params}, x)
    assert np.all(mean - 4 * error < exact)
    assert np.all(mean > exact - 0.5)  # and the gap is small with one latent dimension


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERING)
def test_bound_is_tight_if_the_posterior_is_the_prior(name):
    """If x does not depend on the latents and q equals the prior, the bound equals log p(x), constants included."""
    model, variables, x = narrow(name)
    params = dict(variables["params"])
    for part in params.keys() - {"encoder", "decoder", "prior_hidden", "mixture"}:
        params[part] = jax.tree.map(jnp.zeros_like, params[part])
    params["output"]["bias"] = jnp.array([0.5, -1.0, 2.0])
    if name == "vade_tiny":
        params["mixture"] = {"logits": jnp.array([0.4, -1.0])} | {
            part: jnp.zeros((2, 1)) for part in ("means", "log_variances")
        }
    outputs = model.apply({"params": params}, x, train=True, rngs={"sample": jax.random.key(0)})
    if name == "vade_tiny":
        prior = model.apply({"params": params}, method="prior")
        found = vade.elbo(x, outputs, prior)["elbo"]
    else:
        found = gmvae.elbo(x, outputs)["elbo"]
    exact = norm.logpdf(x, [[0.5, -1.0, 2.0]], 1).sum(axis=1)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.slow
def test_vade_posterior_is_bayes_rule():
    model, variables, x = narrow("vade_tiny")
    prior, outputs = model.apply(variables, method="prior"), model.apply(variables, x)
    joint = np.exp(prior.log_weights)[None] * norm.pdf(
        outputs["latent"], prior.means.T, np.exp(prior.log_variances.T / 2)
    )
    expected = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(outputs["cluster_log_probabilities"]), expected, rtol=1e-4)


@pytest.mark.slow
def test_gmvae_posterior_is_bayes_rule():
    model, variables, x = narrow("gmvae_tiny")
    outputs = model.apply(variables, x)
    joint = norm.pdf(
        outputs["latent"],
        outputs["component_means"][..., 0],
        np.exp(outputs["component_log_variances"][..., 0] / 2),
    )
    expected = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(outputs["cluster_log_probabilities"]), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, -1e4])
@pytest.mark.parametrize("name", CLUSTERING)
def test_posteriors_sum_to_one(name, scale):
    model, variables, x = prepared(name)
    log_probabilities = model.apply(variables, scale * x)["cluster_log_probabilities"]
    assert np.all(np.isfinite(log_probabilities))
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERING)
def test_latents_are_samples_in_training_and_means_in_evaluation(name):
    model, variables, x = prepared(name)
    outputs = model.apply(variables, x)
    np.testing.assert_array_equal(outputs["latent"], outputs["mean"])
    first, other, repeated = (
        model.apply(variables, x, train=True, rngs={"sample": jax.random.key(k)}) for k in (0, 1, 0)
    )
    np.testing.assert_array_equal(first["latent"], repeated["latent"])
    assert np.all(first["latent"] != other["latent"])
    np.testing.assert_array_equal(first["mean"], outputs["mean"])
    if "w" in outputs:
        np.testing.assert_array_equal(outputs["w"], outputs["w_mean"])
        assert np.all(first["w"] != other["w"])
        # z and w use different noise.
        z, w = (
            (first[k] - first[m]) / jnp.exp(first[v] / 2)
            for k, m, v in (("latent", "mean", "log_variance"), ("w", "w_mean", "w_log_variance"))
        )
        assert np.max(np.abs(z[:, : w.shape[1]] - w)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERING)
def test_encode_and_decode_agree_with_a_call(name):
    model, variables, x = prepared(name)
    outputs = model.apply(variables, x)
    encoded = model.apply(variables, x, method="encode")
    mean, log_variance = (
        encoded if isinstance(encoded, tuple) else (encoded["mean"], encoded["log_variance"])
    )
    np.testing.assert_array_equal(mean, outputs["mean"])
    np.testing.assert_array_equal(log_variance, outputs["log_variance"])
    decoded = model.apply(variables, mean, method="decode")
    np.testing.assert_array_equal(decoded, outputs["reconstruction"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERING)
def test_log_variances_are_clamped(name):
    model, variables, x = prepared(name)
    for sign in (-1, 1):
        extreme = jax.tree.map(lambda leaf, s=sign: s * 50 + leaf, variables)
        outputs = model.apply(extreme, x)
        values = [v for k, v in outputs.items() if k.endswith(("log_variance", "log_variances"))]
        if name == "vade_tiny":
            values.append(model.apply(extreme, method="prior").log_variances)
        for value in values:
            assert np.all((value >= -10) & (value <= 10))
            assert np.any(np.abs(value) == 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERING)
def test_invalid_options_and_shapes_are_rejected(name):
    with pytest.raises(zoo.InputError, match="at least one cluster"):
        zoo.create_model(name, 0).init(jax.random.key(0), jnp.zeros((1, 16)))
    with pytest.raises(zoo.InputError, match="unknown likelihood 'poisson'"):
        zoo.create_model(name, likelihood="poisson").init(jax.random.key(0), jnp.zeros((1, 16)))
    model, variables, _ = prepared(name)
    with pytest.raises(
        zoo.InputError, match=r"features of shape \(9,\) do not match input_size=16"
    ):
        model.apply(variables, jnp.zeros((2, 9)))


def test_fitted_mixture_becomes_the_prior():
    model, variables, _ = prepared("vade_tiny")
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.5, 0.0])
    means, variances = rng.normal(size=(3, 4)), rng.uniform(0.1, 3, (3, 4))
    variances[0, 0] = 1e-9  # below the minimum, exp(-10)
    fitted = vade.with_mixture(variables, weights, means, variances)
    prior = model.apply(fitted, method="prior")
    np.testing.assert_allclose(np.exp(prior.log_weights), weights, atol=1e-6)
    np.testing.assert_allclose(prior.means, means, rtol=1e-6)
    variances[0, 0] = np.exp(-10)
    np.testing.assert_allclose(np.exp(prior.log_variances), variances, rtol=1e-5)
    assert np.all(np.isfinite(prior.log_weights))
    for part in variables["params"].keys() - {"mixture"}:
        jax.tree.map(
            np.testing.assert_array_equal, fitted["params"][part], variables["params"][part]
        )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(fitted))


@pytest.mark.parametrize(
    ("weights", "means", "variances", "message"),
    [
        (
            np.ones(2),
            np.ones((3, 4)),
            np.ones((3, 4)),
            r"weights must be .* shape \(3,\), not \(2,\)",
        ),
        (
            np.ones(3),
            np.ones((3, 5)),
            np.ones((3, 4)),
            r"means must be .* shape \(3, 4\), not \(3, 5\)",
        ),
        (np.ones(3), np.ones((3, 4)), np.ones((3, 4, 4)), "variances must be .* not .3, 4, 4"),
        (np.ones(3), np.ones((3, 4)), np.full((3, 4), np.nan), "variances must be finite"),
        (np.ones(3), np.ones((3, 4)), np.zeros((3, 4)), "variances must be positive"),
        (-np.ones(3), np.ones((3, 4)), np.ones((3, 4)), "weights must not be negative"),
    ],
)
def test_invalid_mixtures_are_rejected(weights, means, variances, message):
    with pytest.raises(zoo.InputError, match=message):
        vade.with_mixture(prepared("vade_tiny")[1], weights, means, variances)


@functools.cache
def trained_pair():
    """A model with a bottleneck; the same model without, its variables, and images."""
    model = zoo.create_model("conv_autoencoder_tiny")
    plain = model.clone(bottleneck=None)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    return model, plain, jax.jit(plain.init)(jax.random.key(1), images), images


@pytest.mark.slow
def test_bottleneck_is_inserted_into_trained_convolutions():
    model, _, trained, images = trained_pair()
    assert trained["params"].keys() == {"encoder", "decoder"}
    inserted = with_bottleneck(trained, model, jax.random.key(2))
    assert inserted["params"].keys() == {"encoder", "decoder", "code", "expand"}
    for part in ("encoder", "decoder"):
        jax.tree.map(
            np.testing.assert_array_equal, inserted["params"][part], trained["params"][part]
        )
    other = with_bottleneck(trained, model, jax.random.key(3))
    kernels = [v["params"]["code"]["kernel"] for v in (inserted, other)]
    assert np.all(kernels[0] != kernels[1])
    assert model.apply(inserted, images)["latent"].shape == (2, 16)


@pytest.mark.slow
def test_identity_bottleneck_does_not_change_the_output():
    """With a code of the size of the feature map and identity kernels, both models compute the same function."""
    model, plain, trained, images = trained_pair()
    model = model.clone(bottleneck=4 * 4 * 16)
    params = with_bottleneck(trained, model, jax.random.key(2))["params"]
    params["code"]["kernel"] = params["expand"]["fc1"]["kernel"] = jnp.eye(256)
    actual, expected = model.apply({"params": params}, images), plain.apply(trained, images)
    np.testing.assert_allclose(actual["reconstruction"], expected["reconstruction"], atol=1e-6)
    np.testing.assert_allclose(actual["latent"], expected["latent"].reshape(2, -1), atol=1e-6)
    assert np.any(actual["reconstruction"] < 0)  # the last layer is linear


@pytest.mark.slow
def test_with_bottleneck_rejects_other_models():
    model, plain, trained, _ = trained_pair()
    with pytest.raises(zoo.InputError, match="has no bottleneck"):
        with_bottleneck(trained, plain, jax.random.key(0))
    with pytest.raises(zoo.InputError, match="the encoder of these variables does not fit"):
        with_bottleneck(trained, model.clone(widths=(8, 8, 8)), jax.random.key(0))


def test_autoencoder_rejects_images_of_another_size():
    model = zoo.create_model("conv_autoencoder_tiny")
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(
        zoo.InputError, match=r"\(24, 32, 3\) do not match input_shape=\(32, 32, 3\)"
    ):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 24, 32, 3)))
    odd = ConvAutoencoder(widths=(4, 4, 4), input_shape=(30, 32, 3))
    with pytest.raises(zoo.InputError, match="30x32 cannot be halved 3 times.*multiples of 8"):
        odd.init(jax.random.key(0), jnp.zeros((1, 30, 32, 3)))


def test_autoencoder_ignores_num_classes():
    shapes = [
        jax.eval_shape(zoo.create_model("conv_autoencoder_tiny", n).init, jax.random.key(0), image)
        for n in (0, 5)
        for image in [jnp.zeros((1, 32, 32, 3))]
    ]
    assert shapes[0] == shapes[1]


def test_decoder_mirrors_the_encoder():
    rows = {
        row.path: row
        for row in zoo.layer_table(zoo.create_model("conv_autoencoder_deep"), (224, 224, 3))
    }
    sizes = [rows[f"encoder/conv{k}"].output_shape for k in range(1, 6)]
    assert [size[0] for size in sizes] == [112, 56, 28, 14, 7]
    decoder_sizes = [rows[f"decoder/deconv{k}"].output_shape for k in range(1, 6)]
    assert decoder_sizes == [*sizes[-2::-1], (224, 224, 3)]
    # Mirrored layers have equal FLOPs: 2 x 16 per pair of channels and pixel of the smaller feature map.
    for k in range(1, 6):
        side, channels = sizes[k - 1][0], ([3, *(s[2] for s in sizes)])[k - 1 : k + 1]
        expected = 2 * 16 * math.prod(channels) * side**2
        assert rows[f"encoder/conv{k}"].flops == rows[f"decoder/deconv{6 - k}"].flops == expected
