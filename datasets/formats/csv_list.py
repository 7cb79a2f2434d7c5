"""A list of images in a .csv as a data set.

The first line names the columns: `path` and `label`, and where wanted `split` and `group`; others are ignored.
Paths are relative to the folder of the list, or to the folder, .zip or .tar that `data_dir` names, and stay inside
it. A label is a class's name. A split is train, validation or test, by any of the names that folders of such parts
have, in all lines or in none; parts that are missing are split from the training part. Examples of one group, such
as the photographs of one visit, are of one individual or situation, and must not be torn apart.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.dataset import SPLITS, Dataset, DatasetInfo, InputError, Options
from datasets.formats.examples import Example, Layout, load_files, natural_key
from datasets.formats.folder import class_names, listed, part_called
from datasets.formats.open import open_source
from datasets.formats.sources import ListedSource, Source, inner_path, points_outside


class Row(NamedTuple):
    """A line of a list."""

    line: int
    cells: dict[str, str]  # by column, "" where empty


def load_csv(path: Path, options: Options) -> Dataset:
    """The data set of a list; see `datasets.load_dataset`. An example's id is its path."""
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
        many = f"{len(missing)} images that are" if len(missing) > 1 else "an image that is"
        raise InputError(
            f"{path} names {many} not in {root}, {'the first ' * (len(missing) > 1)}{missing[0]!r}"
            f" in line {lines[missing[0]].line}: mend the list, or say with --data-dir where the images are"
        )
    parts = _parts(path, rows)
    examples = [
        Example(name, files[name], row.cells["label"], part, row.cells["group"])
        for (name, row), part in zip(lines.items(), parts, strict=True)
    ]
    notes: list[str] = []
    layout = Layout(
        examples=sorted(examples, key=lambda e: natural_key(e.id)),
        class_names=class_names(path, examples, notes),
        published=tuple(part for part in SPLITS if part in parts),
        notes=notes,
    )
    info = DatasetInfo(path.stem, f"images of the list {path}", "the user's own")
    data = load_files(source, layout, info, options)
    return dataclasses.replace(data, provenance={**data.provenance, "list": str(path)})


def read_rows(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """The lines of a .csv, its columns found by their names in the first line.

    Commas, semicolons or tabs part the cells. Raises InputError for a file that is no such list, and for a line
    without a required cell.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            rows = [(reader.line_num, [c.strip() for c in cells]) for cells in reader if any(cells)]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give the path of a .csv") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not in UTF-8: save it as such") from None
    except csv.Error as error:
        raise InputError(f"{path} is no list that can be read ({error}): save it anew") from None
    head = [cell.casefold() for cell in rows[0][1]] if rows else []
    lacking = [name for name in required if name not in head]
    if lacking:
        raise InputError(
            f"{path} has no column {' and no column '.join(lacking)} in its first line: begin it with"
            f" {','.join(required)}{' and, where wanted, ' * bool(optional)}{','.join(optional)}"
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
            raise InputError(f"line {line} of {path} {what}: mend it, or take it out")
        found.append(row)
    if not found:
        raise InputError(f"{path} has no line below its first: list an image a line")
    return found


def _lines_by_path(path: Path, root: Path, rows: Sequence[Row]) -> dict[str, Row]:
    lines: dict[str, Row] = {}
    for row in rows:
        name = row.cells["path"]
        if points_outside(name):
            raise InputError(
                f"line {row.line} of {path} names {name!r}, which points outside of {root}: give paths"
                " relative to the list, or to the place that --data-dir names"
            )
        name = inner_path(path, name)
        if name in lines:
            raise InputError(
                f"{path} names {name!r} twice, in lines {lines[name].line} and {row.line}:"
                " keep one of them"
            )
        lines[name] = row
    return lines


def _parts(path: Path, rows: Sequence[Row]) -> list[str | None]:
    parts: list[str | None] = []
    for row in rows:
        name = row.cells["split"]
        part = part_called(name)
        if name and part is None:
            raise InputError(
                f"line {row.line} of {path} has the split {name!r}: give train, validation or test"
            )
        if bool(name) != bool(rows[0].cells["split"]):
            odd = next(r for r in rows if not r.cells["split"])
            raise InputError(
                f"line {odd.line} of {path} has no split, and others have: fill it in, or leave all empty"
            )
        parts.append(part)
    if any(parts) and "train" not in parts:
        raise InputError(
            f"{path} has {listed({p for p in parts if p})} images, but none to train on"
        )
    return parts
