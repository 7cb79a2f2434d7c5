"""Small versions of the papers' data sets in their published layouts, and errors."""

import dataclasses
import importlib
import io
import json
import zipfile

import pytest
from image_files import images, png, write_folder, write_tar, write_zip

from datasets import InputError, dataset_info, load_dataset
from datasets.named import afhq, afhq7, animals10
from datasets.splits import split_counts

pytestmark = pytest.mark.usefixtures("own_cache")

ITALIAN = images(*(f"raw-img/{name}" for name in animals10.ENGLISH))
AFHQ_1 = {
    **images("train/cat", "train/dog", "train/wild", count=20),
    **images("val/cat", "val/dog", "val/wild", count=3, first=50_000),
}
AFHQ_2 = {name.replace("val/", "test/"): content for name, content in AFHQ_1.items()}
COMPETITION = {
    f"train/{name}.{i}.jpg": png(100 * number + i, format="JPEG")
    for number, name in enumerate(("cat", "dog"))
    for i in range(20)
}
UNLABELED = {f"test1/{i}.jpg": png(900 + i, format="JPEG") for i in range(4)}
NEEDING_FILES = ["afhq", "afhq7", "animals10", "cats_dogs", "pig_faces"]


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def labels(data):
    """Return the class of every example by id."""
    return {
        name: data.class_names[label]
        for split in data.splits.values()
        for name, label in zip(split.ids, split.labels, strict=True)
    }


def below(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


def error_message(name, data_dir):
    with pytest.raises(InputError) as error:
        load_dataset(name, data_dir=data_dir)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_all(tmp_path, files, archive, folder):
    """Write the files in all supported forms, and return their paths."""
    wrapped = below(folder, files)
    (tmp_path / "downloads").mkdir()
    return {
        "unpacked": write_folder(tmp_path / "unpacked", files),
        "unpacked with an inner folder": write_folder(tmp_path / "inner", wrapped),
        "unpacked with two inner folders": write_folder(tmp_path / "twice", below(folder, wrapped)),
        "zip": write_zip(tmp_path / archive, files),
        "zip with an inner folder": write_zip(tmp_path / "x.zip", wrapped),
        "folder with the zip": write_zip(tmp_path / "downloads" / archive, files).parent,
        "tar": write_tar(tmp_path / "x.tar.gz", wrapped),
    }


# All data sets


@pytest.mark.parametrize("name", NEEDING_FILES)
def test_missing_files(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("x")
    for place in (None, "nowhere", "empty", "text"):
        message = error_message(name, place and tmp_path / place)
        assert message.startswith(f"{name}{':' if place else ' needs its images:'} ")
        assert "--data-dir" in message
        assert dataset_info(name).homepage in message
        assert str(tmp_path / (place or "")) in message or place is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("animals10", ("raw-img/ with cane 4863, cavallo 2623", "scoiattolo 1862 images")),
        (
            "afhq",
            (
                "train/{cat,dog,wild} with 5153, 4739 and 4738 images and val/{cat,dog,wild} with 500 each",
                "train/ with 5065, 4678 and 4593 and test/ with 493, 491 and 483",
                "https://www.kaggle.com/datasets/andrewmvd/animal-faces",
            ),
        ),
        ("afhq7", ("a list afhq7.csv with the columns path,label", "with 5 species")),
        ("cats_dogs", ("https://www.kaggle.com/c/dogs-vs-cats", "train/cat.0.jpg, 12500 of each")),
        ("pig_faces", ("never published", "10 individuals with 684, 77 and 254")),
    ],
)
def test_error_describes_the_expected_files(name, expected):
    message = error_message(name, None)
    assert [text for text in expected if text not in message] == []


@pytest.mark.parametrize("name", ["afhq", "animals10", "cats_dogs"])
def test_other_classes(tmp_path, name):
    message = error_message(name, write_folder(tmp_path, images("pigs", "cows")))
    assert f"{name}: {tmp_path} has the classes cows, pigs instead of" in message
    assert dataset_info(name).homepage in message


