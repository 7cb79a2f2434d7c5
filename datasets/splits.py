"""Seeded, stratified splits that depend on the names of the examples alone.

Neither the order in which a file system lists files nor the version of a random generator or a library
matters: where something is drawn, a hash of (seed, name) draws it.
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
    """Take parts out of the training examples, each class by the same share.

    Inside its class an example's place follows from a hash of (seed, id): the files that join later leave
    most of the others where they were.

    Args:
      ids: names of the examples, all different.
      classes: the class of each.
      fractions: the share of each part to take, such as `{"validation": 0.1, "test": 0.1}`.
      seed: another one gives another split.
      groups: the group of each; a group is never on two sides, and an example in "" is alone. The shares are
        then met as well as whole groups can, which may have several classes.

    Returns the positions of each part and of what is left, "train", each ascending. Every class with
    enough images (or groups) has at least one in every part. Raises InputError for a class with one image
    or group, and when a part would be empty.
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
    """The parts of cross-validation: fold number `fold` is the part `held_out`, the rest is split.

    Each example is in one of the `folds` folds, which have the same share of each class, to the image
    or as well as whole groups can; `fractions` are shares of the rest. See `stratified_split`.
    """
    units = _units(ids, classes, groups)
    _check_single(units, ["train", held_out])
    grouped = any(unit.group for unit in units)
    if len(units) < folds:
        what = "groups" if grouped else "images"
        raise InputError(
            f"{len(units)} {what} cannot make {folds} folds: give at most {len(units)} folds"
        )
    member = _folds(units, folds, seed)
    rest = [unit for unit, place in zip(units, member, strict=True) if place != fold]
    held = [p for unit, n in zip(units, member, strict=True) if n == fold for p in unit.positions]
    kept = sorted(p for unit in rest for p in unit.positions)
    place = {position: index for index, position in enumerate(kept)}
    taken = _take(
        [ids[p] for p in kept],
        [classes[p] for p in kept],
        [dataclasses.replace(u, positions=[place[p] for p in u.positions]) for u in rest],
        fractions,
        seed,
    )
    parts = {part: [kept[p] for p in positions] for part, positions in taken.items()}
    return parts | {held_out: sorted(held)}


