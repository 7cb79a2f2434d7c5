"""Pig faces by individual: the data of the pig_faces paper, which were never published, or your own data of that kind.

The paper has 10 pigs with 684 training, 77 validation and 254 test images. Your data have one folder per individual,
with or without splits (see `datasets.formats.folder`), and any number of individuals.

Frames of one visit are nearly identical. If they are in several splits, test accuracy says little about images from
another day. The option `group` (see `datasets.load_dataset`) is a pattern whose first group matches the visit in a
path, such as `(visit[0-9]+)` for pig3/visit12_0042.jpg, and keeps each visit in one split.
"""

from datasets.dataset import Dataset, DatasetInfo, Options
from datasets.named._download import Download

INFO = DatasetInfo(
    name="pig_faces",
    description="photographs of pig faces by individual, your own (needs --data-dir)",
    source="your own photographs, in place of the data of the pig_faces paper",
    num_classes=10,
    split_sizes={"train": 684, "validation": 77, "test": 254},
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("pig_faces.zip",),
    editions=({"train": 684, "validation": 77, "test": 254}, {"train": 684 + 77 + 254}),
    how_to_get="the data of the paper were never published, so pass your own folder, .zip or .tar with --data-dir,"
    " with one folder of images per individual, or train/, val/ and test/ with such folders (the paper has 10"
    " individuals with 684, 77 and 254 images); or use synthetic_pigs, drawings that need no files",
    reference="of the paper",
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`: a folder or archive with one folder per individual."""
    from datasets.formats.examples import load_files

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source)
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)
