"""Model inputs: random windows in training and the central one in evaluation, at the same scale; and vectors."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import zoo
from datasets import Split, load_dataset
from datasets.dataset import VectorSplit
from datasets.images.resize import resize
from datasets.pipeline import ImageSamples, TrainBatches, balanced_order, epoch_order
from train import run
from train.engine.inputs import (
    ImageInputs,
    VectorInputs,
    image_inputs,
    normalize,
    train_resize_rule,
)
from train.recipe import Augmentation, InputError, ModelOptions, Optimizer, Recipe, Stage
from train.setup import resolve
from zoo.common.resize import ResizeRule


def stage(size):
    return Stage(augment=Augmentation(resize=size))


def inputs_of(rule, sizes=()):
    """Inputs with a resize rule, and stages that load images of these sizes."""
    return image_inputs(zoo.Preprocessing(rule), tuple(stage(size) for size in sizes))


def split_of(image):
    return Split(["image"], [0], lambda i: image)


def loaded(image, inputs, augmentation):
    return inputs.train_samples(split_of(image), augmentation).arrays()[0]


def evaluated(image, inputs):
    return inputs.eval_samples(split_of(image)).arrays()[0]


def test_cifar_images_are_not_rescaled():
    """Training loads CIFAR's 32x32 pixels for windows of 28x28; evaluation takes the central window."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    inputs = inputs_of(ResizeRule((28, 28)), [32])
    assert inputs.preprocessing.rule.crop_fraction == 28 / 32
    np.testing.assert_array_equal(loaded(image, inputs, stage(32).augment), image)
    np.testing.assert_array_equal(evaluated(image, inputs), image[2:-2, 2:-2])


def test_without_resize_the_rule_is_unchanged():
    preprocessing = zoo.Preprocessing(ResizeRule((28, 28), "crop", crop_fraction=0.875))
    assert image_inputs(preprocessing, (Stage(), Stage())) == ImageInputs(preprocessing)
    assert train_resize_rule(preprocessing.rule, Augmentation()) == preprocessing.rule


