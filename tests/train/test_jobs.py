"""Lists of jobs: order, reuse, failures, and recipes that start from other jobs."""

import json
import math
from pathlib import Path

import pytest

from train import jobs
from train.errors import Diverged, InputError, Interrupted, InUse
from train.jobs import Failures, Job, Outcome, run_job, run_jobs
from train.recipe import FORMAT, JobWeights, Recipe, RunFeatures, with_values
from train.record.directory import RunDir, write_json

pytestmark = pytest.mark.slow

RECIPE = Recipe(name="tiny", model="sam_alexnet_tiny", dataset="digits", batch_size=64)


def after(name, recipe=RECIPE):
    """Return a recipe that starts from the weights of a job."""
    return with_values(recipe, {"pretrained": JobWeights(name)})


class FakeTrainer:
    """Writes a run directory instead of training, or raises the error set for a job."""

    def __init__(self, root):
        self.root = root
        self.calls = []
        self.recipes = {}
        self.errors = {}
        self.starts = True

    def __call__(self, recipe, workdir, resume, *, figures):
        name = workdir.relative_to(self.root).as_posix()
        self.calls.append(name)
        self.recipes[name] = recipe
        assert resume == "auto"
        print("a line that must not reach stdout")
        run = RunDir(workdir)
        if self.starts or name not in self.errors:
            write_json(run.config, {"format": FORMAT, "recipe": recipe.to_json()})
        if name in self.errors:
            raise self.errors[name]
        run.best.mkdir()
        run.checkpoints.mkdir()
        write_json(run.test, {"accuracy": 0.5, "figures": figures})


@pytest.fixture
def trainer(tmp_path):
    return FakeTrainer(tmp_path / "list")


@pytest.fixture
def run(trainer):
    """`run(*jobs)` returns the outcomes as text by name; `run.output` has the printed lines."""

    def call(*items, **options):
        call.output = []
        outcomes = run_jobs(items, trainer.root, train=trainer, say=call.output.append, **options)
        call.outcomes = outcomes
        return {name: str(outcome) for name, outcome in outcomes.items()}

    return call


def test_jobs_run_once_and_are_reused(run, trainer, capsys):
    assert run(Job("a", RECIPE), Job("b/seed1", RECIPE)) == {"a": "done", "b/seed1": "done"}
    assert run.output == [
        *("job 1 of 2: a", "job 1 of 2: a: done"),
        *("job 2 of 2: b/seed1", "job 2 of 2: b/seed1: done"),
    ]
    assert capsys.readouterr().out == ""
    assert run(Job("a", RECIPE), Job("c", RECIPE)) == {"a": "already done", "c": "done"}
    assert (run.outcomes["a"].state, run.outcomes["a"].reused) == ("reused", True)
    assert trainer.calls == ["a", "b/seed1", "c"]


def test_jobs_run_after_their_dependencies(run, trainer):
    chain = with_values(RECIPE, {"features": RunFeatures(JobWeights("second"))})
    run(
        Job("third", chain),
        Job("other", RECIPE),
        Job("second", after("first")),
        Job("first", RECIPE),
    )
    assert trainer.calls == ["first", "second", "third", "other"]
    root = trainer.root
    assert trainer.recipes["second"].pretrained == str(root / "first" / "best")
    assert trainer.recipes["third"].features == RunFeatures(str(root / "second" / "best"))


def test_a_job_can_start_from_a_job_of_an_earlier_list(run, trainer):
    run(Job("first", RECIPE))
    assert run(Job("second", after("first"))) == {"second": "done"}


@pytest.mark.parametrize("names", [("a", "b"), ("a",), ("a", "b", "c")])
def test_cyclic_dependencies_are_an_error(run, trainer, names):
    cycle = [Job(name, after(names[i - 1])) for i, name in enumerate(names)]
    with pytest.raises(InputError, match="cyclic dependency: .* start from each other"):
        run(Job("alone", RECIPE), *cycle)
    assert not trainer.calls


def test_duplicate_names_are_an_error(run):
    with pytest.raises(InputError, match="two jobs are called a"):
        run(Job("a", RECIPE), Job("a", after("b")))


