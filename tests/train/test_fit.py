"""Events of `fit` and their order, exact resumption, and what happens when training fails."""

import collections
import dataclasses
import functools
import json
import re
import shutil

import jax
import numpy as np
import pytest

from train.engine import stage as stage_module
from train.engine.checkpoints import Checkpoints
from train.engine.fit import fit
from train.engine.objectives import OBJECTIVES
from train.engine.parallel import Devices
from train.errors import Diverged, Interrupted
from train.recipe import Augmentation, EarlyStop, Optimizer, Plateau, Probe, Recipe, Stage
from train.record.directory import SUMMARY_COLUMNS, RunDir
from train.record.files import FileWriter
from train.record.log import RunLog, Writers
from train.setup import resolve

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_net")]

STEPS = 4  # per epoch: 30 images in batches of 8, 8, 8 and 4
VALIDATION = 23  # batches of 8 for 179 images
EPOCH = STEPS + VALIDATION + 1  # calls of `stop`: after each step, before each batch, at the end
TIMES = ("seconds", "images_per_second", "data_wait_share")

SGD = Optimizer("sgd", 0.05, momentum=0.9)
FIRST = Stage("first", epochs=2, optimizer=SGD, augment=Augmentation(flip=True, shift_x=0.2))
# The learning rate drops after every epoch that is not better by 10, so the state of the rule must be saved.
SECOND = Stage("second", epochs=2, optimizer=SGD, plateau=Plateau(1, 0.5, min_delta=10.0), ema=0.5)


def experiment_of(*stages, **fields):
    return resolve(
        Recipe(
            model="small_net",
            dataset="digits",
            images_per_class=3,
            batch_size=8,
            drop_last=False,
            stages=stages,
            **fields,
        )
    )


@pytest.fixture(scope="module", autouse=True)
def _compile_once():
    """All runs of one experiment share their steps, which they would compile again."""
    made, make_steps = {}, stage_module.make_steps

    def make_once(experiment, plan, **options):
        key = id(experiment), id(plan)
        if key not in made:
            made[key] = (
                make_steps(experiment, plan, **options),
                experiment,
            )  # whose id stays its own
        return made[key][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, "make_steps", make_once)
        for name in ("compile_train_step", "compile_eval_step"):
            patch.setattr(Devices, name, functools.cache(getattr(Devices, name)))
        yield


@pytest.fixture(scope="module")
def experiment(small_net):
    return experiment_of(FIRST, SECOND)


class Recorder(RunLog):
    """Records every event as (name, argument), in order."""

    def __init__(self):
        self.events = []

    def of(self, name):
        return [argument for event, argument in self.events if event == name]

    def letters(self, without="fnp"):
        """First letters of the events, except b: new_best, c: checkpoint, d: stage_ended, z: run_ended."""
        special = {"new_best": "b", "stage_ended": "d", "run_ended": "z", "checkpoint": "c"}
        letters = "".join(special.get(event, event[0]) for event, _ in self.events)
        return re.sub(f"[{without}]", "", letters) if without else letters


def _record(name):
    def method(self, *arguments):
        self.events.append((name, arguments[0] if len(arguments) == 1 else arguments))

    return method


EVENTS = [name for name in vars(RunLog) if not name.startswith("_") and name != "check"]
for _name in EVENTS:
    setattr(Recorder, _name, _record(_name))


def run(experiment, directory, *writers, stop=lambda: False, **options):
    """Return the recorder, and the final state or the exception that ended the run."""
    recorder = Recorder()
    checkpoints = Checkpoints(directory / "checkpoints")
    save = checkpoints.save

    def recorded_save(loop):
        recorder.events.append(("checkpoint", loop.step))
        save(loop)

    checkpoints.save = recorded_save
    log = Writers(recorder, *writers)
    try:
        return recorder, fit(experiment, checkpoints, log, stop=stop, **options)
    except (Diverged, Interrupted) as end:
        return recorder, end


def after(count):
    """A stop function that returns True after it has been called `count` times."""
    calls = iter(range(count))
    return lambda: next(calls, None) is None


def without_times(record):
    return {k: v for k, v in dataclasses.asdict(record).items() if k not in TIMES}


