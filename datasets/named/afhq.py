"""Animal Faces-HQ: faces of cats, dogs and wild animals, 512x512 pixels. Data of the afhq paper.

The first version has train/ and val/, the second train/ and test/. The paper splits the 16,130 images of the first
version: "The training set, validation set and test set are in proportion of 80%, 10%, 10%". Our interpretation: of all
images, pooled. A tenth is 1,613 images, and 35.09%, the validation accuracy of its failing SVM, is exactly 566 of them,
about the share of cats: 5,653 of 16,130 = 35.05%. (Its test accuracy, 35.07%, is not a multiple of 1 / 1,613.) On the
published test images, 500 per class, a net that always predicts "cat" scores one third. So this module pools by
default. With `published_splits="keep"`, the second folder remains the test split, and validation images are drawn from
training.
"""

import dataclasses

from datasets.dataset import Dataset, DatasetInfo, Options
from datasets.named._download import Download

CLASSES = ("cat", "dog", "wild")

INFO = DatasetInfo(
    name="afhq",
    description="faces of cats, dogs and wild animals, 512x512 pixels (needs --data-dir)",
    source="Y. Choi et al., StarGAN v2; used by the afhq paper",
    homepage="https://github.com/clovaai/stargan-v2",
    num_classes=3,
    image_shape=(512, 512, 3),
    split_sizes={"train": 12904, "validation": 1613, "test": 1613},
    needs_data_dir=True,
    pools_splits=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("afhq.zip", "afhq_v2.zip", "animal-faces.zip", "archive.zip"),
    editions=({"train": 14630, "test": 1500}, {"train": 14336, "test": 1467}),
    how_to_get=f"download them from {INFO.homepage} or"
    " https://www.kaggle.com/datasets/andrewmvd/animal-faces and pass the zip or the unpacked folder with"
    " --data-dir; expected are train/{cat,dog,wild} with 5153, 4739 and 4738 images and"
    " val/{cat,dog,wild} with 500 each, or, in the second version, train/ with 5065, 4678 and 4593 and test/"
    " with 493, 491 and 483",
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`: the downloaded zip, the folder that contains it, or the unpacked folder.

    If the published splits are kept and there are both val/ and test/, val/ is the validation split.
    """
    from datasets.formats.examples import load_files

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source)
    if options.published_splits == "auto" and layout.published:
        options = dataclasses.replace(options, published_splits="pool")
    DOWNLOAD.check_classes(source.root, layout.class_names, CLASSES)
    if layout.published == ("train", "validation"):
        renamed = {"train": "train", "validation": "test"}
        layout = dataclasses.replace(
            layout,
            examples=[
                dataclasses.replace(e, split=renamed[e.split] if e.split else None)
                for e in layout.examples
            ],
            published=("train", "test"),
        )
        if options.published_splits == "keep":
            note = "val/ is the published test split; validation images are drawn from training"
            layout.notes.append(note)
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)
