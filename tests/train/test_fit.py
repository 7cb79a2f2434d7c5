"""What `fit` tells, in which order, and that it says nothing else; and that it goes on exactly where it stopped."""

import collections
import dataclasses
import json
import re

import flax.linen as nn
import numpy as np
import pytest

from train.engine.checkpoints import Checkpoints
from train.engine.fit import fit
from train.errors import Diverged, Interrupted
from train.recipe import Augmentation, EarlyStop, Optimizer, Plateau, Probe, Recipe, Stage
from train.record.best import SavedBest
from train.record.directory import SUMMARY_COLUMNS, RunDir
from train.record.files import FileWriter
from train.record.log import RunLog, Writers
from train.setup import resolve
from zoo import registry

STEPS = 4  # an epoch: 30 images, of which 8, 8, 8 and 4
TIMES = ("seconds", "images_per_second", "data_wait_share")


class SmallNet(nn.Module):
    """All that a state holds: parameters, statistics, dropout. No ReLU, so that rounding decides nothing."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(4, (3, 3), (2, 2), name="conv")(x)
        x = nn.BatchNorm(not train, momentum=0.5, name="norm")(x)
        x = nn.Dropout(0.3, deterministic=not train)(nn.tanh(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


@pytest.fixture(autouse=True, scope="module")
def small_net():
    entry = registry.ModelEntry(
        "small_net", __name__, SmallNet, (8, 8, 3), 10, source="", notes="", pretrained=()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._ENTRIES, "small_net", entry)
        yield


SGD = Optimizer("sgd", 0.05, momentum=0.9)
FIRST = Stage("first", epochs=2, optimizer=SGD, augment=Augmentation(flip=True, shift_x=0.2))
# The rate falls at each epoch that is not better by far: state of a rule that has to be kept.
SECOND = Stage("second", epochs=2, optimizer=SGD, plateau=Plateau(1, 0.5, min_delta=10.0), ema=0.5)


def experiment_of(*stages, **fields):
    return resolve(
        Recipe(
            model="small_net",
            dataset="digits",
            images_per_class=3,
            batch_size=8,
            keep_tail=True,
            stages=stages,
            **fields,
        )
    )


@pytest.fixture(scope="module")
def experiment(small_net):
    return experiment_of(FIRST, SECOND)


class Recorder(RunLog):
    """Every event, in order, as (name, what was told)."""

    def __init__(self):
        self.events = []

    def of(self, name):
        return [told for event, told in self.events if event == name]

    def letters(self, without="fnw"):
        """The events' first letters; a new best is b, a stage's end d, the run's end z."""
        named = {"new_best": "b", "stage_ended": "d", "run_ended": "z", "checkpoint": "c"}
        letters = "".join(named.get(event, event[0]) for event, _ in self.events)
        return re.sub(f"[{without}]", "", letters) if without else letters


def _record(name):
    def method(self, *told):
        self.events.append((name, told[0] if len(told) == 1 else told))

    return method


EVENTS = [name for name in vars(RunLog) if not name.startswith("_")]
for _name in EVENTS:
    setattr(Recorder, _name, _record(_name))


def run(experiment, directory, *writers, stop=lambda: False, **options):
    """What was told, and how it ended: the state, or the exception."""
    recorder = Recorder()
    checkpoints = Checkpoints(directory / "checkpoints")
    save = checkpoints.save

    def told_save(loop):
        recorder.events.append(("checkpoint", loop.step))
        save(loop)

    checkpoints.save = told_save
    log = Writers(recorder, *writers)
    try:
        return recorder, fit(experiment, checkpoints, log, stop=stop, **options)
    except (Diverged, Interrupted) as end:
        return recorder, end


def after(count):
    """A request to stop that comes after so many questions."""
    asked = iter(range(count))
    return lambda: next(asked, None) is None


def without_times(record):
    return {k: v for k, v in dataclasses.asdict(record).items() if k not in TIMES}


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """A run that nothing disturbs."""
    return run(experiment, tmp_path_factory.mktemp("whole"))


def test_a_recorder_hears_everything():
    assert set(EVENTS) == {
        *("run_started", "step", "new_best", "epoch", "stage_ended", "run_ended"),
        *("flush", "note", "working"),
    }


