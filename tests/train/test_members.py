"""Runs that train as one program: each member's files and numbers equal those of its own single run."""

import csv
import json
from typing import ClassVar

import flax.linen as nn
import numpy as np
import pytest
from safetensors.numpy import load_file

from train import cli, jobs
from train.engine import feature_store, stage
from train.engine.checkpoints import Checkpoints
from train.errors import Interrupted
from train.jobs import Job
from train.recipe import (
    Augmentation,
    EarlyStop,
    ModelOptions,
    Optimizer,
    Pixels,
    Plateau,
    Recipe,
    Stage,
    with_values,
)
from train.record.directory import RunDir
from train.record.log import RunLog
from train.studies.members import groups, run_group
from zoo import registry

pytestmark = pytest.mark.usefixtures("small_net")

FAST = Optimizer(name="adam", learning_rate=0.01)
HEAD = Recipe(
    name="head",
    model="small_net",
    batch_size=16,
    folds=3,
    stages=(Stage(freeze=("backbone",), epochs=3, optimizer=FAST),),
)
VADE = Recipe(
    name="vade",
    model="vade_tiny",
    dataset="digits",
    images_per_class=8,
    features=Pixels(),
    batch_size=32,
    stages=(
        Stage(name="codes", objective="autoencoder", epochs=2, optimizer=FAST),
        Stage(name="clusters", objective="vade", start="mixture", epochs=2, optimizer=FAST),
    ),
)
GMVAE = with_values(
    VADE,
    {
        "name": "gmvae",
        "model": "gmvae_tiny",
        "stages": (Stage(objective="gmvae", epochs=3, optimizer=FAST),),
    },
)
DENSE = with_values(
    VADE, {"name": "dense", "model": "dense_net", "stages": (Stage(epochs=3, optimizer=FAST),)}
)
RATE, DECAY, L2 = (f"stages.*.optimizer.{name}" for name in ("learning_rate", "weight_decay", "l2"))


def job(name, recipe, /, **values):
    return Job(name, with_values(recipe, values), figures=False)


def names_of(found):
    return [[member.name for member in group] for group in found]


# Which jobs share a program.


def test_seeds_splits_and_scalars_share_a_program():
    found = groups(
        [
            job("a", HEAD),
            job("b", HEAD, seed=1, fold=2, split_seed=3, name="other"),
            job("c", HEAD, **{RATE: 0.1}),
            job("vade", VADE),
            job("d", HEAD, **{DECAY: 0.1}),  # another program than without decay
            job("e", HEAD, **{DECAY: 0.2}),
            job("vade 2", VADE, seed=4),
        ]
    )
    assert names_of(found) == [["a", "b", "c"], ["vade", "vade 2"], ["d", "e"]]


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 8},
        {"stages.0.epochs": 4},
        {"stages.0.optimizer.name": "sgd"},
        {"model_options": ModelOptions(width=8)},
        {"dataset": "digits"},
    ],
)
def test_other_settings_are_another_program(values):
    assert names_of(groups([job("a", HEAD), job("b", HEAD, **values)])) == [["a"], ["b"]]


@pytest.mark.parametrize(
    "values",
    [
        {"stages.0.freeze": ()},  # convolutions are trained
        {"stages.0.freeze": ("conv",)},
        {"stages.0.augment": Augmentation(flip=True)},  # features differ between epochs
        {"stages": ()},
    ],
)
def test_a_job_that_cannot_share_is_alone(values):
    assert names_of(groups([job(n, HEAD, seed=s, **values) for s, n in enumerate("ab")])) == [
        ["a"],
        ["b"],
    ]


# Equal to single runs.


def table(folder):
    with open(folder / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    timing = ("seconds", "images_per_second", "data_wait_share", "stage")
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name not in timing}


def results(folder):
    test = json.loads((folder / "test.json").read_text())
    return {k: v for k, v in test.items() if k not in ("train_time_ms", "test_time_ms")}


def steps_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in lines[0] if name != "stage"}


