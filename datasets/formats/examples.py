"""Build a data set from labeled examples: check the files, split them, find duplicates, compute the fingerprint.

All formats share this module. A format such as `datasets.formats.folder` finds the examples and describes them in a
`Layout`.
"""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datasets.cache import cache_dir
from datasets.checks.duplicates import find_duplicates, hash_images
from datasets.checks.perceptual_hash import FOR_SIZE
from datasets.checks.verify import verify
from datasets.dataset import (
    SPLITS,
    BadImage,
    Dataset,
    DatasetInfo,
    Duplicate,
    InputError,
    Options,
    Split,
    fingerprint,
)
from datasets.formats.sources import Source
from datasets.images.decode import decode
from datasets.manifest import Manifest, read_manifest
from datasets.splits import fold_split, stratified_split
from zoo.common.files import printable, write_atomically

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Example:
    """An image with its class, and its published split if it has one."""

    id: str
    content: Any  # the image, or a reference to it: a `sources.File`, or an index into an array
    class_name: str
    split: str | None
    group: str = ""  # examples of one group, such as an individual or a visit, stay in one split


@dataclasses.dataclass
class Layout:
    """The examples, classes and published splits found in a source."""

    examples: list[Example]  # in natural order of their ids, which are unique
    class_names: tuple[str, ...]
    published: tuple[str, ...]  # splits that come with the data and are kept
    notes: list[str]
    pooled: bool = False  # published splits were pooled


def load_files(source: Source, layout: Layout, info: DatasetInfo, options: Options) -> Dataset:
    """Build a data set from the image files of a source. All files are decoded once to check them."""
    layout = apply_options(layout, options)
    assign_splits(layout, options)  # report errors before the long check
    files = [example.content for example in layout.examples]
    digests, hashes, bad = verify(source, files, options.progress)
    good = [e for e in layout.examples if e.content.path in digests]
    names = {e.content.path: e.id for e in layout.examples}
    bad = tuple(BadImage(names[b.id], b.reason) for b in bad)
    _check_bad(source.root, layout.examples, good, bad, options)

    return assemble(
        dataclasses.replace(layout, examples=good, notes=[*source.notes, *layout.notes]),
        info,
        options,
        digests={e.id: digests[e.content.path] for e in good},
        read=lambda example: source.read(example.content),
        bad=bad,
        provenance={"path": str(source.root), "kind": source.kind},
        perceptual_hashes={e.id: hashes[e.content.path] for e in good},
    )


def assemble(
    layout: Layout,
    info: DatasetInfo,
    options: Options,
    *,
    digests: Mapping[str, str],
    load: Callable[[Example], np.ndarray] | None = None,
    read: Callable[[Example], bytes] | None = None,
    bad: tuple[BadImage, ...] = (),
    provenance: Mapping[str, Any] | None = None,
    perceptual_hashes: Mapping[str, str] | None = None,
) -> Dataset:
    """Build a data set from examples that are known to be decodable.

    Args:
      layout: examples, classes and published splits.
      info: name, description and source. The number of classes and missing split sizes are filled in.
      options: the caller's options, such as the seed and fractions of the split.
      digests: sha256 (hex) of each example's content, by id.
      load: returns an example's image, uint8 [H, W, 3]. Give either `load` or `read`.
      read: returns the bytes of an example's file.
      bad: images that were excluded.
      provenance: origin of the data, JSON-serializable.
      perceptual_hashes: perceptual hashes by id, if known; images without one are not compared.
    """
    layout = apply_options(layout, options, bad, digests)
    splits = assign_splits(layout, options)
    labels = {name: label for label, name in enumerate(layout.class_names)}
    examples = layout.examples
    content_hash = fingerprint((e.id, e.class_name, digests[e.id]) for e in examples)
    if perceptual_hashes is None:
        ids = [e.id for e in examples]

        def image(index: int) -> np.ndarray:
            if read:
                return decode(read(examples[index]), FOR_SIZE)
            assert load
            return load(examples[index])

        perceptual_hashes = hash_images(content_hash, ids, image, options.progress)
    ids_by_split = {split: [e.id for e in splits[split]] for split in SPLITS}
    duplicates = tuple(find_duplicates(ids_by_split, digests, perceptual_hashes))

    def make_split(examples: Sequence[Example]) -> Split:
        def by_index(get: Callable[[Example], T] | None) -> Callable[[int], T] | None:
            return get and (lambda index: get(examples[index]))

        return Split(
            [e.id for e in examples],
            [labels[e.class_name] for e in examples],
            by_index(load),
            read=by_index(read),
            digests=[digests[e.id] for e in examples],
            groups=[e.group for e in examples],
        )

    return Dataset(
        name=info.name,
        splits={split: make_split(splits[split]) for split in SPLITS},
        class_names=layout.class_names,
        info=dataclasses.replace(
            info,
            num_classes=len(labels),
            split_sizes=info.split_sizes or {split: len(splits[split]) for split in SPLITS},
        ),
        fingerprint=content_hash,
        bad_images=bad,
        seed=options.seed,
        provenance={
            **(provenance or {}),
            "published_parts": list(layout.published),
            "split_fractions": _fractions(layout, options),
            "bad_images": len(bad),
            **_split_options(options),
        },
        notes=(
            *layout.notes,
            *_split_notes(layout, splits, options),
            *_duplicate_notes(duplicates, splits),
        ),
        duplicates=duplicates,
    )


