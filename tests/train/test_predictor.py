"""Trained weights put to use again."""

import shutil

import numpy as np
import pytest

import train
import zoo


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)] * 7
    sizes = [(20, 24), (64, 64), (1, 1), (100, 7)] * 6
    return [
        np.clip(rng.normal(c, 10, (*s, 3)), 0, 255).astype(np.uint8)
        for c, s in zip(colours, sizes, strict=False)
    ]


def test_images_of_any_size_are_recognised(small_run, images):
    predictor = train.load_run(small_run)
    probabilities = predictor.probabilities(images)
    assert (probabilities.shape, probabilities.dtype) == ((21, 3), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    names = [predictor.class_names[i] for i in probabilities.argmax(axis=1)]
    right = np.mean([n == t for n, t in zip(names, ["red", "green", "blue"] * 7, strict=True)])
    assert right > 0.7


def test_best_folder_moved_elsewhere_gives_the_same(small_run, images, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(small_run / "best", moved)
    ours, theirs = train.load_run(moved), train.load_run(small_run)
    np.testing.assert_array_equal(ours.probabilities(images), theirs.probabilities(images))
    assert ours.info == theirs.info
    assert set(ours.info) >= {"model", "options", "class_names", "preprocessing", "versions"}


def test_batch_size_does_not_change_the_numbers(small_run, images):
    predictor = train.load_run(small_run)
    one = predictor.logits(images, batch_size=1)
    np.testing.assert_allclose(one, predictor.logits(images, batch_size=100), rtol=1e-4, atol=1e-5)


def test_no_images_give_no_rows(small_run):
    assert train.load_run(small_run).probabilities([]).shape == (0, 3)


def test_predictor_equals_the_bare_model(small_run):
    """What the page in the README computes by hand."""
    predictor = train.load_run(small_run)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    logits = predictor.module.apply(predictor.variables, image[None].astype(np.float32) / 255)
    np.testing.assert_allclose(predictor.logits([image]), logits, rtol=1e-4, atol=1e-5)


def test_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match="holds no trained model"):
        train.load_run(tmp_path)
    with pytest.raises(ValueError, match="nothing at"):
        train.load_run(tmp_path / "nowhere")


def test_weights_of_another_architecture_are_named(small_run, tmp_path):
    """A model.json that was edited to name another model."""
    import json

    moved = tmp_path / "edited"
    shutil.copytree(small_run / "best", moved)
    info = json.loads((moved / "model.json").read_text())
    info["options"]["widths"] = [8, 8, 8, 8, 8]
    (moved / "model.json").write_text(json.dumps(info))
    with pytest.raises(zoo.InputError, match="does not fit the model: .*the model's is"):
        train.load_run(moved)
