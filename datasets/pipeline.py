"""From splits to batches of uint8 on the host: decode, resize, shuffle, shard, batch, prefetch.

An element of the training pipeline is a whole batch: its number alone (epoch and place in the epoch) says
which examples it holds, so that any batch can be loaded without those before it, and a resume is exact.
"""

import os
from collections.abc import Iterator
from typing import Any, Literal

import grain
import numpy as np

from datasets.dataset import InputError, Split
from datasets.images import resize

Batch = dict[str, np.ndarray]

PREFETCH = 4  # batches


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of `range(num_examples)`, int64, a function of (seed, epoch).

    The one source of order, for every way of feeding.
    """
    return np.random.Generator(np.random.Philox([seed, epoch])).permutation(num_examples)


def steps_per_epoch(
    num_examples: int, batch_size: int, *, keep_tail: bool, multiple_of: int = 1
) -> int:
    """Batches an epoch: full ones, and with `keep_tail` the smaller last one, if it holds anything."""
    return num_examples // batch_size + bool(
        _tail(num_examples, batch_size, keep_tail, multiple_of)
    )


def _tail(num_examples: int, batch_size: int, keep_tail: bool, multiple_of: int) -> int:
    rest = num_examples % batch_size
    return rest - rest % multiple_of if keep_tail else 0


class _Load:
    """Loads the batch of a step; callable for grain, which calls it from several threads."""

    def __init__(self, batches: "TrainBatches"):
        self._batches = batches

    def __call__(self, step: int) -> Batch:
        return self._batches.load(int(step))


class TrainBatches:
    """The batches of a whole training: shuffled anew each epoch, loaded by threads, in order.

    Args:
      split: what to train on.
      batch_size: examples per batch, over all processes.
      image_size: height and width of the images that come out.
      seed: of the order.
      num_epochs: how many epochs there are.
      keep_tail: end each epoch with the smaller batch that is left.
      multiple_of: the tail is cut to a multiple of this (the number of devices).
      resize, interpolation: see `datasets.images.resize`.
      shard: (index, count) of the processes that share each batch.
      num_threads: loading threads; by default one a core, at most 16.
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
        resize: Literal["squash", "crop"] = "squash",
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
        shard: tuple[int, int] = (0, 1),
        num_threads: int | None = None,
    ):
        self._split = split
        self._batch_size = batch_size
        self._geometry = (image_size, resize, interpolation)
        self._seed = seed
        self._shard = shard
        self._num_threads = num_threads or min(os.cpu_count() or 1, 16)
        tail = _tail(len(split), batch_size, keep_tail, multiple_of)
        self._used = len(split) // batch_size * batch_size + tail  # examples an epoch
        self.batch_sizes = tuple(
            size for size in (batch_size if self._used >= batch_size else 0, tail) if size
        )
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
        steps = grain.MapDataset.range(self.num_steps).map(_Load(self))
        # Threads rather than processes: decoding and resizing release the GIL, images need no copying,
        # and on two cores they are 1.5 times as fast.
        options = grain.ReadOptions(num_threads=self._num_threads, prefetch_buffer_size=PREFETCH)
        iterator = iter(steps.to_iter_dataset(options))
        if start_step:
            iterator.set_state({**iterator.get_state(), "next_index": start_step})
        return iterator


def load_images(
    split: Split,
    indices: np.ndarray,
    image_size: tuple[int, int],
    mode: Literal["squash", "crop"] = "squash",
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
) -> np.ndarray:
    """Some images of a split in one size: uint8 [N, H, W, 3]. InputError names one that cannot be read."""
    images = np.empty((len(indices), *image_size, 3), np.uint8)
    for row, index in enumerate(indices):
        try:
            image, _ = split[int(index)]
        except (OSError, ValueError) as error:
            raise InputError(
                f"{split.ids[int(index)]} cannot be read any more ({error}): restore it, then run again"
            ) from error
        images[row] = resize(image, image_size, mode, interpolation)
    return images


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    resize: Literal["squash", "crop"] = "squash",
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
    num_threads: int | None = None,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is padded with its first example, `mask` False."""

    def load(start: int) -> Batch:
        rows = np.arange(start, start + batch_size)
        mask = rows < len(split)
        indices = np.where(mask, rows, start)
        images = load_images(split, indices[mask], image_size, resize, interpolation)
        return {
            "image": images[np.where(mask, rows - start, 0)],
            "label": split.labels[indices],
            "index": indices.astype(np.int32),
            "mask": mask,
        }

    starts = grain.MapDataset.range(0, len(split), batch_size).map(load)
    threads = num_threads or min(os.cpu_count() or 1, 16)
    return iter(
        starts.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCH)
        )
    )


def load_arrays(
    split: Split,
    image_size: tuple[int, int],
    resize: Literal["squash", "crop"] = "squash",
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
) -> tuple[np.ndarray, np.ndarray]:
    """A whole split in memory: images uint8 [N, H, W, 3], labels int32 [N]."""
    batches = eval_batches(
        split, batch_size=32, image_size=image_size, resize=resize, interpolation=interpolation
    )
    return np.concatenate([b["image"][b["mask"]] for b in batches]), split.labels
