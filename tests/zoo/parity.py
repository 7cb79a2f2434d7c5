"""Comparing a model of the zoo with its origin: the same random weights, one evaluation, one training step.

A training step is described by plain dicts of NumPy arrays under our own names ("layer1/0/conv1/conv/kernel"):
the loss, the gradient of every parameter, and every batch-norm statistic after the step.

Steps are compared in float64. In float32 two correct programs may differ by percents: of a million numbers
that enter a ReLU some lie so near zero that rounding decides their sign, and a gradient that sums over few
positions jumps by a whole term. In float64 no such number is met, and 1e-4 is a strict bound.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from unittest import mock

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class Step:
    """One training step; the arrays are under our names, without their collection."""

    loss: float
    gradients: Arrays
    statistics: Arrays


def flatten(tree: Mapping) -> Arrays:
    return {
        k: np.asarray(v) for k, v in flax.traverse_util.flatten_dict(dict(tree), sep="/").items()
    }


def flatten_shapes(tree: Mapping) -> dict[str, tuple[int, ...]]:
    return {k: v.shape for k, v in flax.traverse_util.flatten_dict(dict(tree), sep="/").items()}


def unflatten(flat: Mapping[str, np.ndarray]) -> dict:
    return flax.traverse_util.unflatten_dict(dict(flat), sep="/")


def random_array(name: str, shape: tuple[int, ...], fan_in: int, rng: np.random.Generator):
    """Weights that keep activations moderate through any depth; statistics far from their defaults."""
    if name in ("kernel", "weight") and len(shape) > 1:
        values = rng.normal(size=shape) * np.sqrt(2 / fan_in)
    elif name in (
        "gamma",
        "weight",
    ):  # under one: fifty layers of residual sums stay within float32
        values = rng.uniform(0.3, 0.8, shape)
    elif name in ("moving_variance", "running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(size=shape) * 0.1
    return values.astype(np.float32)


# A step compiles in half the time without LLVM's optimisations; what it computes is the same.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def zoo_logits(model: nn.Module, variables: Mapping, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)(variables, images))


def zoo_step(model: nn.Module, variables: Mapping, images: np.ndarray, labels: np.ndarray) -> Step:
    """A step of ours; the model must have no dropout."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(variables):
        def loss_fn(params):
            logits, updated = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, labels), updated.get("batch_stats", {})

        return jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])

    (loss, statistics), gradients = step(variables)
    return Step(float(loss), flatten(gradients), flatten(statistics))


def gradient_error(ours: Step, theirs: Step) -> float:
    """The length of the difference of all gradients together over that of theirs: what float32 leaves comparable."""
    differences = [ours.gradients[name] - theirs.gradients[name] for name in theirs.gradients]
    return _length(differences) / _length(theirs.gradients.values())


def _length(arrays: Iterable[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays))


def cross_entropy(logits: jax.Array, labels: np.ndarray) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()


