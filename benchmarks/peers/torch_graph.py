"""torch worker of benchmarks.epoch: epochs from device memory, with the training step captured as a CUDA graph.

All images are on the device as uint8. A step takes the sample numbers of its batch, cuts a random window of the net's
size from each image, and trains; on a GPU, the whole step is one CUDA graph, replayed for each batch.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import workers
from benchmarks.peers import BETAS, EPSILON, LEARNING_RATE, torch_nets
from benchmarks.peers.torch_worker import Torch

WARM_UP_STEPS = 3  # on a side stream, before the capture, as torch's documentation prescribes


class TorchGraph(Torch):
    """Trains epochs of a torch net on images in device memory."""

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
        """Load `images / crops` images of a folder, or of its train/ split, and train for one epoch."""
        from PIL import Image

        began = time.perf_counter()
        torch.manual_seed(0)
        folder = Path(path, "train")
        folder = folder if folder.is_dir() else Path(path)
        names = sorted(p.name for p in folder.iterdir() if p.is_dir())
        files = [
            (p, label)
            for label, name in enumerate(names)
            for p in sorted(Path(folder, name).iterdir())
        ]
        chosen = np.random.default_rng(0).permutation(len(files))[: -(-images // crops)]
        arrays, labels = [], []
        for index in chosen:
            file, label = files[index]
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            if crops == 1:
                image = image.resize((image_size[1], image_size[0]))
            arrays.append(np.asarray(image))
            labels.append(label)
        data = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        self.data, self.data_labels = data.to(self.device), torch.tensor(labels, device=self.device)
        self.size, self.batch_size, self.count = image_size, batch_size, images // batch_size
        self.samples = len(arrays) * crops
        self.dtype, self.training = getattr(torch, dtype), True
        self.net = torch_nets.create(model, classes).to(self.device).train()
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), LEARNING_RATE, BETAS, EPSILON, fused=True, capturable=on_gpu
        )
        self.index = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        self.offset = torch.zeros(batch_size, 2, dtype=torch.long, device=self.device)
        self.replay = self._capture() if on_gpu else self._step
        seconds = time.perf_counter() - began
        self.run_epoch()
        return {"images": self.count * batch_size, "seconds": seconds}

    def _step(self) -> torch.Tensor:
        """Train on the batch that `index` and `offset` name."""
        height, width = self.size
        rows = self.offset[:, :1] + torch.arange(height, device=self.device)
        columns = self.offset[:, 1:] + torch.arange(width, device=self.device)
        sample = self.index % len(self.data)
        window = self.data[
            sample[:, None, None, None],
            torch.arange(3, device=self.device)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
        self.images = window.contiguous(memory_format=torch.channels_last)
        self.labels = self.data_labels[sample]
        return self._train_step()

    def _capture(self) -> Any:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._step()

        def replay() -> torch.Tensor:
            graph.replay()
            return loss.clone()

        return replay

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch; return `seconds` until the last step has finished, and the mean `loss`."""
        began = time.perf_counter()
        order = torch.randperm(self.samples, device=self.device)
        spare = [self.data.shape[2] - self.size[0] + 1, self.data.shape[3] - self.size[1] + 1]
        draws = torch.rand(self.samples, 2, device=self.device)
        offsets = (draws * torch.tensor(spare, device=self.device)).long()
        losses = []
        for step in range(self.count):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            self.index.copy_(order[batch])
            self.offset.copy_(offsets[batch])
            losses.append(self.replay())
        self._synchronize()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "loss": torch.stack(losses).float().mean().item()}


if __name__ == "__main__":
    workers.serve(TorchGraph(compiled=False))
