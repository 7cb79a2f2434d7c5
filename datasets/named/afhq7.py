"""Animal Faces-HQ in seven classes: cat, dog, and five wild species. The second data set of the afhq paper.

Neither AFHQ nor the paper provides species labels. The user provides them in a file afhq7.csv with the columns
`path,label`, in the folder given with --data-dir, or next to the zip given with --data-dir:

    path,label
    train/wild/flickr_wild_000002.jpg,leopard
    flickr_wild_000003.jpg,fox
    flickr_wild_000004.jpg,

A path may be a file name alone if it is unique. Images without a label are left out. A folder with five species folders
instead of wild/ needs no list.

As in the paper, each class is reduced to 500 images, and the published splits are merged and split 80/10/10. Both
depend on the seed: a different seed selects different images, so the fingerprint differs as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.dataset import Dataset, DatasetInfo, InputError, Options
from datasets.named import afhq
from datasets.named._download import Download, shortened

if TYPE_CHECKING:
    from datasets.formats.examples import Example

IMAGES_PER_CLASS = 500  # "reduced each class to about 500"
SPECIES = 5
LIST = "afhq7.csv"

INFO = DatasetInfo(
    name="afhq7",
    description="faces of cats, dogs and five wild species, 500 each (needs --data-dir and a list of species)",
    source="Y. Choi et al., StarGAN v2; species by the user; used by the afhq paper",
    homepage="https://github.com/clovaai/stargan-v2",
    num_classes=2 + SPECIES,
    image_shape=(512, 512, 3),
    split_sizes={"train": 2800, "validation": 350, "test": 350},
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=afhq.DOWNLOAD.archives,
    editions=({"train": IMAGES_PER_CLASS * (2 + SPECIES)},),
    how_to_get=f"{afhq.DOWNLOAD.how_to_get}; and add a list {LIST} with the columns path,label that labels"
    f" the images of wild/ with {SPECIES} species",
    other_files=(LIST,),
    reference="of seven full classes",
)


def build(options: Options) -> Dataset:
    """Load `options.data_dir`: the downloaded zip, the folder that contains it, or the unpacked folder."""
    from datasets.formats.examples import load_files, natural_key

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source)
    examples = layout.examples
    if layout.class_names == afhq.CLASSES:
        examples = _with_species(examples, _find_list(source.root, options))
    classes = tuple(sorted({e.class_name for e in examples}, key=natural_key))
    if len(classes) != 2 + SPECIES or not {"cat", "dog"} <= set(classes):
        raise InputError(
            f"{INFO.name}: {source.root} has the classes {shortened(classes)} instead of cat, dog and {SPECIES}"
            f" species: use {SPECIES}, and leave the labels of other images empty"
        )
    layout = dataclasses.replace(
        layout,
        examples=_limit(examples, options.seed),
        class_names=classes,
        published=(),
        pooled=True,
    )
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)


def _find_list(root: Path, options: Options) -> Path:
    """Find the list of species in the user's folder, or next to the archive."""
    given = Path(options.data_dir or "").expanduser()
    folder = given if given.is_dir() else given.parent
    for path in (folder / LIST, root.parent / LIST):
        if path.is_file():
            return path
    raise InputError(
        f"{INFO.name} needs the species of its wild images: put a list {LIST} into {folder}, with the"
        " columns path,label and lines such as train/wild/flickr_wild_000002.jpg,leopard"
    )


def _with_species(examples: list[Example], path: Path) -> list[Example]:
    """Return the cats and dogs, and the wild animals with a species in the list."""
    from datasets.formats.csv_list import read_rows

    wild = [e for e in examples if e.class_name == "wild"]
    names = Counter(os.path.basename(e.id) for e in wild)
    by_name = {e.id: e for e in wild} | {
        os.path.basename(e.id): e for e in wild if names[os.path.basename(e.id)] == 1
    }
    species: dict[str, str] = {}
    for row in read_rows(path, ("path",), ("label",)):
        name = row.cells["path"]
        example = by_name.get(name)
        if example is None:
            reason = (
                "is the name of several files" if names[name] > 1 else "is not an image in wild/"
            )
            raise InputError(
                f"line {row.line} of {path}: {name!r} {reason}: use the path inside the data"
            )
        if example.id in species:
            raise InputError(f"line {row.line} of {path} lists {name!r} again: keep one line")
        species[example.id] = row.cells["label"]
    if not any(species.values()):
        raise InputError(f"{path} has no labels: fill in the species")
    kept = [e for e in examples if e.class_name != "wild" or species.get(e.id)]
    return [dataclasses.replace(e, class_name=species.get(e.id, e.class_name)) for e in kept]


def _limit(examples: list[Example], seed: int) -> list[Example]:
    """Select at most `IMAGES_PER_CLASS` examples per class by a hash of seed and id, and drop their splits."""
    by_class: dict[str, list[Example]] = {}
    for example in examples:
        by_class.setdefault(example.class_name, []).append(example)
    kept: set[str] = set()
    for members in by_class.values():
        shuffled = sorted(
            members, key=lambda e: hashlib.sha256(f"cut {seed}\0{e.id}".encode()).digest()
        )
        kept |= {e.id for e in shuffled[:IMAGES_PER_CLASS]}
    return [dataclasses.replace(e, split=None) for e in examples if e.id in kept]
