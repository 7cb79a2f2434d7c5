"""Seeded, stratified splits that depend on the names of the examples alone."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from datasets.dataset import InputError


def stratified_split(
    ids: Sequence[str], classes: Sequence[str], fractions: Mapping[str, float], *, seed: int
) -> dict[str, list[int]]:
    """Take parts out of the training examples, each class by the same share.

    Inside its class an example's place follows from a hash of (seed, id): neither the order in which
    a file system lists files nor the version of a random generator matters, and the files that join
    later leave most of the others where they were.

    Args:
      ids: names of the examples, all different.
      classes: the class of each.
      fractions: the share of each part to take, such as `{"validation": 0.1, "test": 0.1}`.
      seed: another one gives another split.

    Returns the positions of each part and of what is left, "train", each ascending. Every class with
    enough images has at least one in every part. Raises InputError for a class with one image, and when
    a part would be empty.
    """
    members: dict[str, list[int]] = {}
    for position, name in enumerate(classes):
        members.setdefault(name, []).append(position)
    single = sorted(name for name, positions in members.items() if len(positions) == 1)
    if single and fractions:
        raise InputError(
            f"class {single[0]} has one image, which cannot be split into"
            f" train and {' and '.join(fractions)}{_and_others(len(single) - 1)}:"
            " add images, or take the class out"
        )
    parts: dict[str, list[int]] = {"train": [], **{name: [] for name in fractions}}
    for positions in members.values():
        shuffled = sorted(positions, key=lambda p: _rank(seed, ids[p]))
        start = 0
        for part, count in part_sizes(len(positions), fractions).items():
            parts[part] += shuffled[start : start + count]
            start += count
        parts["train"] += shuffled[start:]
    for name, positions in parts.items():
        if not positions:
            raise InputError(
                f"{len(ids)} images in {len(members)} classes leave none for the {name} part:"
                f" give at least {len(fractions) + 1} images a class"
            )
    return {name: sorted(positions) for name, positions in parts.items()}


def part_sizes(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """How many of a class's `total` images each part takes: its share, rounded, but at least one; and
    at least one is left for training. Where that is too much, the parts named first go without."""
    sizes = {part: max(1, math.floor(total * share + 0.5)) for part, share in fractions.items()}
    while sum(sizes.values()) > max(total - 1, 0):
        sizes[max(sizes, key=lambda part: sizes[part])] -= 1
    return sizes


def shared_content(parts: Mapping[str, Sequence[str]]) -> Counter[tuple[str, str]]:
    """Leaks: how many digests of a part are in the training part too, or in another before it.

    Args:
      parts: the content's digest of every example of each part; earlier parts own what they share.
    """
    owner: dict[str, str] = {}
    leaks: Counter[tuple[str, str]] = Counter()
    for part, digests in parts.items():
        for digest in digests:
            if owner.setdefault(digest, part) != part:
                leaks[part, owner[digest]] += 1
    return leaks


def _rank(seed: int, example: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{example}".encode()).digest()


def _and_others(count: int) -> str:
    return f" (nor can {count} more classes of one image)" if count else ""
