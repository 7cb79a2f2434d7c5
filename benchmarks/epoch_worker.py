"""Zoo worker of benchmarks.epoch: epochs as `train.run` trains them, from files or from device memory."""

import time
from typing import Any, Literal

import jax
import numpy as np

from benchmarks import workers
from benchmarks.epoch import FILE_SIZE
from benchmarks.zoo_worker import ADAM, Zoo
from train.engine.stage import DeviceCache, initial_state, prepare, rng_context
from train.engine.state import LoopState
from train.recipe import Augmentation, Recipe, Stage
from train.record.log import RunLog
from train.setup import resolve


class ZooEpoch(Zoo):
    """Trains epochs of a zoo model on an image folder."""

    def build_epoch(
        self,
        path: str,
        model: str,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        feed: Literal["streamed", "cached"],
        crops: int = 1,
    ) -> dict[str, Any]:
        """Open an image folder, compile, and train for one epoch, with `crops` random crops of each image.

        Returns `images` per epoch, `classes`, and `seconds` until training could start, including compilation and,
        for cached data, loading all images.
        """
        began = time.perf_counter()
        augment = Augmentation()
        if crops > 1:
            augment = Augmentation(resize=FILE_SIZE, crops_per_image=crops)
        recipe = Recipe(
            model=model,
            dataset=path,
            batch_size=batch_size,
            dtype=dtype,
            feed=feed,
            stages=(Stage(epochs=10_000, optimizer=ADAM, augment=augment),),
        )
        self.experiment = resolve(recipe)
        devices, plan = self.experiment.devices, self.experiment.stages[0]
        self.loop = LoopState()
        state = devices.replicate(initial_state(self.experiment, plan, None))
        self.loop.start_stage(0, state, comparable=False)
        self.stage = prepare(self.experiment, plan, self.loop, DeviceCache(devices), RunLog())
        seconds = time.perf_counter() - began
        self.run_epoch()
        return {
            "images": self.stage.steps_per_epoch * batch_size,
            "classes": len(self.experiment.dataset.class_names),
            "seconds": seconds,
        }

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch; return `seconds` until the last step has finished, and the mean `loss`."""
        began = time.perf_counter()
        losses, loop = [], self.loop
        assert loop.train is not None
        start, context = loop.epoch * self.stage.steps_per_epoch, rng_context(self.experiment, loop)
        for chunk in self.stage.feed.epoch(loop.train, start, context):
            loop.train = chunk.state
            losses.append(chunk.metrics["loss"])
        jax.block_until_ready(loop.train)
        seconds = time.perf_counter() - began
        loop.epoch += 1
        loss = np.concatenate([np.atleast_1d(np.asarray(chunk)) for chunk in losses]).mean()
        return {"seconds": seconds, "loss": float(loss)}


if __name__ == "__main__":
    workers.serve(ZooEpoch(use_cache=True))
