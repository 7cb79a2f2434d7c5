"""Data parallelism with `jax.pmap`, over one or more devices.

Since JAX 0.8, pmap is jit of shard_map and has no overhead over jit on one device. The state is replicated by a
`NamedSharding` without a leading device axis (`in_axes=None`, `out_axes=None`), donated, and stays on the devices
between steps. Batches are split along a leading device axis.
"""

import functools
import os
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.engine.steps import AXIS, make_step_loop
from train.recipe import InputError
from zoo import cpu


def local_devices() -> list[jax.Device]:
    """Return this process's devices. Raises InputError if JAX cannot use the platform that it was told to use."""
    try:
        return jax.local_devices()
    except Exception as error:  # RuntimeError, or AssertionError without a message
        asked = os.environ.get("JAX_PLATFORMS")
        if not asked:
            raise
        reason = (str(error).strip() or "there is none").splitlines()[0]
        raise InputError(
            f"JAX_PLATFORMS is {asked}, and JAX finds no such device ({reason}): unset it, or set it to cpu"
        ) from error


class Devices:
    """The devices that share every batch."""

    def __init__(
        self, devices: list[jax.Device] | None = None, *, kernels: Collection[str] | None = None
    ):
        """Use these devices (default: all local ones).

        `kernels`: which of `zoo.cpu.KERNELS` to enable (default: all on CPUs, none on other devices).
        """
        self.devices = devices or local_devices()
        if kernels is None:
            kernels = cpu.KERNELS if self.platform == "cpu" else ()
        self._kernels = frozenset(kernels)
        self._mesh = Mesh(np.array(self.devices), (AXIS,))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec(AXIS))
        # Simulated CPU devices share a few threads. With several steps queued, the participants of a collective can
        # all wait for one that never gets a thread, and XLA aborts after 40 s.
        self._must_block = len(self.devices) > 1 and self.devices[0].platform == "cpu"

    @classmethod
    def for_batch_size(cls, batch_size: int) -> "Devices":
        """Take as many of the local devices as divide the batch size, so that small batches run on any machine."""
        devices = local_devices()
        return cls(devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)])

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def platform(self) -> str:
        """Platform of the devices: cpu, gpu or tpu."""
        return self.devices[0].platform

    def round_up(self, batch_size: int) -> int:
        """Round a batch size up to a multiple of the number of devices."""
        return -(-batch_size // len(self)) * len(self)

    def synchronized(self, model: nn.Module) -> nn.Module:
        """Return the model with batch-norm statistics averaged over the devices.

        The model itself on a single device, or if it has no field `axis_name`.
        """
        if len(self) == 1 or not hasattr(model, "axis_name"):
            return model
        return model.clone(axis_name=AXIS)

    def replicate(self, tree: Any) -> Any:
        """Put the tree on every device."""
        return jax.device_put(tree, self._replicated)

    def split(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Put a batch [B, ...] on the devices as [devices, B / devices, ...], asynchronously.

        Raises InputError if the number of devices does not divide the batch size.
        """
        size = len(next(iter(batch.values())))
        if size % len(self):
            raise InputError(
                f"a batch of {size} cannot be split across {len(self)} devices:"
                f" use a --batch-size that is a multiple of {len(self)}"
            )
        shards = {
            k: np.reshape(v, (len(self), size // len(self), *v.shape[1:])) for k, v in batch.items()
        }
        return jax.device_put(shards, self._split)

    def split_order(self, order: np.ndarray) -> jax.Array:
        """Split sample numbers [steps, B] into [devices, steps, B / devices], a shard of each batch per device."""
        steps, size = order.shape
        shards = order.reshape(steps, len(self), size // len(self)).transpose(1, 0, 2)
        return jax.device_put(shards, self._split)

    def split_orders(self, orders: np.ndarray) -> jax.Array:
        """Split sample numbers [members, steps, B] into [devices, members, steps, B / devices]."""
        members, steps, size = orders.shape
        shards = orders.reshape(members, steps, len(self), size // len(self))
        return jax.device_put(shards.transpose(2, 0, 1, 3), self._split)

    def split_rows(self, rows: np.ndarray) -> jax.Array:
        """Split row numbers [members, B] into [devices, members, B / devices]."""
        shards = rows.reshape(len(rows), len(self), rows.shape[1] // len(self))
        return jax.device_put(shards.transpose(1, 0, 2), self._split)

    def free_memory(self) -> int | None:
        """Free bytes on the fullest device; None if the devices do not report them (CPUs)."""
        counts = [device.memory_stats() for device in self.devices]
        free = [c["bytes_limit"] - c["bytes_in_use"] for c in counts if c and "bytes_limit" in c]
        return min(free, default=None)

    def _with_kernels(self, step: Callable) -> Callable:
        """Enable the kernels inside the traced step. Nothing else in `train` enters `zoo.cpu.kernels`."""
        if not self._kernels:
            return step

        @functools.wraps(step)
        def with_kernels(*arguments: Any) -> Any:
            with cpu.kernels(self._kernels):
                return step(*arguments)

        return with_kernels

    def map_eval_step(self, step: Callable) -> Any:
        """Map to `(variables, split batch) -> outputs [devices, B / devices, ...]`; outputs stay on the devices."""
        return jax.pmap(
            self._with_kernels(step),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=0,
            devices=self.devices,
        )

    def compile_train_step(self, step: Callable) -> "TrainStep":
        """Map the training step over all devices; it donates its state."""
        mapped = jax.pmap(
            self._with_kernels(step),
            axis_name=AXIS,
            in_axes=(None, 0, None),
            out_axes=(None, None),
            donate_argnums=(0,),
            devices=self.devices,
        )

        return TrainStep(mapped, self._must_block)

    def compile_step_loop(self, step: Callable) -> "TrainStepLoop":
        """Map a loop of training steps on data in device memory over all devices. It donates its state."""
        mapped = jax.pmap(
            make_step_loop(self._with_kernels(step)),
            axis_name=AXIS,
            in_axes=(None, None, None, 0, None, None, None),
            out_axes=(None, None),
            donate_argnums=(0,),
            devices=self.devices,
        )
        return TrainStepLoop(mapped)

    def map_members(self, function: Callable, in_axes: tuple[Any, ...], out_axes: Any) -> Any:
        """Map over members (`jax.vmap`, with these axes), then over all devices.

        The last argument of `function` is split over the devices, along an axis before that of the members; so are the
        outputs if `out_axes` is 0. Else they are a state and metrics, equal on all devices, and the first argument, the
        state, is donated.
        """
        is_step = out_axes != 0
        return jax.pmap(
            self._with_kernels(jax.vmap(function, in_axes=in_axes, out_axes=out_axes)),
            axis_name=AXIS,
            in_axes=(None,) * (len(in_axes) - 1) + (0,),
            out_axes=(None, None) if is_step else 0,
            donate_argnums=(0,) if is_step else (),
            devices=self.devices,
        )

    def compile_eval_step(self, step: Callable) -> Callable[[Any, dict[str, Any]], Any]:
        """Map to `(variables, batch [B, ...]) -> per-sample host arrays [B, ...]`, for any B.

        The batch is on the host, or already split over the devices by `split`.
        """
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
    """`(state, split batch, context) -> (state, metrics)` over all devices."""

    def __init__(self, mapped: Any, must_block: bool):
        self._mapped = mapped
        self._must_block = must_block

    def __call__(self, state: Any, batch: Any, context: Any) -> tuple[Any, dict[str, jax.Array]]:
        state, metrics = self._mapped(state, batch, context)
        if self._must_block:
            jax.block_until_ready(metrics)
        return state, metrics

    def lower(self, state: Any, batch: Any, context: Any) -> Any:
        """Lower for these shapes (jax.stages.Lowered), without compiling."""
        return self._mapped.lower(state, batch, context)

    def compile(self, state: Any, batch: Any, context: Any) -> None:
        """Compile for these shapes without running. The next call reuses the program (observed with JAX 0.10, 0.12)."""
        self.lower(state, batch, context).compile()


class TrainStepLoop:
    """`(state, images, labels, split order, start, stop, context) -> (state, metrics)` over all devices. Blocks.

    `metrics` are host arrays [steps of the order], filled from `start` to `stop`.
    """

    def __init__(self, mapped: Any):
        self._mapped = mapped

    def __call__(self, state, images, labels, order, start: int, stop: int, context):
        bounds = (np.int32(start), np.int32(stop))
        state, metrics = self._mapped(state, images, labels, order, *bounds, context)
        return state, jax.device_get(metrics)

    def compile(self, state: Any, images: Any, labels: Any, order: Any, context: Any) -> None:
        """Compile for these shapes without running."""
        bounds = (np.int32(0), np.int32(0))
        self._mapped.lower(state, images, labels, order, *bounds, context).compile()
