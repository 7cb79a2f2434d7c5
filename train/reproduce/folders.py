"""Folder layout of a paper's runs: OUT/PAPER/ROW/seed0, OUT/PAPER/grid-GRID/0, and the files derived from them."""

import dataclasses
from pathlib import Path

from train.record.directory import RunDir
from train.reproduce.schema import Grid, Paper, Row
from train.reproduce.settings import Scale

SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Folders:
    """Paths of a paper's runs at one scale."""

    paper: Paper
    out: Path
    scale: Scale = "full"

    @property
    def base(self) -> Path:
        """`out` as an absolute path; smoke runs have a separate subfolder."""
        return self.out.absolute() / ("smoke" if self.scale == "smoke" else "")

    @property
    def root(self) -> Path:
        """The paper's folder, with one subfolder per job."""
        return self.base / self.paper.name

    @property
    def ledger(self) -> Path:
        """The ledger file."""
        return self.base / f"{self.paper.name}.json"

    @property
    def report(self) -> Path:
        """The HTML report of the ledger."""
        return self.root / "report.html"

    def run(self, job: str) -> RunDir:
        """Return the run directory of a job."""
        return RunDir(self.root / job)

    def seeds(self, row: Row) -> list[int]:
        """List the seeds for which the row has a folder."""
        found = (path.name.removeprefix(SEED) for path in (self.root / row.name).glob(f"{SEED}*"))
        return sorted(int(text) for text in found if text.isdecimal())

    def trials(self, grid: Grid) -> set[int]:
        """Return the indices of the trials for which the grid has a folder."""
        folder = self.root / folder_name(grid)
        return {int(path.name) for path in folder.glob("*") if path.name.isdecimal()}


def folder_name(item: Row | Grid) -> str:
    """Return the name of a row's or grid's folder in the paper's folder."""
    return f"grid-{item.name}" if isinstance(item, Grid) else item.name


def row_job(row: str, seed: int) -> str:
    """Return the job name of a row with a seed."""
    return f"{row}/{SEED}{seed}"


def trial_job(grid: Grid, index: int) -> str:
    """Return the job name of a trial of a grid."""
    return f"{folder_name(grid)}/{index}"
