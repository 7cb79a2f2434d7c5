"""The train.reproduce command: which jobs run, in which order, what is reused, and its messages."""

import dataclasses
import hashlib
import json
import math
import shutil
import signal
from pathlib import Path

import pytest

from benchmarks import record, tables
from train import cli, jobs
from train.errors import InUse
from train.processes import Processes
from train.recipe import (
    FORMAT,
    DataFile,
    InputError,
    JobWeights,
    ModelOptions,
    Optimizer,
    Recipe,
    RunFeatures,
    Stage,
    with_values,
)
from train.record.directory import SUMMARY_COLUMNS, RunDir, write_json
from train.reproduce import __main__ as reproduce
from train.reproduce import papers
from train.reproduce.folders import Folders
from train.reproduce.markdown import markdown
from train.reproduce.recorded import _Recorded
from train.reproduce.results import Results
from train.reproduce.schema import Claim, Comparison, EarlierReading, Grid, Paper, Row
from train.reproduce.smoke import TINY_MODELS, TinyModel
from train.reproduce.verdicts import hardware_of

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    name="tiny",
    model="sam_alexnet_tiny",
    dataset="digits",
    model_options=ModelOptions(norm_momentum=0.5),
    batch_size=64,
    stages=(Stage(epochs=1, optimizer=Optimizer(learning_rate=1e-3)),),
)


def row(name, recipe=RECIPE, reported=None, seeds=1, **changes):
    return Row(name, "Table 1", name, recipe, reported or {"accuracy": 0.5}, seeds=seeds, **changes)


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


