"""Input pipeline: decode, resize, shuffle, shard, batch and prefetch splits as uint8 on the host.

An element of the training pipeline is a whole batch. The step determines the samples in the batch, so that any batch
can be loaded without its predecessors, and resuming is exact.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, get_args

import grain
import numpy as np

from datasets.dataset import InputError, Progress, Split
from datasets.images.resize import Decoder
from datasets.memory import kept_images
from zoo.common.resize import ResizeRule

Batch = dict[str, np.ndarray]

MAX_THREADS = 16


class Samples(Protocol):
    """Labeled samples of one shape, the source of batches: `ImageSamples` or `VectorSplit`."""

    @property
    def labels(self) -> np.ndarray:
        """Labels, int32 [N]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    def dtype(self) -> np.dtype:
        """Data type of the samples."""

    def __len__(self) -> int: ...

    def load(self, indices: np.ndarray) -> np.ndarray:
        """Load the samples at `indices`: [len(indices), *shape]. Raises InputError that names an unreadable sample."""

    def arrays(self) -> np.ndarray:
        """Load all samples: [N, *shape]."""


@dataclasses.dataclass(frozen=True)
class ImageSamples:
    """The images of a split at one size, uint8 [H, W, 3] each. Implements `Samples`.

    Images that are loaded repeatedly are kept in memory if all of them fit (see `datasets.memory`): decoding takes
    longer than a training step of a small net.

    Two instances are equal if they have the same split (by identity), rule and decoder, so that they can serve as
    cache keys.
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
        """Labels, int32 [N]."""
        return self.split.labels

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: height, width, 3."""
        return (*self.rule.size, 3)

    @property
    def dtype(self) -> np.dtype:
        """Data type of the images: uint8."""
        return np.dtype(np.uint8)

    def load(self, indices: np.ndarray) -> np.ndarray:
        """Load the images at `indices`: uint8 [len(indices), H, W, 3]. Raises InputError that names an unreadable
        image."""
        batch = np.empty((len(indices), *self.shape), self.dtype)
        kept = kept_images(self.split, (self.rule, self.decoder), len(self), self.shape)
        for row, index in enumerate(map(int, indices)):
            decode = functools.partial(self.split.resized, index, self.rule, self.decoder)
            batch[row] = kept.load(index, decode) if kept else decode()
        return batch

    def arrays(self) -> np.ndarray:
        """Load all images in threads: uint8 [N, H, W, 3]."""
        images = np.empty((len(self), *self.shape), self.dtype)
        for batch in eval_batches(self, batch_size=16):
            images[batch["index"][batch["mask"]]] = batch["image"][batch["mask"]]
        return images


def channel_statistics(
    samples: ImageSamples, progress: Progress | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of red, green and blue over all pixels of all images, in [0, 1], to six digits."""
    count, total, squares = 0, np.zeros(3), np.zeros(3)
    for batch in eval_batches(samples, batch_size=16):
        pixels = batch["image"][batch["mask"]].reshape(-1, 3).astype(np.float64) / 255
        count += len(pixels)
        total += pixels.sum(axis=0)
        squares += np.square(pixels).sum(axis=0)
        if progress:
            done = min(int(batch["index"].max()) + 1, len(samples))
            progress("mean and deviation of training images", done, len(samples))
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return tuple(mean.round(6).tolist()), tuple(deviation.round(6).tolist())


@functools.lru_cache(maxsize=4)  # called every step; shuffling 50,000 samples takes 5 ms
def epoch_order(num_examples: int, *, seed: int, epoch: int, repeats: int = 1) -> np.ndarray:
    """Return the order of an epoch: a permutation of `range(num_examples * repeats)`, int64, read-only.

    Depends only on the arguments. The elements are sample numbers: number i is an occurrence of example
    `i % num_examples`. Sample numbers are unique within an epoch, so random augmentation differs between occurrences of
    an example. Without repeats, sample numbers are example indices.

    All feeding modes use this order, or `balanced_order`; see `TrainBatches.order`. It is the same with every version
    of NumPy, which guarantees a generator's random bits, but not its permutations.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    order = _permutation(bits, num_examples * repeats)
    order.setflags(write=False)
    return order


def balanced_order(labels: np.ndarray, *, seed: int, epoch: int, repeats: int = 1) -> np.ndarray:
    """Return an order in which all classes are equally frequent: `len(labels) * repeats` sample numbers, read-only.

    Depends only on the arguments; see `epoch_order` for sample numbers. All examples of a class occur equally often,
    up to a random subset that occurs once more: examples of a small class occur several times per epoch, and those of
    a large class not in every epoch. Classes without examples are ignored.
    """
    total = len(labels) * repeats
    _, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(of_class, kind="stable"), np.cumsum(sizes)[:-1])
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch, 1]))
    counts = np.full(len(sizes), total // len(sizes))
    counts[_permutation(bits, len(sizes))[: total % len(sizes)]] += 1  # the remainder
    numbers = []
    for examples, count in zip(members, counts, strict=True):
        shuffled = examples[_permutation(bits, len(examples))]
        repeat, place = np.divmod(np.arange(count), len(examples))
        numbers.append(repeat * len(labels) + shuffled[place])
    order = np.concatenate(numbers)[_permutation(bits, total)]
    order.setflags(write=False)
    return order


def _permutation(bits: np.random.Philox, count: int) -> np.ndarray:
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)


