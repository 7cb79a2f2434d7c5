"""How training images reach the compiled step: batch by batch from the host, or from the device's own memory.

Both ways take the order of an epoch from one function of the host (`TrainBatches.indices`) and run the same
step with the same keys, so that they give the same losses up to rounding.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from datasets.pipeline import TrainBatches
from train.engine.parallel import Devices, TrainStep
from train.engine.steps import Clock, TrainState

# How long the device works unasked when an epoch is one program: a stop request waits for it.
CHUNK_SECONDS = 5.0
FIRST_CHUNK = 16  # steps, before their speed is known


@dataclasses.dataclass
class Chunk:
    """Some steps that are done or under way."""

    state: TrainState  # after them
    sizes: list[int]  # examples of each step's batch
    metrics: dict[str, jax.Array]  # of each step, [steps]; a scalar where there is one
    waited: float  # seconds that the device had to wait for data


class Stepwise:
    """Batches come from the host one by one, loaded and sent ahead of their use."""

    def __init__(self, batches: TrainBatches, devices: Devices, step: Callable):
        self._batches = batches
        self._devices = devices
        self._step: TrainStep = devices.compile_train_step(step)
        self._iterator: Iterator[tuple[int, Any]] | None = None

    def compile(self, state: TrainState, clock: Clock) -> None:
        """Compile every shape; run nothing."""
        shape, dtype = self._batches.samples.shape, self._batches.samples.dtype
        for size in self._batches.batch_sizes:
            batch: dict[str, np.ndarray] = {
                "image": np.zeros((size, *shape), dtype),
                "label": np.zeros(size, np.int32),
                "index": np.zeros(size, np.int32),
            }
            self._step.compile(state, self._devices.split(batch), clock)

    def epoch(self, state: TrainState, stage_step: int, clock: Clock) -> Iterator[Chunk]:
        """The steps from `stage_step` to the end of its epoch; later epochs have to follow in order."""
        if self._iterator is None:
            self._iterator = self._prefetch(self._batches.iterate(stage_step))
        in_epoch = stage_step % self._batches.steps_per_epoch
        for _ in range(in_epoch, self._batches.steps_per_epoch):
            began = time.monotonic()
            size, batch = next(self._iterator)
            waited = time.monotonic() - began
            state, metrics = self._step(state, batch, clock)
            yield Chunk(state, [size], metrics, waited)

    def _prefetch(self, iterator: Iterator[dict[str, np.ndarray]]) -> Iterator[tuple[int, Any]]:
        """Batches on the devices, one ahead: the next transfer runs beside the step at hand."""
        ahead = None
        for batch in iterator:
            ready, ahead = ahead, (len(batch["label"]), self._devices.split(batch))
            if ready is not None:
                yield ready
        if ahead is not None:
            yield ahead


class Resident:
    """The images lie in each device's memory, and one program runs through an epoch, or through a piece of a
    long one. `images` uint8 [N, H, W, 3] and `labels` int32 [N] are there already (`Devices.replicate`)."""

    def __init__(
        self,
        batches: TrainBatches,
        devices: Devices,
        step: Callable,
        images: jax.Array,
        labels: jax.Array,
    ):
        self._batches = batches
        self._devices = devices
        self._data = (images, labels)
        self._steps = devices.compile_steps(step)
        self._chunk = FIRST_CHUNK

    def compile(self, state: TrainState, clock: Clock) -> None:
        """Compile every shape; run nothing."""
        for order in self._orders(0):
            self._steps.compile(state, *self._data, self._devices.split_order(order), clock)

    def epoch(self, state: TrainState, stage_step: int, clock: Clock) -> Iterator[Chunk]:
        """The steps from `stage_step` to the end of its epoch."""
        began = time.monotonic()
        epoch, done = divmod(stage_step, self._batches.steps_per_epoch)
        pieces = [(order, self._devices.split_order(order)) for order in self._orders(epoch)]
        waited = time.monotonic() - began
        before = 0  # steps of the pieces before this one
        for order, placed in pieces:
            while done < before + len(order):
                start = done - before
                stop = min(start + self._chunk, len(order))
                began = time.monotonic()
                state, metrics = self._steps(state, *self._data, placed, start, stop, clock)
                seconds = time.monotonic() - began
                self._chunk = max(1, int(CHUNK_SECONDS * (stop - start) / max(seconds, 1e-6)))
                sizes = [order.shape[1]] * (stop - start)
                yield Chunk(state, sizes, {k: v[start:stop] for k, v in metrics.items()}, waited)
                waited = 0.0
                done += stop - start
            before += len(order)

    def _orders(self, epoch: int) -> list[np.ndarray]:
        """Which examples each step of an epoch takes, int32 [steps, B]: full batches, then the tail's."""
        first = epoch * self._batches.steps_per_epoch
        rows = [self._batches.indices(first + i) for i in range(self._batches.steps_per_epoch)]
        sizes = sorted({len(row) for row in rows}, reverse=True)
        return [np.stack([r for r in rows if len(r) == size]).astype(np.int32) for size in sizes]
