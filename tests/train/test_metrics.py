"""Scores compared with values computed by hand, scikit-learn and naive formulas."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from train.analysis.metrics import classification_metrics, log_softmax, loss_and_accuracy, softmax

# Six samples of three classes; the fourth and the sixth prediction are wrong.
LABELS = np.array([0, 0, 1, 1, 2, 2])
PREDICTED = [0, 0, 1, 2, 2, 0]
LOGITS = np.eye(3, dtype=np.float32)[PREDICTED] * 2


def test_scores_by_hand():
    scores = classification_metrics(LABELS, LOGITS, ["a", "b", "c"])
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["confusion_matrix"] == [[2, 0, 0], [0, 1, 1], [1, 0, 1]]
    precision, recall = [2 / 3, 1, 1 / 2], [1, 1 / 2, 1 / 2]
    assert scores["precision"] == pytest.approx(np.mean(precision))
    assert scores["recall"] == pytest.approx(np.mean(recall))
    f1 = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    assert scores["f1"] == pytest.approx(np.mean(f1))
    assert scores["weighted_f1"] == pytest.approx(np.mean(f1))  # two samples of each class
    assert scores["per_class"]["c"] == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    )
    loss_if_correct = np.log(1 + 2 * np.exp(-2))
    loss_if_wrong = loss_if_correct + 2
    assert scores["loss"] == pytest.approx((4 * loss_if_correct + 2 * loss_if_wrong) / 6)
    assert scores["num_examples"] == 6


def test_class_without_samples_or_predictions_scores_zero():
    scores = classification_metrics(LABELS, np.pad(LOGITS, ((0, 0), (0, 1))), list("abcd"))
    assert scores["per_class"]["d"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert scores["recall"] == pytest.approx(np.mean([1, 1 / 2, 1 / 2, 0]))
    assert np.shape(scores["confusion_matrix"]) == (4, 4)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 40))
def test_scores_equal_scikit_learn(seed, num_classes, total):
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, num_classes, total), rng.normal(size=(total, num_classes))
    scores = classification_metrics(labels, logits, [f"c{i}" for i in range(num_classes)])
    predicted = logits.argmax(axis=1)
    options = {"labels": range(num_classes), "zero_division": 0}
    for name in ("precision", "recall", "f1"):
        score = getattr(sklearn_metrics, f"{name}_score")
        for prefix, average in (("", "macro"), ("weighted_", "weighted")):
            expected = score(labels, predicted, average=average, **options)
            assert scores[f"{prefix}{name}"] == pytest.approx(expected)
    assert scores["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    naive = -np.log(np.exp(logits)[np.arange(total), labels] / np.exp(logits).sum(axis=1)).mean()
    assert scores["loss"] == pytest.approx(naive)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_extreme_logits_do_not_overflow():
    logits = np.array([[1e30, -1e30], [-3e38, 3e38], [0, 0]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[1, 0], [0, 1], [0.5, 0.5]])
    np.testing.assert_allclose(softmax(logits).sum(axis=1), 1)
    assert log_softmax(logits).max() <= 0
    loss, accuracy = loss_and_accuracy(np.array([0, 1, 0]), logits)
    assert (loss, accuracy) == (pytest.approx(np.log(2) / 3), 1.0)


def test_nan_logits_give_valid_json():
    scores = classification_metrics(
        np.array([0, 1]), np.full((2, 2), np.nan, np.float32), ["a", "b"]
    )
    assert scores["loss"] is None
    json.dumps(scores, allow_nan=False)