class Trainer:
    """Fake training: writes the files of a run directory and records the jobs it was called for."""

    def __init__(self):
        self.calls = []
        self.accuracy = 0.6
        self.errors = {}  # substring of a job's name -> the error it raises
        self.starts = True  # errors are raised after the run directory was created
        self.hardware, self.fingerprint = "X", "abc"
        self.epochs = 0  # rows in summary.csv

    def __call__(self, recipe, workdir, resume, *, figures):
        name = "/".join(Path(workdir).parts[-2:])
        self.calls.append(name)
        errors = [error for text, error in self.errors.items() if text in name]
        if errors and not self.starts:
            raise errors[0]
        run = RunDir(workdir)
        sizes = {"train": 1439, "validation": 179, "test": 179}
        splits = {s: {f"{s}/{i}": 0 for i in range(n)} for s, n in sizes.items()}
        manifest = {"dataset": recipe.dataset, "fingerprint": self.fingerprint, "splits": splits}
        manifest["synthetic"] = recipe.dataset.startswith("synthetic")
        write_json(run.splits, manifest | {"provenance": {"path": recipe.data_dir}})
        env = {"git_commit": "c" * 40, "git_dirty": False, "versions": {"jax": "1"}, "cores": 2}
        write_json(
            run.path / "env.json",
            env | {"backend": "cpu", "devices": ["cpu"], "cpu": self.hardware},
        )
        write_json(run.config, {"format": FORMAT, "recipe": recipe.to_json()})
        if errors:
            raise errors[0]
        if self.epochs:
            rows = [
                {
                    "epoch": e,
                    "step": e,
                    "stage": "train",
                    "train_loss": 1 / e if e < 3 else math.nan,
                }
                | {"train_accuracy": e / 9, "val_loss": 0.5, "val_accuracy": e / 10, "is_best": 1}
                for e in range(1, self.epochs + 1)
            ]
            rows = [dict.fromkeys(SUMMARY_COLUMNS, 0) | row for row in rows]
            lines = [",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]
            run.summary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        (run.best).mkdir(exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        values = {"accuracy": self.accuracy, "loss": 1.0, "test_time_ms": 5.0}
        values |= {"validation_accuracy": 1 - recipe.stages[0].optimizer.learning_rate}
        write_json(run.test, values | {"model": recipe.model, "epochs_run": 1, "best_epoch": 1})


@pytest.fixture(autouse=True)
def docs(monkeypatch, tmp_path):
    """A folder for the pages and figures of recorded ledgers."""
    monkeypatch.setattr(record, "FIGURES", tmp_path / "docs" / "papers")
    monkeypatch.setattr(tables, "DOCS", tmp_path / "docs")
    return tmp_path / "docs"


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(jobs, "train_and_test", trainer)
    return trainer


@pytest.fixture
def ask(monkeypatch, call, tmp_path):
    """Call the command on a paper with the given rows, with output in tmp_path/out."""

    def run(rows, *flags, **changes):
        paper = Paper("doc", "A paper", tuple(rows), **changes)
        monkeypatch.setattr(papers, "PAPERS", {"doc": paper})
        return call(reproduce, "doc", "--out", tmp_path / "out", *flags)

    return run


def ledger_of(tmp_path, name="doc"):
    return read(tmp_path / "out" / f"{name}.json")


def test_a_row_runs_once_per_seed_and_is_reused(ask, trainer, tmp_path):
    status, stdout, stderr = ask([row("a", seeds=2), row("b")])
    assert status == 0
    assert trainer.calls == ["a/seed0", "a/seed1", "b/seed0"]
    assert "row 1 of 2, seed 1: a" in stderr
    assert "60.00%" in stdout and "reproduced" in stdout
    result = ledger_of(tmp_path)["rows"][0]
    assert result["verdict"] == "reproduced"
    assert result["columns"][0]["values"] == {"0": 0.6, "1": 0.6}
    assert result["data"]["is_documents"] and result["data"]["fingerprint"] == "abc"
    assert (result["commits"], result["hardware"]) == (["c" * 40], ["X, 2 cores"])
    assert result["command"] == "python -m train.reproduce doc --rows a"
    assert (tmp_path / "out" / "doc" / "report.html").is_file()

    ask([row("a", seeds=2), row("b")])
    assert len(trainer.calls) == 3


def test_runs_of_a_row_differ_only_in_the_seed(ask, trainer, tmp_path):
    ask([row("a")], "--seeds", 3)
    recipes = [RunDir(tmp_path / "out/doc/a" / f"seed{k}").read_recipe() for k in range(3)]
    assert [r.seed for r in recipes] == [0, 1, 2]
    assert [with_values(r, {"seed": 0}) for r in recipes] == [RECIPE] * 3
    assert ledger_of(tmp_path)["rows"][0]["command"].endswith("--rows a --seeds 3")


def test_an_interrupted_run_is_resumed(ask, trainer, tmp_path):
    trainer.errors = {"a/": cli.Interrupted("saved")}
    status, _, stderr = ask([row("b"), row("a")])
    assert status == 130
    assert (
        "stopped during row 2 of 2, seed 0: a" in stderr
        and "run the same command again to resume" in stderr
    )
    states = {r["name"]: r["verdict"] for r in ledger_of(tmp_path)["rows"]}
    assert states == {"b": "reproduced", "a": "not run"}
    trainer.errors = {}
    assert ask([row("b"), row("a")])[0] == 0
    assert trainer.calls == ["b/seed0", "a/seed0", "a/seed0"]


def test_other_settings_in_the_folder_are_rejected(ask, trainer, tmp_path):
    ask([row("a")])
    changed = row("a", with_values(RECIPE, {"batch_size": 32}))
    status, _, stderr = ask([changed, row("b")])
    folder = tmp_path / "out/doc/a/seed0"
    assert status == 1
    assert f"{folder} contains a run with different settings (batch_size: 64, not 32)" in stderr
    assert "remove that folder, or start in another one" in stderr
    result = ledger_of(tmp_path)["rows"]
    assert result[0]["verdict"] == "failed" and "different settings" in result[0]["text"]
    assert result[1]["verdict"] == "reproduced"


def test_a_damaged_folder_is_a_failed_row(ask, trainer, tmp_path):
    ask([row("a"), row("b")])
    (tmp_path / "out/doc/a/seed0/test.json").write_text("{")
    status, _, stderr = ask([row("a"), row("b")])
    verdicts = [r["verdict"] for r in ledger_of(tmp_path)["rows"]]
    assert verdicts == ["failed", "reproduced"]
    assert "cannot be read" in ledger_of(tmp_path)["rows"][0]["text"]


def test_rows_run_after_the_rows_they_start_from(ask, trainer, tmp_path):
    after = row("after", with_values(RECIPE, {"pretrained": JobWeights("first")}), seeds=3)
    features = row("features", with_values(RECIPE, {"features": RunFeatures(JobWeights("after"))}))
    first = row("first", seeds=2)
    ask([features, after, first], "--rows", "features", "after")
    assert trainer.calls == [
        *("first/seed0", "after/seed0", "features/seed0"),
        *("first/seed1", "after/seed1", "after/seed2"),  # `first` has only two seeds
    ]

    def starts(name):
        return RunDir(tmp_path / "out/doc" / name).read_recipe()

    best = [str(tmp_path / f"out/doc/first/seed{k}/best") for k in (0, 1, 0)]
    assert [starts(f"after/seed{k}").pretrained for k in range(3)] == best
    assert starts("features/seed0").features == RunFeatures(
        str(tmp_path / "out/doc/after/seed0/best")
    )

    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "out2")
    results = Results(Folders(papers.PAPERS["doc"], tmp_path / "out2"))
    assert {r["verdict"] for r in results.ledger()["rows"]} == {"reproduced"}


def test_existing_runs_are_reused_regardless_of_the_seed_they_start_from(ask, trainer, tmp_path):
    """With more seeds, a row starts from other weights; existing runs remain valid."""
    rows = [row("first"), row("after", with_values(RECIPE, {"pretrained": JobWeights("first")}))]
    ask([rows[0], row("after", rows[1].recipe, seeds=2)])
    status, _, _ = ask(rows, "--seeds", 2)
    assert status == 0
    assert trainer.calls == ["first/seed0", "after/seed0", "after/seed1", "first/seed1"]


def test_a_row_that_cannot_start_is_tried_with_one_seed_only(ask, trainer, tmp_path):
    trainer.starts = False
    trainer.errors = {"a/": InputError("no network")}
    status, _, stderr = ask([row("a", seeds=3), row("b")])
    assert trainer.calls == ["a/seed0", "b/seed0"]
    assert status == 0 and "not run: no network" in stderr
    assert ledger_of(tmp_path)["rows"][0]["text"] == "not run: no network"


def test_no_row_starts_from_deleted_weights(ask, trainer, tmp_path):
    first = row("first")
    after = row("after", with_values(RECIPE, {"pretrained": JobWeights("first")}))
    ask([first, after], "--rows", "first")
    (tmp_path / "out/doc/first/seed0/best").rmdir()
    ask([first, after])
    text = ledger_of(tmp_path)["rows"][1]["text"]
    assert "whose weights were deleted: remove" in text and trainer.calls == ["first/seed0"]


def test_a_proxy_may_start_from_a_row(ask, trainer, tmp_path):
    """The paper's recipe does not."""
    keras = with_values(RECIPE, {"dataset": "pig_faces", "pretrained": "keras"})
    proxy = {"dataset": "synthetic_pigs", "pretrained": JobWeights("first"), "batch_size": 8}
    ask([row("after", keras, proxy=proxy), row("first")], "--rows", "after")
    assert trainer.calls == ["first/seed0", "after/seed0"]
    after, _ = ledger_of(tmp_path)["rows"]
    assert after["verdict"] == "proxy data"
    assert after["setting"].startswith("sam_alexnet_tiny on pig_faces, from keras, batch 64")
    assert after["ran"][0].startswith(
        "sam_alexnet_tiny on synthetic_pigs, from the row first, batch 8"
    )


def test_rows_that_start_from_each_other_are_an_error(ask, trainer):
    one = row("one", with_values(RECIPE, {"pretrained": JobWeights("two")}))
    two = row("two", with_values(RECIPE, {"pretrained": JobWeights("one")}))
    status, _, stderr = ask([one, two])
    assert status == 2 and "start from each other" in stderr


def test_other_rows_run_after_a_failure(ask, trainer, tmp_path):
    trainer.errors = {
        "space": OSError(28, "No space left on device"),
        "weights": InputError("the weights cannot be fetched: no network"),
        "diverges": cli.Diverged(12, "loss", "There is no checkpoint yet"),
        "bug": ZeroDivisionError("division by zero"),
    }
    names = ["space", "weights", "diverges", "bug", "good"]
    after = row("after", with_values(RECIPE, {"pretrained": JobWeights("space")}))
    status, stdout, stderr = ask([*map(row, names), after])
    assert status == 1
    assert "3 runs failed: " in stderr and "no space left" in stderr
    result = {r["name"]: r for r in ledger_of(tmp_path)["rows"]}
    assert result["space"]["verdict"] == result["bug"]["verdict"] == "failed"
    assert "ZeroDivisionError" in result["bug"]["text"]
    assert "no network" in result["weights"]["text"]
    assert result["diverges"]["text"] == "not reproduced: diverged at step 12"
    assert result["good"]["verdict"] == "reproduced"
    assert "it starts from space/seed0, which has no finished run" in result["after"]["text"]

    # Divergence is a result and is kept; a failed run is tried again.
    trainer.errors = {}
    trainer.calls = []
    assert ask([*map(row, names), after])[0] == 0
    assert trainer.calls == [*(f"{n}/seed0" for n in ("space", "weights", "bug", "after"))]


def test_a_failed_row_is_tried_once_by_all_workers(ask, trainer, monkeypatch):
    """The other worker is this process, called as `--workers 2` calls it."""
    statuses = []

    class Worker(Processes):
        def __init__(self, module, words, count, folder):
            self.logs, self._processes = [], []
            statuses.append(ask([row("a"), row("b")])[0])

        def close(self):
            pass

    monkeypatch.setattr(reproduce, "Processes", Worker)
    monkeypatch.setattr(reproduce, "watch_parent", lambda: None)
    trainer.errors = {"a/": ZeroDivisionError("broken")}
    status, _, stderr = ask([row("a"), row("b")], "--workers", "2")
    assert (status, statuses) == (1, [1]) and "1 run failed: a/seed0 failed: ZeroDivision" in stderr
    assert trainer.calls == ["a/seed0", "b/seed0"]
    assert ask([row("a"), row("b")])[0] == 1
    assert trainer.calls == ["a/seed0", "b/seed0", "a/seed0"]


def test_a_row_that_another_process_trains_is_waited_for(ask, trainer, tmp_path, monkeypatch):
    trainer.errors = {"a/": InUse("another process is training in a/seed0: wait")}
    monkeypatch.setattr(jobs, "_pause", trainer.errors.clear)
    status, _, stderr = ask([row("a"), row("b")])
    assert status == 0
    assert "row 1 of 2, seed 0: a: in use: another process is training it" in stderr
    states = {r["name"]: r["verdict"] for r in ledger_of(tmp_path)["rows"]}
    assert states == {"a": "reproduced", "b": "reproduced"}


CATS = with_values(RECIPE, {"dataset": "cats_dogs"})


def test_rows_without_data_print_their_command(ask, trainer, tmp_path):
    status, stdout, stderr = ask([row("cats", CATS), row("a")])
    assert status == 0
    assert "not run: needs the data set cats_dogs (https://www.kaggle.com" in stdout
    assert "python -m train.reproduce doc --rows cats --data-dir $DATA" in stdout
    assert "cats_dogs needs its images" in stderr
    assert trainer.calls == ["a/seed0"]


def test_the_ledger_names_the_proxy(ask, trainer, tmp_path):
    pigs = with_values(RECIPE, {"dataset": "pig_faces"})
    ask([row("pigs", pigs, proxy={"dataset": "synthetic_pigs"})])
    (result,) = ledger_of(tmp_path)["rows"]
    assert (result["verdict"], result["data"]["name"]) == ("proxy data", "synthetic_pigs")
    assert result["data"]["why"] == "synthetic images in place of pig_faces"
    assert result["command"] == "python -m train.reproduce doc --rows pigs"


def test_a_proxy_may_start_from_a_file_known_by_its_content(ask, trainer, tmp_path, image_folder):
    """It lies beside the data. Without it, the fallback is used if there is one."""
    folder = tmp_path / "data"
    for name, source in (("cats", "red"), ("dogs", "blue")):
        shutil.copytree(image_folder / source, folder / "pets" / name)
    shutil.make_archive(str(folder / "cats_dogs"), "zip", folder / "pets")
    shutil.rmtree(folder / "pets")
    weights = folder / "net.h5"
    file = DataFile("net.h5", hashlib.sha256(b"weights").hexdigest())
    keras = with_values(CATS, {"dataset": "animals10", "pretrained": "keras"})
    proxy = {"dataset": "cats_dogs", "pretrained": file}
    with_fallback = row("b", keras, proxy=proxy, fallback={"dataset": "digits", "pretrained": None})
    ours = row("c", with_values(keras, proxy), proxy={})

    def data_and_text():
        return {
            r["name"]: (r["data"] and r["data"]["name"], r["text"])
            for r in ledger_of(tmp_path)["rows"]
        }

    rows = [row("a", keras, proxy=proxy), with_fallback, ours]
    for content, problem in ((None, "there are no weights net.h5"), (b"other", "is not the file")):
        if content:
            weights.write_bytes(content)
        ask(rows, "--data-dir", folder)
        found = data_and_text()
        assert found["a"][0] is found["c"][0] is None
        assert found["b"][0] == "digits"
        assert problem in found["c"][1]
    shutil.rmtree(tmp_path / "out")
    weights.write_bytes(b"weights")
    # The archive itself can be given as well.
    for number, where in enumerate((folder, folder / "cats_dogs.zip")):
        trainer.calls.clear()
        status, _, stderr = ask(rows, "--data-dir", where)
        assert status == 0, stderr
        assert trainer.calls == (["a/seed0", "b/seed0", "c/seed0"] if number == 0 else [])
        assert {name for name, _ in data_and_text().values()} == {"cats_dogs"}
    (setting,) = ledger_of(tmp_path)["rows"][0]["ran"]
    assert f"from net.h5 (sha256 {file.sha256[:12]})" in setting
    assert "from keras" in ledger_of(tmp_path)["rows"][0]["setting"]
    assert str(tmp_path) not in json.dumps(ledger_of(tmp_path))


def test_a_subset_of_the_papers_data_is_a_proxy(ask, trainer, tmp_path, image_folder):
    data = tmp_path / "pets.zip"
    folder = tmp_path / "pets"
    for name, source in (("cats", "red"), ("dogs", "blue")):
        shutil.copytree(image_folder / source, folder / name)
    shutil.make_archive(str(data.with_suffix("")), "zip", folder)
    status, _, _ = ask([row("cats", CATS)], "--data-dir", data)
    assert status == 0
    (result,) = ledger_of(tmp_path)["rows"]
    assert result["verdict"] == "proxy data"
    assert result["data"]["why"].startswith("subset: 1,618 of 8,005 training images")
    assert result["command"].endswith("--rows cats --data-dir $DATA/pets.zip")
    assert str(tmp_path) not in json.dumps(result)


def test_shortened_rows(ask, trainer, tmp_path):
    rows = [row("a", short={"batch_size": 16}, seeds=3), row("b", seeds=2)]
    ask(rows, "--scale", "short")
    assert trainer.calls == ["a/seed0", "b/seed0", "b/seed1"]
    assert RunDir(tmp_path / "out/doc/a/seed0").read_recipe().batch_size == 16
    short, whole = ledger_of(tmp_path)["rows"]
    assert (short["verdict"], whole["verdict"]) == ("shortened", "reproduced")
    assert short["command"].endswith("--rows a --scale short")
    # --report-only recognizes shortened runs without --scale.
    assert ask(rows, "--report-only")[0] == 0
    assert ledger_of(tmp_path)["rows"][0]["verdict"] == "shortened"
    assert len(trainer.calls) == 3


def test_smoke_runs_are_stored_separately_and_not_recorded(ask, trainer, tmp_path, monkeypatch):
    monkeypatch.setitem(TINY_MODELS, RECIPE.model, TinyModel(RECIPE.model, 64))
    ask([row("a", CATS, seeds=3)], "--scale", "smoke")
    assert trainer.calls == ["a/seed0"]
    path = tmp_path / "out" / "smoke" / "doc.json"
    assert read(path)["rows"][0]["verdict"] == "smoke"
    assert not (tmp_path / "out" / "doc.json").exists()
    with pytest.raises(InputError, match="smoke runs of doc"):
        record.checked_ledger(path)


def test_list_shows_rows_and_runs_nothing(ask, trainer, tmp_path):
    ask([row("a")])
    status, stdout, _ = ask([row("a"), row("cats", CATS)], "--list")
    assert status == 0 and len(trainer.calls) == 1
    assert "accuracy 50.00%" in stdout and "1 seed: reproduced" in stdout
    assert "sam_alexnet_tiny on cats_dogs, batch 64, 1 epoch adam 0.001" in stdout


def test_parameters_are_counted_without_a_run(ask, trainer, tmp_path):
    """For the data's two classes, the head with 64 inputs has 8 outputs fewer, with their biases."""
    ask([row("a", CATS, {"parameters": 66362 - 8 * 65, "accuracy": 0.9})])
    (result,) = ledger_of(tmp_path)["rows"]
    assert result["columns"][0]["mean"] == 65842
    assert result["columns"][0]["verdict"] == "reproduced"
    assert result["text"].startswith("not run: needs the data set cats_dogs")
    assert result["text"].endswith("; parameters reproduced")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "nothing*"], "no row matches 'nothing*': there are a"),
        (["--grids", "h"], "no grid matches 'h': there are g"),
        (["--grids", "g", "--points", "1-2"], "--points 1-2: use A:B, such as 0:10"),
        (["--grids", "g", "--points", "0:3"], "use A:B with 0 <= A < B <= 2"),
        (["--grids", "g", "--points", "1:1"], "use A:B"),
        (["--points", "0:1"], "name the grid with --grids"),
        (["--seeds", "0"], "--seeds is 0: use at least 1"),
        (["--data-dir", "/nowhere"], "--data-dir /nowhere does not exist: check the path"),
        (
            ["--out", "/dev/null/out"],
            "--out /dev/null/out is below /dev/null, a file: use a folder",
        ),
    ],
)
def test_bad_flags_are_reported_in_one_line(ask, trainer, flags, message):
    grid = Grid("g", "Table 2", RECIPE, {"batch_size": (16, 32)}, {})
    status, stdout, stderr = ask([row("a")], *flags, grids=(grid,))
    assert (status, stdout) == (2, "")
    assert message in stderr and stderr.count("\n") == 1
    assert not trainer.calls


