"""Folders and zips of images: layouts, splits, bad images and errors."""

import io
import json
import os
import re
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_files import images, png, write_folder, write_zip
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datasets import InputError, ResizeRule, load_dataset
from datasets.checks import verify
from datasets.formats.folder import natural_key
from datasets.images import decode as decode_module
from datasets.images.decode import decode

pytestmark = pytest.mark.usefixtures("own_cache")

KAGGLE = {
    **images("training_set/training_set/cats", "training_set/training_set/dogs", count=20),
    **images("test_set/test_set/cats", "test_set/test_set/dogs", count=4, first=5000),
}


def load(root, files, **options):
    return load_dataset(write_folder(root, files), **options)


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def ids(data, *splits):
    return {i for split in splits or data.splits for i in data.splits[split].ids}


def error_message(root, files, **options):
    path = write_folder(root / "photos", files) if isinstance(files, dict) else files
    with pytest.raises(InputError) as error:
        load_dataset(path, **options)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value) or "class " in str(error.value)
    return str(error.value)


def test_unsplit_folder(tmp_path):
    files = images("cats", "dogs", count=20)
    data = load(tmp_path / "pets", files)
    assert data.name == "pets"
    assert data.class_names == ("cats", "dogs")
    assert sizes(data) == {"train": 32, "validation": 4, "test": 4}
    assert ids(data) == set(files)
    for split in data.splits.values():
        assert split.labels.dtype == np.int32
        assert np.bincount(split.labels).tolist() == [len(split) // 2] * 2
        for i, (image, label) in enumerate(split):
            assert split.ids[i].startswith(data.class_names[label])
            np.testing.assert_array_equal(image, decode(files[split.ids[i]]))
    assert data.info.split_sizes == sizes(data)
    assert not data.notes
    assert not data.bad_images


def test_published_splits_are_kept(tmp_path):
    files = images("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", count=3)
    data = load(tmp_path, files)
    for split, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert ids(data, split) == {name for name in files if name.startswith(folder)}
    assert data.provenance["published_parts"] == ["train", "validation", "test"]
    assert data.provenance["split_fractions"] == {}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("training", "valid", "testing"),
        ("training_set", "validation", "test_set"),
        ("Training Set", "val_set", "TEST"),
    ],
)
def test_common_names_of_split_folders(tmp_path, train, validation, test):
    folders = [f"{split}/{name}" for split in (train, validation, test) for name in "ab"]
    data = load(tmp_path, images(*folders, count=2))
    assert sizes(data) == {"train": 4, "validation": 4, "test": 4}
    assert all(i.startswith(f"{validation}/") for i in data.splits["validation"].ids)


def test_missing_splits_are_drawn_from_training(tmp_path):
    data = load(tmp_path / "a", images("train/a", "train/b", "test/a", "test/b", count=10))
    assert sizes(data) == {"train": 18, "validation": 2, "test": 20}
    assert ids(data, "test") == {i for i in ids(data) if i.startswith("test/")}
    data = load(tmp_path / "b", images("train/a", "train/b", "val/a", "val/b", count=10))
    assert sizes(data) == {"train": 18, "validation": 20, "test": 2}
    data = load(tmp_path / "c", images("train/a", "train/b", count=10))
    assert sizes(data) == {"train": 16, "validation": 2, "test": 2}
    assert all(i.startswith("train/") for i in ids(data))


def test_split_folder_in_a_folder_of_the_same_name(tmp_path):
    """The layout of Kaggle's cats and dogs."""
    data = load(tmp_path, KAGGLE | {"training_set/training_set/cats/_DS_Store": b"junk"})
    assert data.class_names == ("cats", "dogs")
    assert sizes(data) == {"train": 36, "validation": 4, "test": 8}
    assert not data.notes


@pytest.mark.parametrize(
    "files", [images("cats", "dogs", count=5), KAGGLE], ids=["unsplit", "split"]
)
def test_zip_equals_folder_and_wrapper_folders_are_ignored(tmp_path, files):
    wrapped = {f"download/pets-1.0/{name}": content for name, content in files.items()}
    data = [
        load(tmp_path / "plain", files),
        load(tmp_path / "wrapped", wrapped),
        load_dataset(write_zip(tmp_path / "a.zip", files)),
        load_dataset(write_zip(tmp_path / "b.zip", wrapped | {"__MACOSX/._pets": b"junk"})),
    ]
    assert len({d.fingerprint for d in data}) == 1
    manifests = [d.manifest()["splits"] for d in data]
    assert manifests[1:] == manifests[:1] * 3
    image = [d.splits["test"][0][0] for d in data]
    for other in image[1:]:
        np.testing.assert_array_equal(image[0], other)


