"""From labelled examples to a data set: check the files, split, look for copies, name the content.

Every kind of data goes this way: `datasets.folder` and its like say which files there are and what they mean (a
`Layout`), this file does the rest.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datasets.dataset import (
    SPLITS,
    BadImage,
    Dataset,
    DatasetInfo,
    InputError,
    Options,
    Split,
    fingerprint,
)
from datasets.sources import Source
from datasets.splits import shared_content, stratified_split
from datasets.verify import verify

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
    split(layout, options)  # what cannot be split is said before the long check
    files = [example.content for example in layout.examples]
    digests, bad = verify(source, files, options.progress)
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
    """
    parts = split(layout, options)
    labels = {name: label for label, name in enumerate(layout.class_names)}
    leaks = shared_content({p: [digests[e.id] for e in parts[p]] for p in SPLITS})
    notes = [
        f"{count} of {len(parts[part])} {part} images have a copy among the {owner} images"
        for (part, owner), count in leaks.items()
    ]

    def make_split(examples: Sequence[Example]) -> Split:
        def of(get: Callable[[Example], T] | None) -> Callable[[int], T] | None:
            return get and (lambda index: get(examples[index]))

        of_class = [labels[e.class_name] for e in examples]
        return Split([e.id for e in examples], of_class, of(load), read=of(read))

    return Dataset(
        name=info.name,
        splits={part: make_split(parts[part]) for part in SPLITS},
        class_names=layout.class_names,
        info=dataclasses.replace(
            info,
            num_classes=len(labels),
            split_sizes=info.split_sizes or {part: len(parts[part]) for part in SPLITS},
        ),
        fingerprint=fingerprint((e.id, e.class_name, digests[e.id]) for e in layout.examples),
        bad_images=bad,
        seed=options.seed,
        provenance={
            **(provenance or {}),
            "published_parts": list(layout.published),
            "split_fractions": _fractions(layout, options),
            "bad_images": len(bad),
        },
        notes=(*layout.notes, *notes),
    )


def split(layout: Layout, options: Options) -> dict[str, list[Example]]:
    """The examples of each part: the published ones, and those that are taken out of training."""
    parts = {part: [e for e in layout.examples if e.part == part] for part in SPLITS}
    pool = [e for e in layout.examples if e.part in (None, "train")]
    taken = stratified_split(
        [e.id for e in pool],
        [e.class_name for e in pool],
        _fractions(layout, options),
        seed=options.seed,
    )
    return parts | {part: [pool[i] for i in positions] for part, positions in taken.items()}


def _fractions(layout: Layout, options: Options) -> dict[str, float]:
    shares = {"validation": options.validation_fraction, "test": options.test_fraction}
    return {part: share for part, share in shares.items() if part not in layout.published}


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