def test_data_that_no_row_uses_are_rejected(ask, trainer, tmp_path, image_folder):
    status, _, stderr = ask([row("cats", CATS)], "--data-dir", image_folder)
    assert status == 2 and "cats_dogs" in stderr


def test_unknown_paper_suggests_the_nearest_name(ask, call, trainer):
    ask([row("a")])
    status, _, stderr = call(reproduce, "dok")
    assert status == 2 and "unknown paper 'dok': did you mean doc?" in stderr


# Grids.

RATES = {"stages.0.optimizer.learning_rate": (0.5, 0.3, 0.1), "batch_size": (16,)}


def test_grids_run_in_slices_and_resume(ask, trainer, tmp_path):
    grid = Grid("g", "Table 2", RECIPE, RATES, {"stages.0.optimizer.learning_rate": 0.3})
    trainer.errors = {"grid-g/0": cli.Diverged(3, "loss", "There is no checkpoint yet")}
    status, stdout, _ = ask([row("a")], "--grids", "g", "--points", "0:2", grids=(grid,))
    assert status == 0 and trainer.calls == ["grid-g/0", "grid-g/1"]
    ask([row("a")], "--grids", "g", grids=(grid,))
    assert trainer.calls == ["grid-g/0", "grid-g/1", "grid-g/2"]
    points = read(tmp_path / "out/doc/grid-g/points.json")
    assert [(p["index"], p["text"] or p["validation_accuracy"]) for p in points] == [
        (2, 0.9),
        (1, 0.7),
        (0, "diverged at step 3"),
    ]
    lines = (tmp_path / "out/doc/grid-g/points.csv").read_text().splitlines()
    assert lines[0].startswith("index,stages.0.optimizer.learning_rate,batch_size,state")
    assert lines[1].startswith("2,0.1,16,done")
    (result,) = ledger_of(tmp_path)["grids"]
    assert result["documents_best_rank"] == 2 and result["best"]["index"] == 2
    assert not (tmp_path / "out/doc/grid-g/2/checkpoints").exists()


