"""Random windows in training, the middle in evaluation, both at one scale; and a run that has them."""

import json

import numpy as np
import pytest

import zoo
from datasets import load_dataset
from datasets.images.decode import Geometry
from datasets.pipeline import TrainBatches, balanced_order, epoch_order
from train import run
from train.engine.cropping import evaluation_geometry, evaluation_view, training_geometry
from train.recipe import Augmentation, InputError, Optimizer, Recipe, Stage


def stage(size):
    return Stage(augment=Augmentation(resize=size))


def loaded(image, preprocessing, augmentation):
    return training_geometry(preprocessing, augmentation).apply(image)


def evaluated(image, preprocessing):
    return evaluation_geometry(preprocessing).apply(image)


def test_document_3_is_read_pixel_by_pixel():
    """CIFAR's 32x32 as they are; training takes windows of 28x28, evaluation the one in the middle."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    view = evaluation_view(zoo.Preprocessing((28, 28)), [stage(32)])
    assert view.crop_fraction == 28 / 32
    np.testing.assert_array_equal(loaded(image, view, stage(32).augment), image)
    np.testing.assert_array_equal(evaluated(image, view), image[2:-2, 2:-2])


def test_without_resize_nothing_changes():
    given = zoo.Preprocessing((28, 28), "crop", crop_fraction=0.875)
    assert evaluation_view(given, [Stage(), Stage()]) == given
    assert training_geometry(given, Augmentation()) == Geometry((28, 28), "crop", "bilinear", 0.875)


@pytest.mark.parametrize("mode", ["squash", "crop"])
@pytest.mark.parametrize("fraction", [1.0, 224 / 256, 0.95])
@pytest.mark.parametrize("sizes", [(256,), (232,), (256, 240), (240, None)])
def test_things_are_as_large_in_training_as_in_evaluation(mode, fraction, sizes):
    """A smooth ramp: neighbours differ by as much in both, and the middle of both is the same."""
    ramp = np.linspace(0, 255, 640).round().astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (480, 640, 3))
    stages = [stage(size) for size in sizes]
    view = evaluation_view(zoo.Preprocessing((224, 224), mode, crop_fraction=fraction), stages)
    assert view.crop_fraction <= fraction
    middle = evaluated(image, view)[112, :, 0].astype(float)
    for size, each in zip(sizes, stages, strict=True):
        pixels = loaded(image, view, each.augment)
        size = size or 224
        assert pixels.shape == (size, size, 3)
        margin = (size - 224) // 2
        window = pixels[size // 2, margin : margin + 224, 0].astype(float)
        assert np.abs(window - middle).max() <= 1


def test_images_that_are_smaller_than_the_model_are_refused():
    with pytest.raises(InputError, match=r"--stages.1.augment.resize is 24, less than .* 28x28"):
        evaluation_view(zoo.Preprocessing((28, 28)), [stage(32), stage(24)])


@pytest.mark.slow
def test_a_run_with_windows_repeats_and_balance(image_folder, tmp_path, monkeypatch):
    """Of 90 images 72 are for training: at 16 a batch 4 steps an epoch, with two visits 9."""
    from train.engine import loop, steps

    batches, weights = [], []

    def spy_batches(*args, **options):
        batches.append(TrainBatches(*args, **options))
        return batches[-1]

    def spy_step(*args):
        weights.append(args[5])
        return make_train_step(*args)

    make_train_step = steps.make_train_step
    monkeypatch.setattr(loop, "TrainBatches", spy_batches)
    monkeypatch.setattr(steps, "make_train_step", spy_step)
    windows = Augmentation(resize=72, crops_per_image=2, flip=True)
    optimizer = Optimizer(learning_rate=1e-3)
    recipe = Recipe(
        model="sam_alexnet_tiny",
        model_options=("norm_momentum=0.5", "dropout_rate=0.0"),
        dataset=str(image_folder),
        batch_size=16,
        stages=(
            Stage("first", epochs=1, optimizer=optimizer, balance="sampling", augment=windows),
            Stage("second", epochs=1, optimizer=optimizer, balance="class_weights"),
        ),
    )
    results = run.run(recipe, tmp_path / "run")
    assert results["accuracy"] > 0.6
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9 + 4 + 1))
    info = json.loads((tmp_path / "run" / "best" / "model.json").read_text())
    assert info["preprocessing"]["input_size"] == [64, 64]
    assert info["preprocessing"]["crop_fraction"] == 64 / 72

    first, second = batches
    labels = load_dataset(image_folder).splits["train"].labels
    expected = balanced_order(labels, seed=0, epoch=0, repeats=2)
    np.testing.assert_array_equal(first.order(0), expected)
    np.testing.assert_array_equal(second.order(0), epoch_order(72, seed=0, epoch=0))
    assert (first.geometry.size, second.geometry.size) == ((72, 72), (64, 64))
    assert weights[0] is None
    np.testing.assert_allclose(weights[1], [1, 1, 1])


def test_data_of_any_size_come_as_large_as_they_are_used():
    recipe = Recipe(dataset="digits", stages=(stage(None), stage(48)))
    image, _ = run.load_data(recipe, (32, 32)).splits["train"][0]
    assert image.shape == (48, 48, 3)


def test_resize_below_the_model_meets_one_line(call, image_folder, tmp_path):
    text = f"--model sam_alexnet_tiny --dataset {image_folder} --workdir {tmp_path / 'run'}"
    status, _, stderr = call(run, *text.split(), "--stages.0.augment.resize", "32")
    assert status == 2
    assert "--stages.0.augment.resize is 32, less than the model's 64x64" in stderr
    assert not (tmp_path / "run").exists()
