"""Support vector machines: both ways of failing."""

import json

import numpy as np
import pytest

from train.analysis.svm import diagnose_rbf, fit_svm

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [40, 30, 30])
# Three groups in 400 dimensions, of a scale that the kernel of gamma 0.001 cannot bear.
CENTRES = RNG.normal(size=(3, 400))
FEATURES = 100 * (CENTRES[LABELS] + RNG.normal(size=(100, 400)))
ORDER = RNG.permutation(100)
TRAIN, VAL = ORDER[:60], ORDER[60:]


def test_standardised_features_work_and_raw_ones_are_memorised():
    """Document 4's setting, C 1 and gamma 0.001, on features of a large scale."""
    scores = {}
    for standardise in (True, False):
        machine = fit_svm(
            FEATURES[TRAIN], LABELS[TRAIN], c=1.0, gamma=0.001, standardise=standardise
        )
        scores[standardise] = [machine.score(FEATURES[p], LABELS[p]) for p in (TRAIN, VAL)]
    assert min(scores[True]) > 0.9
    assert scores[False][0] == 1
    assert len(set(machine.predict(FEATURES[VAL]))) == 1
    assert diagnose_rbf(FEATURES, LABELS)["verdict"] == "alone"
    standard = (FEATURES - FEATURES.mean(axis=0)) / FEATURES.std(axis=0)
    assert diagnose_rbf(standard, LABELS)["verdict"] == "usable"


def test_features_that_are_alike_give_the_largest_class():
    alike = 5 + 1e-3 * FEATURES / 100
    machine = fit_svm(alike, LABELS, c=1.0, gamma=0.001, standardise=False)
    assert set(machine.predict(alike)) == {0}
    found = diagnose_rbf(alike, LABELS)
    assert found["verdict"] == "alike"
    assert found["largest_class"] == machine.score(alike, LABELS) == 0.4
    assert "40.00%" in found["sentence"]
    assert found["median_kernel"] == pytest.approx(1, abs=1e-4)
    assert fit_svm(alike, LABELS, gamma=0.001).score(alike, LABELS) > 0.9  # standardised


def test_default_gamma_is_scale():
    machine = fit_svm(FEATURES, LABELS, standardise=False)
    by_hand = fit_svm(FEATURES, LABELS, gamma=1 / (400 * FEATURES.var()), standardise=False)
    np.testing.assert_allclose(
        machine.decision_function(FEATURES), by_hand.decision_function(FEATURES)
    )


def test_diagnosis_by_hand():
    # Squared distances of 0, 1 and 3 on a line, the second feature constant: 1, 4, 9.
    x = np.array([[0, 7], [1, 7], [3, 7]])
    found = diagnose_rbf(x, np.array([0, 1, 1]), gamma=0.5)
    assert found["median_kernel"] == pytest.approx(np.exp(-2))
    assert found["nearest_kernel"] == pytest.approx(np.exp(-0.5))  # of exp(-0.5) twice, exp(-2)
    ordered = np.exp([-4.5, -2])
    assert found["farthest_kernel"] == pytest.approx(ordered[0] + 0.2 * (ordered[1] - ordered[0]))
    assert found["constant_features"] == 0.5
    assert found["largest_class"] == 2 / 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_kernel_near_one_is_usable_where_c_makes_up_for_it():
    near = 0.01 * FEATURES / 100
    assert diagnose_rbf(near, LABELS)["verdict"] == "alike"
    assert fit_svm(near, LABELS, gamma=0.001, standardise=False).score(near, LABELS) == 0.4
    assert diagnose_rbf(near, LABELS, c=1e4)["verdict"] == "usable"
    assert fit_svm(near, LABELS, c=1e4, gamma=0.001, standardise=False).score(near, LABELS) == 1


def test_small_c_cannot_even_memorise():
    """What the diagnosis says of "alone": below about a half, training data get the largest class, too."""
    assert diagnose_rbf(FEATURES, LABELS, c=0.1)["verdict"] == "alone"
    for c, accuracy in ((0.1, 0.4), (1.0, 1.0)):
        machine = fit_svm(FEATURES, LABELS, c=c, gamma=0.001, standardise=False)
        assert machine.score(FEATURES, LABELS) == accuracy


def test_tight_groups_far_apart_are_usable():
    """Most pairs have a kernel of 0 and the others of 1, and a machine is always right."""
    x = 1000 * np.eye(5)[np.repeat(np.arange(5), 10)]
    found = diagnose_rbf(x + RNG.normal(size=x.shape), np.repeat(np.arange(5), 10))
    assert (found["verdict"], found["median_kernel"]) == ("usable", 0)


def test_diagnosis_survives_a_large_offset_and_a_limit():
    labels = np.zeros(500, int)
    near = RNG.normal(size=(500, 4))
    found = diagnose_rbf(near, labels, gamma=1.0, limit=100)
    moved = diagnose_rbf(near + 1e7, labels, gamma=1.0, limit=100)
    assert moved["median_kernel"] == pytest.approx(found["median_kernel"], rel=1e-6)
    assert found != diagnose_rbf(near, labels, gamma=1.0, limit=100, seed=1)
    assert diagnose_rbf(np.ones((5, 3)), labels[:5])["constant_features"] == 1
