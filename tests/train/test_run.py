"""`python -m train.run` and the run directory it writes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from train import evaluate, recipes, run
from train.analysis.statistics import interval_fields
from train.errors import InputError
from train.recipe import Optimizer, Probe, Recipe, Stage
from train.record.directory import SUMMARY_COLUMNS, RunDir
from train.results import TIMING_FIELDS
from train.setup import resolve

pytestmark = pytest.mark.usefixtures("small_net")

SMALL = ("--model", "small_net", "--batch-size", "16")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def summary(workdir):
    with open(workdir / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_run_directory_is_complete(small_run):
    names = {p.relative_to(small_run).as_posix() for p in small_run.rglob("*") if p.is_file()}
    assert names >= {
        "config.json",
        "env.json",
        "splits.json",
        "metrics.jsonl",
        "summary.csv",
        "best/weights.safetensors",
        "best/model.json",
        "test.json",
        "predictions.npz",
        "figures/curves.png",
        "figures/confusion_matrix.png",
        "figures/predictions.png",
        "report.html",
    }
    assert any(name.startswith("tensorboard/events") for name in names)
    assert any(name.startswith("checkpoints/") for name in names)


def test_test_json_has_the_documented_fields(small_run):
    results = read(small_run / "test.json")
    documented = (
        "accuracy precision recall f1 loss per_class confusion_matrix num_examples test_time_ms"
    )
    documented += " train_time_ms model batch_size seed epochs_run"
    assert set(documented.split()) <= set(results)
    assert results["accuracy"] > 0.8  # three colors are easy
    assert results["num_examples"] == np.sum(results["confusion_matrix"]) == 9
    assert (results["epochs_run"], results["batch_size"], results["synthetic"]) == (2, 16, False)
    assert results["train_time_ms"] > results["test_time_ms"] > 0


def test_logs_agree(small_run):
    rows = summary(small_run)
    steps = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    assert tuple(rows[0]) == SUMMARY_COLUMNS
    # 72 training images: four full batches of 16 per epoch.
    assert [s["step"] for s in steps] == list(range(1, 9))
    assert [(r["epoch"], r["step"]) for r in rows] == [("1", "4"), ("2", "8")]
    assert float(rows[0]["train_loss"]) == pytest.approx(np.mean([s["loss"] for s in steps[:4]]))
    assert all(s["grad_norm"] > 0 and s["update_norm"] > 0 for s in steps)


def test_predictions_agree_with_test_json(small_run):
    results = read(small_run / "test.json")
    with np.load(small_run / "predictions.npz") as saved:
        assert np.mean(saved["predictions"] == saved["labels"]) == pytest.approx(
            results["accuracy"]
        )
        np.testing.assert_allclose(saved["probabilities"].sum(axis=1), 1, rtol=1e-5)
        assert saved["class_names"].tolist() == ["blue", "green", "red"]
        test_ids = list(read(small_run / "splits.json")["splits"]["test"])
        assert saved["ids"].tolist() == test_ids


def test_scores_have_the_intervals_of_the_predictions(small_run):
    results = read(small_run / "test.json")
    with np.load(small_run / "predictions.npz") as saved:
        expected = interval_fields(saved["labels"], saved["predictions"], 3)
    assert results["intervals"] == expected
    assert (expected["over"], expected["units"]) == ("images", 9)
    low, high = (f"{100 * bound:.1f}" for bound in expected["accuracy"])
    assert f"accuracy {results['accuracy']:.2%} (95%: {low} to {high}), macro-F1 " in run._scores(
        results, "best"
    )
    earlier = {k: v for k, v in results.items() if k != "intervals"}  # of version 0.1
    assert "95%" not in run._scores(earlier, "best")


def test_splits_are_disjoint(small_run):
    splits = read(small_run / "splits.json")["splits"]
    ids = [set(splits[name]) for name in ("train", "validation", "test")]
    assert [len(i) for i in ids] == [72, 9, 9]
    assert len(set.union(*ids)) == 90


def test_config_and_environment_are_recorded(small_run):
    config, env = read(small_run / "config.json"), read(small_run / "env.json")
    assert config["recipe"]["model"] == "small_net"
    assert config["recipe"]["stages"][0]["optimizer"]["learning_rate"] == 0.01
    assert set(env["versions"]) >= {"python", "jax", "flax", "optax", "numpy"}
    assert env["backend"] == "cpu"


def test_evaluate_reproduces_test_json_except_for_times(small_run, call):
    status, stdout, stderr = call(evaluate, small_run)
    assert status == 0
    assert "95% intervals over the test images only, from one seed" in stderr
    computed, recorded = json.loads(stdout), read(small_run / "test.json")
    assert computed.keys() == recorded.keys()
    assert {k: v for k, v in computed.items() if k not in TIMING_FIELDS} == {
        k: v for k, v in recorded.items() if k not in TIMING_FIELDS
    }


def test_evaluate_another_split(small_run, call):
    status, stdout, _ = call(evaluate, small_run, "--split", "validation")
    results = json.loads(stdout)
    assert (status, results["num_examples"], results["split"]) == (0, 9, "validation")
    rows = summary(small_run)
    best = next(r for r in rows if r["epoch"] == str(results["best_epoch"]))
    assert results["accuracy"] == pytest.approx(float(best["val_accuracy"]))
    assert results["loss"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


@pytest.mark.slow
def test_running_a_finished_run_again_does_not_train(small_run, call):
    before = read(small_run / "test.json")
    status, stdout, stderr = call(run, "--workdir", small_run)
    assert status == 0
    assert "after epoch 2, step 8" in stderr
    after = read(small_run / "test.json")
    assert {k: v for k, v in after.items() if k != "test_time_ms"} == {
        k: v for k, v in before.items() if k != "test_time_ms"
    }


def test_moved_data_are_accepted_and_changed_data_rejected(small_run, image_folder, tmp_path, call):
    archive = tmp_path / "pens.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(image_folder.rglob("*.png")):
            file.write(path, path.relative_to(image_folder))
    status, stdout, _ = call(evaluate, small_run, "--dataset", archive)
    assert status == 0
    assert json.loads(stdout)["accuracy"] == read(small_run / "test.json")["accuracy"]

    shutil.copytree(small_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with zipfile.ZipFile(archive, "a") as file:
        file.write(image_folder / "red" / "0.png", "red/copy.png")
    config = read(tmp_path / "run" / "config.json")
    config["recipe"]["dataset"] = str(archive)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    status, _, stderr = call(evaluate, tmp_path / "run")
    assert status == 2
    assert "differ from those of the run" in stderr


def other_photos(root, image_folder, *names, count=3):
    """A few images of some classes: too few to split, and of one class too few to train on."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            with Image.open(image_folder / name / f"{i}.png") as image:
                Image.fromarray(np.asarray(image) // 2 + 60).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("names", [["red"], ["red", "green"]])
def test_evaluate_other_data_with_some_of_the_classes(
    small_run, image_folder, tmp_path, call, names
):
    other = other_photos(tmp_path / "other", image_folder, *names)
    status, stdout, stderr = call(evaluate, small_run, "--dataset", other)
    assert status == 0, stderr
    results, before = json.loads(stdout), read(small_run / "test.json")
    assert results.keys() == before.keys()
    assert (results["dataset"], results["split"]) == ("other", "all")
    assert results["num_examples"] == 3 * len(names)
    assert "95% intervals over the images only, from one seed" in stderr
    support = {name: row["support"] for name, row in results["per_class"].items()}
    assert support == {name: 3 * (name in names) for name in ("blue", "green", "red")}
    # Macro averages do not count classes without images; labels are those of the model.
    recalls = [results["per_class"][name]["recall"] for name in names]
    assert (
        results["recall"] == pytest.approx(np.mean(recalls)) == pytest.approx(results["accuracy"])
    )
    assert results["accuracy"] > 0.6
    assert f"6 images, {len(names)} of 3 classes"[2:] in stderr


def test_evaluate_other_data_in_every_format(small_run, image_folder, tmp_path, call):
    """A list, arrays and published splits, without training images."""
    other = other_photos(tmp_path / "other", image_folder, "red", "green")
    rows = [f"{name}/{i}.png,{name}" for name in ("red", "green") for i in range(3)]
    (tmp_path / "other" / "list.csv").write_text("\n".join(["path,label", *rows]))
    pixels = [np.asarray(Image.open(other / row.split(",")[0])) for row in rows]
    labels = [row.split(",")[1] for row in rows]
    np.savez(tmp_path / "other.npz", x_test=np.stack(pixels), y_test=np.array(labels))
    shutil.copytree(other, tmp_path / "published" / "test")
    found = []
    for path in (other / "list.csv", tmp_path / "other.npz", tmp_path / "published", other):
        status, stdout, stderr = call(evaluate, small_run, "--dataset", path)
        assert status == 0, stderr
        results = json.loads(stdout)
        found.append((results["confusion_matrix"], round(results["loss"], 6)))
    assert found == [found[0]] * 4


def test_evaluate_says_that_images_were_trained_on(small_run, image_folder, tmp_path, call):
    copy = tmp_path / "copy"
    shutil.copytree(image_folder, copy)
    (copy / "red" / "0.png").unlink()
    status, _, stderr = call(evaluate, small_run, "--dataset", copy)
    assert status == 0
    trained = read(small_run / "splits.json")["splits"]["train"]
    left = len(trained) - ("red/0.png" in trained)
    assert f"warning: the model was trained on {left} of these images" in stderr


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        (["red", "pink"], [], "has pink, which is not among the 3 classes of the model (blue, gr"),
        (["red"], ["--split", "train"], "has no train images: use --split test"),
        ([], [], "nowhere does not exist"),
    ],
)
def test_other_data_that_cannot_be_evaluated(
    small_run, image_folder, tmp_path, call, names, flags, message
):
    other = tmp_path / "nowhere"
    for name in names:
        (other / name).mkdir(parents=True)
        shutil.copy(image_folder / "red" / "0.png", other / name)
    status, _, stderr = call(evaluate, small_run, "--dataset", other, *flags)
    assert status == 2
    assert message in stderr.splitlines()[-1]