def relative_error(ours: np.ndarray, theirs: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference over the largest number of theirs, or over `floor` where that is larger."""
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), floor))


def step_errors(ours: Step, theirs: Step) -> dict[str, float]:
    """The worst relative error of the loss, of any gradient and of any statistic.

    A bias in front of batch normalisation has a gradient of zero, of which only rounding is left: an array
    is never measured on a scale below a thousandth of the largest gradient.
    """
    assert set(ours.gradients) == set(theirs.gradients)
    assert set(ours.statistics) == set(theirs.statistics)
    floor = 1e-3 * max(float(np.max(np.abs(g))) for g in theirs.gradients.values())
    return {
        "loss": abs(ours.loss - theirs.loss) / abs(theirs.loss),
        "gradients": max(
            relative_error(ours.gradients[name], theirs.gradients[name], floor)
            for name in theirs.gradients
        ),
        "statistics": max(
            (
                relative_error(ours.statistics[name], theirs.statistics[name])
                for name in theirs.statistics
            ),
            default=0.0,
        ),
    }


# Keras. Each function turns a layer's name into the path of our module.


def vgg_path(layer: str) -> str:
    layer = re.sub(r"^block(\d)_conv(\d)$", r"block\1/conv\2/conv", layer)
    return {"fc1": "top/fc1", "fc2": "top/fc2", "predictions": "head"}.get(layer, layer)


def resnet_path(layer: str) -> str:
    if layer == "predictions":
        return "head"
    kind = {"conv": "conv", "bn": "norm"}[layer.rpartition("_")[2]]
    if layer.startswith("conv1_"):
        return f"conv1/{kind}"
    stage, block, index = re.match(r"conv(\d)_block(\d+)_(\d)_", layer).groups()
    part = "downsample" if index == "0" else f"conv{index}"
    return f"layer{int(stage) - 1}/{int(block) - 1}/{part}/{kind}"


def mobilenet_path(layer: str) -> str:
    ends = {
        "Conv1": "features/0/conv",
        "bn_Conv1": "features/0/norm",
        "Conv_1": "features/18/conv",
        "Conv_1_bn": "features/18/norm",
        "predictions": "head",
    }
    if layer in ends:
        return ends[layer]
    layer = layer.replace("expanded_conv_", "block_0_")
    index, part, norm = re.match(r"block_(\d+)_(expand|depthwise|project)(_BN)?$", layer).groups()
    return f"features/{int(index) + 1}/{part}/{'norm' if norm else 'conv'}"


# The suite forbids adding [10] to [2, 10] without saying so; Keras's layers do it.
KERAS_MAY_BROADCAST = functools.partial(jax.numpy_rank_promotion, "allow")

KERAS_LEAVES = {
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def from_keras(arrays: Mapping[str, np.ndarray], path: Callable[[str], str]) -> Arrays:
    """Keras's variables, named "layer/variable", under our names and in our layout."""
    renamed = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition("/")
        if layer.endswith("depthwise") and variable == "kernel":
            array = np.swapaxes(array, 2, 3)  # [kh, kw, C, 1] to [kh, kw, 1, C]
        renamed[f"{path(layer)}/{KERAS_LEAVES.get(variable, variable)}"] = np.asarray(array)
    return renamed


def keras_application(name: str, size: tuple[int, int], **options):
    """`keras.applications.<name>` for 10 classes, logits out, with random weights and statistics."""
    import keras

    def zeros(self, shape, dtype=None):
        return np.zeros(shape, dtype)  # Keras's own would be compiled once a shape: a minute in all

    with mock.patch.object(keras.initializers.GlorotUniform, "__call__", zeros):
        model = getattr(keras.applications, name)(
            weights=None,
            input_shape=(*size, 3),
            classes=10,
            classifier_activation=None,
            **options,
        )
    rng = np.random.default_rng(0)
    for variable in model.variables:
        shape = tuple(variable.shape)
        depthwise = "depthwise/" in variable.path
        fan_in = int(np.prod(shape[:2])) if depthwise else int(np.prod(shape[:-1]))
        variable.assign(random_array(variable.name, shape, fan_in, rng))
    return model


def batch(size: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images [count, H, W, 3] in float32 and labels below 10."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(count, *size, 3)).astype(np.float32)
    return images, rng.integers(0, 10, count).astype(np.int32)


def keras_variables(model, path: Callable[[str], str]) -> dict:
    """A Keras model's weights as our variables."""
    trainable = from_keras({v.path: v.numpy() for v in model.trainable_variables}, path)
    moving = from_keras({v.path: v.numpy() for v in model.non_trainable_variables}, path)
    variables = {"params": unflatten(trainable)}
    return variables | ({"batch_stats": unflatten(moving)} if moving else {})


def keras_logits(model, images: np.ndarray) -> np.ndarray:
    @jax.jit
    def forward(trainable, fixed):
        return model.stateless_call(trainable, fixed, images, training=False)[0]

    with KERAS_MAY_BROADCAST():
        return np.asarray(forward(_values(model.trainable_variables), _moving(model)))


def keras_step(model, images: np.ndarray, labels: np.ndarray, path: Callable[[str], str]) -> Step:
    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(trainable, moving):
        def loss_fn(trainable):
            logits, moved = model.stateless_call(trainable, moving, images, training=True)
            return cross_entropy(logits, labels), moved

        return jax.value_and_grad(loss_fn, has_aux=True)(trainable)

    with KERAS_MAY_BROADCAST():
        (loss, moved), gradients = step(_values(model.trainable_variables), _moving(model))
    names = [v.path for v in model.trainable_variables]
    moving_names = [v.path for v in model.non_trainable_variables]
    return Step(
        float(loss),
        from_keras(dict(zip(names, map(np.asarray, gradients), strict=True)), path),
        from_keras(dict(zip(moving_names, map(np.asarray, moved), strict=True)), path),
    )


def _values(variables) -> list:
    return [v.value for v in variables]


def _moving(model) -> list:
    return _values(model.non_trainable_variables)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """JAX and Keras compute in float64 inside: build the Keras model there.

    On the JAX backend Keras promotes every float64 to float32 by a table, which is turned off too.
    """
    import keras
    from keras.src.backend.common import dtypes

    with jax.enable_x64(True), mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, float64="float64"):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            yield
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")


def assert_logits_equal_keras(
    ours: nn.Module, application: str, path: Callable[[str], str], size: tuple[int, int], **options
) -> None:
    """A model of ours for 10 classes in Keras's dialect, and an application with the same random weights."""
    theirs = keras_application(application, size, **options)
    images, _ = batch(size, 2)
    logits = keras_logits(theirs, images)
    assert 0.1 < np.max(np.abs(logits)) < 100
    variables = keras_variables(theirs, path)
    np.testing.assert_allclose(zoo_logits(ours, variables, images), logits, rtol=1e-4, atol=1e-4)


def assert_step_equals_keras(
    ours: nn.Module, application: str, path: Callable[[str], str], size: tuple[int, int], **options
) -> None:
    """The same for one training step in float64; the model of ours has no dropout."""
    images, labels = batch(size, 2)
    with float64():
        theirs = keras_application(application, size, **options)
        errors = step_errors(
            zoo_step(ours.clone(dtype="float64"), keras_variables(theirs, path), images, labels),
            keras_step(theirs, images, labels, path),
        )
    assert max(errors.values()) < 1e-4, errors