def test_events_come_in_order(whole):
    recorder, end = whole
    assert re.fullmatch(r"r((s{4}b?e){2}d){2}z", recorder.letters("fnwc"))
    # A checkpoint never holds what the logs do not: they are flushed before it.
    assert re.fullmatch(r"r((s{4}b?e(fc)?)*(s{4}b?efc)d){2}z", recorder.letters("nw"))
    assert recorder.of("stage_ended") == ["first", "second"]
    assert recorder.of("checkpoint")[-1] == end.step == 4 * STEPS
    assert dataclasses.asdict(recorder.of("run_started")[0]) == {"step": 0, "epoch": 0}


def test_what_is_told_of_steps_and_epochs(whole):
    recorder, end = whole
    steps, epochs = recorder.of("step"), recorder.of("epoch")
    assert [s.step for s in steps] == list(range(1, 17))
    assert [s.epoch for s in steps] == np.repeat([1, 2, 3, 4], STEPS).tolist()
    assert [s.stage for s in steps] == 8 * ["first"] + 8 * ["second"]
    assert [s.place for s in steps] == 4 * [1, 2, 3, 4]
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
    # The first value is better than infinity; the second is not by 10.
    assert (end.epoch, end.plateau.scale) == (4, 0.5)


def test_the_best_is_told_before_its_epoch_with_what_it_scored(whole):
    recorder, end = whole
    best = {told.facts["epoch"]: told for told in recorder.of("new_best")}
    epochs = recorder.of("epoch")
    assert [e.epoch for e in epochs if e.is_best] == list(best)
    scores = [e.val_accuracy for e in epochs]
    assert list(best) == [
        n for n, s in enumerate(scores, 1) if s > max(scores[: n - 1], default=-1)
    ]
    for number, told in best.items():
        epoch = epochs[number - 1]
        assert told.facts["step"] == epoch.step and told.facts["monitor"] == "accuracy"
        assert told.facts["val_accuracy"] == epoch.val_accuracy
        assert told.facts["val_loss"] == epoch.val_loss
        assert told.stage == (FIRST, SECOND)[number > 2]
        kernel = told.variables["params"]["conv"]["kernel"]
        assert isinstance(kernel, np.ndarray)  # on the host: a writer may take its time
    assert (end.best.epoch, end.best.score) == (max(best), max(scores))


def test_the_engine_prints_nothing(experiment, tmp_path, capsys):
    recorder, _ = run(experiment, tmp_path, stop=after(6))
    run(experiment, tmp_path)
    assert capsys.readouterr() == ("", "")
    assert any("compiled in" in note for note in recorder.of("note"))  # it would have had to say


def test_a_writer_hears_the_numbers_that_are_in_the_files(experiment, tmp_path):
    directory = RunDir(tmp_path)
    recorder, _ = run(experiment, tmp_path, FileWriter(directory))
    lines = [json.loads(line) for line in directory.metrics.read_text().splitlines()]
    assert lines == [
        {"step": s.step, "epoch": s.epoch, "stage": s.stage, **s.values}
        for s in recorder.of("step")
    ]
    rows = directory.read_summary()
    assert [tuple(row) for row in rows] == len(rows) * [SUMMARY_COLUMNS]
    told = [dataclasses.asdict(epoch) for epoch in recorder.of("epoch")]
    assert rows == [{name: epoch[name] for name in SUMMARY_COLUMNS} for epoch in told]


