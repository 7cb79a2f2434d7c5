"""Where the runs of a paper are: OUT/PAPER/ROW/seed0, OUT/PAPER/grid-GRID/0, and what is made of them."""

import dataclasses
from pathlib import Path

from train.record.directory import RunDir
from train.reproduce.claims import Grid, Paper, Row
from train.reproduce.settings import Scale

SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Folders:
    """The folders of a paper's runs at one scale."""

    paper: Paper
    out: Path
    scale: Scale = "full"

    @property
    def base(self) -> Path:
        """`out`, absolute; smoke runs lie apart."""
        return self.out.absolute() / ("smoke" if self.scale == "smoke" else "")

    @property
    def root(self) -> Path:
        """The folder of the paper, which holds its jobs."""
        return self.base / self.paper.name

    @property
    def ledger(self) -> Path:
        """The file of the ledger."""
        return self.base / f"{self.paper.name}.json"

    @property
    def report(self) -> Path:
        """The ledger's page."""
        return self.root / "report.html"

    def run(self, job: str) -> RunDir:
        """The run directory of a job."""
        return RunDir(self.root / job)

    def seeds(self, row: Row) -> list[int]:
        """The seeds that the row has folders of."""
        found = (path.name.removeprefix(SEED) for path in (self.root / row.name).glob(f"{SEED}*"))
        return sorted(int(text) for text in found if text.isdecimal())

    def points(self, grid: Grid) -> set[int]:
        """The points that the grid has folders of."""
        folder = self.root / folder_of(grid)
        return {int(path.name) for path in folder.glob("*") if path.name.isdecimal()}


def folder_of(item: Row | Grid) -> str:
    """The folder of a row or grid below the root."""
    return f"grid-{item.name}" if isinstance(item, Grid) else item.name


def row_job(row: str, seed: int) -> str:
    """The name of a row's job with a seed."""
    return f"{row}/{SEED}{seed}"


def point_job(grid: Grid, index: int) -> str:
    """The name of the job of a grid's point."""
    return f"{folder_of(grid)}/{index}"
