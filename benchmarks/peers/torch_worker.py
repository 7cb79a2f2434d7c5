"""torch worker of benchmarks.throughput: `python -m benchmarks.peers.torch_worker [--compile]`.

The fastest configuration of torch that we know: channels-last memory, fused Adam, gradients set to None, inference
mode, bfloat16 autocast for training and bfloat16 weights for testing, cuDNN's autotuner on a GPU. As in the zoo's
worker, images are uint8 on the device and scaled in the step.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import workers
from benchmarks.peers import BETAS, EPSILON, LEARNING_RATE, torch_nets


class Torch:
    """Builds and times steps of torch nets."""

    def __init__(self, *, compiled: bool):
        self.compiled = compiled
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, which is JAX's default, too

    def describe(self) -> dict[str, Any]:
        """Return versions and device."""
        on_gpu = self.device.type == "cuda"
        return {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "threads": torch.get_num_threads(),
        }

    def compare(self, model: str, num_classes: int, path: str) -> dict[str, Any]:
        """Return the number of parameters, and the losses of `zoo_worker.Zoo.reference` with the weights in `path`."""
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        with np.load(path) as file:
            arrays = dict(file)
        net = torch_nets.create(model, num_classes).to(self.device)
        torch_nets.load_weights(net, arrays)
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        images, labels = self._to_device(arrays["image"], arrays["label"])
        optimizer = self._adam(net)
        losses = {}
        with torch.inference_mode():
            losses["test"] = self._loss(net.eval(), images, labels).item()
        net.train()
        for name in ("train", "train_after_update"):
            optimizer.zero_grad(set_to_none=True)
            loss = self._loss(net, images, labels)
            loss.backward()
            optimizer.step()
            losses[name] = loss.item()
        return {"parameters": torch_nets.count_parameters(net), "losses": losses}

    def build(
        self, model: str, num_classes: int, mode: str, dtype: str, images: list[int], seed: int
    ) -> dict[str, Any]:
        """Build a step and run it once."""
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, images, np.uint8)
        label = rng.integers(0, num_classes, len(image), np.int32)
        self.images, self.labels = self._to_device(image, label)
        parameters = self._create(model, num_classes, mode, dtype)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return {"parameters": parameters, "compile_time": self.run(1)}

    def run(self, steps: int) -> float:
        """Return the seconds of `steps` steps, until the last one has finished."""
        began = time.perf_counter()
        if self.training:
            for _ in range(steps):
                self._train_step()
        else:
            with torch.inference_mode():
                for _ in range(steps):
                    self.net(self.images.to(self.dtype).mul_(1 / 255))
                    self._synchronize()
        self._synchronize()
        return time.perf_counter() - began

    def peak_memory(self) -> float:
        """Return the peak memory in MB: of the device if it reports its own, else of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        return workers.peak_process_memory()

    def _to_device(self, image: np.ndarray, label: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        # An NCHW view of NHWC memory is torch's channels-last format.
        images = torch.from_numpy(image).permute(0, 3, 1, 2)
        return images.to(self.device), torch.from_numpy(label).long().to(self.device)

    def _create(
        self, model: str, num_classes: int, mode: str, dtype: str, *, captured: bool = False
    ) -> int:
        """Create the net, and the optimizer for training; return the number of parameters.

        `captured`: the step will be part of a CUDA graph.
        """
        self.dtype, self.training = getattr(torch, dtype), mode == "train"
        self.net = torch_nets.create(model, num_classes).to(self.device).train(self.training)
        parameters = torch_nets.count_parameters(self.net)
        if self.training:
            self.optimizer = self._adam(self.net, capturable=captured)
        else:
            self.net.to(self.dtype)
        if self.compiled:
            self.net = torch.compile(self.net, mode="max-autotune")
        return parameters

    @staticmethod
    def _adam(net: torch.nn.Module, *, capturable: bool = False) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            net.parameters(), LEARNING_RATE, BETAS, EPSILON, fused=True, capturable=capturable
        )

    @staticmethod
    def _loss(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(net(images.float().mul_(1 / 255)).float(), labels)

    def _train_step(self) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss = self._loss(self.net, self.images, self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class TorchEpochs(Torch):
    """Trains epochs of a torch net on an image folder. Base class of the workers of benchmarks.epoch."""

    captured = False  # whether the step is part of a CUDA graph

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
        """Open an image folder, or its train/ split if there is one, and train for one epoch of `images` images."""
        began = time.perf_counter()
        torch.manual_seed(0)
        folder = Path(path, "train")
        self.batch_size, self.count = batch_size, images // batch_size
        self.load(folder if folder.is_dir() else Path(path), image_size, images, crops, num_workers)
        self._create(model, classes, "train", dtype, captured=self.captured)
        self.start()
        seconds = time.perf_counter() - began
        self.run_epoch()
        return {"images": self.count * batch_size, "seconds": seconds}

    def load(
        self, folder: Path, image_size: list[int], images: int, crops: int, num_workers: int
    ) -> None:
        """Open the folder for epochs of `images` images, or of `crops` windows of fewer images."""
        raise NotImplementedError

    def start(self) -> None:
        """Prepare the step, after the net has been created."""

    def steps(self) -> Iterator[torch.Tensor]:
        """Train for one epoch; yield the loss of each step."""
        raise NotImplementedError

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch; return `seconds` until the last step has finished, and the mean `loss`."""
        began = time.perf_counter()
        losses = list(self.steps())
        self._synchronize()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "loss": torch.stack(losses).float().mean().item()}


def subset(available: int, count: int) -> list[int]:
    """Choose `count` of the `available` images at random, the same in each call."""
    if available < count:
        raise ValueError(f"there are {available} images, but the zoo's epoch has {count}")
    return np.random.default_rng(0).permutation(available)[:count].tolist()


if __name__ == "__main__":
    workers.serve(Torch(compiled="--compile" in sys.argv))
