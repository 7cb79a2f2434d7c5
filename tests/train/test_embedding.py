"""t-SNE: neighborhoods are preserved, results are deterministic, and any number of points works."""

import numpy as np
import pytest

from train.analysis.embedding import tsne
from train.recipe import InputError

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 20)
FEATURES = (20 * np.eye(3, 10)[LABELS] + RNG.normal(size=(60, 10))).astype(np.float32)


@pytest.mark.slow
def test_neighbors_remain_neighbors():
    points, chosen = tsne(FEATURES, perplexity=10)
    assert points.shape == (60, 3) and points.dtype == np.float32
    np.testing.assert_array_equal(chosen, np.arange(60))
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(60, np.inf))
    np.testing.assert_array_equal(LABELS[distances.argmin(axis=1)], LABELS)


@pytest.mark.slow
def test_limit_subsamples_by_the_seed():
    points, chosen = tsne(FEATURES, dims=2, seed=3, limit=20)
    same_points, same_chosen = tsne(FEATURES, dims=2, seed=3, limit=20)
    np.testing.assert_array_equal(points, same_points)
    np.testing.assert_array_equal(chosen, same_chosen)
    assert points.shape == (20, 2)
    assert np.all(np.diff(chosen) > 0) and chosen.max() < 60
    # The embedding equals that of the chosen samples alone.
    np.testing.assert_array_equal(tsne(FEATURES[chosen], dims=2, seed=3)[0], points)
    _, other = tsne(FEATURES, dims=2, seed=4, limit=20)
    assert chosen.tolist() != other.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 10), (5, 10), (40, 2)])
def test_few_points_and_few_features(shape):
    points, chosen = tsne(RNG.normal(size=shape))
    assert points.shape == (shape[0], 3) and len(chosen) == shape[0]
    assert np.isfinite(points).all()


def test_identical_points():
    assert np.isfinite(tsne(np.ones((12, 4)))[0]).all()


def test_one_point_raises_input_error():
    with pytest.raises(InputError, match="at least 2 samples, but there are 1"):
        tsne(np.ones((1, 4)))
