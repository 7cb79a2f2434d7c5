"""Animal Faces-HQ in seven classes: cat, dog, and five species out of wild, the other data of the document afhq.

Neither the set nor the document has labels of the species: they come from the user, as a .csv with the columns
`path,label`, called afhq7.csv, in the folder that --data-dir names or beside the zip that it names:

    path,label
    train/wild/flickr_wild_000002.jpg,leopard
    flickr_wild_000003.jpg,fox
    flickr_wild_000004.jpg,

A path may be the file's name alone where only one file has it. Images without a label are left out. A folder that
has five folders of species in place of wild/ needs no list.

As the document does, each class is cut to 500 images and the published parts are put together and split 80/10/10.
Both follow from the seed: another one takes other images, and the data have another fingerprint.
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
from datasets.named.published import Download, some

if TYPE_CHECKING:
    from datasets.formats.examples import Example

CUT = 500  # images of a class: "reduced each class to about 500"
SPECIES = 5
LIST = "afhq7.csv"

INFO = DatasetInfo(
    name="afhq7",
    description="faces of cats, dogs and five wild species, 500 each (needs --data-dir and a list of species)",
    source="Y. Choi and others: StarGAN v2; species by the user; the document afhq",
    homepage="https://github.com/clovaai/stargan-v2",
    num_classes=2 + SPECIES,
    image_shape=(512, 512, 3),
    split_sizes={"train": 2800, "validation": 350, "test": 350},
    takes_data_dir=True,
    needs_data_dir=True,
)
DOWNLOAD = Download(
    INFO,
    archives=afhq.DOWNLOAD.archives,
    editions=({"train": CUT * (2 + SPECIES)},),
    how_to_get=f"{afhq.DOWNLOAD.how_to_get}; and beside them a list {LIST} of the columns path,label that gives"
    f" images of wild/ one of {SPECIES} species",
    beside=(LIST,),
    whose="of seven full classes",
)


def build(options: Options) -> Dataset:
    """The data in `options.data_dir`: a downloaded zip, the folder that holds it, or what it unpacks to."""
    from datasets.formats.examples import load_files, natural_key

    source = DOWNLOAD.open(options)
    layout = DOWNLOAD.layout(source)
    examples = layout.examples
    if layout.class_names == afhq.CLASSES:
        examples = _with_species(examples, _list_of(source.root, options))
    classes = tuple(sorted({e.class_name for e in examples}, key=natural_key))
    if len(classes) != 2 + SPECIES or not {"cat", "dog"} <= set(classes):
        raise InputError(
            f"{INFO.name}: {source.root} has the classes {some(classes)} instead of cat, dog and {SPECIES}"
            " species: give as many, and leave the labels of others empty"
        )
    layout = dataclasses.replace(
        layout,
        examples=_cut(examples, options.seed),
        class_names=classes,
        published=(),
    )
    return DOWNLOAD.finish(load_files(source, layout, INFO, options), layout)


def _list_of(root: Path, options: Options) -> Path:
    """The list of species, in the folder that the user named, or beside the archive."""
    given = Path(options.data_dir or "").expanduser()
    folder = given if given.is_dir() else given.parent
    for path in (folder / LIST, root.parent / LIST):
        if path.is_file():
            return path
    raise InputError(
        f"{INFO.name} needs the species of its wild images: put a list {LIST} into {folder}, with the"
        " columns path,label and a line such as train/wild/flickr_wild_000002.jpg,leopard"
    )


def _with_species(examples: list[Example], path: Path) -> list[Example]:
    """The cats and dogs, and the wild ones that the list gives a species."""
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
            why = "is the name of several files" if names[name] > 1 else "is no image of wild/"
            raise InputError(
                f"line {row.line} of {path}: {name!r} {why}: give the path inside the data"
            )
        if example.id in species:
            raise InputError(f"line {row.line} of {path} names {name!r} again: keep one line")
        species[example.id] = row.cells["label"]
    if not any(species.values()):
        raise InputError(f"{path} gives no image a label: fill in the species")
    kept = [e for e in examples if e.class_name != "wild" or species.get(e.id)]
    return [dataclasses.replace(e, class_name=species.get(e.id, e.class_name)) for e in kept]


def _cut(examples: list[Example], seed: int) -> list[Example]:
    """At most `CUT` of each class, which follow from the seed and their names, without their parts."""
    by_class: dict[str, list[Example]] = {}
    for example in examples:
        by_class.setdefault(example.class_name, []).append(example)
    kept: set[str] = set()
    for members in by_class.values():
        shuffled = sorted(
            members, key=lambda e: hashlib.sha256(f"cut {seed}\0{e.id}".encode()).digest()
        )
        kept |= {e.id for e in shuffled[:CUT]}
    return [dataclasses.replace(e, part=None) for e in examples if e.id in kept]
