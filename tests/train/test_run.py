"""The command that trains, and what it leaves behind."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from train import evaluate, run
from train.record.directory import SUMMARY_COLUMNS
from train.results import TIMES
from train.setup import resolve

TINY = ("--model", "sam_alexnet_tiny", "--batch-size", "16")


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


def test_test_json_holds_what_is_promised(small_run):
    results = read(small_run / "test.json")
    promised = (
        "accuracy precision recall f1 loss per_class confusion_matrix num_examples test_time_ms"
    )
    promised += " train_time_ms model batch_size seed epochs_run"
    assert set(promised.split()) <= set(results)
    assert results["accuracy"] > 0.8  # three colours are easy
    assert results["num_examples"] == np.sum(results["confusion_matrix"]) == 9
    assert (results["epochs_run"], results["batch_size"], results["synthetic"]) == (2, 16, False)
    assert results["train_time_ms"] > results["test_time_ms"] > 0


def test_logs_agree_with_each_other(small_run):
    rows = summary(small_run)
    steps = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    assert tuple(rows[0]) == SUMMARY_COLUMNS
    # 72 training images: four full batches of 16 an epoch.
    assert [s["step"] for s in steps] == list(range(1, 9))
    assert [(r["epoch"], r["step"]) for r in rows] == [("1", "4"), ("2", "8")]
    assert float(rows[0]["train_loss"]) == pytest.approx(np.mean([s["loss"] for s in steps[:4]]))
    assert all(s["grad_norm"] > 0 and s["update_norm"] > 0 for s in steps)


def test_predictions_give_the_scores_of_test_json(small_run):
    results = read(small_run / "test.json")
    with np.load(small_run / "predictions.npz") as saved:
        assert np.mean(saved["predictions"] == saved["labels"]) == pytest.approx(
            results["accuracy"]
        )
        np.testing.assert_allclose(saved["probabilities"].sum(axis=1), 1, rtol=1e-5)
        assert saved["class_names"].tolist() == ["blue", "green", "red"]
        test_ids = list(read(small_run / "splits.json")["splits"]["test"])
        assert saved["ids"].tolist() == test_ids


def test_no_example_is_in_two_parts(small_run):
    splits = read(small_run / "splits.json")["splits"]
    parts = [set(splits[name]) for name in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [72, 9, 9]
    assert len(set.union(*parts)) == 90


def test_config_and_environment_tell_how_to_do_it_again(small_run):
    config, env = read(small_run / "config.json"), read(small_run / "env.json")
    assert config["recipe"]["model"] == "sam_alexnet_tiny"
    assert config["recipe"]["stages"][0]["optimizer"]["learning_rate"] == 0.001
    assert set(env["versions"]) >= {"python", "jax", "flax", "optax", "numpy"}
    assert env["backend"] == "cpu"


def test_evaluate_repeats_test_json_but_for_the_times(small_run, call):
    status, stdout, _ = call(evaluate, small_run)
    assert status == 0
    ours, recorded = json.loads(stdout), read(small_run / "test.json")
    assert ours.keys() == recorded.keys()
    assert {k: v for k, v in ours.items() if k not in TIMES} == {
        k: v for k, v in recorded.items() if k not in TIMES
    }


def test_evaluate_another_split(small_run, call):
    status, stdout, _ = call(evaluate, small_run, "--split", "validation")
    results = json.loads(stdout)
    assert (status, results["num_examples"], results["split"]) == (0, 9, "validation")
    rows = summary(small_run)
    best = next(r for r in rows if r["epoch"] == str(results["best_epoch"]))
    assert results["accuracy"] == pytest.approx(float(best["val_accuracy"]))
    assert results["loss"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


def test_running_again_trains_nothing_more(small_run, call):
    before = read(small_run / "test.json")
    status, stdout, stderr = call(run, "--workdir", small_run)
    assert status == 0
    assert "after epoch 2, step 8" in stderr
    after = read(small_run / "test.json")
    assert {k: v for k, v in after.items() if k != "test_time_ms"} == {
        k: v for k, v in before.items() if k != "test_time_ms"
    }


def test_data_that_moved_are_found_and_data_that_changed_are_refused(
    small_run, image_folder, tmp_path, call
):
    archive = tmp_path / "pens.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(image_folder.rglob("*.png")):
            file.write(path, path.relative_to(image_folder))
    status, stdout, _ = call(evaluate, small_run, "--dataset", archive)
    assert status == 0
    assert json.loads(stdout)["accuracy"] == read(small_run / "test.json")["accuracy"]

    with zipfile.ZipFile(archive, "a") as file:
        file.write(image_folder / "red" / "0.png", "red/copy.png")
    status, _, stderr = call(evaluate, small_run, "--dataset", archive)
    assert status == 2
    assert "are not those of the run" in stderr


def test_splits_of_another_run(small_run, image_folder, tmp_path, call):
    """With a copy of a training image put into the test part."""
    import shutil

    pens, given, workdir = tmp_path / "pens", tmp_path / "splits.json", tmp_path / "run"
    shutil.copytree(image_folder, pens)
    splits = read(small_run / "splits.json")
    first = next(iter(splits["splits"]["train"]))
    shutil.copy(pens / first, pens / "blue" / "copy.png")
    splits["splits"]["test"]["blue/copy.png"] = splits["splits"]["train"][first]
    given.write_text(json.dumps(splits))
    data = ["--dataset", pens, "--splits", given, "--epochs", 1]
    status, _, stderr = call(run, "--workdir", workdir, *TINY, *data)
    assert status == 0, stderr
    assert "note: 1 of 10 test images have a copy among the train images" in stderr
    assert "look the same, in two parts: 1, listed in " in stderr
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

    # The run has its own copy.
    given.unlink()
    status, stdout, stderr = call(evaluate, workdir)
    assert status == 0, stderr
    assert json.loads(stdout)["accuracy"] == read(workdir / "test.json")["accuracy"]
    status, _, stderr = call(run, "--workdir", workdir)
    assert status == 0, stderr
    (pens / first).write_bytes((pens / "red" / "1.png").read_bytes())
    status, _, stderr = call(evaluate, workdir)
    assert status == 2
    assert f"the first is {first}: restore" in stderr


def test_images_in_other_parts_are_refused(small_run, tmp_path, call):
    """As another version of the splitting would have it."""
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(small_run, workdir)
    manifest = read(workdir / "splits.json")
    parts = manifest["splits"]
    name = next(iter(parts["test"]))
    parts["train"][name] = parts["test"].pop(name)
    (workdir / "splits.json").write_text(json.dumps(manifest))
    for arguments in ((evaluate, workdir), (run, "--workdir", workdir)):
        status, _, stderr = call(*arguments)
        assert status == 2
        assert f"are not in the splits that they have in {workdir / 'splits.json'}: give" in stderr


def test_folds_and_groups_by_flag(image_folder):
    text = f"--dataset {image_folder} --folds 3 --fold 1 --group (\\d).png$".split()
    data = resolve(run.parse([*TINY, *text]).recipe, train=False).dataset
    assert len(data.splits["test"]) in range(20, 41)
    groups = [{name[-5] for name in split.ids} for split in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 10
    assert (data.provenance["folds"], data.provenance["fold"]) == (3, 1)


# Interruptions, in processes of their own.


class Training:
    """A run of three epochs of 18 steps in a process of its own, that can be stopped in the middle."""

    def __init__(self, workdir, image_folder, environment):
        arguments = [*TINY, "--dataset", image_folder, "--workdir", workdir, "--batch-size", "4"]
        arguments += [
            "--epochs",
            "3",
            "--model-options",
            "norm_momentum=0.9",
            "--stages.0.augment.flip",
        ]
        self.log = workdir.with_suffix(".log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "train.run", *map(str, arguments)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def stderr(self):
        return self.log.read_text()

    def stop_when(self, is_time, number):
        """Send a signal once `is_time()` holds; the exit status."""
        while not is_time():
            assert self.process.poll() is None, self.stderr()
            time.sleep(0.01)
        self.process.send_signal(number)
        return self.process.wait(timeout=300)


def files_without_times(workdir):
    """Everything that a resumed run must have in common with an uninterrupted one."""
    rows = summary(workdir)
    for row in rows:
        for name in ("seconds", "images_per_second", "data_wait_share"):
            del row[name]
    test = {k: v for k, v in read(workdir / "test.json").items() if k not in TIMES}
    weights = (workdir / "best" / "weights.safetensors").read_bytes()
    return (workdir / "metrics.jsonl").read_text(), rows, test, weights


@pytest.mark.slow
def test_killed_and_interrupted_runs_end_as_if_nothing_had_happened(
    image_folder, command_environment, tmp_path
):
    """k steps, SIGKILL, some more, Ctrl-C, the rest: bit for bit the weights and logs of one run."""

    def start(name):
        return Training(tmp_path / name, image_folder, command_environment)

    whole = start("whole")
    assert whole.process.wait(timeout=300) == 0, whole.stderr()

    # Killed after the first epoch's checkpoint, somewhere in the second.
    broken, training = tmp_path / "broken", start("broken")
    status = training.stop_when(lambda: (broken / "checkpoints" / "18").is_dir(), signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not (broken / "test.json").exists()

    # Ctrl-C once it is at work again: it saves in the middle of an epoch.
    training = start("broken")
    status = training.stop_when(lambda: "compiled in" in training.stderr(), signal.SIGINT)
    assert status == 130, training.stderr()
    assert "resuming" in training.stderr()
    saved_at = int(re.search(r"interrupted at step (\d+), saved in", training.stderr()).group(1))
    assert saved_at >= 18
    assert (broken / "checkpoints" / str(saved_at)).is_dir()

    training = start("broken")
    assert training.process.wait(timeout=300) == 0, training.stderr()
    assert f"step {saved_at}" in training.stderr()
    assert files_without_times(broken) == files_without_times(tmp_path / "whole")


def test_diverging_run_names_the_step_and_keeps_the_last_good_checkpoint(
    image_folder, tmp_path, call
):
    workdir = tmp_path / "run"
    status, _, stderr = call(
        run,
        *(*TINY, "--dataset", image_folder, "--workdir", workdir, "--epochs", 3, "--lr", "1e30"),
        *("--stages.0.optimizer.name", "sgd"),
    )
    assert status == 1
    assert re.search(r"error: diverged at step \d+: loss .*lower --lr than 1e\+30", stderr)
    assert '"loss": null' in (workdir / "metrics.jsonl").read_text()


def test_more_epochs_go_on_from_the_end(small_run, image_folder, tmp_path, call):
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


def test_a_batch_that_not_all_devices_can_share(image_folder, tmp_path, call):
    """Document 4's grid has batches of 6: they run on any machine, tests and predictions included."""
    status, _, stderr = call(
        run,
        *("--model", "sam_alexnet_tiny", "--batch-size", 6, "--dataset", image_folder),
        *("--workdir", tmp_path / "run", "--epochs", 1),
    )
    assert status == 0, stderr
    assert "note: a batch of 6 is shared by 3 of 4 devices" in stderr
    assert read(tmp_path / "run" / "test.json")["batch_size"] == 6


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "sam_alexnt"], "unknown model 'sam_alexnt': did you mean sam_alexnet"),
        (["--model", "no.such:thing"], "cannot import 'no.such'"),
        (["--dataset", "digitz"], "unknown data set 'digitz': did you mean digits"),
        (["--dataset", "/no/such/folder"], "/no/such/folder"),
        (["--batch-size", "0"], "--batch-size is 0: give at least 1"),
        (["--batch-size", "4000"], "--batch-size 4000 is more than the"),
        (["--image-size", "8"], "sam_alexnet_tiny at 8x8 pixels: .*too small.*larger --image-size"),
        (
            ["--model-options", "droput_rate=0.1"],
            "no option 'droput_rate': did you mean 'dropout_rate'",
        ),
        (["--lr", "-1"], "learning-rate is -1.0: give above 0"),
        (["--epochs", "0"], "--stages.0.epochs is 0: give at least 1"),
        (["--resume", "must"], "there is no run to resume"),
        (["--from-recipe", "pig_face"], "unknown recipe 'pig_face'"),
        (["--from-recipe", "digits", "--quick"], "give one of them"),
        (["--quick"], "sam_alexnet_tiny has no quick form"),
        (["--group", "("], r"--group '\(' is not a valid regular expression"),
        (["--group", "pig"], "the group pattern 'pig' finds nothing in"),
        (["--folds", "1"], "--folds is 1: give 2 or more"),
        (["--folds", "5000"], "1797 images cannot make 5000 folds"),
        (["--fold", "1"], "--fold is 1: give --folds, too"),
        (["--folds", "3", "--fold", "3"], "--fold is 3: give 0 to 2"),
        (["--splits", "/no/splits.json"], "there is no file of splits at /no/splits.json"),
        (["--splits", "x", "--folds", "2"], "--splits leaves nothing to make --folds of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, call, tmp_path):
    workdir = tmp_path / "run"
    given = ["--model", "sam_alexnet_tiny", "--dataset", "digits", "--workdir", workdir, *arguments]
    status, stdout, stderr = call(run, *given)
    assert (status, stdout) == (2, "")
    assert re.search(rf"^error: .*{message}", stderr, re.MULTILINE)
    assert not workdir.exists()  # nothing is left behind


def test_mistyped_flag_offers_the_nearest(call):
    status, _, stderr = call(run, "--batch-sise", "4")
    assert status == 2
    assert "--batch-size" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "alexnet_tiny"], "model: 'sam_alexnet_tiny', not 'alexnet_tiny'"),
        (["--lr", "0.5"], "learning_rate: 0.001, not 0.5"),
        (["--resume", "never"], "already holds a run"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_run_of_other_settings_is_left_alone(arguments, message, small_run, call):
    before = {p: p.stat().st_mtime_ns for p in small_run.rglob("*")}
    status, _, stderr = call(run, "--workdir", small_run, *arguments)
    assert status == 2
    assert message in stderr
    assert {p: p.stat().st_mtime_ns for p in small_run.rglob("*")} == before


def test_folder_of_other_things_is_refused(tmp_path, call):
    (tmp_path / "thesis.tex").write_text("")
    status, _, stderr = call(run, "--workdir", tmp_path, "--dataset", "digits", *TINY)
    assert status == 2
    assert "holds other files and no run" in stderr


def test_second_process_in_the_same_run_is_kept_out(small_run, call):
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
    elif damage != "config":  # a predictor does without it
        with pytest.raises(InputError, match=re.escape(str(workdir))):
            train.load_run(workdir)


# Orbax leaves futures of a closed event loop behind when it meets empty files.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_checkpoints_damaged_exits_2_and_one_damaged_goes_on(small_run, tmp_path, call):
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
    ours, theirs = read(workdir / "test.json"), read(small_run / "test.json")
    assert ours["loss"] == theirs["loss"]

    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    status, _, stderr = call(run, "--workdir", workdir)
    assert status == 2
    assert "every checkpoint in" in stderr


def test_full_disk_is_one_line_and_keeps_what_was_saved(image_folder, tmp_path, call, monkeypatch):
    import errno

    from train.engine.checkpoints import Checkpoints

    save = Checkpoints.save

    def failing(self, loop):
        if loop.step > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, loop)

    monkeypatch.setattr(Checkpoints, "save", failing)
    workdir = tmp_path / "run"
    given = [*TINY, "--dataset", image_folder, "--workdir", workdir, "--epochs", 2]
    status, _, stderr = call(run, *given)
    assert status == 1
    assert "no space left on the disk" in stderr.splitlines()[-1]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", [])
    status, _, stderr = call(run, *given)
    assert (status, "after epoch 1, step 4" in stderr) == (0, True)


