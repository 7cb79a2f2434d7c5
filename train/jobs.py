"""Run a list of training jobs in dependency order. The list can be resumed, and a failure is an outcome, not an error.

Each job trains a recipe in `root/NAME`. A recipe may start from the weights of another job: `JobWeights(NAME)` in
`pretrained` or in `RunFeatures`. Running the same list again reuses finished jobs, resumes unfinished runs and retries
failed ones.

    outcomes = run_jobs([Job("a", recipe), Job("b", after_a)], Path("runs/list"))

Imports only the standard library until a job is trained.
"""

import contextlib
import dataclasses
import gc
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

from train import cli, stopping
from train.errors import Diverged, InputError, Interrupted, InUse, Pruned
from train.recipe import Difference, JobWeights, Recipe, RunFeatures, differences
from train.record.directory import RunDir, write_json

OUTCOME = "outcome.json"  # in the folder of a run that diverged, failed or was pruned
# JAX keeps all compiled programs, about 500 memory maps per run. Linux allows 65,530 per process, and XLA crashes with
# a segmentation fault beyond that, which a list of 576 jobs would reach. They are dropped only beyond this number, not
# after each job: the next one would spend a second recompiling what all runs share.
MAX_MAPS = 10_000
# Recipe fields that may differ between a recorded run and a job: data location, input pipeline and label.
MAY_DIFFER = ("data_dir", "feed", "name")