def part_sizes(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """How many of a class's `total` images each part takes: its share, rounded, but at least one; and
    at least one is left for training. Where that is too much, the parts named first go without."""
    sizes = {part: max(1, math.floor(total * share + 0.5)) for part, share in fractions.items()}
    while sum(sizes.values()) > max(total - 1, 0):
        sizes[max(sizes, key=lambda part: sizes[part])] -= 1
    return sizes


@dataclasses.dataclass(frozen=True, eq=False)
class _Unit:
    """Examples that stay together: a group, or one that is in no group."""

    name: str  # the group's, or the example's id
    group: bool
    positions: list[int]
    classes: dict[
        str, int
    ]  # how many of each, in the order of the names: sums are the same everywhere


def _units(ids: Sequence[str], classes: Sequence[str], groups: Sequence[str] | None) -> list[_Unit]:
    positions: dict[tuple[bool, str], list[int]] = {}
    for position, name in enumerate(ids):
        group = groups[position] if groups else ""
        positions.setdefault((bool(group), group or name), []).append(position)
    return [
        _Unit(name, group, members, dict(sorted(Counter(classes[p] for p in members).items())))
        for (group, name), members in positions.items()
    ]


def _totals(units: Iterable[_Unit]) -> tuple[Counter[str], Counter[str]]:
    """Of each class the images, and the units that have some."""
    images: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for unit in units:
        images.update(unit.classes)
        count.update(unit.classes.keys())
    return images, count


def _check_single(units: Sequence[_Unit], parts: Sequence[str]) -> None:
    _, count = _totals(units)
    single = sorted(name for name, number in count.items() if number == 1)
    if not single:
        return
    unit = next(u for u in units if single[0] in u.classes)
    what, more, add = "image", "image", "images"
    if any(u.group for u in units):
        what, more, add = f"group, {unit.name}" if unit.group else "image", "group", "groups"
    others = f" (nor can {len(single) - 1} more classes of one {more})" if len(single) > 1 else ""
    raise InputError(
        f"class {single[0]} has one {what}, which cannot be split into"
        f" {' and '.join(parts)}{others}: add {add}, or take the class out"
    )


def _take(
    ids: Sequence[str],
    classes: Sequence[str],
    units: Sequence[_Unit],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[int]]:
    grouped = any(unit.group for unit in units)
    parts = (
        _take_groups(units, fractions, seed)
        if grouped
        else _take_images(ids, classes, fractions, seed)
    )
    for name, positions in parts.items():
        if not positions:
            what = f"{len(units)} groups" if grouped else f"{len(ids)} images"
            raise InputError(
                f"{what} in {len(set(classes))} classes leave none for the {name} part:"
                f" give at least {len(fractions) + 1} {'groups' if grouped else 'images'} a class"
            )
    return {name: sorted(positions) for name, positions in parts.items()}


def _take_images(
    ids: Sequence[str], classes: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for position, name in enumerate(classes):
        members.setdefault(name, []).append(position)
    parts: dict[str, list[int]] = {"train": [], **{name: [] for name in fractions}}
    for positions in members.values():
        shuffled = sorted(positions, key=lambda p: _rank(seed, ids[p]))
        start = 0
        for part, count in part_sizes(len(positions), fractions).items():
            parts[part] += shuffled[start : start + count]
            start += count
        parts["train"] += shuffled[start:]
    return parts


def _take_groups(
    units: Sequence[_Unit], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """In the order of their hashes the units join a part, or leave it again, as long as that brings it nearer
    to its shares.

    Training keeps a unit of each class, and each part gets one where there are enough; where there are
    not, the parts named first go without.
    """
    images, left = _totals(units)
    free = sorted(units, key=lambda u: (_rank(seed, u.name), u.group))
    parts: dict[str, list[int]] = {"train": [], **{name: [] for name in fractions}}
    for later, part in reversed(list(enumerate(fractions))):  # `later` parts are still to come
        wanted = {name: fractions[part] * images[name] for name in images}
        have: Counter[str] = Counter()  # images
        held: Counter[str] = Counter()  # units
        taken: set[_Unit] = set()

        def cost(unit: _Unit, sign: int = 1, wanted=wanted, have=have) -> float:
            """By how much the part moves away from its shares when the unit joins, or leaves."""
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
        while moved:  # each move brings the part nearer: this ends
            moved = False
            for unit in free:
                leaves = unit in taken
                able = leaves or all(left[c] >= (2 + later if held[c] else 2) for c in unit.classes)
                sign = -1 if leaves else 1
                if able and cost(unit, sign) < -1e-9:  # more than what rounding makes
                    move(unit)
                    moved = True
        for name in sorted(images):
            if held[name]:
                continue
            lacking = [u for u in free if name in u.classes and u not in taken]
            lacking = [u for u in lacking if all(left[c] > 1 for c in u.classes)]
            if lacking:
                move(min(lacking, key=cost))  # of equals the first by its hash
        parts[part] = [p for unit in free if unit in taken for p in unit.positions]
        free = [unit for unit in free if unit not in taken]
    parts["train"] = [p for unit in free for p in unit.positions]
    return parts


def _folds(units: Sequence[_Unit], folds: int, seed: int) -> list[int]:
    """The fold of each unit: large ones first, each joins the fold that has the least of its classes."""
    images, count = _totals(units)
    order = sorted(
        range(len(units)),
        # By powers of two, so that another seed gives other folds.
        key=lambda i: (
            -len(units[i].positions).bit_length(),
            list(units[i].classes),
            _rank(seed, units[i].name),
            units[i].group,
        ),
    )
    have: list[Counter[str]] = [Counter() for _ in range(folds)]
    seen: list[Counter[str]] = [Counter() for _ in range(folds)]  # units of each class
    size = [0] * folds
    member = [0] * len(units)
    for i in order:
        unit = units[i]

        # An empty fold costs nothing and comes first, so that none stays empty.
        def cost(fold: int, unit=unit) -> tuple[float, int, int]:
            amount = sum(have[fold][c] * n / images[c] ** 2 for c, n in unit.classes.items())
            return amount, size[fold], fold

        able = [
            fold
            for fold in range(folds)
            # A fold with all of a class would leave none to train on.
            if all(seen[fold][c] < count[c] - 1 for c in unit.classes)
        ]
        if not able:
            raise InputError(
                f"group {unit.name} has images of {' and '.join(unit.classes)}, of which each fold would"
                " hold all: give more folds, another seed, or finer groups"
            )
        fold = min(able, key=cost)
        member[i] = fold
        have[fold].update(unit.classes)
        seen[fold].update(unit.classes.keys())
        size[fold] += len(unit.positions)
    return member


def _rank(seed: int, example: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{example}".encode()).digest()
