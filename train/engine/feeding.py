"""Feeding samples to the compiled training step: streamed from the host, or cached on the devices.

Both take the order of an epoch from `TrainBatches.indices` and run the same step with the same keys, so their losses
are equal up to rounding.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from datasets.pipeline import TrainBatches
from train.engine.parallel import Devices, TrainStep
from train.engine.steps import RngContext, TrainState

# Target duration of a chunk of a cached epoch. A stop request waits for the end of the chunk.
CHUNK_SECONDS = 5.0
FIRST_CHUNK = 16  # steps, while their speed is unknown


@dataclasses.dataclass
class Chunk:
    """Consecutive training steps, finished or dispatched."""

    state: TrainState  # after the last step
    sizes: list[int]  # batch size of each step
    metrics: dict[str, jax.Array]  # [steps], or a scalar for a single step
    wait_seconds: float  # time that the devices waited for data


class Streamed:
    """Feeds batches from the host one at a time, loaded and transferred ahead of their use."""

    def __init__(self, batches: TrainBatches, devices: Devices, step: Callable):
        self._batches = batches
        self._devices = devices
        self._step: TrainStep = devices.compile_train_step(step)
        self._iterator: Iterator[tuple[int, Any]] | None = None

    def compile(self, state: TrainState, context: RngContext) -> None:
        """Compile the step for every batch shape, without running it."""
        shape, dtype = self._batches.samples.shape, self._batches.samples.dtype
        for size in self._batches.batch_sizes:
            batch: dict[str, np.ndarray] = {
                "image": np.zeros((size, *shape), dtype),
                "label": np.zeros(size, np.int32),
                "index": np.zeros(size, np.int32),
            }
            self._step.compile(state, self._devices.split(batch), context)

    def epoch(self, state: TrainState, stage_step: int, context: RngContext) -> Iterator[Chunk]:
        """Run the steps from `stage_step` to the end of its epoch. Later epochs must follow in order."""
        if self._iterator is None:
            self._iterator = self._prefetch(self._batches.iterate(stage_step))
        in_epoch = stage_step % self._batches.steps_per_epoch
        for _ in range(in_epoch, self._batches.steps_per_epoch):
            began = time.monotonic()
            size, batch = next(self._iterator)
            wait_seconds = time.monotonic() - began
            state, metrics = self._step(state, batch, context)
            yield Chunk(state, [size], metrics, wait_seconds)

    def _prefetch(self, iterator: Iterator[dict[str, np.ndarray]]) -> Iterator[tuple[int, Any]]:
        """Yield batch sizes and batches on the devices. The next transfer overlaps the current step."""
        ahead = None
        for batch in iterator:
            ready, ahead = ahead, (len(batch["label"]), self._devices.split(batch))
            if ready is not None:
                yield ready
        if ahead is not None:
            yield ahead


class Cached:
    """Keeps all samples in the memory of each device; one program runs an epoch, or a chunk of a long epoch.

    `images` uint8 [N, H, W, 3], or vectors float32 [N, ...], and `labels` int32 [N] are on the devices already
    (`Devices.replicate`).
    """

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
        self._step_loop = devices.compile_step_loop(step)
        self._chunk = FIRST_CHUNK

    def compile(self, state: TrainState, context: RngContext) -> None:
        """Compile the step for every batch shape, without running it."""
        for order in epoch_orders(self._batches, 0):
            placed = self._devices.split_order(order)
            self._step_loop.compile(state, *self._data, placed, context)

    def epoch(self, state: TrainState, stage_step: int, context: RngContext) -> Iterator[Chunk]:
        """Run the steps from `stage_step` to the end of its epoch."""
        began = time.monotonic()
        epoch, done = divmod(stage_step, self._batches.steps_per_epoch)
        orders = [
            (order, self._devices.split_order(order))
            for order in epoch_orders(self._batches, epoch)
        ]
        wait_seconds = time.monotonic() - began
        offset = 0  # steps of the epoch before those of `order`
        for order, placed in orders:
            while done < offset + len(order):
                start = done - offset
                stop = min(start + self._chunk, len(order))
                began = time.monotonic()
                state, metrics = self._step_loop(state, *self._data, placed, start, stop, context)
                seconds = time.monotonic() - began
                self._chunk = max(1, int(CHUNK_SECONDS * (stop - start) / max(seconds, 1e-6)))
                sizes = [order.shape[1]] * (stop - start)
                metrics = {k: v[start:stop] for k, v in metrics.items()}
                yield Chunk(state, sizes, metrics, wait_seconds)
                wait_seconds = 0.0
                done += stop - start
            offset += len(order)


def epoch_orders(batches: TrainBatches, epoch: int) -> list[np.ndarray]:
    """Sample numbers of each step of an epoch, int32 [steps, B]: those of full batches, then of the last batch."""
    first = epoch * batches.steps_per_epoch
    rows = [batches.indices(first + i) for i in range(batches.steps_per_epoch)]
    sizes = sorted({len(row) for row in rows}, reverse=True)
    return [np.stack([r for r in rows if len(r) == size]).astype(np.int32) for size in sizes]
