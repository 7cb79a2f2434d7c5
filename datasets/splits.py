"""Seeded, stratified splits that depend only on the ids of the examples.

Random choices are made by a hash of (seed, id), so that a split depends neither on the order in which the file system
lists files nor on the version of a random generator or library.
"""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from datasets.dataset import InputError


def stratified_split(
    ids: Sequence[str],
    classes: Sequence[str],
    fractions: Mapping[str, float],
    *,
    seed: int,
    groups: Sequence[str] | None = None,
) -> dict[str, list[int]]:
    """Take held-out splits from the examples, with the same fraction of every class; the rest is "train".

    Within its class, an example is assigned by a hash of (seed, id). If files are added, most of the others keep their
    splits.

    Args:
      ids: unique ids of the examples.
      classes: class of each example.
      fractions: fraction of the examples per held-out split, such as `{"validation": 0.1, "test": 0.1}`.
      seed: seed of the split.
      groups: group of each example, "" for none. A group stays in one split. Since a group may contain several
        classes, fractions are then met only approximately.

    Returns:
      The ascending indices of each held-out split and of "train". Every class with enough images (or groups) has at
      least one in every split.

    Raises:
      InputError: a class has only one image or group, or a split would be empty.
    """
    units = _units(ids, classes, groups)
    if fractions:
        _check_single(units, ["train", *fractions])
    return _take(ids, classes, units, fractions, seed)


def fold_split(
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    folds: int,
    fold: int,
    held_out: str,
    fractions: Mapping[str, float],
    seed: int,
    groups: Sequence[str] | None = None,
) -> dict[str, list[int]]:
    """Split for cross-validation: fold number `fold` becomes the split `held_out`, and the rest is split.

    Each example is in exactly one of the `folds` folds. Per class, fold sizes differ by at most one image or, with
    groups, by as little as whole groups allow. `fractions` are fractions of the rest. See `stratified_split`.
    """
    units = _units(ids, classes, groups)
    _check_single(units, ["train", held_out])
    grouped = any(unit.group for unit in units)
    if len(units) < folds:
        what = "groups" if grouped else "images"
        raise InputError(
            f"{len(units)} {what} cannot be split into {folds} folds: use at most {len(units)} folds"
        )
    fold_of = _assign_folds(units, folds, seed)
    rest = [unit for unit, n in zip(units, fold_of, strict=True) if n != fold]
    held = [i for unit, n in zip(units, fold_of, strict=True) if n == fold for i in unit.indices]
    kept = sorted(i for unit in rest for i in unit.indices)
    new_index = {old: new for new, old in enumerate(kept)}
    splits = _take(
        [ids[i] for i in kept],
        [classes[i] for i in kept],
        [dataclasses.replace(u, indices=[new_index[i] for i in u.indices]) for u in rest],
        fractions,
        seed,
    )
    splits = {split: [kept[i] for i in indices] for split, indices in splits.items()}
    return splits | {held_out: sorted(held)}


