"""A folder, .zip or .tar of images as a data set.

Understood are `cats/*.jpg dogs/*.jpg` (unsplit), and the same below published parts called
`train|training|training_set`, `val|valid|validation|val_set`, `test|testing|test_set`, also when a part holds a
folder of the same name (`training_set/training_set/cats`). Published parts are kept; parts that are
missing are split from the training part, each class by its share. One folder around everything is seen
through. Classes are in natural order: pig2 before pig10.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.dataset import SPLITS, Dataset, DatasetInfo, InputError, Options
from datasets.formats.examples import Example, Layout, load_files, natural_key
from datasets.formats.open import open_source
from datasets.formats.sources import File, Source
from datasets.images.decode import EXTENSIONS

PART_NAMES = {
    **dict.fromkeys(("train", "training", "train_set", "training_set"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "val_set", "valid_set", "validation_set"), "validation"
    ),
    **dict.fromkeys(("test", "testing", "test_set", "testing_set"), "test"),
}


def load_folder(path: Path, options: Options) -> Dataset:
    """A data set of the images at a path; see `datasets.load_dataset`. Images stay on the disk.

    An example's id is its path inside the folder or archive (without a folder around everything), with
    forward slashes: both have the same fingerprint.
    """
    source = open_source(path, options.progress)
    name = path.resolve().name if source.kind == "folder" else archive_stem(path)
    info = DatasetInfo(name, f"images of the {source.kind} {path}", "the user's own")
    return load_files(source, read_layout(source), info, options)


def archive_stem(path: Path) -> str:
    """The name of an archive without what says that it is one."""
    return re.sub(r"(\.tar)?\.[^.]+$", "", path.name, flags=re.IGNORECASE) or path.name


def read_layout(source: Source) -> Layout:
    """Find classes and parts. Raises InputError when the folders do not give at least two classes."""
    root = source.root
    images = [f for f in source.files if _suffix(f.path) in EXTENSIONS]
    others = [f for f in source.files if _suffix(f.path) not in EXTENSIONS]
    if not images:
        held = f"holds no images, only {_count_suffixes(others)}" if others else "is empty"
        raise InputError(
            f"{root} {held}: give a folder, .zip or .tar that has a folder of images for each class"
        )
    twice = [path for path, count in Counter(f.path for f in images).items() if count > 1]
    if twice:
        raise InputError(f"{root} holds {min(twice)} twice: remove or rename one of them")
    notes = []
    if others:
        notes.append(f"ignored {_count_suffixes(others)}: no images by their names")

    found = _unwrap([_Found(f, tuple(f.path.split("/"))) for f in images])
    ids = {image.file.path: "/".join(image.inside) for image in found}
    parts = _published_parts(root, found, notes)
    examples = [
        Example(ids[image.file.path], image.file, image.inside[0], part)
        for part, members in parts.items()
        for image in members
        if len(image.inside) > 1
    ]
    if not examples:
        raise InputError(
            f"{root} has {_images(len(images))}, but no folder for each class: sort them into"
            " one folder a class, such as cats/ and dogs/"
        )
    loose = sum(map(len, parts.values())) - len(examples)
    if loose:
        notes.append(f"ignored {_images(loose)} outside of the class folders")
    return Layout(
        examples=sorted(examples, key=lambda e: natural_key(e.id)),
        class_names=class_names(root, examples, notes),
        published=tuple(part for part in SPLITS if part in parts),
        notes=notes,
    )


class _Found(NamedTuple):
    """An image, and its path inside the folder under consideration."""

    file: File
    inside: tuple[str, ...]

    def below(self) -> "_Found":
        return _Found(self.file, self.inside[1:])


def _unwrap(images: list[_Found]) -> list[_Found]:
    """Step into a folder that holds everything, as long as it is no class and no part itself."""
    while True:
        tops = {image.inside[0] for image in images}
        nested = {image.inside[1] for image in images if len(image.inside) > 2}
        is_part = _parts_among(tops) and len(_parts_among(nested)) < 2
        if len(tops) > 1 or not nested or is_part:
            return images
        images = [image.below() for image in images]


def _published_parts(
    root: Path, images: list[_Found], notes: list[str]
) -> dict[str | None, list[_Found]]:
    """The images of each published part with their paths inside it, or all under None."""
    tops: dict[str, list[_Found]] = {}
    for image in images:
        if len(image.inside) > 1:
            tops.setdefault(image.inside[0], []).append(image)
    # A folder with images right in it is a class, whatever its name: vehicles come with trains.
    parted = {
        top for top in _parts_among(tops) if any(len(image.inside) > 2 for image in tops[top])
    }
    rest = sorted(set(tops) - parted)
    unlabelled = [top for top in rest if re.match("train|val|test", top.casefold())]
    if not parted:
        if rest and rest == unlabelled:
            raise InputError(
                f"{_folders(rest)} in {root} {'have' if len(rest) > 1 else 'has'} images, but no"
                f" folder for each class: sort them into {rest[-1]}/<class>/"
            )
        return {None: images}
    if len(parted) == 1 and rest != unlabelled:
        raise InputError(
            f"{root} has {_folders(parted)} like a published part, and {_folders(rest)} like"
            " classes beside it: move the classes into the part, or rename it"
        )
    if rest:
        ignored = sum(len(tops[top]) for top in rest)
        notes.append(f"ignored {_images(ignored)} in {_folders(rest)}, beside the published parts")

    parts: dict[str | None, list[_Found]] = {}
    for top in sorted(parted):
        part = part_called(top)
        if part in parts:
            both = [t for t in parted if part_called(t) == part]
            raise InputError(
                f"{root} has {_folders(both)}, which both mean the {part} part: keep one of them"
            )
        members = [image.below() for image in tops[top]]
        inner = {image.inside[0] for image in members}
        if len(inner) == 1 and {part_called(name) for name in inner} == {part}:
            members = [image.below() for image in members if len(image.inside) > 1]
        parts[part] = members
    if "train" not in parts:
        raise InputError(f"{root} has {_folders(parted)}, but no train/ folder to train on")
    return parts


def class_names(root: Path, examples: Sequence[Example], notes: list[str]) -> tuple[str, ...]:
    """The classes of the training part, which the other parts must keep to."""
    classes: dict[str | None, set[str]] = {}
    for example in examples:
        classes.setdefault(example.part, set()).add(example.class_name)
    known = classes.get("train") or classes.get(None, set())
    for part in sorted(set(classes) - {"train", None}, key=str):
        unknown = sorted(classes[part] - known, key=natural_key)
        if unknown:
            raise InputError(
                f"the {part} part of {root} has {listed(unknown)}, which the training part lacks:"
                " name the classes alike, and give each some training images"
            )
        if known - classes[part]:
            missing = sorted(known - classes[part], key=natural_key)
            notes.append(f"the {part} part has no images of {', '.join(missing)}")
    names = tuple(sorted(known, key=natural_key))
    if len(names) < 2:
        raise InputError(
            f"{root} has only one class, {', '.join(names)}: a classifier needs at least two"
        )
    return names


def _parts_among(names: Iterable[str]) -> set[str]:
    return {name for name in names if part_called(name)}


def part_called(name: str) -> str | None:
    """The part that a name stands for, if any."""
    return PART_NAMES.get(re.sub("[- ]", "_", name.casefold()))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _count_suffixes(files: Sequence[File]) -> str:
    """For example: 3 files (.txt 2, .csv 1)."""
    counts = Counter(_suffix(f.path) or "no suffix" for f in files).most_common()
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in counts[:5])
    return f"{len(files)} file{'s' * (len(files) > 1)} ({kinds}{', ...' * (len(counts) > 5)})"


def _images(count: int) -> str:
    return f"{count} image{'s' * (count > 1)}"


def _folders(names: Iterable[str]) -> str:
    return listed(f"{name}/" for name in names)


def listed(names: Iterable[str]) -> str:
    """The first five of some names."""
    names = sorted(names, key=natural_key)
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
