"""A .npz of arrays as a data set, and errors for invalid or unsafe arrays."""

import os
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from datasets import InputError, load_dataset
from datasets.formats import npz, sources

N = 30


def images(count=N, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (4, 5, 3))), np.uint8)


def labels(count=N):
    return np.arange(count) % 3


X, Y = images(), labels()


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def examples_by_id(data):
    """Return image and class of every example by id."""
    return {
        name: (image, data.class_names[label])
        for split in data.splits.values()
        for name, (image, label) in zip(split.ids, split, strict=True)
    }


def error_message(path):
    with pytest.raises(InputError) as error:
        load_dataset(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y"), ("X", "Y"), ("image", "label")])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_unsplit(tmp_path, keys, write):
    pixels = images()
    write(tmp_path / "a.npz", **dict(zip(keys, (pixels, labels()), strict=True)))
    data = load_dataset(tmp_path / "a.npz")
    assert (data.name, data.class_names) == ("a", ("0", "1", "2"))
    assert sizes(data) == {"train": 24, "validation": 3, "test": 3}
    found = examples_by_id(data)
    assert set(found) == {str(i) for i in range(N)}
    for i in range(N):
        np.testing.assert_array_equal(found[str(i)][0], pixels[i])
        assert found[str(i)][1] == str(i % 3)
    assert data.info.image_shape == (4, 5, 3)
    assert not data.notes


def test_layout_of_keras_mnist(tmp_path):
    arrays = {"x_train": images(N, 4, 5), "y_train": labels().astype(np.uint8)}
    arrays |= {"x_test": images(6, 4, 5, seed=1), "y_test": labels(6)}
    data = load_dataset(save(tmp_path / "mnist.npz", **arrays))
    assert sizes(data) == {"train": 27, "validation": 3, "test": 6}
    assert data.splits["test"].ids == tuple(f"test/{i}" for i in range(6))
    image, label = data.splits["test"][4]
    np.testing.assert_array_equal(image, np.repeat(arrays["x_test"][4][..., None], 3, axis=2))
    assert label == 1
    assert data.provenance["published_parts"] == ["train", "test"]


def test_layout_of_medmnist(tmp_path):
    arrays = {}
    for seed, (split, count) in enumerate({"train": N, "val": 6, "test": 9}.items()):
        arrays[f"{split}_images"] = images(count, 4, 4, 1, seed=seed)
        arrays[f"{split}_labels"] = labels(count)[:, None]
    data = load_dataset(save(tmp_path / "medmnist.npz", **arrays))
    assert sizes(data) == {"train": N, "validation": 6, "test": 9}
    assert data.splits["validation"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(
        data.splits["validation"][2][0][..., 1], arrays["val_images"][2, ..., 0]
    )


@pytest.mark.parametrize(
    ("top", "dtype"), [(1, np.float32), (1, np.float64), (255, np.float16), (255, np.float32)]
)
def test_floats(tmp_path, top, dtype):
    """A dark image among bright ones stays dark."""
    pixels = images(N, 4, 5, 1)
    pixels[0] = 1
    values = (pixels / 255).astype(dtype) if top == 1 else pixels.astype(dtype)
    # Resampling overshoots a little.
    values[2, 0, 0], pixels[2, 0, 0] = -0.009 * top, 0
    values[3, 0, 0], pixels[3, 0, 0] = 1.009 * top, 255
    values[4, 0, 0], pixels[4, 0, 0] = 100.6 * top / 255, 101
    data = load_dataset(save(tmp_path / "a.npz", x=values, y=labels()))
    for name, (image, _) in examples_by_id(data).items():
        np.testing.assert_array_equal(image[..., :1], pixels[int(name)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (X / 127.5 - 1, "floats from -1 to 1: use values from 0 to 1, or from 0 to 255"),
        ((X - X.mean()) / X.std(), "floats from -1."),
        (X / 255 * 1.1, "floats from 0 to 1.1: "),  # would be black
        (X / 255 * 16, "floats from 0 to 16: "),
        (X * 257.0, "floats from 0 to 6.554e+04: "),
        (np.where(X == 7, np.nan, X / 255), "NaN among its floats: "),
        (np.where(X == 7, np.inf, X / 255), "floats from 0 to inf: "),
    ],
    ids=["-1..1", "standardized", "0..1.1", "0..16", "0..65535", "nan", "inf"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_outside_the_ranges_are_refused(tmp_path, values, message, dtype):
    arrays = {"x_train": X / 255, "y_train": Y, "x_test": values.astype(dtype), "y_test": Y}
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError) as error:
        load_dataset(path)
    assert f"{path} has x_train, x_test with {message}" in str(error.value)


def test_nearly_black_images_are_noted(tmp_path):
    """Such as scikit-learn's digits, from 0 to 16."""
    data = load_dataset(save(tmp_path / "a.npz", x=images() % 17, y=labels()))
    assert "the images are nearly black: the largest value is 16, of 0 to 255" in data.notes


def test_floats_are_converted_in_chunks(tmp_path, monkeypatch):
    pixels = images()
    path = save(tmp_path / "a.npz", x=pixels / 255, y=labels())
    whole = load_dataset(path)
    monkeypatch.setattr(npz, "CHUNK_BYTES", 1000)
    assert load_dataset(path).fingerprint == whole.fingerprint
    assert load_dataset(save(tmp_path / "b.npz", x=pixels, y=labels())).fingerprint == (
        whole.fingerprint
    )


def test_other_integers_and_booleans(tmp_path):
    pixels = images()
    whole = load_dataset(save(tmp_path / "a.npz", x=pixels, y=labels()))
    other = load_dataset(save(tmp_path / "b.npz", x=pixels.astype(np.int64), y=labels() * 1.0))
    assert other.fingerprint == whole.fingerprint
    bits = load_dataset(save(tmp_path / "c.npz", x=pixels > 127, y=labels()))
    assert examples_by_id(bits)["7"][0].tolist() == (255 * (pixels[7] > 127)).tolist()


def test_class_names_and_string_labels(tmp_path):
    names = np.array(["pig", "cat", "7", "unused"])
    arrays = {"x": images(), "y": labels(), "class_names": names}
    data = load_dataset(save(tmp_path / "a.npz", **arrays))
    assert data.class_names == ("pig", "cat", "7")
    assert [name for _, name in examples_by_id(data).values()].count("pig") == N // 3
    assert examples_by_id(data)["2"][1] == "7"
    texts = {"x": images(), "y": names[labels()]}
    assert load_dataset(save(tmp_path / "b.npz", **texts)).class_names == ("7", "cat", "pig")
    texts["class_names"] = names
    assert (
        load_dataset(save(tmp_path / "c.npz", **texts)).manifest()["splits"]
        == (data.manifest()["splits"])
    )
    texts["y"] = names.astype("S")[labels()]
    assert load_dataset(save(tmp_path / "d.npz", **texts)).class_names == data.class_names


def test_classes_in_natural_order(tmp_path):
    data = load_dataset(save(tmp_path / "a.npz", x=images(), y=labels() + 8))
    assert data.class_names == ("8", "9", "10")


def test_other_arrays_are_noted(tmp_path):
    data = load_dataset(save(tmp_path / "a.npz", x=images(), y=labels(), weights=labels(), z=[1]))
    assert data.notes == ("ignored the arrays weights, z",)


def test_copies_across_splits_are_noted(tmp_path):
    arrays = {"x_train": images(), "y_train": labels(), "x_test": images()[:5], "y_test": labels(5)}
    notes = load_dataset(save(tmp_path / "a.npz", **arrays)).notes
    assert [n for n in notes if n.startswith("5 of 5 test images are copies")]


def test_pickled_objects_are_not_executed(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch EVIL",)

    monkeypatch.chdir(tmp_path)
    for key in ("x", "y", "class_names"):
        arrays = {"x": images(), "y": labels(), key: np.array([Evil()] * N, object)}
        message = error_message(save(tmp_path / "a.npz", **arrays))
        assert f"has Python objects in {key}, which could execute code" in message
    assert not (tmp_path / "EVIL").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"a": X, "b": Y},
            "has no images and labels among its arrays a, b: name the arrays x and y",
        ),
        ({}, "has no images and labels: name the arrays x and y"),
        ({"x": X}, "has x, but no labels for it: name the arrays x and y, or x_train"),
        ({"y_train": Y}, "has y_train, but no images for it"),
        ({"x": X, "images": X, "y": Y}, "has x and images, which mean the same: keep one"),
        ({"x_test": X, "y_test": Y}, "has no training arrays (x_test, y_test): name the arrays"),
        (
            {"x": X, "y": Y, "x_test": X, "y_test": Y},
            "has both split and unsplit arrays (x, y, x_test, y_test)",
        ),
        ({"x": X[:5], "y": Y}, "has 5 images in x, but 30 labels in y: use one label per image"),
        (
            {"x": X.reshape(N, -1), "y": Y},
            "has x of shape [30, 60]: use [N, H, W], [N, H, W, 1] or",
        ),
        ({"x": X.transpose(0, 3, 1, 2), "y": Y}, "of shape [30, 3, 4, 5], channels first: use"),
        ({"x": images(N, 4, 5, 4), "y": Y}, "has x of shape [30, 4, 5, 4]: use"),
        ({"x": X[:0], "y": Y[:0]}, "has x of shape [0, 4, 5, 3]"),
        ({"x": X.astype(np.complex64), "y": Y}, "has x of type complex64: use uint8, or floats"),
        ({"x": X.astype(np.int16) + 1, "y": Y}, "has x of type int16 from 1 to 256: use 0 to 255"),
        (
            {"x": X, "y": np.eye(3)[Y]},
            "has y of shape [30, 3]: use one label per image, not one column",
        ),
        ({"x": X, "y": Y + 0.5}, "has y of type float64: use integers or strings"),
        (
            {"x": X, "y": np.where(Y, np.inf, 0)},
            "has NaN or infinity in y: use integers or strings",
        ),
        (
            {"x": X, "y": np.where(Y, Y, np.nan)},
            "has NaN or infinity in y: use integers or strings",
        ),
        ({"x": X, "y": np.float16(Y) - np.float16(np.inf)}, "has NaN or infinity in y"),
        ({"x": X, "y": Y * 0}, "has only one class, 0: a classifier needs at least two"),
        (
            {"x": X, "y": Y, "class_names": np.array(["a", "b"])},
            "has the label 2 in y, which is not among its 2",
        ),
        ({"x": X, "y": Y - 1, "class_names": np.array(["a", "b", "c"])}, "has the label -1 in y"),
        (
            {"x": X, "y": Y, "class_names": np.array(["a", "b", "a"])},
            "has invalid class_names: use unique, non-empty strings",
        ),
        ({"x": X, "y": Y, "class_names": Y[:3]}, "has invalid class_names"),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
            "has 3, missing from the training split",
        ),
    ],
)
def test_invalid_arrays(tmp_path, arrays, message):
    assert message in error_message(save(tmp_path / "a.npz", **arrays))


def test_files_that_are_not_npz(tmp_path):
    path = tmp_path / "a.npz"
    assert "does not exist: use the path of a .npz" in error_message(path)
    path.write_bytes(b"not a zip")
    assert "is a damaged or incomplete .npz" in error_message(path)
    content = save(path, x=X, y=Y).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "is a damaged or incomplete .npz" in error_message(path)
    place = content.index(X.tobytes()[:50])
    path.write_bytes(content[:place] + bytes(50) + content[place + 50 :])
    assert "Bad CRC-32" in error_message(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"not an array")
        archive.writestr("y.npy", b"not an array")
    assert "is a damaged or incomplete .npz (" in error_message(path)


def test_wrong_size_in_a_header_allocates_no_memory(tmp_path):
    path = save(tmp_path / "a.npz", x=X, y=Y)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999, 99, 99), }"
    files["x.npy"] = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    tracemalloc.start()
    assert "(x is smaller than its header says)" in error_message(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_decompression_bombs(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((N, 300, 300), np.uint8), y=Y)
    load_dataset(tmp_path / "a.npz")
    monkeypatch.setattr(sources, "FREE_BYTES", 100_000)
    assert re.search("would unpack from .* to 3 MiB", error_message(tmp_path / "a.npz"))
