"""The zoo's side of benchmarks.input_pipeline: the training batches that `train.run` feeds step by step."""

import time
from pathlib import Path
from typing import Any

from benchmarks import workers


class ZooLoading:
    """What the coordinator calls."""

    def describe(self) -> dict[str, Any]:
        """Versions, machine and commit."""
        from train.run import environment

        facts = environment()
        del facts["command"]  # this worker's own
        return facts

    def build(
        self, path: str, num_workers: int, image_size: int, batch_size: int, decoder: Any
    ) -> int:
        """Open a data set of images, and load the first batches; how many images an epoch has.

        The decoder "pillow" is "exact" on a machine without the extra `fast`.
        """
        from datasets import load_dataset
        from datasets.images import resampling
        from datasets.images.decode import Geometry
        from datasets.pipeline import TrainBatches

        if decoder == "pillow":
            resampling.available = lambda: False
            decoder = "exact"
        elif decoder == "exact" and not resampling.available():
            raise ValueError('"exact" takes the extra `fast`, or is what "pillow" times')
        split = load_dataset(Path(path)).splits["train"]
        batches = TrainBatches(
            split,
            batch_size=batch_size,
            geometry=Geometry((image_size, image_size), decoder=decoder),
            seed=0,
            num_epochs=10_000,
            num_threads=num_workers,
        )
        self._iterator = batches.iterate()
        self.run(2 * num_workers + 2)
        return len(split)

    def run(self, batches: int) -> float:
        """Seconds until so many more batches have arrived."""
        began = time.perf_counter()
        for _ in range(batches):
            next(self._iterator)
        return time.perf_counter() - began

    def peak_memory(self) -> float:
        """Of this process, in MB."""
        return workers.peak_process_memory()


if __name__ == "__main__":
    workers.serve(ZooLoading())