def test_device_without_memory_is_one_line(image_folder, tmp_path, call, monkeypatch):
    import jax

    from train.engine.parallel import TrainStep

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")

    monkeypatch.setattr(TrainStep, "__call__", exhausted)
    given = [*TINY, "--dataset", image_folder, "--workdir", tmp_path / "run", "--epochs", 2]
    status, _, stderr = call(run, *given)
    assert status == 1
    assert "smaller --batch-size" in stderr.splitlines()[-1]


def test_bad_images_are_named_in_a_file(image_folder, tmp_path, call):
    import shutil

    folder = tmp_path / "pens"
    shutil.copytree(image_folder, folder)
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG and no more")
    given = [*TINY, "--dataset", folder, "--workdir", tmp_path / "run", "--epochs", 1]
    status, _, stderr = call(run, *given)
    assert status == 0
    assert "1 files cannot be decoded" in stderr or "1 file cannot be decoded" in stderr
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
            "--no-keep-tail",
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
    assert (parsed.dtype, parsed.seed, parsed.split_seed, parsed.keep_tail) == (
        "bfloat16",
        3,
        4,
        False,
    )
    assert (stage.optimizer.b2, stage.plateau.patience) == (0.99, 7)
    assert (stage.optimizer.learning_rate, stage.epochs) == (0.5, 9)
    assert stage.early_stop.patience == 15  # the model's own recipe


