"""The runs of a paper's rows and grids: which, on which data, as a list of jobs."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import list_datasets
from train import cli, jobs
from train.errors import InputError, Interrupted
from train.jobs import Job, Outcome
from train.recipe import JobWeights, Recipe, with_values
from train.record.directory import write_json
from train.reproduce import settings
from train.reproduce.claims import Grid, Paper, Row
from train.reproduce.folders import Folders, folder_of, point_job, row_job
from train.reproduce.miniatures import smoke
from train.reproduce.reading import Results
from train.reproduce.settings import Scale
from train.reproduce.words import show_point


class NoData(Exception):
    """The data of a row cannot be loaded; the message says why."""


class Runner:
    """A paper's runs below one folder, at one scale."""

    def __init__(
        self,
        paper: Paper,
        out: Path,
        *,
        scale: Scale = "full",
        data_dir: Path | None = None,
        seeds: int | None = None,
    ) -> None:
        self.paper = paper
        self.scale = scale
        self.data_dir = data_dir.absolute() if data_dir else None
        self.seeds = seeds
        self.folders = Folders(paper, out, scale)
        self.results = Results(self.folders)
        self._bases: dict[str, Recipe | NoData] = {}
        self._data: dict[tuple[str, str | None], str | None] = {}

    # Which runs.

    def rows(self, patterns: Sequence[str]) -> list[Row]:
        """Rows whose names match; InputError for a pattern that none matches."""
        return [self.paper.row(n) for n in select(patterns, self.paper.rows, "row")]

    def grids(self, patterns: Sequence[str]) -> list[Grid]:
        """Grids, likewise."""
        names = select(patterns, self.paper.grids, "grid")
        return [grid for grid in self.paper.grids if grid.name in names]

    def seeds_of(self, row: Row) -> int:
        """How many runs a row gets: without --seeds its own number, and one where it is shortened."""
        whole = self.scale == "full" or (self.scale == "short" and row.short is None)
        return self.seeds or (row.seeds if whole else 1)

    def jobs(self, rows: Sequence[Row], points: Sequence[tuple[Grid, range]] = ()) -> list[Job]:
        """Jobs of the rows and of points of grids, in order; those of other rows, that these start from, are added.

        InputError when rows start from each other.
        """
        found: dict[str, Job] = {}

        def add(job: Job) -> None:
            if job.name in found:
                return
            found[job.name] = job
            for name in job.needs:
                row, seed = self._of_job(name)
                add(self._row_job(row, seed))

        for row in rows:
            for seed in range(self.seeds_of(row)):
                add(self._row_job(row, seed))
        for grid, indices in points:
            for number, (index, point) in enumerate(
                ((i, p) for i, p in enumerate(grid.points()) if i in indices), 1
            ):
                where = f"point {index} ({number} of {len(indices)}): {show_point(point)}"
                add(self._point_job(grid, index, point, where))
        return self._titled(jobs.in_order(found.values()))

    def _titled(self, ordered: Sequence[Job]) -> list[Job]:
        """With "row 2 of 5, seed 0: NAME" as titles of the rows' jobs."""
        rows = list(dict.fromkeys(job.group for job in ordered if not job.title))
        return [
            job
            if job.title
            else dataclasses.replace(
                job,
                title=f"row {rows.index(job.group) + 1} of {len(rows)}, seed {job.recipe.seed}: {job.group}",
            )
            for job in ordered
        ]

    def _row_job(self, row: Row, seed: int) -> Job:
        values = {"seed": seed}
        return self._job(row, row_job(row.name, seed), values, figures=self.scale != "smoke")

    def _point_job(self, grid: Grid, index: int, point: Mapping[str, Any], where: str) -> Job:
        # A grid has hundreds of points: numbers only, and nothing that only resuming needs.
        job = self._job(grid, point_job(grid, index), point, figures=False)
        return dataclasses.replace(job, title=f"grid {grid.name}, {where}", keep_checkpoints=False)

    def _job(self, item: Row | Grid, name: str, values: Mapping[str, Any], *, figures: bool) -> Job:
        missing = ""
        try:
            recipe = self.base(item)
        except NoData as error:
            recipe, missing = item.recipe, str(error)
        recipe = with_values(recipe, values)
        return Job(
            name,
            jobs.map_weights(recipe, lambda row: self._weights(row, recipe.seed)),
            group=folder_of(item),
            missing=missing,
            figures=figures,
        )

    def _weights(self, row: str, seed: int) -> JobWeights:
        """Of a row's run with that seed, or with seed 0 where it has none."""
        (first,) = self.rows([row])
        return JobWeights(row_job(row, seed if seed < self.seeds_of(first) else 0))

    def _of_job(self, name: str) -> tuple[Row, int]:
        return next(
            (row, seed)
            for row in self.paper.rows
            for seed in range(self.seeds_of(row))
            if row_job(row.name, seed) == name
        )

    # The data that recipes can have.

    def base(self, item: Row | Grid) -> Recipe:
        """The recipe at this scale, on the first data that can be loaded of: the paper's in --data-dir; those that
        come by themselves; the proxy. NoData when there are none."""
        key = folder_of(item)
        if key not in self._bases:
            try:
                self._bases[key] = self._find_data(item)
            except NoData as error:
                self._bases[key] = error
        found = self._bases[key]
        if isinstance(found, NoData):
            raise found
        return found

    def _find_data(self, item: Row | Grid) -> Recipe:
        if self.scale == "smoke":
            return smoke(item.recipe)
        reasons = []
        for recipe in settings.variants(item, short=self.scale == "short"):
            takes = settings.takes_data_dir(recipe.dataset)
            for data_dir in [self.data_dir, None] if takes else [None]:
                if data_dir:
                    recipe = dataclasses.replace(recipe, data_dir=str(data_dir))
                reason = self._data_problem(recipe)
                if reason is None:
                    return recipe
                reasons.append(reason)
        raise NoData(reasons[0])

    def _data_problem(self, recipe: Recipe) -> str | None:
        """Why the recipe's data cannot be loaded."""
        if recipe.dataset in list_datasets() and not settings.takes_data_dir(recipe.dataset):
            return None
        key = (recipe.dataset, recipe.data_dir)
        if key not in self._data:
            from datasets import load_dataset

            progress = cli.Progress()
            try:
                load_dataset(
                    recipe.dataset,
                    data_dir=recipe.data_dir,
                    on_bad_image=recipe.on_bad_image,
                    progress=cli.progress_callback(progress),
                )
                self._data[key] = None
            except Exception as error:
                self._data[key], _ = cli.explain(error)
            finally:
                progress.stop()
        return self._data[key]

    def check_data(self, items: Sequence[Row | Grid]) -> None:
        """InputError when --data-dir is of no use to any of the items."""
        if self.data_dir is None or self.scale == "smoke":
            return
        if not self.data_dir.exists():
            raise InputError(f"--data-dir {self.data_dir}: there is nothing: check the path")
        recipes = [recipe for item in items for recipe in settings.variants(item, short=False)]
        wanted = [
            n for n in dict.fromkeys(r.dataset for r in recipes) if settings.takes_data_dir(n)
        ]
        reasons = [
            self._data_problem(Recipe(dataset=name, data_dir=str(self.data_dir))) for name in wanted
        ]
        if reasons and None not in reasons:
            raise InputError(str(reasons[0]))

    # Running.

    def run(self, ordered: Sequence[Job]) -> list[str]:
        """Run what is not there yet, saving after each row's job; returns the failures, a line each."""
        try:
            outcomes = jobs.run_jobs(
                ordered,
                self.folders.root,
                same_weights=settings.is_best_of_row,
                after=self._after,
            )
        except Interrupted:
            self.save()
            raise
        return [f"{name} {how}" for name, how in outcomes.items() if how.state == "failed"]

    def _after(self, job: Job, outcome: Outcome) -> None:
        problems = self.results.problems
        if outcome.state in ("failed", "not run"):
            # Without --data-dir, `needs` says it in fewer words.
            expected = job.missing and not self.data_dir
            problems[job.group] = "" if expected else outcome.text
        else:
            problems.pop(job.group, None)
        grid = next((g for g in self.paper.grids if folder_of(g) == job.group), None)
        if grid is None:
            self.save()
        else:
            self.results.write_points(grid)

    def save(self) -> dict[str, Any]:
        """Write the ledger and its page from what is there."""
        from train.reproduce.page import write_page

        result = self.results.ledger()
        write_json(self.folders.ledger, result)
        write_page(result, self.folders)
        return result


def select(patterns: Sequence[str], items: Sequence[Any], what: str) -> list[str]:
    """Names of the items that match a pattern, in the items' order; InputError for a pattern that matches none."""
    names = [item.name for item in items]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = f"there are {', '.join(names)}" if names else f"it has no {what}s"
            raise InputError(f"no {what} matches {pattern!r}: {known}")
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]
