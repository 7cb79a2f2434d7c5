"""Splits are disjoint, complete, stratified, keep groups together, and depend on names alone."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import InputError
from datasets.splits import fold_split, part_sizes, stratified_split

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


# Groups


@st.composite
def grouped(draw):
    """Ids, classes and groups; each class is in three groups or more, and a group may have several."""
    classes, groups = [], []
    for name in draw(st.sets(st.sampled_from("abcd"), min_size=1)):
        some = draw(st.lists(st.integers(0, 30), min_size=3, max_size=12, unique=True))
        for group in some:
            count = draw(st.integers(1, 6))
            classes += [name] * count
            # "" is no group: three such examples and more are as many units.
            alone = draw(st.integers(0, 9)) == 0
            groups += ([""] if alone else [f"visit{group}"]) * count
    return [f"{name}/{i}.jpg" for i, name in enumerate(classes)], classes, groups


def units(ids, groups):
    return [group or name for name, group in zip(ids, groups, strict=True)]


@given(grouped(), shares, shares, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_groups_are_never_on_two_sides(data, validation, test, seed, shuffler):
    ids, classes, groups = data
    fractions = {"validation": validation, "test": test}
    try:
        parts = stratified_split(ids, classes, fractions, seed=seed, groups=groups)
    except InputError as error:  # groups of several classes may leave none for a part
        assert "leave none for the" in str(error)
        return
    assert sorted(p for positions in parts.values() for p in positions) == list(range(len(ids)))
    unit = units(ids, groups)
    sides = [{unit[p] for p in positions} for positions in parts.values()]
    assert sum(map(len, sides)) == len(set(unit))
    assert {classes[p] for p in parts["train"]} == set(classes)

    shuffled = list(zip(*data, strict=True))
    shuffler.shuffle(shuffled)
    others, their_classes, their_groups = zip(*shuffled, strict=True)
    again = stratified_split(others, their_classes, fractions, seed=seed, groups=their_groups)
    for name, positions in parts.items():
        assert {ids[p] for p in positions} == {others[p] for p in again[name]}


@given(st.lists(st.integers(1, 4), min_size=60, max_size=100), st.integers(0, 2**32))
def test_small_groups_meet_the_shares(counts, seed):
    """Each of two classes, with every fifth group in both."""
    examples = [
        (f"{number}-{i}", "ab"[i % 2 if number % 5 == 0 else number % 2], f"g{number}")
        for number, count in enumerate(counts)
        for i in range(count)
    ]
    ids, classes, groups = zip(*examples, strict=True)
    parts = stratified_split(ids, classes, BOTH, seed=seed, groups=groups)
    total = Counter(classes)
    for part in BOTH:
        have = Counter(classes[p] for p in parts[part])
        assert all(abs(have[c] - 0.1 * total[c]) <= 2 for c in "ab")


def test_every_part_has_each_class_where_groups_are_enough():
    """Groups of ten images, where three are wanted."""
    examples = [(f"{c}/{g}/{i}", c, f"{c}{g}") for c in "abc" for g in range(3) for i in range(10)]
    ids, classes, groups = zip(*examples, strict=True)
    parts = stratified_split(ids, classes, BOTH, seed=0, groups=groups)
    assert all(
        Counter(classes[p] for p in part) == dict.fromkeys("abc", 10) for part in parts.values()
    )


def test_two_groups_go_to_training_and_test():
    """And small ones do not use up what other parts need."""
    ids = [f"a{i}" for i in range(30)] + ["b1", "b2"] + [f"c{i}" for i in range(30)]
    classes = [name[0] for name in ids]
    groups = [*(f"a{i // 3}" for i in range(30)), "b1", "b2", *["c0"] * 28, "c1", "c2"]
    parts = stratified_split(ids, classes, BOTH, seed=0, groups=groups)
    found = {part: Counter(classes[p] for p in positions) for part, positions in parts.items()}
    assert [found[part]["b"] for part in ("train", "validation", "test")] == [1, 0, 1]
    assert [found[part]["c"] for part in ("train", "validation", "test")] == [28, 1, 1]


def test_grouped_split_is_the_same_for_ever_and_the_seed_matters():
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
        r"class b has one group, pig 7, which cannot be split into train and validation and test"
        r" \(nor can 1 more classes of one group\): add groups, or take the class out"
    )
    with pytest.raises(InputError, match=message):
        stratified_split(ids, classes, BOTH, seed=0, groups=groups)
    stratified_split(ids, classes, {}, seed=0, groups=groups)


def test_part_without_groups_is_named():
    ids, classes = examples({"a": 6, "b": 6})
    with pytest.raises(
        InputError, match="4 groups in 2 classes leave none for the validation part"
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


@given(class_sizes, st.integers(2, 6), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_every_example_is_tested_in_one_fold(sizes, folds, seed, shuffler):
    ids, classes = examples(sizes)
    if min(sizes.values()) < 2 * folds:  # too few for a validation part, perhaps
        sizes = {name: size + 2 * folds for name, size in sizes.items()}
        ids, classes = examples(sizes)
    shuffled = ids[:]
    shuffler.shuffle(shuffled)
    again = all_folds(shuffled, [name[0] for name in shuffled], folds, seed)
    for parts, theirs in zip(all_folds(ids, classes, folds, seed), again, strict=True):
        assert sorted(p for part in parts.values() for p in part) == list(range(len(ids)))
        assert parts["validation"]
        assert {ids[p] for p in parts["test"]} == {shuffled[p] for p in theirs["test"]}
        assert {ids[p] for p in parts["train"]} == {shuffled[p] for p in theirs["train"]}
        assert len(parts["test"]) in (len(ids) // folds, -(-len(ids) // folds))
        counts = Counter(classes[p] for p in parts["test"])
        assert all(counts[c] in (n // folds, -(-n // folds)) for c, n in sizes.items())
        assert {classes[p] for p in parts["train"]} == set(sizes)
    tested = [p for parts in all_folds(ids, classes, folds, seed) for p in parts["test"]]
    assert sorted(tested) == list(range(len(ids)))


@given(grouped(), st.integers(2, 6), st.integers(0, 2**32))
def test_folds_keep_groups_together(data, folds, seed):
    ids, classes, groups = data
    unit = units(ids, groups)
    if len(set(unit)) < folds:
        return
    try:
        all_parts = all_folds(ids, classes, folds, seed, groups, fractions={})
    except InputError as error:
        assert "each fold would hold all" in str(error)
        return
    assert sorted(p for parts in all_parts for p in parts["test"]) == list(range(len(ids)))
    for parts in all_parts:
        assert not {unit[p] for p in parts["test"]} & {unit[p] for p in parts["train"]}
        assert parts["test"]
        assert {classes[p] for p in parts["train"]} == set(classes)


@given(st.lists(st.integers(1, 9), min_size=40, max_size=80), st.integers(0, 2**32))
def test_grouped_folds_are_balanced(counts, seed):
    examples = [(f"{n}-{i}", "ab"[n % 2], f"g{n}") for n, c in enumerate(counts) for i in range(c)]
    ids, classes, groups = zip(*examples, strict=True)
    for parts in all_folds(ids, classes, 4, seed, groups):
        have = Counter(classes[p] for p in parts["test"])
        assert all(abs(have[c] - classes.count(c) / 4) <= 4 for c in "ab")
        assert not {groups[p] for p in parts["validation"]} & {groups[p] for p in parts["train"]}


def test_folds_depend_on_the_seed():
    ids, classes = examples({"a": 12, "b": 8})
    folds = [tuple(all_folds(ids, classes, 4, seed)[0]["test"]) for seed in range(10)]
    assert len(set(folds)) > 8


def test_folds_that_cannot_be_made():
    ids, classes = examples({"a": 2, "b": 2})
    with pytest.raises(InputError, match="4 images cannot make 5 folds: give at most 4 folds"):
        all_folds(ids, classes, 5, 0)
    with pytest.raises(
        InputError, match="4 images in 2 .*|2 images in 2 classes leave none for the val"
    ):
        all_folds(ids, classes, 2, 0)
    with pytest.raises(InputError, match="class b has one image, .* train and test: add images"):
        all_folds(*examples({"a": 5, "b": 1}), 2, 0)
    with pytest.raises(InputError, match="class b has one group, g, "):
        all_folds(*examples({"a": 2, "b": 2}), 2, 0, groups=["x", "y", "g", "g"])
    with pytest.raises(InputError, match="3 groups cannot make 4 folds: give at most 3"):
        all_folds(*examples({"a": 6}), 4, 0, groups=[*"112233"])


def test_classes_that_would_be_in_one_fold_are_named():
    """Two large groups hold classes a and b; the third, small one has to join one of them."""
    classes = [*"aaaabbbb", *"ab"]
    groups = [*["x"] * 4, *["y"] * 4, *["z"] * 2]
    with pytest.raises(InputError, match="group z has images of a and b, of which each fold would"):
        all_folds([str(i) for i in range(10)], classes, 2, 0, groups, fractions={})