@pytest.mark.parametrize("name", NEEDING_FILES)
def test_split_sizes_match_the_published_counts(name):
    module = importlib.import_module(f"datasets.named.{name}")
    info = dataset_info(name)
    edition = module.DOWNLOAD.editions[0]
    held_out = {split: count for split, count in edition.items() if split != "train"}
    assert sum(info.split_sizes.values()) == sum(edition.values())
    if name != "afhq":  # whose published splits are pooled
        assert {split: info.split_sizes[split] for split in held_out} == held_out


def test_split_sizes_follow_from_the_class_sizes():
    both = {"validation": 0.1, "test": 0.1}
    taken = sum(split_counts(n, both)["test"] for n in animals10.PUBLISHED.values())
    assert animals10.INFO.split_sizes == {
        "train": 26179 - 2 * taken,
        "validation": taken,
        "test": taken,
    }
    # All images of the first version are pooled.
    pooled = (5653, 5239, 5238)
    assert sum(pooled) == sum(afhq.DOWNLOAD.editions[0].values()) == 16130  # as in the paper
    taken = sum(split_counts(n, both)["test"] for n in pooled)
    assert afhq.INFO.split_sizes == {"train": 16130 - 2 * taken, "validation": taken, "test": 1613}
    # The paper's failing SVM scores 35.09% in validation: 566 of a tenth of all images pooled, and no number of the
    # images that a tenth of the published training images is. Its 35.07% in test fits neither.
    fitting = [size for size in (taken, 1463) if round(round(0.3509 * size) / size, 4) == 0.3509]
    assert (fitting, round(0.3509 * taken)) == ([1613], 566)
    assert all(round(round(0.3507 * size) / size, 4) != 0.3507 for size in (taken, 1463))
    assert split_counts(500, both) == {"validation": 50, "test": 50}
    assert afhq7.INFO.split_sizes == {"train": 7 * 400, "validation": 7 * 50, "test": 7 * 50}


def test_published_counts_are_not_noted(tmp_path, monkeypatch):
    root = write_folder(tmp_path, AFHQ_1)
    editions = ({"train": 1, "test": 1}, {"train": 60, "test": 9})
    (note,) = [n for n in load_dataset("afhq", data_dir=root).notes if "not the" in n]
    assert note == (
        "60 training (with validation) and 9 test images, not the 14630 and 1500, or 14336 and 1467"
        " of the published set"
    )
    changed = dataclasses.replace(afhq.DOWNLOAD, editions=editions)
    monkeypatch.setattr(afhq, "DOWNLOAD", changed)
    assert not [n for n in load_dataset("afhq", data_dir=root).notes if "not the" in n]


def test_archive_in_a_folder(tmp_path):
    """A file with the name of the download, or the only file; otherwise, the folder itself is read."""
    good = {n.removeprefix("raw-img/"): c for n, c in ITALIAN.items()}
    (tmp_path / "a").mkdir()
    write_zip(tmp_path / "a" / "animals10.zip", good)
    write_zip(tmp_path / "a" / "other.zip", images("x", "y"))
    write_folder(tmp_path / "a" / "z", {"1.png": png()})
    assert len(load_dataset("animals10", data_dir=tmp_path / "a").class_names) == 10
    (tmp_path / "b").mkdir()
    write_tar(tmp_path / "b" / "mine.tar.gz", good)
    assert len(load_dataset("animals10", data_dir=tmp_path / "b").class_names) == 10
    write_zip(tmp_path / "b" / "other.zip", good)
    assert "contains no images, only 2 files" in error_message("animals10", tmp_path / "b")
    write_folder(tmp_path / "c", good | {"backup.zip": b"not opened"})
    assert len(load_dataset("animals10", data_dir=tmp_path / "c").class_names) == 10


# animals10


