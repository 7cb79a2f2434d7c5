"""The runs of a document's rows and grids: each in its folder, and what is read back from there."""

import contextlib
import csv
import dataclasses
import fnmatch
import gc
import io
import json
import math
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import dataset_info, list_datasets
from train import cli
from train.recipe import InputError, Recipe, differences, with_values
from train.record.directory import RunDir, write_json
from train.record.environment import hardware
from train.reproduce import ledger
from train.reproduce.claims import Document, Grid, Row
from train.reproduce.ledger import Found, FoundGrid, Run
from train.reproduce.miniatures import smoke
from train.run import run as train_and_test
from zoo.common.files import write_atomically

Scale = Literal["full", "short", "smoke"]
OTHER_ROW = (
    "row:"  # what `pretrained` or `features` begins with when another row's weights are meant
)
OUTCOME = "outcome.json"  # of a run that has no test.json and never will, or not yet


class NotRun(Exception):
    """A run cannot begin; the message says what it lacks."""


class NoData(NotRun):
    """What it lacks are the data, which were not named."""


def run_point(recipe: Recipe, workdir: Path, figures: bool = True) -> None:
    """Train and test in a folder, going on with what is there. Results lie in it; stdout stays ours."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            train_and_test(recipe, workdir, "auto", figures=figures)
    finally:
        # JAX keeps every program that it has compiled, about a hundred memory maps each run. Linux allows a process
        # 65,530, and XLA ends in a segmentation fault beyond them: a grid of 576 points would get there.
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
            gc.collect()


@dataclasses.dataclass(frozen=True)
class Job:
    """One row with one seed."""

    row: Row
    seed: int


class Work:
    """A document's runs below one folder, at one scale."""

    def __init__(
        self,
        document: Document,
        out: Path,
        *,
        scale: Scale = "full",
        data_dir: Path | None = None,
        seeds: int | None = None,
    ) -> None:
        self.document = document
        self.scale = scale
        self.data_dir = data_dir.absolute() if data_dir else None
        self.seeds = seeds
        self.out = out.absolute() / ("smoke" if scale == "smoke" else "")
        self.root = self.out / document.name
        self.ledger_path = self.out / f"{document.name}.json"
        self._problems = self._earlier_problems()
        self._bases: dict[tuple[str, str], Recipe] = {}
        self._data: dict[tuple[str, str | None], str | None] = {}
        self._sizes: dict[str, dict[str, int] | None] = {}

    # Which runs.

    def rows(self, patterns: Sequence[str]) -> list[Row]:
        """Rows whose names match; InputError for a pattern that none matches."""
        return [self.document.row(n) for n in select(patterns, self.document.rows, "row")]

    def grids(self, patterns: Sequence[str]) -> list[Grid]:
        """Grids, likewise."""
        names = select(patterns, self.document.grids, "grid")
        return [grid for grid in self.document.grids if grid.name in names]

    def seeds_of(self, row: Row) -> int:
        """How many runs a row gets; shortened ones show that it works, and one does."""
        return self.seeds or self.default_seeds(row)

    def default_seeds(self, row: Row) -> int:
        """Without --seeds."""
        whole = self.scale == "full" or (self.scale == "short" and row.short is None)
        return row.seeds if whole else 1

    def jobs(self, rows: Sequence[Row], grids: Sequence[Grid] = ()) -> list[Job]:
        """Runs of the rows in an order in which each follows the runs that it starts from; those of other rows, that
        these or the grids start from, are added."""
        jobs: dict[tuple[str, int], Job] = {}

        def add(row: Row, seed: int, above: tuple[str, ...]) -> None:
            if row.name in above:
                raise InputError(f"the rows {' and '.join(above)} start from each other")
            for name in self._before(row):
                before = self._row(name)
                add(before, self._seed_before(before, seed), (*above, row.name))
            jobs.setdefault((row.name, seed), Job(row, seed))

        for grid in grids:
            for name in self._before(grid):
                add(self._row(name), 0, ())
        for row in rows:
            for seed in range(self.seeds_of(row)):
                add(row, seed, ())
        return list(jobs.values())

    def _before(self, item: Row | Grid) -> list[str]:
        """Names of the rows that the item starts from, on the data that it gets."""
        try:
            return rows_before(self.base(item))
        except NotRun:
            return []

    def _row(self, name: str) -> Row:
        return self.document.row(select([name], self.document.rows, "row")[0])

    def _seed_before(self, row: Row, seed: int) -> int:
        return seed if seed < self.seeds_of(row) else 0

    def directory(self, row: str, seed: int) -> Path:
        """Where a row's run lies."""
        return self.root / row / f"seed{seed}"

    def point_directory(self, grid: Grid, index: int) -> Path:
        """Where a point's run lies."""
        return self.root / f"grid-{grid.name}" / str(index)

    # Recipes, and the data that they can have.

    def recipe(self, job: Job) -> Recipe:
        """What the job trains; NotRun when data or the weights of another row are missing."""
        return self._started(dataclasses.replace(self.base(job.row), seed=job.seed), job.seed)

    def point_recipe(self, grid: Grid, point: dict[str, Any]) -> Recipe:
        """What a point of a grid trains."""
        return self._started(with_values(self.base(grid), point), 0)

    def base(self, item: Row | Grid) -> Recipe:
        """The recipe at this scale, on the first that can be had of: the document's data in --data-dir; those that
        come by themselves; the stand-in. NotRun when there is none."""
        key = (type(item).__name__, item.name)
        if key not in self._bases:
            self._bases[key] = self._find_data(item)
        return self._bases[key]

    def _find_data(self, item: Row | Grid) -> Recipe:
        if self.scale == "smoke":
            return smoke(item.recipe)
        reasons = []
        for recipe in variants(item, short=self.scale == "short"):
            for data_dir in [self.data_dir, None] if takes_data_dir(recipe.dataset) else [None]:
                recipe = dataclasses.replace(
                    recipe, data_dir=str(data_dir) if data_dir else recipe.data_dir
                )
                reason = self._data_problem(recipe)
                if reason is None:
                    return recipe
                reasons.append(reason)
        raise (NotRun if self.data_dir else NoData)(reasons[0])

    def _data_problem(self, recipe: Recipe) -> str | None:
        """Why the recipe's data cannot be loaded."""
        known = recipe.dataset in list_datasets()
        if known and not takes_data_dir(recipe.dataset):
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
        recipes = [recipe for item in items for recipe in variants(item, short=False)]
        wanted = [
            name for name in dict.fromkeys(r.dataset for r in recipes) if takes_data_dir(name)
        ]
        reasons = [
            self._data_problem(Recipe(dataset=name, data_dir=str(self.data_dir))) for name in wanted
        ]
        if reasons and None not in reasons:
            raise InputError(str(reasons[0]))

    def _started(self, recipe: Recipe, seed: int) -> Recipe:
        """With the folder of a row's best weights in place of the row's name."""
        changed: dict[str, Any] = {}
        for field in ("pretrained", "features"):
            name = row_in(getattr(recipe, field))
            if name is None:
                continue
            before = self._row(name)
            run = RunDir(self.directory(name, self._seed_before(before, seed)))
            if not run.test.exists():
                raise NotRun(f"it starts from the row {name}, which has no finished run")
            if not run.best.is_dir():
                raise NotRun(
                    f"it starts from the row {name}, whose weights are gone: remove {run.path} to train it anew"
                )
            changed[field] = str(run.best)
        return dataclasses.replace(recipe, **changed)

    # Running.

    def do(self, job: Job) -> str:
        """Run a job unless its result is there; returns how it went, in a word or a line."""
        return self._do(
            job.row.name, self.directory(job.row.name, job.seed), lambda: self.recipe(job)
        )

    def do_point(self, grid: Grid, index: int, point: dict[str, Any]) -> str:
        """Run a point of a grid, likewise; what only a resumption would need is removed afterwards."""
        directory = self.point_directory(grid, index)
        how = self._do(
            f"grid-{grid.name}", directory, lambda: self.point_recipe(grid, point), figures=False
        )
        if RunDir(directory).test.exists():
            shutil.rmtree(RunDir(directory).checkpoints, ignore_errors=True)
        return how

    def _do(self, name: str, directory: Path, make_recipe: Any, *, figures: bool = True) -> str:
        run = RunDir(directory)
        outcome = run.path / OUTCOME
        try:
            recipe = make_recipe()
            if run.exists():
                check_same(run, recipe)
                if run.test.exists():
                    return "is there already"
                if _read(outcome).get("state") == "diverged":
                    return f"is there already: {_read(outcome)['text']}"
            outcome.unlink(missing_ok=True)
            # A grid has hundreds of points, and of a miniature's pictures nothing can be seen.
            run_point(recipe, directory, figures and self.scale != "smoke")
            self._problems.pop(name, None)
            return "done"
        except NotRun as error:
            text = " ".join(str(error).split())
            # In the ledger `needs` says it in fewer words.
            self._problems[name] = "" if isinstance(error, NoData) else text
            return f"not run: {text}"
        except cli.Interrupted:
            raise
        except cli.Diverged as error:
            text = f"diverged at step {error.step}"
            write_json(outcome, {"state": "diverged", "text": text})
            return text
        except Exception as error:
            text, status = cli.explain(error)
            text = " ".join(text.split())
            if run.exists() and not run.test.exists():
                write_json(outcome, {"state": "failed", "text": text})
            self._problems[name] = text
            return f"{'not run' if status == 2 and not run.exists() else 'failed'}: {text}"

    # Reading.

    def ledger(self, *, with_sizes: bool = True) -> dict[str, Any]:
        """The document's ledger, from all that lies below the folder."""
        return ledger.build(
            self.document,
            {row.name: self.found(row, with_sizes=with_sizes) for row in self.document.rows},
            {grid.name: self.found_grid(grid) for grid in self.document.grids},
            smoke=self.scale == "smoke",
        )

    def found(self, row: Row, *, with_sizes: bool = True) -> Found:
        """What is known of a row."""
        seeds = sorted(
            int(path.name.removeprefix("seed"))
            for path in (self.root / row.name).glob("seed*")
            if path.name.removeprefix("seed").isdecimal()
        )
        runs = [run for seed in seeds if (run := self._read_run(row, seed))]
        return Found(
            runs=runs,
            sizes=self._count(row) if with_sizes and self._speaks_of_sizes(row) else None,
            setting=describe(row.recipe),
            command=self._command(row, ledger.comparable(runs)),
            needs=needs(row),
            problem="" if runs else self._problems.get(row.name, ""),
        )

    def _read_run(self, row: Row, seed: int) -> Run | None:
        run = RunDir(self.directory(row.name, seed))
        if not run.exists():
            return None
        try:
            recipe = run.read_recipe()
            expected = self._expected(row, seed)
            short = next((s for s, e in expected if not changes(recipe, e)), None)
            if short is None:
                check_same(run, expected[0][1])
            return Run(
                seed=seed,
                on_document=(data := self._data_of(run, row)).get("is_documents", False),
                short=bool(short),
                data=data,
                facts=self._facts(run, recipe, data),
                **_outcome(run),
            )
        except (ValueError, KeyError, OSError) as error:
            return Run(seed=seed, state="failed", text=" ".join(str(error).split()))

    def _expected(self, row: Row, seed: int) -> list[tuple[bool, Recipe]]:
        """The recipes that a run of the row can have, and whether they are short."""
        if self.scale == "smoke":
            return [(False, dataclasses.replace(smoke(row.recipe), seed=seed))]
        return [
            (short, dataclasses.replace(recipe, seed=seed))
            for short in ([False, True] if row.short else [False])
            for recipe in variants(row, short=short)
        ]

    def _data_of(self, run: RunDir, item: Row | Grid) -> dict[str, Any]:
        manifest = _read(run.splits)
        if not manifest:
            return {}
        name = item.recipe.dataset
        known = name in list_datasets()
        data = ledger.describe_data(
            manifest,
            name if known else Path(name).stem,
            dataset_info(name).split_sizes if known else None,
            fewer_on_purpose=run.read_recipe().images_per_class is not None,
        )
        return data | {"data_dir": _portable(run.read_recipe().data_dir, manifest)}

    def _facts(self, run: RunDir, recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
        env, test = _read(run.path / "env.json"), _read(run.test)
        return {
            "setting": describe(_without_places(recipe)),
            "directory": run.path.relative_to(self.out).as_posix(),
            "commit": env.get("git_commit", ""),
            "dirty": bool(env.get("git_dirty")),
            "hardware": hardware(env) if env else "",
            "versions": env.get("versions", {}),
            "epochs_run": test.get("epochs_run"),
            "best_epoch": test.get("best_epoch"),
            "train_loss": [
                round(row["train_loss"], 4) if math.isfinite(row["train_loss"]) else None
                for row in run.read_summary()
            ],
            "effective_clusters": test.get("effective_clusters"),
            # Why clusters or an SVM's kernel are no use, where they are none.
            "remark": test.get("collapsed") or test.get("kernel", {}).get("sentence"),
        }

    def _command(self, row: Row, runs: Sequence[Run]) -> str:
        words = ["python -m train.reproduce", self.document.name, f"--rows {row.name}"]
        where = next((run.data.get("data_dir") for run in runs), None)
        if not runs and takes_data_dir(row.recipe.dataset) and not row.stand_in:
            where = "$DATA"
        if where:
            words.append(f"--data-dir {where}")
        if self.scale == "smoke" or (runs and runs[0].short):
            words.append(f"--scale {'smoke' if self.scale == 'smoke' else 'short'}")
        usual = 1 if self.scale == "smoke" or (runs and runs[0].short) else row.seeds
        if runs and len(runs) != usual:
            words.append(f"--seeds {1 + max(run.seed for run in runs)}")
        return " ".join(words)

    def _speaks_of_sizes(self, row: Row) -> bool:
        columns = [o.column for o in self.document.orderings if row.name in (o.higher, o.lower)]
        return any(name in ledger.SIZES for name in [*row.printed, *columns])

    def _count(self, row: Row) -> dict[str, int] | None:
        if row.name not in self._sizes:
            try:
                self._sizes[row.name] = count_sizes(row.recipe)
            except Exception as error:
                cli.say(f"{row.name}: its parameters cannot be counted: {cli.explain(error)[0]}")
                self._sizes[row.name] = None
        return self._sizes[row.name]

    def _earlier_problems(self) -> dict[str, str]:
        rows = _read(self.ledger_path).get("rows", [])
        return {row["name"]: row["problem"] for row in rows if row.get("problem")}

    # Grids.

    def found_grid(self, grid: Grid) -> FoundGrid:
        """What is known of a grid."""
        folder = self.root / f"grid-{grid.name}"
        there = {int(p.name) for p in folder.glob("*") if p.name.isdecimal()}
        points = [
            found
            for index, point in enumerate(grid.points())
            if index in there and (found := self._read_point(grid, index, point))
        ]
        words = ["python -m train.reproduce", self.document.name, f"--grids {grid.name}"]
        if where := next((p["data"].get("data_dir") for p in points if p["data"]), None):
            words.append(f"--data-dir {where}")
        if self.scale == "smoke" or any(p["short"] for p in points):
            words.append(f"--scale {'smoke' if self.scale == 'smoke' else 'short'}")
        problem = "" if points else self._problems.get(f"grid-{grid.name}", "")
        return FoundGrid(ledger.points_table(points), " ".join(words), problem)

    def _read_point(self, grid: Grid, index: int, point: dict[str, Any]) -> dict[str, Any] | None:
        run = RunDir(self.point_directory(grid, index))
        if not run.exists():
            return None
        found: dict[str, Any] = {"index": index, "point": point, "data": {}, "short": False}
        try:
            recipe = run.read_recipe()
            kinds = [
                (short, with_values(variant, point))
                for short in ([False, True] if grid.short else [False])
                for variant in variants(grid, short=short)
            ]
            if self.scale == "smoke":
                kinds = [(False, with_values(smoke(grid.recipe), point))]
            short = next((s for s, e in kinds if not changes(recipe, e)), None)
            if short is None:
                check_same(run, kinds[0][1])
            outcome = _outcome(run)
        except (ValueError, KeyError, OSError) as error:
            return found | {"state": "failed", "text": " ".join(str(error).split())}
        values = outcome.pop("values", {})
        facts = self._facts(run, recipe, {})
        return {
            **found,
            **outcome,
            "short": bool(short),
            "data": self._data_of(run, grid),
            "validation_accuracy": _validation_accuracy(run, values),
            "accuracy": values.get("accuracy"),
            "loss": values.get("loss"),
            **{k: facts[k] for k in ("commit", "dirty", "epochs_run", "directory")},
        }

    def write_points(self, grid: Grid, points: Sequence[dict[str, Any]]) -> None:
        """The grid's table as points.csv and points.json in its folder."""
        columns = ["index", *grid.axes, "state", "text", "validation_accuracy", "accuracy", "loss"]
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**p["point"], **p} for p in points)
        folder = self.root / f"grid-{grid.name}"
        write_atomically(folder / "points.csv", lines.getvalue().encode())
        write_json(folder / "points.json", list(points))


