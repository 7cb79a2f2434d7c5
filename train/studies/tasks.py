"""The tasks of a study, by their keys in its table, and their results. Imports only the standard library.

- `003/fold1/seed0`: a run, in the folder `runs/` of the study. Its result has `state`, `text` and `validation`.
- `setting/003`: the values of a setting, `{"values": {path: value}}`. Those of a grid are done from the start.
- `test/003/fold1/seed0`: the test of a run of the chosen setting on the published test split.
- `setup`: enqueues settings, and adds the tasks above.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.jobs import Outcome
from train.record.directory import RunDir
from train.studies.definition import Definition, job_name
from train.studies.leases import Row
from train.studies.results import Metric, RunResult, StudyResults

RUNS = "runs"  # folder of a study's runs
PUBLISHED = "published_test"  # folder of the test on the published split, in a run directory
SETUP, SETTING, TEST = "setup", "setting/", "test/"
FIELDS: dict[Metric, str] = {"accuracy": "accuracy", "macro_f1": "f1", "loss": "loss"}


def setting_key(number: int) -> str:
    """Return the key of a setting."""
    return f"{SETTING}{number:03d}"


def test_key(run: str) -> str:
    """Return the key of the test of a run on the published test split."""
    return TEST + run


def is_proposal(key: str) -> bool:
    """Whether a task proposes the values of a setting."""
    return key.startswith(SETTING)


def is_test(key: str) -> bool:
    """Whether a task tests a run on the published test split."""
    return key.startswith(TEST)


def is_run(key: str) -> bool:
    """Whether a task is a run."""
    return key != SETUP and not is_proposal(key) and not is_test(key)


def run_of(key: str) -> str:
    """Return the name of the run that a task tests."""
    return key.removeprefix(TEST)


def number_of(key: str) -> int:
    """Return the number of the setting of a task."""
    return int(key.removeprefix(SETTING).removeprefix(TEST).partition("/")[0])


def settings(rows: Mapping[str, Row]) -> dict[int, dict[str, Any]]:
    """Return the values of the settings that are known, by number."""
    return {
        number_of(key): row.result["values"]
        for key, row in rows.items()
        if is_proposal(key) and row.state == "done"
    }


def state_of(rows: Mapping[str, Row], key: str) -> str:
    """Return the state of a run's outcome, or "not run" if its task is not finished."""
    row = rows.get(key)
    if row is None or row.state != "done":
        return "not run"
    return row.result["state"]


def record(outcome: Outcome, run: RunDir, metric: Metric) -> dict[str, Any]:
    """Return the result of a run's task."""
    validation = None
    if outcome.state in ("done", "reused"):
        scores = run.read_json(run.test).get("validation", {})
        validation = scores.get(FIELDS[metric])
    return {"state": outcome.state, "text": outcome.text, "validation": validation}


def results(
    definition: Definition,
    rows: Mapping[str, Row],
    folder: Path,
    *,
    has_test_split: bool,
    command: str = "",
    notes: tuple[str, ...] = (),
) -> StudyResults:
    """Collect the results of a study so far."""
    known = dict(sorted(settings(rows).items()))
    runs = [
        _result(definition, rows, folder, number, fold, seed)
        for number in known
        for fold in (range(definition.folds) if definition.folds else [None])
        for seed in definition.seeds
    ]
    return StudyResults(
        name=definition.name,
        metric=definition.metric,
        settings=tuple(definition.setting(number, values) for number, values in known.items()),
        runs=tuple(runs),
        num_folds=definition.folds,
        seeds=definition.seeds,
        has_test_split=has_test_split,
        command=command,
        notes=notes,
    )


def missing_tests(definition: Definition, rows: Mapping[str, Row], folder: Path) -> list[str]:
    """Return the keys of the tests on the published test split that are still to be added; see `is_settled`.

    Once a setting has been tested, no other one is.
    """
    found = results(definition, rows, folder, has_test_split=True)
    tested = [number_of(key) for key in rows if is_test(key)]
    chosen = tested[0] if tested else found.choose() if found.is_settled else None
    if chosen is None:
        return []
    keys = [test_key(run.name) for run in found.runs_of(chosen)]
    return [key for key in keys if key not in rows]


def _result(
    definition: Definition,
    rows: Mapping[str, Row],
    folder: Path,
    number: int,
    fold: int | None,
    seed: int,
) -> RunResult:
    name = job_name(number, fold, seed)
    directory = folder / RUNS / name
    row = rows.get(name)
    found: Mapping[str, Any] = {}
    if row is not None and row.state == "done":
        found = row.result
    tested = test_key(name) in rows and state_of(rows, test_key(name)) == "done"
    return RunResult(
        name=name,
        setting=number,
        fold=fold,
        seed=seed,
        state=found.get("state", "not run"),
        text=found.get("text", ""),
        directory=directory,
        validation=found.get("validation"),
        published_test=directory / PUBLISHED if tested else None,
    )
