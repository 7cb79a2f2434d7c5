"""The step, on one device and on several simulated ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import zoo
from train import recipe
from train.engine import steps
from train.engine.evaluation import array_batches, run_outputs
from train.engine.inputs import ImageInputs
from train.engine.objectives import classification
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.recipe import InputError
from zoo import cpu
from zoo.common.resize import ResizeRule

SHAPE = (64, 64, 3)
AUGMENTATION = recipe.Augmentation(rotation=5.0, shift_x=0.1, shift_y=0.1, flip=True)


def batches(count, size=8):
    rng = np.random.default_rng(0)
    for step in range(count):
        yield {
            "image": rng.integers(0, 256, (size, *SHAPE), np.uint8),
            "label": rng.integers(0, 4, size, np.int32),
            "index": np.arange(step * size, (step + 1) * size, dtype=np.int32),
        }


def images_of(size):
    """Inputs of this height and width, divided by 255."""
    return ImageInputs(zoo.Preprocessing(ResizeRule(size)))


@functools.cache
def train(
    num_devices,
    num_steps=5,
    seed=0,
    dropout=0.0,
    augmentation=AUGMENTATION,
    shape=SHAPE[:2],
):
    """Losses and final state."""
    model = zoo.create_model("sam_alexnet_tiny", 4, dropout_rate=dropout, axis_name=steps.AXIS)
    optimizer = build_optimizer(recipe.Optimizer("sgd", 1e-3))
    devices = Devices(jax.local_devices()[:num_devices])
    variables = steps.init_variables(model, (*shape, 3), seed=0)
    state = devices.replicate(steps.init_state(variables, optimizer))
    step = devices.compile_train_step(
        steps.make_train_step(
            classification(model),
            optimizer,
            images_of(shape),
            augmentation,
        )
    )
    clock = steps.Clock(np.uint32(seed), np.int32(0))
    losses = []
    for batch in batches(num_steps):
        state, metrics = step(state, devices.split(batch), clock)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [2, 4])
def test_without_dropout_several_devices_equal_one(num_devices):
    """Augmentation included: it depends on the example, not on the device.

    Five steps: sooner or later rounding decides the sign of a number that enters a ReLU, and from there on two
    correct programs part (seen at the eighth step, by 2e-4).
    """
    losses, state = train(1)
    several, other = train(num_devices)
    np.testing.assert_allclose(several, losses, rtol=1e-5)
    assert max(losses) > 1.01 * min(losses)  # they differ from step to step by far more
    # Statistics are of the whole batch; the difference is in the order of sums.
    for ours, theirs in ((other.batch_stats, state.batch_stats), (other.params, state.params)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs
        )


CLOCK = steps.Clock(np.uint32(3), np.int32(2))


@functools.partial(jax.jit, static_argnums=(3, 4))
def augmented(images, index, clock, augmentation, size):
    """What a step makes of its images, before the arithmetic."""
    key, _ = steps.keys(clock)
    return images_of(size).augmented(images, index, key, augmentation)


def test_what_a_step_sees_depends_on_seed_epoch_and_visit():
    """Not on the place in the batch; and a second visit of the same image in an epoch is another one."""
    augmentation = recipe.Augmentation(rotation=10, crop_area=0.5, flip=True, contrast=0.3)
    (batch,) = batches(1, size=4)
    images, index = batch["image"], batch["index"]

    def seen(images, index, clock=CLOCK):
        return np.asarray(augmented(images, index, clock, augmentation, (32, 32)))

    first = seen(images, index)
    assert first.shape == (4, 32, 32, 3)
    np.testing.assert_allclose(seen(images[::-1], index[::-1])[::-1], first, atol=1e-3)
    for other in (
        seen(images, index, steps.Clock(np.uint32(4), np.int32(2))),
        seen(images, index, steps.Clock(np.uint32(3), np.int32(3))),
        seen(images, index + 4),
    ):
        assert np.abs(other - first).mean(axis=(1, 2, 3)).min() > 1


def test_feeding_and_geometry_fields_are_all_known():
    """A field that is not of the feeding is an argument of `datasets.images.augment.augment`: else this raises."""
    (batch,) = batches(1, size=2)
    augmentation = recipe.Augmentation(resize=80, crops_per_image=3)
    seen = augmented(batch["image"], batch["index"], CLOCK, augmentation, (64, 64))
    np.testing.assert_array_equal(seen, batch["image"])


def test_step_takes_windows_of_the_models_size():
    """Images come larger than the model is; without other changes windows are copied."""
    losses, _ = train.__wrapped__(
        1, num_steps=1, augmentation=recipe.Augmentation(resize=64), shape=(56, 56)
    )
    assert np.isfinite(losses[0])


@pytest.mark.parametrize("num_devices", [1, 4])
def test_class_weights_reach_the_loss(num_devices):
    """Also when the devices' parts of the batch differ in their sums of weights."""
    import flax.linen as nn

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
        classification(Linear()), optimizer, images_of((64, 64)), recipe.Augmentation(), (), weights
    )
    _, metrics = devices.compile_train_step(step)(state, devices.split(batch), CLOCK)
    logits = Linear().apply(variables, batch["image"] / np.float32(255))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    expected = np.mean(weights[batch["label"]] * losses)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_dropout_masks_differ_by_device_and_repeat():
    one, _ = train(1, num_steps=2, dropout=0.4)
    two, _ = train(2, num_steps=2, dropout=0.4)
    again, _ = train.__wrapped__(2, num_steps=2, dropout=0.4)
    assert two == again
    assert np.all(np.abs(np.subtract(one, two)) > 1e-6)


