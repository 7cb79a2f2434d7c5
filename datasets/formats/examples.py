"""From labelled examples to a data set: check the files, split, look for copies, name the content.

Every kind of data goes this way: `datasets.formats.folder` and its like say which files there are and what they mean (a
`Layout`), this file does the rest.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datasets.checks.leaks import find_leaks, looks_of
from datasets.checks.looks import FOR_SIZE
from datasets.checks.verify import verify
from datasets.dataset import (
    SPLITS,
    BadImage,
    Dataset,
    DatasetInfo,
    InputError,
    Leak,
    Options,
    Split,
    fingerprint,
)
from datasets.formats.sources import Source
from datasets.images.decode import decode
from datasets.manifest import Manifest, read_manifest
from datasets.splits import fold_split, stratified_split

MAX_BAD_SHARE = 0.05

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Example:
    """An image with its class, and the published part that it belongs to, if any."""

    id: str
    content: Any  # what finds the image: a `sources.File`, or a position in an array
    class_name: str
    part: str | None
    group: str = ""  # of examples that must stay on one side of a split: an individual, a visit


@dataclasses.dataclass
class Layout:
    """What a source's files mean."""

    examples: list[Example]  # in natural order of their ids, which are all different
    class_names: tuple[str, ...]
    published: tuple[str, ...]  # parts that come with the data and are kept
    notes: list[str]


def load_files(source: Source, layout: Layout, info: DatasetInfo, options: Options) -> Dataset:
    """The data set of a source's image files: all are checked, and stay where they are."""
    layout = arranged(layout, options)
    split(layout, options)  # what cannot be split is said before the long check
    files = [example.content for example in layout.examples]
    digests, looks, bad = verify(source, files, options.progress)
    good = [e for e in layout.examples if e.content.path in digests]
    names = {e.content.path: e.id for e in layout.examples}
    bad = tuple(BadImage(names[b.id], b.reason) for b in bad)
    _check_bad(source.root, layout.examples, good, bad, options.on_bad_image)

    return assemble(
        dataclasses.replace(layout, examples=good, notes=[*source.notes, *layout.notes]),
        info,
        options,
        digests={e.id: digests[e.content.path] for e in good},
        read=lambda example: source.read(example.content),
        bad=bad,
        provenance={"path": str(source.root), "kind": source.kind},
        looks={e.id: looks[e.content.path] for e in good},
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
    looks: Mapping[str, str] | None = None,
) -> Dataset:
    """The data set of examples that are known to be good.

    Args:
      layout: examples, classes, published parts.
      info: name, description and source; classes, and sizes of the parts where they are not given, are filled in.
      digests: sha256 (hex) of each example's content, by id.
      load: gives an example's image, uint8 [H, W, 3]; or
      read: gives the content of its file.
      bad: what was left out.
      provenance: from where the data come, JSON-able.
      looks: what the images look like, by id (`looks.look`), where that is known already; what it lacks is
        not compared.
    """
    layout = arranged(layout, options, bad, digests)
    parts = split(layout, options)
    labels = {name: label for label, name in enumerate(layout.class_names)}
    examples = layout.examples
    name = fingerprint((e.id, e.class_name, digests[e.id]) for e in examples)
    if looks is None:
        ids = [e.id for e in examples]

        def image(index: int) -> np.ndarray:
            if read:
                return decode(read(examples[index]), FOR_SIZE)
            assert load
            return load(examples[index])

        looks = looks_of(name, ids, image, options.progress)
    leaks = tuple(find_leaks({p: [e.id for e in parts[p]] for p in SPLITS}, digests, looks))

    def make_split(examples: Sequence[Example]) -> Split:
        def of(get: Callable[[Example], T] | None) -> Callable[[int], T] | None:
            return get and (lambda index: get(examples[index]))

        return Split(
            [e.id for e in examples],
            [labels[e.class_name] for e in examples],
            of(load),
            read=of(read),
            digests=[digests[e.id] for e in examples],
            groups=[e.group for e in examples],
        )

    return Dataset(
        name=info.name,
        splits={part: make_split(parts[part]) for part in SPLITS},
        class_names=layout.class_names,
        info=dataclasses.replace(
            info,
            num_classes=len(labels),
            split_sizes=info.split_sizes or {part: len(parts[part]) for part in SPLITS},
        ),
        fingerprint=name,
        bad_images=bad,
        seed=options.seed,
        provenance={
            **(provenance or {}),
            "published_parts": list(layout.published),
            "split_fractions": _fractions(layout, options),
            "bad_images": len(bad),
            **_how_split(options),
        },
        notes=(
            *layout.notes,
            *_notes_on_parts(layout, parts, options),
            *_notes_on_leaks(leaks, parts),
        ),
        leaks=leaks,
    )


