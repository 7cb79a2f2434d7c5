"""The animals in CIFAR-10 as cats, dogs and wild animals. A proxy for the three classes of the afhq paper.

Wild are birds, deer, frogs and horses, a quarter of each. Files and splits are those of `cifar10`; the images of
vehicles are left out.
"""

import dataclasses

from datasets.dataset import Dataset, Options
from datasets.named import cifar10, cifar10_animals

CLASSES = ("cat", "dog", "wild")

INFO = dataclasses.replace(
    cifar10_animals.INFO,
    name="cifar10_domains",
    description="cats, dogs and other animals in cifar10 (downloaded, or from --data-dir)",
    num_classes=len(CLASSES),
    split_sizes={"train": 13500, "validation": 1500, "test": 3000},
)
DOWNLOAD = dataclasses.replace(
    cifar10.DOWNLOAD, info=INFO, editions=({"train": 15000, "test": 3000},)
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`, or else download CIFAR-10 to the cache and load it."""
    renamed = {name: name if name in CLASSES else "wild" for name in cifar10_animals.CLASSES}
    return cifar10.build_classes(options, DOWNLOAD, renamed)
