"""Read a .csv that lists images as a data set.

The header names the columns: `path` and `label`, and optionally `split` and `group`; others are ignored. Paths are
relative to the folder of the list, or to the folder, .zip or .tar given as `data_dir`, and must stay inside it. A label
is a class name. A split is train, validation or test, or any name that `datasets.formats.folder` accepts, and is given
in all lines or in none; missing splits are drawn from the training split. Examples of one group, such as the
photographs of one visit, stay in one split.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.dataset import SPLITS, Dataset, DatasetInfo, InputError, Options
from datasets.formats.examples import Example, Layout, listing, load_files, natural_key
from datasets.formats.folder import class_names, listed, split_named
from datasets.formats.open import open_source
from datasets.formats.sources import ListedSource, Source, inner_path, points_outside
from zoo.common.files import printable


class Row(NamedTuple):
    """A line of a list."""

    line: int
    cells: dict[str, str]  # by column, "" where empty


def load_csv(path: Path, options: Options) -> Dataset:
    """Load the images of a list; see `datasets.load_dataset`. An example's id is its path."""
    rows = read_rows(path, ("path", "label"), ("split", "group"))
    root = path.parent if options.data_dir is None else Path(options.data_dir).expanduser()
    lines = _lines_by_path(path, root, rows)
    if root.is_dir():
        source: Source = ListedSource(root, lines)
    else:
        source = open_source(root, options.progress)
    files = {file.path: file for file in source.files}
    missing = [name for name in lines if name not in files]
    if missing:
        count = f"{len(missing)} image{'s' * (len(missing) > 1)}"
        where = listing("missing", path, missing)
        raise InputError(
            f"{path} lists {count} missing from {root}, starting with {missing[0]!r} in line"
            f" {lines[missing[0]].line}{where}: correct the list, or pass the folder of the images with --data-dir"
        )
    splits = _splits(path, rows, needs_train=not options.classes)
    examples = [
        Example(name, files[name], row.cells["label"], split, row.cells["group"])
        for (name, row), split in zip(lines.items(), splits, strict=True)
    ]
    notes: list[str] = []
    layout = Layout(
        examples=sorted(examples, key=lambda e: natural_key(e.id)),
        class_names=class_names(path, examples, notes, options.classes),
        published=tuple(split for split in SPLITS if split in splits),
        notes=notes,
    )
    info = DatasetInfo(
        printable(path.stem), f"images of the list {printable(path)}", "the user's own"
    )
    data = load_files(source, layout, info, options)
    return dataclasses.replace(data, provenance={**data.provenance, "list": str(path)})


def read_rows(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """Read the lines of a .csv with a header.

    Cells are separated by commas, semicolons or tabs. Raises InputError for other files and for lines that lack a
    required cell.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            rows = [(reader.line_num, [c.strip() for c in cells]) for cells in reader if any(cells)]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: use the path of a .csv") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not encoded in UTF-8: save it in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a valid .csv ({error}): save it again") from None
    head = [cell.casefold() for cell in rows[0][1]] if rows else []
    lacking = [name for name in required if name not in head]
    if lacking:
        raise InputError(
            f"{path} has no column {' and no column '.join(lacking)} in its first line: begin it with"
            f" {','.join(required)}{' and optionally ' * bool(optional)}{','.join(optional)}"
        )
    wanted = {name: head.index(name) for name in (*required, *optional) if name in head}
    found = []
    for line, cells in rows[1:]:
        filled = [*cells, *[""] * (len(head) - len(cells))]
        row = Row(line, dict.fromkeys(optional, "") | {n: filled[i] for n, i in wanted.items()})
        empty = [name for name in required if not row.cells[name]]
        if empty or len(cells) > len(head):
            what = (
                f"has no {empty[0]}" if empty else f"has {len(cells)} cells for {len(head)} columns"
            )
            raise InputError(f"line {line} of {path} {what}: correct or remove it")
        found.append(row)
    if not found:
        raise InputError(f"{path} has no lines after the header: list one image per line")
    return found


def _lines_by_path(path: Path, root: Path, rows: Sequence[Row]) -> dict[str, Row]:
    lines: dict[str, Row] = {}
    for row in rows:
        name = row.cells["path"]
        if points_outside(name):
            raise InputError(
                f"line {row.line} of {path} has the path {name!r}, which is outside {root}: use paths"
                " relative to the list, or to --data-dir"
            )
        name = inner_path(path, name)
        if name in lines:
            raise InputError(
                f"{path} lists {name!r} twice, in lines {lines[name].line} and {row.line}:"
                " keep one of them"
            )
        lines[name] = row
    return lines


def _splits(path: Path, rows: Sequence[Row], *, needs_train: bool) -> list[str | None]:
    splits: list[str | None] = []
    for row in rows:
        name = row.cells["split"]
        split = split_named(name)
        if name and split is None:
            raise InputError(
                f"line {row.line} of {path} has the split {name!r}: use train, validation or test"
            )
        if bool(name) != bool(rows[0].cells["split"]):
            odd = next(r for r in rows if not r.cells["split"])
            raise InputError(
                f"line {odd.line} of {path} has no split, but other lines have one: fill it in, or leave all empty"
            )
        splits.append(split)
    if any(splits) and "train" not in splits and needs_train:
        raise InputError(
            f"{path} has {listed({s for s in splits if s})} images, but no training images: add some"
        )
    return splits
