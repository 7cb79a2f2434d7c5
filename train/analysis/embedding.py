"""Features in two or three dimensions, to look at."""

import numpy as np
from sklearn.manifold import TSNE

from train.recipe import InputError


def tsne(
    x: np.ndarray, dims: int = 3, seed: int = 0, perplexity: float = 30, limit: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """t-SNE (van der Maaten and Hinton 2008) of float [N, D], as latent spaces are often shown.

    Returns the embedding, float32 [M, dims], and the positions in `x` of its points, ascending int [M]. M is N,
    or `limit` of them drawn with `seed`: 2,000 points take about 15 seconds in three dimensions on two idle cores.
    Where three neighbourhoods do not fit into M the perplexity is lowered. Equal input gives equal output.
    """
    chosen = np.arange(len(x))
    if len(x) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), limit, replace=False))
    if len(chosen) < 2:
        raise InputError(f"t-SNE needs at least 2 examples, and there are {len(chosen)}")
    points = np.asarray(x, np.float32)[chosen]
    # Principal components need as many features as dims, and a spread to be scaled by.
    has_components = min(points.shape) >= dims and np.ptp(points, axis=0).any()
    model = TSNE(
        dims,
        perplexity=min(perplexity, (len(points) - 1) / 3),
        init="pca" if has_components else "random",
        # scikit-learn's own, never below 50, throws a hundred points apart in three dimensions: of three
        # groups of 20, ten dimensions, it leaves a divergence of 1.85 where a rate of 10 leaves 0.13.
        learning_rate=max(len(points) / 48, 10.0),
        random_state=seed,
    )
    return model.fit_transform(points).astype(np.float32), chosen