def assert_equal_runs(one, other):
    """Two run directories have equal numbers, up to the rounding of different programs."""
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    for read in (table, steps_of):
        first, second = read(one), read(other)
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_allclose(
                second[name], first[name], rtol=1e-5, atol=1e-6, err_msg=name
            )
    first, second = results(one), results(other)
    assert first.keys() == second.keys()
    np.testing.assert_allclose(second.pop("loss"), first.pop("loss"), rtol=1e-5)
    assert first == second
    assert RunDir(one).splits.read_bytes() == RunDir(other).splits.read_bytes()
    weights = [load_file(folder / "best" / "weights.safetensors") for folder in (one, other)]
    for name, array in weights[0].items():
        np.testing.assert_allclose(weights[1][name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert checkpoints_of(one)[-1] == checkpoints_of(other)[-1]


def checkpoints_of(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def run_alone(members, root):
    outcomes = jobs.run_jobs(members, root, say=lambda text: None)
    assert {str(outcome) for outcome in outcomes.values()} == {"done"}


def run_together(members, root, **options):
    (group,) = groups(members)
    return run_group(group, root, say=lambda text: None, **options)


@pytest.mark.slow
def test_heads_of_a_frozen_backbone_equal_single_runs(image_folder, tmp_path, monkeypatch):
    """Folds, seeds and settings differ, dropout is on, and the members stop and slow down at different epochs."""
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path / "cache"))
    recipe = with_values(
        HEAD,
        {
            "dataset": str(image_folder),
            "stages.0.epochs": 6,
            "stages.0.early_stop": EarlyStop(patience=1, min_delta=0.02),
            "stages.0.plateau": Plateau(patience=1, min_delta=0.1, factor=0.5),
            DECAY: 1e-3,
            L2: 1e-3,
        },
    )
    members = [
        job("a", recipe),
        job("b", recipe, seed=1, fold=1, **{RATE: 0.1}),
        job("c", recipe, seed=2, fold=2, **{RATE: 0.001, DECAY: 0.1, L2: 0.01}),
        job("d", recipe, seed=2, **{RATE: 0.03, L2: 0.1}),
    ]
    outcomes = run_together(members, tmp_path / "together")
    assert {name: str(outcome) for name, outcome in outcomes.items()} == dict.fromkeys(
        "abcd", "done"
    )
    epochs = [len(table(tmp_path / "together" / m.name)["epoch"]) for m in members]
    assert len(set(epochs)) > 1, "all members stopped at the same epoch"
    run_alone(members[1:3], tmp_path / "alone")
    for member in members[1:3]:
        assert_equal_runs(tmp_path / "alone" / member.name, tmp_path / "together" / member.name)


class DenseNet(nn.Module):
    """A classifier of vectors, without dropout."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.tanh(nn.Dense(12, name="hidden")(x))
        return nn.Dense(self.num_classes, name="head")(x)


@pytest.fixture
def dense_net(monkeypatch):
    entry = registry.ModelEntry(
        "dense_net", __name__, DenseNet, (16,), 3, source="", notes="", pretrained=()
    )
    monkeypatch.setitem(registry._ENTRIES, "dense_net", entry)


@pytest.mark.slow
@pytest.mark.usefixtures("dense_net")
@pytest.mark.parametrize("recipe", [VADE, GMVAE, DENSE], ids=lambda recipe: recipe.name)
def test_members_on_vectors_equal_single_runs(recipe, tmp_path, monkeypatch):
    """Seeds, splits and learning rates differ; of the classifier, also weight decay and L2."""
    monkeypatch.setattr("train.engine.fit.MIN_CHECKPOINT_SECONDS", 600.0)
    both = {L2: 1e-3, DECAY: 1e-3} if recipe is DENSE else {}
    other = {L2: 1e-2, DECAY: 0.1} if recipe is DENSE else {}
    members = [
        job("a", recipe, **both),
        job("b", recipe, seed=1, split_seed=1, **{RATE: 0.02}, **other),
    ]
    run_together(members, tmp_path / "together")
    run_alone(members[1:], tmp_path / "alone")
    assert_equal_runs(tmp_path / "alone" / "b", tmp_path / "together" / "b")
    last = max(steps_of(tmp_path / "together" / "b")["step"])
    assert checkpoints_of(tmp_path / "together" / "b") == [last], "saved before the end"


@pytest.mark.slow
def test_stopped_members_resume(image_folder, tmp_path, monkeypatch):
    """Stopped in the second epoch, and resumed: the numbers of a run without a break."""
    recipe = with_values(HEAD, {"dataset": str(image_folder)})
    members = [job("a", recipe), job("b", recipe, seed=1)]
    run_together(members, tmp_path / "whole")
    polls = []

    def poll(self):
        polls.append(1)
        return len(polls) > 7

    calls = []

    def counted(name, method):
        return lambda self, *arguments: (calls.append(name), method(self, *arguments))[1]

    with monkeypatch.context() as patch:
        patch.setattr(cli.StopRequest, "poll", poll)
        for name in ("save", "wait", "close"):
            patch.setattr(Checkpoints, name, counted(name, getattr(Checkpoints, name)))
        with pytest.raises(Interrupted, match="run the same command again"):
            run_together(members, tmp_path / "stopped")
    assert calls[-4:] == ["save", "save", "close", "close"], "a save waits for another one"
    rows = (
        table(tmp_path / "stopped" / "a")["epoch"]
        if RunDir(tmp_path / "stopped/a").summary.exists()
        else []
    )
    assert len(rows) < 3
    outcomes = run_together(members, tmp_path / "stopped")
    assert [str(outcome) for outcome in outcomes.values()] == ["done", "done"]
    for name in "ab":
        assert_equal_runs(tmp_path / "whole" / name, tmp_path / "stopped" / name)
    again = run_together(members, tmp_path / "stopped")
    assert [outcome.state for outcome in again.values()] == ["reused", "reused"]


class Events(RunLog):
    """Records the calls of the writer of each run."""

    calls: ClassVar[dict[str, list]] = {}

    def __init__(self, directory, recipe):
        self.own = self.calls.setdefault(directory.name, [])

    def run_started(self, start):
        self.own.append("started")

    def epoch(self, record):
        self.own.append(record.epoch)

    def run_ended(self):
        self.own.append("ended")

    def tested(self, results):
        self.own.append(results["accuracy"])


@pytest.mark.slow
def test_each_member_has_its_own_additional_writers(image_folder, tmp_path):
    recipe = with_values(HEAD, {"dataset": str(image_folder), "stages.0.epochs": 2})
    run_together([job("a", recipe), job("b", recipe, seed=1)], tmp_path, writers=[Events])
    assert Events.calls == {
        name: ["started", 1, 2, "ended", results(tmp_path / name)["accuracy"]] for name in "ab"
    }


@pytest.mark.slow
def test_a_member_that_diverges_leaves_the_others(image_folder, tmp_path):
    recipe = with_values(HEAD, {"dataset": str(image_folder), "stages.0.optimizer.name": "sgd"})
    seen = []
    members = [job("a", recipe, **{L2: 1e-6}), job("b", recipe, **{L2: 1e38})]
    outcomes = run_together(
        members, tmp_path, after=lambda job, outcome: seen.append((job.name, outcome.state))
    )
    assert str(outcomes["a"]) == "done"
    assert str(outcomes["b"]).startswith("diverged at step")
    assert sorted(seen) == [("a", "done"), ("b", "diverged")]


# Features of a frozen backbone.


@pytest.mark.slow
def test_features_are_computed_once_for_all_runs_and_folds(image_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path / "cache"))
    recipe = with_values(HEAD, {"dataset": str(image_folder), "stages.0.epochs": 1})
    counts = []
    collect = stage.features.collect_outputs

    def counted(step, variables, batches):
        outputs = collect(step, variables, batches)
        counts.append(len(outputs["features"]))
        return outputs

    monkeypatch.setattr(stage.features, "collect_outputs", counted)
    run_together([job("a", recipe), job("b", recipe, fold=1)], tmp_path / "runs")
    assert sum(counts) == 90, "each image once, with those of the test splits"
    run_alone([job("c", recipe, fold=2)], tmp_path / "runs")
    assert sum(counts) == 90, "a single run has the same backbone, of seed 0"
    run_alone([job("d", recipe, seed=5)], tmp_path / "runs")
    assert sum(counts) > 90, "another seed initializes another backbone"


def test_only_missing_features_are_computed(tmp_path):
    asked = []

    def compute(indices):
        asked.append({split: list(i) for split, i in indices.items()})
        return {split: 10.0 * i[:, None].astype(np.float32) for split, i in indices.items()}

    path = tmp_path / "features.npz"
    names = {"train": ["x", "y", "x"], "test": ["z", "y"]}
    first = feature_store.look_up(path, names, compute)
    assert asked == [{"train": [0, 1], "test": [0]}]
    np.testing.assert_array_equal(first["train"][:, 0], [0, 10, 0])
    np.testing.assert_array_equal(first["test"][:, 0], [0, 10])
    second = feature_store.look_up(path, {"validation": ["z", "new", "x"]}, compute)
    assert asked[1:] == [{"validation": [1]}]
    np.testing.assert_array_equal(second["validation"][:, 0], [0, 10, 0])
    path.write_bytes(path.read_bytes()[:100])  # damaged
    feature_store.look_up(path, {"test": ["z"]}, compute)
    assert asked[2:] == [{"test": [0]}]
