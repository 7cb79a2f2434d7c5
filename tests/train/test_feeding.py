"""Streamed and cached feeding: both give the same samples, keys and losses."""

import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import pytest

import zoo
from datasets import Split
from datasets.pipeline import ImageSamples, TrainBatches
from tests.small_net import SmallNet
from train import recipe, run
from train.engine import feeding, steps
from train.engine.feeding import Cached, Streamed
from train.engine.inputs import ImageInputs
from train.engine.objectives import classification
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.recipe import InputError, Recipe
from train.setup import _feed
from zoo import cpu
from zoo.common.resize import ResizeRule

SIZE = (8, 8)
COUNT, BATCH = 40, 12  # three full batches and a last one of four
AUGMENTATION = recipe.Augmentation(rotation=5.0, shift_x=0.1, flip=True)
INPUTS = ImageInputs(zoo.Preprocessing(ResizeRule(SIZE)))


@functools.cache
def images_and_labels():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (COUNT, *SIZE, 3), np.uint8), rng.integers(0, 4, COUNT, np.int32)


class Setup:
    """A model, its training step and its data on several devices."""

    def __init__(self, num_devices, *, drop_last=False, num_epochs=5):
        self.devices = Devices(jax.local_devices()[:num_devices])
        self.step_loop = None
        model = SmallNet(4, norm_momentum=0.5, axis_name=steps.AXIS)
        # On the host, because a step donates its state.
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
            drop_last=drop_last,
            multiple_of=num_devices,
        )

    def state(self):
        return self.devices.replicate(steps.init_state(self.variables, self.optimizer))

    def streamed(self):
        return Streamed(self.batches, self.devices, self.step)

    def cached(self):
        """A new feed; all of one setup share what they compile."""
        arrays = self.devices.replicate(images_and_labels())
        feed = Cached(self.batches, self.devices, self.step, *arrays)
        self.step_loop = feed._step_loop = self.step_loop or feed._step_loop
        return feed

    def train(self, feed, state=None, first_step=0, last_step=None):
        """(loss, batch size) of every step, and the final state."""
        state = self.state() if state is None else state
        done, log = first_step, []
        last_step = last_step or self.batches.num_steps
        while done < last_step:
            epoch = done // self.batches.steps_per_epoch
            context = steps.RngContext(np.uint32(7), np.int32(epoch))
            for chunk in feed.epoch(state, done, context):
                state = chunk.state
                losses = np.atleast_1d(jax.device_get(chunk.metrics)["loss"])
                assert len(losses) == len(chunk.sizes)
                log += zip(losses.tolist(), chunk.sizes, strict=True)
                done += len(chunk.sizes)
                if done >= last_step:
                    break
        return log, state


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=pytest.mark.long), 4])
def test_streamed_and_cached_give_the_same_losses(num_devices):
    """Twenty steps, including smaller last batches, augmentation and dropout."""
    setup = Setup(num_devices)
    streamed, streamed_state = setup.train(setup.streamed())
    cached, cached_state = setup.train(setup.cached())
    assert [size for _, size in streamed] == 5 * [12, 12, 12, 4]
    assert [size for _, size in cached] == [size for _, size in streamed]
    np.testing.assert_allclose([x for x, _ in cached], [x for x, _ in streamed], atol=1e-5)
    assert int(cached_state.step) == int(streamed_state.step) == 20
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cached_state, streamed_state
    )


@pytest.mark.slow
def test_chunks_of_an_epoch_equal_the_whole(monkeypatch):
    """For any chunk size and any first step, so that a resumed epoch is the same."""
    setup = Setup(1, num_epochs=2)
    whole, state = setup.train(setup.cached())
    monkeypatch.setattr(feeding, "FIRST_CHUNK", 1)
    monkeypatch.setattr(feeding, "CHUNK_SECONDS", 0.0)
    chunked, chunked_state = setup.train(setup.cached())
    assert chunked == whole
    first, interrupted = setup.train(setup.cached(), last_step=5)
    second, resumed_state = setup.train(setup.cached(), interrupted, first_step=5)
    assert first + second == whole
    for end in (chunked_state, resumed_state):
        jax.tree.map(np.testing.assert_array_equal, end, state)


@pytest.mark.slow
def test_an_epoch_is_one_program_call():
    setup = Setup(1, drop_last=True, num_epochs=1)
    context = steps.RngContext(np.uint32(0), np.int32(0))
    chunks = list(setup.cached().epoch(setup.state(), 0, context))
    assert [chunk.sizes for chunk in chunks] == [[12, 12, 12]]


@pytest.mark.parametrize(
    ("feed", "free", "chosen"),
    [
        ("auto", None, "streamed"),  # CPU
        ("auto", 1000, "cached"),
        ("auto", 300, "streamed"),  # cached data would leave too little memory for activations
        ("cached", None, "cached"),
        ("cached", 150, "cached"),
        ("streamed", 1000, "streamed"),
    ],
)
def test_feed_depends_on_backend_and_size(feed, free, chosen):
    assert _feed(Recipe(feed=feed), 150, free) == chosen


def test_cached_data_that_do_not_fit_are_rejected():
    with pytest.raises(InputError, match=r"--feed cached: the images take 2.0 GB .* 1.0 GB free"):
        _feed(Recipe(feed="cached"), 2_000_000_000, 1_000_000_000)


def test_free_memory_is_that_of_the_fullest_device():
    @dataclasses.dataclass
    class Device:
        stats: dict | None

        def memory_stats(self):
            return self.stats

    devices = object.__new__(Devices)
    devices.devices = [Device({"bytes_limit": 10, "bytes_in_use": use}) for use in (3, 7, 1)]
    assert devices.free_memory() == 3
    devices.devices = [Device(None)]
    assert devices.free_memory() is None


def test_the_kernels_are_for_cpus_only(monkeypatch):
    """On a GPU, a step is traced as it is."""

    def step(*arguments):
        return cpu.uses("matmul")

    assert Devices(jax.local_devices()[:1])._with_kernels(step)()
    monkeypatch.setattr(Devices, "platform", "gpu")
    assert not Devices(jax.local_devices()[:1])._with_kernels(step)()


@pytest.mark.slow
def test_resumed_run_can_change_its_feed(small_net, image_folder, tmp_path, call):
    """Streamed and cached runs write the same logs."""
    logs = []
    for feeds in ({2: "streamed"}, {1: "cached", 2: "streamed"}, {1: "streamed", 2: "cached"}):
        workdir = tmp_path / "-".join(feeds.values())
        words = f"--model small_net --dataset {image_folder} --workdir {workdir}"
        words += " --batch-size 24 --lr 0.0001 --stages.0.optimizer.name sgd --no-drop-last"
        for epochs, feed in feeds.items():
            more = f" --epochs {epochs} --feed {feed}"
            status, out, err = call(run, *(words + more).split())
            assert status == 0, err
            assert ("input pipeline: cached" in err) == (feed == "cached")
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
