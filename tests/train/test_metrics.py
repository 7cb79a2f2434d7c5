"""Scores compared with values computed by hand, scikit-learn and naive formulas."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from train.analysis.metrics import (
    averages_of_present,
    classification_metrics,
    confusions,
    log_softmax,
    loss_and_accuracy,
    score_logits,
    softmax,
)

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


def names(count):
    return [f"c{i}" for i in range(count)]


def test_macro_averages_over_the_classes_with_samples():
    scores = classification_metrics(LABELS, np.pad(LOGITS, ((0, 0), (0, 2))), names(5))
    three = classification_metrics(LABELS, LOGITS, names(3))
    expected = {name: three[name] for name in ("precision", "recall", "f1")}
    assert averages_of_present(scores) == pytest.approx(expected)


@pytest.mark.parametrize("count", [200, 201])
def test_more_than_200_classes_have_sparse_confusions(count):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, count, 400), rng.normal(size=(400, count)).astype(np.float32)
    scores, arrays = score_logits(labels, [logits[:150], logits[150:]], names(count))
    predicted = logits.argmax(axis=1)
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(count))
    if count == 200:
        assert scores["confusion_matrix"] == expected.tolist()
        np.testing.assert_allclose(arrays["probabilities"], softmax(logits), rtol=1e-6)
    else:
        assert "confusion_matrix" not in scores
        rows, columns, counts = np.array(scores["confusions"]).T
        matrix = np.zeros((count, count), int)
        matrix[rows, columns] = counts
        assert (matrix == expected).all() and len(rows) == np.count_nonzero(expected)
        order = np.argsort(-logits, axis=1)[:, :5]
        np.testing.assert_array_equal(arrays["top_classes"], order)
        top = np.take_along_axis(softmax(logits), order, 1)
        np.testing.assert_allclose(arrays["top_probabilities"], top, rtol=1e-6)
    assert arrays["predictions"].tolist() == predicted.tolist()
    assert scores["loss"] == loss_and_accuracy(labels, logits)[0]


def test_confusions_leave_out_predictions_of_no_class():
    found = confusions(np.array([0, 1, 1, 1], np.int32), np.array([1, -1, 1, 1]), 2)
    assert found.tolist() == [[0, 1, 1], [1, 1, 2]]


def test_ten_thousand_classes_take_little_memory():
    """A matrix would take 800 MB; the logits of all samples 40 MB."""
    count, total = 10_000, 1000
    labels = np.arange(total) * 7 % count
    chunks = (np.roll(np.eye(20, count, dtype=np.float32), 20 * i, axis=1) for i in range(50))
    tracemalloc.start()
    scores, arrays = score_logits(labels, chunks, names(count))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(n for _, _, n in scores["confusions"]) == total
    assert arrays["predictions"].tolist() == list(range(total))
    assert peak < 40e6
    assert len(json.dumps(scores)) < 2e6
