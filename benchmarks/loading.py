"""Zoo worker of benchmarks.input_pipeline: the training batches that `train.run` streams."""

import time
from pathlib import Path
from typing import Any

from benchmarks import workers


class ZooLoading:
    """Loads batches of a data set with the zoo's pipeline."""

    def describe(self) -> dict[str, Any]:
        """Return versions, machine and commit."""
        from train.record.environment import environment

        facts = environment()
        del facts["command"]  # the worker's command, not the benchmark's
        return facts

    def build(
        self, path: str, num_workers: int, image_size: int, batch_size: int, decoder: Any
    ) -> int:
        """Open an image data set and load the first batches; return the number of training images.

        The decoder "pillow" is "exact" without the extra `fast`.
        """
        from datasets import ResizeRule, load_dataset, memory
        from datasets.images import resampling
        from datasets.pipeline import ImageSamples, TrainBatches

        if decoder == "pillow":
            resampling.available = lambda: False
            decoder = "exact"
        elif decoder == "exact" and not resampling.available():
            raise ValueError(
                'the decoder "exact" needs the extra `fast`: install it or use "pillow"'
            )
        split = load_dataset(Path(path)).splits["train"]
        memory.never_keep(split)
        batches = TrainBatches(
            ImageSamples(split, ResizeRule((image_size, image_size)), decoder),
            batch_size=batch_size,
            seed=0,
            num_epochs=10_000,
            num_threads=num_workers,
        )
        self._iterator = batches.iterate()
        self.run(2 * num_workers + 2)
        return len(split)

    def run(self, batches: int) -> float:
        """Return the seconds it takes to load `batches` more batches."""
        began = time.perf_counter()
        for _ in range(batches):
            next(self._iterator)
        return time.perf_counter() - began

    def peak_memory(self) -> float:
        """Return the peak memory of this process in MB."""
        return workers.peak_process_memory()


if __name__ == "__main__":
    workers.serve(ZooLoading())