def _pooled(layout: Layout) -> Layout:
    """Discard the published splits."""
    return Layout(
        [dataclasses.replace(example, split=None) for example in layout.examples],
        layout.class_names,
        published=(),
        notes=[*layout.notes, "the published splits are pooled and split again"],
        pooled=True,
    )


def _check_published(layout: Layout, options: Options) -> None:
    """Raise InputError if the options keep or pool published splits but the data have none."""
    choice = options.published_splits
    if choice == "auto" or options.splits_file is not None or layout.published:
        return
    if choice == "keep" and layout.pooled:
        raise InputError(
            "published_splits is keep, but this data set always pools its published splits: use auto or pool"
        )
    if not layout.pooled:
        raise InputError(
            f"published_splits is {choice}, but these data have no published splits: use auto"
        )


def apply_options(
    layout: Layout,
    options: Options,
    bad: Sequence[BadImage] = (),
    digests: Mapping[str, str] | None = None,
) -> Layout:
    """Apply the split file and the groups of the options to a layout.

    Called before the images are checked, and again afterwards, with the bad images and the digests of the others.
    """
    groups: Mapping[str, str] = {}
    _check_published(layout, options)
    if options.published_splits == "pool" and layout.published:
        layout = _pooled(layout)
    if options.splits_file is not None:
        manifest = read_manifest(options.splits_file)
        layout = _apply_manifest(layout, manifest, bad, digests or {})
        groups = manifest.groups
    if options.group is not None:
        pattern = re.compile(options.group)
        groups = {e.id: _group(pattern, e.id) for e in layout.examples if not e.group}
    if not groups:
        return layout
    examples = [
        e if e.group else dataclasses.replace(e, group=groups.get(e.id, ""))
        for e in layout.examples
    ]
    return dataclasses.replace(layout, examples=examples)


def _group(pattern: re.Pattern[str], example: str) -> str:
    found = pattern.search(example)
    group = found[min(pattern.groups, 1)] if found else None
    if not group:
        raise InputError(
            f"the group pattern {pattern.pattern!r} finds no group in {example}: use a pattern that finds one in"
            " every id"
        )
    return group


