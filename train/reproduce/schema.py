"""Dataclasses for the tables of a paper: rows with their recipes, comparisons, claims and grids.

Imports only the standard library. `train/reproduce/papers/` holds the papers, `python -m train.reproduce` runs them.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from train.recipe import Recipe, with_values

# Columns in milliseconds, which are judged on the paper's hardware only.
TIMES = ("test_time_ms", "train_time_ms")


@dataclasses.dataclass(frozen=True)
class EarlierReading:
    """How version 0.1 read the paper. Runs made that way are shown, but never count as reproduced.

    `settings.expected` adds what follows from the model and the data set: options of the model and the splits.
    """

    text: str  # how it differs from this version's reading
    # Recipe fields (dotted paths, see `with_values`) that differed.
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table, or one sentence of the paper that states a number.

    A recipe may start from the weights of another row: it then holds `JobWeights` with that row's name.
    """

    name: str  # unique in the paper, such as "table1-alexnet-16"; also the name of its folder
    table: str  # where the paper states it: "Table 1", "section 4.2"
    label: str  # as in the paper
    recipe: Recipe  # the paper's setting, on the paper's data
    # Fields of test.json: fractions (not percentages) and milliseconds. Empty for our own rows, which serve as
    # references for the paper's rows.
    reported: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Proxy data: the recipe fields (dotted paths, see `with_values`) to change where the paper's data are not
    # available. None: the row has no proxy.
    proxy: Mapping[str, Any] | None = None
    # The same where the data of the proxy are not available either.
    fallback: Mapping[str, Any] | None = None
    # Fields to change in addition to make the row affordable on two CPU cores. None: the full row is affordable.
    short: Mapping[str, Any] | None = None
    seeds: int = 3  # number of runs of the full setting; 0: only its parameters are counted
    failure: bool = False  # the paper reports a failure: reproduced only by an equally bad result
    typos: tuple[str, ...] = ()  # columns of `reported` that cannot be correct; `note` says why
    also: tuple[str, ...] = ()  # columns that are shown besides the reported and compared ones
    # The row to which the column `test_time_saved` refers: 1 - own test time / its test time.
    faster_than: str | None = None
    note: str = ""  # how we interpret the paper here, and where it contradicts itself
    earlier: EarlierReading | None = None  # None: version 0.1 had the same settings


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A statement of the paper, in its text or tables: a column is higher in one row than in another."""

    column: str
    higher: str  # row name
    lower: str  # row name
    text: str  # short summary
    # The difference if the paper states it ("about 3 points" is 0.03), in the column's unit. Differences
    # that we would compute from two reported values do not count: they are implied by them.
    magnitude: float | None = None
    # What is compared: the mean over the seeds, or the standard deviation over them.
    statistic: Literal["mean", "sd"] = "mean"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper about one row: the mean of a column is within a range."""

    column: str
    row: str
    text: str  # short summary
    at_least: float = -math.inf
    at_most: float = math.inf


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid search: one trial per combination of the axes' values."""

    name: str
    table: str
    recipe: Recipe
    axes: Mapping[str, tuple[Any, ...]]  # dotted paths of recipe fields, and the values to try
    # The best combination according to the paper; empty if it reports none.
    best: Mapping[str, Any]
    proxy: Mapping[str, Any] | None = None  # as in `Row`
    fallback: Mapping[str, Any] | None = None
    short: Mapping[str, Any] | None = None
    note: str = ""
    earlier: EarlierReading | None = None  # as in `Row`

    def trials(self) -> Iterator[dict[str, Any]]:
        """Yield the combinations; the last axis varies fastest."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def __len__(self) -> int:
        return sum(1 for _ in self.trials())

    def at(self, trial: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a trial."""
        return with_values(self.recipe, trial)


@dataclasses.dataclass(frozen=True)
class Paper:
    """The rows, comparisons, claims and grids of one paper."""

    name: str
    title: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...] = ()
    claims: tuple[Claim, ...] = ()
    grids: tuple[Grid, ...] = ()
    # What our runs say about the paper: what of it holds, what does not, and why. Markdown paragraphs.
    learned: str = ""
    # Suffix of the name of the paper's processor, such as "GeForce GTX TITAN": on others, times are not judged.
    hardware: str = ""

    def row(self, name: str) -> Row:
        """Return a row by name."""
        return next(row for row in self.rows if row.name == name)
