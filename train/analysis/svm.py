"""Support vector machines on features, and a diagnosis of rbf kernels that lead to chance accuracy.

In Table 2 of Han et al., "Animal face classification based on deep learning", the best SVM is at chance.
"""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

# A sample is isolated if its kernel with its nearest neighbor is below this.
ISOLATED = 0.01


def fit_svm(
    x: np.ndarray,
    labels: np.ndarray,
    *,
    c: float = 1.0,
    gamma: float | None = None,
    kernel: str = "rbf",
    standardize: bool = True,
) -> Pipeline:
    """Fit a support vector machine to features float [N, D] and labels int [N].

    `gamma` None is scikit-learn's "scale", 1 / (D * variance of x). `standardize` first scales each feature to mean 0
    and variance 1 over `x`; `predict` applies the same scaling.
    """
    machine = SVC(C=c, kernel=kernel, gamma="scale" if gamma is None else gamma)
    steps = [("scaler", StandardScaler())] if standardize else []
    return Pipeline([*steps, ("svm", machine)]).fit(x, labels)


def diagnose_rbf(
    x: np.ndarray,
    labels: np.ndarray,
    *,
    c: float = 1.0,
    gamma: float = 0.001,
    limit: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Diagnose whether an SVM with an rbf kernel of this C and gamma can distinguish the samples.

    Han et al. report accuracies of 37.29% (training), 35.09% (validation) and 35.07% (test) at C 1 and gamma 0.001.
    This is not memorization: the training accuracy would be near 100%. The largest of AFHQ's three classes, cat, has
    5,653 of the 16,130 images, 35.05%, so the SVM predicts cat for nearly all images. That happens if the features of
    nearly all images are alike, as in a network whose units are dead or saturated, or that has not learned anything
    (their first network, with linear activation: 35%, loss NaN).

    Args:
      x: features as seen by the kernel, float [N, D]: standardized ones if the SVM standardizes.
      labels: int [N].
      c: C of the SVM.
      gamma: gamma of the kernel exp(-gamma * squared distance).
      limit: maximum number of samples to use, drawn with `seed`.
      seed: seed of the subsampling.

    Returns:
      A JSON-serializable dict of c, gamma and:

      - median_kernel: median of the kernel over pairs of different samples;
      - nearest_kernel: median over samples of the kernel with the nearest neighbor;
      - farthest_kernel: the 10th percentile of the kernel over pairs;
      - constant_features: fraction of the D features whose standard deviation is below 1e-6 of the largest;
      - largest_class: fraction of the most frequent label among all N, the accuracy of always predicting it;
      - verdict: "alone", "alike" or "usable", and sentence, its explanation. "alone": the kernel matrix is nearly the
        identity. With a C of at least about 0.5, the training data are memorized (100%); with a smaller C they are
        assigned to the largest class, as new data are in any case. "alike": outputs differ by at most
        C * N * (1 - farthest_kernel), which is less than the width of the margin, 2, so training and test data are
        assigned to the largest class. "usable": neither.
    """
    chosen = np.arange(len(x))
    if len(x) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), limit, replace=False))
    points = np.asarray(x, np.float64)[chosen]
    # Centered: far from the origin, small distances would be lost to cancellation in the difference of squares below.
    points = points - points.mean(axis=0)
    deviations = points.std(axis=0)
    squares = (points**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
    kernel = np.exp(-gamma * distances)
    pairs = kernel[np.triu_indices_from(kernel, 1)]
    np.fill_diagonal(kernel, 0)
    median, nearest = float(np.median(pairs)), float(np.median(kernel.max(axis=1)))
    farthest = float(np.quantile(pairs, 0.1))
    largest = float(np.bincount(labels).max() / len(labels))
    if nearest < ISOLATED:
        verdict = "alone"
        sentence = (
            f"gamma {gamma:g} is too large for these features: the kernel of a sample with its nearest neighbor is"
            f" {nearest:.2g}, so every sample is similar only to itself. The SVM memorizes the training data (unless"
            f" C is small; it is {c:g}) and predicts the same class for all new data: standardize the features, or"
            " lower gamma"
        )
    elif c * len(x) * (1 - farthest) < 2:
        verdict = "alike"
        sentence = (
            f"C {c:g} and gamma {gamma:g} are too small for these features: the median kernel of two samples is 1 -"
            f" {1 - median:.2g}, so the SVM predicts the largest class ({largest:.2%}) for nearly all samples, even"
            " in training: standardize the features, or raise gamma or C"
        )
    else:
        verdict = "usable"
        sentence = (
            f"the kernel distinguishes samples at gamma {gamma:g}: median {median:.2g} over pairs, {nearest:.2g} for"
            " nearest neighbors"
        )
    return {
        "c": c,
        "gamma": gamma,
        "median_kernel": median,
        "nearest_kernel": nearest,
        "farthest_kernel": farthest,
        "constant_features": float(np.mean(deviations <= 1e-6 * deviations.max())),
        "largest_class": largest,
        "verdict": verdict,
        "sentence": sentence,
    }
