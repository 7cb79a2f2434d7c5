"""The main process of a study: it plans the tasks, starts workers, and waits for all tasks, including those of workers
on other machines."""

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import locks
from train import cli
from train.errors import InputError, Interrupted, InUse, RunError
from train.processes import Processes, share_gpu
from train.record.directory import write_json
from train.studies import storage as storages
from train.studies import tasks
from train.studies.definition import Definition, difference, is_extension
from train.studies.leases import Claims, Row, has_ended, held
from train.studies.results import RETRIED, StudyResults
from train.studies.storage import Storage
from train.studies.worker import Order, tell_all

DEFINITION = "definition.json"  # in the folder of a study
FACTS = ("identity", "folder", "definition", "data")  # of a study, in its storage
RUNNING = ".running-"  # lock files of commands with running workers
LOGS = "workers"  # folder of the workers' output
POLL_SECONDS = 0.5
PATIENCE = 60.0


@dataclasses.dataclass(frozen=True)
class Data:
    """What a study records about its data."""

    fingerprint: str
    has_test_split: bool


def begin(folder: Path, url: str, definition: Definition, data: Data) -> Storage:
    """Open the storage of a study, and record the study in it and in the folder.

    Raises InputError if the folder or the storage has another study, or if the storage of this study is missing.
    """
    path = folder / DEFINITION
    recorded = read_record(folder)
    file = storages.file_of(url)
    if recorded is not None and _can_be_replaced(recorded, url, definition, folder):
        path.unlink()
        storages.remove(url, definition.name)
        recorded = None
    if recorded is None:
        identity = secrets.token_hex(8)
    else:
        before = recorded_definition(recorded, folder)
        extends = is_extension(before, definition)
        check_same(recorded, before if extends else definition, data, folder)
        identity = recorded["identity"]
        if file is not None and not file.exists():
            earlier = recorded["storage"]
            moved = storages.absolute(earlier) != storages.absolute(url)
            raise InputError(
                f"the study in {folder} was started{f' with --storage {earlier}' if moved else ''}, but its storage"
                f" {file} is missing: restore it, or start another study with another --out"
            )
        if extends:
            with storages.answering(url):
                _extend(recorded, url, definition, folder)
    storage = storages.open_storage(url, definition)
    facts = {
        "identity": identity,
        "folder": str(folder.absolute()),
        "definition": definition.to_json(),
        "data": dataclasses.asdict(data),
    }
    with storages.answering(url):
        stored = storage.table.fact(facts)
    if recorded is None and stored["folder"] == facts["folder"]:
        # `stored` is that of another process if it started the study at the same time.
        check_same(stored, definition, data, folder)
        facts, identity = stored, stored["identity"]
    if stored["identity"] != identity:
        raise InputError(
            f"--storage {storages.shown(url)} already has a study {definition.name}, in the folder"
            f" {stored['folder']}: continue it with that --out (its machines must share that folder), or choose another"
            " --name"
        )
    if recorded is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, facts | {"storage": storages.shown(storages.absolute(url))})
    return storage


def _can_be_replaced(
    recorded: Mapping[str, Any], url: str, definition: Definition, folder: Path
) -> bool:
    """Whether a folder has another study that never started a run, for example because of a wrong flag."""
    if has_runs(folder) or not storages.is_beside(url, folder):
        return False
    before = recorded_definition(recorded, folder)
    if not difference(before, definition):
        return False
    return not _is_running(folder, url, before.name)


def _is_running(folder: Path, url: str, name: str) -> bool:
    """Whether another command has workers, or may have some on another machine."""
    for path in folder.glob(f"{RUNNING}*"):
        try:
            with locks.locked(path, "", lambda note: None):
                pass
        except InUse:  # its workers may not have claimed a run yet
            return True
    file = storages.file_of(url)
    if file is not None and not file.exists():
        return False
    rows = storages.open_table(url, name).read().values()
    return any(row.state == "claimed" and not has_ended(row.owner) for row in rows)


