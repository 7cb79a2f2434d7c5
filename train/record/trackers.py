"""Run-log writers for MLflow and Weights & Biases: `--writers mlflow wandb`. The extras have the same names.

Where results go is up to the environment variables of each: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME; WANDB_MODE
("offline" writes to the run directory), WANDB_PROJECT, WANDB_ENTITY. Experiment and project default to "jax-zoo".

A run directory keeps the tracker's id of its run, `mlflow.json` or `wandb.json`, and the last logged step, so that a
resumed run continues the same run of the tracker without logging a step twice. The runs of a study are children of one
run in MLflow, and one group in Weights & Biases: `start_study` begins it, and the environment variable JAX_ZOO_STUDY
names the study's folder to the processes that train.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.errors import InputError
from train.recipe import Recipe
from train.record.log import EpochRecord, RunLog, RunStart, StepRecord
from train.record.terminal import say
from zoo.common.files import write_atomically

STUDY = "JAX_ZOO_STUDY"  # environment variable: folder of the study that runs belong to
PROJECT = "jax-zoo"
EPOCH_VALUES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
BATCH = 500  # metrics of one request; MLflow takes 1000


@dataclasses.dataclass
class _Link:
    """The tracker's run of a folder, saved in a file in it."""

    path: Path
    id: str = ""
    step: int = 0  # logged so far

    @classmethod
    def read(cls, path: Path) -> "_Link":
        """Read the file; an empty link if there is none, or a damaged one."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, str(data["id"]), int(data["step"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path)

    def write(self) -> None:
        """Write the file."""
        write_atomically(self.path, json.dumps({"id": self.id, "step": self.step}).encode())


class Tracker(RunLog):
    """Buffers values until the next flush, which comes before each checkpoint, and at the end.

    Values that are not finite are left out. A run that ends before all stages are trained counts as stopped.
    """

    name = ""  # of the writer and of its extra

    def __init__(self, directory: Path, recipe: Recipe) -> None:
        """Write the run in `directory`, which trains by `recipe`."""
        self._directory = directory
        self._recipe = recipe
        self._link = _Link.read(directory / f"{self.name}.json")
        self._buffer: dict[int, dict[str, float]] = {}
        self._open_stages = [stage.name for stage in recipe.stages]

    def run_started(self, start: RunStart) -> None:
        """Create the tracker's run, or continue it. Raises InputError if the tracker cannot."""
        try:
            self._open(_flat(self._recipe.to_json()))
        except Exception as error:  # of any library below the tracker
            raise InputError(
                f"--writers {self.name} cannot start a run ({_reason(error)}): check its environment variables, or"
                " leave it out"
            ) from error
        self._link.write()

    def step(self, record: StepRecord) -> None:
        """Buffer the step."""
        self._add(record.step, "step", record.values)

    def epoch(self, record: EpochRecord) -> None:
        """Buffer the epoch."""
        values = {name: getattr(record, name) for name in EPOCH_VALUES}
        self._add(record.step, "epoch", {"number": record.epoch, **values})

    def stage_ended(self, stage: str) -> None:
        """Note that the stage is trained."""
        if stage in self._open_stages:
            self._open_stages.remove(stage)

    def flush(self) -> None:
        """Send what is buffered. If that fails, it is kept for the next time."""
        if self._buffer and self._attempt(lambda: self._send(self._buffer)):
            self._link.step = max(self._buffer)
            self._link.write()
            self._buffer = {}

    def run_ended(self) -> None:
        """Send what is buffered, and mark the run as complete or stopped."""
        if self._link.id:
            self.flush()
            self._attempt(lambda: self._ended(complete=not self._open_stages))

    def tested(self, results: Mapping[str, Any]) -> None:
        """Send the scores on the test images."""
        scores = {f"{results['split']}/{k}": v for k, v in _numbers(results).items()}
        self._attempt(lambda: self._score(scores))

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Whether an action succeeds. Training goes on without its tracker: its own files are complete."""
        try:
            action()
        except Exception as error:
            say(f"warning: {self.name} does not take values ({_reason(error)})")
            return False
        return True

    def _add(self, step: int, prefix: str, values: Mapping[str, float]) -> None:
        if step > self._link.step:  # else sent before the run was stopped
            finite = {f"{prefix}/{k}": float(v) for k, v in values.items() if math.isfinite(v)}
            self._buffer.setdefault(step, {}).update(finite)

    # What a tracker implements.

    def _open(self, settings: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _send(self, values: Mapping[int, Mapping[str, float]]) -> None:
        raise NotImplementedError

    def _ended(self, *, complete: bool) -> None:
        raise NotImplementedError

    def _score(self, scores: Mapping[str, float]) -> None:
        raise NotImplementedError


class MLflowWriter(Tracker):
    """Writes runs to MLflow: parameters, values per step and epoch, scores."""

    name = "mlflow"

    @classmethod
    def check(cls) -> None:
        """Raise InputError without the package."""
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise _not_installed(cls.name, error) from None

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

        now = _milliseconds()
        metrics = [Metric(k, v, now, step) for step, row in values.items() for k, v in row.items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._link.id, metrics=metrics[start : start + BATCH])

    def _ended(self, *, complete: bool) -> None:
        self._client.set_terminated(self._link.id, "FINISHED" if complete else "KILLED")

    def _score(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._client.log_metric(self._link.id, name, value, step=self._link.step)


class WandbWriter(Tracker):
    """Writes runs to Weights & Biases: configuration, values per step and epoch, scores."""

    name = "wandb"
    _run: Any = None

    @classmethod
    def check(cls) -> None:
        """Raise InputError without the package."""
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise _not_installed(cls.name, error) from None

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
            self._run.log(dict(row), step=step)

    def _ended(self, *, complete: bool) -> None:
        # A complete run stays open for its test scores. If testing fails, wandb closes it when the process ends.
        if not complete:
            self._run.finish(exit_code=1)

    def _score(self, scores: Mapping[str, float]) -> None:
        self._run.summary.update(dict(scores))
        self._run.finish()


# Studies.


def study_folder() -> Path | None:
    """Return the folder of the study that runs of this process belong to; None if they belong to none."""
    folder = os.environ.get(STUDY)
    return Path(folder) if folder else None


def start_study(
    writers: Sequence[str], folder: Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Begin a study in each tracker among `writers`, and set the environment variable that makes runs its children.

    `settings` are parameters of the study. Call it in every process that trains, before any run; a study that has
    begun, also on another machine that shares the folder, is continued.
    """
    from filelock import FileLock

    os.environ[STUDY] = str(folder.absolute())
    for name, start, _ in _study_trackers(writers):
        path = folder / f"{name}.json"
        with FileLock(path.with_suffix(".lock")):  # only one process starts it
            if not _Link.read(path).id:
                _Link(path, start(folder, _flat(dict(settings or {})))).write()


