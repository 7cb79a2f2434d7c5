"""Data sets derived from others: fewer images per class, fixed noise, several splits in one."""

import numpy as np
import pytest

from datasets import ResizeRule, load_dataset
from datasets.dataset import VectorSplit
from datasets.views import add_noise, joined, limit_per_class


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", image_size=32)


def test_limit_keeps_the_same_number_per_class_with_all_attributes(digits):
    limited = limit_per_class(digits, 7, seed=0)
    train, full = limited.splits["train"], digits.splits["train"]
    assert np.bincount(train.labels).tolist() == [7] * 10
    assert limited.splits["validation"] is digits.splits["validation"]
    assert limited.splits["test"] is digits.splits["test"]
    assert len(set(train.ids)) == 70
    for index in (0, 33, 69):
        original = full.ids.index(train.ids[index])
        assert train.digests[index] == full.digests[original]
        assert train.labels[index] == full.labels[original]
        rule = ResizeRule((16, 16))
        np.testing.assert_array_equal(train.resized(index, rule), full.resized(original, rule))
        np.testing.assert_array_equal(train[index][0], full[original][0])


def test_limit_depends_on_the_seed_and_keeps_all_of_smaller_classes(digits):
    ids = [limit_per_class(digits, 7, seed).splits["train"].ids for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    unlimited = limit_per_class(digits, 10_000, seed=0).splits["train"]
    assert unlimited.ids == digits.splits["train"].ids


def test_noise_is_fixed_and_on_the_given_fraction_of_images(digits):
    noisy = add_noise(digits, 0.2, 25.5, seed=3)
    for name, split in noisy.splits.items():
        clean, rule = digits.splits[name], ResizeRule((32, 32))
        count = min(len(split), 60)
        changed = [
            not np.array_equal(split.resized(i, rule), clean.resized(i, rule)) for i in range(count)
        ]
        assert changed == [i in split.noisy for i in range(count)]
        assert len(split.noisy) == round(0.2 * len(split))
    split = noisy.splits["test"]
    first = min(split.noisy)
    again = add_noise(digits, 0.2, 25.5, seed=3).splits["test"]
    np.testing.assert_array_equal(
        split.resized(first, ResizeRule((32, 32))), again.resized(first, ResizeRule((32, 32)))
    )
    assert noisy.splits["validation"].noisy != split.noisy


def test_noise_has_the_given_sigma_after_resizing(digits):
    noisy = add_noise(digits, 1.0, 10.0, seed=0).splits["train"]
    clean, rule = digits.splits["train"], ResizeRule((24, 24))
    differences = []
    for index in range(20):
        image = clean.resized(index, rule).astype(float)
        unclipped = (image > 60) & (image < 195)
        differences.append((noisy.resized(index, rule) - image)[unclipped])
    noise = np.concatenate(differences)
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(10, rel=0.05)


def test_joined_splits_hold_all_examples_in_order(digits):
    splits = list(digits.splits.values())
    whole = joined(splits)
    assert whole.ids == sum((split.ids for split in splits), ())
    assert whole.digests == sum((split.digests for split in splits), ())
    np.testing.assert_array_equal(whole.labels, np.concatenate([s.labels for s in splits]))
    rule, first = ResizeRule((16, 16)), len(splits[0])
    for index, split, own in (
        (0, splits[0], 0),
        (first - 1, splits[0], first - 1),
        (first, splits[1], 0),
        (len(whole) - 1, splits[2], len(splits[2]) - 1),
    ):
        np.testing.assert_array_equal(whole.resized(index, rule), split.resized(own, rule))
        np.testing.assert_array_equal(whole[index][0], split[own][0])


def test_joined_vectors(digits):
    splits = [
        VectorSplit(split, np.full((len(split), 2), number, np.float32))
        for number, split in enumerate(digits.splits.values())
    ]
    whole = joined(splits)
    assert isinstance(whole, VectorSplit)
    assert np.bincount(whole.values[:, 0].astype(int)).tolist() == [len(s) for s in splits]
    assert whole.ids == sum((split.ids for split in splits), ())
