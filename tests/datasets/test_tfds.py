"""TFDS directories: written by `prepare` and read back, or written by other TFDS builders."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_files import images, png, write_folder, write_zip
from PIL import Image

from datasets import InputError, ResizeRule, load_dataset
from datasets.formats import tfds as reader
from datasets.formats.prepare import prepare, tfds_name
from datasets.images.decode import decode
from datasets.images.resize import resize

pytestmark = pytest.mark.usefixtures("own_cache")

PETS = images("cats", "dogs", count=12)


def error_message(*arguments, **options):
    with pytest.raises(InputError) as error:
        load_dataset(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(first, second):
    """Compare splits, ids, labels, classes and pixels."""
    assert first.class_names == second.class_names
    for name, split in first.splits.items():
        other = second.splits[name]
        assert split.ids == other.ids
        np.testing.assert_array_equal(split.labels, other.labels)
        for (image, _), (again, _) in zip(split, other, strict=True):
            np.testing.assert_array_equal(image, again)


# Directories written by `prepare`


@pytest.fixture
def pets(tmp_path):
    return load_dataset(write_folder(tmp_path / "My Pets", PETS), seed=3)


@pytest.mark.parametrize("place", ["folder", "zip", "splits"])
def test_prepared_data_equal_the_original(tmp_path, place):
    if place == "splits":
        path = write_folder(tmp_path / "x", images("train/a", "train/b", "val/b", "val/a", count=8))
    elif place == "zip":
        path = write_zip(tmp_path / "x.zip", PETS)
    else:
        path = write_folder(tmp_path / "x", PETS)
    data = load_dataset(path, seed=3)
    directory = prepare(data, tmp_path / "out")
    assert directory == tmp_path / "out" / "x" / "1.0.0"
    again = load_dataset(directory)
    assert_same(data, again)
    assert again.fingerprint == data.fingerprint
    assert (again.name, again.seed, again.info, again.notes) == (
        data.name,
        data.seed,
        data.info,
        data.notes,
    )
    for name, split in data.splits.items():
        for i in range(len(split)):
            assert again.splits[name].content(i) == split.content(i)
    json.dumps(again.manifest())
    assert again.provenance["kind"] == "tfds"
    assert again.provenance["prepared_from"]["path"] == str(path)
    assert again.provenance["prepared_from"]["fingerprint"] == data.fingerprint


def test_names_of_a_prepared_data_set(tmp_path, pets, monkeypatch):
    directory = prepare(pets, tmp_path / "out")
    assert directory.parent.name == "my_pets"
    names = [directory, str(directory.parent), f"tfds:{directory}", f"tfds:{directory.parent}"]
    found = [load_dataset(name) for name in names]
    by_name = ["tfds:my_pets", "tfds:my_pets:1.0.0", "tfds:my_pets/1.0.0"]
    found += [load_dataset(name, data_dir=tmp_path / "out") for name in by_name]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "out"))
    found.append(load_dataset("tfds:my_pets"))
    assert {data.fingerprint for data in found} == {pets.fingerprint}


def test_newest_version_is_read(tmp_path, pets):
    newest = prepare(pets, tmp_path / "out").rename(tmp_path / "out" / "my_pets" / "10.0.0")
    for version in ("2.0.0", "9.9.9"):
        (newest.parent / version).mkdir()
        (newest.parent / version / "dataset_info.json").write_text("{}")
        (newest.parent / version / "features.json").write_text("{}")
    (newest.parent / "incomplete.ABCDEF_11.0.0").mkdir()
    (newest.parent / "11.0.0").mkdir()
    assert reader.prepared_directory(newest.parent) == newest


def test_tfds_can_read_prepared_data(tmp_path, pets):
    """Splits, features and supervised keys, without code of this project."""
    builder = tfds.builder_from_directory(prepare(pets, tmp_path / "out"))
    assert builder.info.supervised_keys == ("image", "label")
    assert builder.info.features["label"].names == ["cats", "dogs"]
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == {
        name: len(split) for name, split in pets.splits.items()
    }
    source = tfds.data_source("my_pets", split="test", data_dir=tmp_path / "out")
    for i, example in enumerate(source):
        image, label = pets.splits["test"][i]
        np.testing.assert_array_equal(example["image"], image)
        assert (example["label"], example["id"].decode()) == (label, pets.splits["test"].ids[i])


def test_images_of_all_modes(tmp_path):
    """Including those that TFDS's decoder returns with four channels, or as palette indices."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    gray = Image.fromarray(noise[..., 0])
    made = {
        "rgba.png": Image.fromarray(noise),
        "cmyk.jpg": Image.merge("CMYK", [gray] * 4),
        "palette.png": Image.fromarray(noise[..., :3]).quantize(16),
        "gray.png": gray,
        "palette.gif": Image.fromarray(noise[..., :3]).quantize(64),
        "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 257),
    }
    files = dict(images("b", count=6))
    for name, image in made.items():
        file = io.BytesIO()
        image.save(file, {"jpg": "JPEG"}.get(name[-3:], name[-3:].upper()))
        files[f"a/{name}"] = file.getvalue()
    data = load_dataset(write_folder(tmp_path / "modes", files))
    again = load_dataset(prepare(data, tmp_path / "out"))
    assert_same(data, again)
    shapes = {image.shape for split in again.splits.values() for image, _ in split}
    assert shapes == {(20, 30, 3), (6, 5, 3)}


