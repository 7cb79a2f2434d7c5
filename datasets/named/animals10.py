"""Animals-10: photographs from the web in ten unbalanced classes, the data of the document animals10.

The folders have Italian names, the classes English ones. There are no published parts: each class is split 80/10/10,
seeded.
"""

from datasets.dataset import Dataset, DatasetInfo, Options
from datasets.named.published import Download

PUBLISHED = {  # images of each folder, of Kaggle's second version
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
    source="Kaggle, alessiocorrado99/animals10; the document animals10",
    homepage="https://www.kaggle.com/datasets/alessiocorrado99/animals10",
    num_classes=10,
    split_sizes={"train": 20943, "validation": 2618, "test": 2618},
    takes_data_dir=True,
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=("animals10.zip", "archive.zip"),
    editions=({"train": sum(PUBLISHED.values())},),
    how_to_get=f"download them from {INFO.homepage} and give the zip, or the folder that it unpacks to, with"
    f" --data-dir; expected is raw-img/ with {', '.join(f'{k} {v}' for k, v in PUBLISHED.items())} images",
    beside=("translate.py",),
)


def build(options: Options) -> Dataset:
    """The data in `options.data_dir`: the downloaded zip, the folder that holds it, or what it unpacks to."""
    from datasets.formats.examples import load_files

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source, ENGLISH)
    DOWNLOAD.check_classes(source.root, layout.class_names, tuple(sorted(ENGLISH.values())))
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)
