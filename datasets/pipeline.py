"""From splits to batches of uint8 on the host: decode, resize, shuffle, shard, batch, prefetch.

An element of the training pipeline is a whole batch: its number alone (epoch and place in the epoch) says
which examples it holds, so that any batch can be loaded without those before it, and a resume is exact.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, get_args

import grain
import numpy as np

from datasets.dataset import InputError, Split
from datasets.images.resize import Decoder
from zoo.common.resize import ResizeRule

Batch = dict[str, np.ndarray]

MAX_THREADS = 16


class Samples(Protocol):
    """Labeled samples of one shape, which batches are made of: `ImageSamples`, or a `VectorSplit` itself."""

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @property
    def dtype(self) -> np.dtype:
        """Of all."""

    def __len__(self) -> int: ...

    def load(self, indices: np.ndarray) -> np.ndarray:
        """Some samples: [len(indices), *shape]. InputError names one that cannot be read."""

    def arrays(self) -> np.ndarray:
        """All samples: [N, *shape]."""


@dataclasses.dataclass(frozen=True)
class ImageSamples:
    """Images of a split in one size: `Samples`, uint8 [H, W, 3] each.

    Equal when split (the same object), rule and decoder are, so that what was loaded can be found again.
    """

    split: Split
    rule: ResizeRule
    decoder: Decoder = "exact"

    def __post_init__(self) -> None:
        if self.decoder not in get_args(Decoder):
            raise ValueError(f"decoder is {self.decoder!r} instead of one of {get_args(Decoder)}")

    def __len__(self) -> int:
        return len(self.split)

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]."""
        return self.split.labels

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, 3."""
        return (*self.rule.size, 3)

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def load(self, indices: np.ndarray) -> np.ndarray:
        """Some images: uint8 [len(indices), H, W, 3]. InputError names one that cannot be read."""
        batch = np.empty((len(indices), *self.shape), self.dtype)
        for row, index in enumerate(indices):
            batch[row] = self.split.resized(int(index), self.rule, self.decoder)
        return batch

    def arrays(self) -> np.ndarray:
        """All images: uint8 [N, H, W, 3], loaded by threads."""
        images = np.empty((len(self), *self.shape), self.dtype)
        for batch in eval_batches(self, batch_size=16):
            images[batch["index"][batch["mask"]]] = batch["image"][batch["mask"]]
        return images


@functools.lru_cache(maxsize=4)  # every step asks; 50,000 examples take 5 ms to order
def epoch_order(num_examples: int, *, seed: int, epoch: int, repeats: int = 1) -> np.ndarray:
    """The order of an epoch: a permutation of `range(num_examples * repeats)`, int64, a function of
    (seed, epoch).

    Its elements are visits: visit v is of example `v % num_examples`, and no two visits of an epoch are the
    same number, so that what is drawn for a visit differs from one to the next. Without repeats a visit is
    its example.

    The one source of order, for every way of feeding; `TrainBatches.order` chooses between it and
    `balanced_order`. It is the same with any version of NumPy, which promises that of the bits that it
    draws, but not of its own permutations. Read-only.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    order = _permutation(bits, num_examples * repeats)
    order.setflags(write=False)
    return order


def balanced_order(labels: np.ndarray, *, seed: int, epoch: int, repeats: int = 1) -> np.ndarray:
    """The order of an epoch in which all classes are equally frequent: `len(labels) * repeats` visits (see
    `epoch_order`), a function of (labels, seed, epoch).

    A class's visits go through all of its examples as often as they can, and the rest are a random part of
    them: examples of a small class come several times, of a large one not every epoch. Classes that have no
    example count as absent. Read-only.
    """
    total = len(labels) * repeats
    _, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(of_class, kind="stable"), np.cumsum(sizes)[:-1])
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch, 1]))
    counts = np.full(len(sizes), total // len(sizes))
    counts[_permutation(bits, len(sizes))[: total % len(sizes)]] += 1  # what does not come out even
    visits = []
    for examples, count in zip(members, counts, strict=True):
        shuffled = examples[_permutation(bits, len(examples))]
        times, place = np.divmod(np.arange(count), len(examples))
        visits.append(times * len(labels) + shuffled[place])
    order = np.concatenate(visits)[_permutation(bits, total)]
    order.setflags(write=False)
    return order


def _permutation(bits: np.random.Philox, count: int) -> np.ndarray:
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)


