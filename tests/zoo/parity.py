"""Comparison of models of the zoo with their origins: same random weights, one evaluation, one training step.

A training step is described by its loss, the gradient of every parameter, and every batch norm statistic after the
step, as dicts of NumPy arrays under the zoo's names ("layer1/0/conv1/conv/kernel").

Steps are compared in float64. In float32, two correct programs may differ by percents: among a million inputs of a
ReLU, some are so close to zero that rounding determines their sign, and a gradient that sums over few positions changes
by a whole term. In float64 this does not occur, and 1e-4 is a strict bound.
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
    """A training step; arrays have the zoo's names, without their collection."""

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
    """Weights that keep activations moderate at any depth, and statistics far from their initial values."""
    if name in ("kernel", "weight") and len(shape) > 1:
        values = rng.normal(size=shape) * np.sqrt(2 / fan_in)
    elif name in ("gamma", "weight"):
        # Below 1, so that sums over fifty residual layers stay within float32.
        values = rng.uniform(0.3, 0.8, shape)
    elif name in ("moving_variance", "running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(size=shape) * 0.1
    return values.astype(np.float32)


# Without LLVM's optimizations, a step compiles in half the time and computes the same.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@functools.partial(jax.jit, static_argnums=0)  # equal models are compiled once
def _zoo_logits(model: nn.Module, variables: Mapping, images: np.ndarray) -> jax.Array:
    return model.apply(variables, images)


def zoo_logits(model: nn.Module, variables: Mapping, images: np.ndarray) -> np.ndarray:
    return np.asarray(_zoo_logits(model, variables, images))


def zoo_step(model: nn.Module, variables: Mapping, images: np.ndarray, labels: np.ndarray) -> Step:
    """A training step of a zoo model, which must not have dropout."""

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


def gradient_error(actual: Step, expected: Step) -> float:
    """Relative L2 error of all gradients together, a measure that is meaningful in float32."""
    names = expected.gradients
    differences = [actual.gradients[name] - expected.gradients[name] for name in names]
    return _norm(differences) / _norm(expected.gradients.values())


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays))


def cross_entropy(logits: jax.Array, labels: np.ndarray) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()


def relative_error(actual: np.ndarray, expected: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference, divided by the largest absolute expected value or by `floor` if that is larger."""
    assert actual.shape == expected.shape
    return float(np.max(np.abs(actual - expected)) / max(np.max(np.abs(expected)), floor))


def step_errors(actual: Step, expected: Step) -> dict[str, float]:
    """Largest relative error of the loss, of any gradient and of any statistic.

    The gradient of a bias before batch normalization is zero up to rounding. Therefore gradients are divided by at
    least a thousandth of the largest gradient.
    """
    assert set(actual.gradients) == set(expected.gradients)
    assert set(actual.statistics) == set(expected.statistics)
    floor = 1e-3 * max(float(np.max(np.abs(g))) for g in expected.gradients.values())
    return {
        "loss": abs(actual.loss - expected.loss) / abs(expected.loss),
        "gradients": max(
            relative_error(actual.gradients[name], expected.gradients[name], floor)
            for name in expected.gradients
        ),
        "statistics": max(
            (
                relative_error(actual.statistics[name], expected.statistics[name])
                for name in expected.statistics
            ),
            default=0.0,
        ),
    }


# Keras. Each of these functions maps the name of a Keras layer to a path of the zoo.


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


def mobilenet_path(layer: str, last: int = 18) -> str:
    ends = {
        "Conv1": "features/0/conv",
        "bn_Conv1": "features/0/norm",
        "Conv_1": f"features/{last}/conv",
        "Conv_1_bn": f"features/{last}/norm",
        "predictions": "head",
    }
    if layer in ends:
        return ends[layer]
    layer = layer.replace("expanded_conv_", "block_0_")
    index, part, norm = re.match(r"block_(\d+)_(expand|depthwise|project)(_BN)?$", layer).groups()
    return f"features/{int(index) + 1}/{part}/{'norm' if norm else 'conv'}"


# The test suite forbids implicit rank promotion, such as [2, 10] + [10]; Keras's layers depend on it.
KERAS_MAY_BROADCAST = functools.partial(jax.numpy_rank_promotion, "allow")

KERAS_LEAVES = {
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def from_keras(arrays: Mapping[str, np.ndarray], path: Callable[[str], str]) -> Arrays:
    """Convert Keras's variables, named "layer/variable", to the names and layout of the zoo."""
    renamed = {}
    for name, array in arrays.items():
        layer, _, variable = name.rpartition("/")
        if layer.endswith("depthwise") and variable == "kernel":
            array = np.swapaxes(array, 2, 3)  # [kh, kw, C, 1] to [kh, kw, 1, C]
        renamed[f"{path(layer)}/{KERAS_LEAVES.get(variable, variable)}"] = np.asarray(array)
    return renamed


def keras_application(application: str | Callable, size: tuple[int, int], **options):
    """A Keras application for 10 classes with logits as output and random weights and statistics.

    `application` is a name in `keras.applications`, or a function such as `small_resnet`.
    """
    import keras

    build = (
        getattr(keras.applications, application) if isinstance(application, str) else application
    )

    def zeros(self, shape, dtype=None):
        # Keras's initializer would be compiled once per shape, a minute in total.
        return np.zeros(shape, dtype)

    with mock.patch.object(keras.initializers.GlorotUniform, "__call__", zeros):
        model = build(
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


# Built by Keras's own code, with every kind of layer and block, in a tenth of the time.


def small_vgg16(**options):
    """VGG16 with a sixteenth of the width."""
    from keras.src.applications import vgg16

    def narrow(layer):
        return lambda width, *args, **kwargs: layer(
            width if width == options["classes"] else width // 16, *args, **kwargs
        )

    layers = vgg16.layers
    with mock.patch.multiple(layers, Conv2D=narrow(layers.Conv2D), Dense=narrow(layers.Dense)):
        return vgg16.VGG16(**options)


def small_resnet(**options):
    """ResNet50 with two stages, of two blocks and of one."""
    from keras.src.applications import resnet

    def stack(x):
        x = resnet.stack_residual_blocks_v1(x, 64, 2, stride1=1, name="conv2")
        return resnet.stack_residual_blocks_v1(x, 8, 1, name="conv3")

    return resnet.ResNet(stack, False, True, **options)


SMALL_MOBILENET = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 320, 1, 1))  # its table in the zoo