def test_fingerprint_depends_on_contents_classes_and_names(tmp_path):
    files = images("cats", "dogs", count=5)
    base = load(tmp_path / "a", files)
    assert load(tmp_path / "b", files, seed=7).fingerprint == base.fingerprint
    changed = {
        "content": files | {"cats/0.png": png(99)},
        "name": {k.replace("cats/0", "cats/00"): v for k, v in files.items()},
        "class": {k.replace("cats", "kittens"): v for k, v in files.items()},
        "more": files | {"dogs/9.png": png(98)},
    }
    others = {load(tmp_path / name, other).fingerprint for name, other in changed.items()}
    assert len(others | {base.fingerprint}) == 5
    assert len(base.fingerprint) == 64


def test_class_names_and_ids_in_natural_order(tmp_path):
    data = load(tmp_path, images("pig10", "pig2", "Pig1", "pig 3", count=11))
    assert data.class_names == ("Pig1", "pig2", "pig10", "pig 3")
    of_first = [i for i in data.splits["train"].ids if i.startswith("pig2/")]
    assert of_first == sorted(of_first, key=lambda i: int(i[5:-4]))


def test_natural_key_sorts_numbers_of_any_length():
    names = ["a", "a01", "a1", "a2", "a10", "a1" + "0" * 5000, "b", "B2"]
    shuffled = names[::-1]
    assert sorted(shuffled, key=natural_key) == names


def test_manifest_is_json_serializable(tmp_path):
    data = load(tmp_path / "pets", images("cats", "dogs"), seed=5)
    manifest = json.loads(json.dumps(data.manifest()))
    assert manifest["seed"] == 5
    assert manifest["class_names"] == ["cats", "dogs"]
    assert manifest["fingerprint"] == data.fingerprint
    assert manifest["provenance"]["path"] == str(tmp_path / "pets")
    for name, split in data.splits.items():
        assert list(manifest["splits"][name].items()) == list(
            zip(split.ids, split.labels.tolist(), strict=True)
        )


def test_split_depends_on_the_seed_but_not_on_the_order_of_files(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets", images("cats", "dogs", count=20))
    splits = [load_dataset(root, seed=seed).splits["test"].ids for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = real(path)

        def __enter__(self):
            return reversed(list(self.entries))

        def __exit__(self, *_):
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Backwards)
    assert load_dataset(root, seed=0).splits["test"].ids == splits[0]


def test_nested_folders_belong_to_their_class(tmp_path):
    data = load(tmp_path, images("cats/2020/may", "cats/2021", "dogs", count=5))
    assert data.class_names == ("cats", "dogs")
    assert len(ids(data)) == 15


def test_class_named_train_is_a_class(tmp_path):
    data = load(tmp_path, images("car", "plane", "train"))
    assert data.class_names == ("car", "plane", "train")


def test_ignored_files_are_noted(tmp_path):
    extra = {
        "train/loose.png": png(1),
        "top.png": png(2),
        "readme.txt": b"",
        "train/a/labels.csv": b"",
        "train/a/b.csv": b"",
        "single_prediction/1.png": png(3),
    }
    data = load(tmp_path, images("train/a", "train/b", "test/a", count=5) | extra)
    assert not ids(data) & set(extra)
    assert data.notes == (
        "ignored 3 files (.csv 2, .txt 1) without an image suffix, starting with readme.txt",
        "ignored 1 image in single_prediction/, outside the published splits",
        "ignored 1 image outside the class folders",
        "the test split has no images of b",
    )


def test_unlabeled_test_images_are_left_out(tmp_path):
    """As published by competitions."""
    files = images("train/a", "train/b") | {f"test/{i}.png": png(i) for i in range(5)}
    data = load(tmp_path, files)
    assert sizes(data) == {"train": 16, "validation": 2, "test": 2}
    assert data.notes == ("ignored 5 images in test/, outside the published splits",)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("prefix", ["", "outer/", "train/"])
def test_class_folders_without_images_are_named(tmp_path, kind, prefix):
    """Empty ones, and those with only files that cannot be read. Other folders have no classes next to them."""
    files = images(f"{prefix}a", f"{prefix}b") | {
        f"{prefix}birds/1.raw": b"",
        f"{prefix}birds/deep/2": b"",
        f"{prefix}a/sub/notes.txt": b"",
    }
    if kind == "zip":
        path = write_zip(tmp_path / "a.zip", files | {f"{prefix}cows/": b""})
    else:
        path = write_folder(tmp_path / "a", files)
        (path / f"{prefix}cows").mkdir()
        (path / f"{prefix}.hidden").mkdir()
    data = load_dataset(path)
    assert data.class_names == ("a", "b")
    notes = [note for note in data.notes if "no images in" in note]
    assert notes == [f"no images in {prefix}birds/, {prefix}cows/, next to the class folders"]


HEIF = {f"{c}/{i}.{s}": (c, i) for c in "ab" for i, s in enumerate(["heic", "HEIF", "hif", "jpg"])}


@pytest.fixture
def with_heif(tmp_path):
    """Photographs as Apple's devices store them, one of them under the name of a JPEG."""
    root = tmp_path / "phone"
    for number, name in enumerate(HEIF):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.full((8, 16, 3), 10 * number, np.uint8))
        decode_module.heif_version()  # registers the format
        image.save(root / name, format="HEIF", quality=-1)
    return root