def steps_per_epoch(
    num_examples: int, batch_size: int, *, keep_tail: bool, multiple_of: int = 1
) -> int:
    """Batches an epoch: full ones, and with `keep_tail` the smaller last one, if it holds anything.
    With repeats, `num_examples` counts each visit."""
    tail = _tail(num_examples, batch_size, keep_tail, multiple_of)
    return num_examples // batch_size + bool(tail)


def _tail(num_examples: int, batch_size: int, keep_tail: bool, multiple_of: int) -> int:
    rest = num_examples % batch_size
    return rest - rest % multiple_of if keep_tail else 0


class TrainBatches:
    """The batches of a whole training: shuffled anew each epoch, loaded by threads, in order.

    Args:
      samples: what to train on.
      batch_size: examples per batch, over all processes.
      seed: of the order.
      num_epochs: how many epochs there are.
      keep_tail: end each epoch with the smaller batch that is left.
      multiple_of: the tail is cut to a multiple of this (the number of devices over all processes).
      repeats: how often an epoch visits each example.
      balanced: all classes come equally often (see `balanced_order`), instead of all examples.
      shard: (index, count) of the processes that share each batch.
      num_threads: loading threads, each at work on another batch; by default one a core, at most 16.

    Raises InputError when a batch cannot be shared evenly, or when no epoch would have a batch.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        num_epochs: int,
        keep_tail: bool = False,
        multiple_of: int = 1,
        repeats: int = 1,
        balanced: bool = False,
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
        visits = len(samples) * repeats
        tail = _tail(visits, batch_size, keep_tail, multiple_of)
        self._used = visits // batch_size * batch_size + tail  # visits an epoch
        if not self._used:
            raise InputError(
                f"a batch of {batch_size} is more than the {len(samples)} training images:"
                " give a smaller batch size"
            )
        self.samples = samples
        self._batch_size = batch_size
        self._shard = shard
        self._num_threads = num_threads
        full = batch_size if self._used >= batch_size else 0
        self.batch_sizes = tuple(size // count for size in (full, tail) if size)  # of this process
        if balanced:
            order = functools.partial(balanced_order, samples.labels, seed=seed, repeats=repeats)
            self._order: Callable[..., np.ndarray] = functools.lru_cache(maxsize=4)(order)
        else:
            self._order = functools.partial(epoch_order, len(samples), seed=seed, repeats=repeats)
        self.steps_per_epoch = steps_per_epoch(
            visits, batch_size, keep_tail=keep_tail, multiple_of=multiple_of
        )
        self.num_steps = num_epochs * self.steps_per_epoch

    def order(self, epoch: int) -> np.ndarray:
        """The visits of an epoch in order, for all processes: int64; example `visit % len(samples)`."""
        return self._order(epoch=epoch)

    def indices(self, step: int) -> np.ndarray:
        """Which visits this process's part of a step's batch holds."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self.order(epoch)
        start = place * self._batch_size
        index, count = self._shard
        return order[start : min(start + self._batch_size, self._used)][index::count]

    def load(self, step: int) -> Batch:
        """The batch of a step: `image` uint8 [B, H, W, 3] (vectors: float32 [B, ...]), `label` int32 [B], `index`
        int32 [B], the visit."""
        visits = self.indices(step)
        examples = visits % len(self.samples)
        return {
            "image": self.samples.load(examples),
            "label": self.samples.labels[examples],
            "index": visits.astype(np.int32),
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


def eval_batches(
    samples: Samples, *, batch_size: int, num_threads: int | None = None
) -> Iterator[Batch]:
    """Every example once, in order, as `TrainBatches` gives them, and `mask`, bool [B]: the last batch is
    padded with copies of its first example, and False there."""

    def load(start: int) -> Batch:
        rows = np.arange(start, start + batch_size)
        mask = rows < len(samples)
        indices = np.where(mask, rows, start)
        loaded = samples.load(indices[mask])
        return {
            "image": loaded if mask.all() else loaded[np.where(mask, rows - start, 0)],
            "label": samples.labels[indices],
            "index": indices.astype(np.int32),
            "mask": mask,
        }

    return _threaded(range(0, len(samples), batch_size), load, num_threads)


def load_arrays(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """All samples in memory, [N, *shape], and their labels, int32 [N]."""
    return samples.arrays(), samples.labels