@pytest.fixture(scope="module")
def whole_directory(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(experiment, whole_directory):
    """An uninterrupted run."""
    return run(experiment, whole_directory, FileWriter(RunDir(whole_directory)))


def test_recorder_records_all_events():
    assert set(EVENTS) == {
        *("run_started", "step", "new_best", "epoch", "stage_ended", "run_ended"),
        *("tested", "flush", "note", "progress"),
    }


def test_order_of_events(whole):
    recorder, end = whole
    assert re.fullmatch(r"r((s{4}b?e){2}d){2}z", recorder.letters("fnpc"))
    # Logs are flushed before each checkpoint, so they are never behind it.
    assert re.fullmatch(r"r((s{4}b?e(fc)?)*(s{4}b?efc)d){2}z", recorder.letters("np"))
    assert recorder.of("stage_ended") == ["first", "second"]
    assert recorder.of("checkpoint")[-1] == end.step == 4 * STEPS
    assert dataclasses.asdict(recorder.of("run_started")[0]) == {"step": 0, "epoch": 0}


def test_step_and_epoch_records(whole):
    recorder, end = whole
    steps, epochs = recorder.of("step"), recorder.of("epoch")
    assert [s.step for s in steps] == list(range(1, 17))
    assert [s.epoch for s in steps] == np.repeat([1, 2, 3, 4], STEPS).tolist()
    assert [s.stage for s in steps] == 8 * ["first"] + 8 * ["second"]
    assert [s.epoch_step for s in steps] == 4 * [1, 2, 3, 4]
    assert [s.steps_left for s in steps] == 2 * [7, 6, 5, 4, 3, 2, 1, 0]
    assert {s.steps_per_epoch for s in steps} == {STEPS}
    assert [(e.epoch, e.step) for e in epochs] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    assert [(e.stage_epoch, e.stage_epochs) for e in epochs] == 2 * [(1, 2), (2, 2)]
    sizes = np.array([8, 8, 8, 4])
    for number, epoch in enumerate(epochs):
        losses = [s.values["loss"] for s in steps[4 * number : 4 * number + 4]]
        assert epoch.train_loss == pytest.approx((losses * sizes).sum() / sizes.sum(), rel=1e-12)
        assert epoch.learning_rate == steps[4 * number + 3].values["learning_rate"]
    assert [e.learning_rate for e in epochs] == pytest.approx([0.05, 0.05, 0.05, 0.05])
    # The first value is an improvement over infinity, the second is not an improvement by 10.
    assert (end.epoch, end.plateau.scale) == (4, 0.5)


def test_new_best_comes_before_its_epoch_record_with_the_same_scores(whole):
    recorder, end = whole
    best = {event.facts["epoch"]: event for event in recorder.of("new_best")}
    epochs = recorder.of("epoch")
    assert [e.epoch for e in epochs if e.is_best] == list(best)
    scores = [e.val_accuracy for e in epochs]
    assert list(best) == [
        n for n, s in enumerate(scores, 1) if s > max(scores[: n - 1], default=-1)
    ]
    for number, event in best.items():
        epoch = epochs[number - 1]
        assert event.facts["step"] == epoch.step and event.facts["monitor"] == "accuracy"
        assert event.facts["val_accuracy"] == epoch.val_accuracy
        assert event.facts["val_loss"] == epoch.val_loss
        assert event.stage == (FIRST, SECOND)[number > 2]
        kernel = event.variables["params"]["conv"]["kernel"]
        assert isinstance(kernel, np.ndarray)  # on the host: a writer may be slow
    assert (end.best.epoch, end.best.score) == (max(best), max(scores))


def test_files_hold_the_recorded_values(whole, whole_directory):
    directory, (recorder, _) = RunDir(whole_directory), whole
    lines = [json.loads(line) for line in directory.metrics.read_text().splitlines()]
    assert lines == [
        {"step": s.step, "epoch": s.epoch, "stage": s.stage, **s.values}
        for s in recorder.of("step")
    ]
    rows = directory.read_summary()
    assert [tuple(row) for row in rows] == len(rows) * [SUMMARY_COLUMNS]
    epochs = [dataclasses.asdict(epoch) for epoch in recorder.of("epoch")]
    assert rows == [{name: epoch[name] for name in SUMMARY_COLUMNS} for epoch in epochs]


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(0, marks=pytest.mark.long),
        pytest.param(2, marks=pytest.mark.long),
        3,  # at the last step of an epoch: stopped before the validation
        pytest.param(STEPS, marks=pytest.mark.long),
        STEPS + 9,  # during a validation
        pytest.param(EPOCH - 1, marks=pytest.mark.long),  # at the end of an epoch
        pytest.param(EPOCH, marks=pytest.mark.long),
        2 * EPOCH - 1,  # at the end of a stage: stopped before the next one is prepared
        pytest.param(2 * EPOCH, marks=pytest.mark.long),
        2 * EPOCH + 3,
        pytest.param(3 * EPOCH - 4, marks=pytest.mark.long),
    ],
)
def test_stopped_run_resumes_exactly(experiment, whole, tmp_path, calls, capsys):
    """Bit for bit, including the files, wherever it stopped: within an epoch or its validation, at the end of a stage.

    The engine prints nothing.
    """
    files = FileWriter(RunDir(tmp_path))
    first, end = run(experiment, tmp_path, files, stop=after(calls))
    assert isinstance(end, Interrupted)
    done = first.of("step")[-1].step
    assert str(end) == f"interrupted at step {done}" and done < 4 * STEPS
    assert first.letters("np").endswith("fcz")  # saved before the end of the run
    assert first.of("checkpoint")[-1] == done
    second, end = run(experiment, tmp_path, FileWriter(RunDir(tmp_path)))
    uninterrupted, state = whole
    assert second.of("run_started")[0].step == done
    assert re.fullmatch(r"r(s*b?e)?((s{4}b?e)*d){1,2}z", second.letters("fnpc"))
    steps = first.of("step") + second.of("step")
    assert steps == uninterrupted.of("step")
    epochs = first.of("epoch") + second.of("epoch")
    assert [*map(without_times, epochs)] == [*map(without_times, uninterrupted.of("epoch"))]
    assert (end.step, end.best, end.plateau) == (state.step, state.best, state.plateau)
    lines = RunDir(tmp_path).metrics.read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [s.values["loss"] for s in steps]
    assert len(RunDir(tmp_path).read_summary()) == 4
    assert any("compiled in" in note for note in first.of("note"))  # there was something to print
    assert capsys.readouterr() == ("", "")