def test_a_run_of_version_0_1_is_recognized_by_its_recipe(ask, trainer, tmp_path, monkeypatch):
    """Its recipe is that of the row in the earlier reading, with the options of the net in that version."""
    options = {"norm": False, "norm_momentum": 0.5}
    item = row("a", earlier=EarlierReading("batch 16", {"batch_size": 16}))
    ask([item])
    config = tmp_path / "out/doc/a/seed0/config.json"
    old = with_values(RECIPE, {"batch_size": 16}).to_json() | {"model_options": options}
    config.write_text(json.dumps({"format": 2, "recipe": old}))
    recipe = with_values(RECIPE, {"model_options": ModelOptions(norm_layers=(), norm_momentum=0.5)})
    recipe = with_values(recipe, {"model_options.attention_norm": False})
    item = dataclasses.replace(item, recipe=recipe)
    assert ask([item], "--report-only")[0] == 0
    (result,) = ledger_of(tmp_path)["rows"]
    assert result["verdict"] == "earlier reading" and result["earlier"]
    assert result["text"] == "run with the earlier reading of version 0.1: batch 16"
    assert result["ran"] == ["sam_alexnet_tiny on digits, batch 16, 1 epoch adam 0.001"]
    # The row cannot resume it.
    status, _, stderr = ask([item])
    assert status == 1 and "different settings (batch_size: 16, not 64)" in stderr
    # A recipe of no reading is still an error.
    config.write_text(json.dumps({"format": 2, "recipe": old | {"batch_size": 8}}))
    ask([item], "--report-only")
    assert ledger_of(tmp_path)["rows"][0]["verdict"] == "failed"


