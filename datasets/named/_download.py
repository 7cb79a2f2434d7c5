"""Published data sets that the user downloads: find the files, and check whether they are complete.

Imports only the standard library at the top level, as all modules of named data sets do.
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
ADJECTIVES = {"train": "training", "validation": "validation", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Download:
    """A published data set whose files the user has downloaded."""

    info: DatasetInfo
    archives: tuple[str, ...]  # file names of downloads, most specific first
    # Images per published split of every edition; all images under "train" if no splits are published.
    editions: tuple[Mapping[str, int], ...]
    how_to_get: str  # end of error messages: where to download what, and where to put it
    other_files: tuple[str, ...] = ()  # names of files in the data set that are not images
    reference: str = "of the published set"  # the origin of the counts in `editions`, for notes

    def open(self, options: Options) -> Source:
        """Open `options.data_dir`: the downloaded archive, the folder that contains it, or the unpacked folder.

        Raises InputError with download instructions if the files are missing.
        """
        from datasets.formats.open import open_source

        source = open_source(self.locate(options), options.progress)
        names = {name.casefold() for name in self.other_files}
        source.files = [f for f in source.files if os.path.basename(f.path).casefold() not in names]
        return source

    def locate(self, options: Options) -> Path:
        """Find the folder or archive to open. Raises InputError if there is none."""
        if options.data_dir is None:
            raise InputError(f"{self.info.name} needs its images: {self.how_to_get}")
        path = Path(options.data_dir).expanduser()
        if not os.path.exists(path) or (path.is_dir() and not os.listdir(path)):
            raise InputError(f"{self.info.name}: there are no files at {path}: {self.how_to_get}")
        if path.is_dir():
            return self._archive_in(path) or path
        return path

    def _archive_in(self, folder: Path) -> Path | None:
        """Find the archive in a folder: a file named like a download, or the only file."""
        for name in self.archives:
            if (folder / name).is_file():
                return folder / name
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        found = [e for e in entries if e.is_file() and e.name.lower().endswith(ARCHIVE_SUFFIXES)]
        if len(found) == 1 and not any(entry.is_dir() for entry in entries):
            return Path(found[0].path)
        return None

    def layout(self, source: Source, names: Mapping[str, str] | None = None) -> Layout:
        """Read the layout of a source. `names` maps the names of folders, in lowercase, to classes."""
        from datasets.formats.examples import natural_key
        from datasets.formats.folder import read_layout

        try:
            layout = read_layout(source)
        except InputError as error:
            raise InputError(f"{self.info.name}: {error}; {self.how_to_get}") from None
        if names is None:
            return layout

        def class_of(folder: str) -> str:
            return names.get(folder.casefold(), folder)

        return dataclasses.replace(
            layout,
            examples=[
                dataclasses.replace(e, class_name=class_of(e.class_name)) for e in layout.examples
            ],
            class_names=tuple(sorted({*map(class_of, layout.class_names)}, key=natural_key)),
        )

    def check_classes(self, root: Path, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
        """Raise InputError if the classes are not those expected."""
        if found != expected:
            raise InputError(
                f"{self.info.name}: {root} has the classes {shortened(found)} instead of {shortened(expected)}:"
                f" {self.how_to_get}"
            )

    def finish(self, dataset: Dataset, layout: Layout) -> Dataset:
        """Set the name and metadata of a loaded data set, and add a note if its size differs from the published one."""
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
        good = Counter(e.split or "train" for e in layout.examples if e.id not in bad)
        found = {split: good[split] for split in ADJECTIVES if split in good}
        comparable = [edition for edition in self.editions if set(edition) == set(found)]
        if found in comparable:
            return None
        expected = ", or ".join(
            _and([str(edition[split]) for split in ADJECTIVES if split in edition])
            for edition in comparable or self.editions
        )
        if set(found) == {"train"}:
            return f"{found['train']} images, not the {expected} {self.reference}"
        texts = [f"{count} {ADJECTIVES[split]}" for split, count in found.items()]
        if "validation" not in found:
            texts[0] += " (with validation)"
        return f"{_and(texts)} images, not the {expected} {self.reference}"


def shortened(names: tuple[str, ...]) -> str:
    """Join the first ten names for a message."""
    return ", ".join(names[:10]) + ", ..." * (len(names) > 10)


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
