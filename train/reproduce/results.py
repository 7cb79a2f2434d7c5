"""Results of a paper's rows and grids, read from their run directories."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import dataset_info, list_datasets
from train import cli, jobs
from train.recipe import Recipe
from train.record.directory import RunDir, write_json
from train.record.environment import hardware
from train.reproduce import columns, ledger, settings, verdicts
from train.reproduce.data import describe_data
from train.reproduce.folders import Folders, folder_name, row_job, trial_job
from train.reproduce.ledger import GridResult
from train.reproduce.schema import Grid, Paper, Row
from train.reproduce.settings import Expected
from train.reproduce.verdicts import RowResult, Run
from zoo.common.files import write_atomically


class Results:
    """Results of a paper at one scale."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        # Folder name of a row or grid -> why its runs did not start, in this call or the previous one.
        self.problems: dict[str, str] = _earlier_problems(folders.ledger)
        self._parameters: dict[str, dict[str, float] | None] = {}

    @property
    def paper(self) -> Paper:
        """The paper."""
        return self.folders.paper

    def ledger(self, *, with_parameters: bool = True) -> dict[str, Any]:
        """Build the paper's ledger from all existing runs."""
        rows = {row.name: self.row(row, with_parameters=with_parameters) for row in self.paper.rows}
        for row in self.paper.rows:
            if row.faster_than:
                rows[row.name] = columns.with_time_saved(rows[row.name], rows[row.faster_than])
        return ledger.build(
            self.paper,
            rows,
            {grid.name: self.grid(grid) for grid in self.paper.grids},
            smoke=self.folders.scale == "smoke",
        )

    # Rows.

    def row(self, row: Row, *, with_parameters: bool = True) -> RowResult:
        """Read the results of a row."""
        runs = self.runs(row)
        return RowResult(
            runs=runs,
            parameters=self._count(row)
            if with_parameters and self._needs_parameters(row)
            else None,
            setting=settings.describe_row(row),
            command=self._row_command(row, verdicts.comparable(runs)),
            needs=settings.needs(row),
            problem="" if runs else self.problems.get(folder_name(row), ""),
        )

    def runs(self, row: Row) -> list[Run]:
        """Read the runs of a row."""
        return [run for seed in self.folders.seeds(row) if (run := self._run(row, seed))]

    def _run(self, row: Row, seed: int) -> Run | None:
        run = self.folders.run(row_job(row.name, seed))
        if not run.exists():
            return None
        try:
            found = match_run(run, settings.expected(row, self.folders.scale, {"seed": seed}))
            data = data_of(run, row)
            return Run(
                seed=seed,
                on_papers_data=data.get("is_documents", False),
                short=found.short,
                earlier=found.earlier,
                data=data,
                facts=self._facts(run, found.recipe),
                **_state(run),
            )
        except (ValueError, KeyError, OSError) as error:
            return Run(seed=seed, state="failed", text=" ".join(str(error).split()))

    def _facts(self, run: RunDir, recipe: Recipe) -> dict[str, Any]:
        env, test = _read(run.path / "env.json"), _read(run.test)
        return {
            "setting": settings.describe(recipe),
            "directory": run.path.relative_to(self.folders.base).as_posix(),
            "commit": env.get("git_commit", ""),
            "dirty": bool(env.get("git_dirty")),
            "hardware": hardware(env) if env else "",
            "versions": env.get("versions", {}),
            "epochs_run": test.get("epochs_run"),
            "best_epoch": test.get("best_epoch"),
            **{
                name: [_rounded(row.get(name)) for row in run.read_summary()]
                for name in ledger.CURVES
            },
            "effective_clusters": test.get("effective_clusters"),
            # Why the clusters or the SVM's kernel are degenerate, if applicable.
            "remark": test.get("collapsed") or test.get("kernel", {}).get("sentence"),
        }

    def _row_command(self, row: Row, runs: Sequence[Run]) -> str:
        where = next((run.data.get("data_dir") for run in runs), None)
        if not runs and settings.takes_data_dir(row.recipe.dataset) and not row.proxy:
            where = "$DATA"
        shortened = bool(runs) and runs[0].short
        words = self._command(f"--rows {row.name}", where, shortened)
        default = 1 if self.folders.scale == "smoke" or shortened else row.seeds
        if runs and len(runs) != default:
            words.append(f"--seeds {1 + max(run.seed for run in runs)}")
        return " ".join(words)

    def _command(self, selection: str, data_dir: str | None, shortened: bool) -> list[str]:
        words = ["python -m train.reproduce", self.paper.name, selection]
        words += [f"--data-dir {data_dir}"] if data_dir else []
        if self.folders.scale == "smoke" or shortened:
            words.append(f"--scale {'smoke' if self.folders.scale == 'smoke' else 'short'}")
        return words

    def _needs_parameters(self, row: Row) -> bool:
        compared = [c.column for c in self.paper.comparisons if row.name in (c.higher, c.lower)]
        return any(name in verdicts.PARAMETER_COLUMNS for name in [*row.reported, *compared])

    def _count(self, row: Row) -> dict[str, float] | None:
        if row.name not in self._parameters:
            try:
                self._parameters[row.name] = settings.count_parameters(row.recipe)
            except Exception as error:
                cli.say(f"{row.name}: cannot count the parameters: {cli.explain(error)[0]}")
                self._parameters[row.name] = None
        return self._parameters[row.name]

    # Grids.

    def grid(self, grid: Grid) -> GridResult:
        """Read the results of a grid."""
        trials = self.trials(grid)
        where = next((t["data"].get("data_dir") for t in trials if t["data"]), None)
        words = self._command(f"--grids {grid.name}", where, any(t["short"] for t in trials))
        problem = "" if trials else self.problems.get(folder_name(grid), "")
        return GridResult(ledger.sort_trials(trials), " ".join(words), problem)

    def trials(self, grid: Grid) -> list[dict[str, Any]]:
        """Read the trials of a grid."""
        existing = self.folders.trials(grid)
        return [
            trial
            for index, values in enumerate(grid.trials())
            if index in existing and (trial := self._trial(grid, index, values))
        ]

    def _trial(self, grid: Grid, index: int, changes: dict[str, Any]) -> dict[str, Any] | None:
        run = self.folders.run(trial_job(grid, index))
        if not run.exists():
            return None
        base: dict[str, Any] = {"index": index, "point": changes, "data": {}, "short": False}
        try:
            found = match_run(run, settings.expected(grid, self.folders.scale, changes))
            state = _state(run)
        except (ValueError, KeyError, OSError) as error:
            return base | {"state": "failed", "text": " ".join(str(error).split())}
        values = state.pop("values", {})
        facts = self._facts(run, found.recipe)
        return {
            **base,
            **state,
            "short": found.short,
            "earlier": found.earlier,
            "data": data_of(run, grid),
            "validation_accuracy": _validation_accuracy(run, values),
            "accuracy": values.get("accuracy"),
            "loss": values.get("loss"),
            **{k: facts[k] for k in ("commit", "dirty", "epochs_run", "directory")},
        }

    def write_trials(self, grid: Grid) -> None:
        """Write the grid's finished trials to points.csv and points.json in its folder, if there are any."""
        trials = self.grid(grid).trials
        if not trials:
            return
        heading = ["index", *grid.axes, "state", "text", "validation_accuracy", "accuracy", "loss"]
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, heading, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**t["point"], **t} for t in trials)
        folder = self.folders.root / folder_name(grid)
        write_atomically(folder / "points.csv", lines.getvalue().encode())
        write_json(folder / "points.json", [dict(t) for t in trials])