def steps_per_epoch(
    num_examples: int, batch_size: int, *, drop_last: bool, multiple_of: int = 1
) -> int:
    """Return the number of batches per epoch: full batches and, unless `drop_last`, a smaller last one.

    With repeats, `num_examples` is the number of samples per epoch.
    """
    tail = _tail(num_examples, batch_size, drop_last, multiple_of)
    return num_examples // batch_size + bool(tail)


def _tail(num_examples: int, batch_size: int, drop_last: bool, multiple_of: int) -> int:
    rest = num_examples % batch_size
    return 0 if drop_last else rest - rest % multiple_of


class TrainBatches:
    """The batches of a whole training run, reshuffled every epoch and loaded in order by threads.

    Args:
      samples: the training samples.
      batch_size: samples per batch, over all processes.
      seed: seed of the order.
      num_epochs: number of epochs.
      drop_last: drop the smaller batch at the end of each epoch.
      multiple_of: the size of the last batch is rounded down to a multiple of this, the number of devices over all
        processes.
      repeats: occurrences of each example per epoch.
      balanced: sample all classes equally often (see `balanced_order`), instead of all examples.
      shard: (index, count) of the processes that share each batch.
      num_threads: loading threads, each of which loads whole batches; default: one per core, at most 16.

    Raises InputError if a batch cannot be divided evenly, or if an epoch would have no batch.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        num_epochs: int,
        drop_last: bool = True,
        multiple_of: int = 1,
        repeats: int = 1,
        balanced: bool = False,
        shard: tuple[int, int] = (0, 1),
        num_threads: int | None = None,
    ):
        index, count = shard
        if not 0 <= index < count:
            raise ValueError(f"shard is {index} of {count}: use an index from 0 to {count - 1}")
        multiple_of = math.lcm(multiple_of, count)
        if batch_size < 1 or batch_size % multiple_of:
            raise InputError(
                f"a batch of {batch_size} cannot be split across {multiple_of} devices: use a multiple"
                f" of {multiple_of}"
            )
        total = len(samples) * repeats
        tail = _tail(total, batch_size, drop_last, multiple_of)
        self._samples_per_epoch = total // batch_size * batch_size + tail
        if not self._samples_per_epoch:
            raise InputError(
                f"a batch of {batch_size} exceeds the {len(samples)} training images:"
                " use a smaller batch size"
            )
        self.samples = samples
        self._batch_size = batch_size
        self._shard = shard
        self._num_threads = num_threads
        full = batch_size if self._samples_per_epoch >= batch_size else 0
        self.batch_sizes = tuple(size // count for size in (full, tail) if size)  # of this process
        if balanced:
            order = functools.partial(balanced_order, samples.labels, seed=seed, repeats=repeats)
            self._order: Callable[..., np.ndarray] = functools.lru_cache(maxsize=4)(order)
        else:
            self._order = functools.partial(epoch_order, len(samples), seed=seed, repeats=repeats)
        self.steps_per_epoch = steps_per_epoch(
            total, batch_size, drop_last=drop_last, multiple_of=multiple_of
        )
        self.num_steps = num_epochs * self.steps_per_epoch

    def order(self, epoch: int) -> np.ndarray:
        """Return the sample numbers of an epoch in order, over all processes: int64; see `epoch_order`."""
        return self._order(epoch=epoch)

    def indices(self, step: int) -> np.ndarray:
        """Return the sample numbers in this process's shard of a batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self.order(epoch)
        start = place * self._batch_size
        index, count = self._shard
        return order[start : min(start + self._batch_size, self._samples_per_epoch)][index::count]

    def load(self, step: int) -> Batch:
        """Load this process's shard of a batch.

        Returns `image` uint8 [B, H, W, 3] (vectors: float32 [B, ...]), `label` int32 [B] and `index` int32 [B], the
        sample numbers.
        """
        numbers = self.indices(step)
        examples = numbers % len(self.samples)
        return {
            "image": self.samples.load(examples),
            "label": self.samples.labels[examples],
            "index": numbers.astype(np.int32),
        }

    def iterate(self, start_step: int = 0) -> Any:
        """Return a Grain iterator that starts at a step; its `get_state()` holds the number of the next step."""
        iterator = _threaded(range(self.num_steps), self.load, self._num_threads)
        iterator.set_state({"next_index": start_step})
        return iterator


def _threaded(elements: range, load: Callable[[int], Batch], num_threads: int | None) -> Any:
    """Return a Grain iterator of `load(element)`, in order, with prefetching threads."""
    # Threads, not processes: decoding and resizing release the GIL, images are not copied, and threads are 1.5 times as
    # fast on two cores.
    threads = num_threads or min(os.cpu_count() or 1, MAX_THREADS)
    dataset = grain.MapDataset.range(elements.start, elements.stop, elements.step).map(load)
    # The buffer includes batches being loaded: a smaller buffer would leave threads idle.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
    return iter(dataset.to_iter_dataset(options))


def eval_batches(
    samples: Samples, *, batch_size: int, num_threads: int | None = None
) -> Iterator[Batch]:
    """Iterate over every sample once, in order.

    Batches have the keys of `TrainBatches.load` and `mask`, bool [B]: the last batch is padded with copies of its
    first sample, whose mask is False.
    """

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
    """Load all samples, [N, *shape], and their labels, int32 [N]."""
    return samples.arrays(), samples.labels
