"""The six kinds of animals in CIFAR-10. A proxy for the seven classes of the afhq paper.

Files and splits are those of `cifar10`; the images of vehicles are left out.
"""

import dataclasses

from datasets.dataset import Dataset, Options
from datasets.named import cifar10

CLASSES = ("bird", "cat", "deer", "dog", "frog", "horse")

INFO = dataclasses.replace(
    cifar10.INFO,
    name="cifar10_animals",
    description="the six kinds of animals in cifar10 (downloaded, or from --data-dir)",
    source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images",
    num_classes=len(CLASSES),
    split_sizes={"train": 27000, "validation": 3000, "test": 6000},
)
DOWNLOAD = dataclasses.replace(
    cifar10.DOWNLOAD, info=INFO, editions=({"train": 30000, "test": 6000},)
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`, or else download CIFAR-10 to the cache and load it."""
    return cifar10.build_classes(options, DOWNLOAD, {name: name for name in CLASSES})
