"""Scores of a classifier from labels and logits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

# With more classes, test.json lists the confusions that occur instead of a matrix (10,000 classes: 287 MiB of zeros),
# and predictions.npz contains the most probable classes instead of all probabilities.
MAX_DENSE_CLASSES = 200
TOP_CLASSES = 5
# Logits converted to float64 at a time, few enough for a core's cache: with 10,000 classes and 10,000 test images, the
# end of a run takes 4.0 s in place of 5.2.
CHUNK_VALUES = 1 << 17


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of the classes, float64 [N, C]. Does not overflow for large logits."""
    shifted, log_sum = _shift(logits)
    return shifted - log_sum


def _shift(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 arrays [N, C] and [N, 1] whose difference gives the log-probabilities."""
    shifted = logits.astype(np.float64)
    shifted -= logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return shifted, np.log(exponentials.sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, float64 [N, C]. Rows sum to 1."""
    return np.exp(log_softmax(logits))


def loss_and_accuracy(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy in nats, and accuracy, for labels int [N] and logits [N, C]."""
    reduced = _reduce(labels, [logits], logits.shape[1])
    return _loss(reduced), float(np.mean(reduced["predictions"] == labels))


def _reduce(
    labels: np.ndarray, chunks: Iterable[np.ndarray], num_classes: int, keep: bool = False
) -> dict[str, np.ndarray]:
    """Reduce logits [n, C], given in chunks, to `log_likelihoods` float64 [N] and `predictions` int32 [N].

    With `keep`, also `probabilities` float32 [N, C] or, with many classes, `top_classes` int32 and `top_probabilities`
    float32 [N, TOP_CLASSES], most probable first.
    """
    parts: dict[str, list[np.ndarray]] = {}
    start = 0
    rows = max(1, CHUNK_VALUES // num_classes)
    blocks = (chunk[at : at + rows] for chunk in chunks for at in range(0, len(chunk), rows))
    for logits in blocks:
        shifted, log_sum = _shift(logits)
        picked = shifted[np.arange(len(logits)), labels[start : start + len(logits)]]
        start += len(logits)
        reduced = {
            "log_likelihoods": picked - log_sum[:, 0],
            "predictions": logits.argmax(axis=1).astype(np.int32),
        }
        if keep and num_classes <= MAX_DENSE_CLASSES:
            reduced["probabilities"] = np.exp(shifted - log_sum).astype(np.float32)
        elif keep:
            top = np.argpartition(logits, -TOP_CLASSES, axis=1)[:, -TOP_CLASSES:]
            order = np.argsort(-np.take_along_axis(logits, top, 1), axis=1, kind="stable")
            top = np.take_along_axis(top, order, 1)
            probabilities = np.exp(np.take_along_axis(shifted, top, 1) - log_sum)
            reduced["top_classes"] = top.astype(np.int32)
            reduced["top_probabilities"] = probabilities.astype(np.float32)
        for name, values in reduced.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _loss(reduced: Mapping[str, np.ndarray]) -> float:
    return float(-reduced["log_likelihoods"].mean())


def confusions(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count each pair of true and predicted class that occurs: (row, column, count), int64 [M, 3], sorted.

    Predictions of -1 (no class) are left out.
    """
    kept = predicted >= 0
    codes = labels[kept].astype(np.int64) * num_classes + predicted[kept]
    pairs, counts = np.unique(codes, return_counts=True)
    return np.stack([*np.divmod(pairs, num_classes), counts], axis=1)


def prediction_scores(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Compute the scores of `classification_metrics` that require only predictions, int [N].

    A prediction of -1 means no class and counts as wrong.
    """
    classes = np.arange(len(class_names))
    per_class = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    precision, recall, f1, support = (np.asarray(values) for values in per_class)
    averages = {"precision": precision, "recall": recall, "f1": f1}
    counts = confusions(labels, predicted, len(classes))
    if len(classes) <= MAX_DENSE_CLASSES:
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        matrix[counts[:, 0], counts[:, 1]] = counts[:, 2]
        confused = {"confusion_matrix": matrix.tolist()}
    else:
        confused = {"confusions": counts.tolist()}
    weights = support / max(support.sum(), 1)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        **{name: float(values.mean()) for name, values in averages.items()},
        **{f"weighted_{name}": float(values @ weights) for name, values in averages.items()},
        "num_examples": len(labels),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(class_names)
        },
        **confused,
    }


def classification_metrics(
    labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Compute all scores of a classifier from its logits, float [N, C]: those of `score_logits`."""
    return score_logits(labels, [logits], class_names)[0]


def score_logits(
    labels: np.ndarray, chunks: Iterable[np.ndarray], class_names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compute all scores of a classifier, and its predictions.

    Args:
      labels: int [N], indices into `class_names`.
      chunks: float [n, C] each; concatenated, the logits of the N samples. Only one chunk is in memory at a time.
      class_names: C names.

    Returns:
      The scores, as JSON-able data: accuracy, loss, scores per class, and averages of precision, recall and F1: macro
      averages, and weighted by the number of samples of each class (`weighted_...`; the weighted recall is the
      accuracy). A class that is never predicted has precision 0, a class without samples recall 0. A loss that is not
      finite is None. Rows of `confusion_matrix` are true classes; with more than 200 classes it is replaced by
      `confusions`, the list of (row, column, count) of all counts above 0.

      The predictions, as arrays: `predictions` int32 [N], and `probabilities` float32 [N, C] or, with more than 200
      classes, `top_classes` int32 [N, 5] and `top_probabilities` float32 [N, 5], most probable first, and `confusions`.
    """
    reduced = _reduce(labels, chunks, len(class_names), keep=True)
    loss = _loss(reduced)
    del reduced["log_likelihoods"]
    scores = prediction_scores(labels, reduced["predictions"], class_names)
    return scores | {"loss": loss if np.isfinite(loss) else None}, reduced


def averages_of_present(scores: Mapping[str, Any]) -> dict[str, float]:
    """Macro averages over the classes that have samples, for data that lack some of the model's classes.

    `scores` are those of `prediction_scores`.
    """
    present = [row for row in scores["per_class"].values() if row["support"]]
    names = ("precision", "recall", "f1")
    return {name: float(np.mean([row[name] for row in present])) for name in names}
