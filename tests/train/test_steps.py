"""Training and evaluation steps, on one device and on several simulated ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import zoo
from tests.small_net import SmallNet
from train import recipe
from train.engine import steps
from train.engine.evaluation import array_batches, collect_outputs
from train.engine.inputs import ImageInputs
from train.engine.objectives import Objective, classification
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.recipe import InputError
from zoo import cpu
from zoo.common.resize import ResizeRule
from zoo.cpu import sums

SHAPE = (16, 16, 3)
AUGMENTATION = recipe.Augmentation(rotation=5.0, shift_x=0.1, shift_y=0.1, flip=True)


def batches(count, size=8):
    rng = np.random.default_rng(0)
    for step in range(count):
        yield {
            "image": rng.integers(0, 256, (size, *SHAPE), np.uint8),
            "label": rng.integers(0, 4, size, np.int32),
            "index": np.arange(step * size, (step + 1) * size, dtype=np.int32),
        }


def image_inputs(size):
    """Image inputs of this height and width, divided by 255."""
    return ImageInputs(zoo.Preprocessing(ResizeRule(size)))


@functools.cache
def train(
    num_devices,
    num_steps=5,
    seed=0,
    dropout=0.0,
):
    """Losses and final state."""
    model = SmallNet(4, dropout_rate=dropout, axis_name=steps.AXIS)
    optimizer = build_optimizer(recipe.Optimizer("sgd", 0.1))
    devices = Devices(jax.local_devices()[:num_devices])
    variables = steps.init_variables(model, SHAPE, seed=0)
    state = devices.replicate(steps.init_state(variables, optimizer))
    step = devices.compile_train_step(
        steps.make_train_step(
            classification(model),
            optimizer,
            image_inputs(SHAPE[:2]),
            AUGMENTATION,
        )
    )
    context = steps.RngContext(np.uint32(seed), np.int32(0))
    losses = []
    for batch in batches(num_steps):
        state, metrics = step(state, devices.split(batch), context)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [pytest.param(2, marks=pytest.mark.long), 4])
def test_without_dropout_several_devices_equal_one(num_devices):
    """Including augmentation, which depends on the sample and not on the device."""
    losses, state = train(1)
    losses_on_several, state_on_several = train(num_devices)
    np.testing.assert_allclose(losses_on_several, losses, rtol=1e-5)
    assert max(losses) > 1.01 * min(losses)  # steps differ by far more than the tolerance
    # Statistics are those of the whole batch and differ only by the order of summation.
    for name in ("batch_stats", "params"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            getattr(state_on_several, name),
            getattr(state, name),
        )


CONTEXT = steps.RngContext(np.uint32(3), np.int32(2))


@functools.partial(jax.jit, static_argnums=(3, 4))
def augment(images, index, context, augmentation, size):
    """Augment images as a training step does, without normalization."""
    key, _ = steps.keys(context)
    return image_inputs(size).augment(images, index, key, augmentation)


def test_augmentation_depends_on_seed_epoch_and_sample_number():
    """Not on the order in the batch. Repetitions of an image in an epoch have different sample numbers."""
    augmentation = recipe.Augmentation(rotation=10, crop_area=0.5, flip=True, contrast=0.3)
    (batch,) = batches(1, size=4)
    images, index = batch["image"], batch["index"]

    def augmented(images, index, context=CONTEXT):
        return np.asarray(augment(images, index, context, augmentation, (32, 32)))

    reference = augmented(images, index)
    assert reference.shape == (4, 32, 32, 3)
    np.testing.assert_allclose(augmented(images[::-1], index[::-1])[::-1], reference, atol=1e-3)
    for other in (
        augmented(images, index, steps.RngContext(np.uint32(4), np.int32(2))),
        augmented(images, index, steps.RngContext(np.uint32(3), np.int32(3))),
        augmented(images, index + 4),
    ):
        assert np.abs(other - reference).mean(axis=(1, 2, 3)).min() > 1


def test_loading_fields_do_not_augment():
    """All other fields are arguments of `datasets.images.augment.augment`; an unknown one would raise."""
    (batch,) = batches(1, size=2)
    augmentation = recipe.Augmentation(resize=80, crops_per_image=3)
    augmented = augment(batch["image"], batch["index"], CONTEXT, augmentation, SHAPE[:2])
    np.testing.assert_array_equal(augmented, batch["image"])


def metrics_of_step(loss, batch, *, num_devices=1, size=SHAPE[:2], augmentation=None):
    """Metrics of one training step of a model with a single parameter, `w`."""
    objective = Objective(loss, lambda variables, batch: {}, lambda outputs: {}, "loss")
    optimizer = build_optimizer(recipe.Optimizer("sgd", 1e-3))
    devices = Devices(jax.local_devices()[:num_devices])
    variables = {"params": {"w": jnp.ones(())}, "batch_stats": {}}
    state = devices.replicate(steps.init_state(variables, optimizer))
    step = devices.compile_train_step(
        steps.make_train_step(
            objective, optimizer, image_inputs(size), augmentation or recipe.Augmentation()
        )
    )
    _, metrics = step(state, devices.split(batch), CONTEXT)
    return jax.device_get(metrics)


def windows(image, size):
    """All windows of an image with this height and width, by their offsets."""
    rows, columns = image.shape[0] - size + 1, image.shape[1] - size + 1
    return {
        (row, column): image[row : row + size, column : column + size]
        for row in range(rows)
        for column in range(columns)
    }


def test_step_takes_random_windows_of_the_models_size():
    """Without other augmentation, the loss receives an exact window of each larger image."""

    def loss(params, batch_stats, batch, rng):
        return params["w"], (batch_stats, {"loss": params["w"], "image": batch["image"]})

    (batch,) = batches(1)
    augmentation = recipe.Augmentation(resize=SHAPE[0])
    metrics = metrics_of_step(loss, batch, size=(12, 12), augmentation=augmentation)
    received = np.rint(255 * metrics["image"]).astype(np.uint8)
    assert received.shape == (8, 12, 12, 3)
    offsets = []
    for image, window in zip(batch["image"], received, strict=True):
        matches = [o for o, w in windows(image, 12).items() if np.array_equal(w, window)]
        assert len(matches) == 1
        offsets += matches
    assert len(set(offsets)) > 4  # of 25 possible ones for 8 images


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 4])
def test_class_weights_reach_the_loss(num_devices):
    """Also if the shards of the devices differ in the sum of their weights."""

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(4, name="head")(x.reshape(x.shape[0], -1))

    (batch,) = batches(1)
    batch["label"] = np.array([0, 0, 0, 0, 1, 1, 2, 3], np.int32)
    weights = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    optimizer = build_optimizer(recipe.Optimizer("sgd", 1e-3))
    devices = Devices(jax.local_devices()[:num_devices])
    variables = jax.device_get(steps.init_variables(Linear(), SHAPE, seed=0))
    state = devices.replicate(steps.init_state(variables, optimizer))
    step = steps.make_train_step(
        classification(Linear()),
        optimizer,
        image_inputs(SHAPE[:2]),
        recipe.Augmentation(),
        (),
        weights,
    )
    _, metrics = devices.compile_train_step(step)(state, devices.split(batch), CONTEXT)
    logits = Linear().apply(variables, batch["image"] / np.float32(255))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    expected = np.mean(weights[batch["label"]] * losses)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_dropout_masks_depend_on_the_device_and_are_reproducible():
    one_device, _ = train(1, num_steps=2, dropout=0.4)
    two_devices, _ = train(2, num_steps=2, dropout=0.4)
    repeated, _ = train.__wrapped__(2, num_steps=2, dropout=0.4)
    assert two_devices == repeated
    assert np.all(np.abs(np.subtract(one_device, two_devices)) > 1e-6)


def test_two_devices_draw_different_dropout_masks():
    """Dropout of ones at rate 0.5 gives 0 or 2; the mean over two devices is 1 only where their masks differ."""

    def loss(params, batch_stats, batch, rng):
        dropout = nn.Dropout(0.5, deterministic=False)
        dropped = dropout.apply({}, jnp.ones(100), rngs={"dropout": rng})
        return params["w"], (batch_stats, {"loss": params["w"], "dropped": dropped})

    (batch,) = batches(1)
    one_device = metrics_of_step(loss, batch)["dropped"]
    two_devices = metrics_of_step(loss, batch, num_devices=2)["dropped"]
    assert set(one_device) == {0, 2}
    assert set(two_devices) == {0, 1, 2}


@pytest.mark.slow
def test_augmentation_depends_on_the_seed():
    losses = [train.__wrapped__(1, num_steps=1, seed=seed)[0][0] for seed in (0, 1, 0)]
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]


def test_number_of_devices_for_a_batch_size():
    sizes = (1, 2, 3, 4, 5, 6, 8)
    assert [len(Devices.for_batch_size(size)) for size in sizes] == [1, 2, 3, 4, 1, 3, 4]


def test_batch_size_not_divisible_by_the_number_of_devices_is_rejected():
    with pytest.raises(
        InputError, match="a batch of 6 cannot be split across 4 devices.*multiple of 4"
    ):
        Devices(jax.local_devices()).split({"image": np.zeros((6, 2, 2, 3), np.uint8)})


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [(), ("sums",)])
@pytest.mark.parametrize("size", [1, 1000, 2 * sums.BLOCK, 3 * sums.BLOCK + 17])
def test_global_norm(size, kernels):
    """With and without the blocked sum of `zoo.cpu`."""
    rng = np.random.default_rng(size)
    tree = {"large": rng.normal(size=size).astype(np.float32), "small": np.float32([[3.0], [4.0]])}
    expected = np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in tree.values()))
    with cpu.kernels(kernels):
        norm = jax.jit(steps.global_norm)(jax.tree.map(jnp.asarray, tree))
        assert norm.dtype == jnp.float32
        np.testing.assert_allclose(norm, expected, rtol=1e-5)
        assert not np.isfinite(steps.global_norm({"large": jnp.full(size, jnp.nan)}))
        np.testing.assert_allclose(
            steps.global_norm({"half": jnp.full(300, 300, jnp.bfloat16)}), 300 * 300**0.5
        )


def test_batch_statistics_are_synchronized_on_several_devices_only():
    model = zoo.create_model("sam_alexnet_tiny", 4)
    assert Devices(jax.local_devices()[:1]).synchronized(model) is model
    assert Devices(jax.local_devices()[:2]).synchronized(model).axis_name == steps.AXIS
    plain = nn.Dense(3)
    assert Devices(jax.local_devices()[:2]).synchronized(plain) is plain


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("total", [1, 8, 13])
def test_every_sample_is_evaluated_once(num_devices, total):
    """Also if the batch size does not divide the number of samples; padding is removed."""
    devices = Devices(jax.local_devices()[:num_devices])
    eval_step = devices.compile_eval_step(
        lambda variables, batch: {"mean": variables + jnp.mean(batch["image"], axis=(1, 2, 3))}
    )
    images = np.arange(total, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    outputs = collect_outputs(eval_step, np.float32(1), array_batches(images, 8, np.arange(total)))
    np.testing.assert_array_equal(outputs["mean"], np.arange(total) + 1)
    np.testing.assert_array_equal(outputs["label"], np.arange(total))


class Linear(nn.Module):
    """A dense layer on the mean color."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(4, name="head")(x.mean((1, 2)))


