"""Image classification data: named data sets, folders and archives of images, and the input pipeline.

    from datasets import load_dataset, list_datasets, dataset_info
    data = load_dataset("photos.zip", seed=0)           # a name, a folder, .zip, .tar, .csv or .npz
    image, label = data.splits["train"][0]              # uint8 [H, W, 3] at its original size, int
    data.class_names, data.bad_images, data.fingerprint, data.manifest()

`datasets.images.decode` decodes, `datasets.images.resize` resizes by a `ResizeRule`, `datasets.pipeline` shuffles,
shards, batches and prefetches, `datasets.images.augment` augments images on the device. Unusable input raises
`InputError` with a one-line message that says what to do. Importing this package is cheap: NumPy is imported when the
first data set is loaded.
"""

from datasets.dataset import BadImage, Dataset, DatasetInfo, InputError, Split
from datasets.load import dataset_info, list_datasets, load_dataset
from zoo.common.resize import ResizeRule

__all__ = [
    "BadImage",
    "Dataset",
    "DatasetInfo",
    "InputError",
    "ResizeRule",
    "Split",
    "dataset_info",
    "list_datasets",
    "load_dataset",
]
