"""Open a directory, a .zip or a .tar as a source of files."""

import stat
from pathlib import Path

from datasets.dataset import InputError, Progress
from datasets.formats.archives import is_tar, open_tar
from datasets.formats.sources import DirectorySource, Source, ZipSource


def open_source(path: Path, progress: Progress | None = None) -> Source:
    """Open the source at a path. Raises InputError if it does not exist or is unusable."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return DirectorySource(path)
        if stat.S_ISREG(mode):
            return open_tar(path, progress) if is_tar(path) else ZipSource(path)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist: use the path of a folder, .zip or .tar of images"
        ) from None
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read ({error.strerror}):"
            " check its permissions and the disk"
        ) from None
    raise InputError(f"{path} is neither a folder nor a .zip or .tar of images")
