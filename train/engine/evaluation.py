"""Evaluation of a model on a whole split, every sample once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np


def collect_outputs(
    eval_step: Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]],
    variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Compute the outputs of every sample: like `output_batches`, but each output as one array [N, ...]."""
    collected: dict[str, list[np.ndarray]] = {}
    for outputs in output_batches(eval_step, variables, batches):
        for name, values in outputs.items():
            collected.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in collected.items()}


def output_batches(
    eval_step: Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]],
    variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
) -> Iterator[dict[str, np.ndarray]]:
    """Compute the outputs of each batch.

    Args:
      eval_step: maps (variables, {"image": ...}) to outputs [B, ...].
      variables: the model's variables.
      batches: dicts of `image`, `mask` bool [B], False for padding, and optionally `label`.

    Yields:
      Per batch, each output as an array [n, ...] without the padding; also `label` if the batches have it.
    """
    for batch in batches:
        outputs = dict(eval_step(variables, {"image": batch["image"]}))
        if "label" in batch:
            outputs["label"] = batch["label"]
        yield {name: values[batch["mask"]] for name, values in outputs.items()}


def array_batches(
    images: np.ndarray, batch_size: int, labels: np.ndarray | None = None
) -> Iterable[dict[str, np.ndarray]]:
    """Yield batches of in-memory images. The last batch is padded with its first image."""
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, start + batch_size)
        mask = rows < len(images)
        rows = np.where(mask, rows, start)
        batch = {"image": images[rows], "mask": mask}
        if labels is not None:
            batch["label"] = labels[rows]
        yield batch
