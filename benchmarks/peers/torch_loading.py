"""The torch side of benchmarks.input_pipeline: torchvision's ImageFolder and torch's DataLoader.

Pillow decodes and resizes, as torchvision does by default. "exact" leaves images uint8, as the zoo has them, for a
script that converts on the device; "float32" is the transform of torchvision's documentation and of its reference
training: scaled to [0, 1] and normalised by the workers. Workers persist from epoch to epoch.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import workers
from benchmarks.peers.any_torchvision import torchvision

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchLoading:
    """What the coordinator calls."""

    def describe(self) -> dict[str, Any]:
        """Versions."""
        return {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        }

    def build(
        self, path: str, num_workers: int, image_size: int, batch_size: int, decoder: str
    ) -> int:
        """Open a folder of images, and load the first batches; how many images an epoch has."""
        transforms = torchvision.transforms
        if decoder not in ("exact", "float32"):
            raise ValueError(f"torchvision's loader has no decoder {decoder!r}")
        to_tensor = [transforms.PILToTensor()]
        if decoder == "float32":
            to_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
        resize = transforms.Resize((image_size, image_size))
        dataset = torchvision.datasets.ImageFolder(path, transforms.Compose([resize, *to_tensor]))
        self._loader = torch.utils.data.DataLoader(
            dataset,
            batch_size,
            shuffle=True,
            num_workers=num_workers,
            drop_last=True,
            persistent_workers=num_workers > 0,
        )
        self._iterator = self._batches()
        self.run(2 * num_workers + 2)
        return len(dataset)

    def run(self, batches: int) -> float:
        """Seconds until so many more batches have arrived."""
        began = time.perf_counter()
        for _ in range(batches):
            next(self._iterator)
        return time.perf_counter() - began

    def peak_memory(self) -> float:
        """Of the main process alone, in MB."""
        return workers.peak_process_memory()

    def _batches(self) -> Iterator[Any]:
        while True:
            yield from self._loader


if __name__ == "__main__":
    workers.serve(TorchLoading())
