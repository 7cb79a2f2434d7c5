"""Using the nets in NNX through Flax's bridge."""

import flax.traverse_util
import jax
import numpy as np
import pytest
from flax import nnx

import zoo


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "sam_alexnet_tiny",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("mobilenet_v2_tiny", "vgg_tiny")),
    ],
)
def test_nnx_bridge_computes_the_same_and_has_gradients(name):
    model = zoo.create_model(name, 5)
    images = jax.random.uniform(jax.random.key(1), (2, *zoo.get_entry(name).input_shape))

    @nnx.jit
    def initialized():
        return nnx.bridge.ToNNX(model, rngs=nnx.Rngs(params=0, dropout=1)).lazy_init(images)

    bridged = initialized()

    def collection(kind):
        flat = nnx.to_flat_state(nnx.state(bridged, kind))
        return flax.traverse_util.unflatten_dict({path: leaf[...] for path, leaf in flat})

    variables = {"params": collection(nnx.Param), "batch_stats": collection(nnx.BatchStat)}
    expected = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, variables["params"]) == jax.tree.map(np.shape, expected["params"])
    logits = nnx.jit(lambda bridged: bridged(images))(bridged)
    np.testing.assert_allclose(
        logits, jax.jit(model.apply)(variables, images), rtol=1e-5, atol=1e-6
    )
    # Trained like an NNX model: gradients of its state, batch statistics updated in place.
    graph, params, rest = nnx.split(bridged, nnx.Param, ...)

    def loss(params):
        return (
            nnx.merge(graph, params, rest, copy=True)(images, train=True, mutable=["batch_stats"])
            ** 2
        ).sum()

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    assert len(gradients) == len(jax.tree.leaves(expected["params"]))
    assert all(np.isfinite(g).all() and g.any() for g in gradients)
