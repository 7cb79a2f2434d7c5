"""Random windows in training, the middle in evaluation, both at one scale; and a run that has them."""

import json

import numpy as np
import pytest

import zoo
from datasets.images import Geometry
from train import run
from train.engine.cropping import evaluation_geometry, evaluation_view, training_geometry
from train.recipe import Augmentation, InputError, Stage


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
def test_a_run_with_windows_repeats_and_balance(image_folder, tmp_path):
    """Of 90 images 72 are for training: at 16 a batch and two visits 9 steps an epoch instead of 4."""
    text = (
        f"--model sam_alexnet_tiny --dataset {image_folder} --workdir {tmp_path / 'run'} --epochs 2"
    )
    text += " --lr 0.001 --batch-size 16 --model-options norm_momentum=0.5 dropout_rate=0.0"
    text += " --stages.0.augment.resize 72 --stages.0.augment.crops-per-image 2"
    text += " --stages.0.augment.flip --stages.0.balance sampling"
    arguments = run.parse(text.split())
    results = run.run(arguments.recipe, arguments.workdir)
    assert results["accuracy"] > 0.6
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 19))
    info = json.loads((tmp_path / "run" / "best" / "model.json").read_text())
    assert info["preprocessing"]["input_size"] == [64, 64]
    assert info["preprocessing"]["crop_fraction"] == 64 / 72


def test_resize_below_the_model_meets_one_line(call, image_folder, tmp_path):
    text = f"--model sam_alexnet_tiny --dataset {image_folder} --workdir {tmp_path / 'run'}"
    status, _, stderr = call(run, *text.split(), "--stages.0.augment.resize", "32")
    assert status == 2
    assert "--stages.0.augment.resize is 32, less than the model's 64x64" in stderr
    assert not (tmp_path / "run").exists()
