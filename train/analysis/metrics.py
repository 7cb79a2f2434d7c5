"""Scores of a classifier from labels and logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of the classes, float64 [N, C]. Does not overflow for large logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, float64 [N, C]. Rows sum to 1."""
    return np.exp(log_softmax(logits))


def loss_and_accuracy(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy in nats, and accuracy, for labels int [N] and logits [N, C]."""
    picked = log_softmax(logits)[np.arange(len(labels)), labels]
    return float(-picked.mean()), float(np.mean(logits.argmax(axis=1) == labels))


def prediction_scores(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Compute the scores of `classification_metrics` that require only predictions, int [N].

    A prediction of -1 stands for no class and counts as wrong.
    """
    classes = np.arange(len(class_names))
    per_class = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    precision, recall, f1, support = (np.asarray(values) for values in per_class)
    averages = {"precision": precision, "recall": recall, "f1": f1}
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
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }


def classification_metrics(
    labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Compute all scores of a classifier, as JSON-able data.

    Args:
      labels: int [N], indices into `class_names`.
      logits: float [N, C].
      class_names: C names.

    Returns:
      Accuracy, loss, scores per class, and averages of precision, recall and F1: macro averages, and weighted by the
      number of samples of each class (`weighted_...`; the weighted recall is the accuracy). A class that is never
      predicted has precision 0, a class without samples recall 0. A loss that is not finite is None. Rows of the
      confusion matrix are true classes.
    """
    loss, _ = loss_and_accuracy(labels, logits)
    scores = prediction_scores(labels, logits.argmax(axis=1), class_names)
    return scores | {"loss": loss if np.isfinite(loss) else None}
