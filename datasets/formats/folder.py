"""Read a folder, .zip or .tar of images as a data set.

Supported layouts are `cats/*.jpg dogs/*.jpg` (unsplit), and the same inside published splits named
`train|training|training_set`, `val|valid|validation|val_set`, `test|testing|test_set`, where a split may contain a
folder of the same name (`training_set/training_set/cats`). Published splits are kept; missing splits are drawn from
the training split, stratified by class. A single enclosing folder is ignored. Classes are in natural order: pig2 before
pig10.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.dataset import SPLITS, Dataset, DatasetInfo, InputError, Options
from datasets.formats.examples import Example, Layout, check_classes, load_files, natural_key
from datasets.formats.open import open_source
from datasets.formats.sources import File, Source
from datasets.images.decode import is_image, required_for
from zoo.common.files import printable

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "train_set", "training_set"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "val_set", "valid_set", "validation_set"), "validation"
    ),
    **dict.fromkeys(("test", "testing", "test_set", "testing_set"), "test"),
}


def load_folder(path: Path, options: Options) -> Dataset:
    """Load the images at a path; see `datasets.load_dataset`. Images stay on disk.

    An example's id is its path inside the folder or archive, with forward slashes and without any single enclosing
    folder, so that a folder and its archive have the same fingerprint.
    """
    source = open_source(path, options.progress)
    name = printable(path.resolve().name if source.kind == "folder" else archive_stem(path))
    info = DatasetInfo(name, f"images of the {source.kind} {printable(path)}", "the user's own")
    return load_files(source, read_layout(source, options.classes), info, options)


def archive_stem(path: Path) -> str:
    """Return the name of an archive without its suffixes, such as .tar.gz."""
    return re.sub(r"(\.tar)?\.[^.]+$", "", path.name, flags=re.IGNORECASE) or path.name


def read_layout(source: Source, known: Sequence[str] = ()) -> Layout:
    """Find classes and splits. Raises InputError if the folders do not define at least two classes.

    `known` are the classes of a trained model, any of which may be missing.
    """
    root = source.root
    images, others = divide(source.files)
    if not images:
        found_others = "; ".join(text.removeprefix("ignored ") for text in ignored(others))
        contents = f"contains no images, only {found_others}" if others else "is empty"
        raise InputError(
            f"{root} {contents}: use a folder, .zip or .tar with one folder of images per class"
        )
    twice = [path for path, count in Counter(f.path for f in images).items() if count > 1]
    if twice:
        raise InputError(f"{root} contains {min(twice)} twice: remove or rename one of them")
    notes = ignored(others)
    found = _unwrap([_Found(f, tuple(f.path.split("/"))) for f in images])
    ids = {image.file.path: "/".join(image.inside) for image in found}
    splits = _published_splits(root, found, notes, needs_train=not known)
    examples = [
        Example(ids[image.file.path], image.file, image.inside[0], split)
        for split, members in splits.items()
        for image in members
        if len(image.inside) > 1
    ]
    if not examples:
        raise InputError(
            f"{root} has {_images(len(images))}, but no class folders: sort them into"
            " one folder per class, such as cats/ and dogs/"
        )
    labeled = [i for members in splits.values() for i in members if len(i.inside) > 1]
    if empty := _folders_without_images(source, labeled):
        notes.append(f"no images in {_folders(empty)}, next to the class folders")
    loose = sum(map(len, splits.values())) - len(examples)
    if loose:
        notes.append(f"ignored {_images(loose)} outside the class folders")
    return Layout(
        examples=sorted(examples, key=lambda e: natural_key(e.id)),
        class_names=class_names(root, examples, notes, known),
        published=tuple(split for split in SPLITS if split in splits),
        notes=notes,
    )


def divide(files: Iterable[File]) -> tuple[list[File], list[File]]:
    """Divide files into images and others, by their suffixes."""
    images: list[File] = []
    others: list[File] = []
    for file in files:
        (images if is_image(file.path) else others).append(file)
    return images, others


def ignored(files: Sequence[File]) -> list[str]:
    """Describe files that are not read as images, one message per reason, naming the first of them."""
    found: dict[str, list[File]] = {}
    for file in files:
        requirement = required_for(_suffix(file.path))
        reason = f"which require {requirement}" if requirement else "without an image suffix"
        found.setdefault(reason, []).append(file)
    return [
        f"ignored {_count_suffixes(members)} {reason}, starting with"
        f" {min((f.path for f in members), key=natural_key)}"
        for reason, members in found.items()
    ]


def _folders_without_images(source: Source, labeled: Iterable["_Found"]) -> list[str]:
    """List the folders next to the class folders that contain no images, but perhaps other files.

    `labeled` are the images in class folders, with paths relative to there.
    """
    used, parents = set(), set()
    for image in labeled:
        folders = image.file.path.split("/")[:-1]
        used |= {"/".join(folders[: n + 1]) for n in range(len(folders))}
        parents.add("/".join(folders[: len(folders) + 1 - len(image.inside)]))
    every = {*source.folders, *(f.path.rpartition("/")[0] for f in source.files)}
    with_images = {f.path.rpartition("/")[0] for f in source.files if is_image(f.path)}
    return [
        folder
        for folder in every - used - {""}
        if folder.rpartition("/")[0] in parents
        and not any(f"{other}/".startswith(f"{folder}/") for other in with_images)
    ]


class _Found(NamedTuple):
    """An image and its path inside the current folder."""

    file: File
    inside: tuple[str, ...]

    def below(self) -> "_Found":
        return _Found(self.file, self.inside[1:])


def _unwrap(images: list[_Found]) -> list[_Found]:
    """Step into a folder that contains everything, unless it is a class or a split itself."""
    while True:
        tops = {image.inside[0] for image in images}
        nested = {image.inside[1] for image in images if len(image.inside) > 2}
        is_split = _split_folders(tops) and len(_split_folders(nested)) < 2
        if len(tops) > 1 or not nested or is_split:
            return images
        images = [image.below() for image in images]


def _published_splits(
    root: Path, images: list[_Found], notes: list[str], *, needs_train: bool
) -> dict[str | None, list[_Found]]:
    """Return the images of each published split with their paths inside it, or all images under None."""
    tops: dict[str, list[_Found]] = {}
    for image in images:
        if len(image.inside) > 1:
            tops.setdefault(image.inside[0], []).append(image)
    # A folder that contains images directly is a class even if its name is "train": a class of vehicles.
    split_folders = {
        top for top in _split_folders(tops) if any(len(image.inside) > 2 for image in tops[top])
    }
    rest = sorted(set(tops) - split_folders)
    unlabeled = [top for top in rest if re.match("train|val|test", top.casefold())]
    if not split_folders:
        if rest and rest == unlabeled:
            raise InputError(
                f"{_folders(rest)} in {root} {'have' if len(rest) > 1 else 'has'} images, but no"
                f" class folders: sort them into {rest[-1]}/<class>/"
            )
        return {None: images}
    if len(split_folders) == 1 and rest != unlabeled:
        raise InputError(
            f"{root} has {_folders(split_folders)}, which looks like a published split, next to"
            f" {_folders(rest)}, which look like classes: move the classes into the split, or rename it"
        )
    if rest:
        ignored = sum(len(tops[top]) for top in rest)
        notes.append(
            f"ignored {_images(ignored)} in {_folders(rest)}, outside the published splits"
        )

    splits: dict[str | None, list[_Found]] = {}
    for top in sorted(split_folders):
        split = split_named(top)
        if split in splits:
            both = [t for t in split_folders if split_named(t) == split]
            raise InputError(
                f"{root} has {_folders(both)}, which are both the {split} split: keep one of them"
            )
        members = [image.below() for image in tops[top]]
        inner = {image.inside[0] for image in members}
        if len(inner) == 1 and {split_named(name) for name in inner} == {split}:
            members = [image.below() for image in members if len(image.inside) > 1]
        splits[split] = members
    if "train" not in splits and needs_train:
        raise InputError(f"{root} has {_folders(split_folders)}, but no train/ folder: add one")
    return splits


def class_names(
    root: Path, examples: Sequence[Example], notes: list[str], of_model: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the classes of the training split, or those of a trained model.

    Raises InputError if another split has classes that are not among them.
    """
    if of_model:
        check_classes(root, {e.class_name for e in examples}, of_model)
        return tuple(of_model)
    classes: dict[str | None, set[str]] = {}
    for example in examples:
        classes.setdefault(example.split, set()).add(example.class_name)
    known = classes.get("train") or classes.get(None, set())
    for split in sorted(set(classes) - {"train", None}, key=str):
        unknown = sorted(classes[split] - known, key=natural_key)
        if unknown:
            raise InputError(
                f"the {split} split of {root} has {listed(unknown)}, missing from the training split:"
                " use the same class names, and give each class training images"
            )
        if known - classes[split]:
            missing = sorted(known - classes[split], key=natural_key)
            notes.append(f"the {split} split has no images of {', '.join(missing)}")
    names = tuple(sorted(known, key=natural_key))
    if len(names) < 2:
        raise InputError(
            f"{root} has only one class, {', '.join(names)}: a classifier needs at least two"
        )
    return names


def _split_folders(names: Iterable[str]) -> set[str]:
    return {name for name in names if split_named(name)}


def split_named(name: str) -> str | None:
    """Return the split that a name such as `training_set` denotes; None if it denotes none."""
    return SPLIT_NAMES.get(re.sub("[- ]", "_", name.casefold()))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _count_suffixes(files: Sequence[File]) -> str:
    """Describe files by suffix: 3 files (.txt 2, .csv 1)."""
    counts = Counter(_suffix(f.path) or "no suffix" for f in files).most_common()
    counts.sort(key=lambda item: (-item[1], item[0]))  # independent of the file system's order
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in counts[:5])
    return f"{len(files)} file{'s' * (len(files) > 1)} ({kinds}{', ...' * (len(counts) > 5)})"


def _images(count: int) -> str:
    return f"{count} image{'s' * (count > 1)}"


def _folders(names: Iterable[str]) -> str:
    return listed(f"{name}/" for name in names)


def listed(names: Iterable[str]) -> str:
    """Join the first five names in natural order."""
    names = sorted(names, key=natural_key)
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
