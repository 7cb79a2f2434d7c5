"""Tars are unpacked once, atomically and with the limits of zips, and then read like zips."""

import gzip
import io
import os
import tarfile
import tracemalloc

import pytest
from image_files import images, png, write_folder, write_tar, write_zip

from datasets import InputError, load_dataset
from datasets.formats import archives as unpacking
from datasets.formats import sources
from datasets.formats.open import open_source
from datasets.images.decode import UndecodableError

FILES = images("cats", "dogs", count=3)


@pytest.fixture(autouse=True)
def archives(own_cache):
    """The folder of unpacked copies."""
    return own_cache / "archives"


def error_message(path):
    with pytest.raises(InputError) as error:
        open_source(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def contents(path):
    source = open_source(path)
    return {f.path: source.read(f) for f in source.files}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.tar", "w"),
        ("a.tar.gz", "w:gz"),
        ("a.TGZ", "w:gz"),
        ("a.tar.bz2", "w:bz2"),
        ("a.tar.xz", "w:xz"),
        ("download", "w:xz"),
        ("download", "w"),
    ],
)
def test_all_compressions(tmp_path, name, mode):
    path = write_tar(tmp_path / name, FILES | {"cats/.DS_Store": b"", "./dogs//x.txt": b"x"}, mode)
    assert contents(path) == FILES | {"dogs/x.txt": b"x"}
    assert open_source(path).kind == "tar"


def test_tar_equals_folder_and_zip(tmp_path):
    files = images("photos/train/cats", "photos/train/dogs", "photos/test/cats", count=10)
    data = load_dataset(write_tar(tmp_path / "pets.tar.gz", files))
    assert data.name == "pets"
    for other in (write_folder(tmp_path / "a", files), write_zip(tmp_path / "b.zip", files)):
        assert load_dataset(other).fingerprint == data.fingerprint
        assert load_dataset(other).manifest()["splits"] == data.manifest()["splits"]
    assert data.provenance["kind"] == "tar"
    assert "is read from its unpacked copy" in data.notes[0]
    assert data.provenance["path"] == str(tmp_path / "pets.tar.gz")


