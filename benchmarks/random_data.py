"""Random images and feature vectors. The time of a step does not depend on their content."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datasets.dataset import SPLITS, Dataset, DatasetInfo, Split, VectorSplit
from train.engine.experiment import Experiment, StagePlan


def random_samples(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Return images, uint8 [N, H, W, 3], or non-negative vectors like features after a ReLU, float32 [N, D]."""
    if len(shape) == 4:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.random(shape, np.float32)


def dataset_of(arrays: dict[str, np.ndarray], num_classes: int, seed: int = 0) -> Dataset:
    """Return a data set of in-memory samples with random labels.

    `arrays` maps splits to images, uint8 [N, H, W, 3], or vectors, float32 [N, D]. Missing splits use the training
    samples.
    """
    rng = np.random.default_rng(seed)
    splits: dict[str, Any] = {}
    for name in SPLITS:
        samples = arrays.get(name, arrays["train"])
        labels = rng.integers(0, num_classes, len(samples), np.int32)
        split = Split([f"{name}/{i}" for i in range(len(samples))], labels, samples.__getitem__)
        splits[name] = split if samples.ndim == 4 else VectorSplit(split, samples)
    return Dataset(
        name="random",
        splits=splits,
        class_names=tuple(str(label) for label in range(num_classes)),
        info=DatasetInfo("random", "random numbers", "generated in memory", synthetic=True),
        fingerprint="",
    )


def first_batch(experiment: Experiment, plan: StagePlan) -> dict[str, np.ndarray]:
    """Return the first training batch in the pipeline's format."""
    split = experiment.dataset.splits["train"]
    rows = np.arange(experiment.recipe.batch_size, dtype=np.int32)
    samples = experiment.inputs.train_samples(split, plan.spec.augment)
    return {"image": samples.load(rows), "label": split.labels[rows], "index": rows}
