"""torch worker of benchmarks.epoch: `python -m benchmarks.peers.torch_epoch [--compile]`.

torchvision's ImageFolder and torch's DataLoader feed the training step of `torch_worker`. Images are transferred as
uint8 from pinned memory, loader processes persist between epochs, and steps are dispatched without waiting.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import workers
from benchmarks.peers import torch_nets
from benchmarks.peers.any_torchvision import torchvision
from benchmarks.peers.torch_worker import Torch


class TorchEpoch(Torch):
    """Trains epochs of a torch net on an image folder."""

    def build_epoch(
        self,
        path: str,
        model: str,
        batch_size: int,
        dtype: str,
        image_size: list[int],
        images: int,
        classes: int,
        num_workers: int,
        crops: int = 1,
    ) -> dict[str, Any]:
        """Open an image folder, or its train/ split if there is one, and train for one epoch on `images` images."""
        if crops > 1:
            raise workers.Unsupported("random crops are not implemented here")
        began = time.perf_counter()
        torch.manual_seed(0)
        transforms = torchvision.transforms
        folder = Path(path, "train")
        dataset = torchvision.datasets.ImageFolder(
            folder if folder.is_dir() else path,
            transforms.Compose([transforms.Resize(image_size), transforms.PILToTensor()]),
        )
        if len(dataset) < images:
            raise ValueError(f"{path} has {len(dataset)} images, but the zoo's epoch has {images}")
        subset = np.random.default_rng(0).permutation(len(dataset))[:images]
        self.loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(dataset, subset.tolist()),
            batch_size,
            shuffle=True,
            num_workers=num_workers,
            drop_last=True,
            persistent_workers=num_workers > 0,
            pin_memory=self.device.type == "cuda",
        )
        self.dtype, self.training = getattr(torch, dtype), True
        self.net = torch_nets.create(model, classes).to(self.device).train()
        self.optimizer = self._adam(self.net)
        if self.compiled:
            self.net = torch.compile(self.net, mode="max-autotune")
        seconds = time.perf_counter() - began
        self.run_epoch()
        return {"images": len(self.loader) * batch_size, "seconds": seconds}

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch; return `seconds` until the last step has finished, and the mean `loss`."""
        began = time.perf_counter()
        losses = []
        for images, labels in self.loader:
            self.images = images.to(
                self.device, memory_format=torch.channels_last, non_blocking=True
            )
            self.labels = labels.to(self.device, non_blocking=True)
            losses.append(self._train_step())
        self._synchronize()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "loss": torch.stack(losses).float().mean().item()}


if __name__ == "__main__":
    workers.serve(TorchEpoch(compiled="--compile" in sys.argv))