def test_animals10(tmp_path):
    files = ITALIAN | {"translate.py": b"translate = {}"}
    loaded = {
        form: load_dataset("animals10", data_dir=path)
        for form, path in write_all(tmp_path, files, "animals10.zip", "animals10").items()
    }
    assert {d.fingerprint for d in loaded.values()} == {loaded["zip"].fingerprint}
    data = loaded["unpacked"]
    assert data.class_names == (
        *("butterfly", "cat", "chicken", "cow", "dog"),
        *("elephant", "horse", "sheep", "spider", "squirrel"),
    )
    assert data.name == "animals10"
    assert data.info is dataset_info("animals10")
    assert data.notes == ("100 images, not the 26179 of the published set",)
    assert sizes(data) == {"train": 80, "validation": 10, "test": 10}
    assert all(animals10.ENGLISH[i.split("/")[0]] == name for i, name in labels(data).items())
    for split in data.splits.values():
        assert set(split.labels) == set(range(10))
    other = load_dataset("animals10", data_dir=tmp_path / "unpacked", seed=1)
    assert other.splits["test"].ids != data.splits["test"].ids


def test_animals10_with_english_folders(tmp_path):
    files = {
        f"{animals10.ENGLISH[name.split('/')[1]]}/{name.split('/')[2]}": content
        for name, content in ITALIAN.items()
    }
    data = load_dataset("animals10", data_dir=write_folder(tmp_path, files))
    assert data.class_names[4] == "dog"


# afhq


@pytest.mark.parametrize("version", [1, 2])
def test_afhq(tmp_path, version):
    files, test_folder = [(AFHQ_1, "val"), (AFHQ_2, "test")][version - 1]
    archive = ["afhq.zip", "afhq_v2.zip"][version - 1]
    loaded = {
        form: load_dataset("afhq", data_dir=path, published_splits="keep")
        for form, path in write_all(tmp_path, files, archive, "afhq").items()
    }
    assert len({d.fingerprint for d in loaded.values()}) == 1
    data = loaded["zip"]
    assert data.class_names == ("cat", "dog", "wild")
    assert sizes(data) == {"train": 54, "validation": 6, "test": 9}
    assert {i.split("/")[0] for i in data.splits["test"].ids} == {test_folder}
    assert {i.split("/")[0] for i in data.splits["validation"].ids} == {"train"}
    assert ("val/ is the published test split" in " ".join(data.notes)) == (version == 1)
    assert data.provenance["published_parts"] == ["train", "test"]


@pytest.mark.parametrize("options", [{}, {"published_splits": "pool"}])
def test_afhq_pools_the_published_splits(tmp_path, options):
    data = load_dataset("afhq", data_dir=write_folder(tmp_path, AFHQ_1), **options)
    # 69 images in three classes, of which a tenth are 2.3 each.
    assert sizes(data) == {"train": 57, "validation": 6, "test": 6}
    assert {i.split("/")[0] for i in data.splits["train"].ids} == {"train", "val"}
    assert "the published splits are pooled and split again" in data.notes
    assert data.provenance["published_parts"] == []
    again = load_dataset("afhq", data_dir=tmp_path, seed=1, **options)
    assert again.fingerprint == data.fingerprint
    assert again.splits["test"].ids != data.splits["test"].ids


def test_published_splits_of_a_folder_can_be_pooled(tmp_path):
    root = write_folder(tmp_path, AFHQ_1)
    kept, pooled = (load_dataset(root, published_splits=choice) for choice in ("auto", "pool"))
    assert {i.split("/")[0] for i in kept.splits["validation"].ids} == {"val"}
    assert sizes(pooled) == {"train": 57, "validation": 6, "test": 6}
    with pytest.raises(InputError, match="published_splits is merge: use auto, keep or pool"):
        load_dataset(root, published_splits="merge")


@pytest.mark.parametrize("choice", ["keep", "pool"])
def test_published_splits_that_do_not_exist_are_an_error(tmp_path, choice):
    root = write_folder(tmp_path, images("cat", "dog", "wild"))
    for data in (root, "digits"):
        with pytest.raises(
            InputError, match=f"published_splits is {choice}, but these data have no"
        ):
            load_dataset(data, published_splits=choice)
    with pytest.raises(InputError, match=f"published_splits is {choice}, but these data have no"):
        load_dataset("afhq", data_dir=root, published_splits=choice)
    assert sizes(load_dataset("afhq", data_dir=root))["test"] > 0


def test_afhq_with_three_splits(tmp_path):
    files = write_folder(tmp_path, AFHQ_1 | AFHQ_2)
    data = load_dataset("afhq", data_dir=files, published_splits="keep")
    for split, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert {i.split("/")[0] for i in data.splits[split].ids} == {folder}


