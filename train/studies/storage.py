"""Storage of a study: Optuna's, and the table of tasks in the same database or beside the same journal.

`sqlite:///FILE` and `postgresql://...` are databases, any other text is the path of a journal. Each setting is a trial
of Optuna, whose value is the mean validation score of the setting's runs. Trials mirror the table: the table determines
which tasks exist and who runs them.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from train.errors import InputError
from train.studies.definition import Definition
from train.studies.leases import Table
from train.studies.tables import DatabaseTable, JournalTable, created
from train.studies.varied import Varied

PATIENCE_OF_DATABASE = 60  # seconds to wait for a locked SQLite database


def default(folder: Path) -> str:
    """Return the default storage of a study: a SQLite file in its folder."""
    return f"sqlite:///{folder / 'study.db'}"


def check(url: str) -> None:
    """Raise InputError for a storage that cannot be used, before anything is imported or created."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        if not Path(url).absolute().parent.is_dir():
            raise InputError(f"--storage {url}: its folder does not exist: create it first")
        if Path(url).is_dir():
            raise InputError(f"--storage {url} is a folder: use the path of a journal file")
        return
    kind = scheme.partition("+")[0]
    if kind not in ("sqlite", "postgresql"):
        raise InputError(
            f"--storage {shown(url)} is not supported: use sqlite:///FILE, postgresql://..., or the path of a journal"
        )
    if kind == "sqlite":
        path = Path(rest.removeprefix("/"))
        if not rest.startswith("/") or not path.name or not path.absolute().parent.is_dir():
            raise InputError(
                f"--storage {url}: the folder of this file does not exist: create it first"
            )
    if kind == "postgresql" and importlib.util.find_spec("psycopg") is None:
        raise InputError(
            f"--storage {shown(url)} needs the package psycopg: pip install -e '.[postgresql]'"
        )


def file_of(url: str) -> Path | None:
    """Return the file of a storage; None for a server."""
    if "://" not in url:
        return Path(url)
    return Path(url.partition("://")[2].removeprefix("/")) if url.startswith("sqlite") else None


def absolute(url: str) -> str:
    """Make the path of a storage absolute."""
    file = file_of(url)
    if file is None:
        return url
    return f"sqlite:///{file.absolute()}" if "://" in url else str(file.absolute())


def is_beside(url: str, folder: Path) -> bool:
    """Whether a storage is the default one of a study's folder."""
    return absolute(url) == absolute(default(folder))


def shown(url: str) -> str:
    """Return a URL without its password."""
    scheme, colon, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{colon}{user.partition(':')[0]}{at}{host}"


def remove(url: str, name: str) -> None:
    """Delete the files of a study's storage."""
    file = file_of(url)
    if file is not None:
        file.unlink(missing_ok=True)
        _tasks_of(file, name).unlink(missing_ok=True)


def delete_trials(url: str, name: str) -> None:
    """Delete the trials of a study, whose values Optuna cannot change; `open_storage` begins new ones."""
    import optuna

    with contextlib.suppress(KeyError):  # deleted by a call that was killed
        optuna.delete_study(study_name=name, storage=_open_optuna(url))


def _tasks_of(journal: Path, name: str) -> Path:
    """Return the journal of a study's tasks, beside Optuna's."""
    return journal.with_name(f"{journal.name}.{name}.tasks")


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """Context that turns the errors of a storage into an InputError."""
    import sqlalchemy

    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        if isinstance(error, OSError) and "://" in url:
            raise
        reason = " ".join(f"{getattr(error, 'orig', None) or error}".split())[:200]
        raise InputError(
            f"--storage {shown(url)} does not respond ({reason}): check it, then run the same command again to continue"
        ) from None


