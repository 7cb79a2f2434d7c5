"""What a document claims, as plain data: the rows of its tables, each with the recipe that would produce it.

Imports the standard library only. `train/papers/` holds the documents, `python -m train.reproduce` runs them.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from train.recipe import Recipe, with_values

# Columns that tell how long something took, in milliseconds: shown, and not judged, since hardware differs.
TIMES = ("test_time_ms", "train_time_ms")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table, or one sentence with a number in it.

    A recipe may begin with what another row has trained: `pretrained` or `features` is then "row:" and its name.
    """

    name: str  # unique in the document, such as "table1-alexnet-16"; a folder's name, too
    table: str  # where it stands: "Table 1", "section 4.2"
    label: str  # as printed there
    recipe: Recipe  # the document's setting, on the document's data
    # What is printed: fields of test.json, shares (not percents) and milliseconds. Empty for rows of ours
    # that the document's are compared with.
    printed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Fields of the recipe (dotted paths, see `with_values`) that change where the document's data are absent,
    # and what the reader should know about the data that stand in. None: there is no stand-in.
    stand_in: Mapping[str, Any] | None = None
    # Fields that change in addition to make the row affordable on two CPU cores. None: it is, as it stands.
    short: Mapping[str, Any] | None = None
    seeds: int = 3  # runs of the full setting
    failure: bool = False  # the document reports that it does not work: reproduced when as bad
    misprints: tuple[str, ...] = ()  # columns of `printed` that cannot be right; `reading` says why
    reading: str = ""  # how we read the document here, and where it contradicts itself


@dataclasses.dataclass(frozen=True)
class Ordering:
    """The document says, or its table shows, that a column is higher in one row than in another."""

    column: str
    higher: str  # names of rows
    lower: str
    text: str  # in a few words


@dataclasses.dataclass(frozen=True)
class Grid:
    """A search over settings: every combination of the axes' values."""

    name: str
    table: str
    recipe: Recipe
    axes: Mapping[str, tuple[Any, ...]]  # dotted paths of fields, and the values that are tried
    # The combination that the document found to be the best; empty where it searched for none.
    best: Mapping[str, Any]
    stand_in: Mapping[str, Any] | None = None  # as of rows
    short: Mapping[str, Any] | None = None
    reading: str = ""

    def points(self) -> Iterator[dict[str, Any]]:
        """The combinations, the last axis fastest."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def __len__(self) -> int:
        return sum(1 for _ in self.points())

    def at(self, point: Mapping[str, Any]) -> Recipe:
        """The recipe of a combination."""
        return with_values(self.recipe, point)


@dataclasses.dataclass(frozen=True)
class Document:
    """Everything that one document claims."""

    name: str
    title: str
    rows: tuple[Row, ...]
    orderings: tuple[Ordering, ...] = ()
    grids: tuple[Grid, ...] = ()

    def row(self, name: str) -> Row:
        """A row by name."""
        return next(row for row in self.rows if row.name == name)