def test_masks_of_two_devices_are_not_the_same():
    """A batch whose halves are equal would get equal masks if the device were not part of the key."""
    import flax.linen as nn

    class Dropped(nn.Module):
        num_classes: int = 4

        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
            self.sow("batch_stats", "seen", x, reduce_fn=lambda _, new: new, init_fn=lambda: 0)
            return nn.Dense(4, name="head")(x)

    objective = classification(Dropped())
    devices = Devices(jax.local_devices()[:2])

    def seen(batch, rng):
        rng = jax.random.fold_in(rng, jax.lax.axis_index(steps.AXIS))
        image = jnp.ones((2, 4, 4, 3))
        params = {"head": {"kernel": jnp.ones((48, 4)), "bias": jnp.zeros(4)}}
        _, (stats, _) = objective.loss(
            params, {}, {"image": image, "label": jnp.zeros(2, int)}, rng
        )
        return stats["seen"]

    mapped = jax.pmap(seen, axis_name=steps.AXIS, in_axes=(0, None), devices=devices.devices)
    first, second = jax.device_get(mapped(np.zeros(2), jax.random.key(0)))
    assert np.any(first != second)


@pytest.mark.slow
def test_seed_decides_the_augmentation():
    losses = [train.__wrapped__(1, num_steps=1, seed=seed)[0][0] for seed in (0, 1, 0)]
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]


def test_as_many_devices_as_divide_a_batch():
    assert [len(Devices.sharing(size)) for size in (1, 2, 3, 4, 5, 6, 8)] == [1, 2, 3, 4, 1, 3, 4]


def test_batch_that_the_devices_do_not_divide():
    with pytest.raises(
        InputError, match="a batch of 6 cannot be shared by 4 devices.*multiple of 4"
    ):
        Devices(jax.local_devices()).split({"image": np.zeros((6, 2, 2, 3), np.uint8)})