def select(patterns: Sequence[str], items: Sequence[Any], what: str) -> list[str]:
    """Names of the items that match a pattern, in the items' order; InputError for a pattern that matches none."""
    names = [item.name for item in items]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = f"there are {', '.join(names)}" if names else f"it has no {what}s"
            raise InputError(f"no {what} matches {pattern!r}: {known}")
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


def variants(item: Row | Grid, *, short: bool) -> list[Recipe]:
    """The recipe on the document's data, and on what stands in for them."""
    shortened = dict(item.short or {}) if short else {}
    stand_in = dict(item.stand_in or {})
    changed = [{}, stand_in] if stand_in else [{}]
    return [with_values(item.recipe, {**data, **shortened}) for data in changed]


def takes_data_dir(dataset: str) -> bool:
    """Whether a data set by that name is read from files that the user has."""
    return dataset in list_datasets() and "--data-dir" in dataset_info(dataset).description


def row_in(value: str | None) -> str | None:
    """The name of the row that `pretrained` or `features` speaks of."""
    return value.removeprefix(OTHER_ROW) if value and value.startswith(OTHER_ROW) else None


def rows_before(recipe: Recipe) -> list[str]:
    """Names of the rows that a recipe starts from."""
    names = [row_in(recipe.pretrained), row_in(recipe.features)]
    return [name for name in dict.fromkeys(names) if name]