def _extend(record: Mapping[str, Any], url: str, definition: Definition, folder: Path) -> None:
    """Record more seeds or values for a study: its tasks are planned again, and finished ones kept.

    Raises InputError if that would bias its results, or if it is running. Killed at any point, the same command does it
    again: the folder's record is changed last.
    """
    refused = f"the study in {folder} cannot be extended:"
    table = storages.open_table(url, definition.name)
    if table.fact({name: record[name] for name in FACTS})["identity"] != record["identity"]:
        return  # a study of another folder, which `begin` refuses
    rows = table.read()
    if any(tasks.is_test(key) for key in rows):
        raise InputError(
            f"{refused} the published test images are used once, and were used for the choice among its settings:"
            " use another --out"
        )
    if definition.sampler != "grid":
        raise InputError(
            f"{refused} its search was made with fewer seeds or values: use another --out"
        )
    if _is_running(folder, url, definition.name):
        raise InputError(f"{refused} another command is running it: wait for it, or stop it")
    setup = rows.get(tasks.SETUP)
    if setup is not None:
        reopened = dataclasses.replace(
            setup, state="open", owner="", beat=setup.beat + 1, result=None
        )
        table.exchange([(setup, reopened)])
    storages.delete_trials(url, definition.name)
    changed = {**record, "definition": definition.to_json()}
    table.fact({name: changed[name] for name in FACTS}, replace=True)
    write_json(folder / DEFINITION, changed)
    runs = definition.num_settings * max(definition.folds, 1) * len(definition.seeds)
    kept = sum(tasks.is_run(key) for key in rows)
    cli.say(
        f"the study in {folder} is extended: {cli.count(kept, 'run')} reused or continued, {runs - kept} new"
    )


def has_runs(folder: Path) -> bool:
    """Whether any run of a study has started."""
    return next((folder / tasks.RUNS).rglob("config.json"), None) is not None


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read definition.json of a study's folder; None if it has none. Raises InputError if it is damaged."""
    path = folder / DEFINITION
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not an object")
        if not all(isinstance(data[name], str) for name in ("identity", "storage")):
            raise ValueError("wrong fields")
        if not isinstance(data["data"], dict):
            raise ValueError("wrong fields")
        return data
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): restore it, or use another --out") from None


def recorded_definition(record: Mapping[str, Any], folder: Path) -> Definition:
    """Return the study that definition.json records."""
    return Definition.from_json(record.get("definition"), f"{folder / DEFINITION}")


def check_same(record: Mapping[str, Any], definition: Definition, data: Data, folder: Path) -> None:
    """Raise InputError if a folder has another study, or one on other data."""
    changed = difference(recorded_definition(record, folder), definition)
    if changed:
        raise InputError(
            f"{folder} contains a study with other settings ({changed}): use another --out, or continue that study:"
            f" python -m train.study {folder}"
        )
    if record["data"] != dataclasses.asdict(data):
        raise InputError(
            f"the data of the study in {folder} have changed since it was started: restore them, or use another --out"
        )


# Planning.


def plan(storage: Storage, claims: Claims) -> None:
    """Add the tasks of a study once, even if another process does so at the same time or died doing so."""
    claims.table.add([tasks.SETUP])
    while claims.table.read()[tasks.SETUP].state != "done":
        row = claims.claim([tasks.SETUP])
        if row is None:
            time.sleep(POLL_SECONDS)
            continue
        with held(claims, [row]):
            _add_tasks(storage, claims)
        claims.finish({row.key: {}})


def _add_tasks(storage: Storage, claims: Claims) -> None:
    """Add the tasks of a study, except those that an earlier, unfinished call already added."""
    definition = storage.definition
    known = tasks.settings(claims.table.read())
    if definition.sampler == "tpe":
        claims.table.add([tasks.setting_key(n) for n in range(definition.trials)])
        return
    if definition.sampler == "grid":
        # Settings keep their numbers when the study is extended.
        settings = [known[number] for number in sorted(known)]
        settings += [values for values in definition.grid() if values not in settings]
        storage.enqueue(settings)
    else:
        settings = [storage.propose(n) for n in range(definition.trials)]
    keys = [job.name for n, values in enumerate(settings) for job in definition.jobs(n, values)]
    claims.table.add(keys)
    claims.table.add([tasks.setting_key(n) for n in range(len(settings))])
    for number, values in enumerate(settings):
        if number not in known and (row := claims.claim([tasks.setting_key(number)])):
            claims.finish({row.key: {"values": values}})


def reopen(claims: Claims) -> None:
    """Reopen runs that failed or could not start, so that they are retried."""
    claims.table.exchange(
        [
            (row, dataclasses.replace(row, state="open", owner="", beat=row.beat + 1, result=None))
            for row in claims.table.read().values()
            if row.state == "done" and (row.result or {}).get("state") in RETRIED
        ]
    )


# Workers.