def test_heif_images_are_read(with_heif):
    data = load_dataset(with_heif)
    assert ids(data) == set(HEIF) and data.bad_images == ()
    assert not [note for note in data.notes if "ignored" in note]
    for split in data.splits.values():
        for name, (image, _) in zip(split.ids, split, strict=True):
            assert image.shape == (8, 16, 3)
            assert abs(int(image.mean()) - 10 * list(HEIF).index(name)) <= 2


def without_format(monkeypatch, name):
    found = tuple(format for format in decode_module._formats() if format != name)
    monkeypatch.setattr(decode_module, "_formats", lambda: found)


def rotated_by_container(heif, quarter_turns):
    """Add the property `irot` (ISO/IEC 23008-12, 6.5.10; counterclockwise) to the only image of a HEIF file.

    libheif does not write it where the encoder has rotated the pixels.
    """
    box = struct.pack(">I4sB", 9, b"irot", quarter_turns)
    added = len(box) + 1  # and its association with the image
    content = bytearray(heif)

    def size(name, more):
        place = content.index(name) - 4
        length = int.from_bytes(content[place : place + 4]) + more
        content[place : place + 4] = length.to_bytes(4)
        return place, place + length - more

    locations = content.index(b"iloc") + 4
    assert content[locations : locations + 6] == bytes([0, 0, 0, 0, 0x44, 0x40])  # all of 4 bytes
    for number in range(int.from_bytes(content[locations + 6 : locations + 8])):
        at = locations + 12 + 18 * number  # the base offset; each item has one extent
        offset = int.from_bytes(content[at : at + 4]) + added
        content[at : at + 4] = offset.to_bytes(4)
    size(b"meta", added)
    size(b"iprp", added)
    start, end = size(b"ipma", 1)
    count = content[start + 18]
    content[start + 18] = count + 1
    content[end:end] = bytes([0x80 | (count + 1)])  # essential; the new property is the last one
    _, end = size(b"ipco", len(box))
    content[end:end] = box
    return bytes(content)


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(3, 2), (6, 3), (8, 1)])
def test_a_rotated_heif_photograph_is_turned_once(orientation, quarter_turns):
    """As phones write them: rotated by the container, with the same EXIF orientation beside it."""
    decode_module.heif_version()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32] = 240  # upper left
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="HEIF", quality=-1, exif=exif)
    found = decode_module.decode(rotated_by_container(file.getvalue(), quarter_turns))
    expected = np.rot90(pixels, quarter_turns).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 4


