"""Embedding of features in two or three dimensions, for plots."""

import numpy as np
from sklearn.manifold import TSNE

from train.recipe import InputError


def tsne(
    x: np.ndarray, dims: int = 3, seed: int = 0, perplexity: float = 30, limit: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a t-SNE embedding (van der Maaten and Hinton 2008). Deterministic.

    Args:
      x: features, float [N, D].
      dims: dimensions of the embedding.
      seed: seed of the subsampling and of t-SNE.
      perplexity: effective number of neighbors; at most (M - 1) / 3 is used.
      limit: maximum number of points. 2,000 points take about 15 seconds in three dimensions on two idle cores.

    Returns:
      The embedding, float32 [M, dims], and the indices of its points in `x`, ascending, int [M], with
      M = min(N, limit).

    Raises:
      InputError: fewer than two samples.
    """
    chosen = np.arange(len(x))
    if len(x) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), limit, replace=False))
    if len(chosen) < 2:
        raise InputError(f"t-SNE needs at least 2 samples, but there are {len(chosen)}")
    points = np.asarray(x, np.float32)[chosen]
    # Initialization by principal components requires at least `dims` samples and features, and a nonzero spread.
    can_use_pca = min(points.shape) >= dims and np.ptp(points, axis=0).any()
    model = TSNE(
        dims,
        perplexity=min(perplexity, (len(points) - 1) / 3),
        init="pca" if can_use_pca else "random",
        # scikit-learn's "auto" is at least 50, which scatters a hundred points in three dimensions: for three groups of
        # 20 in ten dimensions, the KL divergence ends at 1.85, with a rate of 10 at 0.13.
        learning_rate=max(len(points) / 48, 10.0),
        random_state=seed,
    )
    return model.fit_transform(points).astype(np.float32), chosen
