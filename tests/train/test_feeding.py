"""Two ways to feed one step: the same examples, keys and losses from both."""

import dataclasses
import functools
import itertools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

import zoo
from datasets import Split
from datasets.pipeline import ImageSamples, TrainBatches
from train import recipe, run
from train.engine import feeding, steps
from train.engine.feeding import Resident, Stepwise
from train.engine.inputs import ImageInputs
from train.engine.objectives import classification
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.recipe import InputError, Recipe
from train.setup import _feed
from zoo.common.resize import ResizeRule

SIZE = (8, 8)
COUNT, BATCH = 40, 12  # three full batches and a tail of four
AUGMENTATION = recipe.Augmentation(rotation=5.0, shift_x=0.1, flip=True)
INPUTS = ImageInputs(zoo.Preprocessing(ResizeRule(SIZE)))


@functools.cache
def images_and_labels():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (COUNT, *SIZE, 3), np.uint8), rng.integers(0, 4, COUNT, np.int32)


class SmoothNet(nn.Module):
    """All kinds of layers. No ReLU: sooner or later rounding decides a sign, and correct programs part."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(4, (3, 3), (2, 2))(x)
        x = nn.BatchNorm(not train, momentum=0.5, axis_name=steps.AXIS if train else None)(x)
        x = nn.Dropout(0.3, deterministic=not train)(nn.tanh(x))
        return nn.Dense(4, name="head")(x.mean((1, 2)))


class Setup:
    """A net, a step and its data on some devices."""

    def __init__(self, num_devices, *, keep_tail=True, num_epochs=5):
        self.devices = Devices(jax.local_devices()[:num_devices])
        model = SmoothNet()
        # On the host: a step uses up what lies on the devices.
        self.variables = jax.device_get(steps.init_variables(model, (*SIZE, 3), seed=0))
        self.optimizer = build_optimizer(recipe.Optimizer("sgd", 1e-2, momentum=0.9))
        self.step = steps.make_train_step(
            classification(model), self.optimizer, INPUTS, AUGMENTATION
        )
        images, labels = images_and_labels()
        split = Split([str(i) for i in range(COUNT)], labels, lambda i: images[i])
        self.batches = TrainBatches(
            ImageSamples(split, ResizeRule(SIZE)),
            batch_size=BATCH,
            seed=3,
            num_epochs=num_epochs,
            keep_tail=keep_tail,
            multiple_of=num_devices,
        )

    def state(self):
        return self.devices.replicate(steps.init_state(self.variables, self.optimizer))

    def stepwise(self):
        return Stepwise(self.batches, self.devices, self.step)

    def resident(self):
        arrays = self.devices.replicate(images_and_labels())
        return Resident(self.batches, self.devices, self.step, *arrays)

    def train(self, feed, state=None, first_step=0, last_step=None):
        """(loss, examples) of every step, and the last state."""
        state = self.state() if state is None else state
        done, seen = first_step, []
        last_step = last_step or self.batches.num_steps
        while done < last_step:
            epoch = done // self.batches.steps_per_epoch
            clock = steps.Clock(np.uint32(7), np.int32(epoch))
            for chunk in feed.epoch(state, done, clock):
                state = chunk.state
                losses = np.atleast_1d(jax.device_get(chunk.metrics)["loss"])
                assert len(losses) == len(chunk.sizes)
                seen += zip(losses.tolist(), chunk.sizes, strict=True)
                done += len(chunk.sizes)
                if done >= last_step:
                    break
        return seen, state


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 4])
def test_both_ways_give_the_same_losses(num_devices):
    """Twenty steps, tails, augmentation and dropout included."""
    setup = Setup(num_devices)
    stepwise, state = setup.train(setup.stepwise())
    resident, other = setup.train(setup.resident())
    assert [size for _, size in stepwise] == 5 * [12, 12, 12, 4]
    assert [size for _, size in resident] == [size for _, size in stepwise]
    np.testing.assert_allclose([x for x, _ in resident], [x for x, _ in stepwise], atol=1e-5)
    assert int(other.step) == int(state.step) == 20
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other, state)


def test_pieces_of_an_epoch_equal_the_whole(monkeypatch):
    """However the program is cut, and wherever it starts: so a resumed epoch is the same, too."""
    setup = Setup(1, num_epochs=2)
    whole, state = setup.train(setup.resident())
    monkeypatch.setattr(feeding, "FIRST_CHUNK", 1)
    monkeypatch.setattr(feeding, "CHUNK_SECONDS", 0.0)
    cut, other = setup.train(setup.resident())
    assert cut == whole
    begun, half = setup.train(setup.resident(), last_step=5)
    ended, resumed = setup.train(setup.resident(), half, first_step=5)
    assert begun + ended == whole
    for end in (other, resumed):
        jax.tree.map(np.testing.assert_array_equal, end, state)


def test_an_epoch_is_one_program_call():
    setup = Setup(1, keep_tail=False, num_epochs=1)
    chunks = list(setup.resident().epoch(setup.state(), 0, steps.Clock(np.uint32(0), np.int32(0))))
    assert [chunk.sizes for chunk in chunks] == [[12, 12, 12]]


@pytest.mark.parametrize(
    ("feed", "free", "chosen"),
    [
        ("auto", None, "stepwise"),  # a CPU
        ("auto", 1000, "resident"),
        ("auto", 300, "stepwise"),  # it would leave too little for activations
        ("resident", None, "resident"),
        ("resident", 150, "resident"),
        ("stepwise", 1000, "stepwise"),
    ],
)
def test_choice_by_backend_and_size(feed, free, chosen):
    assert _feed(Recipe(feed=feed), 150, free) == chosen


def test_resident_data_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"--feed resident: the images take 2.0 GB .* 1.0 GB free"):
        _feed(Recipe(feed="resident"), 2_000_000_000, 1_000_000_000)


def test_free_memory_is_that_of_the_fullest_device():
    @dataclasses.dataclass
    class Device:
        counts: dict | None

        def memory_stats(self):
            return self.counts

    devices = object.__new__(Devices)
    devices.devices = [Device({"bytes_limit": 10, "bytes_in_use": use}) for use in (3, 7, 1)]
    assert devices.free_memory() == 3
    devices.devices = [Device(None)]
    assert devices.free_memory() is None


@pytest.mark.slow
def test_a_run_can_change_its_feeding_when_it_is_resumed(image_folder, tmp_path, call):
    """Both write the same logs."""
    logs = []
    for feeds in (("stepwise", "stepwise"), ("resident", "stepwise"), ("stepwise", "resident")):
        workdir = tmp_path / "-".join(feeds)
        words = f"--model deconv_alexnet_tiny --dataset {image_folder} --workdir {workdir}"
        words += " --batch-size 24 --lr 0.0001 --stages.0.optimizer.name sgd --keep-tail"
        for epochs, feed in enumerate(feeds, 1):
            more = f" --epochs {epochs} --feed {feed}"
            status, out, err = call(run, *(words + more).split())
            assert status == 0, err
            assert ("feeding: resident" in err) == (feed == "resident")
        logs.append(
            [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        )
    assert len(logs[0]) == 6
    for one, other in itertools.product(logs[0], logs[1:]):
        assert one.keys() == other[0].keys()
    for log in logs[1:]:
        for name in ("step", "epoch", "loss", "grad_norm"):
            np.testing.assert_allclose(
                [line[name] for line in log], [line[name] for line in logs[0]], rtol=1e-4
            )
