"""Running a model over a whole split: every example once."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def run_outputs(
    eval_step: Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]],
    variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Per-example outputs over padded batches (`image`, `mask`, and perhaps `label`), without the padding.

    Labels, where batches have them, come back as `label`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        outputs = dict(eval_step(variables, {"image": batch["image"]}))
        if "label" in batch:
            outputs["label"] = batch["label"]
        for name, values in outputs.items():
            parts.setdefault(name, []).append(values[batch["mask"]])
    return {name: np.concatenate(values) for name, values in parts.items()}


def array_batches(
    images: np.ndarray, batch_size: int, labels: np.ndarray | None = None
) -> Iterable[dict[str, np.ndarray]]:
    """Batches of arrays that are in memory, the last one padded with its first image."""
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, start + batch_size)
        mask = rows < len(images)
        rows = np.where(mask, rows, start)
        batch = {"image": images[rows], "mask": mask}
        if labels is not None:
            batch["label"] = labels[rows]
        yield batch
