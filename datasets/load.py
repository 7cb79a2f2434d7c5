"""Data sets by name or path. Imports the standard library only.

A named data set is a module of `datasets.named`, or what an installed package declares as an entry point of the group
`jax_zoo.datasets` (see `zoo.common.names`): a module, or any other object, with

    INFO: DatasetInfo
    def build(options: Options) -> Dataset

A module of `datasets.named` imports the standard library only at its top (NumPy inside its functions), so that
`dataset_info` and listings stay instant; a test looks. Those whose names begin with an underscore are helpers.
"""

import fnmatch
import functools
import importlib
import os
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from datasets import named
from datasets.dataset import Dataset, DatasetInfo, InputError, Options, Progress, Split
from zoo.common.names import did_you_mean, load_plugin, plugin_names


class NamedDataset(Protocol):
    """What a name stands for."""

    INFO: DatasetInfo

    def build(self, options: Options) -> Dataset[Split]:
        """Load, check and split the data."""


def list_datasets(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted; those of installed packages' entry points are among them."""
    return sorted(fnmatch.filter({*_builtin_names(), *plugin_names("datasets")}, pattern))


def dataset_info(name: str) -> DatasetInfo:
    """What is known about a named data set; raises InputError for an unknown name, with the nearest ones."""
    return _find(name).INFO


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
) -> Dataset[Split]:
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
    return _builder(name_or_path)(options)


def _builder(name_or_path: str | os.PathLike[str]) -> Callable[[Options], Dataset]:
    """What loads the data set of a name or path."""
    if isinstance(name_or_path, str):
        if name_or_path in list_datasets():
            return _find(name_or_path).build
        if name_or_path.startswith("tfds:"):
            from datasets.formats.tfds import load_tfds

            name, known = name_or_path.removeprefix("tfds:"), list_datasets()
            return lambda options: load_tfds(name, options, known)
    path = Path(name_or_path).expanduser()
    if not os.path.lexists(path) and not _looks_like_path(name_or_path):
        raise _unknown(str(name_or_path))
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".csv":
        from datasets.formats.csv_list import load_csv

        return functools.partial(load_csv, path)
    if suffix == ".npz":
        from datasets.formats.npz import load_npz

        return functools.partial(load_npz, path)
    from datasets.formats.folder import load_folder
    from datasets.formats.tfds import load_prepared, prepared_directory

    if prepared := prepared_directory(path):
        return functools.partial(load_prepared, prepared)
    return functools.partial(load_folder, path)


@functools.cache
def _builtin_names() -> frozenset[str]:
    """The modules of `datasets.named`, found without importing them."""
    found = (module.name for module in pkgutil.iter_modules(named.__path__))
    return frozenset(name for name in found if not name.startswith("_"))


def _find(name: str) -> NamedDataset:
    """The data set of a name; the project's own win over those of other packages."""
    if name in _builtin_names():
        return cast(NamedDataset, importlib.import_module(f"{named.__name__}.{name}"))
    if name not in plugin_names("datasets"):
        raise _unknown(name)
    found: Any = load_plugin("datasets", name)
    if not isinstance(getattr(found, "INFO", None), DatasetInfo) or not hasattr(found, "build"):
        raise InputError(
            f"the data set {name!r} of another package is {found!r}, without INFO (a DatasetInfo) and"
            " build(options): repair or uninstall that package"
        )
    return found


def _unknown(name: str) -> InputError:
    names = list_datasets()
    known = did_you_mean(name, names, f"known are {', '.join(names)}")
    return InputError(
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
