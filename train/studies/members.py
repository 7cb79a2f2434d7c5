"""Run jobs that differ only in seeds, splits and scalar settings as one program.

    for group in groups(jobs):
        outcomes |= run_group(group, root)

Each job writes the same run directory as if it ran alone. Imports only the standard library until a group is trained.
"""

import contextlib
import dataclasses
import functools
import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train import cli
from train.errors import Interrupted
from train.jobs import Job, Outcome, Train, failed, recipe_to_begin, recipe_to_train, run_job
from train.recipe import Augmentation, Recipe, with_values
from train.record.directory import RunDir
from train.record.log import MakeWriter, RunLog

if TYPE_CHECKING:
    from train.engine.experiment import Experiment
    from train.engine.state import LoopState
    from train.engine.together import Group

# Fields that may differ between the members of a group.
FREE = ("seed", "split_seed", "fold", "splits", "name")
FREE_OF_STAGES = ("learning_rate", "l2", "weight_decay")
# Maximum size of the states that are in memory at once, in bytes; a larger group is run in parts.
MAX_STATE_BYTES = 2 << 30
# Upper limit, in seconds, of the checkpoint interval, which is that of a single run times the number of members.
MAX_SAVE_SECONDS = 60.0

Say = Callable[[str], None]
After = Callable[[Job, Outcome], None]


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Split jobs into groups that `run_group` can run as one program, in order of their first jobs.

    Looks only at recipes. A job that cannot be run with others is alone in its group.
    """
    found: dict[str, list[Job]] = {}
    for job in jobs:
        can_share = not job.missing and trains_vectors(job.recipe)
        key = repr((job.figures, _shared_settings(job.recipe))) if can_share else f"job {job.name}"
        found.setdefault(key, []).append(job)
    return list(found.values())


def trains_vectors(recipe: Recipe) -> bool:
    """Whether a recipe trains on vectors, or only a head on the features of a frozen backbone.

    Convolutions are not faster as one program; `benchmarks/members.py` measures it.
    """
    if not recipe.stages:
        return False
    if recipe.features is not None:
        return True
    return recipe.probe.method == "none" and all(
        "backbone" in stage.freeze
        and stage.objective == "classification"
        and dataclasses.replace(stage.augment, crops_per_image=1) == Augmentation()
        and not stage.ema
        for stage in recipe.stages
    )


def _shared_settings(recipe: Recipe) -> Recipe:
    """Reset the fields that may differ between members: equal for recipes of one group."""
    default = Recipe()
    values: dict[str, Any] = {name: getattr(default, name) for name in FREE}
    for index, stage in enumerate(recipe.stages):
        for name in FREE_OF_STAGES:
            is_on = bool(getattr(stage.optimizer, name))  # 0 compiles to a different program
            values[f"stages.{index}.optimizer.{name}"] = 1.0 if is_on else 0.0
    return with_values(recipe, values)


def run_group(
    jobs: Sequence[Job],
    root: Path,
    *,
    say: Say = cli.say,
    after: After = lambda job, outcome: None,
    train: Train | None = None,
    scoring: Mapping[str, Any] | None = None,
    writers: Sequence[MakeWriter] = (),
) -> dict[str, Outcome]:
    """Run the jobs of a group below `root` as one program and return their outcomes by name.

    As with `train.jobs.run_jobs`, finished jobs are reused, unfinished ones resumed and failed ones retried. Jobs that
    turn out not to fit one program run one after another.

    Args:
      jobs: one of `groups`. Jobs that they depend on must be finished.
      root: folder of all runs.
      say: called with a line before and after training, and after each job.
      after: called after each job, for example to save a table.
      train: trains a job that runs alone; see `train.jobs.Train`.
      scoring: further arguments of `train.results.finish`.
      writers: additional run-log writers of runs trained as one program, which have one each.

    Raises:
      Interrupted: the user stopped; the same call resumes.
    """
    outcomes: dict[str, Outcome] = {}

    def ended(job: Job, outcome: Outcome) -> None:
        outcomes[job.name] = outcome
        run = RunDir(root / job.name)
        if not job.keep_checkpoints and run.test.exists():
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        say(f"{job.title or job.name}: {outcome}")
        after(job, outcome)

    waiting: list[tuple[Job, Recipe]] = []
    for job in jobs:
        recipe = recipe_to_train(job, RunDir(root / job.name), root)
        if isinstance(recipe, Outcome):
            ended(job, recipe)
        else:
            waiting.append((job, recipe))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            alone = (
                _run_together(waiting, root, say, ended, scoring or {}, writers)
                if len(waiting) > 1
                else waiting
            )
        for job, _ in alone:
            say(job.title or job.name)
            ended(job, run_job(job, root, train=train))
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            f"stopped during {len(waiting)} jobs; finished work is saved in {root}:"
            " run the same command again to resume"
        ) from None
    except Exception:
        _clear_caches()
        raise
    _clear_caches()
    return outcomes


def _clear_caches() -> None:
    """Drop compiled programs (see `train.jobs`), except after an interruption: a stopped process has one second."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@dataclasses.dataclass
