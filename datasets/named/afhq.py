"""Animal Faces-HQ: faces of cats, dogs and wild animals, 512x512 pixels, the data of the document afhq.

The first version has train/ and val/, the second train/ and test/. Its makers hold out the second part for testing in
both, so that val/ is the test part here, and validation comes out of training: of the first version 82, 9 and 9 per
cent. (The document takes 80, 10 and 10 of the 16,130 images of the first, and does not say which.)
"""

import dataclasses

from datasets.dataset import Dataset, DatasetInfo, Options
from datasets.named.published import Download

CLASSES = ("cat", "dog", "wild")

INFO = DatasetInfo(
    name="afhq",
    description="faces of cats, dogs and wild animals, 512x512 pixels (needs --data-dir)",
    source="Y. Choi and others: StarGAN v2; the document afhq",
    homepage="https://github.com/clovaai/stargan-v2",
    num_classes=3,
    image_shape=(512, 512, 3),
    split_sizes={"train": 13167, "validation": 1463, "test": 1500},
    takes_data_dir=True,
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("afhq.zip", "afhq_v2.zip", "animal-faces.zip", "archive.zip"),
    editions=({"train": 14630, "test": 1500}, {"train": 14336, "test": 1467}),
    how_to_get=f"download them from {INFO.homepage} or"
    " https://www.kaggle.com/datasets/andrewmvd/animal-faces and give the zip, or the folder that it unpacks"
    " to, with --data-dir; expected are train/{cat,dog,wild} with 5153, 4739 and 4738 images and"
    " val/{cat,dog,wild} with 500 each, or of the second version train/ with 5065, 4678 and 4593 and test/"
    " with 493, 491 and 483",
)


def build(options: Options) -> Dataset:
    """The data in `options.data_dir`: a downloaded zip, the folder that holds it, or what it unpacks to.

    Where there are both val/ and test/, each is what it is called.
    """
    from datasets.formats.examples import load_files

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source)
    DOWNLOAD.check_classes(source.root, layout.class_names, CLASSES)
    if layout.published == ("train", "validation"):
        parts = {"train": "train", "validation": "test"}
        layout = dataclasses.replace(
            layout,
            examples=[
                dataclasses.replace(e, part=parts[e.part] if e.part else None)
                for e in layout.examples
            ],
            published=("train", "test"),
            notes=[
                *layout.notes,
                "val/ is the published test part; validation images are taken out of training",
            ],
        )
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)
