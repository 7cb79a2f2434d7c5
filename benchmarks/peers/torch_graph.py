"""torch worker of benchmarks.epoch: epochs from device memory, with the training step captured as a CUDA graph.

All images are on the device as uint8. A step takes the sample numbers of its batch, cuts a random window of the net's
size from each image, and trains; on a GPU, the whole step is one CUDA graph, replayed for each batch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import workers
from benchmarks.peers.torch_worker import TorchEpochs, subset

WARM_UP_STEPS = 3  # on a side stream, before the capture, as torch's documentation prescribes


class TorchGraph(TorchEpochs):
    """Trains epochs of a torch net on images in device memory."""

    def __init__(self) -> None:
        super().__init__(compiled=False)
        self.captured = self.device.type == "cuda"

    def load(
        self, folder: Path, image_size: list[int], images: int, crops: int, num_workers: int
    ) -> None:
        """Load `images / crops` images onto the device."""
        from PIL import Image

        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        files = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted(Path(folder, name).iterdir())
        ]
        arrays, labels = [], []
        for index in subset(len(files), -(-images // crops)):
            file, label = files[index]
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            if crops == 1:
                image = image.resize((image_size[1], image_size[0]))
            arrays.append(np.asarray(image))
            labels.append(label)
        data = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        self.data, self.data_labels = data.to(self.device), torch.tensor(labels, device=self.device)
        self.size, self.samples = image_size, len(arrays) * crops
        self.index = torch.zeros(self.batch_size, dtype=torch.long, device=self.device)
        self.offset = torch.zeros(self.batch_size, 2, dtype=torch.long, device=self.device)

    def start(self) -> None:
        """Capture the step."""
        self.replay = self._capture() if self.captured else self._step

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

    def steps(self) -> Iterator[torch.Tensor]:
        """Train for one epoch; yield the loss of each step."""
        order = torch.randperm(self.samples, device=self.device)
        spare = [self.data.shape[2] - self.size[0] + 1, self.data.shape[3] - self.size[1] + 1]
        draws = torch.rand(self.samples, 2, device=self.device)
        offsets = (draws * torch.tensor(spare, device=self.device)).long()
        for step in range(self.count):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            self.index.copy_(order[batch])
            self.offset.copy_(offsets[batch])
            yield self.replay()


if __name__ == "__main__":
    workers.serve(TorchGraph())