def _apply_manifest(
    layout: Layout,
    manifest: Manifest,
    bad: Sequence[BadImage],
    digests: Mapping[str, str],
) -> Layout:
    """Return the examples listed in a manifest, with its splits and in its order."""
    known = {e.id: e for e in layout.examples}
    path, advice = manifest.path, "restore them, or create new splits"
    names = manifest.class_names or layout.class_names
    examples = []
    missing, changed = [], []
    for split, labels in manifest.splits.items():
        for name, label in labels.items():
            example = known.get(name)
            if example is None:
                missing.append(name)
                continue
            if label >= len(names) or example.class_name != names[label]:
                expected = names[label] if label < len(names) else f"number {label}"
                raise InputError(
                    f"{path} has {name} in class {expected}, but the data have it in {example.class_name}:"
                    " use the split file of these data"
                )
            if digests and manifest.digests.get(name, digests[name]) != digests[name]:
                changed.append(name)
            examples.append(dataclasses.replace(example, split=split))
    if missing:
        cannot = f" (cannot be decoded: {r})" if (r := _reason(bad, missing[0])) else ""
        listed = listing("missing", path, missing)
        raise InputError(
            f"{path} names {_count(missing)} missing from the data, starting with {missing[0]}{cannot}{listed}:"
            f" {advice}"
        )
    if changed:
        listed = listing("changed", path, changed)
        raise InputError(
            f"{_count(changed)} changed since {path} was written, starting with {changed[0]}{listed}: {advice}"
        )
    trained = {e.class_name for e in examples if e.split == "train"}
    for name in names:
        if name not in trained:
            raise InputError(f"{path} has no training images of class {name}: create new splits")
    notes = list(layout.notes)
    if extra := len(known) - len(examples):
        notes.append(f"left out {extra} image{'s' * (extra > 1)} not listed in {path}")
    return Layout(examples, tuple(names), SPLITS, notes)


def _reason(bad: Sequence[BadImage], name: str) -> str:
    return next((b.reason for b in bad if b.id == name), "")


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} image{'s' * (len(names) > 1)}"


def assign_splits(layout: Layout, options: Options) -> dict[str, list[Example]]:
    """Return the examples of each split: keep the published splits, and draw the others from the training images.

    To score a trained model (`options.classes`), nothing is drawn: images without a published split are test images.
    """
    if options.classes:
        return {s: [e for e in layout.examples if (e.split or "test") == s] for s in SPLITS}
    if options.folds:
        kept = {"test"} & {*layout.published}
        pool = [e for e in layout.examples if e.split not in kept]
    else:
        kept = {*layout.published} - {"train"}
        pool = [e for e in layout.examples if e.split in (None, "train")]
    ids, classes = [e.id for e in pool], [e.class_name for e in pool]
    groups, seed, fractions = [e.group for e in pool], options.seed, _fractions(layout, options)
    if options.folds:
        drawn = fold_split(
            ids,
            classes,
            folds=options.folds,
            fold=options.fold,
            held_out=_held_out(layout),
            fractions=fractions,
            seed=seed,
            groups=groups,
        )
    else:
        drawn = stratified_split(ids, classes, fractions, seed=seed, groups=groups)
    splits = {split: [e for e in layout.examples if e.split == split] for split in kept}
    splits |= {split: [pool[i] for i in indices] for split, indices in drawn.items()}
    return {split: splits[split] for split in SPLITS}


def _held_out(layout: Layout) -> str:
    """Return the split that a fold becomes: a published test split is never replaced."""
    return "validation" if "test" in layout.published else "test"


def _fractions(layout: Layout, options: Options) -> dict[str, float]:
    shares = {"validation": options.validation_fraction, "test": options.test_fraction}
    if options.folds:
        return {} if "test" in layout.published else {"validation": shares["validation"]}
    return {split: share for split, share in shares.items() if split not in layout.published}


def _split_options(options: Options) -> dict[str, Any]:
    """Return the split options that were given, other than seed and fractions."""
    given = {
        "group": options.group,
        "splits_file": None if options.splits_file is None else str(options.splits_file),
    }
    folds = {"folds": options.folds, "fold": options.fold} if options.folds else {}
    return {name: value for name, value in given.items() if value is not None} | folds


def _split_notes(
    layout: Layout, splits: Mapping[str, Sequence[Example]], options: Options
) -> list[str]:
    notes = []
    published = set(layout.published)
    drawn = set(SPLITS) - published
    if options.folds:
        fold = f"fold {options.fold} (of 0 to {options.folds - 1})"
        if "test" in published:
            notes.append(f"the published test split is kept; {fold} is the validation split")
        if "validation" in published:
            notes.append("the published training and validation splits are merged into folds")
        drawn |= {"validation"}
    for split in () if options.classes else SPLITS:
        missing = {*layout.class_names} - {e.class_name for e in splits[split]}
        if split in drawn and missing:
            names = ", ".join(sorted(missing, key=natural_key))
            notes.append(f"the {split} split has no images of {names}: there are too few")
    groups = [e.group for e in layout.examples if e.group]
    if groups and len(groups) == len(set(groups)) > 1:
        notes.append("each group has only one image, so grouping has no effect")
    groups_of = {split: {e.group for e in splits[split]} - {""} for split in SPLITS}
    for place, split in enumerate(SPLITS):
        for other in SPLITS[:place]:
            if both := sorted(groups_of[split] & groups_of[other], key=natural_key):
                some = f"{len(both)} groups have" if len(both) > 1 else "one group has"
                notes.append(
                    f"{some} images in both the {other} and the {split} split, starting with {both[0]}"
                )
    return notes


