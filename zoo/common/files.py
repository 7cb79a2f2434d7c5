"""Atomic file writes, checks of output paths before any work, and names that cannot be printed.

Imports only the standard library.
"""

import contextlib
import errno
import glob
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zoo.common.errors import InputError

ABANDONED_SECONDS = 900  # without a write
PART = ".part"


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file atomically: it appears at `path` when the block ends, and not at all if the block fails.

    If the path is a link, its target is replaced, not the link. Pipes and devices are written directly. Two processes
    may write the same file without interfering. A temporary file left by a killed process is removed by a later write
    of the same file.
    """
    path = Path(path)
    if path.exists() and not (
        path.is_file() or path.is_dir()
    ):  # replacing /dev/null would remove it
        with open(path, "wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:50]}."  # a file name has at most 255 bytes
    for abandoned in path.parent.glob(f"{glob.escape(prefix)}*{PART}"):
        with contextlib.suppress(OSError):
            if time.time() - abandoned.stat().st_mtime > ABANDONED_SECONDS:
                abandoned.unlink()
    temporary = path.with_name(f"{prefix}{secrets.token_hex(4)}{PART}")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically: readers, and a crash at any moment, see either the old or the new content."""
    with whole_file(path) as file:
        file.write(content)
        sync(file)


def sync(file: BinaryIO) -> None:
    """Flush a file to disk, so that its content survives a power failure."""
    file.flush()
    with contextlib.suppress(OSError):  # not supported by pipes and some network file systems
        os.fsync(file.fileno())


def check_output_file(path: Path, flag: str) -> None:
    """Raise InputError, before any work is done, if no file can be written at `path`, the value of `flag`."""
    if path.is_dir():
        raise InputError(f"{flag} {path} is a folder: use the path of a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{flag} {path}: its folder does not exist: create it first")
    if path.exists() and not path.is_file():  # a pipe or device
        return
    _check_writable(Path(os.path.realpath(path)).parent, f"{flag} {path}", "file")


def check_output_folder(path: Path, flag: str) -> None:
    """Raise InputError, before any work is done, if no files can be written below `path`, the value of `flag`.

    Creates nothing; the folder may be missing.
    """
    folder = path.absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        what = "is a file" if folder == path.absolute() else f"is below {folder}, a file"
        raise InputError(f"{flag} {path} {what}: use a folder")
    _check_writable(folder, f"{flag} {path}", "folder")


def _check_writable(folder: Path, what: str, kind: str) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{what}: {folder} cannot be written ({error.strerror}): use another {kind}"
        ) from None


def printable(text: str | os.PathLike[str]) -> str:
    """Replace characters that cannot be encoded by U+FFFD.

    Python represents bytes of file names that are not valid UTF-8 (Latin-1, for example) as lone surrogates.
    """
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", os.fspath(text))
