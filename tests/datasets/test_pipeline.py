"""Order, batches, resuming and sharding."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import InputError, ResizeRule, Split, memory
from datasets.dataset import VectorSplit
from datasets.images.resize import resize
from datasets.pipeline import (
    ImageSamples,
    TrainBatches,
    balanced_order,
    epoch_order,
    eval_batches,
    load_arrays,
    steps_per_epoch,
)


def numbered(total, size=(4, 6)):
    """Create a split whose image i is filled with the value i."""
    return Split(
        [f"{i}.png" for i in range(total)],
        [i % 3 for i in range(total)],
        lambda i: np.full((*size, 3), i, np.uint8),
    )


def samples_of(total=23, side=8):
    return ImageSamples(numbered(total), ResizeRule((side, side)))


def batches_of(total=23, **options):
    defaults = {"batch_size": 5, "seed": 1, "num_epochs": 2}
    return TrainBatches(samples_of(total), **defaults | options)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(0, 10_000))
def test_order_is_a_permutation_that_depends_on_seed_and_epoch(total, seed, epoch):
    order = epoch_order(total, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(total))
    np.testing.assert_array_equal(order, epoch_order(total, seed=seed, epoch=epoch))
    if total > 20:
        assert np.any(order != epoch_order(total, seed=seed, epoch=epoch + 1))
        assert np.any(order != epoch_order(total, seed=seed + 1, epoch=epoch))


def test_order_is_the_same_on_every_platform_and_version():
    """Resuming with another version of NumPy depends on it."""
    assert epoch_order(10, seed=3, epoch=2).tolist() == PINNED


PINNED = [2, 8, 9, 3, 6, 4, 1, 7, 5, 0]


def test_repeats_have_unique_sample_numbers():
    order = epoch_order(7, seed=1, epoch=2, repeats=6)
    assert sorted(order) == list(range(42))
    np.testing.assert_array_equal(np.bincount(order % 7), np.full(7, 6))
    assert np.any(order != epoch_order(7, seed=1, epoch=3, repeats=6))


UNBALANCED = np.array([0] * 40 + [1] * 7 + [3] * 3)  # and none of class 2


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80),
    st.integers(1, 4),
    st.integers(0, 100),
)
def test_balanced_order_has_all_classes_equally_often(labels, repeats, epoch):
    labels = np.array(labels)
    order = balanced_order(labels, seed=3, epoch=epoch, repeats=repeats)
    total = len(labels) * repeats
    assert len(order) == total == len(set(order.tolist()))
    examples = order % len(labels)
    counts = np.bincount(labels[examples], minlength=6)[np.unique(labels)]
    assert counts.max() - counts.min() <= 1
    for label in np.unique(labels):  # within a class, all examples occur equally often
        occurrences = np.bincount(examples, minlength=len(labels))[labels == label]
        assert occurrences.max() - occurrences.min() <= 1
    again = balanced_order(labels, seed=3, epoch=epoch, repeats=repeats)
    np.testing.assert_array_equal(order, again)


def test_balanced_order_is_shuffled_and_depends_on_seed_and_epoch():
    order = balanced_order(UNBALANCED, seed=0, epoch=0)
    assert np.any(order != balanced_order(UNBALANCED, seed=0, epoch=1))
    assert np.any(order != balanced_order(UNBALANCED, seed=1, epoch=0))
    halves = UNBALANCED[order % 50][:24], UNBALANCED[order % 50][24:]
    assert all(set(half.tolist()) == {0, 1, 3} for half in halves)
    # An epoch has a subset of the largest class; over many epochs, its examples occur about equally often.
    orders = [balanced_order(UNBALANCED, seed=0, epoch=epoch) % 50 for epoch in range(60)]
    occurrences = np.bincount(np.concatenate(orders), minlength=50)
    assert occurrences[:40].min() > 12 and occurrences[:40].max() < 40  # 25 expected
    # The remainder goes to random classes: 50 is 3 x 16 + 2.
    counts = {tuple(np.bincount(UNBALANCED[order])) for order in orders[:30]}
    assert counts == {(17, 17, 0, 16), (17, 16, 0, 17), (16, 17, 0, 17)}


def test_balanced_order_is_the_same_on_every_platform_and_version():
    order = balanced_order(np.array([0, 0, 0, 0, 0, 1, 1]), seed=3, epoch=2)
    assert order.tolist() == PINNED_BALANCED


PINNED_BALANCED = [13, 12, 6, 1, 5, 0, 2]  # three examples of class 0, both of class 1 twice


@pytest.mark.parametrize(
    ("drop_last", "multiple_of", "sizes"),
    [(True, 1, [8, 8]), (False, 1, [8, 8, 7]), (False, 4, [8, 8, 4]), (False, 8, [8, 8])],
)
def test_batch_sizes(drop_last, multiple_of, sizes):
    batches = batches_of(batch_size=8, drop_last=drop_last, multiple_of=multiple_of)
    loaded = list(batches.iterate())
    assert [len(b["label"]) for b in loaded] == sizes * 2
    assert batches.steps_per_epoch == len(sizes)
    assert batches.batch_sizes == tuple(dict.fromkeys(sizes))
    assert len(sizes) == steps_per_epoch(23, 8, drop_last=drop_last, multiple_of=multiple_of)
    for epoch in (loaded[: len(sizes)], loaded[len(sizes) :]):
        seen = np.concatenate([b["index"] for b in epoch])
        assert len(set(seen.tolist())) == len(seen) == sum(sizes)


def test_batches_have_images_labels_and_sample_numbers():
    for batch in batches_of().iterate():
        assert {k: (v.dtype, v.shape) for k, v in batch.items()} == {
            "image": (np.uint8, (5, 8, 8, 3)),
            "label": (np.int32, (5,)),
            "index": (np.int32, (5,)),
        }
        np.testing.assert_array_equal(batch["image"][:, 3, 3, 1], batch["index"])
        np.testing.assert_array_equal(batch["label"], batch["index"] % 3)


@pytest.mark.parametrize(
    "options", [{"repeats": 3}, {"balanced": True}, {"repeats": 2, "balanced": True}]
)
def test_sample_numbers_match_images_and_labels(options):
    batches = batches_of(drop_last=False, **options)
    repeats = options.get("repeats", 1)
    assert batches.steps_per_epoch == steps_per_epoch(23 * repeats, 5, drop_last=False)
    loaded = list(batches.iterate())
    assert len(loaded) == 2 * batches.steps_per_epoch
    for batch in loaded:
        np.testing.assert_array_equal(batch["image"][:, 3, 3, 1], batch["index"] % 23)
        np.testing.assert_array_equal(batch["label"], batch["index"] % 23 % 3)
    for number in range(2):
        epoch = loaded[number * batches.steps_per_epoch :][: batches.steps_per_epoch]
        seen = np.concatenate([b["index"] for b in epoch])
        np.testing.assert_array_equal(seen, batches.order(number))
        assert len(set(seen.tolist())) == 23 * repeats


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("start", [0, 1, 4, 7])
@pytest.mark.parametrize("options", [{}, {"repeats": 2, "balanced": True}])
def test_iteration_can_start_at_any_step(start, options):
    batches = batches_of(drop_last=False, **options)
    assert_same_batches(batches.iterate(start), list(batches.iterate())[start:])


def test_iterator_state_is_the_next_step():
    batches = batches_of()
    iterator = batches.iterate()
    next(iterator), next(iterator)
    state = iterator.get_state()
    assert state["next_index"] == 2
    rest = list(iterator)
    again = batches.iterate()
    again.set_state(state)
    assert_same_batches(again, rest)


def test_batches_do_not_depend_on_the_number_of_threads():
    assert_same_batches(batches_of(num_threads=1).iterate(), batches_of(num_threads=4).iterate())


def test_shards_share_each_batch():
    batches = list(batches_of(batch_size=6).iterate())
    shards = [list(batches_of(batch_size=6, shard=(i, 2)).iterate()) for i in range(2)]
    for batch, *shares in zip(batches, *shards, strict=True):
        indices = [set(share["index"].tolist()) for share in shares]
        assert not indices[0] & indices[1]
        assert indices[0] | indices[1] == set(batch["index"].tolist())


@pytest.mark.parametrize("count", [2, 3])
def test_shards_of_an_epoch_are_disjoint_and_complete(count):
    options = {"batch_size": 6, "num_epochs": 1, "drop_last": False}
    shards = [batches_of(total=24 + count, shard=(i, count), **options) for i in range(count)]
    seen = [
        np.concatenate([b["index"] for b in s.iterate()]) if s.num_steps else [] for s in shards
    ]
    assert sorted(np.concatenate(seen)) == list(range(24 + count))
    assert {s.batch_sizes for s in shards} == {(6 // count, 1)}
    assert len({len(s) for s in seen}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "a batch of 0 cannot be split across 1 devices"),
        ({"batch_size": 24}, "a batch of 24 exceeds the 23 training images"),
        ({"batch_size": 6, "multiple_of": 4}, "a batch of 6 cannot be split across 4 devices"),
        ({"batch_size": 5, "shard": (0, 2)}, "a batch of 5 cannot be split across 2 devices"),
    ],
)
def test_invalid_batch_sizes(options, message):
    with pytest.raises(InputError, match=message):
        batches_of(**options)


def test_split_smaller_than_a_batch_is_one_batch():
    batches = batches_of(batch_size=30, drop_last=False)
    assert [len(b["label"]) for b in batches.iterate()] == [23, 23]
    assert batches.batch_sizes == (23,)


def test_buffer_does_not_limit_the_threads():
    """Six batches load at the same time; otherwise, the barrier would time out."""
    barrier = threading.Barrier(6, timeout=10)

    def load(index):
        barrier.wait()
        return np.zeros((4, 4, 3), np.uint8)

    split = Split(list(map(str, range(6))), [0] * 6, load)
    batches = TrainBatches(
        ImageSamples(split, ResizeRule((4, 4))),
        batch_size=1,
        seed=0,
        num_epochs=1,
        num_threads=6,
    )
    assert len(list(batches.iterate())) == 6


@pytest.mark.parametrize("total", [1, 5, 23])
def test_eval_batches_have_every_sample_once_in_order(total):
    loaded = list(eval_batches(samples_of(total), batch_size=5))
    assert all(b["image"].shape == (5, 8, 8, 3) for b in loaded)
    seen = np.concatenate([b["index"][b["mask"]] for b in loaded])
    np.testing.assert_array_equal(seen, np.arange(total))
    assert not loaded[-1]["mask"][total % 5 or 5 :].any()
    np.testing.assert_array_equal(loaded[0]["image"][0], np.zeros((8, 8, 3)))


def test_load_arrays_loads_the_whole_split():
    images, labels = load_arrays(samples_of(70))
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(70))
    np.testing.assert_array_equal(labels, np.arange(70) % 3)


def test_resize_rule_applies_to_all_ways_of_loading():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 12, 20, 3), np.uint8)
    split = Split([str(i) for i in range(4)], [0] * 4, lambda i: images[i])
    rule, whole = ResizeRule((8, 8), "crop", "bicubic", 0.75), ResizeRule((8, 8), "crop", "bicubic")
    samples = ImageSamples(split, rule)
    expected = np.stack([resize(image, rule) for image in images])
    assert not np.array_equal(expected, np.stack([resize(image, whole) for image in images]))

    loaded, _ = load_arrays(samples)
    np.testing.assert_array_equal(loaded, expected)
    (batch,) = eval_batches(samples, batch_size=4)
    np.testing.assert_array_equal(batch["image"], expected)
    batches = TrainBatches(samples, batch_size=4, seed=0, num_epochs=1)
    batch = next(batches.iterate())
    np.testing.assert_array_equal(batch["image"], expected[batch["index"]])


@pytest.mark.parametrize(("free", "decoded"), [(10**9, 2), (100, 4)])
def test_images_stay_in_memory_from_their_second_load_on(monkeypatch, free, decoded):
    """If they fit. Every epoch has the same images either way, and images that are loaded once take no memory."""
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), np.uint8)
    counts = np.zeros(12, int)

    def load(index):
        counts[index] += 1
        return images[index]

    split = Split([str(i) for i in range(12)], [0] * 12, load)
    rule = ResizeRule((8, 8))
    expected = np.stack([resize(image, rule) for image in images])
    for epoch in range(4):
        # A new object each time: what counts is the split, the rule and the decoder.
        batches = TrainBatches(ImageSamples(split, rule), batch_size=4, seed=0, num_epochs=4)
        for step in range(3 * epoch, 3 * epoch + 3):
            batch = batches.load(step)
            np.testing.assert_array_equal(batch["image"], expected[batch["index"]])
    assert counts.tolist() == [decoded] * 12
    other = ResizeRule((6, 6))
    (batch,) = eval_batches(ImageSamples(split, other), batch_size=12)
    np.testing.assert_array_equal(batch["image"], [resize(image, other) for image in images])


def test_free_memory_respects_the_limit_of_a_container(monkeypatch, tmp_path):
    free = memory.free_bytes()
    assert 2**20 < free < 2**50
    limits = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "LIMITS", limits)
    limits[1].write_text("1000\n")
    limits[0].write_text("max\n")
    assert memory.free_bytes() > 2**20
    limits[0].write_text("5000\n")
    assert memory.free_bytes() == 4000


def test_deleted_file_is_named():
    def load(index):
        if index == 3:
            raise FileNotFoundError("no such file")
        return np.zeros((4, 4, 3), np.uint8)

    split = Split([f"cats/{i}.jpg" for i in range(6)], [0] * 6, load)
    with pytest.raises(InputError, match=r"cats/3.jpg can no longer be read .*no such file"):
        load_arrays(ImageSamples(split, ResizeRule((8, 8))))
    batches = TrainBatches(
        ImageSamples(split, ResizeRule((8, 8))), batch_size=6, seed=0, num_epochs=1
    )
    with pytest.raises(InputError, match=r"cats/3.jpg"):
        list(batches.iterate())


def test_image_samples_are_equal_if_split_rule_and_decoder_are():
    """The engine uses them as keys of the samples cached on the device."""
    split, rule = numbered(3), ResizeRule((8, 8))
    samples = ImageSamples(split, rule)
    assert samples == ImageSamples(split, ResizeRule((8, 8)))
    assert hash(samples) == hash(ImageSamples(split, rule))
    assert samples != ImageSamples(numbered(3), rule)
    assert samples != ImageSamples(split, ResizeRule((8, 9)))
    assert samples != ImageSamples(split, rule, "fast")
    with pytest.raises(ValueError, match="decoder is 'quick'"):
        ImageSamples(split, rule, "quick")


def test_vector_splits_implement_samples():
    values = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
    vectors = VectorSplit(numbered(23), values)
    assert (len(vectors), vectors.shape, vectors.dtype) == (23, (4,), np.float32)
    assert vectors.ids == numbered(23).ids
    assert not isinstance(vectors, Split)
    arrays, labels = load_arrays(vectors)
    assert arrays is values and labels is vectors.labels
    *_, last = eval_batches(vectors, batch_size=5)
    np.testing.assert_array_equal(last["image"], values[[20, 21, 22, 20, 20]])
    batches = TrainBatches(vectors, batch_size=5, seed=1, num_epochs=1)
    assert batches.samples is vectors
    for batch, images in zip(batches.iterate(), batches_of(num_epochs=1).iterate(), strict=True):
        assert batch["image"].dtype == np.float32
        np.testing.assert_array_equal(batch["image"], values[batch["index"]])
        np.testing.assert_array_equal(batch["index"], images["index"])
    with pytest.raises(ValueError, match="22 vectors for 23 samples"):
        VectorSplit(numbered(23), values[:-1])