def small_mobilenet(**options):
    """MobileNetV2 with four blocks: without expansion, with stride 2, with a residual, and the last."""
    from keras.src.applications import mobilenet_v2

    block = mobilenet_v2._inverted_res_block

    def some_blocks(x, *, block_id, **settings):
        renumbered = {0: 0, 1: 1, 2: 2, 16: 3}
        return block(x, block_id=renumbered[block_id], **settings) if block_id in renumbered else x

    with mock.patch.object(mobilenet_v2, "_inverted_res_block", some_blocks):
        return mobilenet_v2.MobileNetV2(**options)


def batch(size: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, float32 [count, H, W, 3], and labels below 10."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(count, *size, 3)).astype(np.float32)
    return images, rng.integers(0, 10, count).astype(np.int32)


def keras_variables(model, path: Callable[[str], str]) -> dict:
    """Convert a Keras model's weights to variables of the zoo."""
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
    """Make JAX and Keras compute in float64, including Keras models that are built inside.

    The JAX backend of Keras converts float64 to float32 by a table, which is overridden, too.
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
    model: nn.Module,
    application: str | Callable,
    path: Callable[[str], str],
    size: tuple[int, int],
    **options,
) -> None:
    """Compare a zoo model with 10 classes in the Keras variant to a Keras application with the same random weights."""
    keras_model = keras_application(application, size, **options)
    images, _ = batch(size, 2)
    logits = keras_logits(keras_model, images)
    assert 0.1 < np.max(np.abs(logits)) < 100
    variables = keras_variables(keras_model, path)
    np.testing.assert_allclose(zoo_logits(model, variables, images), logits, rtol=1e-4, atol=1e-4)


def assert_step_equals_keras(
    model: nn.Module,
    application: str | Callable,
    path: Callable[[str], str],
    size: tuple[int, int],
    **options,
) -> None:
    """Compare one training step in float64 in the same way. The zoo model must not have dropout."""
    images, labels = batch(size, 2)
    with float64():
        keras_model = keras_application(application, size, **options)
        variables = keras_variables(keras_model, path)
        errors = step_errors(
            zoo_step(model.clone(dtype="float64"), variables, images, labels),
            keras_step(keras_model, images, labels, path),
        )
    assert max(errors.values()) < 1e-4, errors
