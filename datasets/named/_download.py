"""What data sets that people download have in common: where the files lie, and whether they are the published ones.

Imports the standard library only, as the modules of the named data sets do at their top.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.dataset import Dataset, DatasetInfo, InputError, Options

if TYPE_CHECKING:
    from datasets.formats.examples import Layout
    from datasets.formats.sources import Source

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
PART_TEXTS = {"train": "training", "validation": "validation", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Download:
    """The files of a published data set, which the user has somewhere."""

    info: DatasetInfo
    archives: tuple[str, ...]  # what downloads are called, surest first
    # Images of each published part, of every edition; all of them under "train" where none is published.
    editions: tuple[Mapping[str, int], ...]
    how_to_get: (
        str  # after the reason why it is needed: from where, what is expected, where to put it
    )
    beside: tuple[str, ...] = ()  # names of files that belong to it and are no images
    whose: str = "of the published set"  # counts, in the note on other ones

    def open(self, options: Options) -> Source:
        """The source in `options.data_dir`: the downloaded archive, the folder that holds it, or what it unpacks to.

        Raises InputError, with how to get the files, when they are not there.
        """
        from datasets.formats.open import open_source

        source = open_source(self.locate(options), options.progress)
        names = {name.casefold() for name in self.beside}
        source.files = [f for f in source.files if os.path.basename(f.path).casefold() not in names]
        return source

    def locate(self, options: Options) -> Path:
        """The folder or archive to open."""
        if options.data_dir is None:
            raise InputError(f"{self.info.name} needs its images: {self.how_to_get}")
        path = Path(options.data_dir).expanduser()
        if not os.path.exists(path) or (path.is_dir() and not os.listdir(path)):
            raise InputError(f"{self.info.name}: there is nothing at {path}: {self.how_to_get}")
        if path.is_dir():
            return self._archive_in(path) or path
        return path

    def _archive_in(self, folder: Path) -> Path | None:
        """The archive that a folder holds: one that is called as the download, or the only thing in it."""
        for name in self.archives:
            if (folder / name).is_file():
                return folder / name
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        found = [e for e in entries if e.is_file() and e.name.lower().endswith(ARCHIVE_SUFFIXES)]
        if len(found) == 1 and not any(entry.is_dir() for entry in entries):
            return Path(found[0].path)
        return None

    def layout(self, source: Source, names: Mapping[str, str] | None = None) -> Layout:
        """What the folders of a source mean; `names` gives the classes of folders that are called otherwise."""
        from datasets.formats.examples import natural_key
        from datasets.formats.folder import read_layout

        try:
            layout = read_layout(source)
        except InputError as error:
            raise InputError(f"{self.info.name}: {error}; {self.how_to_get}") from None
        if names is None:
            return layout

        def name_of(folder: str) -> str:
            return names.get(folder.casefold(), folder)

        return dataclasses.replace(
            layout,
            examples=[
                dataclasses.replace(e, class_name=name_of(e.class_name)) for e in layout.examples
            ],
            class_names=tuple(sorted({*map(name_of, layout.class_names)}, key=natural_key)),
        )

    def check_classes(self, root: Path, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
        """Refuse files that are of other classes."""
        if found != expected:
            raise InputError(
                f"{self.info.name}: {root} has the classes {some(found)} instead of {some(expected)}:"
                f" {self.how_to_get}"
            )

    def finish(self, dataset: Dataset, layout: Layout) -> Dataset:
        """The data set of a layout under its name, with a note where its size is not the published one."""
        difference = self._difference(dataset, layout)
        info = self.info
        if info.num_classes != len(dataset.class_names):
            info = dataclasses.replace(info, num_classes=len(dataset.class_names))
        return dataclasses.replace(
            dataset,
            name=info.name,
            info=info,
            notes=(*([difference] if difference else []), *dataset.notes),
        )

    def _difference(self, dataset: Dataset, layout: Layout) -> str | None:
        bad = {image.id for image in dataset.bad_images}
        good = Counter(e.part or "train" for e in layout.examples if e.id not in bad)
        found = {part: good[part] for part in PART_TEXTS if part in good}
        alike = [edition for edition in self.editions if set(edition) == set(found)]
        if found in alike:
            return None
        theirs = ", or ".join(
            _and([str(e[p]) for p in PART_TEXTS if p in e]) for e in alike or self.editions
        )
        if set(found) == {"train"}:
            return f"{found['train']} images, not the {theirs} {self.whose}"
        texts = [f"{count} {PART_TEXTS[part]}" for part, count in found.items()]
        if "validation" not in found:
            texts[0] += " (with validation)"
        return f"{_and(texts)} images, not the {theirs} {self.whose}"


def some(names: tuple[str, ...]) -> str:
    """Names for a message: the first ten."""
    return ", ".join(names[:10]) + ", ..." * (len(names) > 10)


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
