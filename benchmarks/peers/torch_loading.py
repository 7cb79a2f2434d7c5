"""torch worker of benchmarks.input_pipeline: torchvision's ImageFolder and torch's DataLoader.

Pillow decodes and resizes, torchvision's default. "exact" yields uint8 images like the zoo's, for scripts that convert
on the device. "float32" is the transform of torchvision's documentation and reference training scripts: the loader
processes scale images to [0, 1] and normalize them. Loader processes persist between epochs.
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
    """Loads batches of an image folder with torchvision."""

    def describe(self) -> dict[str, Any]:
        """Return versions."""
        return {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        }

    def build(
        self, path: str, num_workers: int, image_size: int, batch_size: int, decoder: str
    ) -> int:
        """Open an image folder and load the first batches; return the number of images."""
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
        """Return the seconds it takes to load `batches` more batches."""
        began = time.perf_counter()
        for _ in range(batches):
            next(self._iterator)
        return time.perf_counter() - began

    def peak_memory(self) -> float:
        """Return the peak memory of the main process, without loader processes, in MB."""
        return workers.peak_process_memory()

    def _batches(self) -> Iterator[Any]:
        while True:
            yield from self._loader


if __name__ == "__main__":
    workers.serve(TorchLoading())
