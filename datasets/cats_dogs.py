"""Kaggle's cats and dogs, the photographs of the document keras_alexnet_cats_dogs.

The files cannot be passed on with this program: whoever has them says where they are.
"""

import dataclasses
import os
from pathlib import Path

from datasets.dataset import Dataset, DatasetInfo, InputError, Options

CLASSES = ("cats", "dogs")
PUBLISHED = {"train": 8005, "test": 2023}  # images; the folders hold one more file each, no image
ARCHIVES = ("cat-and-dog.zip", "archive.zip", "cats_dogs.zip")  # as Kaggle calls the download

INFO = DatasetInfo(
    name="cats_dogs",
    description="photographs of cats and dogs (needs --data-dir)",
    source="Kaggle, tongpython/cat-and-dog; keras_alexnet_cats_dogs",
    homepage="https://www.kaggle.com/datasets/tongpython/cat-and-dog",
    num_classes=2,
    split_sizes={"train": 7204, "validation": 801, "test": 2023},
)


def build(options: Options) -> Dataset:
    """The data in `options.data_dir`: the downloaded zip, the folder that holds it, or what it unpacks to.

    The published test part stays the test part; validation comes out of training. A subset or another
    copy in the same layout will do, and its size is noted.
    """
    from datasets.folder import load_folder

    if options.data_dir is None:
        raise InputError(f"cats_dogs needs its photographs: {_how_to_get()}")
    path = Path(options.data_dir).expanduser()
    if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path)):
        raise InputError(f"cats_dogs: there is nothing at {path}: {_how_to_get()}")
    path = next((path / name for name in ARCHIVES if os.path.isfile(path / name)), path)
    dataset = load_folder(path, options)
    if dataset.class_names != CLASSES:
        raise InputError(
            f"cats_dogs: {path} has the classes {', '.join(dataset.class_names[:5])} instead of"
            f" {' and '.join(CLASSES)}: {_how_to_get()}"
        )
    sizes = {part: len(split) for part, split in dataset.splits.items()}
    found = {"train": sizes["train"] + sizes["validation"], "test": sizes["test"]}
    if found == PUBLISHED:
        difference: tuple[str, ...] = ()
    else:
        difference = (
            f"{found['train']} training (with validation) and {found['test']} test images, not the"
            f" {PUBLISHED['train']} and {PUBLISHED['test']} of the published set",
        )
    return dataclasses.replace(
        dataset, name=INFO.name, info=INFO, notes=(*difference, *dataset.notes)
    )


def _how_to_get() -> str:
    return (
        f"download them from {INFO.homepage} and give the zip, or the folder that it unpacks to, with"
        " --data-dir; expected are training_set/training_set/{cats,dogs} with 4000 and 4005 images and"
        " test_set/test_set/{cats,dogs} with 1011 and 1012"
    )