def test_a_failure_is_an_outcome_and_later_jobs_still_run(run, trainer):
    trainer.errors = {
        "diverges": Diverged(12, "loss", "There is no checkpoint yet"),
        "space": OSError(28, "No space left on device"),
        "bug": ZeroDivisionError("division\nby zero"),
    }
    items = [*(Job(name, RECIPE) for name in ("diverges", "space", "bug", "good"))]
    items.append(Job("after", after("space")))
    result = run(*items)
    assert result["diverges"] == "diverged at step 12"
    assert result["space"].startswith("failed: no space left on the disk")
    assert result["bug"].startswith("failed: ZeroDivisionError: division")
    assert result["good"] == "done"
    assert result["after"] == "not run: it starts from space, which has no finished run"
    written = json.loads((trainer.root / "diverges" / "outcome.json").read_text())
    assert written == {"state": "diverged", "text": "diverged at step 12"}

    # Divergence is final. Failures are retried, and their outcome.json is removed.
    trainer.errors, trainer.calls = {}, []
    result = run(*items)
    assert result["diverges"] == "already done: diverged at step 12"
    assert run.outcomes["diverges"] == Outcome("diverged", "diverged at step 12", reused=True)
    assert trainer.calls == ["space", "bug", "after"]
    assert not (trainer.root / "space" / "outcome.json").exists()


def test_nothing_is_recorded_in_the_run_of_another_process(run, trainer):
    trainer.errors = {"a": InUse("another process is training in a")}
    assert run_job(Job("a", RECIPE), trainer.root, train=trainer) == Outcome(
        "in use", "another process is training it"
    )
    assert not (trainer.root / "a" / "outcome.json").exists()


def test_how_a_run_ended_is_changed_only_under_its_lock(run, trainer, monkeypatch):
    """Another process may have just begun a run whose earlier failure is on record, or begin one that fails here."""
    trainer.errors = {"a": ZeroDivisionError("broken")}
    written = []

    def record(path, content):
        with pytest.raises(InUse), RunDir(path.parent).locked():
            pass
        written.append(content["state"])
        write_json(path, content)

    monkeypatch.setattr(jobs, "write_json", record)
    run(Job("a", RECIPE))
    assert written == ["failed"]
    with RunDir(trainer.root / "a").locked():
        outcome = run_job(Job("a", RECIPE), trainer.root, train=trainer)
        assert outcome.state == "in use" and (trainer.root / "a" / "outcome.json").exists()
    assert trainer.calls == ["a"]


@pytest.mark.parametrize("starts", [True, False])
def test_a_failed_job_is_tried_once_by_all_processes(starts, run, trainer, tmp_path):
    trainer.starts = starts
    trainer.errors = {"a": ZeroDivisionError("broken")}
    items = Job("a", RECIPE), Job("b", RECIPE), Job("c", after("a"))
    first, second = Failures(tmp_path / "call1"), Failures(tmp_path / "call2")
    found = run(*items, failures=first)
    assert found["a"].startswith("failed: ZeroDivisionError: broken")
    assert run(*items, failures=first) == {**found, "b": "already done"}
    assert trainer.calls == ["a", "b"]
    assert (trainer.root / "a").exists() == starts
    run(*items, failures=second)
    assert trainer.calls == ["a", "b", "a"]


def test_a_job_that_failed_until_it_was_locked_is_not_tried(run, trainer, tmp_path, monkeypatch):
    failures, locked = Failures(tmp_path / "call"), RunDir.locked

    def late(directory, **options):
        failures.add("a", Outcome("failed", "elsewhere"))
        return locked(directory, **options)

    monkeypatch.setattr(RunDir, "locked", late)
    assert run(Job("a", RECIPE), failures=failures) == {"a": "failed: elsewhere"}
    assert not trainer.calls


def test_jobs_of_other_processes_are_waited_for(run, trainer, monkeypatch):
    """The rest runs first; then their results are reused, and runs of a killed process are continued."""
    trainer.errors = {name: InUse("another process is training") for name in ("a", "b")}
    pauses = []

    def pause():
        pauses.append(list(trainer.calls))
        del trainer.errors["ab"[len(pauses) - 1]]

    monkeypatch.setattr("train.jobs._pause", pause)
    items = [
        Job("a", RECIPE),
        Job("b", RECIPE),
        Job("after", after("a"), group="x"),
        Job("c", RECIPE),
    ]
    assert set(run(*items).values()) == {"done"}
    assert pauses == [["a", "b", "c", "a", "b"], ["a", "b", "c", "a", "b", "a", "b", "after", "b"]]
    assert [line for line in run.output if "in use" in line] == [
        f"job {number} of 4: {name}: in use: another process is training it"
        for number, name in [(1, "a"), (2, "b")]
    ]


def test_bad_input_before_the_start_of_a_run_is_not_a_failure(run, trainer):
    trainer.errors = {"a": InputError("no network"), "b": InputError("no\nspace")}
    trainer.starts = False
    assert run(Job("a", RECIPE))["a"] == "not run: no network"
    trainer.starts = True
    assert run(Job("b", RECIPE))["b"] == "failed: no space"


