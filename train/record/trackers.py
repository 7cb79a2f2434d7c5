"""Run-log writers for MLflow and Weights & Biases: `--writers mlflow wandb`. The extras have the same names.

Each tracker's own environment variables set where results go: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME; WANDB_MODE
("offline" writes to the run directory), WANDB_PROJECT, WANDB_ENTITY. Experiment and project default to "jax-zoo".

A run directory stores the tracker's run id in `mlflow.json` or `wandb.json`, with the last logged step and epoch, so
that a resumed run continues the same tracker run without logging a step twice. The runs of a study are children of one
MLflow run, or one group in Weights & Biases: `start_study` creates it, and the environment variable JAX_ZOO_STUDY
tells training processes the study's folder. Runs trained as one program have one open tracker run each.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.errors import InputError
from train.recipe import Recipe
from train.record.log import EpochRecord, MakeWriter, RunLog, RunStart, StepRecord
from train.record.terminal import say
from zoo.common.files import write_atomically
from zoo.common.names import find

STUDY = "JAX_ZOO_STUDY"  # environment variable: folder of the current study
PROJECT = "jax-zoo"
EPOCH_VALUES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
BATCH = 500  # metrics per request; MLflow accepts up to 1000


@dataclasses.dataclass
class _Link:
    """The tracker run that belongs to a folder, saved in a file there."""

    path: Path
    id: str = ""
    step: int = 0  # logged so far
    epoch: int = 0  # logged so far

    @classmethod
    def read(cls, path: Path) -> "_Link":
        """Read the file; return an empty link if it is missing or damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, str(data["id"]), int(data["step"]), int(data["epoch"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path)

    def write(self) -> None:
        """Write the file."""
        data = {"id": self.id, "step": self.step, "epoch": self.epoch}
        write_atomically(self.path, json.dumps(data).encode())


class Tracker(RunLog):
    """Buffers values until the next flush: before each checkpoint and at the end.

    NaN and infinite values are dropped. A run that ends before the end of its last stage counts as stopped.
    """

    name = ""  # of the writer and its extra

    def __init__(self, directory: Path, recipe: Recipe) -> None:
        """Log the run in `directory`, which trains with `recipe`."""
        self._directory = directory
        self._recipe = recipe
        self._link = _Link.read(directory / f"{self.name}.json")
        self._buffer: dict[int, dict[str, float]] = {}
        self._epoch = self._link.epoch  # the last one in the buffer
        self._complete = not recipe.stages

    @classmethod
    def check(cls) -> None:
        """Raise InputError if the package is missing."""
        try:
            importlib.import_module(cls.name)
        except ImportError as error:
            raise InputError(
                f"--writers {cls.name} needs the package {cls.name} ({error}): pip install -e '.[{cls.name}]'"
            ) from None

    def run_started(self, start: RunStart) -> None:
        """Create or continue the tracker's run. Raises InputError if that fails."""
        try:
            self._open(_flat(self._recipe.to_json()))
        except Exception as error:  # from any library that the tracker uses
            raise _cannot_start(self.name, error) from error
        self._link.write()

    def step(self, record: StepRecord) -> None:
        """Buffer the step, unless an earlier process of this run sent it."""
        if record.step > self._link.step:
            self._add(record.step, "step", record.values)

    def epoch(self, record: EpochRecord) -> None:
        """Buffer the epoch, unless an earlier process of this run sent it."""
        if record.epoch > self._link.epoch:
            values = {name: getattr(record, name) for name in EPOCH_VALUES}
            self._add(record.step, "epoch", {"number": record.epoch, **values})
            self._epoch = record.epoch

    def stage_ended(self, stage: str) -> None:
        """Note whether training is complete."""
        self._complete = stage == self._recipe.stages[-1].name

    def flush(self) -> None:
        """Send the buffered values. If that fails, they are kept for the next flush."""
        if self._buffer and _attempt(self.name, lambda: self._send(self._buffer)):
            self._link.step, self._link.epoch = max(self._buffer), self._epoch
            self._link.write()
            self._buffer = {}

    def run_ended(self) -> None:
        """Send the buffered values, and mark the run as complete or stopped."""
        if self._link.id:
            self.flush()
            _attempt(self.name, lambda: self._ended(complete=self._complete))

    def tested(self, results: Mapping[str, Any]) -> None:
        """Send the test scores."""
        scores = {f"{results['split']}/{k}": v for k, v in _numbers(results).items()}
        _attempt(self.name, lambda: self._score(scores))

    def tested_later(self, results: Mapping[str, Any]) -> None:
        """Send the test scores of a run that an earlier call, or another process, completed."""
        if self._link.id and _attempt(self.name, lambda: self._open({})):
            self.tested(results)
            _attempt(self.name, lambda: self._ended(complete=True))

    def _add(self, step: int, prefix: str, values: Mapping[str, float]) -> None:
        finite = {f"{prefix}/{k}": float(v) for k, v in values.items() if math.isfinite(v)}
        self._buffer.setdefault(step, {}).update(finite)

    # To be implemented by each tracker.

    def _open(self, settings: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _send(self, values: Mapping[int, Mapping[str, float]]) -> None:
        raise NotImplementedError

    def _ended(self, *, complete: bool) -> None:
        raise NotImplementedError

    def _score(self, scores: Mapping[str, float]) -> None:
        raise NotImplementedError

    @classmethod
    def start_study(cls, folder: Path, settings: Mapping[str, Any]) -> str:
        """Create the tracker's run of a study; return its id."""
        raise NotImplementedError

    @classmethod
    def continue_study(cls, identity: str) -> None:
        """Mark the run of a study as running again."""

    @classmethod
    def stop_study(cls, identity: str) -> None:
        """Mark the run of a study as stopped."""

    @classmethod
    def end_study(cls, folder: Path, identity: str, scores: Mapping[str, float]) -> None:
        """Send the scores of a study, and mark its run as complete."""
        raise NotImplementedError


class MLflowWriter(Tracker):
    """Logs runs to MLflow: parameters, values per step and epoch, scores."""

    name = "mlflow"

    def _open(self, settings: Mapping[str, Any]) -> None:
        self._client = _mlflow_client()
        if self._link.id:
            self._client.update_run(self._link.id, status="RUNNING")
            return
        tags = {"jax_zoo.directory": str(self._directory.absolute())}
        folder = study_folder()
        if folder and (parent := _Link.read(folder / "mlflow.json").id):
            tags["mlflow.parentRunId"] = parent
        self._link.id = _create_mlflow_run(self._client, _run_name(self._directory), tags, settings)

    def _send(self, values: Mapping[int, Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(k, v, now, step) for step, row in values.items() for k, v in row.items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._link.id, metrics=metrics[start : start + BATCH])

    def _ended(self, *, complete: bool) -> None:
        self._client.set_terminated(self._link.id, "FINISHED" if complete else "KILLED")

    def _score(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._client.log_metric(self._link.id, name, value, step=self._link.step)

    @classmethod
    def start_study(cls, folder: Path, settings: Mapping[str, Any]) -> str:
        """Create the parent run."""
        tags = {"jax_zoo.study": folder.name}
        return _create_mlflow_run(_mlflow_client(), folder.name, tags, settings)

    @classmethod
    def continue_study(cls, identity: str) -> None:
        """Mark the parent run as running."""
        _mlflow_client().update_run(identity, status="RUNNING")

    @classmethod
    def stop_study(cls, identity: str) -> None:
        """Mark the parent run as stopped."""
        _mlflow_client().set_terminated(identity, "KILLED")

    @classmethod
    def end_study(cls, folder: Path, identity: str, scores: Mapping[str, float]) -> None:
        """Send the scores to the parent run, except those that an earlier command sent, and end it."""
        client = _mlflow_client()
        sent = client.get_run(identity).data.metrics
        for name, value in scores.items():
            if sent.get(name) != value:
                client.log_metric(identity, name, value)
        client.set_terminated(identity, "FINISHED")


class WandbWriter(Tracker):
    """Logs runs to Weights & Biases: configuration, values per step and epoch, scores."""

    name = "wandb"
    _run: Any = None

    def _open(self, settings: Mapping[str, Any]) -> None:
        folder = study_folder()
        self._run = _wandb_run(
            self._directory,
            _run_name(self._directory),
            settings,
            id=self._link.id or None,
            group=folder.name if folder else None,
            job_type="run" if folder else None,
        )
        self._link.id = self._run.id

    def _send(self, values: Mapping[int, Mapping[str, float]]) -> None:
        for step, row in values.items():
            # wandb ignores steps below its own, such as of an epoch whose last step was sent before an interruption.
            self._run.log(dict(row), step=max(step, self._run.step))

    def _ended(self, *, complete: bool) -> None:
        # A complete run stays open for its test scores. If testing fails, wandb closes it when the process ends.
        if not complete:
            self._run.finish(exit_code=1)

    def _score(self, scores: Mapping[str, float]) -> None:
        self._run.summary.update(dict(scores))
        self._run.finish()

    @classmethod
    def start_study(cls, folder: Path, settings: Mapping[str, Any]) -> str:
        """Create a run for the study, in its group."""
        run = _wandb_run(folder, folder.name, settings, group=folder.name, job_type="study")
        run.finish()
        return run.id

    @classmethod
    def end_study(cls, folder: Path, identity: str, scores: Mapping[str, float]) -> None:
        """Send the scores to the run of the study."""
        options = {"id": identity, "group": folder.name, "job_type": "study"}
        run = _wandb_run(folder, folder.name, {}, **options)
        run.summary.update(dict(scores))
        run.finish()


TRACKERS: dict[str, type[Tracker]] = {cls.name: cls for cls in (MLflowWriter, WandbWriter)}


def load_writers(names: Sequence[str]) -> list[MakeWriter]:
    """Look up trackers and the writers of other packages by name. Raises InputError for an unknown name, or if a
    writer's `check` fails."""
    found = [find("writers", name, TRACKERS, "run-log writer") for name in names]
    for make in found:
        if isinstance(make, type) and issubclass(make, RunLog):
            make.check()
    return found


# Studies.


def study_folder() -> Path | None:
    """Return the folder of the study that this process's runs belong to; None outside a study."""
    folder = os.environ.get(STUDY)
    return Path(folder) if folder else None


def start_study(
    writers: Sequence[str], folder: Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Start a study in each tracker among `writers`, and set the environment variable that makes runs its children.

    `settings` are the study's parameters. Call it in every process that trains, before any run; a study that was
    already started, even on another machine that shares the folder, is continued.
    """
    from filelock import FileLock

    os.environ[STUDY] = str(folder.absolute())
    for tracker in _trackers(writers):
        path = folder / f"{tracker.name}.json"
        with FileLock(path.with_suffix(".lock")):  # only one process creates it
            identity = _Link.read(path).id
            try:
                if identity:
                    tracker.continue_study(identity)
                else:
                    identity = tracker.start_study(folder, _flat(dict(settings or {})))
                    _Link(path, identity).write()
            except Exception as error:  # from any library that the tracker uses
                raise _cannot_start(tracker.name, error) from error


def end_study(
    writers: Sequence[str], folder: Path, scores: Mapping[str, Any], *, complete: bool = True
) -> None:
    """Mark a study as complete, and send the numbers among its scores; or mark it as stopped."""
    for tracker in _trackers(writers):
        if identity := _Link.read(folder / f"{tracker.name}.json").id:
            end = functools.partial(tracker.stop_study, identity)
            if complete:
                end = functools.partial(tracker.end_study, folder, identity, _numbers(scores))
            _attempt(tracker.name, end)
    os.environ.pop(STUDY, None)


@contextlib.contextmanager
def tracked_study(
    writers: Sequence[str], folder: Path, settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Context of a study in each tracker among `writers`; yields a dictionary for its scores.

    A study that is left with an exception counts as stopped.
    """
    if not writers:
        yield {}
        return
    start_study(writers, folder, settings)
    scores: dict[str, Any] = {}
    try:
        yield scores
    except BaseException:
        end_study(writers, folder, {}, complete=False)
        raise
    end_study(writers, folder, scores)


def writers_of_study(folder: Path) -> tuple[str, ...]:
    """Return the names of the trackers that have a run of a study."""
    return tuple(name for name in TRACKERS if _Link.read(folder / f"{name}.json").id)


def tested_later(writers: Sequence[str], directory: Path, recipe: Recipe, results: Any) -> None:
    """Send test scores of a complete run to each tracker among `writers`."""
    for tracker in _trackers(writers):
        tracker(directory, recipe).tested_later(results)


def _trackers(writers: Sequence[str]) -> list[type[Tracker]]:
    """Return the trackers among writers. Raises InputError if a package is missing."""
    found = [TRACKERS[name] for name in writers if name in TRACKERS]
    for tracker in found:
        tracker.check()
    return found


# The libraries.


def _mlflow_client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient()  # uses MLFLOW_TRACKING_URI


def _create_mlflow_run(
    client: Any, name: str, tags: Mapping[str, str], settings: Mapping[str, Any]
) -> str:
    from mlflow.entities import Param

    experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    found = client.get_experiment_by_name(experiment_name)
    experiment = found.experiment_id if found else client.create_experiment(experiment_name)
    run = client.create_run(experiment, run_name=name, tags=dict(tags))
    params = [Param(key, str(value)[:6000]) for key, value in settings.items()]
    for start in range(0, len(params), 100):  # MLflow accepts up to 100 per request
        client.log_batch(run.info.run_id, params=params[start : start + 100])
    return run.info.run_id


def _wandb_run(folder: Path, name: str, settings: Mapping[str, Any], **options: Any) -> Any:
    import wandb

    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        dir=str(folder),
        name=name,
        config=dict(settings),
        resume="allow",
        reinit="create_new",
        **options,
    )


def _cannot_start(name: str, error: Exception) -> InputError:
    return InputError(
        f"--writers {name} cannot start a run ({_reason(error)}): check its environment variables, or omit it"
    )


def _attempt(name: str, action: Callable[[], None]) -> bool:
    """Return whether an action succeeds. Training continues without its tracker; its own files are complete."""
    try:
        action()
    except Exception as error:  # from any library that the tracker uses
        say(f"warning: logging to {name} failed ({_reason(error)})")
        return False
    return True


def _reason(error: Exception) -> str:
    return (" ".join(f"{error}".split()) or type(error).__name__)[:200]


def _run_name(directory: Path) -> str:
    """Name a run by its folder, or by its path within the study's folder."""
    folder = study_folder()
    path = directory.absolute()
    if folder and path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return path.name


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested data: {"stages.0.optimizer.learning_rate": 0.01}."""
    if isinstance(data, Mapping):
        items = [(f"{prefix}.{k}" if prefix else str(k), v) for k, v in data.items()]
    elif isinstance(data, list | tuple) and any(isinstance(v, Mapping) for v in data):
        items = [(f"{prefix}.{i}", v) for i, v in enumerate(data)]
    else:
        return {prefix: list(data) if isinstance(data, tuple) else data}
    return {name: value for key, v in items for name, value in _flat(v, key).items()}


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers and the interval bounds in the content of test.json or in a study's scores."""
    found = {}
    for name, value in data.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    for name, value in (data.get("intervals") or {}).items():
        if isinstance(value, list | tuple):
            found |= {f"{name}_low": float(value[0]), f"{name}_high": float(value[1])}
    return found
