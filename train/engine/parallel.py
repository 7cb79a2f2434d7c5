"""One way onto the devices: `jax.pmap`, over one device or many.

Since JAX 0.8 pmap is jit of shard_map and costs nothing over jit on one device. The state is replicated by a
`NamedSharding` without a leading device axis (`in_axes=None`, `out_axes=None`), donated, and stays on the
devices between steps; batches are cut along a leading device axis.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.engine.steps import AXIS, make_steps
from train.recipe import InputError
from zoo import cpu


class Devices:
    """The local devices that share every batch."""

    def __init__(
        self, devices: list[jax.Device] | None = None, *, forms: Collection[str] | None = None
    ):
        """`forms`: by which of `zoo.cpu.FORMS` nets are computed (default: by all on CPUs, by none elsewhere)."""
        self.devices = devices or jax.local_devices()
        if forms is None:
            forms = cpu.FORMS if self.platform == "cpu" else ()
        self._forms = frozenset(forms)
        self._mesh = Mesh(np.array(self.devices), (AXIS,))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec(AXIS))
        # Simulated CPU devices share a few threads: with several steps in the queue, those of one step can
        # all wait for a partner that never gets a thread, and XLA aborts after 40 s.
        self._must_block = len(self.devices) > 1 and self.devices[0].platform == "cpu"

    @classmethod
    def sharing(cls, batch_size: int) -> "Devices":
        """As many of the local devices as divide a batch: small batches run on any machine, too."""
        devices = jax.local_devices()
        return cls(devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)])

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        return self.devices[0].platform

    def divisible(self, batch_size: int) -> int:
        """The batch size, or the next above it that the devices divide."""
        return -(-batch_size // len(self)) * len(self)

    def synchronised(self, model: nn.Module) -> nn.Module:
        """The model with batch-norm statistics averaged over the devices, if it has any and they are several."""
        if len(self) == 1 or not hasattr(model, "axis_name"):
            return model
        return model.clone(axis_name=AXIS)

    def replicate(self, tree: Any) -> Any:
        """The tree on every device."""
        return jax.device_put(tree, self._replicated)

    def split(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch [B, ...] as [devices, B / devices, ...], each part on its device; transfers are
        asynchronous. Raises InputError when the devices do not divide the batch."""
        size = len(next(iter(batch.values())))
        if size % len(self):
            raise InputError(
                f"a batch of {size} cannot be shared by {len(self)} devices:"
                f" give a --batch-size that is a multiple of {len(self)}"
            )
        parts = {
            k: np.reshape(v, (len(self), size // len(self), *v.shape[1:])) for k, v in batch.items()
        }
        return jax.device_put(parts, self._split)

    def split_order(self, order: np.ndarray) -> jax.Array:
        """Positions [steps, B] as [devices, steps, B / devices], each device with its part of every batch."""
        steps, size = order.shape
        parts = order.reshape(steps, len(self), size // len(self)).transpose(1, 0, 2)
        return jax.device_put(parts, self._split)

    def free_memory(self) -> int | None:
        """Bytes that the fullest device has left; None where devices do not count (CPUs)."""
        counts = [device.memory_stats() for device in self.devices]
        free = [c["bytes_limit"] - c["bytes_in_use"] for c in counts if c and "bytes_limit" in c]
        return min(free, default=None)

    def _on_platform(self, step: Callable) -> Callable:
        """The step with the layers that suit the devices. The one place where `zoo.cpu.kernels` is entered: inside of
        what is traced, whoever traces it."""
        if not self._forms:
            return step

        @functools.wraps(step)
        def fast(*arguments: Any) -> Any:
            with cpu.kernels(self._forms):
                return step(*arguments)

        return fast

    def map_eval_step(self, step: Callable) -> Any:
        """`(variables, split batch) -> outputs [devices, B / devices, ...]`, which stay on the devices."""
        return jax.pmap(
            self._on_platform(step),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=0,
            devices=self.devices,
        )

    def compile_train_step(self, step: Callable) -> "TrainStep":
        """The step over all devices; the state that goes in is used up."""
        mapped = jax.pmap(
            self._on_platform(step),
            axis_name=AXIS,
            in_axes=(None, 0, None),
            out_axes=(None, None),
            donate_argnums=(0,),
            devices=self.devices,
        )

        return TrainStep(mapped, self._must_block)

    def compile_steps(self, step: Callable) -> "TrainSteps":
        """Many steps in one program over all devices, on data in their memory; the state is used up."""
        mapped = jax.pmap(
            make_steps(self._on_platform(step)),
            axis_name=AXIS,
            in_axes=(None, None, None, 0, None, None, None),
            out_axes=(None, None),
            donate_argnums=(0,),
            devices=self.devices,
        )
        return TrainSteps(mapped)

    def compile_eval_step(self, step: Callable) -> Callable[[Any, dict[str, Any]], Any]:
        """`(variables, batch [B, ...]) -> per-example host arrays [B, ...]`, for any B; the batch is the host's,
        or one that `split` has put on the devices."""
        mapped = self.map_eval_step(step)

        def run(variables, batch):
            placed = isinstance(next(iter(batch.values())), jax.Array)
            outputs = mapped(variables, batch if placed else self.split(batch))
            if self._must_block:
                jax.block_until_ready(outputs)
            return jax.tree.map(
                lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(outputs)
            )

        return run


class TrainStep:
    """`(state, split batch, clock) -> (state, metrics)`, over all devices."""

    def __init__(self, mapped: Any, must_block: bool):
        self._mapped = mapped
        self._must_block = must_block

    def __call__(self, state: Any, batch: Any, clock: Any) -> tuple[Any, dict[str, jax.Array]]:
        state, metrics = self._mapped(state, batch, clock)
        if self._must_block:
            jax.block_until_ready(metrics)
        return state, metrics

    def lower(self, state: Any, batch: Any, clock: Any) -> Any:
        """The program for these shapes, not compiled yet (jax.stages.Lowered)."""
        return self._mapped.lower(state, batch, clock)

    def compile(self, state: Any, batch: Any, clock: Any) -> None:
        """Compile for these shapes and run nothing; the call that follows finds the program ready
        (so seen on JAX 0.10 and 0.12)."""
        self.lower(state, batch, clock).compile()


class TrainSteps:
    """`(state, images, labels, split order, start, stop, clock) -> (state, metrics)`, over all devices, finished.

    `metrics` are host arrays [steps of the order], filled from `start` to `stop`.
    """

    def __init__(self, mapped: Any):
        self._mapped = mapped

    def __call__(self, state, images, labels, order, start: int, stop: int, clock):
        bounds = (np.int32(start), np.int32(stop))
        state, metrics = self._mapped(state, images, labels, order, *bounds, clock)
        return state, jax.device_get(metrics)

    def compile(self, state: Any, images: Any, labels: Any, order: Any, clock: Any) -> None:
        """Compile for these shapes and run nothing."""
        bounds = (np.int32(0), np.int32(0))
        self._mapped.lower(state, images, labels, order, *bounds, clock).compile()
