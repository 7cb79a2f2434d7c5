"""Kaggle's photographs of cats and dogs. Data of the cats_dogs paper.

Two layouts are supported: tongpython/cat-and-dog, which the paper uses, and the competition dogs-vs-cats, from which it
was taken. The competition has classes in file names (train/cat.0.jpg), an unlabeled test split, which is left out, and
zips inside a zip.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from datasets.dataset import Dataset, DatasetInfo, InputError, Options
from datasets.named._download import Download

if TYPE_CHECKING:
    from datasets.formats.examples import Layout
    from datasets.formats.sources import Source

CLASSES = ("cats", "dogs")
FOLDERS = {"cat": "cats", "cats": "cats", "dog": "dogs", "dogs": "dogs"}
COMPETITION = "https://www.kaggle.com/c/dogs-vs-cats"
INNER = "train.zip"  # inside the zip of the competition

INFO = DatasetInfo(
    name="cats_dogs",
    description="photographs of cats and dogs (needs --data-dir)",
    source="Kaggle, tongpython/cat-and-dog; used by the cats_dogs paper",
    homepage="https://www.kaggle.com/datasets/tongpython/cat-and-dog",
    num_classes=2,
    split_sizes={"train": 7204, "validation": 801, "test": 2023},
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("cat-and-dog.zip", "archive.zip", "cats_dogs.zip", "dogs-vs-cats.zip", INNER),
    # Image counts; each folder of the first edition also contains one file that is not an image.
    editions=({"train": 8005, "test": 2023}, {"train": 25000}),
    how_to_get=f"download them from {INFO.homepage} and pass the zip or the unpacked folder with"
    " --data-dir; expected are training_set/training_set/{cats,dogs} with 4000 and 4005 images and"
    f" test_set/test_set/{{cats,dogs}} with 1011 and 1012, or {COMPETITION}'s train/cat.0.jpg, 12500 of each",
    other_files=("sampleSubmission.csv", "sample_submission.csv"),
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`: the downloaded zip, the folder that contains it, or the unpacked folder.

    A published test split is kept; missing splits are drawn from training. Subsets in the same layout are accepted,
    with a note on their size.
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
    """Read the competition's layout, cat.0.jpg outside class folders; None if the layout is different."""
    from datasets.formats.examples import Example, Layout, natural_key
    from datasets.images.decode import is_image

    images = [f for f in source.files if is_image(f.path)]
    examples: dict[str, Example] = {}
    for file in images:
        *folders, name = file.path.split("/")
        if any(folder.casefold() in FOLDERS for folder in folders):
            return None
        if match := re.match(r"(cat|dog)\.[0-9]+\.", name):
            if name in examples:
                raise InputError(
                    f"{INFO.name}: {source.root} contains {name} twice: remove or rename one of them"
                )
            examples[name] = Example(name, file, FOLDERS[match[1]], None)
    if not examples:
        return None
    unlabeled = len(images) - len(examples)
    return Layout(
        examples=sorted(examples.values(), key=lambda e: natural_key(e.id)),
        class_names=tuple(sorted({e.class_name for e in examples.values()})),
        published=(),
        notes=(
            [f"ignored {unlabeled} image{'s' * (unlabeled > 1)} without a label"]
            if unlabeled
            else []
        ),
    )
