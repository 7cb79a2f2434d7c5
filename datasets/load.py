"""Data sets by name or path. Imports only the standard library.

A named data set is a module of `datasets.named`, or an entry point in the group `jax_zoo.datasets` of an installed
package (see `zoo.common.names`): a module or any other object with

    INFO: DatasetInfo
    def build(options: Options) -> Dataset

At the top level, a module of `datasets.named` imports only the standard library (NumPy inside functions), so that
`dataset_info` and `list_datasets` are instant; a test checks this. Modules whose names begin with an underscore are
helpers.
"""

import fnmatch
import functools
import importlib
import os
import pkgutil
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from datasets import named
from datasets.dataset import Dataset, DatasetInfo, InputError, Options, Progress, Split
from zoo.common.names import did_you_mean, load_plugin, plugin_names


class NamedDataset(Protocol):
    """The interface of a named data set."""

    INFO: DatasetInfo

    def build(self, options: Options) -> Dataset[Split]:
        """Load, check and split the data."""


def list_datasets(pattern: str = "*") -> list[str]:
    """Return the sorted names that match a shell pattern, including entry points of installed packages."""
    return sorted(fnmatch.filter({*_builtin_names(), *plugin_names("datasets")}, pattern))


def dataset_info(name: str) -> DatasetInfo:
    """Return the metadata of a named data set. Raises InputError with similar names if the name is unknown."""
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
    max_bad: float = 0.05,
    progress: Progress | None = None,
    group: str | None = None,
    folds: int = 0,
    fold: int = 0,
    splits_file: str | os.PathLike[str] | None = None,
    published_splits: Literal["auto", "keep", "pool"] = "auto",
    classes: Sequence[str] = (),
) -> Dataset[Split]:
    """Load a data set: find it, check all its images, and split it.

    Args:
      name_or_path: a name in `list_datasets()`; the path of a folder, .zip or .tar of images, with or without
        published splits, of a .csv that lists images, or of a .npz of arrays; or `tfds:NAME` (see the modules of
        `datasets.formats`). A name takes precedence over a folder of the same name: write `./digits` for the folder.
      data_dir: folder or archive with the files of a named data set, or with the images listed in a .csv; or the TFDS
        data directory. Other data sets ignore it.
      seed: seed of the random split, for data without published splits; seed of the generator, for synthetic data.
      validation_fraction, test_fraction: fractions of the data for splits that are not published, between 0 and 1.
      image_size: height and width in pixels, for data sets that can be generated at any size (digits).
      on_bad_image: "skip" leaves out images that cannot be decoded, "error" raises InputError.
      max_bad: largest fraction of images that may be left out because they cannot be decoded.
      progress: called as `progress(text, done, total)` while images are checked, unpacked or downloaded.
      group: regular expression searched for in each id. Images with the same first group (or the same match, if the
        expression has no group) stay in the same split: those of one individual or one visit, for example. Groups that
        come with the data take precedence.
      folds, fold: cross-validation with `folds` folds. Fold number `fold`, counted from 0, is the test split;
        validation images are drawn from the other folds. Published validation images join the folds; a published test
        split is kept, and the fold becomes the validation split.
      splits_file: `splits.json` of an earlier run, or its directory: reuse its splits and its order of classes (see
        `datasets.manifest`).
      published_splits: "keep" the splits that come with the data, "pool" all images and split them again, or follow the
        data set's paper ("auto": afhq pools, all others keep).
      classes: classes of a trained model, to score it on other data. The data may have a subset of them, and get the
        model's labels; nothing is split: published splits are kept, and all other images form the test split.

    Raises InputError with a one-line message for unusable data or options.
    """
    options = Options(
        data_dir=None if data_dir is None else os.path.expanduser(data_dir),
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        image_size=image_size,
        on_bad_image=on_bad_image,
        max_bad=max_bad,
        progress=progress,
        group=group,
        folds=folds,
        fold=fold,
        splits_file=splits_file,
        published_splits=published_splits,
        classes=tuple(classes),
    )
    options.check()
    dataset = _builder(name_or_path)(options)
    if not options.classes:
        return dataset
    from datasets.views import with_classes

    return with_classes(dataset, options.classes)


def _builder(name_or_path: str | os.PathLike[str]) -> Callable[[Options], Dataset]:
    """Return the function that loads the data set with this name or path."""
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
    """Return the names of the modules of `datasets.named`, without importing them."""
    found = (module.name for module in pkgutil.iter_modules(named.__path__))
    return frozenset(name for name in found if not name.startswith("_"))


def _find(name: str) -> NamedDataset:
    """Return a data set by name. Built-in data sets take precedence over those of other packages."""
    if name in _builtin_names():
        return cast(NamedDataset, importlib.import_module(f"{named.__name__}.{name}"))
    if name not in plugin_names("datasets"):
        raise _unknown(name)
    found: Any = load_plugin("datasets", name)
    if not isinstance(getattr(found, "INFO", None), DatasetInfo) or not hasattr(found, "build"):
        raise InputError(
            f"the data set {name!r} from another package is {found!r}, which lacks INFO (a DatasetInfo) or"
            " build(options): fix or uninstall that package"
        )
    return found


def _unknown(name: str) -> InputError:
    names = list_datasets()
    hint = did_you_mean(name, names, f"choose from {', '.join(names)}")
    return InputError(
        f"unknown data set {name!r}: {hint} (or use the path of a folder, .zip, .tar, .csv or .npz)"
    )


def _looks_like_path(text: str | os.PathLike[str]) -> bool:
    separators = {os.sep, os.altsep, "/"} - {None}
    return (
        not isinstance(text, str)
        or any(s in text for s in separators if s)
        or text.startswith((".", "~"))
        or re.search(r"\.(zip|csv|npz|tar|tgz|txz|tbz2?|tar\.\w+)$", text.lower()) is not None
    )