def changes(recorded: Recipe, expected: Recipe) -> list[str]:
    """In what a recorded run is another one than expected; data may have moved, and so may the results."""
    return [
        text
        for text in differences(_without_places(recorded), _without_places(expected))
        if not text.startswith(("data_dir:", "feed:", "name:"))
    ]


def check_same(run: RunDir, expected: Recipe) -> None:
    """InputError when a folder holds a run of other settings."""
    found = changes(run.read_recipe(), expected)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise InputError(
            f"{run.path} holds a run of other settings ({'; '.join(found[:3])}{more}):"
            " remove that folder, or give another --out"
        )


def _without_places(recipe: Recipe) -> Recipe:
    """With the row's name in place of the folder of its weights: results/afhq/vgg16/seed0/best."""

    def named(value: str | None) -> str | None:
        if value and (found := re.fullmatch(r".*/([^/]+)/seed\d+/best", value)):
            return OTHER_ROW + found[1]
        return value

    return dataclasses.replace(
        recipe, pretrained=named(recipe.pretrained), features=named(recipe.features)
    )


def count_sizes(recipe: Recipe) -> dict[str, int]:
    """Numbers of parameters of the recipe's model for its data's classes, without training."""
    import zoo
    from zoo.inspect import count_parameters

    entry = zoo.get_entry(recipe.model)
    known = recipe.dataset in list_datasets()
    classes = dataset_info(recipe.dataset).num_classes if known else None
    module = zoo.create_model(recipe.model, classes, **recipe.options())
    size = recipe.image_size
    shape = (size, size, 3) if size and len(entry.input_shape) == 3 else entry.input_shape
    trainable, total = count_parameters(module, shape)
    return {"parameters": trainable, "total_parameters": total}


