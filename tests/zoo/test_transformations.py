"""JAX transformations (export, jvp, vmap) of every classifier, in evaluation and in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import zoo

CLASSIFIERS = [n for n in zoo.list_models() if zoo.get_entry(n).objective == "classification"]
TINY = [name for name in CLASSIFIERS if name.endswith("_tiny")]


def long_but(names, short):
    """The names, all marked as long but `short`."""
    return [n if n in short else pytest.param(n, marks=pytest.mark.long) for n in names]


# The tiny nets and, of what they do not have, factored layers, torchvision's AlexNet and the plain one for CIFAR-10.
TRACED = long_but(
    CLASSIFIERS, [*TINY, "deconv_alexnet_1_factored", "alexnet_torchvision", "cifar_alexnet_1"]
)
# Attention and Keras's normalization, depthwise layers and torch's normalization, neither.
COMPUTED = long_but(TINY, ["sam_alexnet_tiny", "mobilenet_v2_tiny", "vgg_tiny"])


@functools.lru_cache
def abstract(name):
    """A net, and the shapes of its variables and of a batch of one image."""
    module = zoo.create_model(name)
    image = jax.ShapeDtypeStruct((1, *zoo.get_entry(name).input_shape), jnp.float32)
    return module, jax.eval_shape(module.init, jax.random.key(0), image), image


@functools.lru_cache
def concrete(name):
    """A net, its variables, and four images."""
    module = zoo.create_model(name, num_classes=3)
    images = jax.random.normal(jax.random.key(1), (4, *zoo.get_entry(name).input_shape))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


@functools.lru_cache
def batch_logits(name):
    module, variables, images = concrete(name)
    return jax.jit(module.apply)(variables, images)


def training_loss(module, variables, images):
    """A training loss with batch statistics and dropout."""
    logits, _ = module.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(2)},
    )
    return jnp.sum(jnp.tanh(logits))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_export_with_a_symbolic_batch_size(name):
    module, variables, image = abstract(name)
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *image.shape[1:]), image.dtype)
    exported = export.export(jax.jit(module.apply))(variables, images)
    (logits,) = exported.out_avals
    assert logits.shape == (batch, zoo.get_entry(name).num_classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_exported_model_computes_the_same(name):
    module, variables, images = concrete(name)
    (batch,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    exported = export.export(jax.jit(module.apply))(variables, shape)
    for count in (1, 4):
        actual = jax.jit(exported.call)(variables, images[:count])
        np.testing.assert_allclose(actual, batch_logits(name)[:count], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_forward_mode_and_vmap_can_be_traced(name):
    module, variables, image = abstract(name)
    loss = functools.partial(training_loss, module)
    # Shapes only: with one image, batch normalization would divide by a variance of zero.
    value, tangent = jax.eval_shape(lambda v, x: jax.jvp(loss, (v, x), (v, x)), variables, image)
    assert value.shape == tangent.shape == ()
    images = jax.ShapeDtypeStruct((2, *image.shape), image.dtype)
    mapped = jax.eval_shape(jax.vmap(module.apply, in_axes=(None, 0)), variables, images)
    assert mapped.shape == (2, 1, zoo.get_entry(name).num_classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_forward_mode_equals_the_directional_derivative_of_reverse_mode(name):
    module, variables, images = concrete(name)
    direction = jax.random.normal(jax.random.key(3), images.shape)

    @jax.jit
    def directional_derivatives(images, direction):
        loss = functools.partial(training_loss, module, variables)
        _, forward = jax.jvp(loss, (images,), (direction,))
        return forward, jnp.vdot(jax.grad(loss)(images), direction)

    forward, reverse = directional_derivatives(images, direction)
    np.testing.assert_allclose(forward, reverse, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_vmap_over_images_equals_the_batch(name):
    module, variables, images = concrete(name)
    apply = functools.partial(module.apply, variables)
    mapped = jax.jit(jax.vmap(lambda image: apply(image[None])[0]))(images)
    np.testing.assert_allclose(mapped, batch_logits(name), rtol=1e-4, atol=1e-5)