def test_heif_images_are_named_where_they_cannot_be_read(with_heif, monkeypatch):
    without_format(monkeypatch, "HEIF")
    write_folder(with_heif, images("a", "b", count=20))
    data = load_dataset(with_heif, max_bad=0.1)
    assert data.notes[0] == (
        "ignored 6 files (.heic 2, .heif 2, .hif 2) which require pillow-heif (pip install"
        " 'jax-zoo[heif]'), starting with a/0.heic"
    )
    reason = "a HEIF image, which requires pillow-heif (pip install 'jax-zoo[heif]')"
    assert [(b.id, b.reason) for b in data.bad_images] == [("a/3.jpg", reason), ("b/3.jpg", reason)]


def test_avif_images_are_named_where_they_cannot_be_read(tmp_path, monkeypatch):
    files = {f"{c}/{i}.avif": png(i, format="AVIF") for c in "ab" for i in range(5)}
    path = write_folder(tmp_path / "a", files)
    assert ids(load_dataset(path)) == set(files)
    without_format(monkeypatch, "AVIF")
    with pytest.raises(InputError, match="only 10 files .* which require a Pillow with AVIF"):
        load_dataset(path)


def test_installing_a_decoder_invalidates_verdicts(with_heif, monkeypatch):
    write_folder(with_heif, images("a", "b", count=20))
    with monkeypatch.context() as patch:
        without_format(patch, "HEIF")
        patch.setattr(verify, "VERSIONS", {**verify.VERSIONS, "heif": None})
        assert len(load_dataset(with_heif, max_bad=0.1).bad_images) == 2
    assert not load_dataset(with_heif).bad_images


def test_copies_across_splits_are_noted(tmp_path):
    files = images("train/a", "train/b", "val/a", "test/a", "test/b", count=5)
    files |= {"test/a/copy.png": files["train/a/0.png"], "test/b/0.png": files["val/a/1.png"]}
    assert [n for n in load(tmp_path, files).notes if "copies" in n] == [
        "1 of 11 test images are copies of train images, starting with test/a/copy.png (train/a/0.png)",
        "1 of 11 test images are copies of validation images, starting with test/b/0.png (val/a/1.png)",
    ]


def test_all_image_formats(tmp_path):
    formats = {
        "JPEG": "JPG",
        "PNG": "png",
        "GIF": "gif",
        "BMP": "bmp",
        "TIFF": "tif",
        "WEBP": "webp",
    }
    files = {f"{c}/{s}.{s}": png(1, (1, 1), format=f) for f, s in formats.items() for c in "ab"}
    data = load(tmp_path, files)
    assert len(ids(data)) == 12
    assert {image.shape for split in data.splits.values() for image, _ in split} == {(1, 1, 3)}


# Bad images


