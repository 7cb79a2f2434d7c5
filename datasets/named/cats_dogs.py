"""Kaggle's cats and dogs, the photographs of the document cats_dogs.

Understood are tongpython/cat-and-dog, which the document uses, and the competition dogs-vs-cats from which it was
taken: that one has its classes in the names of the files, train/cat.0.jpg, a test part without labels, which is left
out, and all of it in zips inside a zip.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from datasets.dataset import Dataset, DatasetInfo, InputError, Options
from datasets.named.published import Download

if TYPE_CHECKING:
    from datasets.formats.examples import Layout
    from datasets.formats.sources import Source

CLASSES = ("cats", "dogs")
FOLDERS = {"cat": "cats", "cats": "cats", "dog": "dogs", "dogs": "dogs"}
COMPETITION = "https://www.kaggle.com/c/dogs-vs-cats"
INNER = "train.zip"  # in the competition's zip

INFO = DatasetInfo(
    name="cats_dogs",
    description="photographs of cats and dogs (needs --data-dir)",
    source="Kaggle, tongpython/cat-and-dog; the document cats_dogs",
    homepage="https://www.kaggle.com/datasets/tongpython/cat-and-dog",
    num_classes=2,
    split_sizes={"train": 7204, "validation": 801, "test": 2023},
    takes_data_dir=True,
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("cat-and-dog.zip", "archive.zip", "cats_dogs.zip", "dogs-vs-cats.zip", INNER),
    # Usable images: the folders of the first hold one more file each, no image.
    editions=({"train": 8005, "test": 2023}, {"train": 25000}),
    how_to_get=f"download them from {INFO.homepage} and give the zip, or the folder that it unpacks to, with"
    " --data-dir; expected are training_set/training_set/{cats,dogs} with 4000 and 4005 images and"
    f" test_set/test_set/{{cats,dogs}} with 1011 and 1012, or {COMPETITION}'s train/cat.0.jpg, 12500 of each",
    beside=("sampleSubmission.csv", "sample_submission.csv"),
)


def build(options: Options) -> Dataset:
    """The data in `options.data_dir`: the downloaded zip, the folder that holds it, or what it unpacks to.

    A published test part stays the test part; what is missing comes out of training. A subset or another copy
    in the same layout will do, and its size is noted.
    """
    from datasets.formats.archives import open_inner_zip
    from datasets.formats.examples import load_files

    path = DOWNLOAD.locate(options)
    inner = open_inner_zip(path, INNER, options.progress) if path.is_file() else None
    source = inner or DOWNLOAD.open(options)
    layout = _named_files(source) or DOWNLOAD.layout(source, FOLDERS)
    DOWNLOAD.check_classes(source.root, layout.class_names, CLASSES)
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)


def _named_files(source: Source) -> Layout | None:
    """The competition's layout, if it is that: cat.0.jpg, in no folder of a class."""
    from datasets.formats.examples import Example, Layout, natural_key
    from datasets.images.decode import EXTENSIONS

    images = [f for f in source.files if os.path.splitext(f.path)[1].lower() in EXTENSIONS]
    examples: dict[str, Example] = {}
    for file in images:
        *folders, name = file.path.split("/")
        if any(folder.casefold() in FOLDERS for folder in folders):
            return None
        if match := re.match(r"(cat|dog)\.[0-9]+\.", name):
            if name in examples:
                raise InputError(
                    f"{INFO.name}: {source.root} holds {name} twice: remove or rename one of them"
                )
            examples[name] = Example(name, file, FOLDERS[match[1]], None)
    if not examples:
        return None
    left = len(images) - len(examples)
    return Layout(
        examples=sorted(examples.values(), key=lambda e: natural_key(e.id)),
        class_names=tuple(sorted({e.class_name for e in examples.values()})),
        published=(),
        notes=[f"ignored {left} image{'s' * (left > 1)} without a label"] if left else [],
    )
