"""Checkpoints of a `LoopState`, written by Orbax: its arrays, and everything else as JSON.

Orbax writes in the background and makes a checkpoint visible once it is complete, but does not detect bytes that
change later. Therefore, a digest of the state is stored with it and compared on restore.
"""

import asyncio
import hashlib
import itertools
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.engine.state import LoopState
from train.errors import InputError, RunError, exhausted

# This module reports in one line what Orbax logs through absl.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def _ignore_closed_event_loop(report: Any) -> None:
    # A failed save or restore leaves TensorStore callbacks that outlive Orbax's event loop; Python would print a
    # traceback for each.
    frame = report.exc_traceback
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    check_closed: Any = asyncio.BaseEventLoop._check_closed  # type: ignore[attr-defined]
    if frame is None or frame.tb_frame.f_code is not check_closed.__code__:
        _previous_hook(report)


_previous_hook, sys.unraisablehook = sys.unraisablehook, _ignore_closed_event_loop


MAX_PACKED_BYTES = 1 << 20  # of an array; Orbax writes larger ones in parallel


class Checkpoints:
    """Checkpoints of one run. The latest two are kept."""

    def __init__(self, directory: Path):
        self._directory = directory.absolute()
        self._last_save = -math.inf  # time.monotonic()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True, enable_async_checkpointing=True
            ),
            item_names=("state", "meta"),
        )

    def save(self, loop: LoopState) -> None:
        """Write a checkpoint in the background. Waits for the previous save and raises its error, if any."""
        self._last_save = time.monotonic()
        # Even if a state of the same step was saved before an interrupted validation: resuming repeats the validation.
        if loop.step in self._manager.all_steps():
            return
        # Host copies: device buffers are donated to the next step, and arrays without a sharding can be restored on
        # any number of devices.
        assert loop.train is not None
        state = loop.train.on_host()
        meta = {
            "position": loop.to_json(),
            "digest": digest(state),
            "structure": structure(state),
            "packed": True,
        }
        self._manager.save(
            loop.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(pack(state)), meta=ocp.args.JsonSave(meta)
            ),
        )

    def postpone(self) -> None:
        """Let `seconds_since_save` count from now."""
        self._last_save = time.monotonic()

    def seconds_since_save(self) -> float:
        """Seconds since the last save; infinite before the first."""
        return time.monotonic() - self._last_save

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return max(self._manager.all_steps(), default=None)

    def restore(self, like: Callable[[int], Any], warn: Callable[[str], None]) -> LoopState | None:
        """Restore the newest intact checkpoint.

        Args:
          like: maps the index of a stage to the structure, shapes and dtypes of its arrays.
          warn: called with a message for each damaged checkpoint, after which the next older one is tried. If one is
            intact, the folders of damaged ones are renamed.

        Returns:
          The state, with NumPy arrays; None if there are no checkpoints.

        Raises:
          RunError: the newest checkpoint cannot currently be read, or its arrays have a different structure. Nothing is
            changed.
          InputError: every checkpoint is damaged. Nothing is changed: otherwise, the next call would start over here.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for count, step in enumerate(steps):
            try:
                loop = self._restore(step, like)
            except RunError:
                raise
            except Exception as error:  # damage can raise any error of Orbax, TensorStore or json
                self._check_readable(step, error)
                then = ": trying an older one" if step != steps[-1] else ""
                warn(
                    f"checkpoint {self._directory / str(step)} is damaged ({_reason(error)}){then}"
                )
            else:
                self._set_aside(steps[:count])
                return loop
        if steps:
            raise InputError(
                f"every checkpoint in {self._directory} is damaged: start again with another --workdir"
            )
        return None

    def _set_aside(self, damaged: Sequence[int]) -> None:
        """Rename damaged checkpoints, so that their steps can be saved again."""
        for step in damaged:
            names = itertools.chain(
                [f"damaged-{step}"], (f"damaged-{step}-{n}" for n in itertools.count(2))
            )
            name = next(name for name in names if not (self._directory / name).exists())
            (self._directory / str(step)).rename(self._directory / name)
        if damaged:
            self._manager.reload()

    def _restore(self, step: int, like: Callable[[int], Any]) -> LoopState:
        meta = self._read(step, meta=ocp.args.JsonRestore())["meta"]
        loop = meta["position"]
        target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like(loop["stage"]))
        if not self._has_structure(step, meta, target):
            raise RunError(
                f"checkpoint {self._directory / str(step)} is intact, but its arrays do not match this version of the"
                " program: resume with the version that wrote it, or start again with another --workdir"
            )
        is_packed = meta.get("packed", False)  # older versions stored each array
        layout = pack(target) if is_packed else target
        state = self._read(step, state=ocp.args.StandardRestore(layout))["state"]
        if is_packed:
            state = unpack(state, target)
        if digest(state) != meta["digest"]:
            raise ValueError("its content changed after it was written")
        return LoopState.from_json(loop, state)

    def _has_structure(self, step: int, meta: Mapping[str, Any], target: Any) -> bool:
        if "structure" in meta:
            return meta["structure"] == structure(target)
        # Older versions did not record it: compare without names.
        saved = self._read(step, state=ocp.args.StandardRestore())["state"]
        both = [
            Counter((f"{x.dtype}", x.shape) for x in jax.tree.leaves(t)) for t in (saved, target)
        ]
        return both[0] == both[1]

    def _check_readable(self, step: int, error: Exception) -> None:
        """Raise RunError if a checkpoint could not be restored for lack of permission, memory or a working disk."""
        folder = self._directory / str(step)
        try:
            _read_all(folder)
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise error
        except OSError as reason:
            raise RunError(
                f"{reason.filename or folder} cannot be read ({reason.strerror or _reason(reason)}): nothing is"
                " changed; make it readable, then run the same command again to resume"
            ) from error
        if exhausted(error) == "memory":
            raise error

    def _read(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Wait until everything is on disk. Raises the error of the last save, if any."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the last save, then release the directory."""
        self._manager.close()