@dataclasses.dataclass
class Storage:
    """An open storage of a study."""

    definition: Definition
    table: Table
    optuna: Any  # optuna.storages.BaseStorage
    study: Any  # optuna.Study

    # Trials, by the number of their setting.

    def enqueue(self, settings: Sequence[dict[str, Any]]) -> None:
        """Add a waiting trial per setting, except for those that already have one."""
        for values in settings[len(self.study.get_trials(deepcopy=False)) :]:
            self.study.enqueue_trial({path: _category(value) for path, value in values.items()})

    def propose(self, number: int) -> dict[str, Any]:
        """Return the values that the sampler proposes for a setting, as JSON. Called in order of the numbers."""
        self.study.sampler = _sampler(self.definition, number)
        known = len(self.study.get_trials(deepcopy=False))
        trial = self._trial(number) if number < known else self.study.ask()
        return self._suggest(trial)

    def start(self, number: int) -> None:
        """Mark the trial of a setting as running, with its values."""
        from optuna.trial import TrialState

        trial_id = self._id(number)
        if self.optuna.get_trial(trial_id).state == TrialState.WAITING:
            self.optuna.set_trial_state_values(trial_id, TrialState.RUNNING)
        if not self.optuna.get_trial(trial_id).state.is_finished():
            self._suggest(self._trial(number))

    def tell(self, number: int, value: float | None, *, pruned: bool) -> None:
        """Finish the trial of a setting with the mean score of its runs, None if one failed or diverged."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        state = TrialState.PRUNED if pruned else TrialState.FAIL
        finite = value is not None and math.isfinite(value) and not pruned
        if finite:
            state = TrialState.COMPLETE
        with contextlib.suppress(UpdateFinishedTrialError):  # another process has told it meanwhile
            self.start(number)
            self.study.tell(number, value if finite else None, state=state, skip_if_finished=True)

    def told(self) -> set[int]:
        """Return the numbers of the settings whose trials are finished."""
        trials = self.study.get_trials(deepcopy=False)
        return {trial.number for trial in trials if trial.state.is_finished()}

    def should_prune(self, number: int, value: float, step: int) -> bool:
        """Report a score of a setting after `step` epochs of its runs; return whether to stop it."""
        trial = self._trial(number)
        trial.report(value, step)
        return trial.should_prune()

    def _id(self, number: int) -> int:
        study_id = self.optuna.get_study_id_from_name(self.study.study_name)
        return self.optuna.get_trial_id_from_study_id_trial_number(study_id, number)

    def _trial(self, number: int) -> Any:
        from optuna.trial import Trial

        self.study.get_trials(
            deepcopy=False
        )  # Optuna's cache must have read a trial before it is changed
        return Trial(self.study, self._id(number))

    def _suggest(self, trial: Any) -> dict[str, Any]:
        return {p.path: _suggested(trial, p) for p in self.definition.parameters}


def open_storage(url: str, definition: Definition) -> Storage:
    """Open, or create, the storage of a study. Raises InputError if it cannot be used."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with answering(url):
        table, storage = open_table(url, definition.name), _open_optuna(url)
        create: Callable[[], Any] = functools.partial(
            optuna.create_study,
            study_name=definition.name,
            storage=storage,
            direction=definition.direction,
            load_if_exists=True,
            sampler=_sampler(definition, 0),
            pruner=optuna.pruners.MedianPruner()
            if definition.prune
            else optuna.pruners.NopPruner(),
        )
        study = create()
        _name_metric(study, definition.metric)
    return Storage(definition, table, storage, study)


def _name_metric(study: Any, metric: str) -> None:
    """Name the value of a trial, which `optuna-dashboard` shows as "Objective Value" otherwise."""
    names = [f"validation {metric}"]
    if study.metric_names != names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna marks it as experimental
            study.set_metric_names(names)


def open_table(url: str, name: str) -> Any:
    """Open, or create, the table of a study's tasks alone, without Optuna."""
    if "://" not in url:
        return JournalTable(_tasks_of(Path(url), name))
    import sqlalchemy

    engine = sqlalchemy.create_engine(_with_driver(url), **_engine_options(url))
    return created(lambda: DatabaseTable(engine, name), url)


def _open_optuna(url: str) -> Any:
    if "://" not in url:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        lock: Any = _lock(Path(url))
        return JournalStorage(JournalFileBackend(url, lock_obj=lock))
    from optuna.storages import RDBStorage

    return created(lambda: RDBStorage(_with_driver(url), engine_kwargs=_engine_options(url)), url)


def _with_driver(url: str) -> str:
    """Add the driver of the extra `postgresql` to a URL."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _engine_options(url: str) -> dict[str, Any]:
    """Return engine options: one connection per transaction, so that none stays open during long runs."""
    from sqlalchemy.pool import NullPool

    options: dict[str, Any] = {"poolclass": NullPool}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": PATIENCE_OF_DATABASE}
    return options


def _lock(path: Path) -> Any:
    """Make a lock for Optuna's journal that the operating system releases when its process is killed.

    Optuna's own locks are files that outlive a killed process and then block all others for 30 seconds. The name
    differs from theirs: `optuna-dashboard`, which takes one to save a note, would wait for 30 seconds and then remove
    this one. Both programs append whole lines, whose order decides.
    """
    from filelock import FileLock

    class Lock:
        def __init__(self) -> None:
            self._lock = FileLock(path.with_name(f"{path.name}.writer.lock"))

        def acquire(self) -> bool:
            self._lock.acquire()
            return True

        def release(self) -> None:
            self._lock.release()

    return Lock()


def _sampler(definition: Definition, number: int) -> Any:
    """Make the sampler of a setting. Its seed depends on the number, so that no process repeats another's draws."""
    from optuna import samplers

    seed = definition.seeds[0] + 1000 * number
    if definition.sampler == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True)
    return samplers.RandomSampler(seed=seed)


def _suggested(trial: Any, parameter: Varied) -> Any:
    """Return the value of a field in a trial, as JSON."""
    if not parameter.is_range:
        choices = [_category(value) for value in parameter.values]
        return parameter.values[choices.index(trial.suggest_categorical(parameter.path, choices))]
    if parameter.whole:
        low, high = int(parameter.low), int(parameter.high)
        return trial.suggest_int(parameter.path, low, high, log=parameter.log)
    return trial.suggest_float(parameter.path, parameter.low, parameter.high, log=parameter.log)


def _category(value: Any) -> Any:
    """Convert a value to a type that Optuna accepts: lists and objects become text."""
    return repr(value) if isinstance(value, dict | list) else value