@pytest.mark.slow
def test_images_without_files_are_stored_as_png(tmp_path):
    data = load_dataset("digits", seed=2)
    assert data.splits["train"].content(0) is None
    again = load_dataset(prepare(data, tmp_path))
    assert_same(data, again)
    assert again.info == data.info
    assert again.splits["train"].content(0).startswith(b"\x89PNG")
    assert again.provenance["prepared_from"]["fingerprint"] == data.fingerprint


def test_synthetic_data_stay_synthetic(tmp_path, pets):
    data = dataclasses.replace(pets, info=dataclasses.replace(pets.info, synthetic=True))
    assert load_dataset(prepare(data, tmp_path / "out")).info.synthetic


# Resizing


@pytest.fixture
def photos(tmp_path):
    """Noise in several sizes: portrait, landscape, and below 16 pixels."""
    sizes = [(40, 30), (30, 60), (12, 20)]
    files = {f"{name}/{i}.png": png(i, sizes[i % 3]) for name in ("a", "b") for i in range(9)}
    return load_dataset(write_folder(tmp_path / "photos", files))


def test_shorter_side(tmp_path, photos):
    directory = prepare(photos, tmp_path / "out", image_size=16)
    again = load_dataset(directory)
    assert directory.parent.name == "photos_16"
    assert again.fingerprint != photos.fingerprint
    for name, split in photos.splits.items():
        assert again.splits[name].ids == split.ids
        for i, (image, _) in enumerate(split):
            smaller, content = again.splits[name][i][0], again.splits[name].content(i)
            expected = {(40, 30): (21, 16), (30, 60): (16, 32), (12, 20): (12, 20)}
            assert smaller.shape[:2] == expected[image.shape[:2]]
            if min(image.shape[:2]) < 16:
                assert content == split.content(i)
            else:
                assert content.startswith(b"\xff\xd8")
                exact = resize(image, ResizeRule(smaller.shape[:2])).astype(int)
                assert np.abs(exact - smaller).mean() < 20  # noise is the worst case for JPEG


def test_squashed_png_images_equal_those_of_training(tmp_path, photos):
    again = load_dataset(
        prepare(photos, tmp_path / "out", image_size=16, resize="squash", format="png")
    )
    assert again.info.image_shape == (16, 16, 3)
    for name, split in photos.splits.items():
        for i in range(len(split)):
            resized = split.resized(i, ResizeRule((16, 16)))
            np.testing.assert_array_equal(again.splits[name][i][0], resized)


# Existing and incomplete directories, and changes during preparation