# afhq7

SPECIES = ("cheetah", "fox", "leopard", "lion", "tiger")
WILD = [name for name in AFHQ_1 if "/wild/" in name]


def species_list(labels=SPECIES):
    lines = [f"{name},{labels[i % len(labels)]}" for i, name in enumerate(WILD[:-2])]
    return "\n".join(["path,label", *lines, f"{WILD[-2]},", ""]).encode()


def test_afhq7_always_pools(tmp_path):
    root = write_folder(tmp_path, AFHQ_1 | {"afhq7.csv": species_list()})
    with pytest.raises(
        InputError, match="published_splits is keep, but this data set always pools"
    ):
        load_dataset("afhq7", data_dir=root, published_splits="keep")
    pooled = load_dataset("afhq7", data_dir=root, published_splits="pool")
    assert pooled.splits["test"].ids == load_dataset("afhq7", data_dir=root).splits["test"].ids


@pytest.mark.parametrize(
    "place", ["folder", "next to the zip", "folder with the zip", "in the zip"]
)
def test_afhq7(tmp_path, place):
    listed = {"afhq7.csv": species_list()}
    if place == "folder":
        data_dir = write_folder(tmp_path, below("afhq", AFHQ_1) | listed)
    elif place == "in the zip":
        data_dir = write_zip(tmp_path / "afhq.zip", AFHQ_1 | listed)
        assert "needs the species of its wild images: put a list afhq7.csv into" in error_message(
            "afhq7", data_dir
        )
        return
    else:
        write_folder(tmp_path, listed)
        archive = write_zip(tmp_path / "afhq.zip", below("afhq", AFHQ_1))
        data_dir = archive if place == "next to the zip" else tmp_path
    data = load_dataset("afhq7", data_dir=data_dir)
    assert data.class_names == ("cat", "cheetah", "dog", "fox", "leopard", "lion", "tiger")
    found = labels(data)
    for i, name in enumerate(WILD):
        assert found.get(name) == (SPECIES[i % 5] if i < len(WILD) - 2 else None)
    assert sum(name == "cat" for name in found.values()) == 23  # of both published splits
    assert data.notes == ("67 images, not the 3500 of seven full classes",)
    for split in data.splits.values():
        assert set(split.labels) == set(range(7))
    folders = {i.split("/")[0] for i in data.splits["test"].ids + data.splits["validation"].ids}
    assert folders <= {"train", "val"}
    assert data.provenance["published_parts"] == []


def test_afhq7_limits_images_per_class_by_the_seed(tmp_path, monkeypatch):
    root = write_folder(tmp_path, AFHQ_1 | {"afhq7.csv": species_list()})
    monkeypatch.setattr(afhq7, "IMAGES_PER_CLASS", 4)
    data = load_dataset("afhq7", data_dir=root)
    assert [list(labels(data).values()).count(name) for name in data.class_names] == [4] * 7
    again, other = (load_dataset("afhq7", data_dir=root, seed=seed) for seed in (0, 1))
    assert again.manifest() == data.manifest()
    assert labels(other).keys() != labels(data).keys()


def test_afhq7_list_of_file_names(tmp_path):
    files = {
        name.replace("wild/", f"wild/{'v' * name.startswith('val')}"): c
        for name, c in AFHQ_1.items()
    }
    wild = [name.split("/")[-1] for name in files if "/wild/" in name]
    lines = "".join(f"{name},{SPECIES[i % 5]}\n" for i, name in enumerate(wild)).encode()
    data = load_dataset(
        "afhq7", data_dir=write_folder(tmp_path, files | {"afhq7.csv": b"path,label\n" + lines})
    )
    assert len(labels(data)) == 69