def describe(recipe: Recipe) -> str:
    """A recipe in a line."""
    parts = [f"{recipe.model} on {recipe.dataset}"]
    parts += [f"from {recipe.pretrained}"] if recipe.pretrained else []
    parts += [f"features of {recipe.features}"] if recipe.features else []
    parts += [f"batch {recipe.batch_size}"] if recipe.stages else []
    for stage in recipe.stages:
        name = "" if len(recipe.stages) == 1 else f"{stage.name}: "
        rate = f"{stage.optimizer.name} {stage.optimizer.learning_rate:g}"
        parts.append(f"{name}{cli.count(stage.epochs, 'epoch')} {rate}")
    probe = recipe.probe
    parts += [f"then {probe.method} on {probe.layer}"] if probe.method != "none" else []
    return ", ".join(parts)


def needs(row: Row) -> str:
    """What a run of the row needs that does not come with the program."""
    recipe, found = row.recipe, []
    if takes_data_dir(recipe.dataset):
        info = dataset_info(recipe.dataset)
        where = f" ({info.homepage})" if info.homepage else ""
        instead = (row.stand_in or {}).get("dataset")
        found.append(
            f"the data {recipe.dataset}{where}{f'; {instead} stands in' if instead else ''}"
        )
    if recipe.pretrained and not row_in(recipe.pretrained):
        found.append(f"the weights {recipe.pretrained} of {recipe.model}")
    if recipe.features and "=" in recipe.features:
        found.append("the weights {1} of {0}".format(*recipe.features.split("=", 1)))
    found += [f"the row {name}" for name in rows_before(recipe)]
    return f"needs {' and '.join(found)}" if found else ""


