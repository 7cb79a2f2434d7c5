"""Results of a finished run: scores, predictions, figures and the report."""

import time
from typing import Any

import numpy as np

from datasets.pipeline import load_arrays
from train import cli
from train.analysis.clustering import clustering_metrics
from train.analysis.metrics import classification_metrics, prediction_scores, softmax
from train.engine.experiment import Experiment
from train.engine.inputs import ImageInputs
from train.predictor import Predictor
from train.record.directory import RunDir, write_json

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
      "autoencoder" has only a loss. Clusters are matched to classes one to one, on the split itself.
    """
    recipe, dataset = experiment.recipe, experiment.dataset
    score = _score_probe if recipe.probe.method != "none" else _score_network
    scores, predictions = score(predictor, experiment, split)
    data = dataset.splits[split]
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
    began = time.perf_counter()
    outputs = predictor.outputs(images, batch_size, labels)
    predictions: dict[str, np.ndarray] = {}
    names = dataset.class_names
    if predicts == "classes":
        scores = classification_metrics(labels, outputs["logits"], names)
    elif predicts == "clusters":
        log_probabilities = outputs["cluster_log_probabilities"]
        clusters = log_probabilities.argmax(axis=1)
        scores = clustering_metrics(labels, clusters, names, log_probabilities.shape[1])
        scores["loss"] = float(outputs["loss"].mean())
        predictions = _cluster_predictions(clusters, scores)
    else:
        scores = {"loss": float(outputs["loss"].mean()), "num_examples": len(labels)}
    elapsed = time.perf_counter() - began
    if predicts == "classes":
        probabilities = softmax(outputs["logits"]).astype(np.float32)
        predictions = {
            "probabilities": probabilities,
            "predictions": probabilities.argmax(axis=1).astype(np.int32),
        }
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
    """Fit the recipe's probe to the training split and score it; also its accuracy in training and validation."""
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
) -> dict[str, Any]:
    """Test the weights in best/; write test.json, the predictions and, with `figures`, the figures and the report.

    Returns the content of test.json.
    """
    results, predictions = test(predictor, experiment)
    rows = run.read_summary()
    best = [row for row in rows if row["epoch"] == results["best_epoch"]]
    for split, column in (("train", "train_accuracy"), ("validation", "val_accuracy")):
        if best and np.isfinite(best[0][column]):
            results.setdefault(f"{split}_accuracy", best[0][column])
    results |= facts
    write_json(run.test, results)
    np.savez_compressed(run.predictions, allow_pickle=False, **predictions)
    if figures:
        from train.report import html

        run.figures.mkdir(exist_ok=True)
        _write_figures(run, rows, predictor, experiment, results, predictions)
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
    from train.report import figures

    recipe, dataset = experiment.recipe, experiment.dataset
    title = f"{recipe.model} on {dataset.name}{' (synthetic)' if dataset.info.synthetic else ''}"
    if rows:
        figures.learning_curves(rows, run.figures / "curves.png", title, score=recipe.score)
    if "confusion_matrix" in results:
        figures.confusion_matrix(
            results["confusion_matrix"],
            dataset.class_names,
            run.figures / "confusion_matrix.png",
            title,
        )
    if "probabilities" in predictions:
        assert isinstance(predictor.inputs, ImageInputs)
        shown = class_balanced_indices(predictions["labels"], 20)
        figures.prediction_grid(
            list(predictor.samples(dataset.splits["test"]).load(shown)),
            predictions["labels"][shown],
            predictions["predictions"][shown],
            predictions["probabilities"].max(axis=1)[shown],
            dataset.class_names,
            run.figures / "predictions.png",
        )
    if "features" in predictions and len(predictions["features"]) > 1:
        from train.analysis.embedding import tsne

        points, chosen = tsne(predictions["features"], seed=recipe.seed, limit=TSNE_POINTS)
        labels = predictions["labels"][chosen]
        figures.tsne_figure(points, labels, dataset.class_names, run.figures / "tsne.png", title)


def class_balanced_indices(labels: np.ndarray, count: int) -> np.ndarray:
    """Select up to `count` indices of labels [N], equally many per class, evenly spaced, ordered by class."""
    classes = np.unique(labels)
    if len(classes) > count:
        classes = classes[np.linspace(0, len(classes) - 1, count).astype(int)]
    chosen = []
    for number, label in enumerate(classes):
        share = count // len(classes) + (number < count % len(classes))
        indices = np.flatnonzero(labels == label)
        chosen.append(indices[np.unique(np.linspace(0, len(indices) - 1, share).astype(int))])
    return np.concatenate(chosen)
