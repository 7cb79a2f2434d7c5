"""Find weights files among a recipe's data, by name and content (`recipe.DataFile`)."""

import functools
import hashlib
from pathlib import Path

from train.recipe import DataFile, InputError, NetFeatures, Recipe


def of_recipe(recipe: Recipe) -> list[DataFile]:
    """List the files that a recipe names."""
    features = recipe.features.source if isinstance(recipe.features, NetFeatures) else None
    return [weights for weights in (recipe.pretrained, features) if isinstance(weights, DataFile)]


def find(file: DataFile, data_dir: str | None) -> Path:
    """Return the path of a file in `data_dir`, or next to it if that is an archive.

    Raises InputError if there is no such file, or if its content is another.
    """
    wanted = f"{file.name} (sha256 {file.sha256[:12]}...)"
    get_it = f"get {file.origin}" if file.origin else "put the file there"
    if data_dir is None:
        raise InputError(f"the weights {wanted} are needed: pass their folder with --data-dir")
    given = Path(data_dir).expanduser()
    path = (given if given.is_dir() else given.parent) / file.name
    if not path.is_file():
        raise InputError(f"there are no weights {wanted} in {path.parent}: {get_it}")
    status = path.stat()
    found = _sha256(path, status.st_size, status.st_mtime_ns)
    if found != file.sha256:
        raise InputError(
            f"{path} is not the file {wanted}, its sha256 is {found[:12]}...: {get_it}"
        )
    return path


@functools.cache
def _sha256(path: Path, size: int, modified: int) -> str:
    """Return the hash of a file's content; `size` and `modified` only identify its version."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
