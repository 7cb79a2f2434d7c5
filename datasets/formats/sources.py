"""Sources of files: directories, .zip files read in place, and .tar files unpacked once.

A source lists its files once and reads them from any thread. Files created by operating systems, such as `.DS_Store`,
`__MACOSX` and `Thumbs.db`, are ignored.
"""

import contextlib
import dataclasses
import json
import os
import re
import stat
import struct
import sys
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from copy import copy
from pathlib import Path
from typing import Any, Protocol

from datasets.cache import cache_dir
from datasets.dataset import InputError
from datasets.images.decode import UndecodableError
from zoo.common.files import printable

RUN_FILE = "config.json"  # marks a run directory
OUTPUT_MARK = ".jax-zoo"  # marks other folders written by this program
FIGURE_MARK = b"Software\0jax-zoo"  # marks its figures

JUNK = {"__macosx", "_ds_store", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}

# Limits against archives built to exhaust memory or time. Real archives stay far below: photographs hardly compress,
# and ImageNet's training split has 1.3 million files in 138 GiB.
MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 512 << 20
MAX_TOTAL_BYTES = 1 << 40
MAX_RATIO = 100  # of unpacked to packed bytes, for archives above FREE_BYTES
FREE_BYTES = 1 << 30

# With other methods, Python's reader decompresses without a limit.
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENCRYPTED = 0x1  # flag bit


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a source."""

    path: str  # relative to the source, with forward slashes, in Unicode form NFC
    stamp: str  # changes when the content changes
    handle: Any  # used by the source to locate the file


class UnreadableError(UndecodableError):
    """A file cannot be read at the moment, for example for lack of permission; its content may be fine."""


class Source(Protocol):
    """A collection of files."""

    kind: str  # folder, zip or tar
    root: Path
    files: list[File]
    folders: list[str]  # known paths, as in `File`; all other folders contain files
    notes: tuple[str, ...]  # remarks for the user about how the files are read

    def read(self, file: File) -> bytes:
        """Return the content of a file. Raises UndecodableError with the reason if it cannot be read."""
        ...


class DirectorySource:
    """All files below a directory, except this program's own output. Links are followed, unless they form a cycle.

    In names that are not valid UTF-8, `File.path` has U+FFFD for bytes that cannot be decoded, or, where two names
    would become equal, the byte in hexadecimal.
    """

    kind = "folder"
    notes: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: list[str] = []
        self._cache: tuple[int, int] | None = None
        with contextlib.suppress(OSError):
            cache = os.stat(cache_dir())
            self._cache = cache.st_dev, cache.st_ino
        self._outputs: list[str] = []
        self.files = list(self._walk(str(root), "", ()))
        self.folders = _without_outputs(self.folders, self._outputs)

    def _walk(
        self, directory: str, prefix: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[File]:
        here = os.stat(directory)
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            return
        if above and identity == self._cache:
            self._outputs.append(prefix)
            return
        with os.scandir(directory) as scanned:
            entries = {entry.name: entry for entry in scanned}
        if above and _is_output(directory, entries):
            self._outputs.append(prefix)
            return
        if prefix:
            self.folders.append(prefix.removesuffix("/"))
        shown = _shown_names(entries)
        for name, entry in entries.items():
            if is_junk(name):
                continue
            path = prefix + unicodedata.normalize("NFC", shown[name])
            if entry.is_dir():
                yield from self._walk(entry.path, path + "/", (*above, identity))
            elif above or not _is_own_figure(entry):
                yield File(path, _stamp(entry), entry.path)

    def read(self, file: File) -> bytes:
        try:
            status = os.stat(file.handle)
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
                raise UndecodableError("not a regular file")
            if status.st_size > MAX_MEMBER_BYTES:
                raise UndecodableError(f"larger than {size_text(MAX_MEMBER_BYTES)}")
            with open(file.handle, "rb") as opened:
                return opened.read()
        except OSError as error:
            raise UnreadableError(f"{error.strerror or error}") from error


def _shown_names(names: Iterable[str]) -> dict[str, str]:
    """Return the printable form of each file name of a directory."""
    shown = {name: printable(name) for name in names}
    count = Counter(shown.values())
    for name, text in shown.items():
        if name != text and count[text] > 1:
            shown[name] = os.fsencode(name).decode("utf-8", "backslashreplace")
    return shown


# This program's output is never data, even below a data folder: a run directory there contains figures.


def _without_outputs(folders: Iterable[str], outputs: Collection[str]) -> list[str]:
    """Exclude folders inside and around this program's output folders, whose paths end with a slash."""
    around = {parent for path in outputs for parent in _parents(path)}
    return [f for f in folders if f not in around and not f"{f}/".startswith(tuple(outputs))]


def _parents(path: str) -> list[str]:
    parts = path.rstrip("/").split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _is_output(directory: str, names: Collection[str]) -> bool:
    """Whether this program wrote a directory: a run directory, or a folder with its mark."""
    if OUTPUT_MARK in names:
        return True
    if RUN_FILE not in names:
        return False
    try:
        with open(os.path.join(directory, RUN_FILE), "rb") as file:
            return is_run(file.read(1 << 20))
    except OSError:
        return False


