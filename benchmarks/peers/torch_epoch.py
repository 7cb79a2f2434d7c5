"""torch worker of benchmarks.epoch: `python -m benchmarks.peers.torch_epoch [--compile]`.

torchvision's ImageFolder and torch's DataLoader feed the training step of `torch_worker`. Images are transferred as
uint8 from pinned memory, loader processes persist between epochs, and steps are dispatched without waiting.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import workers
from benchmarks.peers.any_torchvision import torchvision
from benchmarks.peers.torch_worker import TorchEpochs, subset


class TorchEpoch(TorchEpochs):
    """Trains epochs of a torch net on image files."""

    def load(
        self, folder: Path, image_size: list[int], images: int, crops: int, num_workers: int
    ) -> None:
        """Open the folder, and start the loader processes."""
        if crops > 1:
            raise workers.Unsupported("random crops are not implemented here")
        transforms = torchvision.transforms
        dataset = torchvision.datasets.ImageFolder(
            folder,
            transforms.Compose([transforms.Resize(image_size), transforms.PILToTensor()]),
        )
        self.loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(dataset, subset(len(dataset), images)),
            self.batch_size,
            shuffle=True,
            num_workers=num_workers,
            drop_last=True,
            persistent_workers=num_workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def steps(self) -> Iterator[torch.Tensor]:
        """Train for one epoch; yield the loss of each step."""
        for images, labels in self.loader:
            self.images = images.to(
                self.device, memory_format=torch.channels_last, non_blocking=True
            )
            self.labels = labels.to(self.device, non_blocking=True)
            yield self._train_step()


if __name__ == "__main__":
    workers.serve(TorchEpoch(compiled="--compile" in sys.argv))