State = Literal["done", "reused", "diverged", "pruned", "failed", "not run", "in use"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run of a list."""

    name: str  # unique in the list; also its folder below the root, such as "rate-0.1/seed0"
    recipe: Recipe  # may refer to other jobs by `JobWeights`
    group: str = ""  # once a job of a group is "not run", the rest of the group is skipped
    title: str = ""  # for messages; default: the job's index and name
    missing: str = ""  # the reason why the job cannot run, if known in advance
    figures: bool = True
    keep_checkpoints: bool = True  # after the job is done; checkpoints are only needed to resume

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the jobs whose weights this one starts from."""
        return () if self.missing else dependencies(self.recipe)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a job."""

    state: State
    text: str = ""  # "diverged at step 7", or the reason why it failed or was not run
    reused: bool = False  # whether it comes from an earlier call

    def __str__(self) -> str:
        if self.state in ("failed", "not run", "in use"):
            return f"{self.state}: {self.text}"
        if self.reused:
            return f"already done{f': {self.text}' if self.text else ''}"
        return self.text or self.state


class Failures:
    """The jobs that failed in one call of a command, in a file that all its processes share."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, outcome: Outcome) -> None:
        """Record that a job failed."""
        line = json.dumps({"name": name, "text": outcome.text})
        with open(self._path, "a", encoding="utf-8") as file:  # one write: lines do not mix
            file.write(f"{line}\n")

    def find(self, name: str) -> Outcome | None:
        """Return the outcome of a job that failed; None if it did not."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        found = [entry["text"] for entry in map(json.loads, lines) if entry["name"] == name]
        return Outcome("failed", found[0]) if found else None


class Train(Protocol):
    """Trains, tests and writes a run directory, resuming an existing run; see `train.run.run`.

    The caller has locked the directory.
    """

    def __call__(
        self, recipe: Recipe, workdir: Path, resume: Literal["auto"], *, figures: bool
    ) -> Any: ...


class SameWeights(Protocol):
    """Whether a recorded path contains the weights of a job."""

    def __call__(self, path: str, job: str) -> bool: ...


class NotRun(Exception):
    """A job cannot start. The message says what is missing."""


def run_jobs(
    jobs: Sequence[Job],
    root: Path,
    *,
    train: Train | None = None,
    same_weights: SameWeights | None = None,
    failures: Failures | None = None,
    say: Callable[[str], None] = cli.say,
    after: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> dict[str, Outcome]:
    """Run the jobs below `root`, each after its dependencies, and return their outcomes by name.

    Several processes can run the same list: each takes the next job that no other is training. At the end, each waits
    for the jobs of the others, and continues those of a process that was killed.

    Args:
      jobs: in the order to run them, except that dependencies come first.
      root: folder of all runs.
      train: see `Train`; default: `train.run.run`.
      same_weights: see `SameWeights`; default: the path ends with the job's folder and `best`.
      failures: if several processes run the list: what failed in one of them is not tried again by the others.
      say: called with a line before and after each job.
      after: called after each job, for example to save a table.

    Raises:
      InputError: the dependencies form a cycle, or two jobs have the same name.
      Interrupted: the user stopped; the message names the job.
    """
    order = dependency_order(jobs)
    outcomes: dict[str, Outcome] = {}
    skipped_groups: dict[str, Outcome] = {}
    where = "the first job"
    left, told = order, set[str]()
    try:
        while left:
            in_use: dict[str, Job] = {}  # with the jobs that depend on them
            for job in left:
                if job.group and job.group in skipped_groups:
                    outcomes[job.name] = skipped_groups[job.group]
                    continue
                if any(name in in_use for name in job.dependencies):
                    in_use[job.name] = job
                    continue
                where = job.title or f"job {order.index(job) + 1} of {len(order)}: {job.name}"
                if job.name not in told:
                    say(where)
                outcome = run_job(
                    job, root, train=train, same_weights=same_weights, failures=failures
                )
                if outcome.state != "in use" or job.name not in told:
                    say(f"{where}: {outcome}")
                told.add(job.name)
                if outcome.state == "in use":
                    in_use[job.name] = job
                    continue
                outcomes[job.name] = outcome
                after(job, outcome)
                if outcome.state == "not run" and job.group:
                    skipped_groups[job.group] = outcome
            if len(in_use) == len(left):
                _pause()
            left = list(in_use.values())
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            f"stopped during {where}; finished work is saved in {root}: run the same command again to resume"
        ) from None
    return outcomes


def _pause() -> None:
    """Wait a second for other processes."""
    for _ in range(10):
        stopping.check()
        time.sleep(0.1)


def dependency_order(jobs: Iterable[Job]) -> list[Job]:
    """Sort jobs topologically, otherwise keeping their order.

    Raises InputError for cyclic dependencies and for duplicate names.
    """
    by_name: dict[str, Job] = {}
    for job in jobs:
        if by_name.setdefault(job.name, job) is not job:
            raise InputError(f"two jobs are called {job.name}: give each its own name")
    ordered: dict[str, Job] = {}

    def append(job: Job, dependents: tuple[str, ...]) -> None:
        if job.name in dependents:
            cycle = " and ".join(dependents[dependents.index(job.name) :])
            raise InputError(f"cyclic dependency: the jobs {cycle} start from each other")
        for name in job.dependencies:
            if name in by_name and name not in ordered:
                append(by_name[name], (*dependents, job.name))
        ordered.setdefault(job.name, job)

    for job in by_name.values():
        append(job, ())
    return list(ordered.values())


def run_job(
    job: Job,
    root: Path,
    *,
    train: Train | None = None,
    same_weights: SameWeights | None = None,
    failures: Failures | None = None,
) -> Outcome:
    """Run one job or reuse its result; see `run_jobs`. Raises only Interrupted."""
    run = RunDir(root / job.name)
    outcome = _outcome(job, run, root, train or train_and_test, same_weights, failures)
    if not job.keep_checkpoints and run.test.exists():
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    return outcome


def _outcome(
    job: Job,
    run: RunDir,
    root: Path,
    train: Train,
    same_weights: SameWeights | None,
    failures: Failures | None,
) -> Outcome:
    recipe: Recipe | Outcome = recipe_to_train(job, run, root, same_weights)
    if isinstance(recipe, Recipe) and failures:
        recipe = failures.find(job.name) or recipe
    if isinstance(recipe, Outcome):
        return recipe
    try:
        with run.locked():
            # Until it was locked, another process may have trained it.
            earlier = failures.find(job.name) if failures else None
            recipe = earlier or recipe_to_begin(job, run, root, same_weights)
            if isinstance(recipe, Outcome):
                return recipe
            try:
                _train(train, recipe, run.path, job.figures)
            except Interrupted:
                raise
            except Exception as error:
                outcome = failed(run, error)
                if failures and outcome.state == "failed":
                    failures.add(job.name, outcome)
                raise
    except Interrupted:
        raise
    except Exception as error:
        return _outcome_of(error, started=run.exists())
    return Outcome("done")


def recipe_to_train(
    job: Job, run: RunDir, root: Path, same_weights: SameWeights | None = None
) -> Recipe | Outcome:
    """Return the recipe that a job trains in `run`, or its outcome if there is nothing to train."""
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
    if earlier and earlier.state in ("diverged", "pruned"):
        return dataclasses.replace(earlier, reused=True)
    return recipe


def recipe_to_begin(
    job: Job, run: RunDir, root: Path, same_weights: SameWeights | None = None
) -> Recipe | Outcome:
    """Like `recipe_to_train`, with `run` locked; removes the outcome of a run that is tried again."""
    recipe = recipe_to_train(job, run, root, same_weights)
    if isinstance(recipe, Recipe):
        (run.path / OUTCOME).unlink(missing_ok=True)
    return recipe


def failed(run: RunDir, error: Exception) -> Outcome:
    """Return the outcome of a job whose training raised an error, and record it in its folder, which is locked."""
    outcome = _outcome_of(error, started=run.exists())
    if outcome.state != "in use" and run.exists() and not run.test.exists():
        write_json(run.path / OUTCOME, {"state": outcome.state, "text": outcome.text})
    return outcome


def read_outcome(run: RunDir) -> Outcome | None:
    """Read the outcome that an earlier call recorded for a run without results; None if there is none."""
    try:
        content: Mapping[str, Any] = json.loads((run.path / OUTCOME).read_text(encoding="utf-8"))
        return Outcome(content["state"], content["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# Recipes that start from other jobs.


def dependencies(recipe: Recipe) -> tuple[str, ...]:
    """Names of the jobs whose weights a recipe starts from."""
    features = recipe.features.run if isinstance(recipe.features, RunFeatures) else None
    names = (w.job for w in (recipe.pretrained, features) if isinstance(w, JobWeights))
    return tuple(dict.fromkeys(names))


def map_weights(recipe: Recipe, change: Callable[[str], str | JobWeights]) -> Recipe:
    """Replace each `JobWeights(name)` in a recipe by `change(name)`."""
    if isinstance(recipe.pretrained, JobWeights):
        recipe = dataclasses.replace(recipe, pretrained=change(recipe.pretrained.job))
    if isinstance(recipe.features, RunFeatures) and isinstance(recipe.features.run, JobWeights):
        features = RunFeatures(change(recipe.features.run.job))
        recipe = dataclasses.replace(recipe, features=features)
    return recipe


def with_weights(recipe: Recipe, root: Path) -> Recipe:
    """Replace each `JobWeights` in a recipe by the job's best/ folder. Raises NotRun if a job has none."""

    def best(name: str) -> str:
        run = RunDir(root / name)
        if not run.test.exists():
            raise NotRun(f"it starts from {name}, which has no finished run")
        if not run.best.is_dir():
            raise NotRun(
                f"it starts from {name}, whose weights were deleted: remove {run.path} to train it again"
            )
        return str(run.best)

    return map_weights(recipe, best)


def is_best_of(path: str, job: str) -> bool:
    """Whether a path is the best/ folder of a job, below any root."""
    parts = (*PurePath(job).parts, "best")
    return PurePath(path).parts[-len(parts) :] == parts


def with_jobs(
    recorded: Recipe, expected: Recipe, same_weights: SameWeights | None = None
) -> Recipe:
    """Replace the paths in a recorded recipe by the expected `JobWeights`, where they contain those weights."""
    same = same_weights or is_best_of

    def restore(path: Any, weights: Any) -> Any:
        is_same = (
            isinstance(path, str) and isinstance(weights, JobWeights) and same(path, weights.job)
        )
        return weights if is_same else path

    features = recorded.features
    if isinstance(features, RunFeatures) and isinstance(expected.features, RunFeatures):
        features = RunFeatures(restore(features.run, expected.features.run))
    return dataclasses.replace(
        recorded, pretrained=restore(recorded.pretrained, expected.pretrained), features=features
    )


def changes(
    recorded: Recipe, expected: Recipe, same_weights: SameWeights | None = None
) -> list[Difference]:
    """List the differences between a recorded and an expected recipe, ignoring where data and results are stored."""
    return [
        difference
        for difference in differences(with_jobs(recorded, expected, same_weights), expected)
        if difference.path[0] not in MAY_DIFFER
    ]


def check_same(run: RunDir, expected: Recipe, same_weights: SameWeights | None = None) -> None:
    """Raise InputError if a folder contains a run with different settings, or a damaged one."""
    changed = changes(run.read_recipe(), expected, same_weights)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"{run.path} contains a run with different settings ({'; '.join(map(str, changed[:3]))}{more}):"
            " remove that folder, or start in another one"
        )


# Training.


def train_and_test(recipe: Recipe, workdir: Path, resume: Literal["auto"], *, figures: bool) -> Any:
    """Call `train.run.run`, imported on first use."""
    from train.run import run

    return run(recipe, workdir, resume, figures=figures, locked=True)


def _train(train: Train, recipe: Recipe, workdir: Path, figures: bool) -> None:
    """Train with stdout redirected to stderr: stdout is for the results of the list."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            train(recipe, workdir, "auto", figures=figures)
    finally:
        if "jax" in sys.modules and memory_maps() > MAX_MAPS:
            sys.modules["jax"].clear_caches()
            gc.collect()


def memory_maps() -> float:
    """Number of memory maps of this process; infinite if it cannot be read."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return math.inf


def _outcome_of(error: Exception, *, started: bool) -> Outcome:
    if isinstance(error, InUse):  # the other process records the outcome
        return Outcome("in use", "another process is training it")
    if isinstance(error, Diverged):
        return Outcome("diverged", f"diverged at step {error.step}")
    if isinstance(error, Pruned):
        return Outcome("pruned", str(error))
    text, status = cli.explain(error)
    return Outcome("not run" if status == 2 and not started else "failed", _line(text))


def _line(text: str) -> str:
    return " ".join(text.split())