# Pretrained weights.


def flat_weights(path):
    import safetensors.numpy

    return safetensors.numpy.load_file(path / "best" / "weights.safetensors")


def test_run_starts_from_the_weights_of_another(small_run, image_folder, tmp_path, call):
    """Frozen but for the head, they come out as they went in."""
    weights = small_run / "best" / "weights.safetensors"
    workdir = tmp_path / "run"
    given = [*TINY, "--dataset", image_folder, "--workdir", workdir, "--epochs", 1]
    status, _, stderr = call(run, *given, "--pretrained", weights, "--stages.0.freeze", "backbone")
    assert status == 0, stderr
    assert f"weights: sam_alexnet_tiny from {weights} (zoo)" in stderr
    before, after = flat_weights(small_run), flat_weights(workdir)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"params/head/kernel", "params/head/bias"}
    assert read(workdir / "best" / "model.json")["pretrained"] == str(weights)
    assert "frozen: 48 of 50 arrays of parameters" in stderr


def test_a_resumed_run_needs_its_weights_no_more(
    small_run, image_folder, tmp_path, call, monkeypatch
):
    """Not even from another folder; and another file in their place changes nothing."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_run / "best", "given")
    Path("photos").symlink_to(image_folder)
    given = [*TINY, "--dataset", "photos", "--pretrained", "given/weights.safetensors"]
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
def test_what_the_weights_decide_travels_to_best(image_folder, tmp_path, call):
    """Dialect, width, preprocessing; a run directory then needs the file no more."""
    import jax
    import keras

    import train

    with jax.numpy_rank_promotion("allow"):
        origin = keras.applications.MobileNetV2(
            weights=None, alpha=0.35, input_shape=(32, 32, 3), classes=3
        )
        origin.save_weights(tmp_path / "theirs.weights.h5")
    workdir = tmp_path / "run"
    status, _, stderr = call(
        run,
        *("--model", "mobilenet_v2", "--from-recipe", "default"),
        *("--pretrained", tmp_path / "theirs.weights.h5"),
        *("--dataset", image_folder, "--workdir", workdir, "--epochs", 1, "--batch-size", 4),
        # Frozen, it compiles in a third of the time.
        *("--image-size", 32, "--stages.0.freeze", "backbone"),
    )
    assert status == 0, stderr
    assert "weights: mobilenet_v2 from" in stderr and "newly initialised" not in stderr
    description = read(workdir / "best" / "model.json")
    assert description["options"] == {"dialect": "keras", "width": 0.35}
    (tmp_path / "theirs.weights.h5").unlink()
    predictor = train.load_run(workdir)
    assert predictor.module.dialect == "keras"
    assert predictor.inputs.preprocessing.input_size == (32, 32)
    assert predictor.inputs.preprocessing.mean == (1.0, 1.0, 1.0)  # x / 127.5 - 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pth", "no file nowhere.pth: give a .pth, .safetensors, .h5 or .keras file"),
        ("torchvison", "torchvision"),
        ("broken.safetensors", "broken.safetensors"),
    ],
)
def test_wrong_weights_end_before_work_starts(
    image_folder, tmp_path, call, monkeypatch, source, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    given = ["--model", "resnet50", "--dataset", image_folder, "--workdir", "run"]
    status, _, stderr = call(run, *given, "--pretrained", source)
    assert status == 2
    assert message in stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
