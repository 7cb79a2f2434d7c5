"""Random images and vectors, since the time of a step does not depend on what they show."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datasets.dataset import SPLITS, Dataset, DatasetInfo, Split, VectorSplit
from train.engine.experiment import Experiment, StagePlan


def random_samples(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Images uint8 [N, H, W, 3], or vectors float32 [N, D] as of features after a ReLU."""
    if len(shape) == 4:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.random(shape, np.float32)


def dataset_of(parts: dict[str, np.ndarray], num_classes: int, seed: int = 0) -> Dataset:
    """A data set of samples that are in memory: images uint8 [N, H, W, 3], or vectors float32 [N, D], with random
    labels. A part that is not there is the training part again."""
    rng = np.random.default_rng(seed)
    splits: dict[str, Any] = {}
    for part in SPLITS:
        samples = parts.get(part, parts["train"])
        labels = rng.integers(0, num_classes, len(samples), np.int32)
        split = Split([f"{part}/{i}" for i in range(len(samples))], labels, samples.__getitem__)
        splits[part] = split if samples.ndim == 4 else VectorSplit(split, samples)
    return Dataset(
        name="random",
        splits=splits,
        class_names=tuple(str(label) for label in range(num_classes)),
        info=DatasetInfo("random", "random numbers", "made in memory", synthetic=True),
        fingerprint="",
    )


def first_batch(experiment: Experiment, plan: StagePlan) -> dict[str, np.ndarray]:
    """The first training images, as many as a batch has, as the pipeline gives them."""
    split = experiment.dataset.splits["train"]
    rows = np.arange(experiment.recipe.batch_size, dtype=np.int32)
    samples = experiment.inputs.training(split, plan.spec.augment)
    return {"image": samples.load(rows), "label": split.labels[rows], "index": rows}