def arranged(
    layout: Layout,
    options: Options,
    bad: Sequence[BadImage] = (),
    digests: Mapping[str, str] | None = None,
) -> Layout:
    """The layout with the parts of the file of splits, and with the groups, that are asked for. Before the images
    are checked, and again when it is known which are bad and what the others hold."""
    groups: Mapping[str, str] = {}
    if options.splits_file is not None:
        manifest = read_manifest(options.splits_file)
        layout = _as_in_manifest(layout, manifest, bad, digests or {})
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
            f"the group pattern {pattern.pattern!r} finds nothing in {example}: give one that finds a group"
            " in each id"
        )
    return group


def _as_in_manifest(
    layout: Layout,
    manifest: Manifest,
    bad: Sequence[BadImage],
    digests: Mapping[str, str],
) -> Layout:
    """The examples that a manifest names, in its parts and order."""
    known = {e.id: e for e in layout.examples}
    path, again = manifest.path, "restore them, or make the splits anew"
    names = manifest.class_names or layout.class_names
    examples = []
    missing, changed = [], []
    for part, labels in manifest.parts.items():
        for name, label in labels.items():
            example = known.get(name)
            if example is None:
                missing.append(name)
                continue
            if label >= len(names) or example.class_name != names[label]:
                theirs = names[label] if label < len(names) else f"number {label}"
                raise InputError(
                    f"{path} has {name} in class {theirs}, the data have it in {example.class_name}:"
                    " give the data or the file that belong together"
                )
            if digests and manifest.digests.get(name, digests[name]) != digests[name]:
                changed.append(name)
            examples.append(dataclasses.replace(example, part=part))
    if missing:
        cannot = f" (cannot be decoded: {r})" if (r := _reason(bad, missing[0])) else ""
        raise InputError(
            f"{path} names {_count(missing)} that the data lack, the first is {missing[0]}{cannot}: {again}"
        )
    if changed:
        raise InputError(
            f"{_count(changed)} changed since {path} was written, the first is {changed[0]}: {again}"
        )
    trained = {e.class_name for e in examples if e.part == "train"}
    for name in names:
        if name not in trained:
            raise InputError(f"{path} has no training images of class {name}: make the splits anew")
    notes = list(layout.notes)
    if extra := len(known) - len(examples):
        notes.append(f"left out {extra} image{'s' * (extra > 1)} that {path} does not name")
    return Layout(examples, tuple(names), SPLITS, notes)


def _reason(bad: Sequence[BadImage], name: str) -> str:
    return next((b.reason for b in bad if b.id == name), "")


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} image{'s' * (len(names) > 1)}"


