"""What a finished run leaves: test results, predictions, figures and the report."""

import time
from typing import Any

import numpy as np

from datasets import Dataset
from datasets.pipeline import load_arrays
from train.analysis.metrics import classification_metrics, softmax
from train.predictor import Predictor
from train.recipe import Recipe
from train.rundir import RunDir, write_json

# Fields of test.json that differ from one evaluation to the next.
TIMES = ("test_time_ms", "train_time_ms")


def test(
    predictor: Predictor, dataset: Dataset, recipe: Recipe, split: str = "test"
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Score a predictor on a whole split.

    Returns the results that need no knowledge of the training, and the predictions. `test_time_ms` is the
    wall time of predicting and scoring, from images that are decoded to uint8 in host memory, with the
    program compiled beforehand.
    """
    examples = dataset.splits[split]
    images, labels = load_arrays(examples, predictor.geometry)
    predictor.outputs(images[: recipe.batch_size], recipe.batch_size)  # compiles
    began = time.perf_counter()
    outputs = predictor.outputs(images, recipe.batch_size, labels)
    scores = classification_metrics(outputs["label"], outputs["logits"], dataset.class_names)
    elapsed = time.perf_counter() - began
    probabilities = softmax(outputs["logits"]).astype(np.float32)
    predictions = {
        "probabilities": probabilities,
        "predictions": probabilities.argmax(axis=1).astype(np.int32),
        "labels": labels,
        "ids": np.array(examples.ids),
        "class_names": np.array(dataset.class_names),
    }
    results = {
        "model": recipe.model,
        "dataset": dataset.name,
        "synthetic": dataset.info.synthetic,
        "split": split,
        **scores,
        "test_time_ms": round(1000 * elapsed, 1),
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "best_epoch": predictor.info["epoch"],
    }
    return results, predictions


def finish(
    run: RunDir, predictor: Predictor, dataset: Dataset, recipe: Recipe, facts: dict[str, Any]
) -> dict[str, Any]:
    """Test the best weights and write test.json, predictions, figures and report. Returns the results."""
    from train.report import figures, html

    results, predictions = test(predictor, dataset, recipe)
    results |= facts
    write_json(run.test, results)
    np.savez_compressed(run.predictions, allow_pickle=False, **predictions)

    run.figures.mkdir(exist_ok=True)
    title = f"{recipe.model} on {dataset.name}{' (synthetic)' if dataset.info.synthetic else ''}"
    figures.learning_curves(run.read_summary(), run.figures / "curves.png", title)
    figures.confusion_matrix(
        results["confusion_matrix"],
        dataset.class_names,
        run.figures / "confusion_matrix.png",
        title,
    )
    shown = sample_of_classes(predictions["labels"], 20)
    figures.prediction_grid(
        [dataset.splits["test"].resized(int(i), predictor.geometry) for i in shown],
        predictions["labels"][shown],
        predictions["predictions"][shown],
        predictions["probabilities"].max(axis=1)[shown],
        dataset.class_names,
        run.figures / "predictions.png",
    )
    html.write_report(run.path)
    return results


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
