"""Whole runs of the papers' experiments: several stages, vectors, autoencoders, clustering, probes, features."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from datasets import load_dataset
from train import evaluate, predict, run, vectors
from train.engine import features, fit
from train.engine import stage as stage_module
from train.predictor import load_run
from train.recipe import (
    IMAGENET,
    Augmentation,
    InputError,
    ModelOptions,
    Normalization,
    Optimizer,
    Pixels,
    Probe,
    Recipe,
    RunFeatures,
    Stage,
    with_values,
)
from train.record.directory import RunDir
from train.results import TIMING_FIELDS
from train.setup import resolve

pytestmark = pytest.mark.slow

CACHED = "features: computed the frozen layers' output once per image"  # logged for cached features
FAST = Optimizer(learning_rate=1e-2)
VADE = Recipe(
    name="vade",
    model="vade_tiny",
    dataset="digits",
    features=Pixels(),
    feature_scaling="standardize",
    batch_size=64,
    stages=(
        Stage(name="pretraining", objective="autoencoder", epochs=8, optimizer=FAST),
        Stage(name="clusters", objective="vade", start="mixture", epochs=3, optimizer=FAST),
    ),
)
AUTOENCODER = Recipe(
    name="autoencoder",
    model="conv_autoencoder_tiny",
    dataset="digits",
    batch_size=32,
    images_per_class=30,
    image_size=16,
    stages=(
        Stage(
            "bare",
            "autoencoder",
            model_options=ModelOptions(bottleneck=None),
            epochs=1,
            optimizer=FAST,
        ),
        Stage("inserted", "autoencoder", start="bottleneck", epochs=1, optimizer=FAST),
    ),
    probe=Probe(method="svm"),
)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows(workdir):
    with open(workdir / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def vade_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("vade") / "run"
    run.run(VADE, workdir)
    return workdir


@pytest.fixture(scope="module")
def autoencoder_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("autoencoder") / "run"
    run.run(AUTOENCODER, workdir)
    return workdir


@pytest.mark.parametrize(
    ("stage", "epochs", "message"),
    [
        (
            0,
            20,
            r"trained 8 epochs of stage 0 \(pretraining\) and started the next.*the number of epochs to 20",
        ),
        (0, 5, "trained 8 epochs of stage 0.*cannot change the number of epochs to 5"),
        (
            1,
            2,
            r"trained 3 epochs of stage 1 \(clusters\): cannot change the number of epochs to 2",
        ),
    ],
)
def test_epochs_of_trained_stages_cannot_change(vade_run, stage, epochs, message):
    changed = with_values(VADE, {f"stages.{stage}.epochs": epochs})
    with pytest.raises(InputError, match=message):
        RunDir(vade_run).check(changed, "auto")
    # The last stage may be extended.
    RunDir(vade_run).check(with_values(VADE, {"stages.1.epochs": 4}), "auto")


def test_vade_trains_in_two_stages_and_is_scored_by_clusters(vade_run):
    results = read(vade_run / "test.json")
    assert results["scored_by"] == "vade"
    assert results["accuracy"] > 0.3  # chance is 0.1
    assert sum(results["occupancy"]) == pytest.approx(1)
    assert {"nmi", "ari", "effective_clusters", "class_of_cluster"} <= set(results)
    table = rows(vade_run)
    assert [r["stage"] for r in table] == 8 * ["pretraining"] + 3 * ["clusters"]
    assert [r["train_accuracy"] for r in table[:8]] == 8 * ["nan"]
    assert all(0 < float(r["train_accuracy"]) < 1 for r in table[8:])


def test_streamed_and_cached_vectors_give_equal_losses(tmp_path):
    short = dataclasses.replace(VADE, images_per_class=20)
    for feed in ("streamed", "cached"):
        run.run(dataclasses.replace(short, feed=feed), tmp_path / feed, figures=False)
    losses = [[float(r["val_loss"]) for r in rows(tmp_path / w)] for w in ("streamed", "cached")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_warning_for_collapsed_clusters(tmp_path, capsys):
    # The reconstruction error of pixels in [0, 1] is so small that the KL divergences dominate.
    stages = tuple(
        dataclasses.replace(s, optimizer=Optimizer(learning_rate=5e-3)) for s in VADE.stages
    )
    stages = (dataclasses.replace(stages[0], epochs=10), stages[1])
    short = dataclasses.replace(VADE, images_per_class=40, feature_scaling="none", stages=stages)
    results = run.run(short, tmp_path / "run", figures=False)
    assert "clusters have collapsed" in results["collapsed"]
    assert capsys.readouterr().err.count("warning: epoch 11: clusters have collapsed") == 1


def test_best_epoch_has_the_lowest_loss_of_the_last_stage(vade_run):
    info = read(vade_run / "best" / "model.json")
    assert (info["objective"], info["monitor"]) == ("vade", "loss")
    losses = {int(r["epoch"]): float(r["val_loss"]) for r in rows(vade_run)[8:]}
    assert info["epoch"] == min(losses, key=losses.get)
    assert info["val_loss"] == pytest.approx(min(losses.values()))


def test_outputs_of_a_run_on_vectors_are_complete(vade_run, call):
    names = {p.name for p in (vade_run / "figures").iterdir()}
    assert names == {"curves.png", "confusion_matrix.png", "tsne.png"}
    assert "t-SNE" in (vade_run / "report.html").read_text(encoding="utf-8")
    status, stdout, _ = call(evaluate, vade_run)
    evaluated, recorded = json.loads(stdout), read(vade_run / "test.json")
    assert status == 0
    assert {k: v for k, v in evaluated.items() if k not in TIMING_FIELDS} == {
        k: v for k, v in recorded.items() if k not in TIMING_FIELDS
    }


def test_run_killed_in_its_second_stage_resumes_exactly(vade_run, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def save_and_kill(experiment, plan, loop, checkpoints, log, *_):
        log.flush()
        checkpoints.save(loop)
        if loop.epoch == 9:
            checkpoints.wait()
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(fit, "_save_after_epoch", save_and_kill)
        with pytest.raises(Killed):
            run.run(VADE, tmp_path / "run", figures=False)
    run.run(VADE, tmp_path / "run", figures=False)
    columns = ("epoch", "step", "stage", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    resumed, whole = (
        [[r[k] for k in columns] for r in rows(w)] for w in (tmp_path / "run", vade_run)
    )
    assert resumed == whole
    digests = [
        read(w / "best" / "model.json")["weights_sha256"] for w in (tmp_path / "run", vade_run)
    ]
    assert digests[0] == digests[1]


def test_bottleneck_is_inserted_between_stages_and_latents_are_scored_by_svm(autoencoder_run):
    results = read(autoencoder_run / "test.json")
    assert results["scored_by"] == "svm"
    assert results["accuracy"] > 0.5
    assert results["train_accuracy"] > results["accuracy"] - 0.1
    assert 0 < results["validation_accuracy"] <= 1
    with np.load(autoencoder_run / "predictions.npz") as saved:
        assert saved["features"].shape == (179, 16)  # the latent, not the feature map
    info = read(autoencoder_run / "best" / "model.json")
    assert info["epoch"] == 2  # the model of the first stage is a different one
    assert "bottleneck" not in info["options"]


def test_run_killed_before_the_bottleneck_resumes_exactly(autoencoder_run, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def save_and_kill(experiment, plan, loop, checkpoints, log, *_):
        log.flush()
        checkpoints.save(loop)
        checkpoints.wait()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(fit, "_save_after_epoch", save_and_kill)
        with pytest.raises(Killed):
            run.run(AUTOENCODER, tmp_path / "run", figures=False)
    assert read(tmp_path / "run" / "best" / "model.json")["options"]["bottleneck"] is None
    run.run(AUTOENCODER, tmp_path / "run", figures=False)
    digests = [
        read(w / "best" / "model.json")["weights_sha256"]
        for w in (tmp_path / "run", autoencoder_run)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("method", ["kmeans", "gmm", "svm"])
def test_probes_of_the_input_need_no_training(method, tmp_path):
    probe = Probe(method=method, layer="input", standardize=method == "svm")
    recipe = Recipe(model="vade_tiny", dataset="digits", features=Pixels(), stages=(), probe=probe)
    results = run.run(recipe, tmp_path / "run", figures=False)
    assert results["scored_by"] == method
    assert results["accuracy"] > (0.9 if method == "svm" else 0.5)
    assert results["epochs_run"] == results["best_epoch"] == 0


def test_features_of_a_trained_run_are_cached(small_run, image_folder, tmp_path, monkeypatch):
    recipe = Recipe(
        model="vade_tiny",
        dataset=str(image_folder),
        features=RunFeatures(str(small_run)),
        feature_scaling="standardize",
        stages=(),
        probe=Probe(method="kmeans", layer="input"),
    )
    calls = []
    original = features.collect_outputs
    monkeypatch.setattr(features, "collect_outputs", lambda *a: calls.append(1) or original(*a))
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path / "cache"))
    first = run.run(recipe, tmp_path / "one", figures=False)
    second = run.run(recipe, tmp_path / "two", figures=False)
    assert len(calls) == 3  # once per split
    assert first["accuracy"] == second["accuracy"] > 0.8  # the run was trained on these classes
    # A damaged cache file is rewritten.
    (cached,) = (tmp_path / "cache" / "features").glob("*.npz")
    cached.write_bytes(cached.read_bytes()[:100])
    assert run.run(recipe, tmp_path / "three", figures=False)["accuracy"] == first["accuracy"]
    assert len(calls) == 6


def test_an_autoencoder_can_train_on_all_splits_and_be_probed_after_each_epoch(tmp_path):
    """As the paper does: all images in the first stage, a larger batch in the second, an SVM after each epoch."""
    recipe = with_values(
        AUTOENCODER,
        {"stages.0.all_splits": True, "stages.1.batch_size": 64, "probe.every_epoch": True},
    )
    results = run.run(recipe, tmp_path / "run", figures=False)
    splits = read(tmp_path / "run" / "splits.json")["splits"]
    sizes = {name: len(ids) for name, ids in splits.items()}
    assert sizes["train"] == 300 and sizes["test"] > 100
    epochs = rows(tmp_path / "run")
    steps = [int(epochs[0]["step"]), int(epochs[1]["step"]) - int(epochs[0]["step"])]
    assert steps == [sum(sizes.values()) // 32, 300 // 64]
    assert all(0.3 < float(epoch["val_accuracy"]) <= 1 for epoch in epochs)
    # The run is scored by the same probe, with the same weights.
    assert results["validation_accuracy"] == float(epochs[1]["val_accuracy"])


@pytest.mark.parametrize(
    ("normalization", "mean", "std"),
    [
        (IMAGENET, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (Normalization(of_training_images=True), None, None),
    ],
)
def test_images_are_normalized_as_the_recipe_says(
    small_net, image_folder, tmp_path, normalization, mean, std
):
    """In training, after a resumption, and in the predictor of best/."""
    recipe = Recipe(
        model="small_net",
        dataset=str(image_folder),
        batch_size=16,
        normalization=normalization,
        stages=(Stage(epochs=1, optimizer=FAST),),
    )
    if mean is None:
        images = (
            resolve(recipe).inputs.eval_samples(load_dataset(image_folder).splits["train"]).arrays()
        )
        pixels = images.reshape(-1, 3) / 255
        mean, std = pixels.mean(axis=0), pixels.std(axis=0)
    workdir = tmp_path / "run"
    run.run(recipe, workdir, figures=False)
    run.run(with_values(recipe, {"stages.0.epochs": 2}), workdir, figures=False)
    for found in (load_run(workdir).inputs, resolve(recipe, workdir=None).inputs):
        np.testing.assert_allclose(found.preprocessing.mean, mean, atol=1e-6)
        np.testing.assert_allclose(found.preprocessing.std, std, atol=1e-6)
    assert (workdir / "start.json").exists() == normalization.of_training_images


def test_pixel_vectors_have_one_dimension_per_gray_pixel_and_three_per_color_pixel(image_folder):
    gray = vectors.pixels(load_dataset("digits"), None)
    assert gray["train"].shape == (1439, 64)
    assert (gray["train"].min(), gray["train"].max()) == (0, 1)
    colors = load_dataset(image_folder, image_size=8)
    luma = vectors.pixels(colors, (8, 8), gray=True)["test"]
    rgb = vectors.pixels(colors, (8, 8))["test"].reshape(9, 64, 3)
    np.testing.assert_allclose(luma, rgb @ [0.299, 0.587, 0.114], atol=1e-6)
    assert vectors.pixels(colors, (8, 8))["test"].shape == (9, 3 * 64)
    with pytest.raises(InputError, match="use an --image-size"):
        vectors.pixels(colors, None)


def test_scaling_uses_statistics_of_the_training_split():
    rng = np.random.default_rng(0)
    splits = {
        "train": rng.normal([1, 5], [2, 0.5], (500, 2)).astype(np.float32),
        "test": np.array([[1, 5], [3, 5.5]], np.float32),
    }
    scaled = vectors.scale(splits, "standardize")
    np.testing.assert_allclose(scaled["train"].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled["train"].std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(scaled["test"][1] - scaled["test"][0], [1, 1], rtol=0.1)
    np.testing.assert_allclose(vectors.scale(splits, "unit")["train"].std(), 1, rtol=1e-5)
    constant = {"train": np.full((3, 2), 7, np.float32)}
    np.testing.assert_array_equal(vectors.scale(constant, "standardize")["train"], 0)
    assert vectors.scale(splits, "none")["train"] is splits["train"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model vade_tiny", "vade_tiny takes vectors: use --features"),
        ("--model sam_alexnet_tiny --features pixels", "sam_alexnet_tiny takes images"),
        (
            "--model vade_tiny --features pixels --stages.0.objective gmvae",
            "objective gmvae cannot train vade_tiny: use autoencoder or vade",
        ),
        (
            "--model gmvae_tiny --features pixels --stages.0.objective gmvae --stages.0.start mixture",
            "start mixture requires vade",
        ),
        ("--model sam_alexnet_tiny --stages.0.start bottleneck", "requires conv_autoencoder"),
        ("--noisy-images 1.5", "--noisy-images is 1.5: use a fraction"),
        ("--images-per-class 0", "--images-per-class is 0: use at least 1"),
        ("--probe.method svm --probe.layer conv9", "--probe.layer: no layer 'conv9' in this model"),
        ("--probe.c -1", "--probe.c is -1.0: use a number above 0"),
        (
            "--model conv_autoencoder_tiny --stages.0.objective autoencoder --stages.0.monitor accuracy",
            "--stages.0.monitor is accuracy, which the objective autoencoder does not have",
        ),
        ("--probe.every-epoch --probe.method svm", "--probe.every-epoch needs a --probe.method on"),
        ("--stages.0.all-splits", "--stages.0.all-splits: classification uses labels"),
        ("--stages.0.batch-size 0", "--stages.0.batch-size is 0: use at least 1"),
        ("--stages.0.batch-size 5000", "--stages.0.batch-size 5000 exceeds the 1439 training"),
        ("--normalization.mean 0.5 0.5 --normalization.std 1 1", "need three values each"),
        ("--normalization.mean 0 0 0 --normalization.std 1 0 1", "use values above 0"),
        ("--normalization.crop-fraction 0", "--normalization.crop-fraction is 0.0: use a fraction"),
        (
            "--model vade_tiny --features pixels --normalization.of-training-images",
            "--normalization is for images, not for these --features",
        ),
        (
            "--model vade_tiny --features nowhere --stages.0.objective vade",
            "nowhere does not exist: use a run directory",
        ),
        (
            "--model vade_tiny --features resnet50=nowhere --stages.0.objective vade",
            "nowhere",
        ),
        (
            "--model sam_alexnet_tiny --stages.0.model-options color=1",
            "has no option 'color'",
        ),
        (
            "--model vade_tiny --features pixels --stages.0.objective vade --stages.0.balance class_weights",
            "has class weights, but vade does not use labels: use --stages.0.balance sampling or none",
        ),
    ],
)
def test_invalid_recipes_are_rejected(words, message, tmp_path, call):
    given = [*words.split(), "--from-recipe", "default", "--workdir", tmp_path / "run"]
    given += ["--dataset", "digits"]
    status, _, stderr = call(run, *given)
    assert status == 2, stderr
    assert message in stderr
    assert not (tmp_path / "run" / "config.json").exists()


def test_predict_rejects_a_model_of_vectors(vade_run, image_folder, call):
    status, stdout, stderr = call(predict, vade_run, image_folder)
    assert (status, stdout) == (2, "")
    assert "takes vectors: use a run of an image classifier" in stderr


def test_cached_features_do_not_change_results(
    small_net, image_folder, tmp_path, monkeypatch, capsys
):
    recipe = Recipe(
        model="small_net",
        dataset=str(image_folder),
        batch_size=16,
        stages=(
            Stage("head", freeze=("backbone",), epochs=2, optimizer=FAST),
            Stage("top", freeze=("conv",), epochs=1, optimizer=FAST),
        ),
    )
    run.run(dataclasses.replace(recipe, feed="cached"), tmp_path / "cached", figures=False)
    assert capsys.readouterr().err.count(CACHED) == 1
    monkeypatch.setattr(stage_module, "find_cut", lambda *a: None)
    run.run(recipe, tmp_path / "without features", figures=False)
    assert CACHED not in capsys.readouterr().err
    results = [
        [
            float(r[k])
            for r in rows(tmp_path / w)
            for k in ("train_loss", "val_loss", "val_accuracy")
        ]
        for w in ("without features", "cached")
    ]
    np.testing.assert_allclose(results[1][:6], results[0][:6], rtol=1e-5)
    # Both runs train the second stage on images, but start it from parameters that differ in the last bits.
    np.testing.assert_allclose(results[1][6:], results[0][6:], rtol=1e-3)


def test_features_are_not_cached_with_augmentation(small_net, image_folder, tmp_path, capsys):
    stage = Stage(
        freeze=("backbone",), epochs=1, optimizer=FAST, augment=Augmentation(rotation=5.0)
    )
    recipe = Recipe(model="small_net", dataset=str(image_folder), batch_size=16, stages=(stage,))
    run.run(recipe, tmp_path / "run", figures=False)
    assert CACHED not in capsys.readouterr().err


def test_predict_rejects_a_run_scored_by_a_probe(autoencoder_run, image_folder, call):
    status, _, stderr = call(predict, autoencoder_run, image_folder)
    assert status == 2
    assert "scored by its probe (svm)" in stderr
