"""Support vector machines and the diagnosis of rbf kernels that fail."""

import json

import numpy as np
import pytest

from train.analysis.svm import diagnose_rbf, fit_svm

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [40, 30, 30])
# Three groups in 400 dimensions, at a scale for which gamma 0.001 is too large.
CENTERS = RNG.normal(size=(3, 400))
FEATURES = 100 * (CENTERS[LABELS] + RNG.normal(size=(100, 400)))
ORDER = RNG.permutation(100)
TRAIN, VAL = ORDER[:60], ORDER[60:]


def test_standardized_features_generalize_and_raw_ones_are_memorized():
    """With the paper's C 1 and gamma 0.001, on large-scale features."""
    scores = {}
    for standardize in (True, False):
        machine = fit_svm(
            FEATURES[TRAIN], LABELS[TRAIN], c=1.0, gamma=0.001, standardize=standardize
        )
        scores[standardize] = [machine.score(FEATURES[i], LABELS[i]) for i in (TRAIN, VAL)]
    assert min(scores[True]) > 0.9
    assert scores[False][0] == 1
    assert len(set(machine.predict(FEATURES[VAL]))) == 1
    assert diagnose_rbf(FEATURES, LABELS)["verdict"] == "alone"
    standardized = (FEATURES - FEATURES.mean(axis=0)) / FEATURES.std(axis=0)
    assert diagnose_rbf(standardized, LABELS)["verdict"] == "usable"


def test_nearly_equal_features_give_the_largest_class():
    nearly_equal = 5 + 1e-3 * FEATURES / 100
    machine = fit_svm(nearly_equal, LABELS, c=1.0, gamma=0.001, standardize=False)
    assert set(machine.predict(nearly_equal)) == {0}
    diagnosis = diagnose_rbf(nearly_equal, LABELS)
    assert diagnosis["verdict"] == "alike"
    assert diagnosis["largest_class"] == machine.score(nearly_equal, LABELS) == 0.4
    assert "40.00%" in diagnosis["sentence"]
    assert diagnosis["median_kernel"] == pytest.approx(1, abs=1e-4)
    standardizing = fit_svm(nearly_equal, LABELS, gamma=0.001)
    assert standardizing.score(nearly_equal, LABELS) > 0.9


def test_default_gamma_is_scale():
    machine = fit_svm(FEATURES, LABELS, standardize=False)
    expected = fit_svm(FEATURES, LABELS, gamma=1 / (400 * FEATURES.var()), standardize=False)
    np.testing.assert_allclose(
        machine.decision_function(FEATURES), expected.decision_function(FEATURES)
    )


def test_diagnosis_by_hand():
    # Points 0, 1 and 3 on a line, with squared distances 1, 4 and 9; the second feature is constant.
    x = np.array([[0, 7], [1, 7], [3, 7]])
    diagnosis = diagnose_rbf(x, np.array([0, 1, 1]), gamma=0.5)
    assert diagnosis["median_kernel"] == pytest.approx(np.exp(-2))
    assert diagnosis["nearest_kernel"] == pytest.approx(np.exp(-0.5))  # exp(-0.5) twice, exp(-2)
    low, high = np.exp([-4.5, -2])
    assert diagnosis["farthest_kernel"] == pytest.approx(low + 0.2 * (high - low))
    assert diagnosis["constant_features"] == 0.5
    assert diagnosis["largest_class"] == 2 / 3
    assert json.loads(json.dumps(diagnosis, allow_nan=False)) == diagnosis


def test_kernel_near_one_is_usable_with_a_large_c():
    near = 0.01 * FEATURES / 100
    assert diagnose_rbf(near, LABELS)["verdict"] == "alike"
    assert fit_svm(near, LABELS, gamma=0.001, standardize=False).score(near, LABELS) == 0.4
    assert diagnose_rbf(near, LABELS, c=1e4)["verdict"] == "usable"
    assert fit_svm(near, LABELS, c=1e4, gamma=0.001, standardize=False).score(near, LABELS) == 1


def test_isolated_samples_are_memorized_unless_c_is_small():
    """Below a C of about 0.5, training data are assigned to the largest class."""
    assert diagnose_rbf(FEATURES, LABELS, c=0.1)["verdict"] == "alone"
    for c, accuracy in ((0.1, 0.4), (1.0, 1.0)):
        machine = fit_svm(FEATURES, LABELS, c=c, gamma=0.001, standardize=False)
        assert machine.score(FEATURES, LABELS) == accuracy


def test_tight_groups_far_apart_are_usable():
    """The kernel is 0 between groups and 1 within them, which an SVM classifies perfectly."""
    x = 1000 * np.eye(5)[np.repeat(np.arange(5), 10)]
    diagnosis = diagnose_rbf(x + RNG.normal(size=x.shape), np.repeat(np.arange(5), 10))
    assert (diagnosis["verdict"], diagnosis["median_kernel"]) == ("usable", 0)


def test_diagnosis_with_a_large_offset_and_a_limit():
    labels = np.zeros(500, int)
    x = RNG.normal(size=(500, 4))
    diagnosis = diagnose_rbf(x, labels, gamma=1.0, limit=100)
    shifted = diagnose_rbf(x + 1e7, labels, gamma=1.0, limit=100)
    assert shifted["median_kernel"] == pytest.approx(diagnosis["median_kernel"], rel=1e-6)
    assert diagnosis != diagnose_rbf(x, labels, gamma=1.0, limit=100, seed=1)
    assert diagnose_rbf(np.ones((5, 3)), labels[:5])["constant_features"] == 1
