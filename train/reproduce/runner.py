"""Plan and run the jobs of a paper's rows and grids."""

import dataclasses
import fnmatch
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import list_datasets
from train import cli, data_files, jobs
from train.errors import InputError, Interrupted
from train.jobs import Failures, Job, Outcome
from train.recipe import JobWeights, Recipe, with_values
from train.record.directory import write_json
from train.reproduce import settings
from train.reproduce.folders import Folders, folder_name, row_job, trial_job
from train.reproduce.formatting import show_trial
from train.reproduce.results import Results
from train.reproduce.schema import Grid, Paper, Row
from train.reproduce.settings import Scale
from train.reproduce.smoke import smoke_recipe

# Minimum seconds between two versions of a report: drawing its figures takes longer with each row.
REPORT_SECONDS = 60


class DataUnavailable(Exception):
    """Raised when the data of a row cannot be loaded; the message says why."""


class Runner:
    """Runs a paper's rows and grids in one folder, at one scale."""

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
        self._reported = -math.inf  # when the report was last written
        self._bases: dict[str, Recipe | DataUnavailable] = {}
        self._data: dict[tuple[str, str | None], str | None] = {}

    # Selection.

    def rows(self, patterns: Sequence[str]) -> list[Row]:
        """Return the rows whose names match. Raises InputError for a pattern without a match."""
        return [self.paper.row(n) for n in select(patterns, self.paper.rows, "row")]

    def grids(self, patterns: Sequence[str]) -> list[Grid]:
        """Return the grids whose names match. Raises InputError for a pattern without a match."""
        names = select(patterns, self.paper.grids, "grid")
        return [grid for grid in self.paper.grids if grid.name in names]

    def num_seeds(self, row: Row) -> int:
        """Return the number of runs of a row: --seeds, else the row's own number, or 1 if it is shortened."""
        if not row.seeds:
            return 0
        full = self.scale == "full" or (self.scale == "short" and row.short is None)
        return self.seeds or (row.seeds if full else 1)

    def jobs(self, rows: Sequence[Row], trials: Sequence[tuple[Grid, range]] = ()) -> list[Job]:
        """Return the jobs of rows and of grid trials, in order, including the jobs of other rows they start from.

        Raises InputError when rows start from each other.
        """
        found: dict[str, Job] = {}

        def add(job: Job) -> None:
            if job.name in found:
                return
            found[job.name] = job
            for name in job.dependencies:
                row, seed = self._of_job(name)
                add(self._row_job(row, seed))

        for row in rows:
            for seed in range(self.num_seeds(row)):
                add(self._row_job(row, seed))
        for grid, indices in trials:
            for number, (index, trial) in enumerate(
                ((i, t) for i, t in enumerate(grid.trials()) if i in indices), 1
            ):
                where = f"trial {index} ({number} of {len(indices)}): {show_trial(trial)}"
                add(self._trial_job(grid, index, trial, where))
        return self._with_titles(jobs.dependency_order(found.values()))

    def _with_titles(self, ordered: Sequence[Job]) -> list[Job]:
        """Title the jobs of rows "row 2 of 5, seed 0: NAME"."""
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

    def _trial_job(self, grid: Grid, index: int, trial: Mapping[str, Any], where: str) -> Job:
        # A grid has hundreds of trials: no figures, and no checkpoints, which are only needed to resume.
        job = self._job(grid, trial_job(grid, index), trial, figures=False)
        return dataclasses.replace(job, title=f"grid {grid.name}, {where}", keep_checkpoints=False)

    def _job(self, item: Row | Grid, name: str, values: Mapping[str, Any], *, figures: bool) -> Job:
        missing = ""
        try:
            recipe = self.base(item)
        except DataUnavailable as error:
            recipe, missing = item.recipe, str(error)
        recipe = with_values(recipe, values)
        return Job(
            name,
            jobs.map_weights(recipe, lambda row: self._weights(row, recipe.seed)),
            group=folder_name(item),
            missing=missing,
            figures=figures,
        )

    def _weights(self, row: str, seed: int) -> JobWeights:
        """Return the weights of a row's run with that seed, or with seed 0 if the row has no such run."""
        (first,) = self.rows([row])
        return JobWeights(row_job(row, seed if seed < self.num_seeds(first) else 0))

    def _of_job(self, name: str) -> tuple[Row, int]:
        return next(
            (row, seed)
            for row in self.paper.rows
            for seed in range(self.num_seeds(row))
            if row_job(row.name, seed) == name
        )

    # Data.

    def base(self, item: Row | Grid) -> Recipe:
        """Return the recipe at this scale on the first data that can be loaded.

        Tried in this order: the paper's data in --data-dir, the paper's data if they need no --data-dir, the proxy.
        Raises DataUnavailable when none can be loaded.
        """
        key = folder_name(item)
        if key not in self._bases:
            try:
                self._bases[key] = self._find_data(item)
            except DataUnavailable as error:
                self._bases[key] = error
        found = self._bases[key]
        if isinstance(found, DataUnavailable):
            raise found
        return found

    def _find_data(self, item: Row | Grid) -> Recipe:
        if self.scale == "smoke":
            return smoke_recipe(item.recipe)
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
        raise DataUnavailable(reasons[0])

    def _data_problem(self, recipe: Recipe) -> str | None:
        """Return why the recipe's data or weights files cannot be loaded, or None."""
        try:
            for file in data_files.of_recipe(recipe):
                data_files.find(file, recipe.data_dir)
        except InputError as error:
            return str(error)
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
                    max_bad=recipe.max_bad,
                    progress=cli.progress_callback(progress),
                )
                self._data[key] = None
            except Exception as error:
                self._data[key], _ = cli.explain(error)
            finally:
                progress.stop()
        return self._data[key]

    def check_data_dir(self) -> None:
        """Raise InputError when --data-dir does not exist."""
        if self.data_dir is not None and not self.data_dir.exists():
            raise InputError(f"--data-dir {self.data_dir} does not exist: check the path")

    def check_data(self, items: Sequence[Row | Grid]) -> None:
        """Raise InputError when --data-dir has no usable data for any of the items."""
        if self.data_dir is None or self.scale == "smoke":
            return
        self.check_data_dir()
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

    def run(self, ordered: Sequence[Job], failures: Failures | None = None) -> dict[str, Outcome]:
        """Run the jobs that have no result yet, saving after each row's job; return their outcomes by name."""
        try:
            return jobs.run_jobs(
                ordered,
                self.folders.root,
                same_weights=settings.is_best_of_row,
                failures=failures,
                after=self._after,
            )
        except Interrupted:
            self.save()
            raise

    def _after(self, job: Job, outcome: Outcome) -> None:
        problems = self.results.problems
        if outcome.state in ("failed", "not run"):
            # Without --data-dir, missing data are expected, and `needs` is briefer.
            expected = job.missing and not self.data_dir
            problems[job.group] = "" if expected else outcome.text
        else:
            problems.pop(job.group, None)
        grid = next((g for g in self.paper.grids if folder_name(g) == job.group), None)
        if grid is None:
            self.save(report=time.monotonic() - self._reported > REPORT_SECONDS)
        else:
            self.results.write_trials(grid)

    def save(self, *, report: bool = True) -> dict[str, Any]:
        """Write the ledger and, by default, its HTML report from the existing runs; return the ledger."""
        result = self.results.ledger()
        write_json(self.folders.ledger, result)
        if report:
            from train.reproduce.page import write_page

            write_page(result, self.folders)
            self._reported = time.monotonic()
        return result


def select(patterns: Sequence[str], items: Sequence[Any], what: str) -> list[str]:
    """Return the names that match any pattern, in the order of `items`. Raises InputError for one without a match."""
    names = [item.name for item in items]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = f"there are {', '.join(names)}" if names else f"the paper has no {what}s"
            raise InputError(f"no {what} matches {pattern!r}: {known}")
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]