@pytest.mark.parametrize("questions", [0, 2, 3, 4, 5, 9, 11, 13])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(experiment, whole, tmp_path, questions):
    """To the last digit, wherever it stopped: in an epoch, at its end, at a stage's end; the files, too."""
    files = FileWriter(RunDir(tmp_path))
    first, end = run(experiment, tmp_path, files, stop=after(questions))
    assert isinstance(end, Interrupted)
    done = first.of("step")[-1].step
    assert str(end) == f"interrupted at step {done}" and done < 4 * STEPS
    assert first.letters("nw").endswith("fcz")  # saved, then told that it is over
    assert first.of("checkpoint")[-1] == done
    second, end = run(experiment, tmp_path, FileWriter(RunDir(tmp_path)))
    undisturbed, state = whole
    assert second.of("run_started")[0].step == done
    assert re.fullmatch(r"r(s*b?e)?((s{4}b?e)*d){1,2}z", second.letters("fnwc"))
    steps = first.of("step") + second.of("step")
    assert steps == undisturbed.of("step")
    epochs = first.of("epoch") + second.of("epoch")
    assert [*map(without_times, epochs)] == [*map(without_times, undisturbed.of("epoch"))]
    assert (end.step, end.best, end.plateau) == (state.step, state.best, state.plateau)
    lines = RunDir(tmp_path).metrics.read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [s.values["loss"] for s in steps]
    assert len(RunDir(tmp_path).read_summary()) == 4


def test_a_run_that_is_over_tells_no_steps(experiment, tmp_path, whole):
    run(experiment, tmp_path)
    recorder, end = run(experiment, tmp_path)
    assert recorder.letters("nw") == "rdz"
    assert (end.step, end.best) == (whole[1].step, whole[1].best)


def test_a_best_that_is_later_than_the_checkpoint_is_told_again_and_beaten_only(
    experiment, tmp_path
):
    run(experiment, tmp_path, stop=after(STEPS + 1))
    saved = SavedBest(step=2 * STEPS, epoch=2, score=0.99)
    recorder, end = run(experiment, tmp_path, saved_best=saved)
    assert [e.epoch for e in recorder.of("epoch") if e.is_best] == [2]
    assert end.best.score == 0.99 and end.best.epoch == 2
    older = dataclasses.replace(saved, step=0)
    _, end = run(experiment, tmp_path / "other", saved_best=older)
    assert end.best.score != 0.99


def test_the_end_is_told_when_training_diverges(tmp_path):
    wild = dataclasses.replace(FIRST, optimizer=Optimizer("sgd", 1e30))
    files = FileWriter(RunDir(tmp_path))
    recorder, end = run(experiment_of(wild), tmp_path, files)
    assert isinstance(end, Diverged)
    assert re.fullmatch(r"rs{1,7}(b?es+)?fz", recorder.letters("nwc"))
    last = recorder.of("step")[-1]
    assert end.step == last.step and not np.isfinite(last.values["loss"])
    # The step at which it happened is in the file, with null for what JSON has no word for.
    lines = [json.loads(line) for line in RunDir(tmp_path).metrics.read_text().splitlines()]
    assert lines[-1]["step"] == last.step and lines[-1]["loss"] is None


def test_the_end_is_told_when_a_writer_fails(experiment, tmp_path):
    class Full(RunLog):
        def epoch(self, record):
            raise OSError("no space left")

    recorder, checkpoints = Recorder(), Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(OSError, match="no space left"):
        fit(experiment, checkpoints, Writers(recorder, Full()))
    assert re.fullmatch(r"rs{4}b?ez", recorder.letters("nwc"))


def test_an_early_stop_ends_the_stage_and_not_the_run(tmp_path):
    soon = dataclasses.replace(FIRST, epochs=5, early_stop=EarlyStop(1, min_delta=10.0))
    recorder, end = run(experiment_of(soon, SECOND), tmp_path)
    counts = collections.Counter(e.stage for e in recorder.of("epoch"))
    assert counts == {"first": 2, "second": 2}
    assert recorder.of("stage_ended") == ["first", "second"]
    assert "early stop: the validation loss has not fallen for 1 epochs" in recorder.of("note")
    assert (end.step, end.stage, end.stopped) == (16, 1, False)


def test_a_net_that_is_not_trained_is_told_as_it_is(tmp_path):
    """Where a recipe has no stages."""
    experiment = experiment_of(probe=Probe("svm"))
    recorder, end = run(experiment, tmp_path)
    assert recorder.letters() == "rbz"
    (best,) = recorder.of("new_best")
    assert best.facts == {"epoch": 0, "step": 0} and best.stage.objective == "classification"
    assert (end.step, end.train) == (0, None)
    expected = experiment.initial_variables()["params"]["head"]["kernel"]
    np.testing.assert_array_equal(best.variables["params"]["head"]["kernel"], expected)
