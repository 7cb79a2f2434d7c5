"""What the documents' experiments need besides one stage of classification, through the one loop."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from train import evaluate, predict, run, vectors
from train.engine import features, fit
from train.engine import stage as stage_module
from train.recipe import (
    Augmentation,
    InputError,
    ModelOptions,
    Optimizer,
    Pixels,
    Probe,
    Recipe,
    RunFeatures,
    Stage,
    with_values,
)
from train.record.directory import RunDir
from train.results import TIMES

FAST = Optimizer(learning_rate=1e-2)
VADE = Recipe(
    name="vade",
    model="vade_tiny",
    dataset="digits",
    features=Pixels(),
    feature_scaling="standardise",
    batch_size=64,
    stages=(
        Stage(name="pretraining", objective="autoencoder", epochs=8, optimizer=FAST),
        Stage(name="clusters", objective="vade", start="mixture", epochs=3, optimizer=FAST),
    ),
)
CODES = Recipe(
    name="codes",
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
def codes_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("codes") / "run"
    run.run(CODES, workdir)
    return workdir


@pytest.mark.parametrize(
    ("stage", "epochs", "message"),
    [
        (0, 20, r"trained 8 epochs of stage 0 \(pretraining\) and gone on.*become 20"),
        (0, 5, "trained 8 epochs of stage 0.*cannot become 5"),
        (1, 2, r"trained 3 epochs of stage 1 \(clusters\): they cannot become 2"),
    ],
)
def test_a_run_cannot_claim_other_epochs_than_it_has_trained(vade_run, stage, epochs, message):
    claimed = with_values(VADE, {f"stages.{stage}.epochs": epochs})
    with pytest.raises(InputError, match=message):
        RunDir(vade_run).check(claimed, "auto")
    RunDir(vade_run).check(with_values(VADE, {"stages.1.epochs": 4}), "auto")  # a longer end


def test_vade_trains_in_two_stages_and_is_scored_by_its_clusters(vade_run):
    results = read(vade_run / "test.json")
    assert results["scored_by"] == "vade"
    assert results["accuracy"] > 0.3  # chance is 0.1
    assert sum(results["occupancy"]) == pytest.approx(1)
    assert {"nmi", "ari", "effective_clusters", "class_of_cluster"} <= set(results)
    table = rows(vade_run)
    assert [r["stage"] for r in table] == 8 * ["pretraining"] + 3 * ["clusters"]
    assert [r["train_accuracy"] for r in table[:8]] == 8 * ["nan"]
    assert all(0 < float(r["train_accuracy"]) < 1 for r in table[8:])


def test_vectors_are_fed_alike_from_the_host_and_from_the_device(tmp_path):
    short = dataclasses.replace(VADE, images_per_class=20)
    for feed in ("stepwise", "resident"):
        run.run(dataclasses.replace(short, feed=feed), tmp_path / feed)
    losses = [[float(r["val_loss"]) for r in rows(tmp_path / w)] for w in ("stepwise", "resident")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_collapse_of_the_clusters_is_said(tmp_path, capsys):
    # Pixels in [0, 1] have so small an error that the divergences decide alone.
    stages = tuple(
        dataclasses.replace(s, optimizer=Optimizer(learning_rate=5e-3)) for s in VADE.stages
    )
    stages = (dataclasses.replace(stages[0], epochs=10), stages[1])
    short = dataclasses.replace(VADE, images_per_class=40, feature_scaling="none", stages=stages)
    results = run.run(short, tmp_path / "run")
    assert "clusters have collapsed" in results["collapsed"]
    assert capsys.readouterr().err.count("warning: epoch 11: clusters have collapsed") == 1


def test_the_best_epoch_is_one_of_the_last_stage_and_has_the_lowest_loss(vade_run):
    info = read(vade_run / "best" / "model.json")
    assert (info["objective"], info["monitor"]) == ("vade", "loss")
    losses = {int(r["epoch"]): float(r["val_loss"]) for r in rows(vade_run)[8:]}
    assert info["epoch"] == min(losses, key=losses.get)
    assert info["val_loss"] == pytest.approx(min(losses.values()))


def test_what_a_run_of_vectors_leaves_is_complete(vade_run, call):
    names = {p.name for p in (vade_run / "figures").iterdir()}
    assert names == {"curves.png", "confusion_matrix.png", "tsne.png"}
    assert "t-SNE" in (vade_run / "report.html").read_text(encoding="utf-8")
    status, stdout, _ = call(evaluate, vade_run)
    ours, recorded = json.loads(stdout), read(vade_run / "test.json")
    assert status == 0
    assert {k: v for k, v in ours.items() if k not in TIMES} == {
        k: v for k, v in recorded.items() if k not in TIMES
    }


def test_a_run_cut_off_in_its_second_stage_goes_on_as_if_it_had_not_been(
    vade_run, tmp_path, monkeypatch
):
    class Cut(Exception):
        pass

    def cut(plan, loop, checkpoints, log, stop):
        log.flush()
        checkpoints.save(loop)
        if loop.epoch == 9:
            checkpoints.wait()
            raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(fit, "_save_after_epoch", cut)
        with pytest.raises(Cut):
            run.run(VADE, tmp_path / "run")
    run.run(VADE, tmp_path / "run")
    keep = ("epoch", "step", "stage", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    ours, theirs = ([[r[k] for k in keep] for r in rows(w)] for w in (tmp_path / "run", vade_run))
    assert ours == theirs
    digests = [
        read(w / "best" / "model.json")["weights_sha256"] for w in (tmp_path / "run", vade_run)
    ]
    assert digests[0] == digests[1]


def test_the_bottleneck_goes_in_between_two_stages_and_an_svm_judges_the_codes(codes_run):
    results = read(codes_run / "test.json")
    assert results["scored_by"] == "svm"
    assert results["accuracy"] > 0.5
    assert results["train_accuracy"] > results["accuracy"] - 0.1
    assert 0 < results["validation_accuracy"] <= 1
    with np.load(codes_run / "predictions.npz") as saved:
        assert saved["features"].shape == (179, 16)  # the code's 16 numbers, not the map's
    info = read(codes_run / "best" / "model.json")
    assert info["epoch"] == 2  # the first stage's net is another
    assert "bottleneck" not in info["options"]


def test_a_run_cut_off_before_the_bottleneck_goes_on_with_it(codes_run, tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    def cut(plan, loop, checkpoints, log, stop):
        log.flush()
        checkpoints.save(loop)
        checkpoints.wait()
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(fit, "_save_after_epoch", cut)
        with pytest.raises(Cut):
            run.run(CODES, tmp_path / "run")
    assert read(tmp_path / "run" / "best" / "model.json")["options"]["bottleneck"] is None
    run.run(CODES, tmp_path / "run")
    digests = [
        read(w / "best" / "model.json")["weights_sha256"] for w in (tmp_path / "run", codes_run)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("method", ["kmeans", "gmm", "svm"])
def test_probes_of_the_data_themselves_need_no_training(method, tmp_path):
    probe = Probe(method=method, layer="input", standardise=method == "svm")
    recipe = Recipe(model="vade_tiny", dataset="digits", features=Pixels(), stages=(), probe=probe)
    results = run.run(recipe, tmp_path / "run")
    assert results["scored_by"] == method
    assert results["accuracy"] > (0.9 if method == "svm" else 0.5)
    assert results["epochs_run"] == results["best_epoch"] == 0


def test_features_of_a_trained_net_are_computed_once(
    small_run, image_folder, tmp_path, monkeypatch
):
    recipe = Recipe(
        model="vade_tiny",
        dataset=str(image_folder),
        features=RunFeatures(str(small_run)),
        feature_scaling="standardise",
        stages=(),
        probe=Probe(method="kmeans", layer="input"),
    )
    calls = []
    original = features.run_outputs
    monkeypatch.setattr(features, "run_outputs", lambda *a: calls.append(1) or original(*a))
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path / "cache"))
    first = run.run(recipe, tmp_path / "one")
    second = run.run(recipe, tmp_path / "two")
    assert len(calls) == 3  # the splits
    assert first["accuracy"] == second["accuracy"] > 0.8  # the net knows these classes
    # Damaged, the file is made anew.
    (cached,) = (tmp_path / "cache" / "features").glob("*.npz")
    cached.write_bytes(cached.read_bytes()[:100])
    assert run.run(recipe, tmp_path / "three")["accuracy"] == first["accuracy"]
    assert len(calls) == 6


def test_vectors_of_grey_pictures_have_a_number_a_pixel_and_of_colours_three(image_folder):
    from datasets import load_dataset

    grey = vectors.pixels(load_dataset("digits"), None)
    assert grey["train"].shape == (1439, 64)
    assert (grey["train"].min(), grey["train"].max()) == (0, 1)
    colours = load_dataset(image_folder, image_size=8)
    assert vectors.pixels(colours, (8, 8))["test"].shape == (9, 3 * 64)
    with pytest.raises(InputError, match="give an --image-size"):
        vectors.pixels(colours, None)


def test_scales_are_the_training_parts():
    rng = np.random.default_rng(0)
    parts = {
        "train": rng.normal([1, 5], [2, 0.5], (500, 2)).astype(np.float32),
        "test": np.array([[1, 5], [3, 5.5]], np.float32),
    }
    found = vectors.scaled(parts, "standardise")
    np.testing.assert_allclose(found["train"].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found["train"].std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(found["test"][1] - found["test"][0], [1, 1], rtol=0.1)
    np.testing.assert_allclose(vectors.scaled(parts, "unit")["train"].std(), 1, rtol=1e-5)
    constant = {"train": np.full((3, 2), 7, np.float32)}
    np.testing.assert_array_equal(vectors.scaled(constant, "standardise")["train"], 0)
    assert vectors.scaled(parts, "none")["train"] is parts["train"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model vade_tiny", "vade_tiny takes vectors: give --features"),
        ("--model sam_alexnet_tiny --features pixels", "sam_alexnet_tiny takes images"),
        (
            "--model vade_tiny --features pixels --stages.0.objective gmvae",
            "objective is gmvae, which cannot train vade_tiny: give autoencoder or vade",
        ),
        (
            "--model gmvae_tiny --features pixels --stages.0.objective gmvae --stages.0.start mixture",
            "start mixture is for vade",
        ),
        ("--model sam_alexnet_tiny --stages.0.start bottleneck", "is for conv_autoencoder"),
        ("--noisy-images 1.5", "--noisy-images is 1.5: give a share"),
        ("--images-per-class 0", "--images-per-class is 0: give at least 1"),
        ("--probe.method svm --probe.layer conv9", "--probe.layer: no layer 'conv9' in this model"),
        ("--probe.c -1", "--probe.c is -1.0: give a number above 0"),
        ("--model vade_tiny --features nowhere --stages.0.objective vade", "nothing at"),
        (
            "--model vade_tiny --features resnet50=nowhere --stages.0.objective vade",
            "nowhere",
        ),
        (
            "--model sam_alexnet_tiny --stages.0.model-options colour=1",
            "has no option 'colour'",
        ),
        (
            "--model vade_tiny --features pixels --stages.0.objective vade --stages.0.balance class_weights",
            "has class weights, but vade reads no labels: give --stages.0.balance sampling or none",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(words, message, tmp_path, call):
    given = [*words.split(), "--from-recipe", "default", "--workdir", tmp_path / "run"]
    given += ["--dataset", "digits"]
    status, _, stderr = call(run, *given)
    assert status == 2, stderr
    assert message in stderr
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_model_of_vectors_predicts_no_images(vade_run, image_folder, call):
    status, stdout, stderr = call(predict, vade_run, image_folder)
    assert (status, stdout) == (2, "")
    assert "takes vectors: give a classifier" in stderr


def test_a_frozen_phase_on_cached_features_gives_the_numbers_of_one_without(
    image_folder, tmp_path, monkeypatch, capsys
):
    recipe = Recipe(
        model="mobilenet_v2_tiny",
        dataset=str(image_folder),
        batch_size=16,
        stages=(
            Stage("head", freeze=("backbone",), epochs=2, optimizer=FAST),
            Stage("top", freeze=("features.:3",), epochs=1, optimizer=FAST),
        ),
    )
    run.run(recipe, tmp_path / "cached")
    run.run(dataclasses.replace(recipe, feed="resident"), tmp_path / "resident")
    assert capsys.readouterr().err.count("what is frozen was computed once") == 2
    monkeypatch.setattr(stage_module, "_cut", lambda *a: None)
    run.run(recipe, tmp_path / "uncached")
    assert "computed once" not in capsys.readouterr().err
    numbers = [
        [
            float(r[k])
            for r in rows(tmp_path / w)
            for k in ("train_loss", "val_loss", "val_accuracy")
        ]
        for w in ("uncached", "cached", "resident")
    ]
    for found in numbers[1:]:
        np.testing.assert_allclose(found[:6], numbers[0][:6], rtol=1e-5)
        # The second stage is another program's for all; what they began with differs in the last bits.
        np.testing.assert_allclose(found[6:], numbers[0][6:], rtol=1e-3)


def test_a_frozen_phase_with_augmentation_is_not_cached(image_folder, tmp_path, capsys):
    stage = Stage(
        freeze=("backbone",), epochs=1, optimizer=FAST, augment=Augmentation(rotation=5.0)
    )
    recipe = Recipe(
        model="mobilenet_v2_tiny", dataset=str(image_folder), batch_size=16, stages=(stage,)
    )
    run.run(recipe, tmp_path / "run")
    assert "computed once" not in capsys.readouterr().err


def test_a_run_that_its_probe_answered_for_predicts_nothing_by_itself(
    codes_run, image_folder, call
):
    status, _, stderr = call(predict, codes_run, image_folder)
    assert status == 2
    assert "scored by its probe (svm)" in stderr