def split(layout: Layout, options: Options) -> dict[str, list[Example]]:
    """The examples of each part: the published ones, and those that are taken out of training."""
    if options.folds:
        kept = {"test"} & {*layout.published}
        pool = [e for e in layout.examples if e.part not in kept]
    else:
        kept = {*layout.published} - {"train"}
        pool = [e for e in layout.examples if e.part in (None, "train")]
    ids, classes = [e.id for e in pool], [e.class_name for e in pool]
    groups, seed, fractions = [e.group for e in pool], options.seed, _fractions(layout, options)
    if options.folds:
        taken = fold_split(
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
        taken = stratified_split(ids, classes, fractions, seed=seed, groups=groups)
    parts = {part: [e for e in layout.examples if e.part == part] for part in kept}
    made = {part: [pool[i] for i in positions] for part, positions in taken.items()}
    return {part: (parts | made)[part] for part in SPLITS}


def _held_out(layout: Layout) -> str:
    """The part that a fold becomes: who publishes test images means no others."""
    return "validation" if "test" in layout.published else "test"


def _fractions(layout: Layout, options: Options) -> dict[str, float]:
    shares = {"validation": options.validation_fraction, "test": options.test_fraction}
    if options.folds:
        return {} if "test" in layout.published else {"validation": shares["validation"]}
    return {part: share for part, share in shares.items() if part not in layout.published}


def _how_split(options: Options) -> dict[str, Any]:
    """What was asked for, beyond seed and shares."""
    asked = {
        "group": options.group,
        "splits_file": None if options.splits_file is None else str(options.splits_file),
    }
    folds = {"folds": options.folds, "fold": options.fold} if options.folds else {}
    return {name: value for name, value in asked.items() if value is not None} | folds


def _notes_on_parts(
    layout: Layout, parts: Mapping[str, Sequence[Example]], options: Options
) -> list[str]:
    notes = []
    published, made = (
        set(layout.published),
        {part for part in SPLITS if part not in layout.published},
    )
    if options.folds:
        which = f"fold {options.fold} (of 0 to {options.folds - 1})"
        if "test" in published:
            notes.append(f"the published test part is kept: {which} is the validation part")
        if "validation" in published:
            notes.append(
                "the published validation part is pooled with the training part into folds"
            )
        made |= {"validation"}
    for part in SPLITS:
        missing = {*layout.class_names} - {e.class_name for e in parts[part]}
        if part in made and missing:
            names = ", ".join(sorted(missing, key=natural_key))
            notes.append(f"the {part} part has no images of {names}: too few to go round")
    groups = [e.group for e in layout.examples if e.group]
    if groups and len(groups) == len(set(groups)) > 1:
        notes.append("each group has one image: they keep nothing together")
    owned = {part: {e.group for e in parts[part]} - {""} for part in SPLITS}
    for place, part in enumerate(SPLITS):
        for other in SPLITS[:place]:
            if both := sorted(owned[part] & owned[other], key=natural_key):
                some = f"{len(both)} groups have" if len(both) > 1 else "one group has"
                notes.append(
                    f"{some} images in both the {other} and the {part} part, the first is {both[0]}"
                )
    return notes


def _notes_on_leaks(leaks: Sequence[Leak], parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A line for each pair of parts, with the first example."""
    found: dict[tuple[str, str, str], list[Leak]] = {}
    for leak in leaks:
        found.setdefault((leak.kind, leak.part, leak.other_part), []).append(leak)
    how = {"copy": "have a copy", "look": "look the same as one"}
    return [
        f"{len(members)} of {len(parts[part])} {part} images {how[kind]} among the {other} images, the first"
        f" is {members[0].id} ({members[0].other_id})"
        for (kind, part, other), members in found.items()
    ]


def _check_bad(
    root: Path,
    examples: Sequence[Example],
    good: Sequence[Example],
    bad: Sequence[BadImage],
    on_bad_image: str,
) -> None:
    if not bad:
        return
    found = f"{len(bad)} of {len(examples)} images of {root} cannot be decoded"
    first = f"the first is {bad[0].id} ({bad[0].reason})"
    if on_bad_image == "error":
        raise InputError(f"{found}, {first}: mend or remove them, or have them skipped")
    emptied = {(e.part, e.class_name) for e in examples} - {(e.part, e.class_name) for e in good}
    if emptied:
        part, name = min(emptied, key=str)
        where = f" of the {part} part" if part else ""
        raise InputError(f"{found} and leave none of class {name}{where}, {first}: replace them")
    if len(bad) > MAX_BAD_SHARE * len(examples):
        raise InputError(
            f"{found}, more than {MAX_BAD_SHARE:.0%}, {first}: mend or remove them,"
            " or copy the data again"
        )


def natural_key(text: str) -> tuple[Any, ...]:
    """Sorts numbers inside names by their value: pig2 before pig10."""
    pieces = re.split("([0-9]+)", text)
    # An odd piece is a number: by length without leading zeros, then by digits; any length works.
    values = tuple(
        (len(piece.lstrip("0")), piece.lstrip("0")) if place % 2 else piece.casefold()
        for place, piece in enumerate(pieces)
    )
    return values, text