def test_tar_is_unpacked_once_with_a_note(tmp_path, archives, monkeypatch):
    path = write_tar(tmp_path / "a.tar.gz", FILES)
    reports = []
    source = open_source(path, lambda *report: reports.append(report))
    assert reports[0] == ("unpacking a.tar.gz (MiB)", 0, 0)
    (copy,) = archives.iterdir()
    assert source.notes[0].startswith(f"a.tar.gz is read from its unpacked copy {copy} (")
    monkeypatch.setattr(unpacking, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert contents(path) == FILES
    assert "is read from its unpacked copy" in open_source(path).notes[0]


def test_changed_tar_is_unpacked_again(tmp_path, archives):
    path = write_tar(tmp_path / "a.tar", FILES, "w")
    before = open_source(path)
    content = before.read(before.files[0])
    status = path.stat()
    changed = FILES | {"cats/0.png": FILES["cats/1.png"]}
    write_tar(path, changed, "w")
    assert path.stat().st_size == status.st_size
    assert contents(path) == changed
    assert len(list(archives.iterdir())) == 1
    assert before.read(before.files[0]) == content
    stamps = {f.path: f.stamp for f in before.files}
    assert all(stamps[f.path] != f.stamp for f in open_source(path).files)
    (tmp_path / "b").mkdir()
    other = write_tar(tmp_path / "b/a.tar", FILES, "w")
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert contents(other) == FILES
    assert len(list(archives.iterdir())) == 2


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_failure_leaves_no_incomplete_copy(tmp_path, archives, monkeypatch, failure):
    path = write_tar(tmp_path / "a.tar", FILES, "w")
    copy_member = unpacking._copy_member

    def fail(archive, member, target, name):
        if name == "dogs/1.png":
            raise failure
        copy_member(archive, member, target, name)

    monkeypatch.setattr(unpacking, "_copy_member", fail)
    with pytest.raises((KeyboardInterrupt, InputError)) as error:
        open_source(path)
    if error.type is InputError:
        assert str(error.value) == (
            f"{path} cannot be unpacked to {archives} (No space left on device): free space there, set"
            " JAX_ZOO_CACHE to another folder, or unpack it yourself and use the folder"
        )
    assert list(archives.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("JAX_ZOO_CACHE", str(archives.parent))
    assert contents(path) == FILES


def test_abandoned_files_of_killed_processes_are_removed(tmp_path, archives):
    path = write_tar(tmp_path / "a.tar", FILES, "w")
    open_source(path)
    (copy,) = archives.iterdir()
    copy.unlink()
    abandoned, recent = (
        copy.with_name(f".{copy.name[:50]}.{n}.part") for n in ("abandoned", "recent")
    )
    abandoned.write_bytes(b"")
    recent.write_bytes(b"")
    os.utime(abandoned, (0, 0))
    assert contents(path) == FILES
    assert set(archives.iterdir()) == {copy, recent}


def test_damaged_copy_is_replaced(tmp_path, archives):
    path = write_tar(tmp_path / "a.tar", FILES, "w")
    open_source(path)
    (copy,) = archives.iterdir()
    copy.write_bytes(copy.read_bytes()[:-30])
    assert contents(path) == FILES


@pytest.mark.parametrize(
    "name", ["../evil.png", "cats/../../evil.png", "/etc/evil.png", "C:\\e.png"]
)
def test_paths_outside_the_archive(tmp_path, archives, name):
    message = error_message(write_tar(tmp_path / "a.tar.gz", FILES | {name: png()}))
    assert f"has a member named {name!r}, which points outside the archive" in message
    assert list(archives.iterdir()) == []


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_not_followed(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("cats/passwords.png")
        member.type = kind
        member.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        archive.addfile(member)
    assert contents(tmp_path / "a.tar") == {"cats/passwords.png": member.linkname.encode()}


def test_link_is_a_bad_image(tmp_path):
    files = images("cats", "dogs", count=15)
    with tarfile.open(write_tar(tmp_path / "a.tar", files, "w"), "a") as archive:
        member = tarfile.TarInfo("cats/linked.png")
        member.type, member.linkname = tarfile.LNKTYPE, "cats/1.png"
        archive.addfile(member)
    (bad,) = load_dataset(tmp_path / "a.tar").bad_images
    assert bad.id == "cats/linked.png"


def test_duplicate_name(tmp_path):
    path = write_tar(tmp_path / "a.tar", FILES, "w")
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("./cats/1.png"))
    assert "contains cats/1.png twice: remove or rename one of them" in error_message(path)


def test_limits(tmp_path, archives, monkeypatch):
    path = write_tar(tmp_path / "a.tar.gz", {"a.bmp": bytes(500_000)})
    monkeypatch.setattr(unpacking, "_copy_member", lambda *_: pytest.fail("written first"))
    for name, value, message in (
        ("FREE_BYTES", 100_000, "to 488 KiB, too much for an archive of photographs"),
        ("MAX_TOTAL_BYTES", 400_000, "to 488 KiB, too much for an archive of photographs"),
        ("MAX_MEMBER_BYTES", 400_000, "'a.bmp' to 488 KiB, more than 391 KiB: remove it"),
        ("MAX_MEMBERS", 0, "has 1 members, more than 0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sources, name, value)
            assert message in error_message(path)
    assert list(archives.iterdir()) == []


def test_decompression_bomb_after_the_end_of_the_archive(tmp_path, monkeypatch):
    content = gzip.decompress(write_tar(tmp_path / "a.tar.gz", FILES).read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content + bytes(500_000)))
    assert contents(tmp_path / "a.tar.gz") == FILES
    monkeypatch.setattr(sources, "FREE_BYTES", 100_000)
    monkeypatch.setattr(sources, "MAX_RATIO", 10)
    os.utime(tmp_path / "a.tar.gz", (1, 1))
    assert "too much for an archive of photographs" in error_message(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_that_needs_too_much_memory(tmp_path, kind):
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 50_000_000
    block = header.tobuf(tarfile.USTAR_FORMAT)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(block + bytes(50_001_920)))
    tracemalloc.start()
    assert "damaged or incomplete tar (it has a header of 48 MiB)" in error_message(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("cut", [0.2, 0.9, 0.999])
def test_truncated_tar(tmp_path, archives, mode, cut):
    path = write_tar(tmp_path / "a.tar", FILES, mode)
    content = path.read_bytes()
    if mode == "w":  # without the padding
        content = content.rstrip(b"\0")
    path.write_bytes(content[: int(cut * len(content))])
    assert "is a damaged or incomplete tar" in error_message(path)
    assert list(archives.iterdir()) == []


def test_tar_truncated_between_two_members(tmp_path):
    with tarfile.open(write_tar(tmp_path / "a.tar", FILES, "w")) as archive:
        place = archive.getmembers()[-1].offset
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:place])
    assert "incomplete tar (the end mark is missing)" in error_message(tmp_path / "a.tar")


@pytest.mark.parametrize("place", [200, -5])
def test_flipped_bits(tmp_path, place):
    path = write_tar(tmp_path / "a.tar.gz", FILES)
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    assert "is a damaged or incomplete tar" in error_message(path)


def test_files_that_are_not_tars(tmp_path):
    for name, content in (
        ("a.tar", b"not a tar"),
        ("b.tar.gz", b""),
        ("c.gz", gzip.compress(b"a text")),
        ("d.tar", bytes(100)),
    ):
        (tmp_path / name).write_bytes(content)
        assert "is a damaged or incomplete tar" in error_message(tmp_path / name)


def test_zip_named_tar_is_a_zip(tmp_path):
    assert open_source(write_zip(tmp_path / "a.tar", FILES)).kind == "zip"


def test_damaged_member_of_a_copy_is_a_bad_image(tmp_path, archives):
    path = write_tar(tmp_path / "a.tar", FILES, "w")
    open_source(path)
    (copy,) = archives.iterdir()
    content = FILES["cats/1.png"]
    copy.write_bytes(copy.read_bytes().replace(content, bytes(len(content))))
    source = open_source(path)
    (file,) = (f for f in source.files if f.path == "cats/1.png")
    with pytest.raises(UndecodableError, match="damaged in the archive"):
        source.read(file)


def test_long_names(tmp_path):
    name = f"cats/{'a' * 90}/{'ü' * 90}.png"
    for number, format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=format) as archive:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        assert contents(path) == {name: b"abc"}
