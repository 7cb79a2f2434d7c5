"""From splits to batches of uint8 on the host: decode, resize, shuffle, shard, batch, prefetch.

An element of the training pipeline is a whole batch: its number alone (epoch and place in the epoch) says
which examples it holds, so that any batch can be loaded without those before it, and a resume is exact.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from datasets import images
from datasets.dataset import InputError, Split
from datasets.images import Interpolation, Resize

Batch = dict[str, np.ndarray]

MAX_THREADS = 16


@functools.lru_cache(maxsize=4)  # every step asks; 50,000 examples take 5 ms to order
def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of `range(num_examples)`, int64, a function of (seed, epoch).

    The one source of order, for every way of feeding. It is the same with any version of NumPy, which
    promises that of the bits that it draws, but not of its own permutations. Read-only.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_examples)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def steps_per_epoch(
    num_examples: int, batch_size: int, *, keep_tail: bool, multiple_of: int = 1
) -> int:
    """Batches an epoch: full ones, and with `keep_tail` the smaller last one, if it holds anything."""
    tail = _tail(num_examples, batch_size, keep_tail, multiple_of)
    return num_examples // batch_size + bool(tail)


def _tail(num_examples: int, batch_size: int, keep_tail: bool, multiple_of: int) -> int:
    rest = num_examples % batch_size
    return rest - rest % multiple_of if keep_tail else 0


class TrainBatches:
    """The batches of a whole training: shuffled anew each epoch, loaded by threads, in order.

    Args:
      split: what to train on.
      batch_size: examples per batch, over all processes.
      image_size: height and width of the images that come out.
      seed: of the order.
      num_epochs: how many epochs there are.
      keep_tail: end each epoch with the smaller batch that is left.
      multiple_of: the tail is cut to a multiple of this (the number of devices over all processes).
      resize, interpolation, crop_fraction: see `datasets.images.resize`.
      shard: (index, count) of the processes that share each batch.
      num_threads: loading threads, each at work on another batch; by default one a core, at most 16.

    Raises InputError when a batch cannot be shared evenly, or when no epoch would have a batch.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        image_size: tuple[int, int],
        seed: int,
        num_epochs: int,
        keep_tail: bool = False,
        multiple_of: int = 1,
        resize: Resize = "squash",
        interpolation: Interpolation = "bilinear",
        crop_fraction: float = 1.0,
        shard: tuple[int, int] = (0, 1),
        num_threads: int | None = None,
    ):
        index, count = shard
        if not 0 <= index < count:
            raise ValueError(f"shard is {index} of {count}: processes count from 0")
        multiple_of = math.lcm(multiple_of, count)
        if batch_size < 1 or batch_size % multiple_of:
            raise InputError(
                f"a batch of {batch_size} cannot be shared by {multiple_of} devices: give a multiple"
                f" of {multiple_of}"
            )
        tail = _tail(len(split), batch_size, keep_tail, multiple_of)
        self._used = len(split) // batch_size * batch_size + tail  # examples an epoch
        if not self._used:
            raise InputError(
                f"a batch of {batch_size} is more than the {len(split)} training images:"
                " give a smaller batch size"
            )
        self._split = split
        self._batch_size = batch_size
        self.image_size = image_size
        self._geometry = (image_size, resize, interpolation, crop_fraction)
        self._seed = seed
        self._shard = shard
        self._num_threads = num_threads
        full = batch_size if self._used >= batch_size else 0
        self.batch_sizes = tuple(size // count for size in (full, tail) if size)  # of this process
        self.steps_per_epoch = steps_per_epoch(
            len(split), batch_size, keep_tail=keep_tail, multiple_of=multiple_of
        )
        self.num_steps = num_epochs * self.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """Which examples of the split this process's part of a step's batch holds."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self._split), seed=self._seed, epoch=epoch)
        start = place * self._batch_size
        index, count = self._shard
        return order[start : min(start + self._batch_size, self._used)][index::count]

    def load(self, step: int) -> Batch:
        """The batch of a step: `image` uint8 [B, H, W, 3], `label` int32 [B], `index` int32 [B]."""
        indices = self.indices(step)
        return {
            "image": load_images(self._split, indices, *self._geometry),
            "label": self._split.labels[indices],
            "index": indices.astype(np.int32),
        }

    def iterate(self, start_step: int = 0) -> Any:
        """A grain iterator from a step on; `get_state()` holds the number of the next step."""
        iterator = _threaded(range(self.num_steps), self.load, self._num_threads)
        iterator.set_state({"next_index": start_step})
        return iterator


def _threaded(elements: range, load: Callable[[int], Batch], num_threads: int | None) -> Any:
    """A grain iterator of `load(element)`, in order, some of them ahead of their use."""
    # Threads rather than processes: decoding and resizing release the GIL, images need no copying,
    # and on two cores they are 1.5 times as fast.
    threads = num_threads or min(os.cpu_count() or 1, MAX_THREADS)
    dataset = grain.MapDataset.range(elements.start, elements.stop, elements.step).map(load)
    # The buffer counts batches under way, too: a smaller one would leave threads idle.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
    return iter(dataset.to_iter_dataset(options))


def load_images(
    split: Split,
    indices: np.ndarray,
    image_size: tuple[int, int],
    resize: Resize = "squash",
    interpolation: Interpolation = "bilinear",
    crop_fraction: float = 1.0,
) -> np.ndarray:
    """Some images of a split in one size: uint8 [N, H, W, 3]. InputError names one that cannot be read."""
    batch = np.empty((len(indices), *image_size, 3), np.uint8)
    for row, index in enumerate(indices):
        image = split.image_for(int(index), image_size)
        batch[row] = images.resize(image, image_size, resize, interpolation, crop_fraction)
    return batch


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    resize: Resize = "squash",
    interpolation: Interpolation = "bilinear",
    crop_fraction: float = 1.0,
    num_threads: int | None = None,
) -> Iterator[Batch]:
    """Every example once, in order, as `TrainBatches` gives them, and `mask`, bool [B]: the last batch is
    padded with copies of its first example, and False there."""

    def load(start: int) -> Batch:
        rows = np.arange(start, start + batch_size)
        mask = rows < len(split)
        indices = np.where(mask, rows, start)
        loaded = load_images(split, indices[mask], image_size, resize, interpolation, crop_fraction)
        return {
            "image": loaded if mask.all() else loaded[np.where(mask, rows - start, 0)],
            "label": split.labels[indices],
            "index": indices.astype(np.int32),
            "mask": mask,
        }

    return _threaded(range(0, len(split), batch_size), load, num_threads)


def load_arrays(
    split: Split,
    image_size: tuple[int, int],
    resize: Resize = "squash",
    interpolation: Interpolation = "bilinear",
    crop_fraction: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A whole split in memory: images uint8 [N, H, W, 3], labels int32 [N]."""
    arrays = np.empty((len(split), *image_size, 3), np.uint8)
    options: dict[str, Any] = {
        "resize": resize,
        "interpolation": interpolation,
        "crop_fraction": crop_fraction,
    }
    for batch in eval_batches(split, batch_size=16, image_size=image_size, **options):
        arrays[batch["index"][batch["mask"]]] = batch["image"][batch["mask"]]
    return arrays, split.labels
