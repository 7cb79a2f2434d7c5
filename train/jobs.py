"""A list of training jobs: in order, resumable, and with failures as results.

Each job trains a recipe in the folder below a root that it is named after. A recipe may start from what another job
trained: `JobWeights(NAME)` in `pretrained` or in `RunFeatures`. Running the same list again goes on: finished jobs are
reused, an unfinished run is resumed, a failed one is tried again.

    outcomes = run_jobs([Job("a", recipe), Job("b", after_a)], Path("runs/list"))

Imports the standard library only until a job is trained.
"""

import contextlib
import dataclasses
import gc
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

from train import cli
from train.errors import Diverged, InputError, Interrupted
from train.recipe import Difference, JobWeights, Recipe, RunFeatures, differences
from train.record.directory import RunDir, write_json

OUTCOME = "outcome.json"  # in the folder of a run that diverged or failed
# Fields that may differ between a recorded run and a job: they change where data lie and how fast they arrive, or are
# labels.
MAY_DIFFER = ("data_dir", "feed", "name")

State = Literal["done", "reused", "diverged", "failed", "not run"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run of a list."""

    name: str  # unique in the list; its folder below the root, such as "rate-0.1/seed0"
    recipe: Recipe  # may hold `JobWeights` of other jobs
    group: str = ""  # once a job of a group is "not run", the others of that group are not tried
    title: str = ""  # for messages; default: the job's position and name
    missing: str = ""  # known beforehand: why the job cannot run
    figures: bool = True
    keep_checkpoints: bool = True  # when the job is done; only resuming needs them

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the jobs whose weights this one starts from."""
        return () if self.missing else needs(self.recipe)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    state: State
    text: str = ""  # "diverged at step 7", why it failed or was not run
    reused: bool = False  # the result of an earlier call

    def __str__(self) -> str:
        if self.state in ("failed", "not run"):
            return f"{self.state}: {self.text}"
        if self.reused:
            return f"is there already{f': {self.text}' if self.text else ''}"
        return self.text or self.state


class Train(Protocol):
    """Trains, tests and leaves a run directory, resuming the run that is there: `train.run.run`."""

    def __call__(
        self, recipe: Recipe, workdir: Path, resume: Literal["auto"], *, figures: bool
    ) -> Any: ...


class SameWeights(Protocol):
    """Whether a recorded path holds the weights of a job."""

    def __call__(self, path: str, job: str) -> bool: ...


class NotRun(Exception):
    """A job cannot start; the message says what is missing."""


def run_jobs(
    jobs: Sequence[Job],
    root: Path,
    *,
    train: Train | None = None,
    same_weights: SameWeights | None = None,
    say: Callable[[str], None] = cli.say,
    after: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> dict[str, Outcome]:
    """Run the jobs below `root`, each after those that it needs, and return their outcomes by name.

    Args:
      train: see `Train`; default `train.run.run`.
      same_weights: see `SameWeights`; default: the path ends as the job's folder does.
      say: receives a line before and after each job.
      after: called after each job, such as to save a table.

    Raises InputError when jobs need each other in a circle, and Interrupted, naming the job, when the user stops.
    """
    order = in_order(jobs)
    outcomes: dict[str, Outcome] = {}
    refused: dict[str, Outcome] = {}
    where = "the first job"
    try:
        for number, job in enumerate(order, 1):
            if job.group and job.group in refused:
                outcomes[job.name] = refused[job.group]
                continue
            where = job.title or f"job {number} of {len(order)}: {job.name}"
            say(where)
            outcome = run_job(job, root, train=train, same_weights=same_weights)
            outcomes[job.name] = outcome
            say(f"{where}: {outcome}")
            after(job, outcome)
            if outcome.state == "not run" and job.group:
                refused[job.group] = outcome
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            f"stopped in {where}; what is done is saved in {root}: the same command goes on"
        ) from None
    return outcomes


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """The jobs in their order, except that each follows those that it needs; InputError on a circle."""
    by_name: dict[str, Job] = {}
    for job in jobs:
        if by_name.setdefault(job.name, job) is not job:
            raise InputError(f"two jobs are called {job.name}: give each its own name")
    placed: dict[str, Job] = {}

    def place(job: Job, above: tuple[str, ...]) -> None:
        if job.name in above:
            circle = " and ".join(above[above.index(job.name) :])
            raise InputError(f"the jobs {circle} start from each other")
        for name in job.needs:
            if name in by_name and name not in placed:
                place(by_name[name], (*above, job.name))
        placed.setdefault(job.name, job)

    for job in by_name.values():
        place(job, ())
    return list(placed.values())


def run_job(
    job: Job, root: Path, *, train: Train | None = None, same_weights: SameWeights | None = None
) -> Outcome:
    """Run one job, or reuse its result; see `run_jobs`. Raises Interrupted only."""
    run = RunDir(root / job.name)
    outcome = _outcome(job, run, root, train or train_and_test, same_weights)
    if not job.keep_checkpoints and run.test.exists():
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    return outcome


def _outcome(
    job: Job, run: RunDir, root: Path, train: Train, same_weights: SameWeights | None
) -> Outcome:
    try:
        if job.missing:
            raise NotRun(job.missing)
        recipe = with_weights(job.recipe, root)
        if run.exists():
            check_same(run, job.recipe, same_weights)
    except NotRun as error:
        return Outcome("not run", _line(str(error)))
    except InputError as error:
        return Outcome("failed", _line(str(error)))
    if run.test.exists():
        return Outcome("reused", reused=True)
    earlier = read_outcome(run)
    if earlier and earlier.state == "diverged":
        return dataclasses.replace(earlier, reused=True)
    (run.path / OUTCOME).unlink(missing_ok=True)
    try:
        _train(train, recipe, run.path, job.figures)
    except Interrupted:
        raise
    except Exception as error:
        outcome = _outcome_of(error, started=run.exists())
        if run.exists() and not run.test.exists():
            write_json(run.path / OUTCOME, {"state": outcome.state, "text": outcome.text})
        return outcome
    return Outcome("done")


def read_outcome(run: RunDir) -> Outcome | None:
    """What an earlier call wrote about a run that diverged or failed."""
    try:
        content: Mapping[str, Any] = json.loads((run.path / OUTCOME).read_text(encoding="utf-8"))
        return Outcome(content["state"], content["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# Recipes that start from other jobs.


def needs(recipe: Recipe) -> tuple[str, ...]:
    """Names of the jobs whose weights a recipe starts from."""
    features = recipe.features.run if isinstance(recipe.features, RunFeatures) else None
    found = (w.job for w in (recipe.pretrained, features) if isinstance(w, JobWeights))
    return tuple(dict.fromkeys(found))


def map_weights(recipe: Recipe, change: Callable[[str], str | JobWeights]) -> Recipe:
    """The recipe with `change(name)` in place of each `JobWeights(name)`."""
    if isinstance(recipe.pretrained, JobWeights):
        recipe = dataclasses.replace(recipe, pretrained=change(recipe.pretrained.job))
    if isinstance(recipe.features, RunFeatures) and isinstance(recipe.features.run, JobWeights):
        features = RunFeatures(change(recipe.features.run.job))
        recipe = dataclasses.replace(recipe, features=features)
    return recipe


def with_weights(recipe: Recipe, root: Path) -> Recipe:
    """The recipe with folders of weights in place of jobs; NotRun when a job has none."""

    def best(name: str) -> str:
        run = RunDir(root / name)
        if not run.test.exists():
            raise NotRun(f"it starts from {name}, which has no finished run")
        if not run.best.is_dir():
            raise NotRun(
                f"it starts from {name}, whose weights are gone: remove {run.path} to train it again"
            )
        return str(run.best)

    return map_weights(recipe, best)


def is_best_of(path: str, job: str) -> bool:
    """Whether a path ends as that of the job's best weights does, whatever the root."""
    parts = (*PurePath(job).parts, "best")
    return PurePath(path).parts[-len(parts) :] == parts


def with_jobs(
    recorded: Recipe, expected: Recipe, same_weights: SameWeights | None = None
) -> Recipe:
    """The recorded recipe with the expected `JobWeights` in place of the paths that hold them."""
    same = same_weights or is_best_of

    def named(path: Any, weights: Any) -> Any:
        is_same = (
            isinstance(path, str) and isinstance(weights, JobWeights) and same(path, weights.job)
        )
        return weights if is_same else path

    features = recorded.features
    if isinstance(features, RunFeatures) and isinstance(expected.features, RunFeatures):
        features = RunFeatures(named(features.run, expected.features.run))
    return dataclasses.replace(
        recorded, pretrained=named(recorded.pretrained, expected.pretrained), features=features
    )


def changes(
    recorded: Recipe, expected: Recipe, same_weights: SameWeights | None = None
) -> list[Difference]:
    """In what a recorded run differs from the expected one; data and results may have moved."""
    return [
        difference
        for difference in differences(with_jobs(recorded, expected, same_weights), expected)
        if difference.path[0] not in MAY_DIFFER
    ]


def check_same(run: RunDir, expected: Recipe, same_weights: SameWeights | None = None) -> None:
    """InputError when a folder holds a run of other settings, or a damaged one."""
    found = changes(run.read_recipe(), expected, same_weights)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise InputError(
            f"{run.path} holds a run of other settings ({'; '.join(map(str, found[:3]))}{more}):"
            " remove that folder, or start in another one"
        )


# Training.


def train_and_test(recipe: Recipe, workdir: Path, resume: Literal["auto"], *, figures: bool) -> Any:
    """`train.run.run`, imported when it is used."""
    from train.run import run

    return run(recipe, workdir, resume, figures=figures)


def _train(train: Train, recipe: Recipe, workdir: Path, figures: bool) -> None:
    """Train with stdout kept for the results of the list."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            train(recipe, workdir, "auto", figures=figures)
    finally:
        # JAX keeps every program that it has compiled, about a hundred memory maps each run. Linux allows a process
        # 65,530, and XLA ends in a segmentation fault beyond them: a list of 576 jobs would get there.
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
            gc.collect()


def _outcome_of(error: Exception, *, started: bool) -> Outcome:
    if isinstance(error, Diverged):
        return Outcome("diverged", f"diverged at step {error.step}")
    text, status = cli.explain(error)
    return Outcome("not run" if status == 2 and not started else "failed", _line(text))


def _line(text: str) -> str:
    return " ".join(text.split())
