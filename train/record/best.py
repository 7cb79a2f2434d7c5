"""The self-contained folder `best/`: the best weights and everything needed to use them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zoo
from train.record.directory import write_json
from train.record.environment import versions
from train.record.log import NewBest, RunLog

FORMAT = 2  # format 1: version 0.1
WEIGHTS = "weights.safetensors"
MODEL = "model.json"


class BestWriter(RunLog):
    """Writes the weights of each new best epoch, and their description, to two files in a folder.

    `model.json` is written last and contains the digest of the weights, so a mismatch reveals an incomplete write.
    """

    def __init__(
        self, directory: Path, model: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> None:
        """Prepare to write; creates no files.

        Args:
          directory: the folder `best/`.
          model: name, options, dtype, num_classes, class_names, probe, input_shape, preprocessing.
          provenance: origin of pretrained weights and data.
        """
        self._directory = directory
        self._model = model
        self._provenance = provenance

    def new_best(self, best: NewBest) -> None:
        """Replace the previous best."""
        digest = zoo.save_variables(self._directory / WEIGHTS, best.variables)
        facts = {**self._provenance, **best.facts}
        description = {
            "format": FORMAT,
            **self._model,
            "options": {**self._model["options"], **best.stage.model_options},
            "objective": best.stage.objective,
            **{k: None if _is_not_finite(v) else v for k, v in facts.items()},
            "weights_sha256": digest,
            "versions": versions(),
        }
        write_json(self._directory / MODEL, description)


class LatestBestWriter(BestWriter):
    """Writes only the latest best epoch before each checkpoint, and at the end of training.

    For many runs with short epochs, whose files would take longer to write than to train. `best/` is never older than
    the checkpoint.
    """

    _latest: NewBest | None = None

    def new_best(self, best: NewBest) -> None:
        """Keep the weights in memory."""
        self._latest = best

    def flush(self) -> None:
        """Replace the previous best, if there is a new one."""
        if self._latest is not None:
            super().new_best(self._latest)
            self._latest = None

    def run_ended(self) -> None:
        """Write the latest best."""
        self.flush()


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