def end_study(writers: Sequence[str], folder: Path, scores: Mapping[str, Any]) -> None:
    """Send the scores of a study, of which numbers are kept, and mark it as complete."""
    for name, _, end in _study_trackers(writers):
        link = _Link.read(folder / f"{name}.json")
        if link.id:
            end(link, _numbers(scores))
    os.environ.pop(STUDY, None)


def _study_trackers(writers: Sequence[str]) -> Iterator[tuple[str, Callable, Callable]]:
    if "mlflow" in writers:
        MLflowWriter.check()
        yield "mlflow", _start_mlflow_study, _end_mlflow_study
    if "wandb" in writers:
        WandbWriter.check()
        yield "wandb", _start_wandb_study, _end_wandb_study


def _start_mlflow_study(folder: Path, settings: Mapping[str, Any]) -> str:
    tags = {"jax_zoo.study": folder.name}
    return _create_mlflow_run(_mlflow_client(), folder.name, tags, settings)


def _end_mlflow_study(link: _Link, scores: Mapping[str, float]) -> None:
    client = _mlflow_client()
    for name, value in scores.items():
        client.log_metric(link.id, name, value)
    client.set_terminated(link.id, "FINISHED")


def _start_wandb_study(folder: Path, settings: Mapping[str, Any]) -> str:
    run = _wandb_run(folder, folder.name, settings, group=folder.name, job_type="study")
    run.finish()
    return run.id


def _end_wandb_study(link: _Link, scores: Mapping[str, float]) -> None:
    folder = link.path.parent
    run = _wandb_run(folder, folder.name, {}, id=link.id, group=folder.name, job_type="study")
    run.summary.update(dict(scores))
    run.finish()


# MLflow and wandb.


def _mlflow_client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient()  # of MLFLOW_TRACKING_URI


def _create_mlflow_run(
    client: Any, name: str, tags: Mapping[str, str], settings: Mapping[str, Any]
) -> str:
    from mlflow.entities import Param

    experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    found = client.get_experiment_by_name(experiment_name)
    experiment = found.experiment_id if found else client.create_experiment(experiment_name)
    run = client.create_run(experiment, run_name=name, tags=dict(tags))
    params = [Param(key, str(value)[:6000]) for key, value in settings.items()]
    for start in range(0, len(params), 100):  # of one request, at most
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


def _reason(error: Exception) -> str:
    return (" ".join(f"{error}".split()) or type(error).__name__)[:200]


def _not_installed(name: str, error: ImportError) -> InputError:
    return InputError(
        f"--writers {name} needs the package {name} ({error}): pip install -e '.[{name}]'"
    )


def _run_name(directory: Path) -> str:
    """Name a run by its folder; in a study by its path in it."""
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
    """Return the finite numbers of test.json or of a study, and the bounds of intervals."""
    found = {}
    for name, value in data.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    for name, value in (data.get("intervals") or {}).items():
        if isinstance(value, list | tuple):
            found |= {f"{name}_low": float(value[0]), f"{name}_high": float(value[1])}
    return found


def _milliseconds() -> int:
    import time

    return int(1000 * time.time())
