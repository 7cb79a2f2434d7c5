"""Results of a finished run: scores, predictions, figures and the report."""

import functools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.pipeline import load_arrays
from train import cli
from train.analysis.clustering import clustering_metrics
from train.analysis.metrics import prediction_scores, score_logits
from train.analysis.statistics import interval_fields
from train.engine.experiment import Experiment
from train.engine.inputs import ImageInputs
from train.predictor import Predictor
from train.record.directory import RunDir, write_json
from train.report import optional
from train.report.mistakes import MISTAKES, confidence, find_mistakes, save_thumbnails
from zoo.common.files import whole_file

# Fields of test.json that vary between evaluations.
TIMING_FIELDS = ("test_time_ms", "train_time_ms")

# Fields of test.json that come from training; evaluation cannot compute them.
TRAINING_FIELDS = ("train_accuracy", "validation_accuracy", "train_time_ms", "epochs_run")

TSNE_POINTS = 1000

Results = tuple[dict[str, Any], dict[str, np.ndarray]]


def test(predictor: Predictor, experiment: Experiment, split: str = "test") -> Results:
    """Score a predictor on a whole split.

    Returns:
      The fields of test.json, except those of training, and the predictions.

      `test_time_ms` is the wall time of prediction and scoring, from images decoded to uint8 in host memory, with the
      program already compiled; for a probe, from features. `scored_by` names the source of the predictions: the
      network ("classification"), its clusters ("vade", "gmvae") or the probe of the recipe ("svm", "kmeans", "gmm");
      "autoencoder" has only a loss. Clusters are matched to classes one to one, on the split itself. `intervals`: see
      `train.analysis.statistics.interval_fields`.
    """
    recipe, dataset = experiment.recipe, experiment.dataset
    score = _score_probe if recipe.probe.method != "none" else _score_network
    scores, predictions = score(predictor, experiment, split)
    data = dataset.splits[split]
    if "confusions" in scores:
        predictions["confusions"] = np.array(scores["confusions"], np.int32)
    if "predictions" in predictions:
        names, predicted = dataset.class_names, predictions["predictions"]
        scores["intervals"] = interval_fields(data.labels, predicted, len(names), data.groups)
    predictions |= {
        "labels": data.labels,
        "ids": np.array(data.ids),
        "class_names": np.array(dataset.class_names),
    }
    results = {
        "model": recipe.model,
        "dataset": dataset.name,
        "synthetic": dataset.info.synthetic,
        "split": split,
        **scores,
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "best_epoch": predictor.info["epoch"],
    }
    return results, predictions


def _score_network(predictor: Predictor, experiment: Experiment, split: str) -> Results:
    """Score the network's own outputs."""
    dataset, batch_size = experiment.dataset, experiment.recipe.batch_size
    images, labels = load_arrays(predictor.samples(dataset.splits[split]))
    predictor.outputs(images[:batch_size], batch_size)  # compiles
    predicts = predictor.objective.predicts
    names = dataset.class_names
    predictions: dict[str, np.ndarray] = {}
    began = time.perf_counter()
    if predicts == "classes":
        others: dict[str, list[np.ndarray]] = {}

        def logits() -> Iterator[np.ndarray]:
            for batch in predictor.output_batches(images, batch_size):
                yield batch.pop("logits")
                for name, values in batch.items():
                    others.setdefault(name, []).append(values)

        scores, predictions = score_logits(labels, logits(), names)
        outputs = {name: np.concatenate(values) for name, values in others.items()}
    else:
        outputs = predictor.outputs(images, batch_size, labels)
        scores = {"loss": float(outputs["loss"].mean()), "num_examples": len(labels)}
    if predicts == "clusters":
        log_probabilities = outputs["cluster_log_probabilities"]
        clusters = log_probabilities.argmax(axis=1)
        matched = clustering_metrics(labels, clusters, names, log_probabilities.shape[1])
        scores = matched | {"loss": scores["loss"]}
        predictions = _cluster_predictions(clusters, scores)
    elapsed = time.perf_counter() - began
    if "latent" in outputs:
        predictions["features"] = outputs["latent"]
    facts = {"scored_by": predictor.info["objective"], "test_time_ms": round(1000 * elapsed, 1)}
    return scores | facts, predictions


def _cluster_predictions(clusters: np.ndarray, scores: dict[str, Any]) -> dict[str, np.ndarray]:
    matched = np.array(scores["class_of_cluster"])
    return {
        "clusters": clusters.astype(np.int32),
        "predictions": matched[clusters].astype(np.int32),
    }


