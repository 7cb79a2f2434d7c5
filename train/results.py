"""What a finished run leaves: test results, predictions, figures and the report."""

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

# Fields of test.json that differ from one evaluation to the next.
TIMES = ("test_time_ms", "train_time_ms")

# Fields of test.json that only the training knows.
OF_TRAINING = ("train_accuracy", "validation_accuracy", "train_time_ms", "epochs_run")

TSNE_POINTS = 1000

Results = tuple[dict[str, Any], dict[str, np.ndarray]]


def test(predictor: Predictor, experiment: Experiment, split: str = "test") -> Results:
    """Score a predictor on a whole split.

    Returns the results that need no knowledge of the training, and the predictions. `test_time_ms` is the
    wall time of predicting and scoring, from images that are decoded to uint8 in host memory, with the
    program compiled beforehand; of a probe it is that of its predictions and scores from features.

    `scored_by` says what answered: the net ("classification"), its clusters ("vade", "gmvae"), the probe of the
    recipe ("svm", "kmeans", "gmm"); or "autoencoder", which has a loss and nothing else. Clusters are matched to
    classes on the split itself, one to one.
    """
    recipe, dataset = experiment.recipe, experiment.dataset
    scored = _probe if recipe.probe.method != "none" else _answers
    scores, predictions = scored(predictor, experiment, split)
    examples = dataset.splits[split]
    predictions |= {
        "labels": examples.labels,
        "ids": np.array(examples.ids),
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


def _answers(predictor: Predictor, experiment: Experiment, split: str) -> Results:
    """What the net says itself."""
    dataset, batch_size = experiment.dataset, experiment.recipe.batch_size
    images, labels = load_arrays(predictor.samples(dataset.splits[split]))
    predictor.outputs(images[:batch_size], batch_size)  # compiles
    answers = predictor.objective.answers
    began = time.perf_counter()
    outputs = predictor.outputs(images, batch_size, labels)
    predictions: dict[str, np.ndarray] = {}
    names = dataset.class_names
    if answers == "classes":
        scores = classification_metrics(labels, outputs["logits"], names)
    elif answers == "clusters":
        log_probabilities = outputs["cluster_log_probabilities"]
        clusters = log_probabilities.argmax(axis=1)
        scores = clustering_metrics(labels, clusters, names, log_probabilities.shape[1])
        scores["loss"] = float(outputs["loss"].mean())
        predictions = _of_clusters(clusters, scores)
    else:
        scores = {"loss": float(outputs["loss"].mean()), "num_examples": len(labels)}
    elapsed = time.perf_counter() - began
    if answers == "classes":
        probabilities = softmax(outputs["logits"]).astype(np.float32)
        predictions = {
            "probabilities": probabilities,
            "predictions": probabilities.argmax(axis=1).astype(np.int32),
        }
    if "latent" in outputs:
        predictions["features"] = outputs["latent"]
    by = {"scored_by": predictor.info["objective"], "test_time_ms": round(1000 * elapsed, 1)}
    return scores | by, predictions


def _of_clusters(clusters: np.ndarray, scores: dict[str, Any]) -> dict[str, np.ndarray]:
    matched = np.array(scores["class_of_cluster"])
    return {
        "clusters": clusters.astype(np.int32),
        "predictions": matched[clusters].astype(np.int32),
    }


def _probe(predictor: Predictor, experiment: Experiment, split: str) -> Results:
    """What the recipe's probe says, fitted to the training part; with its accuracy on the other parts."""
    from train.probing import FittedProbe, probe_features

    recipe, dataset = experiment.recipe, experiment.dataset
    probe, names = recipe.probe, dataset.class_names
    progress = cli.Progress()
    try:
        features = probe_features(predictor, experiment, cli.progress_callback(progress))
    finally:
        progress.stop()
    train = dataset.splits["train"].labels
    fitted = FittedProbe(probe, features["train"], train, len(names), recipe.seed)

    def scores_of(part: str) -> Results:
        labels, answers = dataset.splits[part].labels, fitted.predict(features[part])
        if probe.method == "svm":
            scores = {"loss": None} | prediction_scores(labels, answers, names)
            return scores, {"predictions": answers.astype(np.int32)}
        scores = clustering_metrics(labels, answers, names, fitted.num_clusters)
        return scores, _of_clusters(answers, scores)

    began = time.perf_counter()
    scores, predictions = scores_of(split)
    elapsed = time.perf_counter() - began
    others = {
        f"{part}_accuracy": scores_of(part)[0]["accuracy"] for part in ("train", "validation")
    }
    by = {"scored_by": probe.method, "test_time_ms": round(1000 * elapsed, 1)}
    vectors = {"features": features[split].astype(np.float32)}
    return scores | others | by | fitted.notes, predictions | vectors


def finish(
    run: RunDir,
    predictor: Predictor,
    experiment: Experiment,
    facts: dict[str, Any],
    figures: bool = True,
) -> dict[str, Any]:
    """Test the best weights and write test.json, predictions, and figures with a report. Returns the results."""
    results, predictions = test(predictor, experiment)
    rows = run.read_summary()
    best = [row for row in rows if row["epoch"] == results["best_epoch"]]
    for part, column in (("train", "train_accuracy"), ("validation", "val_accuracy")):
        if best and np.isfinite(best[0][column]):
            results.setdefault(f"{part}_accuracy", best[0][column])
    results |= facts
    write_json(run.test, results)
    np.savez_compressed(run.predictions, allow_pickle=False, **predictions)
    if figures:
        from train.report import html

        run.figures.mkdir(exist_ok=True)
        _draw(run, rows, predictor, experiment, results, predictions)
        html.write_report(run.path)
    return results


def _draw(
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
        figures.learning_curves(rows, run.figures / "curves.png", title)
    if "confusion_matrix" in results:
        figures.confusion_matrix(
            results["confusion_matrix"],
            dataset.class_names,
            run.figures / "confusion_matrix.png",
            title,
        )
    if "probabilities" in predictions:
        assert isinstance(predictor.inputs, ImageInputs)
        shown = sample_of_classes(predictions["labels"], 20)
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


def sample_of_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` positions of labels [N], in order of class: as many of each class, evenly over its examples."""
    classes = np.unique(labels)
    if len(classes) > count:
        classes = classes[np.linspace(0, len(classes) - 1, count).astype(int)]
    chosen = []
    for number, name in enumerate(classes):
        share = count // len(classes) + (number < count % len(classes))
        places = np.flatnonzero(labels == name)
        chosen.append(places[np.unique(np.linspace(0, len(places) - 1, share).astype(int))])
    return np.concatenate(chosen)