def test_same_data_are_kept_and_other_data_rejected(tmp_path, pets, photos):
    directory = prepare(pets, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert prepare(pets, tmp_path / "out") == directory
    other_split = load_dataset(tmp_path / "My Pets", seed=4)
    for data, options in (
        (other_split, {}),
        (photos, {"name": "my_pets"}),
        (pets, {"name": "my_pets", "image_size": 4}),
    ):
        with pytest.raises(InputError, match="contains other images, splits or sizes of .* --out"):
            prepare(data, tmp_path / "out", **options)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    assert prepare(other_split, tmp_path / "out", name="Other Split").parent.name == "other_split"
    (tmp_path / "out" / "photos" / "1.0.0").mkdir(parents=True)
    with pytest.raises(InputError, match="exists, but was not written by this command"):
        prepare(photos, tmp_path / "out")


def test_failure_leaves_no_incomplete_data(tmp_path, pets, monkeypatch):
    def stop(text, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(pets, tmp_path / "out", progress=stop)
    assert os.listdir(tmp_path / "out" / "my_pets") == [".lock"]
    assert "is not prepared" in error_message("tfds:my_pets", data_dir=tmp_path / "out")
    assert load_dataset(prepare(pets, tmp_path / "out")).fingerprint == pets.fingerprint


@pytest.mark.slow
def test_incomplete_data_of_a_killed_process_are_ignored(tmp_path, pets):
    code = """
import sys, time
from datasets import load_dataset
from datasets.formats.prepare import prepare
def wait(text, done, total):
    print("writing", flush=True)
    time.sleep(60)
prepare(load_dataset(sys.argv[1], seed=3), sys.argv[2], progress=wait)
"""
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, str(tmp_path / "My Pets"), str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(reader.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"writing\n"
        with pytest.raises(InputError, match="another process is preparing"):
            prepare(pets, out)
        process.send_signal(signal.SIGKILL)
    assert any(name.startswith("incomplete") for name in os.listdir(out / "my_pets"))
    assert "is not prepared" in error_message("tfds:my_pets", data_dir=out)
    assert load_dataset(prepare(pets, out)).fingerprint == pets.fingerprint
    assert sorted(os.listdir(out / "my_pets")) == [".lock", "1.0.0"]


def test_images_that_change_during_preparation(tmp_path, pets):
    (tmp_path / "My Pets" / "cats" / "3.png").write_bytes(png(77))
    with pytest.raises(InputError, match="changed while they were prepared: run again"):
        prepare(pets, tmp_path / "out")
    assert "is not prepared" in error_message("tfds:my_pets", data_dir=tmp_path / "out")


def test_bad_images_are_left_out_and_named(tmp_path):
    files = images("a", "b", count=40) | {"a/bad.png": png()[:50], "b/text.jpg": b"text"}
    data = load_dataset(write_folder(tmp_path / "x", files))
    directory = prepare(data, tmp_path / "out")
    again = load_dataset(directory)
    assert not again.bad_images
    assert again.fingerprint == data.fingerprint
    lines = (directory / "bad_images.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["a/bad.png", "b/text.jpg"]
    assert [bad[0] for bad in again.provenance["prepared_from"]["bad_images"]] == [
        "a/bad.png",
        "b/text.jpg",
    ]


@pytest.mark.parametrize("names", [("a", "a "), ("a", "b\nc")])
def test_class_names_that_tfds_would_change(tmp_path, names):
    data = load_dataset(write_folder(tmp_path / "x", images(*names, count=4)))
    with pytest.raises(InputError, match="rename it"):
        prepare(data, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "name"), [("My Pets-2", "my_pets_2"), ("10 pigs", "images_10_pigs"), ("猪", "images")]
)
def test_names_for_tfds(text, name):
    assert tfds_name(text) == name
    assert reader.NAME.fullmatch(name)


def test_large_data_sets_have_several_shards_in_order(tmp_path, pets, monkeypatch):
    monkeypatch.setattr("datasets.formats.prepare.SHARD_EXAMPLES", 7)
    monkeypatch.setattr("datasets.formats.prepare.AHEAD", 3)
    reports = []
    directory = prepare(pets, tmp_path / "out", progress=lambda *report: reports.append(report))
    assert len(list(directory.glob("*train.array_record*"))) == 3
    assert_same(pets, load_dataset(directory))
    assert reports[-1] == ("writing images", 24, 24)


def test_records_are_not_shuffled_in_memory_or_by_tensorflow(tmp_path, pets, monkeypatch):
    """TFDS's usual builder sorts records in memory, and above one gigabyte in files written by TensorFlow."""
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1)
    assert_same(pets, load_dataset(prepare(pets, tmp_path / "out")))


# Directories written by other builders


class Birds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A user's builder: other feature names, more features, TFDS's shuffling, no validation split."""

    VERSION = tfds.core.Version("2.1.0")
    SPLITS = {"train": 20, "test": 6, "extra": 3}
    NAMES = ["wren", "crow"]
    IDS = True
    UNLABELED: tuple[str, ...] = ()

    def _features(self):
        features = {
            "photo": tfds.features.Image(),
            "mask": tfds.features.LabeledImage(labels=2, shape=(None, None, 1)),
            "species": tfds.features.ClassLabel(names=self.NAMES),
            "weight": np.float32,
            "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
        }
        return features | ({"image/filename": tfds.features.Text()} if self.IDS else {})

    def _info(self):
        keys = ("photo", "species") if "species" in self._features() else None
        features = tfds.features.FeaturesDict(self._features())
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        number = list(self.SPLITS).index(split)
        for i in range(self.SPLITS[split]):
            example = {
                "photo": io.BytesIO(png(1000 * number + i)),
                "mask": io.BytesIO(png(5)),
                "species": -1 if split in self.UNLABELED else i % 2,
                "weight": 1.5,
                "boxes": [tfds.features.BBox(0.0, 0.0, 1.0, 1.0)] * i,
                "image/filename": f"bird_{i}.png",
            }
            yield i, {key: example[key] for key in self._features()}


@pytest.fixture
def built(tmp_path):
    """A function that prepares `Birds` with changed class attributes, and returns the TFDS data directory and its own
    directory."""

    def build(**changes):
        kind = type("Birds", (Birds,), changes, skip_registration=True)
        builder = kind(data_dir=tmp_path / "tfds", file_format="array_record")
        builder.download_and_prepare(download_dir=tmp_path / "downloads")
        return tmp_path / "tfds", Path(builder.data_dir)

    return build


def test_data_set_of_another_builder(built):
    root, directory = built()
    data = load_dataset("tfds:birds", data_dir=root, seed=1)
    assert data.name == "birds"
    assert data.class_names == ("wren", "crow")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 6,
    }
    assert data.provenance["published_parts"] == ["train", "test"]
    assert data.notes == ("ignored the split extra of 3 images",)
    assert set(data.splits["test"].ids) == {f"test/bird_{i}.png" for i in range(6)}
    for split in data.splits.values():
        for id, (image, label) in zip(split.ids, split, strict=True):
            number = ["train", "test"].index(id.split("/")[0])
            i = int(id.split("_")[1].split(".")[0])
            np.testing.assert_array_equal(image, decode(png(1000 * number + i)))
            assert label == i % 2
    again = load_dataset(directory, seed=1)
    assert again.manifest() == data.manifest()
    assert again.splits["train"].content(0).startswith(b"\x89PNG")


def test_labels_are_read_once(built, monkeypatch):
    _, directory = built()
    first = load_dataset(directory)
    read = []
    monkeypatch.setattr(reader.Records, "_label_and_id", lambda *args: read.append(args))
    assert load_dataset(directory).manifest() == first.manifest()
    assert not read
    shard = next(directory.glob("*-train.*"))
    os.utime(shard, ns=(1, 1))
    with pytest.raises(TypeError):  # the replacement returns None
        load_dataset(directory)
    assert read


def test_missing_ids_are_replaced_by_indices(built):
    _, directory = built(IDS=False)
    data = load_dataset(directory)
    assert data.splits["test"].ids == tuple(f"test/{i}" for i in range(6))


def test_duplicate_ids_are_replaced_by_indices():
    assert reader._ids("train", ["a", "b", "a"]) == ["train/0", "train/1", "train/2"]
    assert reader._ids("train", ["a", "b", ""]) == ["train/0", "train/1", "train/2"]


def test_examples_without_a_label(built):
    _, directory = built(UNLABELED=("test",))
    data = load_dataset(directory)
    assert "ignored 6 of 6 test images, which have no label" in data.notes
    assert data.provenance["published_parts"] == ["train"]
    assert {i.split("/")[0] for split in data.splits.values() for i in split.ids} == {"train"}


def test_integer_labels(built):
    def features(self):
        return {"photo": tfds.features.Image(), "label": np.int64}

    def examples(self, split):
        for i in range(12):
            yield i, {"photo": io.BytesIO(png(i)), "label": (3, 11)[i % 2]}

    _, directory = built(_features=features, _generate_examples=examples, SPLITS={"all_of_it": 12})
    data = load_dataset(directory)
    assert data.class_names == ("3", "11")
    assert data.provenance["published_parts"] == []
    assert sum(map(len, data.splits.values())) == 12


def test_splits_without_training(built):
    _, directory = built(SPLITS={"test": 4, "validation": 4})
    assert "but no split named train: prepare one" in error_message(directory)


@pytest.mark.parametrize("lacks", ["photo", "species"])
def test_data_that_are_not_classification(built, lacks):
    original = Birds._features
    _, directory = built(
        _features=lambda self: {k: v for k, v in original(self).items() if k != lacks}
    )
    message = error_message(directory)
    assert "birds/2.1.0 does not have one image and one class label per example" in message
    assert "weight (Tensor)" in message


def test_bad_image_of_another_builder_is_left_out(built):
    original = Birds._generate_examples

    def examples(self, split):
        for i, example in original(self, split):
            yield i, example | ({"photo": io.BytesIO(b"no image")} if i == 3 else {})

    _, directory = built(_generate_examples=examples, SPLITS={"train": 60, "test": 3})
    data = load_dataset(directory)
    assert [bad.id for bad in data.bad_images] == ["train/bird_3.png"]
    assert "cannot be decoded" in error_message(directory, on_bad_image="error")


# Errors


def test_data_prepared_for_tensorflow(tmp_path, pets):
    directory = prepare(pets, tmp_path / "out")
    path = directory / "dataset_info.json"
    text = path.read_text()
    assert '"fileFormat": "array_record"' in text
    for other in ('"fileFormat": "tfrecord"', '"downloadSize": "0"'):
        path.write_text(text.replace('"fileFormat": "array_record"', other))
        message = error_message(directory)
        assert f"{directory} is prepared as tfrecord, not as array_record" in message
        assert f"`tfds convert_format --dataset_version_dir={directory} --out_file" in message
    both = '"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]'
    path.write_text(text.replace('"fileFormat": "array_record"', both))
    assert load_dataset(directory).fingerprint == pets.fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:mnist", "`tfds build mnist --data_dir={root} --file_format=array_record`, or"),
        ("tfds:my_pet", "did you mean tfds:my_pets"),
        ("tfds:my_pets:3.0.0", "which has 1.0.0: use tfds:my_pets:1.0.0"),
        ("tfds:cats_dogs", "`python -m train.data prepare cats_dogs --out {root}`"),
        ("tfds:", "is not a valid name of a TFDS data set: use tfds:NAME"),
        ("tfds:../x", "../x is not a prepared TFDS data set"),
        ("tfds:a b", "is not a valid name of a TFDS data set"),
        ("tfds:/no/where", "/no/where is not a prepared TFDS data set"),
    ],
)
def test_data_sets_that_are_not_prepared(tmp_path, pets, name, message):
    root = tmp_path / "out"
    prepare(pets, root)
    assert message.format(root=root) in error_message(name, data_dir=root)
    assert name.removeprefix("tfds:") in error_message(name, data_dir=root)


def test_configs(tmp_path, pets):
    directory = prepare(pets, tmp_path / "out")
    small = tmp_path / "out" / "sized" / "small" / "1.0.0"
    shutil.copytree(directory, small)
    names = ("tfds:sized", "tfds:sized/small", "tfds:sized/small:1.0.0", "tfds:sized:1.0.0")
    found = [load_dataset(name, data_dir=tmp_path / "out") for name in names]
    assert {data.provenance["path"] for data in found} == {str(small)}
    shutil.copytree(directory, tmp_path / "out" / "sized" / "large" / "1.0.0")
    message = error_message("tfds:sized", data_dir=tmp_path / "out")
    assert "prepared in 2 configs: use tfds:sized/large or tfds:sized/small" in message


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "features", "info", "other"])
def test_damaged_directories(tmp_path, pets, damage):
    directory = prepare(pets, tmp_path / "out")
    shard = next(directory.glob("*-train.*"))
    if damage == "missing":
        shard.unlink()
        expected = f"{shard} cannot be read (No such file"
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
        expected = "cannot be decoded"
    elif damage == "changed":
        content = bytearray(shard.read_bytes())
        at = content.find(pets.splits["train"].content(5)[60:120])
        content[at : at + 30] = bytes(30)
        shard.write_bytes(content)
        expected = str(directory)
    elif damage == "features":
        (directory / "features.json").write_text("{")
        expected = f"{directory} cannot be opened by tensorflow-datasets"
    elif damage == "info":
        (directory / "dataset_info.json").write_text("[]")
        expected = "dataset_info.json cannot be read"
    else:
        metadata = directory / "metadata.json"
        metadata.write_text(metadata.read_text().replace('"format": 1', '"format": 99'))
        expected = "prepared by a different version of this package"
    assert expected in error_message(directory)


def test_reading_is_thread_safe(tmp_path, pets):
    split = load_dataset(prepare(pets, tmp_path / "out")).splits["train"]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: split[i % len(split)][0], range(400)))
    for i, image in enumerate(read):
        np.testing.assert_array_equal(image, pets.splits["train"][i % len(split)][0])


@pytest.mark.slow
def test_preparing_and_reading_import_no_tensorflow_and_print_nothing(tmp_path, pets):
    """In a separate process, to check its imports."""
    code = """
import sys
from datasets import load_dataset
assert "tensorflow_datasets" not in sys.modules
from datasets.formats.prepare import prepare
data = load_dataset(prepare(load_dataset(sys.argv[1]), sys.argv[2]))
data.splits["test"][0]
loaded = {name.partition(".")[0] for name in sys.modules}
assert "tensorflow_datasets" in loaded
assert not loaded & {"tensorflow", "torch", "keras", "jax"}, loaded
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "My Pets"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(reader.__file__).parents[1])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
