"""CIFAR-10 from its published archives and from images; safe unpickling; downloads."""

import functools
import hashlib
import http.server
import os
import pickle
import struct
import threading

import numpy as np
import pytest
from image_files import images, write_folder, write_tar, write_zip
from PIL import Image

from datasets import InputError, load_dataset
from datasets.manifest import edition_of
from datasets.named import cifar10
from datasets.named.cifar10 import CLASSES

COUNT = 20  # images per batch, two per class
BATCHES = [*cifar10.BATCHES["train"], *cifar10.BATCHES["test"]]


@pytest.fixture(autouse=True)
def cache(own_cache):
    return own_cache


def batch(seed):
    """Return images as rows of three color planes, and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (COUNT, 3072), np.uint8), [i % 10 for i in range(COUNT)]


def pickle_like_python_2(data, labels):
    """Pickle a batch with the opcodes that Python 2 used for the published ones."""

    def text(content):
        return b"T" + struct.pack("<I", len(content)) + content

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR"
        + b"(K\x01(M%sM%st" % (struct.pack("<H", data.shape[0]), struct.pack("<H", data.shape[1]))
        + b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        + (b"\x89" + text(data.tobytes()) + b"tb")
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(text(f"frog_{i}.png".encode()) for i in range(len(labels))) + b"e"
    items = [
        *(text(b"batch_label"), text(b"training batch 1 of 5")),
        *(text(b"labels"), numbers),
        *(text(b"data"), array),
        *(text(b"filenames"), names),
    ]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def python_files(write=pickle_like_python_2):
    files = {f"cifar-10-batches-py/{name}": write(*batch(i)) for i, name in enumerate(BATCHES)}
    return files | {
        "cifar-10-batches-py/batches.meta": b"not opened",
        "cifar-10-batches-py/readme.html": b"<html>",
    }


def binary_files():
    files = {"cifar-10-batches-bin/batches.meta.txt": "\n".join(CLASSES).encode()}
    for i, name in enumerate(BATCHES):
        data, labels = batch(i)
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1)
        files[f"cifar-10-batches-bin/{name}.bin"] = rows.tobytes()
    return files


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def error_message(**options):
    with pytest.raises(InputError) as error:
        load_dataset("cifar10", **options)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("cifar10: ")
    return str(error.value)


def test_numpy_can_read_the_pickles_of_these_tests():
    data, labels = batch(0)
    found = pickle.loads(pickle_like_python_2(data, labels), encoding="bytes")
    np.testing.assert_array_equal(found[b"data"], data)
    assert found[b"labels"] == labels
    assert len(found[b"filenames"]) == COUNT


@pytest.mark.parametrize("kind", ["python", "binary"])
@pytest.mark.parametrize("form", ["tar.gz", "folder with it", "folder", "inner folder", "zip"])
def test_published_archives(tmp_path, kind, form):
    files = python_files() if kind == "python" else binary_files()
    if form in ("tar.gz", "folder with it"):
        data_dir = write_tar(tmp_path / f"cifar-10-{kind}.tar.gz", files)
        data_dir = tmp_path if form == "folder with it" else data_dir
    elif form == "zip":
        data_dir = write_zip(tmp_path / "a.zip", files)
    else:
        data_dir = write_folder(tmp_path, files)
        if form == "inner folder":
            data_dir = data_dir / next(iter(files)).split("/")[0]
    data = load_dataset("cifar10", data_dir=data_dir)
    assert data.class_names == CLASSES
    assert sizes(data) == {"train": 90, "validation": 10, "test": 20}
    assert data.notes[0] == (
        "100 training (with validation) and 20 test images, not the 50000 and 10000 of the published set"
    )
    assert data.info is cifar10.INFO
    assert len(data.notes) == 1 + ("tar" in form or form == "folder with it")
    loaded = {}
    for split in data.splits.values():
        loaded |= dict(zip(split.ids, split, strict=True))
    for i, name in enumerate(BATCHES):
        rows, labels = batch(i)
        for j, (row, label) in enumerate(zip(rows, labels, strict=True)):
            split, number = ("test", j) if name == "test_batch" else ("train", i * COUNT + j)
            image, loaded_label = loaded[f"{split}/{CLASSES[label]}/{number}"]
            assert loaded_label == label
            np.testing.assert_array_equal(image, row.reshape(3, 32, 32).transpose(1, 2, 0))
    assert data.splits["train"][0][0].dtype == np.uint8


@pytest.mark.parametrize("kind", ["python", "images"])
def test_the_animals_alone(tmp_path, kind):
    """Of four merged kinds, every fourth image is kept, so that all classes are equally large."""
    folders = [f"{split}/{name}" for split in ("train", "test") for name in CLASSES]
    files = images(*folders, count=8) if kind == "images" else python_files()
    data_dir = write_folder(tmp_path, files)
    animals, domains = (
        load_dataset(name, data_dir=data_dir) for name in ("cifar10_animals", "cifar10_domains")
    )
    assert animals.class_names == ("bird", "cat", "deer", "dog", "frog", "horse")
    assert domains.class_names == ("cat", "dog", "wild")
    for data in (animals, domains):
        counts = np.bincount(np.concatenate([s.labels for s in data.splits.values()]))
        assert kind == "python" or set(counts.tolist()) == {16}  # batches have no multiple of four
        assert data.info.num_classes == len(data.class_names)
        for split in data.splits.values():
            for name, label in zip(split.ids, split.labels, strict=True):
                animal = name.split("/")[1]
                assert data.class_names[label] == (animal if animal in data.class_names else "wild")
    ids = [name for split in domains.splits.values() for name in split.ids]
    assert {name.split("/")[1] for name in ids} == {*animals.class_names}


def test_both_archives_have_the_same_data(tmp_path):
    python = load_dataset("cifar10", data_dir=write_tar(tmp_path / "a.tar.gz", python_files()))
    binary = load_dataset("cifar10", data_dir=write_tar(tmp_path / "b.tar.gz", binary_files()))
    assert python.fingerprint == binary.fingerprint
    assert python.manifest()["splits"] == binary.manifest()["splits"]


def test_folder_with_several_archives(tmp_path):
    write_tar(tmp_path / "cifar-10-python.tar.gz", python_files())
    write_tar(tmp_path / "cifar-10-binary.tar.gz", binary_files())
    write_zip(tmp_path / "photos.zip", images("cats", "dogs"))
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert data.provenance["path"] == str(tmp_path / "cifar-10-python.tar.gz")


@pytest.mark.parametrize("protocol", [2, 4])
def test_batches_written_by_python_3(tmp_path, protocol):
    def write(data, labels):
        return pickle.dumps({"data": data, "labels": labels}, protocol)

    old = load_dataset("cifar10", data_dir=write_folder(tmp_path / "a", python_files()))
    new = load_dataset("cifar10", data_dir=write_folder(tmp_path / "b", python_files(write)))
    assert new.fingerprint == old.fingerprint
    fortran = python_files(lambda data, labels: write(np.asfortranarray(data), labels))
    other = load_dataset("cifar10", data_dir=write_folder(tmp_path / "c", fortran))
    assert other.fingerprint == old.fingerprint


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("evil", "named"),
    [
        (Evil(os.system, "touch EVIL"), f"{os.system.__module__}.system"),
        (Evil(eval, "open('EVIL', 'w')"), "builtins.eval"),
        (Evil(getattr, 1, "real"), "builtins.getattr"),
        (Evil(np.load, "x.npy"), "numpy.load"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_execute_no_code(tmp_path, monkeypatch, evil, named, protocol):
    monkeypatch.chdir(tmp_path)
    files = python_files(lambda data, labels: pickle.dumps({"data": evil}, protocol))
    message = error_message(data_dir=write_folder(tmp_path / "a", files))
    module, _, name = named.rpartition(".")
    renamed = {"builtins": "__builtin__"}.get(module, module) if protocol < 3 else module
    assert f"it names {renamed}.{name}, which could execute code" in message
    assert "cifar-10-batches-py/data_batch_1 in" in message
    assert not (tmp_path / "EVIL").exists()


def broken(**changes):
    def write(data, labels):
        return pickle.dumps({"data": data, "labels": labels} | changes, 2)

    return python_files(write)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (python_files(lambda *_: b"no pickle"), "is not a batch of CIFAR-10 (UnpicklingError"),
        (python_files(lambda *_: b""), "is not a batch of CIFAR-10 (EOFError"),
        (python_files(lambda *_: pickle.dumps([1])), "is not a batch of CIFAR-10 (AttributeError"),
        (python_files(lambda *_: pickle.dumps({})), "is not a batch of CIFAR-10 (KeyError 'data')"),
        (broken(data=[1, 2]), "its data are not an array of images"),
        (broken(data=np.zeros((COUNT, 10), np.uint8)), "its data are not an array of images"),
        (broken(data=np.zeros((COUNT, 3072), np.float32)), "it has an array of type 'f4'"),
        (broken(data=np.array([None] * 3)), "it has an array of type 'O8'"),
        (broken(labels=[0] * 3), "it does not have one label per image"),
        (broken(labels=[10] * COUNT), "it has a label that is not 0 to 9"),
        (broken(labels=[-1] * COUNT), "it has a label that is not 0 to 9"),
        (broken(labels=["cat"] * COUNT), "it has a label that is not 0 to 9"),
        (
            {n: c[:-1] for n, c in binary_files().items()},
            "its 61459 bytes are not a multiple of 3073",
        ),
    ],
)
def test_damaged_batches(tmp_path, files, message):
    error = error_message(data_dir=write_folder(tmp_path, files))
    assert message in error
    assert f"data_batch_1{'.bin' * ('3073' in message)} in {tmp_path} is not a batch" in error
    assert f"download {cifar10.URL} again" in error


def test_missing_and_duplicate_batches(tmp_path):
    files = python_files()
    incomplete = {n: c for n, c in files.items() if not n.endswith(("batch_3", "test_batch"))}
    message = error_message(data_dir=write_folder(tmp_path / "a", incomplete))
    assert "lacks data_batch_3, test_batch: download https://www.cs.toronto.edu" in message
    both = files | binary_files()
    assert "more than once: keep one" in error_message(data_dir=write_folder(tmp_path / "b", both))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_in_folders(tmp_path, suffix):
    folders = [f"{split}/{name}" for split in ("train", "test") for name in CLASSES]
    files = images(*folders, count=10)
    files = {name.replace("png", suffix): content for name, content in files.items()}
    loaded = [
        load_dataset("cifar10", data_dir=path)
        for path in (
            write_folder(tmp_path / "a", files),
            write_zip(tmp_path / "b.zip", files),
            write_tar(tmp_path / "cifar10.tar.xz", files, "w:xz"),
        )
    ]
    assert len({data.fingerprint for data in loaded}) == 1
    assert loaded[0].class_names == CLASSES
    assert sizes(loaded[2]) == {"train": 90, "validation": 10, "test": 100}
    lossy = "the images are JPEG files, a lossy copy of the published ones"
    assert (lossy in loaded[0].notes) == (suffix == "jpg")
    edition = "lossy copy" if suffix == "jpg" else "repacked"
    assert {data.edition for data in loaded} == {edition}
    manifest = loaded[0].manifest()
    assert manifest["edition"] == edition
    del manifest["edition"]  # as written by version 0.1
    assert edition_of(manifest) == edition


def test_images_of_other_classes(tmp_path):
    root = write_folder(tmp_path, images("train/cats", "train/dogs"))
    assert "has the classes cats, dogs instead of airplane, automobile" in error_message(
        data_dir=root
    )


def test_empty_folder(tmp_path):
    message = error_message(data_dir=tmp_path)
    for text in (f"there are no files at {tmp_path}", cifar10.URL, "data_batch_1 to data_batch_5"):
        assert text in message
    assert "omit --data-dir" in message


# Downloads


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`. If `broken`, closes the connection halfway."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.requests, self.broken = b"", 0, False


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        self.server.requests += 1
        if not self.server.content:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        whole = len(self.server.content)
        self.wfile.write(self.server.content[: whole // 2 if self.server.broken else whole])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        server.content = write_tar(tmp_path / "x.tar.gz", python_files()).read_bytes()
        url = f"http://127.0.0.1:{server.server_address[1]}/cifar-10-python.tar.gz"
        monkeypatch.setattr(cifar10, "URL", url)
        monkeypatch.setattr(cifar10, "MD5", hashlib.md5(server.content).hexdigest())
        yield server
        server.shutdown()
        thread.join()


def test_archive_is_downloaded_once(server, cache, tmp_path):
    texts = []
    data = load_dataset("cifar10", progress=lambda *report: texts.append(report[0]))
    assert sizes(data) == {"train": 90, "validation": 10, "test": 20}
    assert "downloading cifar-10-python.tar.gz (MiB)" in texts
    assert load_dataset("cifar10").fingerprint == data.fingerprint
    assert server.requests == 1
    assert [path.name for path in (cache / "cifar10").iterdir()] == ["cifar-10-python.tar.gz"]
    by_hand = load_dataset("cifar10", data_dir=tmp_path / "x.tar.gz")
    assert by_hand.fingerprint == data.fingerprint


def test_nothing_is_downloaded_with_data_dir(server, tmp_path):
    (tmp_path / "empty").mkdir()
    error_message(data_dir=tmp_path / "empty")
    assert server.requests == 0


@pytest.mark.parametrize("problem", ["404", "cut", "other", "offline"])
def test_failed_downloads(server, cache, monkeypatch, problem):
    content = server.content
    server.broken = problem == "cut"
    if problem == "404":
        server.content = b""
    elif problem == "other":
        server.content = b"an error page"
    elif problem == "offline":
        monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = error_message()
    path = cache / "cifar10" / "cifar-10-python.tar.gz"
    for text in (cifar10.URL, f"put it at {path}, or pass its path with --data-dir"):
        assert text in message
    reasons = {"404": "(404 ", "other": f"(expected md5 {cifar10.MD5})", "offline": "(Connection"}
    assert reasons.get(problem, "cannot download") in message
    assert not list((cache / "cifar10").glob("*"))
    server.content, server.broken = content, False
    if problem != "offline":
        load_dataset("cifar10")


def test_file_in_the_cache_is_not_downloaded(server, cache):
    path = cache / "cifar10" / "cifar-10-python.tar.gz"
    write_folder(path.parent, {path.name: server.content})
    load_dataset("cifar10")
    assert server.requests == 0


def test_damaged_file_in_the_cache_is_replaced(server, cache):
    path = cache / "cifar10" / "cifar-10-python.tar.gz"
    write_folder(path.parent, {path.name: server.content[:1000]})
    load_dataset("cifar10")
    assert path.read_bytes() == server.content


def test_batches_need_no_image_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    load_dataset("cifar10", data_dir=write_folder(tmp_path, binary_files()))
