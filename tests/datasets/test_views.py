"""Data sets made of others: fewer images of a class, and noise that stays."""

import numpy as np
import pytest

from datasets import ResizeRule, load_dataset
from datasets.views import add_noise, limit_per_class


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", image_size=32)


def test_a_limit_keeps_as_many_of_each_class_and_what_belongs_to_them(digits):
    limited = limit_per_class(digits, 7, seed=0)
    train, whole = limited.splits["train"], digits.splits["train"]
    assert np.bincount(train.labels).tolist() == [7] * 10
    assert limited.splits["validation"] is digits.splits["validation"]
    assert limited.splits["test"] is digits.splits["test"]
    assert len(set(train.ids)) == 70
    for position in (0, 33, 69):
        original = whole.ids.index(train.ids[position])
        assert train.digests[position] == whole.digests[original]
        assert train.labels[position] == whole.labels[original]
        rule = ResizeRule((16, 16))
        np.testing.assert_array_equal(train.resized(position, rule), whole.resized(original, rule))
        np.testing.assert_array_equal(train[position][0], whole[original][0])


def test_a_limit_is_a_choice_of_the_seed_and_takes_all_where_there_are_fewer(digits):
    ids = [limit_per_class(digits, 7, seed).splits["train"].ids for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    everything = limit_per_class(digits, 10_000, seed=0).splits["train"]
    assert everything.ids == digits.splits["train"].ids


def test_noise_is_on_the_share_asked_for_and_stays_the_same(digits):
    noisy = add_noise(digits, 0.2, 25.5, seed=3)
    for part, split in noisy.splits.items():
        clean, rule = digits.splits[part], ResizeRule((32, 32))
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


def test_noise_has_the_strength_asked_for_at_the_size_that_the_net_sees(digits):
    noisy = add_noise(digits, 1.0, 10.0, seed=0).splits["train"]
    clean, rule = digits.splits["train"], ResizeRule((24, 24))
    differences = []
    for index in range(20):
        image = clean.resized(index, rule).astype(float)
        inside = (image > 60) & (image < 195)  # where nothing is clipped
        differences.append((noisy.resized(index, rule) - image)[inside])
    spread = np.concatenate(differences)
    assert abs(spread.mean()) < 0.5
    assert spread.std() == pytest.approx(10, rel=0.05)