@pytest.mark.parametrize("mode", ["squash", "crop"])
@pytest.mark.parametrize("fraction", [1.0, 224 / 256, 0.95])
@pytest.mark.parametrize("sizes", [(256,), (232,), (256, 240), (240, None)])
def test_training_and_evaluation_have_the_same_scale(mode, fraction, sizes):
    """A linear ramp is the same in evaluation and in the central window of a training image."""
    ramp = np.linspace(0, 255, 640).round().astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (480, 640, 3))
    inputs = inputs_of(ResizeRule((224, 224), mode, crop_fraction=fraction), sizes)
    assert inputs.preprocessing.rule.crop_fraction <= fraction
    expected = evaluated(image, inputs)[112, :, 0].astype(float)
    for size in sizes:
        pixels = loaded(image, inputs, stage(size).augment)
        size = size or 224
        assert pixels.shape == (size, size, 3)
        margin = (size - 224) // 2
        window = pixels[size // 2, margin : margin + 224, 0].astype(float)
        assert np.abs(window - expected).max() <= 1


def test_images_smaller_than_the_model_are_rejected():
    with pytest.raises(InputError, match=r"--stages.1.augment.resize is 24, less than .* 28x28"):
        inputs_of(ResizeRule((28, 28)), [32, 24])


def test_decoder_applies_to_training_images_only():
    inputs = dataclasses.replace(inputs_of(ResizeRule((28, 28))), decoder="fast")
    split = split_of(np.zeros((40, 40, 3), np.uint8))
    assert inputs.train_samples(split, Augmentation()).decoder == "fast"
    assert inputs.eval_samples(split) == ImageSamples(split, ResizeRule((28, 28)), "exact")


def test_preprocessing_without_augmentation_is_the_same_in_training_and_evaluation():
    rule = ResizeRule((4, 4))
    inputs = ImageInputs(zoo.Preprocessing(rule, scale=0.5, mean=(1, 2, 3), std=(2, 4, 8)))
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    samples = inputs.eval_samples(split_of(image))
    np.testing.assert_array_equal(samples.arrays()[0], resize(image, rule))
    batch, index = samples.arrays(), np.zeros(1, np.int32)
    preprocessed = inputs.preprocess_train(batch, index, jax.random.key(0), Augmentation())
    np.testing.assert_array_equal(preprocessed, inputs.preprocess_eval(batch))
    np.testing.assert_array_equal(preprocessed, normalize(batch, inputs.preprocessing))
    assert inputs.shape == preprocessed.shape[1:] == (4, 4, 3)


def test_vectors_are_unchanged():
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    split = VectorSplit(Split(list("abcde"), [0] * 5, lambda i: None), values)
    inputs = VectorInputs((7,))
    assert (
        inputs.eval_samples(split) is split and inputs.train_samples(split, Augmentation()) is split
    )
    index, key = np.arange(5, dtype=np.int32), jax.random.key(0)
    assert inputs.preprocess_train(values, index, key, Augmentation()) is values
    np.testing.assert_array_equal(inputs.preprocess_eval(values), values)
    assert inputs.to_json() is None


def test_normalize_applies_channel_order_scale_mean_and_std():
    preprocessing = zoo.Preprocessing(
        ResizeRule((2, 2)),
        channel_order="bgr",
        scale=0.5,
        mean=(1.0, 2.0, 3.0),
        std=(2.0, 4.0, 8.0),
    )
    image = np.array([10.0, 20.0, 30.0], np.float32).reshape(1, 1, 1, 3)
    expected = [(15 - 1) / 2, (10 - 2) / 4, (5 - 3) / 8]
    np.testing.assert_allclose(normalize(image, preprocessing).ravel(), expected)


@pytest.mark.slow
def test_run_with_windows_repeats_and_class_balance(small_net, image_folder, tmp_path, monkeypatch):
    """72 of 90 images are for training: 4 steps per epoch with batches of 16, and 9 with two crops per image."""
    from train.engine import stage as stages
    from train.engine import steps

    batches, weights = [], []

    def spy_batches(*args, **options):
        batches.append(TrainBatches(*args, **options))
        return batches[-1]

    def spy_step(*args):
        weights.append(args[5])
        return make_train_step(*args)

    make_train_step = steps.make_train_step
    monkeypatch.setattr(stages, "TrainBatches", spy_batches)
    monkeypatch.setattr(steps, "make_train_step", spy_step)
    windows = Augmentation(resize=9, crops_per_image=2, flip=True)
    optimizer = Optimizer(learning_rate=1e-2)
    recipe = Recipe(
        model="small_net",
        model_options=ModelOptions(norm_momentum=0.5, dropout_rate=0.0),
        dataset=str(image_folder),
        batch_size=16,
        stages=(
            Stage("first", epochs=1, optimizer=optimizer, balance="sampling", augment=windows),
            Stage("second", epochs=1, optimizer=optimizer, balance="class_weights"),
        ),
    )
    results = run.run(recipe, tmp_path / "run", figures=False)
    assert results["accuracy"] > 0.6
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9 + 4 + 1))
    info = json.loads((tmp_path / "run" / "best" / "model.json").read_text())
    assert info["preprocessing"]["input_size"] == [8, 8]
    assert info["preprocessing"]["crop_fraction"] == 8 / 9

    first, second = batches
    labels = load_dataset(image_folder).splits["train"].labels
    expected = balanced_order(labels, seed=0, epoch=0, repeats=2)
    np.testing.assert_array_equal(first.order(0), expected)
    np.testing.assert_array_equal(second.order(0), epoch_order(72, seed=0, epoch=0))
    assert (first.samples.rule.size, second.samples.rule.size) == ((9, 9), (8, 8))
    assert weights[0] is None
    np.testing.assert_allclose(weights[1], [1, 1, 1])


def test_data_are_loaded_at_the_largest_size_of_any_stage():
    windows = dataclasses.replace(stage(48), name="windows")
    recipe = Recipe(
        model="vgg_tiny", dataset="digits", image_size=32, stages=(stage(None), windows)
    )
    image, _ = resolve(recipe).dataset.splits["train"][0]
    assert image.shape == (48, 48, 3)


def test_resize_below_the_model_size_is_rejected(call, image_folder, tmp_path):
    text = f"--model sam_alexnet_tiny --dataset {image_folder} --workdir {tmp_path / 'run'}"
    status, _, stderr = call(run, *text.split(), "--stages.0.augment.resize", "32")
    assert status == 2
    assert "--stages.0.augment.resize is 32, less than the model's 64x64" in stderr
    assert not (tmp_path / "run").exists()
