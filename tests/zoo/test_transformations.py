"""A net is what Flax makes of it: JAX's transformations work on every classifier, in evaluation and in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import zoo

CLASSIFIERS = [n for n in zoo.list_models() if zoo.get_entry(n).objective == "classification"]
TINY = [name for name in CLASSIFIERS if name.endswith("_tiny")]


@functools.lru_cache
def abstract(name):
    """A net with its variables and a batch of one image, without numbers."""
    module = zoo.create_model(name)
    image = jax.ShapeDtypeStruct((1, *zoo.get_entry(name).input_shape), jnp.float32)
    return module, jax.eval_shape(module.init, jax.random.key(0), image), image


@functools.lru_cache
def concrete(name):
    """A net with its variables and four images."""
    module = zoo.create_model(name, num_classes=3)
    images = jax.random.normal(jax.random.key(1), (4, *zoo.get_entry(name).input_shape))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


def training_loss(module, variables, images):
    """Of a training step, batch statistics and dropout included."""
    logits, _ = module.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(2)},
    )
    return jnp.sum(jnp.tanh(logits))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_export_takes_any_number_of_images(name):
    """Traced and lowered for a batch size that is not known."""
    module, variables, image = abstract(name)
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *image.shape[1:]), image.dtype)
    exported = export.export(jax.jit(module.apply))(variables, images)
    (logits,) = exported.out_avals
    assert logits.shape == (batch, zoo.get_entry(name).num_classes)


@pytest.mark.parametrize("name", TINY)
def test_what_was_exported_computes_the_same(name):
    module, variables, images = concrete(name)
    (batch,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    exported = export.export(jax.jit(module.apply))(variables, shape)
    for count in (1, 4):
        expected = jax.jit(module.apply)(variables, images[:count])
        found = jax.jit(exported.call)(variables, images[:count])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_forward_mode_and_vmap_trace(name):
    module, variables, image = abstract(name)
    loss = functools.partial(training_loss, module)
    # Batch normalization of dense features would divide by the variance of one image: shapes only.
    value, slope = jax.eval_shape(lambda v, x: jax.jvp(loss, (v, x), (v, x)), variables, image)
    assert value.shape == slope.shape == ()
    images = jax.ShapeDtypeStruct((2, *image.shape), image.dtype)
    each = jax.eval_shape(jax.vmap(module.apply, in_axes=(None, 0)), variables, images)
    assert each.shape == (2, 1, zoo.get_entry(name).num_classes)


@pytest.mark.parametrize("name", TINY)
def test_forward_mode_is_the_gradient_along_a_direction(name):
    module, variables, images = concrete(name)
    direction = jax.random.normal(jax.random.key(3), images.shape)

    @jax.jit
    def slopes(images, direction):
        loss = functools.partial(training_loss, module, variables)
        _, forward = jax.jvp(loss, (images,), (direction,))
        return forward, jnp.vdot(jax.grad(loss)(images), direction)

    forward, backward = slopes(images, direction)
    np.testing.assert_allclose(forward, backward, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_vmap_over_images_is_the_batch(name):
    module, variables, images = concrete(name)
    one = functools.partial(module.apply, variables)
    each = jax.jit(jax.vmap(lambda image: one(image[None])[0]))(images)
    np.testing.assert_allclose(each, jax.jit(one)(images), rtol=1e-4, atol=1e-5)