def _score_probe(predictor: Predictor, experiment: Experiment, split: str) -> Results:
    """Fit the recipe's probe to the training split and score it, including its training and validation accuracy."""
    from train.analysis.probes import FittedProbe
    from train.probing import probe_features

    recipe, dataset = experiment.recipe, experiment.dataset
    probe, names = recipe.probe, dataset.class_names
    progress = cli.Progress()
    try:
        features = probe_features(predictor, experiment, cli.progress_callback(progress))
    finally:
        progress.stop()
    train_labels = dataset.splits["train"].labels
    fitted = FittedProbe(probe, features["train"], train_labels, len(names), recipe.seed)

    def score_split(split: str) -> Results:
        labels, predicted = dataset.splits[split].labels, fitted.predict(features[split])
        if probe.method == "svm":
            scores = {"loss": None} | prediction_scores(labels, predicted, names)
            return scores, {"predictions": predicted.astype(np.int32)}
        scores = clustering_metrics(labels, predicted, names, fitted.num_clusters)
        return scores, _cluster_predictions(predicted, scores)

    began = time.perf_counter()
    scores, predictions = score_split(split)
    elapsed = time.perf_counter() - began
    accuracies = {
        f"{name}_accuracy": score_split(name)[0]["accuracy"] for name in ("train", "validation")
    }
    facts = {"scored_by": probe.method, "test_time_ms": round(1000 * elapsed, 1)}
    vectors = {"features": features[split].astype(np.float32)}
    return scores | accuracies | facts | fitted.notes, predictions | vectors


def finish(
    run: RunDir,
    predictor: Predictor,
    experiment: Experiment,
    facts: dict[str, Any],
    figures: bool = True,
    *,
    split: str = "test",
    validate: bool = False,
    test_on: Callable[[str], Results] | None = None,
) -> dict[str, Any]:
    """Test the weights in best/; write test.json, the predictions and, with `figures`, the figures and the report.

    Args:
      split: the split to test on.
      validate: whether test.json gets a field `validation` with loss, accuracy and macro-F1 on the validation split, as
        far as there are any.
      test_on: returns what `test` returns for a split; default: `test`.

    Returns the content of test.json.
    """
    score = test_on or functools.partial(test, predictor, experiment)
    results, predictions = score(split)
    if validate:
        scores = results if split == "validation" else score("validation")[0]
        results["validation"] = {k: scores.get(k) for k in ("loss", "accuracy", "f1")}
    rows = run.read_summary()
    best = [row for row in rows if row["epoch"] == results["best_epoch"]]
    for split, column in (("train", "train_accuracy"), ("validation", "val_accuracy")):
        if best and np.isfinite(best[0][column]):
            results.setdefault(f"{split}_accuracy", best[0][column])
    results |= facts
    with whole_file(run.predictions) as file:
        np.savez_compressed(file, allow_pickle=False, **predictions)
    write_json(run.test, results)
    if figures:
        _write_figures(run, rows, predictor, experiment, results, predictions)
        run.report.unlink(missing_ok=True)
        with optional(run.report.name):
            from train.report import html

            html.write_report(run.path)
    return results


def _write_figures(
    run: RunDir,
    rows: list[dict[str, Any]],
    predictor: Predictor,
    experiment: Experiment,
    results: dict[str, Any],
    predictions: dict[str, np.ndarray],
) -> None:
    """Write the figures and the images of mistakes. Any that cannot be written only causes a warning."""
    recipe, dataset = experiment.recipe, experiment.dataset
    title = f"{recipe.model} on {dataset.name}{' (synthetic)' if dataset.info.synthetic else ''}"
    run.figures.mkdir(exist_ok=True)

    def curves(path: Path) -> None:
        from train.report import figures

        figures.learning_curves(rows, path, title, score=recipe.score)

    def confusion_matrix(path: Path) -> None:
        from train.report import figures

        figures.confusion_matrix(results["confusion_matrix"], dataset.class_names, path, title)

    def grid(path: Path) -> None:
        from train.report import figures

        assert isinstance(predictor.inputs, ImageInputs)
        shown = class_balanced_indices(predictions["labels"], 20)
        figures.prediction_grid(
            list(predictor.samples(dataset.splits["test"]).load(shown)),
            predictions["labels"][shown],
            predictions["predictions"][shown],
            confidence(predictions)[shown],
            dataset.class_names,
            path,
        )

    def tsne(path: Path) -> None:
        from train.analysis.embedding import tsne
        from train.report import figures

        points, chosen = tsne(predictions["features"], seed=recipe.seed, limit=TSNE_POINTS)
        labels = predictions["labels"][chosen]
        figures.tsne_figure(points, labels, dataset.class_names, path, title)

    def mistakes(folder: Path) -> None:
        save_thumbnails(folder, dataset.splits["test"], find_mistakes(predictions))

    is_classified = len(confidence(predictions)) > 0
    written: tuple[tuple[str, bool, Callable[[Path], None]], ...] = (
        ("curves.png", bool(rows), curves),
        ("confusion_matrix.png", "confusion_matrix" in results, confusion_matrix),
        ("predictions.png", is_classified, grid),
        ("tsne.png", len(predictions.get("features", ())) > 1, tsne),
        (MISTAKES, is_classified, mistakes),
    )
    for name, wanted, write in written:
        path = run.figures / name
        with optional(f"{path}"):
            # Left by an earlier test.
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if wanted:
                write(path)


def class_balanced_indices(labels: np.ndarray, count: int) -> np.ndarray:
    """Select up to `count` indices into labels [N]: equally many per class, evenly spaced, ordered by class."""
    classes = np.unique(labels)
    if len(classes) > count:
        classes = classes[np.linspace(0, len(classes) - 1, count).astype(int)]
    chosen = []
    for number, label in enumerate(classes):
        share = count // len(classes) + (number < count % len(classes))
        indices = np.flatnonzero(labels == label)
        chosen.append(indices[np.unique(np.linspace(0, len(indices) - 1, share).astype(int))])
    return np.concatenate(chosen)
