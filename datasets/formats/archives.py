"""Unpack archives that cannot be read in place: tars, which have no table of contents, and zips inside zips.

The content of a tar is kept in the cache directory as one uncompressed .zip, since tens of thousands of small files
take minutes to write and to delete on many systems. A tar that has changed is unpacked again.
"""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from datasets.cache import cache_dir, whole_file
from datasets.dataset import InputError, Progress
from datasets.formats.sources import ZipSource, check_bounds, check_member, inner_path, size_text

FORMAT = 1
PROGRESS_SECONDS = 0.1
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
COMPRESSIONS: dict[bytes, Any] = {  # by magic number
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
USTAR_OFFSET = 257  # of the magic number in a header

MAX_HEADER_BYTES = 1 << 20  # of long names and extended fields, which are read into memory
EXTENDED = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}
DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar archive, compressed or not, by its content or its name."""
    with open(path, "rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    packed = any(start.startswith(magic) for magic in COMPRESSIONS)
    named = path.name.lower().endswith(SUFFIXES) and not start.startswith(b"PK")
    return packed or named or start[USTAR_OFFSET:].startswith(b"ustar")


def open_tar(path: Path, progress: Progress | None = None) -> ZipSource:
    """Open a tar after unpacking it to the cache, unless a copy is already there.

    As for a .zip, paths outside the archive and excessive sizes are rejected; links and devices are not followed (they
    count as bad images). Raises InputError for unusable archives.
    """
    return _through_copy(
        path, _copy_of(path), lambda copy: _unpack(path, copy, progress), path.name, "tar"
    )


def open_inner_zip(path: Path, name: str, progress: Progress | None = None) -> ZipSource | None:
    """Open the .zip `name` inside another .zip after copying it to the cache, unless a copy is already there.

    Returns None if the outer file is not a .zip or has no such member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if name not in archive.namelist():
                return None
            size = archive.getinfo(name).file_size
    except (*DAMAGED, zipfile.BadZipFile, NotImplementedError, OSError):
        return None  # opening it the usual way reports the error
    check_bounds(path, 1, size, path.stat().st_size)

    def unpack(copy: Path) -> None:
        if progress:
            progress(f"copying {name} from {path.name}", 0, 1)
        try:
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(name) as inner,
                whole_file(copy) as file,
            ):
                shutil.copyfileobj(inner, file, 1 << 20)
        except (*DAMAGED, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise InputError(
                f"{path} has a damaged or encrypted {name} ({error}): copy or download it again"
            ) from None

    return _through_copy(path, _copy_of(path, name), unpack, f"{name} in {path.name}", "zip")


def _through_copy(
    path: Path, copy: Path, unpack: Callable[[Path], None], name: str, kind: str
) -> ZipSource:
    """Open the copy of an archive. If it is missing or damaged, `unpack` creates it."""
    source = None
    if copy.is_file():
        with contextlib.suppress(InputError):
            source = ZipSource(path, copy, kind)
    if source is None:
        try:
            unpack(copy)
        except OSError as error:
            raise InputError(
                f"{path} cannot be unpacked to {copy.parent} ({error.strerror}): free space there, set"
                " JAX_ZOO_CACHE to another folder, or unpack it yourself and use the folder"
            ) from None
        _drop_older(copy)
        source = ZipSource(path, copy, kind)
    size = size_text(copy.stat().st_size)
    source.notes = (f"{name} is read from its unpacked copy {copy} ({size})",)
    return source


def _copy_of(path: Path, inner: str = "") -> Path:
    """Return the path of an archive's copy, which depends on the archive's path, size and modification time."""
    status = path.stat()
    place = _digest(f"{path.resolve()}\0{inner}")
    state = _digest(f"{FORMAT}\0{status.st_size}\0{status.st_mtime_ns}")
    return cache_dir() / "archives" / f"{place}-{state}.zip"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]


def _drop_older(copy: Path) -> None:
    """Remove copies of earlier versions of an archive. Processes that have them open can still read them."""
    place = copy.name.partition("-")[0]
    for other in copy.parent.glob(f"{place}-*.zip"):
        if other != copy:
            with contextlib.suppress(OSError):
                other.unlink()


def _unpack(path: Path, copy: Path, progress: Progress | None) -> None:
    packed = path.stat().st_size
    seen: set[str] = set()
    total = 0
    last = 0.0
    with (
        open(path, "rb") as raw,
        _Unpacked(path, raw) as stream,
        whole_file(copy) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target,
    ):
        try:
            archive = tarfile.TarFile.open(  # noqa: SIM115
                fileobj=cast(BinaryIO, stream), mode="r|", tarinfo=_Member
            )
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # saves memory: there may be millions
                path_inside = inner_path(path, member.name)
                total += member.size
                check_bounds(path, len(seen) + 1, total, packed)
                if member.isdir():
                    continue
                check_member(path, member.name, member.size)
                if path_inside in seen:
                    raise InputError(
                        f"{path} contains {path_inside} twice: remove or rename one of them"
                    )
                seen.add(path_inside)
                _copy_member(archive, member, target, path_inside)
                now = time.monotonic()
                if progress and now - last > PROGRESS_SECONDS:
                    progress(f"unpacking {path.name} (MiB)", raw.tell() >> 20, packed >> 20)
                    last = now
            stream.finish()
        except InputError:
            raise
        except (*DAMAGED, RecursionError, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise InputError(
                f"{path} is a damaged or incomplete tar ({' '.join(str(error).split())}): copy or"
                " download it again"
            ) from None


def _copy_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, target: zipfile.ZipFile, name: str
) -> None:
    """Copy a member to the zip. A link becomes a file that contains the name of its target."""
    info = zipfile.ZipInfo(name)
    info.file_size = member.size
    info.external_attr = ((stat.S_IFREG if member.isreg() else stat.S_IFLNK) | 0o600) << 16
    if not member.isreg():
        target.writestr(info, member.linkname)
        return
    content = archive.extractfile(member)
    assert content is not None  # a regular file
    with target.open(info, "w") as opened:
        shutil.copyfileobj(content, opened)


class _Member(tarfile.TarInfo):
    """A header whose size is limited."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.type in EXTENDED and member.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"it has a header of {size_text(member.size)}")
        return member


class _Unpacked:
    """The decompressed bytes of a tar. `finish` checks that they end with the end mark."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self._path, self._raw = path, raw
        start = raw.read(8)
        raw.seek(0)
        opened = (opens for magic, opens in COMPRESSIONS.items() if start.startswith(magic))
        self._stream: Any = next(opened, lambda file: file)(raw)
        self._packed = os.fstat(raw.fileno()).st_size
        self._count = 0
        self._tail = b""

    def __enter__(self) -> "_Unpacked":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(size)
        self._count += len(content)
        self._tail = (self._tail + content)[-tarfile.BLOCKSIZE :]
        return content

    def finish(self) -> None:
        """Read what follows the last member: the end mark, and the checksum of the compression."""
        while self.read(1 << 16):
            check_bounds(self._path, 0, self._count, self._packed)
        if any(self._tail) or not self._tail:
            raise tarfile.ReadError("the end mark is missing")