# Records.


def test_a_recorded_ledger_is_judged_again(ask, call, trainer, tmp_path, monkeypatch):
    """Its runs, with the rows and verdicts of today; formats 1 and 2 do not say which reading they had."""
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results" / "runs")
    rows = [row("a", seeds=2), row("b", proxy={"dataset": "synthetic_pigs"})]
    ask(rows, comparisons=(Comparison("accuracy", "a", "b", "a wins"),))
    path = tmp_path / "results" / "ledger_doc.json"
    write_json(path, ledger_of(tmp_path))
    assert call(record, "--judge-again")[:2] == (0, f"{path}\n")
    assert read(path) == ledger_of(tmp_path)  # nothing has changed

    claimed = Claim("accuracy", "a", "high", at_least=0.9)
    earlier = EarlierReading("batch 16", {"batch_size": 16})
    better = [
        row("a", seeds=2, reported={"accuracy": 0.9}),
        dataclasses.replace(rows[1], earlier=earlier),
    ]
    paper = Paper("doc", "A paper", (*better, row("new")), claims=(claimed,))
    monkeypatch.setattr(papers, "PAPERS", {"doc": paper})
    status, stdout, _ = call(record, "--judge-again")
    texts = {r["name"]: r["text"] for r in read(path)["rows"]}
    assert texts == {
        "a": "not reproduced (2 seeds): accuracy 60.00%, reported 90.00%",
        "b": "reproduced (1 seed)",  # a run of today's reading
        "new": "not run",
    }
    assert read(path)["claims"][0]["verdict"] == "does not hold"
    assert "  a: reproduced (2 seeds) -> not reproduced" in stdout and "  b:" not in stdout
    write_json(path, {k: v for k, v in read(path).items() if k != "claims"} | {"format": 2})
    assert call(record, "--judge-again")[0] == 0
    again = {r["name"]: r["text"] for r in read(path)["rows"]}
    assert again == texts | {"b": "run with the earlier reading of version 0.1: batch 16"}
    assert call(record, "--judge-again", "--note", "x")[0] == 2