def _portable(data_dir: str | None, manifest: dict[str, Any]) -> str | None:
    """Where the data lay, as a reader would say it: $DATA/<file>, or $DATA for a folder of downloads."""
    if data_dir is None:
        return None
    used = manifest.get("provenance", {}).get("path")
    if used and Path(used).parent == Path(data_dir):
        return "$DATA"
    return f"$DATA/{Path(data_dir).name}"


def _outcome(run: RunDir) -> dict[str, Any]:
    """State, text and values of a run, as `ledger.Run` has them."""
    if run.test.exists():
        numbers = {
            name: float(value)
            for name, value in run.read_json(run.test).items()
            if isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
        }
        return {"state": "done", "values": numbers, "text": ""}
    outcome = _read(run.path / OUTCOME)
    if outcome:
        return {"state": outcome["state"], "text": outcome["text"]}
    epochs = len(run.read_summary())
    return {"state": "unfinished", "text": f"stopped after {cli.count(epochs, 'epoch')}"}


def _validation_accuracy(run: RunDir, values: dict[str, float]) -> float | None:
    """Of the weights that were kept; a probe states its own."""
    if "validation_accuracy" in values:
        return values["validation_accuracy"]
    if not values:
        return None
    kept = [row["val_accuracy"] for row in run.read_summary() if row["is_best"]]
    return kept[-1] if kept and math.isfinite(kept[-1]) else None


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none to read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
