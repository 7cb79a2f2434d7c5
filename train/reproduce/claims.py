"""What a paper claims, as plain data: the rows of its tables, each with the recipe that would reproduce it.

Imports the standard library only. `train/reproduce/papers/` holds the papers, `python -m train.reproduce` runs them.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from train.recipe import Recipe, with_values

# Columns in milliseconds: shown and not judged, since hardware differs.
TIMES = ("test_time_ms", "train_time_ms")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table, or one sentence with a number in it.

    A recipe may start from what another row has trained: it then holds `JobWeights` with that row's name.
    """

    name: str  # unique in the paper, such as "table1-alexnet-16"; also a folder's name
    table: str  # where it is: "Table 1", "section 4.2"
    label: str  # as in the paper
    recipe: Recipe  # the paper's setting, on the paper's data
    # Fields of test.json: shares (not percents) and milliseconds. Empty for our own rows, which the paper's are
    # compared with.
    reported: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Proxy data: fields of the recipe (dotted paths, see `with_values`) that change where the paper's data are
    # absent. None: the row has no proxy.
    proxy: Mapping[str, Any] | None = None
    # Fields that change in addition to make the row affordable on two CPU cores. None: it is, as it is.
    short: Mapping[str, Any] | None = None
    seeds: int = 3  # runs of the full setting
    failure: bool = False  # the paper reports that it does not work: reproduced when as bad
    typos: tuple[str, ...] = ()  # columns of `reported` that cannot be right; `note` says why
    note: str = ""  # how we read the paper here, and where it contradicts itself


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The paper says, or its table shows, that a column is higher in one row than in another."""

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
    axes: Mapping[str, tuple[Any, ...]]  # dotted paths of fields, and the values to try
    best: Mapping[
        str, Any
    ]  # the combination that the paper found best; empty where it reports none
    proxy: Mapping[str, Any] | None = None  # as of rows
    short: Mapping[str, Any] | None = None
    note: str = ""

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
class Paper:
    """Everything that one paper claims."""

    name: str
    title: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...] = ()
    grids: tuple[Grid, ...] = ()

    def row(self, name: str) -> Row:
        """A row by name."""
        return next(row for row in self.rows if row.name == name)