def with_bad_images(count, bad):
    files = images("cats", "dogs", count=count)
    return files | {f"cats/{i}.png": b"not at all" for i in range(bad)}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_bad_images_are_left_out_before_the_split(tmp_path, kind):
    files = with_bad_images(40, 2) | {"dogs/cut.png": png(5)[:60]}
    path = (write_zip if kind == "zip" else write_folder)(tmp_path / f"pets.{kind}", files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(path)
    assert not caught
    bad = {b.id: b.reason for b in data.bad_images}
    assert list(bad) == ["cats/0.png", "cats/1.png", "dogs/cut.png"]
    assert bad["cats/0.png"] == "not an image in any known format"
    assert "runcated" in bad["dogs/cut.png"]
    assert ids(data) == set(files) - set(bad)
    good = {name: content for name, content in files.items() if name not in bad}
    assert data.manifest()["splits"] == load(tmp_path / "good", good).manifest()["splits"]
    assert data.provenance["bad_images"] == 3


def test_bad_images_as_errors(tmp_path):
    message = error_message(tmp_path, with_bad_images(40, 2), on_bad_image="error")
    assert "2 of 80 images" in message
    assert "starting with cats/0.png (not an image in any known format), listed in " in message
    assert message.endswith(": repair or remove them, or skip them (--on-bad-image skip)")


def test_too_many_bad_images(tmp_path):
    assert len(load(tmp_path / "few", with_bad_images(40, 4)).bad_images) == 4  # 5%
    assert "5 of 80 images" in error_message(tmp_path, with_bad_images(40, 5))
    assert "more than 0.05 of them" in error_message(tmp_path, with_bad_images(40, 5))


def test_bad_images_are_listed_and_can_be_accepted(tmp_path):
    files = with_bad_images(40, 5)
    message = error_message(tmp_path, files)
    assert message.endswith(", or continue without them: --max-bad 0.07")
    listed = Path(re.search(r"listed in (.*?): repair", message)[1])
    assert listed.read_text().splitlines() == [
        f"cats/{i}.png\tnot an image in any known format" for i in range(5)
    ]
    assert len(load(tmp_path / "photos", files, max_bad=0.07).bad_images) == 5
    assert "more than 0 of them" in error_message(tmp_path, files, max_bad=0.0)


def test_a_refusal_without_a_place_for_its_list(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"")
    message = error_message(tmp_path, with_bad_images(40, 5))
    assert "(not an image in any known format): repair" in message


def test_class_with_only_bad_images(tmp_path):
    files = images("cats", "dogs", count=100) | {f"pigs/{i}.png": b"" for i in range(3)}
    message = error_message(tmp_path, files)
    assert "and none of class pigs are left, starting with pigs/0.png (" in message
    assert message.endswith(": replace them, or remove the folder of the class")


def test_class_with_only_bad_images_in_a_split(tmp_path):
    files = images("train/a", "train/b", "val/a", "val/b", count=20) | {"test/a/1.png": png()}
    message = error_message(tmp_path, files | {"test/b/1.png": b""})
    assert "and none of class b in the test split are left, starting with test/b/1.png" in message


def test_unchanged_files_are_not_decoded_again(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets", with_bad_images(40, 2))
    decoded = []

    def counting(content, **options):
        decoded.append(content)
        return decode(content, **options)

    monkeypatch.setattr(verify, "decode", counting)
    first = load_dataset(root)
    assert len(decoded) == 80
    again = load_dataset(root)
    assert len(decoded) == 80
    assert (again.bad_images, again.fingerprint) == (first.bad_images, first.fingerprint)
    (root / "cats/0.png").write_bytes(png(77, (9, 9)))
    repaired = load_dataset(root)
    assert len(decoded) == 81
    assert len(repaired.bad_images) == 1
    assert repaired.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 0, "images": {}}']
)
def test_damaged_cache_is_ignored(tmp_path, own_cache, content):
    root = write_folder(tmp_path / "pets", images("cats", "dogs"))
    first = load_dataset(root)
    (cache,) = (own_cache / "images").iterdir()
    cache.write_bytes(content)
    assert load_dataset(root).fingerprint == first.fingerprint
    assert len(json.loads(cache.read_bytes())["images"]) == 20


def test_unwritable_cache_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ZOO_CACHE", "/dev/null/cache")
    assert len(ids(load(tmp_path, images("cats", "dogs")))) == 20