def test_runs_are_added_to_a_recorded_ledger(ask, call, trainer, tmp_path, monkeypatch):
    """Seeds and rows can come from several machines; a run replaces the recorded ones it cannot be compared with."""
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results" / "runs")
    path = tmp_path / "results" / "ledger_doc.json"
    rows = [row("a"), row("b", proxy={"dataset": "synthetic_pigs"})]
    grid = Grid("g", "Table 2", RECIPE, {"batch_size": (16, 32, 64)}, {})

    def ask_and_record(*flags):
        ask(rows, *flags, grids=(grid,))
        assert call(record, "--ledger", tmp_path / "out" / "doc.json")[0] == 0
        shutil.rmtree(tmp_path / "out")
        return {r["name"]: r for r in read(path)["rows"]}

    ask_and_record("--rows", "*", "--seeds", 2, "--grids", "g", "--points", "0:2")
    trainer.accuracy = 0.8
    trainer.hardware = "Y"
    found = ask_and_record("--rows", "a", "--seeds", 1, "--grids", "g", "--points", "1:3")
    assert found["a"]["columns"][0]["values"] == {"0": 0.8, "1": 0.6}
    assert found["a"]["hardware"] == ["Y, 2 cores", "X, 2 cores"]
    assert found["b"]["columns"][0]["values"] == {"0": 0.6, "1": 0.6}
    assert found["b"]["hardware"] == ["X, 2 cores"]
    (trials,) = (g["points"] for g in read(path)["grids"])
    assert {t["index"]: t["accuracy"] for t in trials} == {0: 0.6, 1: 0.8, 2: 0.8}

    trainer.fingerprint = "other data"
    found = ask_and_record("--rows", "a", "--seeds", 1)
    assert found["a"]["columns"][0]["values"] == {"0": 0.8}
    assert found["a"]["others"] == []
    assert len(found["b"]["runs"]) == 2


