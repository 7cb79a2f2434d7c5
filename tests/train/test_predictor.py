"""Loading trained weights and predicting with them."""

import shutil

import numpy as np
import pytest

import train
import zoo


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    colors = [(200, 40, 40), (40, 200, 40), (40, 40, 200)] * 7
    sizes = [(20, 24), (64, 64), (1, 1), (100, 7)] * 6
    return [
        np.clip(rng.normal(c, 10, (*s, 3)), 0, 255).astype(np.uint8)
        for c, s in zip(colors, sizes, strict=False)
    ]


@pytest.mark.slow
def test_images_of_any_size_are_classified(small_run, images):
    predictor = train.load_run(small_run)
    probabilities = predictor.probabilities(images)
    assert (probabilities.shape, probabilities.dtype) == ((21, 3), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    names = [predictor.class_names[i] for i in probabilities.argmax(axis=1)]
    accuracy = np.mean([n == t for n, t in zip(names, ["red", "green", "blue"] * 7, strict=True)])
    assert accuracy > 0.7


@pytest.mark.slow
def test_moved_best_folder_gives_the_same_predictions(small_run, images, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(small_run / "best", folder)
    moved, original = train.load_run(folder), train.load_run(small_run)
    np.testing.assert_array_equal(moved.probabilities(images), original.probabilities(images))
    assert moved.info == original.info
    assert set(moved.info) >= {"model", "options", "class_names", "preprocessing", "versions"}


def test_logits_do_not_depend_on_the_batch_size(small_run, images):
    predictor = train.load_run(small_run)
    logits = predictor.logits(images, batch_size=1)
    np.testing.assert_allclose(
        predictor.logits(images, batch_size=100), logits, rtol=1e-4, atol=1e-5
    )


def test_no_images_give_an_empty_result(small_run):
    assert train.load_run(small_run).probabilities([]).shape == (0, 3)


def test_predictor_equals_model_apply(small_run):
    predictor = train.load_run(small_run)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    logits = predictor.module.apply(predictor.variables, image[None].astype(np.float32) / 255)
    np.testing.assert_allclose(predictor.logits([image]), logits, rtol=1e-4, atol=1e-5)


def test_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="has no trained model"):
        train.load_run(tmp_path)
    with pytest.raises(ValueError, match="nowhere does not exist: use a run directory"):
        train.load_run(tmp_path / "nowhere")


def test_weights_of_another_architecture_are_rejected(small_run, tmp_path):
    """The options in model.json are edited."""
    import json

    edited = tmp_path / "edited"
    shutil.copytree(small_run / "best", edited)
    info = json.loads((edited / "model.json").read_text())
    info["options"]["width"] = 8
    (edited / "model.json").write_text(json.dumps(info))
    with pytest.raises(zoo.InputError, match="does not fit the model: .*the model's has"):
        train.load_run(edited)