def is_run(content: bytes) -> bool:
    """Whether this is the config.json of a run."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get("recipe"), dict)


def _is_own_figure(entry: os.DirEntry[str]) -> bool:
    """Whether a file is a figure, of `train.data show` for example."""
    if not entry.name.endswith(".png"):
        return False
    try:
        if not entry.is_file():  # opening a pipe would block
            return False
        with open(entry.path, "rb") as file:
            return FIGURE_MARK in file.read(512)
    except OSError:
        return False


class ListedSource(DirectorySource):
    """Selected files of a directory. Other files are not read."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        """Find those of `paths` (relative to the root, as returned by `inner_path`) that exist."""
        self.root = root
        self.files, self.folders = [], []
        for path in paths:
            # File systems store accents in either Unicode form, or in a legacy encoding.
            forms = [root / unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
            with contextlib.suppress(UnicodeEncodeError):
                forms.append(
                    root / os.fsdecode(forms[0].relative_to(root).as_posix().encode("cp1252"))
                )
            if found := next(filter(os.path.lexists, forms), None):
                self.files.append(File(path, _stamp(found), str(found)))


def _stamp(entry: os.DirEntry[str] | Path) -> str:
    try:
        status = entry.stat()
    except OSError:  # a broken link, which is reported on reading
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


class ZipSource:
    """The members of a .zip, which is not unpacked to disk.

    If `copied` is given, it is a zip with the members of the archive at `root`, which has a different format.
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
            raise InputError(_invalid_zip(root, copied or root, error)) from None
        members = self._archive.infolist()
        check_bounds(root, len(members), sum(m.file_size for m in members), status.st_size)
        stamp = f"{status.st_size} {status.st_mtime_ns}"
        self.files = []
        self.folders = []
        outputs: list[str] = []  # folders written by this program, see `DirectorySource`
        for member in members:
            path = inner_path(root, member.filename)
            if path.endswith(f"/{OUTPUT_MARK}"):
                outputs.append(path.removesuffix(OUTPUT_MARK))
            if any(map(is_junk, path.split("/"))):
                continue
            if member.is_dir():
                self.folders.append(path)
                continue
            self._check_member(member)
            self.files.append(File(path, f"{stamp} {member.file_size} {member.CRC}", member))
        outputs += self._runs()
        self.files = [file for file in self.files if not file.path.startswith(tuple(outputs))]
        self.folders = _without_outputs(self.folders, outputs)

    def _runs(self) -> Iterator[str]:
        """Yield the folders that are run directories."""
        for file in self.files:
            folder, _, name = file.path.rpartition("/")
            if folder and name == RUN_FILE and file.handle.file_size < 1 << 20:
                with contextlib.suppress(UndecodableError):
                    if is_run(self.read(file)):
                        yield f"{folder}/"

    def _check_member(self, member: zipfile.ZipInfo) -> None:
        if member.flag_bits & ENCRYPTED:
            raise InputError(f"{self.root} is encrypted: unpack it, and use the folder")
        if member.compress_type not in COMPRESSIONS:
            raise InputError(
                f"{self.root} uses an unsupported compression method ({member.compress_type}):"
                " unpack it, and use the folder"
            )
        check_member(self.root, member.filename, member.file_size)

    def read(self, file: File) -> bytes:
        declared = file.handle.file_size
        # Python's reader unpacks a whole member and then truncates it to its declared size. Without a declared size,
        # and asked for one byte more, it unpacks only that much, which reveals whether the member is larger.
        member = copy(file.handle)
        member.file_size = sys.maxsize
        try:
            # Opening and closing count references without a lock; reading is thread-safe.
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
            raise UnreadableError(f"{error.strerror or error}") from error
        if len(content) > declared:
            raise InputError(
                f"{file.path!r} in {self.root} unpacks to more than its declared {declared} bytes:"
                " the archive is damaged or malicious; get it from another source"
            )
        return content


def check_bounds(root: Path, members: int, total: int, packed: int) -> None:
    """Raise InputError if an archive of `packed` bytes has too many members, or unpacks to too many bytes (`total`)."""
    if members > MAX_MEMBERS:
        raise InputError(
            f"{root} has {members} members, more than {MAX_MEMBERS}:"
            " use a folder, or a smaller archive"
        )
    if total > MAX_TOTAL_BYTES or total > max(FREE_BYTES, MAX_RATIO * packed):
        raise InputError(
            f"{root} would unpack from {size_text(packed)} to {size_text(total)}, too much for an archive"
            " of photographs: if you trust it, unpack it yourself, and use the folder"
        )


def check_member(root: Path, name: str, size: int) -> None:
    """Raise InputError for a member that is too large to read."""
    if size > MAX_MEMBER_BYTES:
        raise InputError(
            f"{root} would unpack {name!r} to {size_text(size)}, more than"
            f" {size_text(MAX_MEMBER_BYTES)}: remove it from the archive"
        )


def inner_path(root: Path, name: str) -> str:
    """Normalize the path of an archive's member. Raises InputError for paths outside the archive."""
    parts = name.replace("\\", "/").split("/")
    if points_outside(name):
        raise InputError(
            f"{root} has a member named {name!r}, which points outside the archive:"
            " pack it again with relative names"
        )
    path = "/".join(p for p in parts if p not in ("", "."))
    return unicodedata.normalize("NFC", printable(path))


def points_outside(name: str) -> bool:
    """Return whether a relative path could leave its folder, on any operating system."""
    name = name.replace("\\", "/")
    return bool(re.match("/|[A-Za-z]:", name)) or ".." in name.split("/")


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def _invalid_zip(path: Path, content: Path, error: Exception) -> str:
    with open(content, "rb") as file:
        begins_as_zip = file.read(2) == b"PK"
    if begins_as_zip or path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        return f"{path} is a damaged or incomplete zip ({error}): copy or download it again"
    return f"{path} is neither a folder nor a .zip or .tar: unpack it, and use the folder"


def size_text(count: int) -> str:
    """Format a number of bytes for messages, such as 4 GiB."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.0f} TiB"