def _read_all(folder: Path) -> None:
    """Read all files below a folder. Raises OSError, which Orbax and TensorStore wrap in other errors."""

    def fail(error: OSError) -> None:
        raise error

    for directory, _, names in os.walk(folder, onerror=fail):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                while file.read(1 << 24):
                    pass


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def pack(tree: Any) -> dict[str, np.ndarray]:
    """Join the small arrays of a tree: Orbax takes about a millisecond for each array."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    small = b"".join(leaf.tobytes() for leaf in leaves if leaf.nbytes <= MAX_PACKED_BYTES)
    large = [leaf for leaf in leaves if leaf.nbytes > MAX_PACKED_BYTES]
    return {"small": np.frombuffer(small, np.uint8)} | {f"{i}": x for i, x in enumerate(large)}


def unpack(packed: Mapping[str, np.ndarray], like: Any) -> Any:
    """Inverse of `pack`, for a tree with the structure, shapes and dtypes of `like`."""
    large = (packed[f"{i}"] for i in itertools.count())
    leaves, structure = jax.tree.flatten(like)
    start = 0
    found: list[np.ndarray] = []
    for leaf in leaves:
        if leaf.nbytes > MAX_PACKED_BYTES:
            found.append(next(large))
            continue
        stop = start + leaf.nbytes
        content = packed["small"][start:stop].copy()  # aligned
        found.append(content.view(leaf.dtype).reshape(leaf.shape))
        start = stop
    return jax.tree.unflatten(structure, found)


def structure(tree: Any) -> str:
    """Hash the structure, dtypes and shapes of a tree of arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lines = [f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}" for path, leaf in leaves]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def digest(tree: Any) -> str:
    """Hash the structure, dtypes, shapes and bytes of a tree of arrays."""
    hasher = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        hasher.update(array.data.cast("B") if array.size else b"")
    return hasher.hexdigest()
