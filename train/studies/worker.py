"""A process that runs the jobs of a study, one after another, until none is left.

The command `train.study` starts it and writes its instructions (`Order`) to its stdin, which stays open: a worker whose
stdin is closed has lost its parent, and stops as on a signal.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from train import cli, jobs, stopping
from train.errors import Interrupted, Pruned
from train.jobs import Job, Outcome, Train
from train.processes import watch_parent
from train.recipe import Recipe
from train.record.directory import RunDir
from train.record.log import EpochRecord, MakeWriter, RunLog
from train.record.trackers import TRACKERS, load_writers, start_study, tested_later
from train.studies import members, tasks
from train.studies import storage as storages
from train.studies.definition import Definition
from train.studies.leases import Claims, Row, held

POLL_SECONDS = 1.0  # while other workers hold all remaining tasks


@dataclasses.dataclass(frozen=True)
class Order:
    """Instructions for a worker."""

    folder: str
    storage: str
    definition: Definition
    has_test_split: bool
    writers: tuple[str, ...] = ()
    patience: float = 60.0

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON-serializable data."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"definition": self.definition.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Order":
        """Inverse of `to_json`."""
        definition = Definition.from_json(data["definition"], "the instructions of a worker")
        return cls(**{**data, "writers": tuple(data["writers"]), "definition": definition})


def follow_order(argv: list[str]) -> None:
    """Read an order from the first line of stdin and carry it out."""
    cli.prepare_environment()  # may restart this process, so call it before reading stdin
    order = Order.from_json(json.loads(sys.stdin.readline()))
    watch_parent()
    storage = storages.open_storage(order.storage, order.definition)
    if order.writers:
        start_study(order.writers, Path(order.folder))
    claims = Claims(storage.table, patience=order.patience)
    with storages.answering(order.storage):
        work(claims, StudyTasks(storage, order))


class Tasks:
    """The tasks of a worker; see `work`."""

    def next(self, rows: dict[str, Row]) -> Sequence[str]:
        """Return the keys of the tasks that can be done now, in the order in which to try them."""
        raise NotImplementedError

    def is_over(self, rows: dict[str, Row]) -> bool:
        """Whether no tasks are left for any worker."""
        raise NotImplementedError

    def group(self, first: Row, rows: dict[str, Row]) -> Sequence[str]:
        """Return the keys of further tasks that can run in one program with `first`."""
        return ()

    def run(self, claimed: Sequence[Row]) -> Sequence[Any]:
        """Run claimed tasks and return their results (JSON), None for each that another process is still running."""
        raise NotImplementedError

    def finished(self, claimed: Sequence[Row]) -> None:
        """Called after the results are recorded."""


def work(claims: Claims, tasks: Tasks, *, poll: float = POLL_SECONDS) -> None:
    """Claim and run tasks until none are left. Raises Interrupted when the user stops it.

    A task that is interrupted is released, so that others need not wait for its lease to expire.
    """
    while True:
        stopping.check()
        rows = claims.table.read()
        if tasks.is_over(rows):
            return
        first = claims.claim(tasks.next(rows))
        if first is None:
            time.sleep(poll)
            continue
        claimed = [first, *claims.claim_all(tasks.group(first, rows))]
        try:
            with held(claims, claimed):
                results = tasks.run(claimed)
        except (Interrupted, KeyboardInterrupt):
            # Without a request, the process would be ended a second after its runs were saved.
            with cli.StopRequest() as stop:
                stop.has_steps = True
                claims.release(row.key for row in claimed)
            raise
        by_key = {row.key: result for row, result in zip(claimed, results, strict=True)}
        claims.finish({key: result for key, result in by_key.items() if result is not None})
        claims.release(key for key, result in by_key.items() if result is None)
        tasks.finished(claimed)
        if None in results:
            time.sleep(poll)


class StudyTasks(Tasks):
    """The tasks of a study: see `train.studies.tasks` for their keys."""

    def __init__(self, storage: storages.Storage, order: Order) -> None:
        self._storage, self._order = storage, order
        self._definition = order.definition
        self._root = Path(order.folder) / tasks.RUNS

    def next(self, rows: dict[str, Row]) -> Sequence[str]:
        """Return runs first, then the test of the chosen setting, then the next setting of a search."""
        keys = [key for key in rows if not tasks.is_proposal(key)]
        proposals = [key for key in rows if tasks.is_proposal(key) and rows[key].state != "done"]
        return [*keys, *proposals[:1]]

    def is_over(self, rows: dict[str, Row]) -> bool:
        """Whether all tasks are done, including the published test of the chosen setting."""
        if any(row.state != "done" for row in rows.values()):
            return False
        if not self._order.has_test_split:
            return True
        missing = tasks.missing_tests(self._definition, rows, Path(self._order.folder))
        self._storage.table.add(missing)
        return not missing

    def group(self, first: Row, rows: dict[str, Row]) -> Sequence[str]:
        """Return runs that one program can train with `first`.

        None if they may be pruned, or have writers of other packages, which may not expect several runs at a time.
        """
        alone = self._definition.prune or not TRACKERS.keys() >= set(self._order.writers)
        if not tasks.is_run(first.key) or alone:
            return ()
        left = [key for key, row in rows.items() if tasks.is_run(key) and row.state != "done"]
        jobs = self._jobs([first.key, *(key for key in left if key != first.key)])
        (group, *_) = members.groups(jobs)
        return [job.name for job in group if job.name != first.key]

    def run(self, claimed: Sequence[Row]) -> Sequence[Any]:
        """Run one task, or several runs as one program."""
        row = claimed[0]
        if len(claimed) > 1:
            return self._run_group([row.key for row in claimed])
        if tasks.is_proposal(row.key):
            number = tasks.number_of(row.key)
            tell_all(self._storage)
            values = self._storage.propose(number)
            self._storage.table.add([job.name for job in self._definition.jobs(number, values)])
            return [{"values": values}]
        if tasks.is_test(row.key):
            return [self._test(tasks.run_of(row.key))]
        return [self._run(row.key)]

    def finished(self, claimed: Sequence[Row]) -> None:
        """Report to Optuna the score of each setting whose last run has finished."""
        rows = self._storage.table.read()
        for number in {tasks.number_of(row.key) for row in claimed if tasks.is_run(row.key)}:
            tell(self._storage, number, rows)

    def _run(self, name: str) -> dict[str, Any] | None:
        number = tasks.number_of(name)
        rows = self._storage.table.read()
        settings = tasks.settings(rows)
        all_jobs = self._definition.jobs(number, settings[number])
        index, job = next((i, job) for i, job in enumerate(all_jobs) if job.name == name)
        if any(tasks.state_of(rows, other.name) == "pruned" for other in all_jobs):
            return {"state": "pruned", "text": "another run of its setting was pruned"}
        self._storage.start(number)
        trainer = self._trainer(self._pruner(number, index, job.recipe))
        cli.say(f"{name}: {settings[number]}")
        outcome = jobs.run_job(job, self._root, train=trainer)
        cli.say(f"{name}: {outcome}")
        return self._recorded(name, outcome)

    def _run_group(self, names: Sequence[str]) -> list[dict[str, Any] | None]:
        for number in {tasks.number_of(name) for name in names}:
            self._storage.start(number)
        outcomes = members.run_group(
            self._jobs(names),
            self._root,
            train=self._trainer([]),
            scoring=self._scoring(),
            writers=load_writers(self._order.writers),
        )
        return [self._recorded(name, outcomes[name]) for name in names]

    def _recorded(self, name: str, outcome: Outcome) -> dict[str, Any] | None:
        """Return the result of a run's task; None if another process was still training in its folder."""
        if outcome.state == "in use":
            return None
        return tasks.record(outcome, RunDir(self._root / name), self._definition.metric)

    def _jobs(self, names: Sequence[str]) -> list[Job]:
        """Return the jobs of runs, in this order."""
        settings = tasks.settings(self._storage.table.read())
        numbers = dict.fromkeys(map(tasks.number_of, names))
        found = {j.name: j for n in numbers for j in self._definition.jobs(n, settings[n])}
        return [found[name] for name in names]

    def _scoring(self) -> dict[str, Any]:
        """Return the splits to score runs on: further arguments of `train.results.finish`."""
        split = "validation" if self._order.has_test_split else "test"
        return {"split": split, "validate": True}

    def _trainer(self, logs: list[MakeWriter]) -> Train:
        """Return the function that trains a run."""

        def train(recipe: Recipe, workdir: Path, resume: Literal["auto"], *, figures: bool) -> Any:
            from train.run import run

            writers, scoring = self._order.writers, self._scoring()
            return run(
                recipe,
                workdir,
                resume,
                figures=figures,
                writers=writers,
                logs=logs,
                locked=True,
                **scoring,
            )

        return train

    def _pruner(self, number: int, index: int, recipe: Recipe) -> list[MakeWriter]:
        if not self._definition.prune:
            return []
        epochs = sum(stage.epochs for stage in recipe.stages)
        loss = self._definition.metric == "loss"

        def prune(value: float, epoch: int) -> bool:
            return self._storage.should_prune(number, value, index * epochs + epoch)

        return [lambda directory, recipe: PruneWriter(prune, loss=loss)]

    def _test(self, name: str) -> dict[str, Any]:
        """Test a run of the chosen setting on the published test split."""
        from train.studies.published import test_published

        run = RunDir(self._root / name)
        results = test_published(run)
        tested_later(self._order.writers, run.path, run.read_recipe(), results)
        return {"state": "done", "text": ""}