@pytest.mark.slow
def test_splits_of_another_run(small_run, image_folder, tmp_path, call):
    """With a duplicate of a training image added to the test split."""
    import shutil

    pens, given, workdir = tmp_path / "pens", tmp_path / "splits.json", tmp_path / "run"
    shutil.copytree(image_folder, pens)
    splits = read(small_run / "splits.json")
    first = next(iter(splits["splits"]["train"]))
    shutil.copy(pens / first, pens / "blue" / "copy.png")
    splits["splits"]["test"]["blue/copy.png"] = splits["splits"]["train"][first]
    given.write_text(json.dumps(splits))
    data = ["--dataset", pens, "--splits", given, "--epochs", 1]
    status, _, stderr = call(run, "--workdir", workdir, *SMALL, *data)
    assert status == 0, stderr
    assert "note: 1 of 10 test images are copies of train images" in stderr
    assert "duplicates and near-duplicates across splits: 1, listed in " in stderr
    with open(workdir / "leaks.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {
                "kind": "copy",
                "part": "test",
                "id": "blue/copy.png",
                "other_part": "train",
                "other_id": first,
                "distance": "0",
            }
        ]
    written = read(workdir / "splits.json")
    assert (written["splits"], written["class_names"]) == (splits["splits"], splits["class_names"])
    assert not (small_run / "leaks.csv").exists()

    # The run has its own copy of the splits.
    given.unlink()
    status, stdout, stderr = call(evaluate, workdir)
    assert status == 0, stderr
    assert json.loads(stdout)["accuracy"] == read(workdir / "test.json")["accuracy"]
    status, _, stderr = call(run, "--workdir", workdir)
    assert status == 0, stderr
    (pens / first).write_bytes((pens / "red" / "1.png").read_bytes())
    status, _, stderr = call(evaluate, workdir)
    assert status == 2
    assert f"starting with {first}: restore" in stderr


