"""`python -m train.data show`."""

import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import zoo
from datasets import load_dataset
from datasets.pipeline import TrainBatches
from train import data, data_show
from train.engine import steps
from train.engine.inputs import image_inputs
from train.recipe import Augmentation, Recipe, Stage
from train.report import figures
from train.setup import resolve


@pytest.mark.slow
def test_show_writes_two_figures_and_prints_their_paths(call, image_folder, tmp_path):
    out = tmp_path / "pens.png"
    flags = ["--image-size", 20, "--augment.resize", 24, "--augment.rotation", 15, "--count", 4]
    folder = tmp_path / "pens"
    shutil.copytree(image_folder, folder)
    (folder / "yellow").mkdir()
    (folder / "red" / "0.png").write_bytes(b"no image")
    status, stdout, stderr = call(data, "show", folder, *flags, "--out", out)
    assert "note: no images in yellow/, next to the class folders\n" in stderr
    assert "warning: skipped 1 file that cannot be decoded, starting with red/0.png (not" in stderr
    assert (status, stdout.split()) == (0, [str(out), str(tmp_path / "pens_classes.png")]), stderr
    for path in stdout.split():
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 150
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


@pytest.mark.slow
def test_show_plots_the_samples_of_the_training_step(image_folder):
    """Sample by sample, the same pixels as from the pipeline and the augmentation of the step."""
    augment = Augmentation(resize=24, crops_per_image=2, rotation=20, flip=True, noise_share=0.5)
    arguments = data_show.Show(str(image_folder), count=5, versions=4, seed=7, augment=augment)
    stages = (Stage(augment=augment),)
    experiment = resolve(
        Recipe(dataset=str(image_folder), image_size=20, stages=stages), train=False
    )
    before, after, labels = data_show.augmented_samples(experiment, arguments)
    assert (before.shape, after.shape) == ((5, 24, 24, 3), (5, 4, 20, 20, 3))
    assert set(labels) == {0, 1, 2}

    split = load_dataset(image_folder, image_size=24).splits["train"]
    inputs = image_inputs(zoo.Preprocessing(zoo.ResizeRule((20, 20))), stages)
    batches = TrainBatches(
        inputs.train_samples(split, augment), batch_size=36, seed=7, num_epochs=2, repeats=2
    )
    augment_batch = jax.jit(inputs.augment, static_argnums=3)
    compared = 0
    for step in range(batches.num_steps):
        epoch = step // batches.steps_per_epoch
        batch = batches.load(step)
        context = steps.RngContext(np.uint32(7), np.int32(epoch))
        key, _ = steps.keys(context)
        augmented = np.asarray(augment_batch(batch["image"], batch["index"], key, augment))
        for position, sample in enumerate(batch["index"]):
            same = (before == batch["image"][position]).all(axis=(1, 2, 3))
            for plotted in np.flatnonzero(same):
                version = 2 * epoch + sample // len(split)
                difference = np.abs(after[plotted, version] - augmented[position])
                assert np.median(difference) <= 0.5 + 1e-3 and difference.max() < 2
                compared += 1
    assert compared == 5 * 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "0"], "--count and --versions must be at least 1"),
        (
            ["--augment.zoom", "1"],
            "--augment.zoom is 1.0: use a fraction of at least 0 and below 1",
        ),
        (
            ["--augment.resize", "100"],
            "--augment.resize is 100, less than the model's 224x224: use at",
        ),
        (["--image-size", "-4"], "--image-size is -4"),
        (["--out", "figure.gif"], "--out figure.gif does not end in .png"),
        (["--out", "nowhere/figure.png"], "its folder does not exist"),
    ],
)
def test_bad_input_is_one_line(call, image_folder, flags, message):
    status, _, stderr = call(data, "show", image_folder, *flags)
    assert status == 2
    *before, last = stderr.splitlines()
    assert all(line.startswith("JAX ") for line in before)
    assert re.search(message, last), stderr


def test_default_image_size_is_that_of_the_data_set():
    assert data_show._default_size("synthetic_pigs") == 256
    assert data_show._default_size("photos.zip") == data_show.DEFAULT_SIZE


@pytest.mark.slow
def test_many_classes_are_plotted_without_names(tmp_path):
    counts = {
        split: np.arange(300) * (3 - k) for k, split in enumerate(("train", "validation", "test"))
    }
    figures.class_distribution(counts, [f"c{i}" for i in range(300)], tmp_path / "many.png")
    with Image.open(tmp_path / "many.png") as image:
        assert image.size[1] < 3000
    empty = {split: np.zeros(2, int) for split in counts}
    figures.class_distribution(empty, ["$a", "a long name that goes on and on"], tmp_path / "0.png")


def test_every_subcommand_has_its_own_arguments():
    kinds = [kind for kind, _ in data.COMMANDS.values()]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["show", "--help"]])
def test_help_does_not_import_jax(words, command_environment):
    code = (
        "import sys; from train import cli, data\n"
        "try: cli.main(data.main)\n"
        "finally: print('loaded', *({'jax', 'numpy', 'flax'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=command_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "show" in done.stdout
    assert done.stderr.strip() == "loaded"
