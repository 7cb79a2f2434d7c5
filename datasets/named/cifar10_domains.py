"""The animals in CIFAR-10 as cats, dogs and wild animals. A proxy for the three classes of the afhq paper.

Wild are birds, deer, frogs and horses, the class being four times as large as the others. Files and splits are those of
`cifar10`; the images of vehicles are left out.
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
)
DOWNLOAD = dataclasses.replace(cifar10_animals.DOWNLOAD, info=INFO)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`, or else download CIFAR-10 to the cache and load it."""
    renamed = {name: name if name in CLASSES else "wild" for name in cifar10_animals.CLASSES}
    return cifar10.build_classes(options, DOWNLOAD, renamed)
