"""Animals-10: photographs from the web in ten unbalanced classes. Data of the animals10 paper.

Folder names are Italian, class names English. There are no published splits: each class is split 80/10/10 by the seed.
"""

from datasets.dataset import Dataset, DatasetInfo, Options
from datasets.named._download import Download

PUBLISHED = {  # images per folder in Kaggle's second version
    "cane": 4863,
    "cavallo": 2623,
    "elefante": 1446,
    "farfalla": 2112,
    "gallina": 3098,
    "gatto": 1668,
    "mucca": 1866,
    "pecora": 1820,
    "ragno": 4821,
    "scoiattolo": 1862,
}
ENGLISH = {
    "cane": "dog",
    "cavallo": "horse",
    "elefante": "elephant",
    "farfalla": "butterfly",
    "gallina": "chicken",
    "gatto": "cat",
    "mucca": "cow",
    "pecora": "sheep",
    "ragno": "spider",
    "scoiattolo": "squirrel",
}

INFO = DatasetInfo(
    name="animals10",
    description="photographs of animals in ten unbalanced classes (needs --data-dir)",
    source="Kaggle, alessiocorrado99/animals10; used by the animals10 paper",
    homepage="https://www.kaggle.com/datasets/alessiocorrado99/animals10",
    num_classes=10,
    split_sizes={"train": 20943, "validation": 2618, "test": 2618},
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("animals10.zip", "archive.zip"),
    editions=({"train": sum(PUBLISHED.values())},),
    how_to_get=f"download them from {INFO.homepage} and pass the zip or the unpacked folder with"
    f" --data-dir; expected is raw-img/ with {', '.join(f'{k} {v}' for k, v in PUBLISHED.items())} images",
    other_files=("translate.py",),
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`: the downloaded zip, the folder that contains it, or the unpacked folder."""
    from datasets.formats.examples import load_files

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source, ENGLISH)
    DOWNLOAD.check_classes(source.root, layout.class_names, tuple(sorted(ENGLISH.values())))
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)
