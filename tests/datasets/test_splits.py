"""Splits are disjoint, complete, stratified, and depend on names alone."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import InputError
from datasets.splits import part_sizes, stratified_split

BOTH = {"validation": 0.1, "test": 0.1}
shares = st.floats(0.01, 0.45)
class_sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 60), min_size=1)


def examples(sizes):
    named = [(f"{name}/{i}.jpg", name) for name, size in sizes.items() for i in range(size)]
    return [e[0] for e in named], [e[1] for e in named]


@given(class_sizes, shares, shares, st.integers(0, 2**32))
def test_parts_are_disjoint_complete_and_stratified(sizes, validation, test, seed):
    ids, classes = examples(sizes)
    fractions = {"validation": validation, "test": test}
    parts = stratified_split(ids, classes, fractions, seed=seed)
    assert sorted(p for positions in parts.values() for p in positions) == list(range(len(ids)))
    assert set(parts) == {"train", "validation", "test"}
    for name, positions in parts.items():
        assert positions == sorted(positions)
        counts = Counter(classes[p] for p in positions)
        assert set(counts) == set(sizes)
        for class_name, size in sizes.items():
            share = fractions.get(name, 1 - validation - test)
            # Two parts are rounded, half an image each, and every part has at least one image.
            assert (
                abs(counts[class_name] - share * size) <= 1 or size * min(*fractions.values()) < 1
            )


@given(class_sizes, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_order_of_listing_does_not_matter(sizes, seed, shuffler):
    ids, classes = examples(sizes)
    shuffled = list(zip(ids, classes, strict=True))
    shuffler.shuffle(shuffled)
    once = stratified_split(ids, classes, BOTH, seed=seed)
    again = stratified_split(*zip(*shuffled, strict=True), BOTH, seed=seed)
    for name in once:
        assert {ids[p] for p in once[name]} == {shuffled[p][0] for p in again[name]}


def test_seed_matters_and_the_split_is_the_same_for_ever():
    ids, classes = examples({"a": 12, "b": 5})
    splits = [stratified_split(ids, classes, BOTH, seed=seed) for seed in range(20)]
    assert len({tuple(s["test"]) for s in splits}) > 10
    assert splits[0] == stratified_split(ids, classes, BOTH, seed=0)
    assert (splits[3]["validation"], splits[3]["test"]) == ([8, 12], [5, 13])


def test_new_images_leave_the_others_in_place():
    ids, classes = examples({"a": 400})
    before = stratified_split(ids, classes, BOTH, seed=0)
    more = [*ids, *(f"a/new{i}.jpg" for i in range(40))]
    after = stratified_split(more, ["a"] * 440, BOTH, seed=0)
    stayed = len(set(before["test"]) & set(after["test"]))
    assert stayed >= 30  # of 40; about 4 of 40 by chance


@given(st.integers(0, 100), shares, shares)
def test_sizes_follow_the_shares_and_leave_one(total, validation, test):
    fractions = {"validation": validation, "test": test}
    sizes = part_sizes(total, fractions)
    assert all(size >= 0 for size in sizes.values())
    assert sum(sizes.values()) <= max(total - 1, 0)
    if total >= 3:
        assert min(sizes.values()) >= 1
    if total >= 40:
        for part, share in fractions.items():
            assert abs(sizes[part] - max(1, share * total)) <= 0.5 + 1e-9 or math.isclose(
                share * total % 1, 0.5
            )


def test_two_images_go_to_training_and_test():
    assert part_sizes(2, BOTH) == {"validation": 0, "test": 1}
    ids, classes = examples({"a": 20, "b": 2})
    parts = stratified_split(ids, classes, BOTH, seed=0)
    assert [sum(classes[p] == "b" for p in parts[n]) for n in ("train", "validation", "test")] == [
        1,
        0,
        1,
    ]


def test_class_with_one_image_is_named():
    ids, classes = examples({"a": 5, "b": 1})
    message = (
        r"class b has one image, .*train and validation and test: add images, or take the class out"
    )
    with pytest.raises(InputError, match=message):
        stratified_split(ids, classes, BOTH, seed=0)
    assert stratified_split(ids, classes, {}, seed=0) == {"train": list(range(6))}
    ids, classes = examples({"a": 5, "b": 1, "c": 1})
    with pytest.raises(InputError, match="class b .*nor can 1 more"):
        stratified_split(ids, classes, BOTH, seed=0)


def test_part_without_images_is_named():
    ids, classes = examples({"a": 2, "b": 2})
    with pytest.raises(
        InputError, match="4 images in 2 classes leave none for the validation part"
    ):
        stratified_split(ids, classes, BOTH, seed=0)