def _duplicate_notes(
    duplicates: Sequence[Duplicate], splits: Mapping[str, Sequence[Example]]
) -> list[str]:
    """Write one note per kind and pair of splits, with the first duplicate."""
    found: dict[tuple[str, str, str], list[Duplicate]] = {}
    for duplicate in duplicates:
        key = (duplicate.kind, duplicate.split, duplicate.other_split)
        found.setdefault(key, []).append(duplicate)
    relation = {"copy": "copies of", "look": "nearly identical to"}
    return [
        f"{len(members)} of {len(splits[split])} {split} images are {relation[kind]} {other} images, starting with"
        f" {members[0].id} ({members[0].other_id})"
        for (kind, split, other), members in found.items()
    ]


def _check_bad(
    root: Path,
    examples: Sequence[Example],
    good: Sequence[Example],
    bad: Sequence[BadImage],
    options: Options,
) -> None:
    if not bad:
        return

    def refusal(reason: str, advice: str) -> InputError:
        listed = listing("bad_images", root, (f"{b.id}\t{b.reason}" for b in bad))
        return InputError(
            f"{len(bad)} of {len(examples)} images of {root} cannot be decoded{reason}, starting with {bad[0].id}"
            f" ({bad[0].reason}){listed}: {advice}"
        )

    if options.on_bad_image == "error":
        raise refusal("", "repair or remove them, or skip them (--on-bad-image skip)")
    emptied = {(e.split, e.class_name) for e in examples} - {(e.split, e.class_name) for e in good}
    if emptied and not options.classes:
        split, name = min(emptied, key=str)
        where = f" in the {split} split" if split else ""
        raise refusal(
            f", and none of class {name}{where} are left",
            "replace them, or remove the folder of the class",
        )
    if len(bad) > options.max_bad * len(examples):
        share = math.ceil(100 * len(bad) / len(examples)) / 100
        skip = f", or continue without them: --max-bad {share}" if share < 1 else ""
        raise refusal(
            f", more than {options.max_bad:.3g} of them",
            f"repair or remove them, copy the data again{skip}",
        )


def listing(name: str, root: Path, lines: Iterable[str]) -> str:
    """Write the whole list behind a message to the cache directory, one item per line.

    Returns ", listed in PATH", or an empty string if it cannot be written or has only the item already in the message.
    """
    lines = list(lines)
    if len(lines) < 2:
        return ""
    digest = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:12]
    path = cache_dir() / "lists" / f"{name}-{digest}.txt"
    try:
        write_atomically(path, "".join(f"{printable(line)}\n" for line in lines).encode())
    except OSError:
        return ""
    return f", listed in {path}"


def check_classes(where: str | Path, found: Iterable[str], known: Sequence[str]) -> None:
    """Raise InputError if the data have classes that a trained model does not have."""
    unknown = sorted(set(found) - set(known), key=natural_key)
    if unknown:
        raise InputError(
            f"{where} has {_shown(unknown)}, which {'is' if len(unknown) == 1 else 'are'} not among the"
            f" {len(known)} classes of the model ({_shown(known)}): rename or remove them"
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key that orders numbers in names by value: pig2 before pig10."""
    pieces = re.split("([0-9]+)", text)
    # Odd pieces are numbers: compared by length without leading zeros, then by digits. Any length works.
    values = tuple(
        (len(piece.lstrip("0")), piece.lstrip("0")) if place % 2 else piece.casefold()
        for place, piece in enumerate(pieces)
    )
    return values, text