def test_a_job_that_cannot_run_skips_its_group(run, trainer):
    items = [Job("a/0", RECIPE, group="a", missing="no data"), Job("a/1", RECIPE, group="a")]
    assert run(*items, Job("b", RECIPE, missing="no data"), Job("c", RECIPE)) == {
        "a/0": "not run: no data",
        "a/1": "not run: no data",
        "b": "not run: no data",
        "c": "done",
    }
    assert trainer.calls == ["c"] and not any("a/1" in line for line in run.output)


def test_a_run_with_other_settings_is_rejected_and_unchanged(run, trainer):
    trainer.errors = {"a": OSError("stopped")}
    run(Job("a", RECIPE))
    trainer.errors = {}
    changed = with_values(RECIPE, {"batch_size": 32, "stages.0.epochs": 1})
    folder = trainer.root / "a"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert run(Job("a", changed))["a"] == (
        f"failed: {folder} contains a run with different settings (batch_size: 64, not 32; stages.0.epochs: 30, not 1):"
        " remove that folder, or start in another one"
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_data_and_results_can_move(run, trainer):
    run(Job("first", RECIPE), Job("second", after("first")))
    trainer.root = trainer.root.rename(trainer.root.with_name("moved"))
    moved = with_values(RECIPE, {"data_dir": "/elsewhere", "name": "other", "feed": "streamed"})
    again = run(Job("first", moved), Job("second", after("first", moved)))
    assert again == {"first": "already done", "second": "already done"}
    # The weights of another job are another setting.
    assert "pretrained" in run(Job("second", after("third")), Job("third", RECIPE))["second"]


def test_a_job_whose_initial_weights_were_deleted_does_not_run(run, trainer):
    run(Job("first", RECIPE))
    (trainer.root / "first" / "best").rmdir()
    text = run(Job("second", after("first")))["second"]
    assert text.startswith("not run: it starts from first, whose weights were deleted: remove")


def test_a_damaged_run_is_a_failure(run, trainer):
    run(Job("a", RECIPE))
    RunDir(trainer.root / "a").config.write_text("{")
    assert "cannot be read" in run(Job("a", RECIPE))["a"]


@pytest.mark.parametrize("error", [Interrupted("saved"), KeyboardInterrupt()])
def test_an_interruption_names_the_job_and_the_list_can_be_resumed(run, trainer, error):
    seen = []
    trainer.errors = {"b": error}
    items = [Job("a", RECIPE), Job("b", RECIPE, title="the second")]
    with pytest.raises(
        Interrupted, match="stopped during the second; finished work is saved in"
    ) as at:
        run(*items, after=lambda job, outcome: seen.append((job.name, outcome.state)))
    assert str(trainer.root) in str(at.value) and "run the same command again to resume" in str(
        at.value
    )
    assert seen == [("a", "done")]
    trainer.errors = {}
    assert run(*items) == {"a": "already done", "b": "done"}


def test_figures_and_checkpoints_are_optional(run, trainer):
    run(Job("a", RECIPE, figures=False, keep_checkpoints=False), Job("b", RECIPE))
    a, b = (RunDir(trainer.root / name) for name in "ab")
    assert (a.checkpoints.exists(), b.checkpoints.exists()) == (False, True)
    assert [json.loads(r.test.read_text())["figures"] for r in (a, b)] == [False, True]


def test_is_best_of_compares_whole_path_components():
    assert jobs.is_best_of("/data/list/a/seed0/best", "a/seed0")
    assert not jobs.is_best_of("/data/list/a/seed1/best", "a/seed0")
    assert not jobs.is_best_of("/data/list/xa/seed0/best", "a/seed0")
    assert not jobs.is_best_of("best", "a/seed0")
    assert not jobs.is_best_of("keras", "keras")


@pytest.mark.parametrize(("maps", "times"), [(jobs.MAX_MAPS, 0), (jobs.MAX_MAPS + 1, 2)])
def test_compiled_programs_are_dropped_before_they_are_too_many(run, monkeypatch, maps, times):
    """And not after each job, since the next one would compile again what all have in common."""
    calls = []
    monkeypatch.setattr(jobs, "memory_maps", lambda: maps)
    monkeypatch.setattr("jax.clear_caches", lambda: calls.append(1))
    run(Job("a", RECIPE), Job("b", RECIPE))
    assert len(calls) == times


def test_memory_maps_are_counted(monkeypatch):
    assert 10 < jobs.memory_maps() < 65_530
    monkeypatch.setattr(jobs, "Path", lambda path: Path("nowhere"))
    assert jobs.memory_maps() == math.inf