def test_afhq7_with_species_folders(tmp_path):
    files = {
        name.replace("wild", SPECIES[i % 5]): content
        for i, (name, content) in enumerate(AFHQ_1.items())
    }
    data = load_dataset("afhq7", data_dir=write_folder(tmp_path, files))
    assert len(data.class_names) == 7
    assert len(labels(data)) == 69


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"path,label\ntrain/cat/0.png,fox\n",
            "line 2 of .*'train/cat/0.png' is not an image in wild/",
        ),
        (b"path,label\n0.png,fox\n", "'0.png' is the name of several files: use the path"),
        (b"path,label\ntrain/wild/1.png,\n", "has no labels: fill in the species"),
        (
            b"path,label\ntrain/wild/1.png,fox\ntrain/wild/1.png,lion\n",
            "line 3 of .* again: keep one",
        ),
        (species_list(SPECIES[:4]), "instead of cat, dog and 5 species: use 5, and"),
        (species_list((*SPECIES, "wolf")), "has the classes cat, cheetah, .*, wolf instead of"),
        (b"name\nx\n", "has no column path in its first line"),
    ],
)
def test_invalid_species_lists(tmp_path, content, message):
    root = write_folder(tmp_path, AFHQ_1 | {"afhq7.csv": content})
    with pytest.raises(InputError, match=message) as error:
        load_dataset("afhq7", data_dir=root)
    assert "\n" not in str(error.value)


def test_afhq7_without_a_list(tmp_path):
    message = error_message("afhq7", write_folder(tmp_path, AFHQ_1))
    assert f"put a list afhq7.csv into {tmp_path}, with the columns path,label" in message


# cats_dogs; the layout of tongpython/cat-and-dog is in test_load.py as well


def test_cats_dogs_with_junk_files(tmp_path):
    files = {
        **images("training_set/training_set/cats", "training_set/training_set/dogs", count=20),
        **images("test_set/test_set/cats", "test_set/test_set/dogs", count=4, first=5000),
        "training_set/training_set/cats/_DS_Store": b"junk",
        "test_set/test_set/dogs/_DS_Store": b"junk",
    }
    data = load_dataset("cats_dogs", data_dir=write_folder(tmp_path, files))
    assert sizes(data) == {"train": 36, "validation": 4, "test": 8}
    assert len(data.notes) == 1
    assert not data.bad_images


def test_cats_dogs_subset(tmp_path):
    files = {
        f"{split}/{name}s/{name}.{i}.jpg": png(i + number * 100, format="JPEG")
        for number, split in enumerate(("train", "test"))
        for name in ("cat", "dog")
        for i in range(10)
    }
    data = load_dataset("cats_dogs", data_dir=write_zip(tmp_path / "cats_dogs.zip", files))
    assert sizes(data) == {"train": 18, "validation": 2, "test": 20}
    assert data.class_names == ("cats", "dogs")


def zip_bytes(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "form", ["zip of zips", "folder with it", "folder of zips", "train.zip", "unpacked", "flat"]
)
def test_cats_dogs_of_the_competition(tmp_path, form):
    outer = {
        "train.zip": zip_bytes(COMPETITION),
        "test1.zip": zip_bytes(UNLABELED),
        "sampleSubmission.csv": b"id,label\n",
    }
    if form in ("zip of zips", "folder with it"):
        data_dir = write_zip(tmp_path / "dogs-vs-cats.zip", outer)
        data_dir = data_dir if form == "zip of zips" else tmp_path
    elif form in ("folder of zips", "train.zip"):
        data_dir = write_folder(tmp_path, outer)
        data_dir = data_dir / "train.zip" if form == "train.zip" else data_dir
    elif form == "unpacked":
        names = COMPETITION | UNLABELED | {"sampleSubmission.csv": b""}
        data_dir = write_folder(tmp_path / "dogs-vs-cats", names).parent
    else:
        data_dir = write_folder(tmp_path, {n.split("/")[1]: c for n, c in COMPETITION.items()})
    data = load_dataset("cats_dogs", data_dir=data_dir)
    assert data.class_names == ("cats", "dogs")
    assert sizes(data) == {"train": 32, "validation": 4, "test": 4}
    assert labels(data) == {
        f"{name}.{i}.jpg": f"{name}s" for name in ("cat", "dog") for i in range(20)
    }
    assert data.notes[0] == "40 images, not the 25000 of the published set"
    assert ("ignored 4 images without a label" in data.notes) == (form == "unpacked")
    assert any("unpacked copy" in note for note in data.notes) == (
        form in ("zip of zips", "folder with it")
    )
    image, label = data.splits["test"][0]
    assert image.shape == (6, 5, 3)