def test_changed_splits_are_rejected(small_run, tmp_path, call):
    """As if another version had split the data differently."""
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(small_run, workdir)
    manifest = read(workdir / "splits.json")
    splits = manifest["splits"]
    name = next(iter(splits["test"]))
    splits["train"][name] = splits["test"].pop(name)
    (workdir / "splits.json").write_text(json.dumps(manifest))
    for arguments in ((evaluate, workdir), (run, "--workdir", workdir)):
        status, _, stderr = call(*arguments)
        assert status == 2
        assert f"differ from {workdir / 'splits.json'}: use that file" in stderr


def test_folds_and_groups_by_flag(image_folder):
    text = f"--dataset {image_folder} --folds 3 --fold 1 --group (\\d).png$".split()
    data = resolve(run.parse([*SMALL, *text]).recipe, train=False).dataset
    assert len(data.splits["test"]) in range(20, 41)
    groups = [{name[-5] for name in split.ids} for split in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 10
    assert (data.provenance["folds"], data.provenance["fold"]) == (3, 1)


# Interruptions, in separate processes.


class Training:
    """A run of four epochs of 18 steps in a separate process, which can be stopped at any time.

    The images are large so that an epoch takes half a second, although the net is small.
    """

    def __init__(self, workdir, image_folder, environment):
        self.log = workdir.with_suffix(".log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "train.run", *self.words(workdir, image_folder)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @staticmethod
    def words(workdir, image_folder):
        text = f"--model tests.registered_net:net --dataset {image_folder} --workdir {workdir}"
        text += " --epochs 4 --image-size 256 --batch-size 4 --stages.0.augment.flip"
        return text.split()

    def stderr(self):
        return self.log.read_text()

    def stop_when(self, condition, number):
        """Wait until `condition()` is true, send a signal, and return the exit status."""
        while not condition():
            assert self.process.poll() is None, self.stderr()
            time.sleep(0.01)
        self.process.send_signal(number)
        return self.process.wait(timeout=300)


def files_without_times(workdir):
    """Logs, results and weights, which must be equal for a resumed and an uninterrupted run."""
    rows = summary(workdir)
    for row in rows:
        for name in ("seconds", "images_per_second", "data_wait_share"):
            del row[name]
    test = {k: v for k, v in read(workdir / "test.json").items() if k not in TIMING_FIELDS}
    weights = (workdir / "best" / "weights.safetensors").read_bytes()
    return (workdir / "metrics.jsonl").read_text(), rows, test, weights


@pytest.mark.slow
def test_killed_and_interrupted_runs_resume_exactly(
    image_folder, command_environment, tmp_path, call, registered_net
):
    """SIGKILL after some steps, Ctrl-C after some more: weights and logs equal those of one run bit for bit.

    The run that is never stopped and the end of the other are trained in this process, which compiles the same
    programs if the flags are the same.
    """
    environment = command_environment | {"XLA_FLAGS": os.environ["XLA_FLAGS"]}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    status, _, stderr = call(run, *Training.words(whole, image_folder))
    assert status == 0, stderr

    # Kill the run during the second epoch, after the checkpoint of the first.
    training = Training(broken, image_folder, environment)
    status = training.stop_when(lambda: (broken / "checkpoints" / "18").is_dir(), signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not (broken / "test.json").exists()

    # Ctrl-C once it trains again: it saves in the middle of an epoch.
    training = Training(broken, image_folder, environment)
    status = training.stop_when(lambda: "compiled in" in training.stderr(), signal.SIGINT)
    assert status == 130, training.stderr()
    assert "resuming" in training.stderr()
    saved_at = int(re.search(r"interrupted at step (\d+), saved in", training.stderr()).group(1))
    assert saved_at >= 18
    assert (broken / "checkpoints" / str(saved_at)).is_dir()

    status, _, stderr = call(run, *Training.words(broken, image_folder))
    assert status == 0, stderr
    assert f"step {saved_at}" in stderr
    assert files_without_times(broken) == files_without_times(whole)


def last_metrics(workdir):
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_run_that_diverges_before_the_first_checkpoint_names_the_step(image_folder, tmp_path, call):
    workdir = tmp_path / "run"
    status, _, stderr = call(
        run,
        *(*SMALL, "--dataset", image_folder, "--workdir", workdir, "--epochs", 3),
        *("--lr", "1e30", "--stages.0.optimizer.name", "sgd"),
    )
    assert status == 1
    last = last_metrics(workdir)
    assert last["grad_norm"] is None
    assert last["step"] <= 4  # in the first epoch
    what = "loss" if last["loss"] is None else "gradient norm"  # depends on the program
    assert stderr.splitlines()[-1] == (
        f"error: Training diverged: the {what} became NaN or inf at step {last['step']}. There is no checkpoint yet:"
        " start again with a lower --lr than 1e+30 and another --workdir"
    )
    assert not any(path.name.isdecimal() for path in (workdir / "checkpoints").iterdir())


def test_a_run_keeps_its_recipe(small_run):
    """Otherwise, --from-recipe and --quick would be ignored if --workdir has a run."""
    recipe = RunDir(small_run).read_recipe()
    place = ["--workdir", str(small_run)]
    assert run.parse([*place, "--from-recipe", recipe.name]).recipe == recipe
    with pytest.raises(
        InputError, match="contains a run of recipe .*, not 'digits': .*omit --from-recipe"
    ):
        run.parse([*place, "--from-recipe", "digits"])
    with pytest.raises(InputError, match="has no quick recipe"):
        run.parse([*place, "--quick"])


@pytest.mark.slow
def test_run_that_diverges_names_the_step_and_keeps_the_last_checkpoint(
    image_folder, tmp_path, call, monkeypatch
):
    """The second of two stages diverges; the last checkpoint is that of the end of the first, step 4."""
    stable, diverging = Optimizer("sgd", 1e-3), Optimizer("sgd", 1e30)
    stages = (Stage("stable", epochs=1, optimizer=stable), Stage("diverging", optimizer=diverging))
    monkeypatch.setitem(recipes.RECIPES, "diverging", Recipe(name="diverging", stages=stages))
    workdir = tmp_path / "run"
    given = [*SMALL, "--from-recipe", "diverging", "--dataset", image_folder, "--workdir", workdir]
    diverged_at = []
    for _ in range(2):  # the second run resumes from the checkpoint
        status, _, stderr = call(run, *given)
        assert status == 1
        last = last_metrics(workdir)
        assert last["grad_norm"] is None
        what = "loss" if last["loss"] is None else "gradient norm"  # depends on the program
        assert stderr.splitlines()[-1] == (
            f"error: Training diverged: the {what} became NaN or inf at step {last['step']}. The last"
            " checkpoint, of step 4, is kept, but resuming it would repeat these steps: start again with a lower --lr"
            " than 1e+30 and another --workdir"
        )
        diverged_at.append(last["step"])
    assert "resuming after epoch 1, step 4" in stderr
    assert diverged_at[0] == diverged_at[1] > 4


@pytest.mark.slow
def test_a_finished_run_can_be_extended(small_run, image_folder, tmp_path, call):
    import shutil

    workdir = tmp_path / "longer"
    shutil.copytree(small_run, workdir)
    status, _, stderr = call(run, "--workdir", workdir, "--epochs", 3)
    assert status == 0, stderr
    results = read(workdir / "test.json")
    assert results["epochs_run"] == 3
    assert results["train_time_ms"] > read(small_run / "test.json")["train_time_ms"]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert lines[:8] == (small_run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 12


@pytest.mark.slow
def test_a_batch_size_that_is_not_a_multiple_of_the_devices(image_folder, tmp_path, call):
    """The grid of "Animal face classification based on deep learning" has batches of 6, which must run anywhere."""
    status, _, stderr = call(
        run,
        *("--model", "small_net", "--batch-size", 6, "--dataset", image_folder),
        *("--workdir", tmp_path / "run", "--epochs", 1),
    )
    assert status == 0, stderr
    assert "note: a batch of 6 is split across 3 of 4 devices" in stderr
    assert read(tmp_path / "run" / "test.json")["batch_size"] == 6


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "sam_alexnt"], "unknown model 'sam_alexnt': did you mean sam_alexnet"),
        (["--model", "no.such:thing"], "cannot import 'no.such'"),
        (["--dataset", "digitz"], "unknown data set 'digitz': did you mean digits"),
        (["--dataset", "/no/such/folder"], "/no/such/folder"),
        (["--batch-size", "0"], "--batch-size is 0: use at least 1"),
        (["--batch-size", "4000"], "--batch-size 4000 exceeds the"),
        (["--image-size", "8"], "sam_alexnet_tiny at 8x8 pixels: .*too small.*larger --image-size"),
        (
            ["--model-options", "droput_rate=0.1"],
            "no option 'droput_rate': did you mean 'dropout_rate'",
        ),
        (["--lr", "-1"], "learning-rate is -1.0: use a value above 0"),
        (["--epochs", "0"], "--stages.0.epochs is 0: use at least 1"),
        (["--resume", "must"], "no run to resume in"),
        (["--from-recipe", "pig_face"], "unknown recipe 'pig_face'"),
        (["--from-recipe", "digits", "--quick"], "use one of them"),
        (["--quick"], "sam_alexnet_tiny has no quick recipe"),
        (["--group", "("], r"--group '\(' is not a valid regular expression"),
        (["--group", "pig"], "the group pattern 'pig' finds no group in"),
        (["--folds", "1"], "--folds is 1: use 2 or more"),
        (["--folds", "5000"], "1797 images cannot be split into 5000 folds"),
        (["--fold", "1"], "--fold is 1: use --folds as well"),
        (["--folds", "3", "--fold", "3"], "--fold is 3: use 0 to 2"),
        (["--splits", "/no/splits.json"], "there is no split file at /no/splits.json"),
        (["--splits", "x", "--folds", "2"], "--splits and --folds are mutually exclusive"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exits_with_2(arguments, message, call, tmp_path):
    workdir = tmp_path / "run"
    given = ["--model", "sam_alexnet_tiny", "--dataset", "digits", "--workdir", workdir, *arguments]
    status, stdout, stderr = call(run, *given)
    assert (status, stdout) == (2, "")
    assert re.search(rf"^error: .*{message}", stderr, re.MULTILINE)
    assert not workdir.exists()  # no files are written


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(call, tmp_path):
    (tmp_path / "file").write_text("")
    status, stdout, stderr = call(run, "--workdir", tmp_path / "file" / "run", *SMALL)
    assert (status, stdout) == (2, "")
    assert stderr.startswith("error: --workdir") and "use another folder" in stderr


@pytest.mark.parametrize("flag", ["--workdir=~/x", "--workdir ~/x"])
def test_tilde_is_the_home_folder(flag, monkeypatch, tmp_path):
    """Shells do not expand it after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run.parse([*SMALL, *flag.split()]).workdir == tmp_path / "x"


def test_settings_of_jax_that_change_the_numbers_are_recorded_and_kept(
    small_run, call, monkeypatch
):
    from train.record import directory

    assert read(small_run / "env.json")["numerics"]["jax_enable_x64"] is False
    before = {p: p.stat().st_mtime_ns for p in small_run.rglob("*")}
    monkeypatch.setattr(directory, "numerics", lambda: {"jax_enable_x64": True})
    status, _, stderr = call(run, "--workdir", small_run)
    assert status == 2
    assert "was started with jax_enable_x64 False, not True: set JAX_ENABLE_X64=False" in stderr
    assert {p: p.stat().st_mtime_ns for p in small_run.rglob("*")} == before


def test_two_runs_of_the_same_second_get_two_folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_new_name", lambda recipe: "net-digits-1")
    with run._claimed(Recipe(), None) as first, run._claimed(Recipe(), None) as second:
        assert [first.path.name, second.path.name] == ["net-digits-1", "net-digits-1-2"]


def test_runs_that_links_to_nothing_is_an_input_error(monkeypatch, tmp_path):
    """Such as to a disk that is not mounted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to("nowhere")
    with pytest.raises(InputError, match="runs/.* cannot be written"), run._claimed(Recipe(), None):
        pass


def test_images_deleted_during_training_are_named_and_training_is_saved(
    image_folder, tmp_path, call, monkeypatch
):
    """The rest is trained when they are back, and equals an undisturbed run."""
    from datasets.dataset import Split

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = [*SMALL, "--dataset", image_folder, "--epochs", 2]
    assert call(run, "--workdir", whole, *given)[0] == 0
    calls, resized = [], Split.resized

    def missing(self, index, *rest):
        calls.append(index)
        if len(calls) > 130:  # 64 images per epoch and as many ahead, and 18 validation images
            raise InputError("red/3.png can no longer be read: restore it, then run again")
        return resized(self, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Split, "resized", missing)
        status, _, stderr = call(run, "--workdir", broken, *given)
    assert status == 1
    assert re.search(r"error: red/3.png .*; training is saved at step [1-9]", stderr)
    status, _, stderr = call(run, "--workdir", broken)
    assert status == 0 and "resuming after epoch" in stderr
    assert files_without_times(broken) == files_without_times(whole)


def test_a_misspelled_flag_gets_a_suggestion(call):
    status, _, stderr = call(run, "--batch-sise", "4")
    assert status == 2
    assert "--batch-size" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "alexnet_tiny"], "model: 'small_net', not 'alexnet_tiny'"),
        (["--lr", "0.5"], "learning_rate: 0.01, not 0.5"),
        (["--resume", "never"], "already contains a run"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_run_with_other_settings_is_rejected_and_unchanged(arguments, message, small_run, call):
    before = {p: p.stat().st_mtime_ns for p in small_run.rglob("*")}
    status, _, stderr = call(run, "--workdir", small_run, *arguments)
    assert status == 2
    assert message in stderr
    assert {p: p.stat().st_mtime_ns for p in small_run.rglob("*")} == before


def test_a_folder_with_other_files_is_rejected(tmp_path, call):
    (tmp_path / "thesis.tex").write_text("")
    status, _, stderr = call(run, "--workdir", tmp_path, "--dataset", "digits", *SMALL)
    assert status == 2
    assert "contains other files but no run" in stderr


def test_a_second_process_in_the_same_run_is_rejected(small_run, call):
    from train.record.directory import RunDir

    with RunDir(small_run).locked():
        status, _, stderr = call(run, "--workdir", small_run)
    assert status == 2
    assert "another process is training" in stderr


@pytest.mark.parametrize("command", ["evaluate", "load_run"])
@pytest.mark.parametrize(
    "damage", ["nothing", "empty", "config", "weights", "other weights", "model.json"]
)
def test_damaged_run_directories(damage, command, small_run, tmp_path, call):
    import shutil

    import train
    from train.recipe import InputError

    workdir = tmp_path / "run"
    if damage == "empty":
        workdir.mkdir()
    elif damage != "nothing":
        shutil.copytree(small_run, workdir)
    files = {
        "config": workdir / "config.json",
        "weights": workdir / "best" / "weights.safetensors",
        "model.json": workdir / "best" / "model.json",
    }
    if damage in files:
        content = files[damage].read_bytes()
        files[damage].write_bytes(content[: len(content) // 2])
    elif damage == "other weights":
        files["weights"].write_bytes(bytes(files["weights"].read_bytes()[:-1]) + b"\x01")
    if command == "evaluate":
        status, _, stderr = call(evaluate, workdir)
        assert status == 2
        assert stderr.startswith("error: ")
        assert str(workdir) in stderr
    elif damage != "config":  # a predictor does not need config.json
        with pytest.raises(InputError, match=re.escape(str(workdir))):
            train.load_run(workdir)


# Orbax leaks futures of a closed event loop when it reads empty files.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_a_damaged_checkpoint_is_skipped_unless_all_are_damaged(small_run, tmp_path, call):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(small_run, workdir)
    steps = sorted(
        (p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()),
        key=lambda p: int(p.name),
    )
    newest = max((p for p in steps[-1].rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    status, _, stderr = call(run, "--workdir", workdir)
    assert status == 0
    assert re.search(r"warning: checkpoint .*/8 is damaged .*trying an older one", stderr)
    assert "resuming" in stderr and "after epoch 1, step 4" in stderr
    assert read(workdir / "test.json")["loss"] == read(small_run / "test.json")["loss"]

    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    status, _, stderr = call(run, "--workdir", workdir)
    assert status == 2
    assert "every checkpoint in" in stderr


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_can_be_resumed(
    image_folder, tmp_path, call, monkeypatch
):
    import errno

    from train.engine.checkpoints import Checkpoints

    save = Checkpoints.save

    def failing(self, loop):
        if loop.step > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, loop)

    monkeypatch.setattr(Checkpoints, "save", failing)
    workdir = tmp_path / "run"
    given = [*SMALL, "--dataset", image_folder, "--workdir", workdir, "--epochs", 2]
    status, _, stderr = call(run, *given)
    assert status == 1
    assert "no space left on the disk" in stderr.splitlines()[-1]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", [])
    status, _, stderr = call(run, *given)
    assert (status, "after epoch 1, step 4" in stderr) == (0, True)


@pytest.mark.slow
def test_exhausted_device_memory_is_one_line(image_folder, tmp_path, call, monkeypatch):
    import jax

    from train.engine.parallel import TrainStep

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

    monkeypatch.setattr(TrainStep, "__call__", exhausted)
    given = [*SMALL, "--dataset", image_folder, "--workdir", tmp_path / "run", "--epochs", 2]
    status, _, stderr = call(run, *given)
    assert status == 1
    assert "smaller --batch-size" in stderr.splitlines()[-1]


@pytest.mark.slow
def test_bad_images_are_listed_in_a_file(image_folder, tmp_path, call):
    import shutil

    folder = tmp_path / "pens"
    shutil.copytree(image_folder, folder)
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG and no more")
    given = [*SMALL, "--dataset", folder, "--workdir", tmp_path / "run", "--epochs", 1]
    status, _, stderr = call(run, *given)
    assert status == 0
    assert "skipped 1 file that cannot be decoded" in stderr
    assert "red/broken.png" in (tmp_path / "run" / "bad_images.txt").read_text()
    status, _, stderr = call(
        run, *given[:-4], "--on-bad-image", "error", "--workdir", tmp_path / "other"
    )
    assert status == 2
    assert "broken.png" in stderr


def test_every_field_of_the_recipe_is_a_flag():
    parsed = run.parse(
        [
            "--model",
            "sam_alexnet",
            "--dtype",
            "bfloat16",
            "--seed",
            "3",
            "--split-seed",
            "4",
            "--drop-last",
        ]
        + [
            "--stages.0.optimizer.b2",
            "0.99",
            "--stages.0.plateau.patience",
            "7",
            "--lr=0.5",
            "--epochs=9",
        ]
    ).recipe
    stage = parsed.stages[0]
    assert (parsed.dtype, parsed.seed, parsed.split_seed, parsed.drop_last) == (
        "bfloat16",
        3,
        4,
        True,
    )
    assert (stage.optimizer.b2, stage.plateau.patience) == (0.99, 7)
    assert (stage.optimizer.learning_rate, stage.epochs) == (0.5, 9)
    assert stage.early_stop.patience == 15  # the model's own recipe


# Pretrained weights.


def flat_weights(path):
    import safetensors.numpy

    return safetensors.numpy.load_file(path / "best" / "weights.safetensors")


@pytest.mark.slow
def test_a_run_can_start_from_the_weights_of_another(small_run, image_folder, tmp_path, call):
    """With everything frozen except the head, only the head changes."""
    weights = small_run / "best" / "weights.safetensors"
    workdir = tmp_path / "run"
    given = [*SMALL, "--dataset", image_folder, "--workdir", workdir, "--epochs", 1]
    status, _, stderr = call(run, *given, "--pretrained", weights, "--stages.0.freeze", "backbone")
    assert status == 0, stderr
    assert f"weights: small_net from {weights} (zoo)" in stderr
    before, after = flat_weights(small_run), flat_weights(workdir)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"params/head/kernel", "params/head/bias"}
    assert read(workdir / "best" / "model.json")["pretrained"] == str(weights)
    assert "frozen: 4 of 6 parameter arrays" in stderr


@pytest.mark.slow
def test_a_resumed_run_does_not_read_its_initial_weights(
    small_run, image_folder, tmp_path, call, monkeypatch
):
    """Also from another working directory, and if the description of the weights has changed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_run / "best", "given")
    Path("photos").symlink_to(image_folder)
    given = [*SMALL, "--dataset", "photos", "--pretrained", "given/weights.safetensors"]
    for workdir, epochs in (("whole", 2), ("cut", 1)):
        status, _, stderr = call(run, *given, "--workdir", workdir, "--epochs", epochs)
        assert status == 0, stderr
    description = read(tmp_path / "given" / "model.json")
    description["preprocessing"]["mean"] = [0.5, 0.5, 0.5]
    Path("given/model.json").write_text(json.dumps(description))
    Path("given/weights.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, _, stderr = call(run, "--workdir", tmp_path / "cut", "--epochs", 2)
    assert status == 0, stderr
    assert "weights:" not in stderr
    whole, cut = flat_weights(tmp_path / "whole"), flat_weights(tmp_path / "cut")
    for name in whole:
        np.testing.assert_array_equal(cut[name], whole[name], err_msg=name)


@pytest.mark.slow
def test_settings_of_pretrained_weights_are_stored_in_best(image_folder, tmp_path, capsys):
    """Variant, width and preprocessing; the predictor does not need the weights file.

    The run has no stages, since `best` gets the settings from the same place with and without training.
    """
    import jax
    import keras

    import train

    zeros = mock.patch.object(  # Keras's initializer would be compiled once per shape
        keras.initializers.GlorotUniform, "__call__", lambda _, shape, dtype: np.zeros(shape, dtype)
    )
    with jax.numpy_rank_promotion("allow"), zeros:
        origin = keras.applications.MobileNetV2(
            weights=None, alpha=0.35, input_shape=(32, 32, 3), classes=3
        )
        origin.save_weights(tmp_path / "pretrained.weights.h5")
    recipe = Recipe(
        model="mobilenet_v2",
        pretrained=str(tmp_path / "pretrained.weights.h5"),
        dataset=str(image_folder),
        image_size=32,
        stages=(),
        probe=Probe("svm", layer="input"),
    )
    workdir = tmp_path / "run"
    run.run(recipe, workdir, figures=False)
    stderr = capsys.readouterr().err
    assert "weights: mobilenet_v2 from" in stderr and "newly initialized" not in stderr
    description = read(workdir / "best" / "model.json")
    assert description["options"] == {"variant": "keras", "width": 0.35}
    (tmp_path / "pretrained.weights.h5").unlink()
    predictor = train.load_run(workdir)
    assert predictor.module.variant == "keras"
    assert predictor.inputs.preprocessing.input_size == (32, 32)
    assert predictor.inputs.preprocessing.mean == (1.0, 1.0, 1.0)  # x / 127.5 - 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pth", "no file nowhere.pth: use a .pth, .safetensors, .h5 or .keras file"),
        ("torchvison", "torchvision"),
        ("broken.safetensors", "broken.safetensors"),
    ],
)
def test_invalid_weights_are_rejected_before_training(
    image_folder, tmp_path, call, monkeypatch, source, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    given = ["--model", "resnet50", "--dataset", image_folder, "--workdir", "run"]
    status, _, stderr = call(run, *given, "--pretrained", source)
    assert status == 2
    assert message in stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
