"""Data sets by name or path. Imports the standard library only.

A named data set is a module with

    INFO: DatasetInfo
    def build(options: Options) -> Dataset

Such a module imports the standard library only at
its top (NumPy inside its functions), so that `dataset_info` and listings stay instant; a test looks.
"""

import difflib
import fnmatch
import importlib
import os
import re
from pathlib import Path
from typing import Any, Literal

from datasets.dataset import Dataset, DatasetInfo, InputError, Options, Progress

BUILTIN_MODULES = {
    "afhq": "datasets.named.afhq",
    "afhq7": "datasets.named.afhq7",
    "animals10": "datasets.named.animals10",
    "cats_dogs": "datasets.named.cats_dogs",
    "cifar10": "datasets.named.cifar10",
    "digits": "datasets.named.digits",
    "pig_faces": "datasets.named.pig_faces",
    "synthetic_pigs": "datasets.named.synthetic_pigs",
}


def list_datasets(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(BUILTIN_MODULES, pattern))


def dataset_info(name: str) -> DatasetInfo:
    """What is known about a named data set; raises InputError for an unknown name, with the nearest ones."""
    return _module(name).INFO


def load_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    image_size: int | None = None,
    on_bad_image: Literal["skip", "error"] = "skip",
    progress: Progress | None = None,
    group: str | None = None,
    folds: int = 0,
    fold: int = 0,
    splits_file: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Find a data set, check all its images, and split it.

    Args:
      name_or_path: a name of `list_datasets()`; the path of a folder, .zip or .tar of images, with or without
        published parts, of a .csv that lists images, or of a .npz with arrays; or `tfds:NAME` (see the modules of
        `datasets.formats`). A name wins over a folder so called: write `./digits` for that one.
      data_dir: where the files of a named data set, or the images that a .csv lists, lie: a folder or an
        archive; or the TFDS data directory; others do without.
      seed: of the split, where the data come unsplit; of the generator, where they are drawn.
      validation_fraction, test_fraction: shares of the parts that have to be made; both between 0 and 1.
      image_size: height and width in pixels, for data sets that come in any size (digits).
      on_bad_image: leave out images that cannot be decoded, or raise InputError.
      progress: called as `progress(text, done, total)` while images are checked, unpacked or downloaded.
      group: a regular expression that is searched for in each id; its first group, or all that it matches,
        names what must stay on one side of a split: an individual, a visit. Groups that come with the
        data win.
      folds, fold: cross-validation: the test part is fold number `fold`, from 0 on, of so many, and
        validation images are taken out of the others by their share. A published validation part
        joins the folds; a published test part is kept, and the fold is the validation part then.
      splits_file: the `splits.json` of an earlier run, or its directory: the same examples in the same parts,
        and its order of classes (see `datasets.manifest`).

    Raises InputError, one line, for anything that cannot be used.
    """
    options = Options(
        data_dir=data_dir,
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        image_size=image_size,
        on_bad_image=on_bad_image,
        progress=progress,
        group=group,
        folds=folds,
        fold=fold,
        splits_file=splits_file,
    )
    options.check()
    if isinstance(name_or_path, str) and name_or_path in BUILTIN_MODULES:
        return _module(name_or_path).build(options)
    if isinstance(name_or_path, str) and name_or_path.startswith("tfds:"):
        from datasets.formats.tfds import load_tfds

        return load_tfds(name_or_path.removeprefix("tfds:"), options)
    path = Path(name_or_path).expanduser()
    if not os.path.lexists(path) and not _looks_like_path(name_or_path):
        _module(str(name_or_path))  # raises
    if not path.is_dir():
        if path.suffix.lower() == ".csv":
            from datasets.formats.csv_list import load_csv

            return load_csv(path, options)
        if path.suffix.lower() == ".npz":
            from datasets.formats.npz import load_npz

            return load_npz(path, options)
    from datasets.formats.folder import load_folder
    from datasets.formats.tfds import load_prepared, prepared_directory

    prepared = prepared_directory(path)
    return load_prepared(prepared, options) if prepared else load_folder(path, options)


def _module(name: str) -> Any:
    if name in BUILTIN_MODULES:
        return importlib.import_module(BUILTIN_MODULES[name])
    near = difflib.get_close_matches(name, BUILTIN_MODULES, n=3, cutoff=0.5)
    known = (
        f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(list_datasets())}"
    )
    raise InputError(
        f"unknown data set {name!r}: {known} (or give the path of a folder, .zip, .tar, .csv or .npz)"
    )


def _looks_like_path(text: str | os.PathLike[str]) -> bool:
    separators = {os.sep, os.altsep, "/"} - {None}
    return (
        not isinstance(text, str)
        or any(s in text for s in separators if s)
        or text.startswith((".", "~"))
        or re.search(r"\.(zip|csv|npz|tar|tgz|txz|tbz2?|tar\.\w+)$", text.lower()) is not None
    )