def tell(storage: storages.Storage, number: int, rows: dict[str, Row]) -> None:
    """Report to Optuna the mean validation score of a setting if all of its runs are done."""
    keys = [key for key in rows if tasks.is_run(key) and tasks.number_of(key) == number]
    if not keys or any(rows[key].state != "done" for key in keys):
        return
    found = [rows[key].result for key in keys]
    pruned = any(result["state"] == "pruned" for result in found)
    values = [result.get("validation") for result in found]
    whole = all(value is not None for value in values)
    storage.tell(number, sum(values) / len(values) if whole else None, pruned=pruned)


def tell_all(storage: storages.Storage) -> None:
    """Report to Optuna the settings whose scores a killed process has recorded in the table, but not reported."""
    rows = storage.table.read()
    for number in sorted(set(tasks.settings(rows)) - storage.told()):
        tell(storage, number, rows)


class PruneWriter(RunLog):
    """Stops a run that is worse than most others at the same epoch."""

    def __init__(self, prune: Callable[[float, int], bool], *, loss: bool) -> None:
        """Ask `prune(score, epoch)` after each epoch; the score is the validation loss or accuracy."""
        self._prune, self._loss = prune, loss

    def epoch(self, record: EpochRecord) -> None:
        """Raise Pruned if the run should stop."""
        value = record.val_loss if self._loss else record.val_accuracy
        if value == value and self._prune(value, record.epoch):
            raise Pruned(record.epoch)


if __name__ == "__main__":
    cli.main(follow_order)