def test_training_reduces_the_loss_on_one_batch():
    """In each of ten steps of gradient descent with a small learning rate, for a convex loss."""
    optimizer = build_optimizer(recipe.Optimizer("sgd", 0.1))
    devices = Devices(jax.local_devices()[:1])
    variables = jax.device_get(steps.init_variables(Linear(), SHAPE, seed=0))
    state = devices.replicate(steps.init_state(variables, optimizer))
    step = devices.compile_train_step(
        steps.make_train_step(
            classification(Linear()), optimizer, image_inputs(SHAPE[:2]), recipe.Augmentation()
        )
    )
    (batch,) = batches(1)
    losses = []
    for _ in range(10):
        state, metrics = step(state, devices.split(batch), CONTEXT)
        losses.append(float(metrics["loss"]))
    assert np.all(np.diff(losses) < 0)
    assert state.step == 10


@pytest.mark.slow
def test_moving_average_equals_keras_and_is_evaluated():
    """Keras averages the same parameters, step by step."""
    optimizer = build_optimizer(recipe.Optimizer("sgd", 1.0))
    devices = Devices(jax.local_devices()[:2])
    variables = jax.device_get(steps.init_variables(Linear(), SHAPE, seed=0))
    state = devices.replicate(steps.init_state(variables, optimizer, ema=True))
    step = devices.compile_train_step(
        steps.make_train_step(
            classification(Linear()),
            optimizer,
            image_inputs(SHAPE[:2]),
            recipe.Augmentation(),
            ema=0.9,
        )
    )
    kernel = keras.Variable(variables["params"]["head"]["kernel"])
    keras_optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.9)
    keras_optimizer.build([kernel])
    for batch in batches(6):
        before = np.asarray(state.params["head"]["kernel"])
        state, _ = step(state, devices.split(batch), steps.RngContext(np.uint32(0), np.int32(0)))
        after = np.asarray(state.params["head"]["kernel"])
        keras_optimizer.apply([before - after])
    np.testing.assert_allclose(kernel.value, state.params["head"]["kernel"], atol=1e-6)
    keras_optimizer.finalize_variable_values([kernel])
    average = state.variables()["params"]["head"]["kernel"]
    np.testing.assert_allclose(kernel.value, average, atol=1e-6)
    assert np.abs(average - state.params["head"]["kernel"]).max() > 1e-3


def test_without_an_average_the_parameters_are_evaluated():
    variables = steps.init_variables(Linear(), SHAPE, seed=0)
    state = steps.init_state(variables, build_optimizer(recipe.Optimizer()))
    assert state.average == {}
    assert state.variables()["params"] is state.params
