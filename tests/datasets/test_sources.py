"""Directories and zips are listed and read safely, with one-line errors."""

import io
import os
import stat
import struct
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from image_files import images, png, write_folder, write_zip

from datasets import InputError
from datasets.formats import sources
from datasets.formats.open import open_source
from datasets.images.decode import UndecodableError

FILES = images("cats", "dogs", count=3)


def error_message(path):
    with pytest.raises(InputError) as error:
        open_source(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.fixture(params=["folder", "zip"])
def source(request, tmp_path):
    junk = [".DS_Store", "cats/Thumbs.db", ".git/a.png", "__MACOSX/cats/._1.png", "dogs/_DS_Store"]
    files = FILES | dict.fromkeys(junk, b"junk")
    if request.param == "zip":
        return open_source(write_zip(tmp_path / "a.zip", files))
    return open_source(write_folder(tmp_path / "a", files))


def test_files_are_listed_without_junk(source):
    assert {f.path for f in source.files} == set(FILES)


def test_files_are_read_from_many_threads(source):
    many = source.files * 50
    with ThreadPoolExecutor(8) as pool:
        for file, content in zip(many, pool.map(source.read, many), strict=True):
            assert content == FILES[file.path]


def test_paths_are_in_unicode_form_nfc(tmp_path):
    """Operating systems store accents in different forms."""
    for form in ("caf\u00e9", "cafe\u0301"):
        path = f"{form}/1.png"
        assert open_source(write_folder(tmp_path / form, {path: b""})).files[0].path == "café/1.png"
        archive = write_zip(tmp_path / f"{form}.zip", {path: b""})
        assert open_source(archive).files[0].path == "café/1.png"


def test_missing_path(tmp_path):
    assert "does not exist: use the path" in error_message(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_no_permission(tmp_path, monkeypatch, kind):
    def deny(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    path = write_folder(tmp_path / "a", FILES) if kind == "folder" else tmp_path / "a.zip"
    if kind == "zip":
        write_zip(path, FILES)
    monkeypatch.setattr(os, "scandir", deny)
    monkeypatch.setattr(zipfile, "ZipFile", deny)
    assert "cannot be read (Permission denied): check its permissions" in error_message(path)


def test_links_are_followed_but_not_in_cycles(tmp_path):
    root = write_folder(tmp_path / "a", {"cats/1.png": b"1"})
    elsewhere = write_folder(tmp_path / "b", {"2.png": b"2"})
    (root / "dogs").symlink_to(elsewhere)
    (root / "cats" / "loop").symlink_to(root)
    (root / "cats" / "gone.png").symlink_to(tmp_path / "gone.png")
    source = open_source(root)
    assert {f.path for f in source.files} == {"cats/1.png", "dogs/2.png", "cats/gone.png"}
    gone = next(f for f in source.files if f.path == "cats/gone.png")
    with pytest.raises(UndecodableError, match="No such file"):
        source.read(gone)


def test_pipes_are_not_read(tmp_path):
    root = write_folder(tmp_path / "a", FILES)
    os.mkfifo(root / "cats" / "pipe.png")
    source = open_source(root)
    pipe = next(f for f in source.files if f.path == "cats/pipe.png")
    with pytest.raises(UndecodableError, match="not a regular file"):
        source.read(pipe)
    assert "neither a folder nor a .zip" in error_message(root / "cats" / "pipe.png")


def test_huge_files_are_not_read(tmp_path, monkeypatch):
    source = open_source(write_folder(tmp_path / "a", {"cats/1.png": bytes(2000)}))
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 1999)
    with pytest.raises(UndecodableError, match="larger than 2 KiB"):
        source.read(source.files[0])


def test_file_that_is_not_a_zip(tmp_path):
    path = tmp_path / "photos.zip"
    path.write_bytes(b"Rar! and so on")
    assert "neither a folder nor a .zip or .tar: unpack it" in error_message(path)
    path.write_bytes(b"")
    assert "neither a folder nor a .zip or .tar: unpack it" in error_message(path)


@pytest.mark.parametrize("cut", [0.2, 0.9, 0.999])
def test_truncated_zip(tmp_path, cut):
    path = write_zip(tmp_path / "a.zip", FILES)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    assert "damaged or incomplete zip" in error_message(path)


def test_zip_with_a_damaged_directory(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES)
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x09\x09"))
    assert "damaged or incomplete zip" in error_message(path)


@pytest.mark.parametrize(
    "name", ["../evil.png", "cats/../../evil.png", "/etc/evil.png", "C:\\evil.png", "..\\evil.png"]
)
def test_zip_with_paths_outside_the_archive(tmp_path, name):
    message = error_message(write_zip(tmp_path / "a.zip", FILES | {name: png()}))
    assert "points outside the archive: pack it again" in message
    assert repr(name) in message


def test_zip_with_windows_paths(tmp_path):
    source = open_source(
        write_zip(tmp_path / "a.zip", {"cats\\1.png": b"1", "./dogs//2.png": b"2"})
    )
    assert {f.path for f in source.files} == {"cats/1.png", "dogs/2.png"}


def test_encrypted_zip(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1  # the flag bits of the first member
    path.write_bytes(content)
    assert "is encrypted: unpack it" in error_message(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_with_an_unsupported_method(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", FILES, compression=method)
    assert f"uses an unsupported compression method ({method}): unpack it" in error_message(path)


def test_zip_beyond_limits(tmp_path, monkeypatch):
    path = write_zip(
        tmp_path / "a.zip", {"a.bmp": bytes(500_000)}, compression=zipfile.ZIP_DEFLATED
    )
    open_source(path)  # below FREE_BYTES, any ratio is accepted
    monkeypatch.setattr(sources, "FREE_BYTES", 100_000)
    assert "to 488 KiB, too much for an archive of photographs" in error_message(path)
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 400_000)
    monkeypatch.setattr(sources, "FREE_BYTES", 1_000_000)
    assert "'a.bmp' to 488 KiB, more than 391 KiB" in error_message(path)
    monkeypatch.setattr(sources, "MAX_TOTAL_BYTES", 400_000)
    assert "to 488 KiB, too much for an archive of photographs" in error_message(path)
    monkeypatch.setattr(sources, "MAX_MEMBERS", 0)
    assert "has 1 members, more than 0" in error_message(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_member_larger_than_its_declared_size(tmp_path, method):
    """Since limits apply to declared sizes, a wrong one is an error, found without unpacking the whole member."""
    size, declared = 20_000_000, 1000
    path = write_zip(tmp_path / "a.zip", {"a.bmp": bytes(size)}, compression=method)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # the unpacked size in the directory
    assert content[place : place + 4] == struct.pack("<I", size)
    content[place : place + 4] = struct.pack("<I", declared)
    path.write_bytes(content)
    source = open_source(path)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"'a.bmp' .* unpacks to more than its declared 1000 b"):
        source.read(source.files[0])
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_damaged_member_is_a_bad_image(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    place = content.index(b"cats/1.png") + len("cats/1.png") + 20
    content[place : place + 10] = bytes(10)
    path.write_bytes(content)
    source = open_source(path)
    results = {}
    for file in source.files:
        try:
            results[file.path] = source.read(file)
        except UndecodableError as error:
            results[file.path] = str(error)
    assert results.pop("cats/1.png").startswith("damaged in the archive: ")
    assert results == {k: v for k, v in FILES.items() if k != "cats/1.png"}


def test_links_inside_a_zip_are_not_followed(tmp_path):
    """The content of a link is a path, not an image."""
    link = zipfile.ZipInfo("cats/passwords.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "a.zip").write_bytes(file.getvalue())
    source = open_source(tmp_path / "a.zip")
    assert source.read(source.files[0]) == b"/etc/passwd"


def test_stamps_change_with_the_content(tmp_path):
    root = write_folder(tmp_path / "a", FILES)
    before = {f.path: f.stamp for f in open_source(root).files}
    (root / "cats/1.png").write_bytes(png(99, (9, 9)))
    after = {f.path: f.stamp for f in open_source(root).files}
    assert {path for path in before if before[path] != after[path]} == {"cats/1.png"}