@pytest.mark.parametrize("forms", [(), cpu.FORMS])
@pytest.mark.parametrize("size", [1, 1000, 2 * cpu.sums.BLOCK, 3 * cpu.sums.BLOCK + 17])
def test_norm_counts_every_number_of_every_leaf_once(size, forms):
    rng = np.random.default_rng(size)
    tree = {"large": rng.normal(size=size).astype(np.float32), "small": np.float32([[3.0], [4.0]])}
    expected = np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in tree.values()))
    with cpu.kernels(forms):
        norm = jax.jit(steps.norm)(jax.tree.map(jnp.asarray, tree))
        assert norm.dtype == jnp.float32
        np.testing.assert_allclose(norm, expected, rtol=1e-5)
        assert not np.isfinite(steps.norm({"large": jnp.full(size, jnp.nan)}))
        half = steps.norm({"half": jnp.full(300, 300, jnp.bfloat16)})
        np.testing.assert_allclose(half, 300 * 300**0.5)


def test_statistics_are_shared_by_several_devices_only():
    model = zoo.create_model("sam_alexnet_tiny", 4)
    assert Devices(jax.local_devices()[:1]).synchronised(model) is model
    assert Devices(jax.local_devices()[:2]).synchronised(model).axis_name == steps.AXIS
    plain = nn.Dense(3)
    assert Devices(jax.local_devices()[:2]).synchronised(plain) is plain


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("total", [1, 8, 13])
def test_every_example_is_evaluated_once(num_devices, total):
    """Whatever the batch leaves over; the padding does not show."""
    devices = Devices(jax.local_devices()[:num_devices])
    eval_step = devices.compile_eval_step(
        lambda variables, batch: {"mean": variables + jnp.mean(batch["image"], axis=(1, 2, 3))}
    )
    images = np.arange(total, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    outputs = run_outputs(eval_step, np.float32(1), array_batches(images, 8, np.arange(total)))
    np.testing.assert_array_equal(outputs["mean"], np.arange(total) + 1)
    np.testing.assert_array_equal(outputs["label"], np.arange(total))


def test_training_reduces_the_loss_on_one_batch():
    losses, state = train(1, num_steps=1, augmentation=recipe.Augmentation())
    assert np.isfinite(losses[0])
    assert state.step == 1


class Linear(nn.Module):
    """A layer on the mean colour."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(4, name="head")(x.mean((1, 2)))


def test_moving_average_is_keras_and_is_what_is_evaluated():
    """Keras's, on the same parameters step by step; frozen ones stay as they are."""
    optimizer = build_optimizer(recipe.Optimizer("sgd", 1.0))
    devices = Devices(jax.local_devices()[:2])
    variables = jax.device_get(steps.init_variables(Linear(), SHAPE, seed=0))
    state = devices.replicate(steps.init_state(variables, optimizer, ema=True))
    step = devices.compile_train_step(
        steps.make_train_step(
            classification(Linear()),
            optimizer,
            images_of(SHAPE[:2]),
            recipe.Augmentation(),
            ema=0.9,
        )
    )
    kernel = keras.Variable(variables["params"]["head"]["kernel"])
    theirs = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.9)
    theirs.build([kernel])
    for batch in batches(6):
        before = np.asarray(state.params["head"]["kernel"])
        state, _ = step(state, devices.split(batch), steps.Clock(np.uint32(0), np.int32(0)))
        after = np.asarray(state.params["head"]["kernel"])
        theirs.apply([before - after])
    np.testing.assert_allclose(kernel.value, state.params["head"]["kernel"], atol=1e-6)
    theirs.finalize_variable_values([kernel])
    average = state.variables()["params"]["head"]["kernel"]
    np.testing.assert_allclose(kernel.value, average, atol=1e-6)
    assert np.abs(average - state.params["head"]["kernel"]).max() > 1e-3


def test_without_an_average_the_parameters_are_evaluated():
    variables = steps.init_variables(Linear(), SHAPE, seed=0)
    state = steps.init_state(variables, build_optimizer(recipe.Optimizer()))
    assert state.average == {}
    assert state.variables()["params"] is state.params
