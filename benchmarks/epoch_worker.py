"""The zoo's side of benchmarks.epoch: an epoch as `train.run` trains it, from files or from the device's memory."""

import time
from typing import Any, Literal

import jax
import numpy as np

from benchmarks import workers
from benchmarks.zoo_worker import ADAM, Zoo
from train.engine.stage import DeviceData, clock_of, first_state, prepare
from train.engine.state import LoopState
from train.recipe import Recipe, Stage
from train.record.log import RunLog
from train.setup import resolve


class ZooEpoch(Zoo):
    """What the coordinator calls."""

    def build_epoch(
        self,
        path: str,
        model: str,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        feed: Literal["stepwise", "resident"],
    ) -> dict[str, Any]:
        """Open a folder of images, compile, and train for one epoch: `images` of an epoch, and `seconds` until
        training could begin, compiling included, and for resident data loading all of them."""
        began = time.perf_counter()
        recipe = Recipe(
            model=model,
            dataset=path,
            batch_size=batch_size,
            dtype=dtype,
            feed=feed,
            stages=(Stage(epochs=10_000, optimizer=ADAM),),
        )
        self.experiment = resolve(recipe)
        devices, plan = self.experiment.devices, self.experiment.stages[0]
        self.loop = LoopState()
        state = devices.replicate(first_state(self.experiment, plan, None))
        self.loop.start_stage(0, state, comparable=False)
        self.stage = prepare(self.experiment, plan, self.loop, DeviceData(devices), RunLog())
        seconds = time.perf_counter() - began
        self.run_epoch()
        return {
            "images": self.stage.steps_per_epoch * batch_size,
            "classes": len(self.experiment.dataset.class_names),
            "seconds": seconds,
        }

    def run_epoch(self) -> dict[str, float]:
        """Seconds of the next epoch, the last step finished, and the mean loss of its steps."""
        began = time.perf_counter()
        losses, loop = [], self.loop
        assert loop.train is not None
        start, clock = loop.epoch * self.stage.steps_per_epoch, clock_of(self.experiment, loop)
        for chunk in self.stage.feed.epoch(loop.train, start, clock):
            loop.train = chunk.state
            losses.append(chunk.metrics["loss"])
        jax.block_until_ready(loop.train)
        seconds = time.perf_counter() - began
        loop.epoch += 1
        loss = np.concatenate([np.atleast_1d(np.asarray(part)) for part in losses]).mean()
        return {"seconds": seconds, "loss": float(loss)}


if __name__ == "__main__":
    workers.serve(ZooEpoch(use_cache=True))