def split_counts(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return how many of a class's `total` images each held-out split takes.

    Each takes its rounded fraction, but at least one image, and at least one image remains for training. If there are
    too few images, the first splits get none.
    """
    counts = {split: max(1, math.floor(total * share + 0.5)) for split, share in fractions.items()}
    while sum(counts.values()) > max(total - 1, 0):
        counts[max(counts, key=lambda split: counts[split])] -= 1
    return counts


@dataclasses.dataclass(frozen=True, eq=False)
class _Unit:
    """Examples that stay together: a group, or a single ungrouped example."""

    name: str  # of the group, or the id of the example
    group: bool
    indices: list[int]
    classes: dict[str, int]  # images per class, sorted by name, so that float sums are reproducible


def _units(ids: Sequence[str], classes: Sequence[str], groups: Sequence[str] | None) -> list[_Unit]:
    indices: dict[tuple[bool, str], list[int]] = {}
    for index, name in enumerate(ids):
        group = groups[index] if groups else ""
        indices.setdefault((bool(group), group or name), []).append(index)
    return [
        _Unit(name, group, members, dict(sorted(Counter(classes[i] for i in members).items())))
        for (group, name), members in indices.items()
    ]


def _totals(units: Iterable[_Unit]) -> tuple[Counter[str], Counter[str]]:
    """Count the images of each class, and the units that contain the class."""
    images: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for unit in units:
        images.update(unit.classes)
        count.update(unit.classes.keys())
    return images, count


def _check_single(units: Sequence[_Unit], splits: Sequence[str]) -> None:
    _, count = _totals(units)
    single = sorted(name for name, number in count.items() if number == 1)
    if not single:
        return
    unit = next(u for u in units if single[0] in u.classes)
    what, kind = "image", "image"
    if any(u.group for u in units):
        what, kind = f"group, {unit.name}" if unit.group else "image", "group"
    more = len(single) - 1
    others = f" (like {more} more class{'es' * (more > 1)})" if more else ""
    raise InputError(
        f"class {single[0]}{others} has only one {what}, which cannot be split into"
        f" {', '.join(splits[:-1])} and {splits[-1]}: add {kind}s, or remove the class"
    )


def _take(
    ids: Sequence[str],
    classes: Sequence[str],
    units: Sequence[_Unit],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[int]]:
    grouped = any(unit.group for unit in units)
    splits = (
        _take_groups(units, fractions, seed)
        if grouped
        else _take_images(ids, classes, fractions, seed)
    )
    for name, indices in splits.items():
        if not indices:
            kind = "groups" if grouped else "images"
            raise InputError(
                f"{len(units)} {kind} in {len(set(classes))} classes leave none for the {name} split:"
                f" use at least {len(fractions) + 1} {kind} per class"
            )
    return {name: sorted(indices) for name, indices in splits.items()}


def _take_images(
    ids: Sequence[str], classes: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        members.setdefault(name, []).append(index)
    splits: dict[str, list[int]] = {"train": [], **{name: [] for name in fractions}}
    for indices in members.values():
        shuffled = sorted(indices, key=lambda i: _rank(seed, ids[i]))
        start = 0
        for split, count in split_counts(len(indices), fractions).items():
            splits[split] += shuffled[start : start + count]
            start += count
        splits["train"] += shuffled[start:]
    return splits


def _take_groups(
    units: Sequence[_Unit], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Fill each split greedily: in the order of their hashes, units join or leave it as long as that brings it
    closer to its fractions.

    Training keeps at least one unit of each class. If a class has enough units, each split gets one; if not, the first
    splits get none.
    """
    images, left = _totals(units)
    free = sorted(units, key=lambda u: (_rank(seed, u.name), u.group))
    splits: dict[str, list[int]] = {"train": [], **{name: [] for name in fractions}}
    for remaining, split in reversed(list(enumerate(fractions))):  # `remaining` splits follow
        wanted = {name: fractions[split] * images[name] for name in images}
        have: Counter[str] = Counter()  # images
        held: Counter[str] = Counter()  # units
        taken: set[_Unit] = set()

        def cost(unit: _Unit, sign: int = 1, wanted=wanted, have=have) -> float:
            """Change of the squared deviation from the fractions when the unit joins (1) or leaves (-1)."""
            return sum(
                ((have[c] + sign * n - wanted[c]) ** 2 - (have[c] - wanted[c]) ** 2)
                / images[c] ** 2
                for c, n in unit.classes.items()
            )

        def move(unit: _Unit, have=have, held=held, taken=taken) -> None:
            joins = unit not in taken
            change, count = (have.update, 1) if joins else (have.subtract, -1)
            change(unit.classes)
            for name in unit.classes:
                held[name] += count
                left[name] -= count
            (taken.add if joins else taken.remove)(unit)

        moved = True
        while moved:  # terminates: each move reduces the deviation
            moved = False
            for unit in free:
                leaves = unit in taken
                able = leaves or all(
                    left[c] >= (2 + remaining if held[c] else 2) for c in unit.classes
                )
                sign = -1 if leaves else 1
                if able and cost(unit, sign) < -1e-9:  # beyond rounding errors
                    move(unit)
                    moved = True
        for name in sorted(images):
            if held[name]:
                continue
            lacking = [u for u in free if name in u.classes and u not in taken]
            lacking = [u for u in lacking if all(left[c] > 1 for c in u.classes)]
            if lacking:
                move(min(lacking, key=cost))  # ties: the first by hash
        splits[split] = [i for unit in free if unit in taken for i in unit.indices]
        free = [unit for unit in free if unit not in taken]
    splits["train"] = [i for unit in free for i in unit.indices]
    return splits


def _assign_folds(units: Sequence[_Unit], folds: int, seed: int) -> list[int]:
    """Assign each unit to a fold: large units first, each to the fold with the fewest images of its classes."""
    images, count = _totals(units)
    order = sorted(
        range(len(units)),
        # Sizes are compared in powers of two, so that different seeds give different folds.
        key=lambda i: (
            -len(units[i].indices).bit_length(),
            list(units[i].classes),
            _rank(seed, units[i].name),
            units[i].group,
        ),
    )
    have: list[Counter[str]] = [Counter() for _ in range(folds)]
    seen: list[Counter[str]] = [Counter() for _ in range(folds)]  # units of each class
    size = [0] * folds
    fold_of = [0] * len(units)
    for i in order:
        unit = units[i]

        # Empty folds cost nothing and come first, so that no fold stays empty.
        def cost(fold: int, unit=unit) -> tuple[float, int, int]:
            amount = sum(have[fold][c] * n / images[c] ** 2 for c, n in unit.classes.items())
            return amount, size[fold], fold

        able = [
            fold
            for fold in range(folds)
            # A fold with all units of a class would leave none for training.
            if all(seen[fold][c] < count[c] - 1 for c in unit.classes)
        ]
        if not able:
            raise InputError(
                f"group {unit.name}, with images of {' and '.join(unit.classes)}, does not fit in any fold, since that"
                " fold would hold every image of a class: use more folds, another seed, or smaller groups"
            )
        fold = min(able, key=cost)
        fold_of[i] = fold
        have[fold].update(unit.classes)
        seen[fold].update(unit.classes.keys())
        size[fold] += len(unit.indices)
    return fold_of


def _rank(seed: int, example: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{example}".encode()).digest()
