"""Splits are disjoint, complete and stratified, keep groups together, and depend only on ids and seed."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import InputError
from datasets.splits import fold_split, split_counts, stratified_split

BOTH = {"validation": 0.1, "test": 0.1}
shares = st.floats(0.01, 0.45)
class_sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 60), min_size=1)


def examples(sizes):
    pairs = [(f"{name}/{i}.jpg", name) for name, size in sizes.items() for i in range(size)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@given(class_sizes, shares, shares, st.integers(0, 2**32))
def test_splits_are_disjoint_complete_and_stratified(sizes, validation, test, seed):
    ids, classes = examples(sizes)
    fractions = {"validation": validation, "test": test}
    splits = stratified_split(ids, classes, fractions, seed=seed)
    assert sorted(i for indices in splits.values() for i in indices) == list(range(len(ids)))
    assert set(splits) == {"train", "validation", "test"}
    for name, indices in splits.items():
        assert indices == sorted(indices)
        counts = Counter(classes[i] for i in indices)
        assert set(counts) == set(sizes)
        for class_name, size in sizes.items():
            share = fractions.get(name, 1 - validation - test)
            # Two splits are rounded by up to half an image each, and every split has at least one image.
            assert (
                abs(counts[class_name] - share * size) <= 1 or size * min(*fractions.values()) < 1
            )


@pytest.mark.slow
@given(class_sizes, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_split_does_not_depend_on_the_order_of_examples(sizes, seed, shuffler):
    ids, classes = examples(sizes)
    shuffled = list(zip(ids, classes, strict=True))
    shuffler.shuffle(shuffled)
    splits = stratified_split(ids, classes, BOTH, seed=seed)
    again = stratified_split(*zip(*shuffled, strict=True), BOTH, seed=seed)
    for name in splits:
        assert {ids[i] for i in splits[name]} == {shuffled[i][0] for i in again[name]}


def test_split_depends_on_the_seed_and_never_changes():
    ids, classes = examples({"a": 12, "b": 5})
    splits = [stratified_split(ids, classes, BOTH, seed=seed) for seed in range(20)]
    assert len({tuple(s["test"]) for s in splits}) > 10
    assert splits[0] == stratified_split(ids, classes, BOTH, seed=0)
    assert (splits[3]["validation"], splits[3]["test"]) == ([8, 12], [5, 13])


def test_most_images_stay_in_their_splits_when_images_are_added():
    ids, classes = examples({"a": 400})
    before = stratified_split(ids, classes, BOTH, seed=0)
    more = [*ids, *(f"a/new{i}.jpg" for i in range(40))]
    after = stratified_split(more, ["a"] * 440, BOTH, seed=0)
    stayed = len(set(before["test"]) & set(after["test"]))
    assert stayed >= 30  # of 40; about 4 by chance


@given(st.integers(0, 100), shares, shares)
def test_counts_are_rounded_fractions_and_leave_a_training_image(total, validation, test):
    fractions = {"validation": validation, "test": test}
    counts = split_counts(total, fractions)
    assert all(count >= 0 for count in counts.values())
    assert sum(counts.values()) <= max(total - 1, 0)
    if total >= 3:
        assert min(counts.values()) >= 1
    if total >= 40:
        for split, share in fractions.items():
            assert abs(counts[split] - max(1, share * total)) <= 0.5 + 1e-9 or math.isclose(
                share * total % 1, 0.5
            )


def test_two_images_go_to_training_and_test():
    assert split_counts(2, BOTH) == {"validation": 0, "test": 1}
    ids, classes = examples({"a": 20, "b": 2})
    splits = stratified_split(ids, classes, BOTH, seed=0)
    counts = {name: sum(classes[i] == "b" for i in indices) for name, indices in splits.items()}
    assert counts == {"train": 1, "validation": 0, "test": 1}


def test_class_with_one_image_is_named():
    ids, classes = examples({"a": 5, "b": 1})
    message = (
        r"class b has only one image, .*train, validation and test: add images, or remove the class"
    )
    with pytest.raises(InputError, match=message):
        stratified_split(ids, classes, BOTH, seed=0)
    assert stratified_split(ids, classes, {}, seed=0) == {"train": list(range(6))}
    ids, classes = examples({"a": 5, "b": 1, "c": 1})
    with pytest.raises(InputError, match=r"class b \(like 1 more class\) has only one image"):
        stratified_split(ids, classes, BOTH, seed=0)


def test_split_without_images_is_named():
    ids, classes = examples({"a": 2, "b": 2})
    with pytest.raises(
        InputError, match="4 images in 2 classes leave none for the validation split"
    ):
        stratified_split(ids, classes, BOTH, seed=0)


# Groups


@st.composite
def grouped(draw):
    """Draw ids, classes and groups. Each class has at least three groups; a group may have several classes."""
    classes, groups = [], []
    for name in draw(st.sets(st.sampled_from("abcd"), min_size=1)):
        some = draw(st.lists(st.integers(0, 30), min_size=3, max_size=12, unique=True))
        for group in some:
            count = draw(st.integers(1, 6))
            classes += [name] * count
            # Each ungrouped example ("") is a separate unit.
            ungrouped = draw(st.integers(0, 9)) == 0
            groups += ([""] if ungrouped else [f"visit{group}"]) * count
    return [f"{name}/{i}.jpg" for i, name in enumerate(classes)], classes, groups


def units(ids, groups):
    return [group or name for name, group in zip(ids, groups, strict=True)]


@pytest.mark.slow
@given(grouped(), shares, shares, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_groups_stay_in_one_split(data, validation, test, seed, shuffler):
    ids, classes, groups = data
    fractions = {"validation": validation, "test": test}
    try:
        splits = stratified_split(ids, classes, fractions, seed=seed, groups=groups)
    except InputError as error:  # groups of several classes may leave none for a split
        assert "leave none for the" in str(error)
        return
    assert sorted(i for indices in splits.values() for i in indices) == list(range(len(ids)))
    unit = units(ids, groups)
    units_by_split = [{unit[i] for i in indices} for indices in splits.values()]
    assert sum(map(len, units_by_split)) == len(set(unit))
    assert {classes[i] for i in splits["train"]} == set(classes)

    shuffled = list(zip(*data, strict=True))
    shuffler.shuffle(shuffled)
    new_ids, new_classes, new_groups = zip(*shuffled, strict=True)
    again = stratified_split(new_ids, new_classes, fractions, seed=seed, groups=new_groups)
    for name, indices in splits.items():
        assert {ids[i] for i in indices} == {new_ids[i] for i in again[name]}


@pytest.mark.slow
@given(st.lists(st.integers(1, 4), min_size=60, max_size=100), st.integers(0, 2**32))
def test_small_groups_meet_the_fractions(counts, seed):
    """For both of two classes, with every fifth group in both."""
    examples = [
        (f"{number}-{i}", "ab"[i % 2 if number % 5 == 0 else number % 2], f"g{number}")
        for number, count in enumerate(counts)
        for i in range(count)
    ]
    ids, classes, groups = zip(*examples, strict=True)
    splits = stratified_split(ids, classes, BOTH, seed=seed, groups=groups)
    total = Counter(classes)
    for split in BOTH:
        counts = Counter(classes[i] for i in splits[split])
        assert all(abs(counts[c] - 0.1 * total[c]) <= 2 for c in "ab")


def test_every_split_has_each_class_if_there_are_enough_groups():
    """Even if the groups, of ten images, exceed the fractions, of three."""
    examples = [(f"{c}/{g}/{i}", c, f"{c}{g}") for c in "abc" for g in range(3) for i in range(10)]
    ids, classes, groups = zip(*examples, strict=True)
    splits = stratified_split(ids, classes, BOTH, seed=0, groups=groups)
    for indices in splits.values():
        assert Counter(classes[i] for i in indices) == dict.fromkeys("abc", 10)


def test_two_groups_go_to_training_and_test():
    """And a split does not take all small groups, which other splits need."""
    ids = [f"a{i}" for i in range(30)] + ["b1", "b2"] + [f"c{i}" for i in range(30)]
    classes = [name[0] for name in ids]
    groups = [*(f"a{i // 3}" for i in range(30)), "b1", "b2", *["c0"] * 28, "c1", "c2"]
    splits = stratified_split(ids, classes, BOTH, seed=0, groups=groups)
    counts = {split: Counter(classes[i] for i in indices) for split, indices in splits.items()}
    assert [counts[split]["b"] for split in ("train", "validation", "test")] == [1, 0, 1]
    assert [counts[split]["c"] for split in ("train", "validation", "test")] == [28, 1, 1]


def test_grouped_split_depends_on_the_seed_and_never_changes():
    ids = [f"{c}/{g}/{i}" for c in "ab" for g in range(9) for i in range(1 + g % 3)]
    classes = [name[0] for name in ids]
    groups = [name[:3] for name in ids]
    splits = [stratified_split(ids, classes, BOTH, seed=s, groups=groups) for s in range(20)]
    assert len({tuple(s["test"]) for s in splits}) > 10
    assert {groups[p] for p in splits[3]["test"]} == {"a/4", "b/0", "b/3"}
    assert {groups[p] for p in splits[3]["validation"]} == {"a/1", "b/1"}


def test_class_with_one_group_is_named():
    ids, classes = examples({"a": 6, "b": 6, "c": 2})
    groups = [*"123456", *["pig 7"] * 6, *["pig 8"] * 2]
    message = (
        r"class b \(like 1 more class\) has only one group, pig 7, which cannot be split into train,"
        r" validation and test: add groups, or remove the class"
    )
    with pytest.raises(InputError, match=message):
        stratified_split(ids, classes, BOTH, seed=0, groups=groups)
    stratified_split(ids, classes, {}, seed=0, groups=groups)


def test_split_without_groups_is_named():
    ids, classes = examples({"a": 6, "b": 6})
    with pytest.raises(
        InputError, match="4 groups in 2 classes leave none for the validation split"
    ):
        stratified_split(ids, classes, BOTH, seed=0, groups=[*"111222", *"333444"])


# Folds


def all_folds(ids, classes, folds, seed, groups=None, fractions=None):
    fractions = {"validation": 0.2} if fractions is None else fractions
    return [
        fold_split(
            ids,
            classes,
            folds=folds,
            fold=fold,
            held_out="test",
            fractions=fractions,
            seed=seed,
            groups=groups,
        )
        for fold in range(folds)
    ]


@pytest.mark.slow
@given(class_sizes, st.integers(2, 6), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_every_example_is_tested_in_one_fold(sizes, folds, seed, shuffler):
    ids, classes = examples(sizes)
    if min(sizes.values()) < 2 * folds:  # possibly too few for a validation split
        sizes = {name: size + 2 * folds for name, size in sizes.items()}
        ids, classes = examples(sizes)
    shuffled = ids[:]
    shuffler.shuffle(shuffled)
    reordered = all_folds(shuffled, [name[0] for name in shuffled], folds, seed)
    for splits, others in zip(all_folds(ids, classes, folds, seed), reordered, strict=True):
        assert sorted(i for indices in splits.values() for i in indices) == list(range(len(ids)))
        assert splits["validation"]
        assert {ids[i] for i in splits["test"]} == {shuffled[i] for i in others["test"]}
        assert {ids[i] for i in splits["train"]} == {shuffled[i] for i in others["train"]}
        assert len(splits["test"]) in (len(ids) // folds, -(-len(ids) // folds))
        counts = Counter(classes[i] for i in splits["test"])
        assert all(counts[c] in (n // folds, -(-n // folds)) for c, n in sizes.items())
        assert {classes[i] for i in splits["train"]} == set(sizes)
    tested = [i for splits in all_folds(ids, classes, folds, seed) for i in splits["test"]]
    assert sorted(tested) == list(range(len(ids)))


@pytest.mark.slow
@given(grouped(), st.integers(2, 6), st.integers(0, 2**32))
def test_folds_keep_groups_together(data, folds, seed):
    ids, classes, groups = data
    unit = units(ids, groups)
    if len(set(unit)) < folds:
        return
    try:
        all_splits = all_folds(ids, classes, folds, seed, groups, fractions={})
    except InputError as error:
        assert "does not fit in any fold" in str(error)
        return
    assert sorted(i for splits in all_splits for i in splits["test"]) == list(range(len(ids)))
    for splits in all_splits:
        assert not {unit[i] for i in splits["test"]} & {unit[i] for i in splits["train"]}
        assert splits["test"]
        assert {classes[i] for i in splits["train"]} == set(classes)


@pytest.mark.slow
@given(st.lists(st.integers(1, 9), min_size=40, max_size=80), st.integers(0, 2**32))
def test_grouped_folds_are_balanced(counts, seed):
    examples = [(f"{n}-{i}", "ab"[n % 2], f"g{n}") for n, c in enumerate(counts) for i in range(c)]
    ids, classes, groups = zip(*examples, strict=True)
    for splits in all_folds(ids, classes, 4, seed, groups):
        counts = Counter(classes[i] for i in splits["test"])
        assert all(abs(counts[c] - classes.count(c) / 4) <= 4 for c in "ab")
        assert not {groups[i] for i in splits["validation"]} & {groups[i] for i in splits["train"]}


def test_folds_depend_on_the_seed():
    ids, classes = examples({"a": 12, "b": 8})
    folds = [tuple(all_folds(ids, classes, 4, seed)[0]["test"]) for seed in range(10)]
    assert len(set(folds)) > 8


def test_impossible_folds():
    ids, classes = examples({"a": 2, "b": 2})
    message = "4 images cannot be split into 5 folds: use at most 4 folds"
    with pytest.raises(InputError, match=message):
        all_folds(ids, classes, 5, 0)
    with pytest.raises(
        InputError, match="4 images in 2 .*|2 images in 2 classes leave none for the val"
    ):
        all_folds(ids, classes, 2, 0)
    with pytest.raises(InputError, match="class b has only one image, .*train and test: add im"):
        all_folds(*examples({"a": 5, "b": 1}), 2, 0)
    with pytest.raises(InputError, match="class b has only one group, g, "):
        all_folds(*examples({"a": 2, "b": 2}), 2, 0, groups=["x", "y", "g", "g"])
    with pytest.raises(InputError, match="3 groups cannot be split into 4 folds: use at most 3"):
        all_folds(*examples({"a": 6}), 4, 0, groups=[*"112233"])


def test_group_that_fits_in_no_fold_is_named():
    """Two large groups contain classes a and b; the third, small one must join one of them."""
    classes = [*"aaaabbbb", *"ab"]
    groups = [*["x"] * 4, *["y"] * 4, *["z"] * 2]
    with pytest.raises(
        InputError, match="group z, with images of a and b, does not fit in any fold"
    ):
        all_folds([str(i) for i in range(10)], classes, 2, 0, groups, fractions={})
