"""Checkpoints (Orbax) of a `LoopState`: its arrays, and the rest as plain data.

Orbax writes in the background and makes a checkpoint visible only when it is whole, but does not notice
when bytes of it change later: a digest of the state is kept beside it and compared on restore.
"""

import asyncio
import hashlib
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.engine.state import LoopState
from train.recipe import InputError

# Orbax reports through absl what we report ourselves, in one line.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def _pass_over_late_calls(report: Any) -> None:
    # A save or restore that failed leaves callbacks of TensorStore behind, which outlive Orbax's event loop;
    # Python would print a traceback for each.
    frame = report.exc_traceback
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    closed_loop: Any = asyncio.BaseEventLoop._check_closed  # type: ignore[attr-defined]
    if frame is None or frame.tb_frame.f_code is not closed_loop.__code__:
        _previous_hook(report)


_previous_hook, sys.unraisablehook = sys.unraisablehook, _pass_over_late_calls


class Checkpoints:
    """The checkpoints of one run; the latest two are kept."""

    def __init__(self, directory: Path):
        self._directory = directory.absolute()
        self._saved = -math.inf  # when the last one was written
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True, enable_async_checkpointing=True
            ),
            item_names=("state", "meta"),
        )

    def save(self, loop: LoopState) -> None:
        """Write in the background; waits for the save before it, and raises what that one met."""
        self._saved = time.monotonic()
        if loop.step in self._manager.all_steps():
            return
        # Host copies: the device buffers are donated to the next step, and numbers without a sharding
        # can be restored on any number of devices.
        state = jax.tree.map(np.asarray, jax.device_get(loop.train))
        meta = {"position": loop.to_json(), "digest": digest(state)}
        self._manager.save(
            loop.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
        )

    def seconds_since_save(self) -> float:
        """Infinite before the first."""
        return time.monotonic() - self._saved

    def restore(self, like: Callable[[int], Any], warn: Callable[[str], None]) -> LoopState | None:
        """The state of the newest whole checkpoint, its arrays in NumPy; None when there are none.

        `like(stage)` gives the structure, shapes and types of a stage's arrays. A damaged checkpoint is named through
        `warn`, set aside and the next older one used; InputError when all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                meta = self._read(step, meta=ocp.args.JsonRestore())["meta"]
                position = meta["position"]
                shapes = like(position["stage"])
                target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
                state = self._read(step, state=ocp.args.StandardRestore(target))["state"]
                if digest(state) != meta["digest"]:
                    raise ValueError("its numbers changed after it was written")
                return LoopState.from_json(position, state)
            except Exception as error:  # whatever damage makes Orbax, tensorstore or json say
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                warn(
                    f"checkpoint {self._directory / str(step)} is damaged ({reason}): trying an older one"
                )
                damaged = self._directory / f"damaged-{step}"
                if not damaged.exists():
                    (self._directory / str(step)).rename(damaged)
                self._manager.reload()
        if steps:
            raise InputError(
                f"every checkpoint in {self._directory} is damaged: start again with another --workdir"
            )
        return None

    def _read(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Until everything is on disk; raises what the last save met."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and let go of the directory."""
        self._manager.close()


def digest(tree: Any) -> str:
    """A hash of the structure, types and bytes of a tree of arrays."""
    found = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.data.cast("B") if array.size else b"")
    return found.hexdigest()