def test_cats_dogs_with_a_duplicate_name(tmp_path):
    files = COMPETITION | {"more/cat.1.jpg": png(5, format="JPEG")}
    assert "contains cat.1.jpg twice" in error_message("cats_dogs", write_folder(tmp_path, files))


def test_damaged_zips_in_a_zip(tmp_path, own_cache):
    good = zip_bytes(COMPETITION)
    path = write_zip(tmp_path / "a.zip", {"train.zip": good[:-50]})
    assert f"{path} is a damaged or incomplete zip" in error_message("cats_dogs", path)
    path = write_zip(tmp_path / "b.zip", {"train.zip": good})
    path.write_bytes(path.read_bytes().replace(good[100:110], bytes(10)))
    assert f"{path} has a damaged or encrypted train.zip (Bad CRC" in error_message(
        "cats_dogs", path
    )
    path = write_zip(tmp_path / "c.zip", {"train.zip": good})
    load_dataset("cats_dogs", data_dir=path)
    (copy,) = (c for c in (own_cache / "archives").iterdir() if c.stat().st_size == len(good))
    copy.write_bytes(good[:-50])
    load_dataset("cats_dogs", data_dir=path)
    assert copy.read_bytes() == good


def test_decompression_bomb_in_a_zip(tmp_path, monkeypatch):
    from datasets.formats import sources

    monkeypatch.setattr(sources, "FREE_BYTES", 100_000)
    bomb = {"train.zip": bytes(10_000_000)}
    path = write_zip(tmp_path / "a.zip", bomb, compression=zipfile.ZIP_DEFLATED)
    assert "to 10 MiB, too much for an archive of photographs" in error_message("cats_dogs", path)


def test_damaged_zip_of_zips(tmp_path):
    files = {"train.zip": zip_bytes(COMPETITION)}
    path = write_zip(tmp_path / "dogs-vs-cats.zip", files, compression=zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes()[:-40])
    assert "damaged or incomplete zip" in error_message("cats_dogs", path)


# pig_faces


def test_pig_faces(tmp_path):
    data = load_dataset(
        "pig_faces", data_dir=write_folder(tmp_path, images("pig10", "pig2", "pig1"))
    )
    assert data.name == "pig_faces"
    assert data.class_names == ("pig1", "pig2", "pig10")
    assert data.info.num_classes == 3
    assert data.notes == ("30 images, not the 1015 of the paper",)
    files = images("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", count=2)
    data = load_dataset("pig_faces", data_dir=write_zip(tmp_path / "pigs.zip", files))
    assert sizes(data) == {"train": 4, "validation": 4, "test": 4}
    assert data.notes == (
        "4 training, 4 validation and 4 test images, not the 684, 77 and 254 of the paper",
    )


def test_visits_stay_in_one_split(tmp_path):
    """The example in the docstring of the module."""
    files = {
        f"pig{pig}/visit{pig}{visit}_{frame:04d}.png": png(100 * pig + 10 * visit + frame)
        for pig in (1, 2)
        for visit in range(8)
        for frame in range(5)
    }
    data = load_dataset("pig_faces", data_dir=write_folder(tmp_path, files), group="(visit[0-9]+)")
    visits = [{name.split("_")[0] for name in split.ids} for split in data.splits.values()]
    assert sum(map(len, visits)) == len(set().union(*visits)) == 16
    assert all(visits)


def test_noted_counts_exclude_bad_images(tmp_path):
    files = images("a", "b", count=20) | {"a/3.png": b"damaged"}
    data = load_dataset("pig_faces", data_dir=write_folder(tmp_path, files))
    assert data.notes[0] == "39 images, not the 1015 of the paper"


def test_noted_counts_do_not_depend_on_folds_and_split_files(tmp_path):
    root = write_folder(tmp_path / "a", AFHQ_1)
    plain = load_dataset("afhq", data_dir=root)
    (tmp_path / "splits.json").write_text(json.dumps(plain.manifest()))
    for options in ({"folds": 3, "fold": 1}, {"splits_file": tmp_path / "splits.json"}):
        assert load_dataset("afhq", data_dir=root, **options).notes[0] == plain.notes[0]