def test_interrupted_check_is_resumed(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets", images("cats", "dogs", count=20))
    monkeypatch.setattr(verify, "CHUNK", 5)
    monkeypatch.setattr(verify, "PROGRESS_SECONDS", 0)

    def interrupt(text, done, total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset(root, progress=interrupt)
    reports = []
    load_dataset(root, progress=lambda *report: reports.append(report))
    assert reports == [("checking images", done, 40) for done in range(13, 41)]


def test_deleted_image_is_named(tmp_path):
    data = load(tmp_path, images("cats", "dogs"))
    name = data.splits["train"].ids[3]
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name} can no longer be read .No such file.*restore it"):
        data.splits["train"][3]


def test_images_are_read_from_disk_every_time(tmp_path):
    data = load(tmp_path, images("cats", "dogs"))
    split = data.splits["train"]
    assert split[0][0] is not split[0][0]
    with pytest.raises(IndexError):
        split[len(split)]
    np.testing.assert_array_equal(split[-1][0], split[len(split) - 1][0])


def test_large_photographs_are_decoded_at_a_reduced_size(tmp_path, monkeypatch):
    files = {f"{c}/{i}.jpg": png(i, (160, 320), "JPEG") for c in "ab" for i in range(5)}
    split = load(tmp_path, files).splits["train"]
    assert split[0][0].shape == (160, 320, 3)
    sizes = []
    monkeypatch.setattr(
        "datasets.images.resize._resample", lambda image, *size_rule: sizes.append(size_rule[:2])
    )
    for side in (20, 81):
        split.resized(0, ResizeRule((side, side)))
    assert sizes == [(40, 80), (160, 320)]


# Errors


def test_empty(tmp_path):
    message = error_message(tmp_path, {})
    assert "photos is empty: use a folder, .zip or .tar with one folder of images per" in message
    assert "is empty" in error_message(tmp_path, write_zip(tmp_path / "a.zip", {}))


def test_only_other_files(tmp_path):
    message = error_message(tmp_path, {"cats/1.txt": b"", "dogs/2.txt": b"", "x": b""})
    assert "contains no images, only 3 files (.txt 2, no suffix 1) without an image suf" in message


def test_no_class_folders(tmp_path):
    files = {f"{i}.png": png(i) for i in range(3)}
    assert "has 3 images, but no class folders: sort them" in error_message(tmp_path, files)


def test_no_class_folders_in_the_splits(tmp_path):
    """Not two classes named train and test1."""
    files = {f"{split}/{i}.png": png(i) for split in ("train", "test1") for i in range(3)}
    message = error_message(tmp_path, files)
    assert "test1/, train/ in " in message
    assert "have images, but no class folders: sort them into train/<class>/" in message


def test_one_class(tmp_path):
    assert "has only one class, cats: a classifier needs" in error_message(tmp_path, images("cats"))
    one = images("train/cats", "test/cats")
    assert "has only one class, cats" in error_message(tmp_path / "split", one)


def test_class_with_one_image(tmp_path):
    files = images("cats", "dogs") | {"pig/1.png": png(1)}
    message = error_message(tmp_path, files)
    assert "class pig has only one image, which cannot be split into train, validation" in message
    assert "add images, or remove the class" in message


def test_class_with_one_image_in_published_splits(tmp_path):
    files = images("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", count=1)
    assert sizes(load(tmp_path, files)) == {"train": 2, "validation": 2, "test": 2}


def test_split_errors_are_reported_before_the_check(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "decode", lambda *_, **__: pytest.fail("decoded first"))
    error_message(tmp_path, images("cats", "dogs") | {"pig/1.png": png(1)})


def test_splits_without_training(tmp_path):
    message = error_message(tmp_path, images("test/a", "test/b", "val/a", "val/b"))
    assert "has test/, val/, but no train/ folder" in message


def test_two_folders_for_a_split(tmp_path):
    message = error_message(tmp_path, images("train/a", "train/b", "val/a", "validation/a"))
    assert "has val/, validation/, which are both the validation split: keep one" in message


def test_classes_next_to_a_split(tmp_path):
    message = error_message(tmp_path, images("train/a", "train/b", "cats", "dogs"))
    assert "has train/, which looks like a published split, next to cats/, dogs/" in message


def test_class_missing_from_training(tmp_path):
    message = error_message(tmp_path, images("train/a", "train/b", "test/a", "test/B"))
    assert "the test split of" in message
    assert "has B, missing from the training split: use the same class names" in message


def test_duplicate_path(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns about the duplicate
        path = write_zip(tmp_path / "a.zip", images("cats", "dogs"))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("cats/1.png", png(3))
    assert "contains cats/1.png twice: remove or rename" in error_message(tmp_path, path)


@pytest.mark.slow
@pytest.mark.parametrize("total", [1000, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_bad_images_at_scale(tmp_path, kind, total):
    """One percent of all images."""
    good, bad = png(1, (2, 2)), png(2, (2, 2))[:40]
    files = {f"{'abcd'[i % 4]}/{i}.png": good for i in range(total)}
    names = [f"{'abcd'[i % 4]}/{i}.png" for i in range(0, total, 100)]
    files |= dict.fromkeys(names, bad)
    path = (write_zip if kind == "zip" else write_folder)(tmp_path / f"a.{kind}", files)
    data = load_dataset(path)
    assert {b.id for b in data.bad_images} == set(names)
    assert all(b.reason for b in data.bad_images)
    assert sum(map(len, data.splits.values())) == 0.99 * total
    message = error_message(tmp_path, path, on_bad_image="error")
    assert (
        f"{total // 100} of {total} images of {path} cannot be decoded, starting with a/0.png ("
        in message
    )


# What this program writes, and names in other encodings.

RUN = {
    "config.json": json.dumps({"format": 2, "recipe": {"model": "alexnet"}}).encode(),
    "figures/curves.png": png(5),
    "best/model.json": b"{}",
}


@pytest.mark.parametrize("run", ["runs/a", "my results/paper/seed0", "cats/run", "best"])
@pytest.mark.parametrize("packed", [False, True])
def test_run_directories_are_not_data(tmp_path, run, packed):
    files = images("cats", "dogs", count=5)
    before = load(tmp_path / "pets", files)
    more = {f"{run}/{name}": content for name, content in RUN.items()}
    path = write_folder(tmp_path / "pets", more)
    if packed:
        path = write_zip(tmp_path / "pets.zip", files | more)
    data = load_dataset(path)
    assert (data.fingerprint, data.class_names) == (before.fingerprint, before.class_names)
    assert data.notes == before.notes


def test_other_folders_with_a_config_are_data(tmp_path):
    files = images("cats", "dogs", count=5)
    configs = (b"[1]", b'{"recipe": 3}', b"{", b"\xff", b"")
    for number, content in enumerate(configs):
        data = load(tmp_path / f"{number}", files | {"cats/config.json": content})
        assert data.class_names == ("cats", "dogs")


def test_marked_folders_figures_and_the_cache_are_not_data(tmp_path, monkeypatch):
    files = images("pets/cats", "pets/dogs", count=5)
    before = load(tmp_path / "data", files)
    root = tmp_path / "data"
    write_folder(root, {"paper/.jax-zoo": b"", "paper/figures/a.png": png(1)})
    write_folder(root, {"cache/images/a.png": png(2)})
    mark = PngInfo()
    mark.add_text("Software", "jax-zoo")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "pets.png", pnginfo=mark)
    monkeypatch.setenv("JAX_ZOO_CACHE", str(root / "cache"))
    assert load_dataset(root).fingerprint == before.fingerprint
    (root / "other.png").write_bytes(png(3))  # the user's own image: `pets` is a class beside it
    with pytest.raises(InputError, match="only one class"):
        load_dataset(root)


def latin(name):
    return os.fsdecode(name.encode("latin-1"))


def test_names_that_are_not_utf_8(tmp_path):
    folder, u = latin("b\u00e9b\u00e9"), latin("\u00fcb")
    files = images(folder, "dogs", count=5) | {f"dogs/{u}.png": png(99)}
    files |= {f"dogs/{latin(name)}.png": png(90 + ord(name)) for name in "\u00e8\u00e9"}
    root = tmp_path / latin("pets\u00e9")
    data = load(root, files)
    assert (data.name, data.class_names) == ("pets\ufffd", ("b\ufffdb\ufffd", "dogs"))
    # Names that would become equal are told apart.
    shown = {r"dogs/\xe8.png", r"dogs/\xe9.png", "dogs/\ufffdb.png", "b\ufffdb\ufffd/0.png"}
    assert shown <= ids(data)
    assert len(ids(data)) == 13
    for split in data.splits.values():
        assert all(image.shape == (6, 5, 3) for image, _ in split)
    assert load_dataset(root).fingerprint == data.fingerprint


def test_a_list_finds_files_with_names_in_an_old_encoding(tmp_path):
    name = "caf\u00e9"
    write_folder(tmp_path, images("cats", "dogs", count=5) | {f"cats/{latin(name)}.png": png(50)})
    lines = [f"{c}/{i}.png,{c}" for c in ("cats", "dogs") for i in range(5)]
    text = "\n".join(["path,label", *lines, f"cats/{name}.png,cats"])
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert f"cats/{name}.png" in ids(load_dataset(tmp_path / "list.csv"))


def test_files_that_cannot_be_read_now_are_not_remembered_as_bad(tmp_path, monkeypatch):
    """Rights that are given back leave size and time, by which the verdicts are cached, as they were."""
    from datasets.formats.sources import DirectorySource, UnreadableError

    root = write_folder(tmp_path / "pets", images("cats", "dogs", count=30))
    read = DirectorySource.read

    def denied(self, file):
        if file.path == "cats/3.png":
            raise UnreadableError("Permission denied")
        return read(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(DirectorySource, "read", denied)
        data = load_dataset(root)
    assert [(bad.id, bad.reason) for bad in data.bad_images] == [
        ("cats/3.png", "Permission denied")
    ]
    assert not load_dataset(root).bad_images