def start_workers(order: Order, count: int) -> Processes:
    """Start processes that run the tasks of a study."""
    if count > 1:
        share_gpu()
    line = json.dumps(order.to_json())
    return Processes("train.studies.worker", (), count, Path(order.folder) / LOGS, line)


# Waiting.


def run(
    storage: Storage, order: Order, workers: int, *, command: str = "", notes: Sequence[str] = ()
) -> StudyResults:
    """Run the remaining tasks of a study and return all results.

    Raises:
      Interrupted: the user stopped.
      InputError: no run could start because the recipe or the data are invalid.
      RunError: the workers failed, for example because the program crashed.
    """
    folder = Path(order.folder)
    claims = Claims(storage.table, patience=order.patience)
    with storages.answering(order.storage):
        plan(storage, claims)
        reopen(claims)
        tell_all(storage)

    def results(rows: Mapping[str, Row]) -> StudyResults:
        return tasks.results(
            order.definition,
            rows,
            folder,
            has_test_split=order.has_test_split,
            command=command,
            notes=tuple(notes),
        )

    rows = storage.table.read()
    if is_complete(order, rows):
        return results(rows)
    with _locked_against_others(folder):
        pool = start_workers(order, workers)
        try:
            with storages.answering(order.storage), cli.StopRequest() as stop:
                _wait(storage, order, pool, stop)
                tell_all(storage)
        finally:
            pool.close()
    return results(storage.table.read())


@contextlib.contextmanager
def _locked_against_others(folder: Path) -> Iterator[None]:
    """Hold a lock of this command while its workers run, so that no other command replaces the study."""
    path = folder / f"{RUNNING}{secrets.token_hex(4)}"
    try:
        with locks.locked(path, "", cli.say):
            yield
    finally:
        path.unlink(missing_ok=True)


def is_complete(order: Order, rows: Mapping[str, Row]) -> bool:
    """Whether a study has nothing left to do."""
    if any(row.state != "done" for row in rows.values()):
        return False
    if not order.has_test_split:
        return True
    return not tasks.missing_tests(order.definition, rows, Path(order.folder))


def _wait(storage: Storage, order: Order, pool: Processes, stop: cli.StopRequest) -> None:
    definition = order.definition
    total = definition.num_settings * max(definition.folds, 1) * len(definition.seeds)
    progress = cli.Progress()
    reported: set[str] = set()
    first = True
    try:
        while True:
            running = pool.are_running()  # before the rows are read
            rows = storage.table.read()
            done = _done(rows)
            if first:
                progress.start(f"study {definition.name}: run", total, len(done))
                reported, first = done, False
            for key in sorted(done - reported):
                _report(key, rows[key], done, total, progress)
            reported |= done
            _check_start(done, rows, pool)
            if stop.poll():
                progress.stop()
                pool.stop()
                done = _done(storage.table.read())
                raise Interrupted(
                    f"interrupted: {len(done)} of {total} runs are done, unfinished ones are saved in {order.folder}:"
                    " run the same command again to continue"
                )
            if not running:
                if is_complete(order, rows):
                    return
                log = pool.failed() or pool.logs[0]
                raise RunError(f"{_last_line(log)} (the output of the worker is in {log})")
            progress.update(len(done), _running(rows))
            time.sleep(POLL_SECONDS)
    finally:
        progress.stop()


def _done(rows: Mapping[str, Row]) -> set[str]:
    """Return the names of the runs that have finished."""
    return {key for key, row in rows.items() if tasks.is_run(key) and row.state == "done"}


def _running(rows: Mapping[str, Row]) -> str:
    names = [key for key, row in rows.items() if row.state == "claimed"]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _report(key: str, row: Row, done: set[str], total: int, progress: cli.Progress) -> None:
    """Report how a run ended, if it did not succeed."""
    state, text = row.result["state"], row.result["text"]
    if state not in ("done", "reused", "pruned"):
        cli.say(
            f"{key}: {state if state == 'failed' or not text else ''}{': ' if state == 'failed' else ''}{text}"
        )


def _check_start(done: set[str], rows: Mapping[str, Row], pool: Processes) -> None:
    """Raise InputError if no run could start, since the others would fail for the same reason."""
    found = [rows[key].result for key in done]
    wrong = [result["text"] for result in found if result["state"] == "not run"]
    if wrong and len(wrong) == len(found):
        pool.stop()
        raise InputError(wrong[0])


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("error: ") if lines else "a worker ended without a message"