@pytest.mark.figures
def test_a_papers_page_shows_figures_of_the_recorded_runs(
    ask, call, trainer, tmp_path, docs, monkeypatch
):
    """Drawn from the ledger alone, since the runs may have been made elsewhere."""
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results" / "runs")
    trainer.epochs = 3
    ask([row("a", seeds=2), row("b")])
    (first, _), *_ = (r["runs"] for r in ledger_of(tmp_path)["rows"])
    assert first["val_accuracy"] == [0.1, 0.2, 0.3] and first["train_loss"] == [1.0, 0.5, None]
    ledger = tmp_path / "ledger.json"
    write_json(ledger, ledger_of(tmp_path))
    shutil.rmtree(tmp_path / "out")
    (docs / "papers").mkdir(parents=True)
    (docs / "papers" / "doc-old-0.png").touch()
    status, stdout, _ = call(record, "--ledger", ledger)
    assert status == 0
    names = ["doc-curves-0-0.png", "doc-seeds-0.png"]
    assert [Path(line).name for line in stdout.split()] == ["ledger_doc.json", *names]
    assert sorted(path.name for path in (docs / "papers").glob("*.png")) == names
    shown = tables.paper_figures("doc")
    assert "![Table 1: accuracy over seeds](doc-seeds-0.png)" in shown
    assert tables.paper_figures("other") == ""


