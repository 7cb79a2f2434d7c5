"""Pig faces, by individual: the data of the document pig_faces, which were never published, or others like them.

The document has 10 pigs, with 684 training, 77 validation and 254 test images. A folder of one's own has a folder for
each individual, with or without published parts (see `datasets.formats.folder`); any number of them will do.

Frames of one visit show nearly the same picture: where they are on both sides of a split, the test says little about
another day. `group` (see `datasets.load_dataset`) is a pattern whose first group finds the visit in a path, such as
`(visit[0-9]+)` in pig3/visit12_0042.jpg, and keeps what has the same one on one side.
"""

from datasets.dataset import Dataset, DatasetInfo, Options
from datasets.named.published import Download

INFO = DatasetInfo(
    name="pig_faces",
    description="photographs of pig faces by individual, your own (needs --data-dir)",
    source="the user's own, in place of those of the document pig_faces",
    num_classes=10,
    split_sizes={"train": 684, "validation": 77, "test": 254},
    takes_data_dir=True,
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("pig_faces.zip",),
    editions=({"train": 684, "validation": 77, "test": 254}, {"train": 684 + 77 + 254}),
    how_to_get="the document's were never published, so give a folder, .zip or .tar of your own with --data-dir:"
    " a folder of images for each individual, or train/, val/ and test/ with such folders (the document has 10"
    " individuals with 684, 77 and 254 images); synthetic_pigs are drawings that need no files",
    whose="of the document",
)


def build(options: Options) -> Dataset:
    """The data in `options.data_dir`: a folder or archive with a folder for each individual."""
    from datasets.formats.examples import load_files

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source)
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)
