"""`python -m train.data prepare`."""

import dataclasses
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import datasets
from datasets import ResizeRule, load_dataset
from datasets.pipeline import ImageSamples, TrainBatches
from train import data, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.slow
def test_prepare_summarizes_the_data_and_prints_a_training_command(image_folder, tmp_path, call):
    status, stdout, stderr = call(data, "prepare", image_folder, "--out", tmp_path / "my data")
    assert (status, stderr) == (0, "")
    first, command = stdout.splitlines()
    directory = tmp_path / "my data" / "pens" / "1.0.0"
    assert first.startswith(f"{directory}: 3 classes, 72 train, 9 validation, 9 test images, 0.")
    original = load_dataset(image_folder)
    assert first.endswith(f"fingerprint {original.fingerprint[:12]}")
    assert command.startswith("python -m train.run --model sam_alexnet --dataset '")
    arguments = run.parse(shlex.split(command)[3:])
    assert load_dataset(arguments.recipe.dataset).fingerprint == original.fingerprint
    again = call(data, "prepare", image_folder, "--out", tmp_path / "my data")
    assert again == (0, stdout, "")


def test_flags_change_the_written_data(image_folder, tmp_path, call):
    flags = "--image-size 16 --resize squash --format png --split-seed 5 --name small --test-fraction 0.2"
    status, stdout, _ = call(data, "prepare", image_folder, "--out", tmp_path, *flags.split())
    assert status == 0
    written = load_dataset("tfds:small", data_dir=tmp_path)
    expected = load_dataset(image_folder, seed=5, test_fraction=0.2)
    assert written.manifest()["splits"] == expected.manifest()["splits"]
    assert {image.shape for image, _ in written.splits["test"]} == {(16, 16, 3)}
    assert written.splits["train"].content(0).startswith(b"\x89PNG")


def test_default_directory_is_that_of_tfds(image_folder, tmp_path, call, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert call(data, "prepare", image_folder)[0] == 0
    assert load_dataset("tfds:pens").class_names == ("blue", "green", "red")


def test_bad_images_are_listed(image_folder, tmp_path, call):
    folder = shutil.copytree(image_folder, tmp_path / "pens")
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG")
    status, _, stderr = call(data, "prepare", folder, "--out", tmp_path / "out")
    assert status == 0
    listed = tmp_path / "out" / "pens" / "1.0.0" / "bad_images.txt"
    assert f"warning: skipped 1 file that cannot be decoded: {listed}" in stderr
    assert listed.read_text().startswith("red/broken.png\t")
    status, _, stderr = call(
        data, "prepare", folder, "--out", tmp_path / "o2", "--on-bad-image", "error"
    )
    assert (status, stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at_all"], "error: nowhere/at_all does not exist"),
        (["digits", "--image-size", "0"], "error: image_size is 0"),
        (["digits", "--out", "{file}"], "file is a file: use a folder"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, call):
    (tmp_path / "file").write_text("")
    words = [word.format(file=tmp_path / "file") for word in arguments]
    status, stdout, stderr = call(data, "prepare", *words)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert message in stderr


def test_synthetic_images_are_reported_as_synthetic(tmp_path, call, image_folder, monkeypatch):
    real = load_dataset(image_folder)
    synthetic = dataclasses.replace(real, info=dataclasses.replace(real.info, synthetic=True))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, **o: synthetic if name == "x" else load_dataset(name)
    )
    assert ": SYNTHETIC images, 3 classes" in call(data, "prepare", "x", "--out", tmp_path)[1]


def test_training_batches_are_those_of_the_original_data(image_folder, tmp_path, call):
    assert call(data, "prepare", image_folder, "--out", tmp_path)[0] == 0
    settings = {"batch_size": 8, "seed": 1, "num_epochs": 1}
    rule = ResizeRule((32, 32))
    both = [
        TrainBatches(ImageSamples(load_dataset(path).splits["train"], rule), **settings)
        for path in (image_folder, tmp_path / "pens")
    ]
    for step in range(both[0].num_steps):
        original, prepared = (batches.load(step) for batches in both)
        for key, values in original.items():
            np.testing.assert_array_equal(values, prepared[key])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["prepare", "--help"]])
def test_help_imports_no_large_packages(arguments, command_environment):
    code = (
        "import sys; from train import cli, data\n"
        "try: cli.main(data.main)\n"
        "finally: print('loaded', *({'jax', 'numpy', 'tensorflow_datasets'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=command_environment,
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "loaded"
    assert "prepare" in done.stdout