class _Member:
    """A job of a group, with its run directory locked."""

    job: Job
    directory: RunDir
    experiment: "Experiment"


def _run_together(
    waiting: Sequence[tuple[Job, Recipe]],
    root: Path,
    say: Say,
    ended: After,
    scoring: Mapping[str, Any],
    writers: Sequence[MakeWriter],
) -> Sequence[tuple[Job, Recipe]]:
    """Run jobs as one program. Returns the jobs for which this is not possible."""
    cli.prepare_environment()

    from train.engine.together import can_train_together

    with contextlib.ExitStack() as locks:
        members: list[_Member] = []
        for job, experiment in _resolved(waiting, root, locks, ended):
            directory = RunDir(root / job.name)
            directory.begin(experiment.recipe, experiment.dataset, experiment.start_settings())
            members.append(_Member(job, directory, experiment))
        if not members:
            return []
        if not can_train_together(members[0].experiment):
            names = {member.job.name for member in members}
            return [(job, recipe) for job, recipe in waiting if job.name in names]
        size = max(1, MAX_STATE_BYTES // _state_bytes(members[0].experiment))
        for start in range(0, len(members), size):
            part = members[start : start + size]
            say(f"training {cli.count(len(part), 'run')} as one program")
            _train(part, say, ended, scoring, writers)
    return []


def _resolved(
    waiting: Sequence[tuple[Job, Recipe]], root: Path, locks: contextlib.ExitStack, ended: After
) -> Iterator[tuple[Job, "Experiment"]]:
    """Lock the run directories and resolve the recipes, which share data, weights and devices."""
    from train.setup import resolve

    shared: dict[str, Any] = {}
    devices = None
    for job, _ in waiting:
        directory = RunDir(root / job.name)
        lock = contextlib.ExitStack()
        try:
            lock.enter_context(directory.locked())
            recipe = recipe_to_begin(job, directory, root)
            if isinstance(recipe, Outcome):  # another process has trained it
                lock.close()
                ended(job, recipe)
                continue
            experiment = resolve(recipe, directory.path, devices=devices, shared=shared)
        except Interrupted:
            raise
        except Exception as error:
            outcome = failed(directory, error)
            lock.close()
            ended(job, outcome)
            continue
        locks.push(lock)
        devices = experiment.devices
        yield job, experiment


def _state_bytes(experiment: "Experiment") -> int:
    """Bytes of the trained parameters, with two moments each."""
    import jax

    from train.engine.freezing import split

    def of_stage(plan: Any) -> int:
        trainable, _ = split(plan.abstract["params"], plan.frozen)
        return sum(4 * leaf.size for leaf in jax.tree.leaves(trainable))

    return 1 + 3 * max(of_stage(plan) for plan in experiment.stages)


def _train(
    members: Sequence[_Member],
    say: Say,
    ended: After,
    scoring: Mapping[str, Any],
    writers: Sequence[MakeWriter],
) -> None:
    """Train and test the members of a program."""
    from train.engine.checkpoints import Checkpoints
    from train.engine.fit import MIN_CHECKPOINT_SECONDS, train
    from train.engine.together import Clock, Group

    log = _SharedLog(say)
    group = Group([member.experiment for member in members], log)
    clocks = [Clock() for _ in members]
    pause = max(
        MIN_CHECKPOINT_SECONDS, min(MAX_SAVE_SECONDS, MIN_CHECKPOINT_SECONDS * len(members))
    )
    with cli.StopRequest() as stop:
        logs = [_open_log(member, say, writers) for member in members]
        checkpoints = [Checkpoints(member.directory.checkpoints) for member in members]
        routines = [
            train(
                member.experiment,
                saved,
                of_member,
                stop=stop.poll,
                clock=clock,
                save_seconds=pause,
            )
            for member, saved, of_member, clock in zip(
                members, checkpoints, logs, clocks, strict=True
            )
        ]
        # Closed when all members have stopped, so that their last saves overlap.
        with contextlib.ExitStack() as closing:
            for saved in checkpoints:
                closing.callback(saved.close)
            ends = group.run(routines, clocks)
        log.run_ended()
        if any(isinstance(end, Interrupted) for end in ends):
            raise Interrupted
        stop.end("interrupted after training")
    for member, of_member, end in zip(members, logs, ends, strict=True):
        ended(member.job, _tested(member, end, group, scoring, of_member))


def _tested(
    member: _Member,
    end: "LoopState | Exception",
    group: "Group",
    scoring: Mapping[str, Any],
    log: RunLog,
) -> Outcome:
    """Test a trained member and return its outcome."""
    directory = member.directory
    if isinstance(end, Exception):
        return failed(directory, end)
    try:
        log.tested(_finish(member, end, group, scoring))
    except Interrupted:
        raise
    except Exception as error:
        return failed(directory, error)
    return Outcome("done")


def _finish(
    member: _Member, end: "LoopState", group: "Group", scoring: Mapping[str, Any]
) -> dict[str, Any]:
    """Write and return the results of a run; a head is tested on the features it was trained on."""
    from train.engine.features import FromFeatures
    from train.engine.inputs import VectorInputs
    from train.predictor import load_run
    from train.results import finish, test

    experiment, cut = member.experiment, group.cut()
    predictor = load_run(member.directory.path)
    test_on = None
    if cut is not None:
        head = dataclasses.replace(
            predictor,
            module=FromFeatures(predictor.module, cut),
            inputs=VectorInputs(cut.feature_shape),
        )
        splits: Any = group.features(experiment, predictor.variables)
        dataset = dataclasses.replace(experiment.dataset, splits=splits)
        test_on = functools.partial(test, head, dataclasses.replace(experiment, dataset=dataset))
    facts = {"train_time_ms": round(1000 * end.train_seconds, 1), "epochs_run": end.epoch}
    directory, figures = member.directory, member.job.figures
    return finish(directory, predictor, experiment, facts, figures, test_on=test_on, **scoring)


def _open_log(member: _Member, say: Say, writers: Sequence[MakeWriter]) -> RunLog:
    """All writers of a single run, except the terminal's."""
    from train.record.best import LatestBestWriter
    from train.record.files import FileWriter
    from train.record.log import Writers
    from train.record.tensorboard import TensorBoardWriter

    directory, experiment = member.directory, member.experiment
    return Writers(
        FileWriter(directory),
        LatestBestWriter(directory.best, experiment.describe(), experiment.provenance()),
        TensorBoardWriter(directory.tensorboard),
        _Notes(member.job.title or member.job.name, say),
        *(make(directory.path, experiment.recipe) for make in writers),
    )


class _Notes(RunLog):
    """Prints the notes of a member, prefixed with its name."""

    def __init__(self, name: str, say: Say) -> None:
        self._name, self._say = name, say

    def note(self, text: str) -> None:
        """Print the text."""
        self._say(f"{self._name}: {text}")


class _SharedLog(RunLog):
    """Notes and progress of work that all members share."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._progress = cli.Progress()
        self._report = cli.progress_callback(self._progress)

    def note(self, text: str) -> None:
        """Print the text."""
        self._progress.stop()
        self._say(text)

    def progress(self, text: str, done: int, total: int) -> None:
        """Update the progress line."""
        self._report(text, done, total)

    def run_ended(self) -> None:
        """Remove the progress line."""
        self._progress.stop()
