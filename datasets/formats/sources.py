"""Where files come from: a directory, a .zip that is read in place, or a .tar that is unpacked once.

A source lists its files once and reads them from any thread. Files that systems leave behind (`.DS_Store`,
`__MACOSX`, `Thumbs.db` and their like) do not exist for it.
"""

import dataclasses
import os
import re
import stat
import struct
import sys
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from copy import copy
from pathlib import Path
from typing import Any, Protocol

from datasets.dataset import InputError
from datasets.images.decode import UndecodableError

JUNK = {"__macosx", "_ds_store", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}

# Bounds against archives made to exhaust memory or time. Real ones stay far below: photographs hardly
# compress, and ImageNet's training part has 1.3 million files in 138 GiB.
MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 512 << 20
MAX_TOTAL_BYTES = 1 << 40
MAX_RATIO = 100  # of unpacked to packed bytes, from FREE_BYTES on
FREE_BYTES = 1 << 30

# Of the others, Python's reader unpacks without a bound.
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENCRYPTED = 0x1  # flag bit


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a source."""

    path: str  # relative to the source, with forward slashes, in Unicode's composed form
    stamp: str  # differs when the content does
    handle: Any  # what the source finds it by


class Source(Protocol):
    """A place with files."""

    kind: str  # folder, zip or tar
    root: Path
    files: list[File]
    notes: tuple[str, ...]  # remarks for the user on how the files are read

    def read(self, file: File) -> bytes:
        """The content of a file. Raises UndecodableError with the reason when it cannot be read."""
        ...


class DirectorySource:
    """All files below a directory. Links are followed, but not in circles."""

    kind = "folder"
    notes: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = list(self._walk(str(root), "", ()))

    def _walk(
        self, directory: str, prefix: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[File]:
        here = os.stat(directory)
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                if is_junk(entry.name):
                    continue
                path = prefix + unicodedata.normalize("NFC", entry.name)
                if entry.is_dir():
                    yield from self._walk(entry.path, path + "/", (*above, identity))
                else:
                    yield File(path, _stamp(entry), entry.path)

    def read(self, file: File) -> bytes:
        try:
            status = os.stat(file.handle)
            if not stat.S_ISREG(status.st_mode):  # a pipe would block
                raise UndecodableError("not a regular file")
            if status.st_size > MAX_MEMBER_BYTES:
                raise UndecodableError(f"larger than {size_text(MAX_MEMBER_BYTES)}")
            with open(file.handle, "rb") as opened:
                return opened.read()
        except OSError as error:
            raise UndecodableError(f"{error.strerror or error}") from error


class ListedSource(DirectorySource):
    """The files of a directory that someone has listed; the rest of it is not looked at."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        """Those of `paths` (relative to the root, as `inner_path` gives them) that exist."""
        self.root = root
        self.files = []
        for path in paths:
            # On the disk an accent may be stored in either form.
            forms = (root / unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
            if found := next(filter(os.path.lexists, forms), None):
                self.files.append(File(path, _stamp(found), str(found)))


def _stamp(entry: os.DirEntry[str] | Path) -> str:
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere: reading it will say so
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


class ZipSource:
    """The members of a .zip. Nothing is unpacked to the disk.

    With `copied`, the members of an archive of some kind, which that zip is a copy of.
    """

    def __init__(self, root: Path, copied: Path | None = None, kind: str = "zip") -> None:
        self.root = root
        self.kind = kind
        self.notes: tuple[str, ...] = ()
        self._lock = threading.Lock()
        status = root.stat()
        try:
            self._archive = zipfile.ZipFile(copied or root)
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            EOFError,
            ValueError,
            struct.error,
        ) as error:
            raise InputError(_no_zip(root, copied or root, error)) from None
        members = self._archive.infolist()
        check_bounds(root, len(members), sum(m.file_size for m in members), status.st_size)
        stamp = f"{status.st_size} {status.st_mtime_ns}"
        self.files = []
        for member in members:
            path = inner_path(root, member.filename)
            if member.is_dir() or any(map(is_junk, path.split("/"))):
                continue
            self._check_member(member)
            self.files.append(File(path, f"{stamp} {member.file_size} {member.CRC}", member))

    def _check_member(self, member: zipfile.ZipInfo) -> None:
        if member.flag_bits & ENCRYPTED:
            raise InputError(f"{self.root} is encrypted: unpack it, and give the folder")
        if member.compress_type not in COMPRESSIONS:
            raise InputError(
                f"{self.root} is packed by a method ({member.compress_type}) that is not read in"
                " place: unpack it, and give the folder"
            )
        check_member(self.root, member.filename, member.file_size)

    def read(self, file: File) -> bytes:
        declared = file.handle.file_size
        # By itself the reader cuts a member off at its declared size, having unpacked all of it. Asked for a
        # byte more, with the declaration out of its way, it unpacks that much and shows whether there is more.
        member = copy(file.handle)
        member.file_size = sys.maxsize
        try:
            # Opening and closing count references without a lock; reading is safe in threads.
            with self._lock:
                opened = self._archive.open(member)
            try:
                content = opened.read(declared + 1)
            finally:
                with self._lock:
                    opened.close()
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise UndecodableError(f"damaged in the archive: {error}") from error
        except OSError as error:
            raise UndecodableError(f"{error.strerror or error}") from error
        if len(content) > declared:
            raise InputError(
                f"{self.root} says that {file.path!r} unpacks to {declared} bytes, and it holds more:"
                " the archive is damaged or malicious, get it anew"
            )
        return content


def check_bounds(root: Path, members: int, total: int, packed: int) -> None:
    """Refuse an archive of `packed` bytes with so many members, or with so many bytes in them."""
    if members > MAX_MEMBERS:
        raise InputError(
            f"{root} has {members} members, more than {MAX_MEMBERS}:"
            " give a folder, or a smaller archive"
        )
    if total > MAX_TOTAL_BYTES or total > max(FREE_BYTES, MAX_RATIO * packed):
        raise InputError(
            f"{root} would unpack to {size_text(total)} from {size_text(packed)}, which no archive"
            " of photographs does: unpack it yourself if you trust it, and give the folder"
        )


def check_member(root: Path, name: str, size: int) -> None:
    """Refuse a member that is too large to be read."""
    if size > MAX_MEMBER_BYTES:
        raise InputError(
            f"{root} would unpack {name!r} to {size_text(size)}, more than"
            f" {size_text(MAX_MEMBER_BYTES)}: take it out of the archive"
        )


def inner_path(root: Path, name: str) -> str:
    """The path of a member inside its archive; a name that points outside is refused."""
    parts = name.replace("\\", "/").split("/")
    if points_outside(name):
        raise InputError(
            f"{root} has a member named {name!r}, which points outside"
            " the archive: pack it anew with relative names"
        )
    return unicodedata.normalize("NFC", "/".join(p for p in parts if p not in ("", ".")))


def points_outside(name: str) -> bool:
    """Whether a path, in the manner of any system, may leave the folder that it is relative to."""
    name = name.replace("\\", "/")
    return bool(re.match("/|[A-Za-z]:", name)) or ".." in name.split("/")


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def _no_zip(path: Path, content: Path, error: Exception) -> str:
    with open(content, "rb") as file:
        begins_as_zip = file.read(2) == b"PK"
    if begins_as_zip or path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        return f"{path} is a damaged or incomplete zip ({error}): copy or download it again"
    return f"{path} is neither a folder nor a .zip or .tar: unpack it, and give the folder"


def size_text(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.0f} TiB"
