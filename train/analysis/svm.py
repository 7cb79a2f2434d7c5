"""Support vector machines on features, and why a reported best answers at chance.

The report: Han et al., "Animal face classification based on deep learning", Table 2.
"""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

# An example whose nearest has less than this for a kernel is taken to be like itself only.
ALONE = 0.01


def fit_svm(
    x: np.ndarray,
    labels: np.ndarray,
    *,
    c: float = 1.0,
    gamma: float | None = None,
    kernel: str = "rbf",
    standardise: bool = True,
) -> Pipeline:
    """A support vector machine for features float [N, D] and labels int [N].

    gamma None is scikit-learn's "scale", 1 / (D * variance of x). `standardise` gives each feature mean 0 and
    variance 1 over `x` first, and `predict` does the same with what it is given.
    """
    machine = SVC(C=c, kernel=kernel, gamma="scale" if gamma is None else gamma)
    steps = [("scaler", StandardScaler())] if standardise else []
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
    """Whether an rbf machine of this C and gamma can tell features float [N, D] apart: numbers and a sentence.

    Returns, of at most `limit` examples drawn with `seed` (features as the kernel sees them: give standardised
    ones for a machine that standardises):
      - median_kernel: median of exp(-gamma * squared distance) over pairs of different examples;
      - nearest_kernel: the same of each example and its nearest, the median over examples;
      - farthest_kernel: a tenth of the pairs have less;
      - constant_features: share of the D features whose standard deviation is below 1e-6 of the largest;
      - largest_class: share of the most frequent label over all N, which is what answering it alone scores;
      - verdict and sentence. "alone": the kernel is nearly an identity matrix. From a C of about a half on the
        training data are memorised (100 %), below it they get the largest class, as new data do in any case.
        "alike": outputs differ by at most C * N * (1 - farthest_kernel), and that is less than the margin's width,
        2: training and test both get the largest class. "usable": neither.

    The 37.29 % of Han et al. in training, 35.09 in validation and 35.07 in test, at C 1 and gamma 0.001, is not
    memorization: training would be near 100 %. The largest of AFHQ's three classes, cat, has 5,653 of its 16,130
    images, 35.05 %: the machine answers cat to nearly everything, as it does where the features of nearly all
    images are alike. That is what a net leaves whose units are dead or saturated, or which has not learned
    (its first, with linear activation: 35 %, loss NaN).
    """
    chosen = np.arange(len(x))
    if len(x) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), limit, replace=False))
    points = np.asarray(x, np.float64)[chosen]
    # Around their mean: the difference of squares below would lose small distances far from the origin.
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
    if nearest < ALONE:
        verdict = "alone"
        sentence = (
            f"gamma {gamma:g} is too large for these features: the kernel of an example and its nearest is"
            f" {nearest:.2g}, so each is like itself only. The machine memorises the training data (if C is not"
            f" small; it is {c:g}) and gives what is new one and the same answer: standardise the features, or"
            " lower gamma"
        )
    elif c * len(x) * (1 - farthest) < 2:
        verdict = "alike"
        sentence = (
            f"the features are all alike at C {c:g} and gamma {gamma:g}: the kernel of two examples is 1 -"
            f" {1 - median:.2g}, so the machine answers the largest class ({largest:.2%}) to nearly everything,"
            " in training too: standardise the features, or raise gamma or C"
        )
    else:
        verdict = "usable"
        sentence = (
            f"the kernel tells examples apart at gamma {gamma:g}: {median:.2g} in the median, {nearest:.2g}"
            " for the nearest"
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