def match_run(run: RunDir, among: Sequence[Expected]) -> Expected:
    """Return the expected recipe that a run matches, with the run's values. Raises InputError if none matches."""
    recipe = run.read_recipe()
    found = settings.match_recipe(recipe, among)
    if found is None:
        jobs.check_same(run, among[0].recipe, settings.is_best_of_row)  # raises InputError
        raise ValueError(f"{run.path} matches no expected recipe")
    own = jobs.with_jobs(recipe, found.recipe, settings.is_best_of_row)
    return dataclasses.replace(found, recipe=own)


def data_of(run: RunDir, item: Row | Grid) -> dict[str, Any]:
    """Compare a run's data with the paper's (see `describe_data`), and add their location, data_dir."""
    manifest = _read(run.splits)
    if not manifest:
        return {}
    name = item.recipe.dataset
    known = name in list_datasets()
    recipe = run.read_recipe()
    data = describe_data(
        manifest,
        name if known else Path(name).stem,
        dataset_info(name).split_sizes if known else None,
        fewer_on_purpose=recipe.images_per_class is not None,
    )
    return data | {"data_dir": _portable(recipe.data_dir, manifest)}


def _portable(data_dir: str | None, manifest: dict[str, Any]) -> str | None:
    """Return data_dir without machine-specific paths: $DATA/<file>, or $DATA for a folder of downloads."""
    if data_dir is None:
        return None
    used = manifest.get("provenance", {}).get("path")
    if used and Path(used).parent == Path(data_dir):
        return "$DATA"
    return f"$DATA/{Path(data_dir).name}"


def _state(run: RunDir) -> dict[str, Any]:
    """Return state, text and values of a run, as fields of `verdicts.Run`."""
    if run.test.exists():
        values = columns.values(run.read_json(run.test), run.read_summary())
        return {"state": "done", "values": values, "text": ""}
    if outcome := jobs.read_outcome(run):
        return {"state": outcome.state, "text": outcome.text}
    epochs = len(run.read_summary())
    return {"state": "unfinished", "text": f"stopped after {cli.count(epochs, 'epoch')}"}


def _validation_accuracy(run: RunDir, values: dict[str, float]) -> float | None:
    """Return the validation accuracy of the epoch whose weights are tested, or of the probe if there is one."""
    if "validation_accuracy" in values:
        return values["validation_accuracy"]
    if not values:
        return None
    epoch = values.get("best_epoch")
    kept = [row["val_accuracy"] for row in run.read_summary() if row["epoch"] == epoch]
    return kept[-1] if kept and math.isfinite(kept[-1]) else None


def _rounded(value: Any) -> float | None:
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else None


def _earlier_problems(path: Path) -> dict[str, str]:
    rows = _read(path).get("rows", [])
    return {row["name"]: row["problem"] for row in rows if row.get("problem")}


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the file is missing or invalid."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