def test_a_recorded_row_of_several_machines_is_of_neither(ask, trainer, tmp_path):
    """Times are judged on the paper's hardware only; relative times, on the same hardware."""
    rows = [row("a", seeds=2), row("b")]
    ask(rows)
    recorded = ledger_of(tmp_path)
    for each, found in zip(recorded["rows"], (["GPU X", "GPU Y"], ["GPU Y"]), strict=True):
        each["hardware"] = found
    paper = Paper("doc", "A paper", tuple(rows), hardware="GPU Y")
    again = _Recorded(paper, recorded)
    mixed, single = (hardware_of(again.runs(each)) for each in rows)
    assert single == {"GPU Y"}
    assert len(mixed) == 1 and not mixed & {"GPU X", "GPU Y"}
    assert not any(name.endswith(paper.hardware) for name in mixed)


def test_ledgers_are_recorded_only_from_clean_commits(ask, call, trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results" / "runs")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results" / "runs")
    assert tables.ledger("doc")[1] is None
    ask([row("a"), row("cats", CATS)])
    path = tmp_path / "out" / "doc.json"
    status, stdout, _ = call(record, "--ledger", path)
    recorded = tmp_path / "results" / "ledger_doc.json"
    assert (status, stdout.strip()) == (0, str(recorded))
    assert read(recorded) == read(path)
    text = markdown(tables.ledger("doc")[1])
    assert "| Table 1: a | accuracy 50.00% | accuracy 60.00% (1 seed) |" in text

    env = tmp_path / "out/doc/a/seed0/env.json"
    write_json(env, read(env) | {"git_dirty": True})
    ask([row("a")], "--report-only")
    status, _, stderr = call(record, "--ledger", path)
    assert status == 2 and "a of doc ran from uncommitted code" in stderr
    assert call(record, "--ledger", tmp_path / "none.json")[0] == 2
    assert call(record)[0] == 2
    status, _, stderr = call(record, tmp_path, "--name", "../x")
    assert (status, "--name ../x is a path" in stderr) == (2, True)


# End to end.


@pytest.mark.slow
@pytest.mark.figures
def test_a_paper_from_training_to_report(ask, tmp_path, small_net):
    """Three rows on real digits: one starts from another's weights, one diverges, which is a result."""
    recipe = with_values(RECIPE, {"model": "small_net", "stages.0.optimizer.learning_rate": 0.03})
    first = row("first", recipe, {"accuracy": 0.3, "parameters": 170})
    after = row(
        "after", with_values(recipe, {"pretrained": JobWeights("first")}), {"accuracy": 0.9999}
    )
    sgd = Optimizer(name="sgd", learning_rate=1e30)
    reported = {"accuracy": 0.1, "loss": math.nan}
    bad = row("bad", with_values(recipe, {"stages.0.optimizer": sgd}), reported, failure=True)
    comparisons = (Comparison("accuracy", "after", "first", "a second epoch helps"),)
    handler = signal.getsignal(signal.SIGINT)  # SIG_IGN if the suite runs in the background
    status, stdout, _ = ask([first, after, bad], comparisons=comparisons)
    assert status == 0
    result = ledger_of(tmp_path)
    assert [r["verdict"] for r in result["rows"]] == ["reproduced", "not reproduced", "reproduced"]
    assert result["rows"][2]["text"].startswith("reproduced: diverges (diverged at step")
    assert result["orderings"][0]["verdict"] == "undecided"  # one seed
    assert len(result["rows"][0]["data"]["fingerprint"]) == 64
    page = (tmp_path / "out/doc/report.html").read_text(encoding="utf-8")
    for text in (
        *("a second epoch helps", "reproduced: diverges", "confusion matrix"),
        "<td>parameters</td><td>170</td><td>170</td>",
    ):
        assert text in page
    assert "data:image/png;base64," in page
    assert signal.getsignal(signal.SIGINT) is handler
