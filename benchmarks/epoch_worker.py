"""The zoo's side of benchmarks.epoch: an epoch as `train.run` trains it, from files or from the device's memory."""

import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import zoo
from benchmarks import workers
from benchmarks.zoo_worker import ADAM, Zoo
from datasets import load_dataset
from datasets.pipeline import ImageSamples, TrainBatches, load_arrays
from train.engine import steps
from train.engine.feeding import Resident, Stepwise
from train.engine.objectives import OBJECTIVES
from train.engine.optimizers import build_optimizer
from train.recipe import Augmentation


class ZooEpoch(Zoo):
    """What the coordinator calls."""

    def build_epoch(
        self,
        path: str,
        model: str,
        batch_size: int,
        dtype: str,
        feed: Literal["stepwise", "resident"],
    ) -> dict[str, Any]:
        """Open a folder of images, compile, and train for one epoch: `images` of an epoch, and `seconds` until
        training could begin, compiling included, and for resident data loading all of them."""
        began = time.perf_counter()
        dataset = load_dataset(Path(path))
        classes = len(dataset.class_names)
        height, width, channels = zoo.get_entry(model).input_shape
        rule = zoo.ResizeRule((height, width))
        module = zoo.create_model(
            model, classes, **({} if dtype == "float32" else {"dtype": dtype})
        )
        variables = steps.init_variables(module, (height, width, channels), seed=0)
        module = self.devices.synchronised(module)
        optimizer = build_optimizer(ADAM)
        step = steps.make_train_step(
            OBJECTIVES["classification"](module),
            optimizer,
            zoo.Preprocessing(rule),
            Augmentation(),
        )
        self.batches = TrainBatches(
            ImageSamples(dataset.splits["train"], rule),
            batch_size=batch_size,
            seed=0,
            num_epochs=10_000,
            multiple_of=len(self.devices),
        )
        self.feed: Stepwise | Resident
        if feed == "stepwise":
            self.feed = Stepwise(self.batches, self.devices, step)
        else:
            data = load_arrays(self.batches.samples)
            self.feed = Resident(self.batches, self.devices, step, *self.devices.replicate(data))
        self.state = self.devices.replicate(steps.init_state(variables, optimizer))
        self.epoch = 0
        self.feed.compile(self.state, self._clock())
        seconds = time.perf_counter() - began
        self.run_epoch()
        return {
            "images": self.batches.steps_per_epoch * batch_size,
            "classes": classes,
            "seconds": seconds,
        }

    def run_epoch(self) -> dict[str, float]:
        """Seconds of the next epoch, the last step finished, and the mean loss of its steps."""
        began = time.perf_counter()
        losses = []
        start = self.epoch * self.batches.steps_per_epoch
        for chunk in self.feed.epoch(self.state, start, self._clock()):
            self.state = chunk.state
            losses.append(chunk.metrics["loss"])
        jax.block_until_ready(self.state)
        seconds = time.perf_counter() - began
        self.epoch += 1
        loss = np.concatenate([np.atleast_1d(np.asarray(part)) for part in losses]).mean()
        return {"seconds": seconds, "loss": float(loss)}

    def _clock(self) -> steps.Clock:
        return steps.Clock(np.uint32(0), np.int32(self.epoch))


if __name__ == "__main__":
    workers.serve(ZooEpoch(use_cache=True))