def test_finished_run_trains_no_more_steps(experiment, tmp_path, whole, whole_directory):
    shutil.copytree(whole_directory, tmp_path, dirs_exist_ok=True)
    recorder, end = run(experiment, tmp_path)
    assert recorder.letters("np") == "rdz"
    assert (end.step, end.best) == (whole[1].step, whole[1].best)


def test_epochs_after_the_last_checkpoint_are_trained_and_marked_again(tmp_path):
    """A process that was killed may have written the weights of several epochs since its last checkpoint."""
    stage = dataclasses.replace(FIRST, epochs=3, monitor="loss", optimizer=Optimizer("sgd", 0.01))
    experiment = experiment_of(stage)
    uninterrupted, _ = run(experiment, tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        if path.name.isdecimal() and int(path.name) > STEPS:
            shutil.rmtree(path)
    recorder, _ = run(experiment, tmp_path)
    epochs = uninterrupted.of("epoch")[1:]
    assert all(epoch.is_best for epoch in epochs)
    assert [*map(without_times, recorder.of("epoch"))] == [*map(without_times, epochs)]


def test_run_ended_is_sent_when_training_diverges(tmp_path):
    diverging = dataclasses.replace(FIRST, optimizer=Optimizer("sgd", 1e30))
    files = FileWriter(RunDir(tmp_path))
    recorder, end = run(experiment_of(diverging), tmp_path, files)
    assert isinstance(end, Diverged)
    assert re.fullmatch(r"rs{1,7}(b?es+)?fz", recorder.letters("npc"))
    last = recorder.of("step")[-1]
    # The loss is finite if only the gradient overflows, which depends on the version of JAX.
    finite = {name: bool(np.isfinite(last.values[name])) for name in ("loss", "grad_norm")}
    assert end.step == last.step and not all(finite.values())
    # The diverged step is in the file, with null for NaN and inf.
    lines = [json.loads(line) for line in RunDir(tmp_path).metrics.read_text().splitlines()]
    assert lines[-1]["step"] == last.step
    assert {name: lines[-1][name] is not None for name in finite} == finite


def test_run_ended_is_sent_when_a_writer_fails(experiment, tmp_path):
    class FailingWriter(RunLog):
        def epoch(self, record):
            raise OSError("no space left")

    recorder, checkpoints = Recorder(), Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(OSError, match="no space left"):
        fit(experiment, checkpoints, Writers(recorder, FailingWriter()))
    assert re.fullmatch(r"rs{4}b?ez", recorder.letters("npc"))


def test_early_stopping_ends_the_stage_but_not_the_run(tmp_path):
    stopping = dataclasses.replace(FIRST, epochs=5, early_stop=EarlyStop(1, min_delta=10.0))
    recorder, end = run(experiment_of(stopping, SECOND), tmp_path)
    counts = collections.Counter(e.stage for e in recorder.of("epoch"))
    assert counts == {"first": 2, "second": 2}
    assert recorder.of("stage_ended") == ["first", "second"]
    assert "early stop: no improvement of the validation loss for 1 epoch" in recorder.of("note")
    assert (end.step, end.stage, end.stopped) == (16, 1, False)


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_rules_and_the_best_epoch_follow_the_score_that_they_monitor(
    tmp_path, monkeypatch, monitor
):
    """The loss improves in epochs 1 and 2, the accuracy in epochs 1 and 3."""
    losses, accuracies = iter([3.0, 2.0, 4.0, 5.0, 6.0]), iter([0.2, 0.1, 0.3, 0.2, 0.1])
    scores = {"loss": losses, "accuracy": accuracies}
    stage = dataclasses.replace(
        FIRST,
        epochs=5,
        monitor=monitor,
        early_stop=EarlyStop(patience=2, monitor=monitor),
        plateau=Plateau(patience=1, factor=0.5, monitor=monitor),
    )
    experiment = experiment_of(stage)
    build = OBJECTIVES["classification"].build

    def with_scores(model, stage):
        def next_scores(outputs):
            return {name: next(values) for name, values in scores.items()}

        return dataclasses.replace(build(model, stage), scores=next_scores)

    entry = dataclasses.replace(OBJECTIVES["classification"], build=with_scores)
    (plan,) = experiment.stages
    experiment = dataclasses.replace(
        experiment, stages=(dataclasses.replace(plan, objective=entry),)
    )
    recorder, _ = run(experiment, tmp_path)
    epochs = recorder.of("epoch")
    best, last = ([1, 2], 4) if monitor == "loss" else ([1, 3], 5)
    assert [e.epoch for e in epochs if e.is_best] == best
    assert epochs[-1].epoch == last
    waits = {"loss": [1, 1, 1, 0.5], "accuracy": [1, 1, 0.5, 0.5, 0.25]}[monitor]
    assert [e.learning_rate / SGD.learning_rate for e in epochs] == pytest.approx(waits)
    assert {best.facts["monitor"] for best in recorder.of("new_best")} == {monitor}
    assert any(f"no improvement of the validation {monitor}" in n for n in recorder.of("note"))


def test_the_last_epoch_is_kept_whatever_its_score(tmp_path):
    """Also after an interruption."""
    experiment = experiment_of(FIRST, SECOND, score="last")
    recorder, end = run(experiment, tmp_path / "whole")
    assert [e.is_best for e in recorder.of("epoch")] == [False] * 4
    assert (end.best.epoch, recorder.of("new_best")[-1].facts["epoch"]) == (4, 4)
    run(experiment, tmp_path / "broken", stop=after(EPOCH))
    again, _ = run(experiment, tmp_path / "broken")
    for name in ("params", "batch_stats"):
        jax.tree.map(
            np.testing.assert_array_equal,
            *(r.of("new_best")[-1].variables[name] for r in (recorder, again)),
        )


def test_a_stage_may_have_its_own_batch_size(tmp_path):
    """30 images: 4 steps of 8 (the last of 6), then 2 of 16."""
    own = dataclasses.replace(SECOND, batch_size=16)
    recorder, _ = run(experiment_of(FIRST, own), tmp_path)
    steps = [(s.stage, s.steps_per_epoch) for s in recorder.of("step")]
    assert steps == 8 * [("first", 4)] + 4 * [("second", 2)]


def test_recipe_without_stages_reports_the_initial_variables(tmp_path):
    experiment = experiment_of(probe=Probe("svm"))
    recorder, end = run(experiment, tmp_path)
    assert recorder.letters() == "rbz"
    (best,) = recorder.of("new_best")
    assert best.facts == {"epoch": 0, "step": 0} and best.stage.objective == "classification"
    assert (end.step, end.train) == (0, None)
    expected = experiment.initial_variables()["params"]["head"]["kernel"]
    np.testing.assert_array_equal(best.variables["params"]["head"]["kernel"], expected)
