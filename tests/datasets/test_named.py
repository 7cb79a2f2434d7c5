"""The documents' data sets in the layouts in which they are published, in miniature; what is wrong is said."""

import dataclasses
import importlib
import io
import json
import zipfile

import pytest
from image_files import images, png, write_folder, write_tar, write_zip

from datasets import InputError, dataset_info, load_dataset
from datasets.named import afhq, afhq7, animals10
from datasets.splits import part_sizes

pytestmark = pytest.mark.usefixtures("own_cache")

ITALIAN = images(*(f"raw-img/{name}" for name in animals10.ENGLISH))
AFHQ_1 = {
    **images("train/cat", "train/dog", "train/wild", count=20),
    **images("val/cat", "val/dog", "val/wild", count=3, first=50_000),
}
AFHQ_2 = {name.replace("val/", "test/"): content for name, content in AFHQ_1.items()}
COMPETITION = {
    f"train/{name}.{i}.jpg": png(100 * place + i, format="JPEG")
    for place, name in enumerate(("cat", "dog"))
    for i in range(20)
}
UNLABELLED = {f"test1/{i}.jpg": png(900 + i, format="JPEG") for i in range(4)}
NEEDING_FILES = ["afhq", "afhq7", "animals10", "cats_dogs", "pig_faces"]


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def labels(data):
    """The class of every example by its id."""
    return {
        name: data.class_names[label]
        for split in data.splits.values()
        for name, label in zip(split.ids, split.labels, strict=True)
    }


def below(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


def refusal(name, data_dir):
    with pytest.raises(InputError) as error:
        load_dataset(name, data_dir=data_dir)
    assert "\n" not in str(error.value)
    return str(error.value)


def everywhere(tmp_path, files, archive, folder):
    """The files in all the ways that people have them."""
    wrapped = below(folder, files)
    (tmp_path / "downloads").mkdir()
    return {
        "unpacked": write_folder(tmp_path / "unpacked", files),
        "unpacked with an inner folder": write_folder(tmp_path / "inner", wrapped),
        "the inner folder twice": write_folder(tmp_path / "twice", below(folder, wrapped)),
        "zip": write_zip(tmp_path / archive, files),
        "zip with an inner folder": write_zip(tmp_path / "x.zip", wrapped),
        "folder that holds the zip": write_zip(tmp_path / "downloads" / archive, files).parent,
        "tar": write_tar(tmp_path / "x.tar.gz", wrapped),
    }


# What all have in common


@pytest.mark.parametrize("name", NEEDING_FILES)
def test_files_that_are_not_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("x")
    for place in (None, "nowhere", "empty", "text"):
        message = refusal(name, place and tmp_path / place)
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
        ("afhq7", ("a list afhq7.csv of the columns path,label", "one of 5 species")),
        ("cats_dogs", ("https://www.kaggle.com/c/dogs-vs-cats", "train/cat.0.jpg, 12500 of each")),
        ("pig_faces", ("never published", "10 individuals with 684, 77 and 254")),
    ],
)
def test_what_is_expected_is_said(name, expected):
    message = refusal(name, None)
    assert [text for text in expected if text not in message] == []


@pytest.mark.parametrize("name", ["afhq", "animals10", "cats_dogs"])
def test_other_classes(tmp_path, name):
    message = refusal(name, write_folder(tmp_path, images("pigs", "cows")))
    assert f"{name}: {tmp_path} has the classes cows, pigs instead of" in message
    assert dataset_info(name).homepage in message


@pytest.mark.parametrize("name", NEEDING_FILES)
def test_published_counts_give_the_sizes_of_the_parts(name):
    module = importlib.import_module(f"datasets.named.{name}")
    info = dataset_info(name)
    parts = module.DOWNLOAD.editions[0]
    published_test = {part: count for part, count in parts.items() if part != "train"}
    assert sum(info.split_sizes.values()) == sum(parts.values())
    assert {part: info.split_sizes[part] for part in published_test} == published_test


def test_sizes_of_the_parts_follow_from_the_classes():
    both = {"validation": 0.1, "test": 0.1}
    taken = sum(part_sizes(n, both)["test"] for n in animals10.PUBLISHED.values())
    assert animals10.INFO.split_sizes == {
        "train": 26179 - 2 * taken,
        "validation": taken,
        "test": taken,
    }
    taken = sum(part_sizes(n, {"validation": 0.1})["validation"] for n in (5153, 4739, 4738))
    assert afhq.INFO.split_sizes == {"train": 14630 - taken, "validation": taken, "test": 1500}
    assert sum(afhq.DOWNLOAD.editions[0].values()) == 16130  # as the document says
    assert part_sizes(500, both) == {"validation": 50, "test": 50}
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


def test_which_archive_of_a_folder(tmp_path):
    """One called as the download, or the only thing there; else the folder itself."""
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
    assert "holds no images, only 2 files" in refusal("animals10", tmp_path / "b")
    write_folder(tmp_path / "c", good | {"backup.zip": b"not opened"})
    assert len(load_dataset("animals10", data_dir=tmp_path / "c").class_names) == 10


# animals10


def test_animals10(tmp_path):
    files = ITALIAN | {"translate.py": b"translate = {}"}
    loaded = {
        way: load_dataset("animals10", data_dir=place)
        for way, place in everywhere(tmp_path, files, "animals10.zip", "animals10").items()
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
    files, part = [(AFHQ_1, "val"), (AFHQ_2, "test")][version - 1]
    archive = ["afhq.zip", "afhq_v2.zip"][version - 1]
    loaded = {
        way: load_dataset("afhq", data_dir=place)
        for way, place in everywhere(tmp_path, files, archive, "afhq").items()
    }
    assert len({d.fingerprint for d in loaded.values()}) == 1
    data = loaded["zip"]
    assert data.class_names == ("cat", "dog", "wild")
    assert sizes(data) == {"train": 54, "validation": 6, "test": 9}
    assert {i.split("/")[0] for i in data.splits["test"].ids} == {part}
    assert {i.split("/")[0] for i in data.splits["validation"].ids} == {"train"}
    assert ("val/ is the published test part" in " ".join(data.notes)) == (version == 1)
    assert data.provenance["published_parts"] == ["train", "test"]


def test_afhq_with_three_parts(tmp_path):
    data = load_dataset("afhq", data_dir=write_folder(tmp_path, AFHQ_1 | AFHQ_2))
    for part, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert {i.split("/")[0] for i in data.splits[part].ids} == {folder}


# afhq7

SPECIES = ("cheetah", "fox", "leopard", "lion", "tiger")
WILD = [name for name in AFHQ_1 if "/wild/" in name]


def species_list(labels=SPECIES):
    lines = [f"{name},{labels[i % len(labels)]}" for i, name in enumerate(WILD[:-2])]
    return "\n".join(["path,label", *lines, f"{WILD[-2]},", ""]).encode()


@pytest.mark.parametrize("place", ["folder", "beside the zip", "folder with the zip", "in the zip"])
def test_afhq7(tmp_path, place):
    listed = {"afhq7.csv": species_list()}
    if place == "folder":
        data_dir = write_folder(tmp_path, below("afhq", AFHQ_1) | listed)
    elif place == "in the zip":
        data_dir = write_zip(tmp_path / "afhq.zip", AFHQ_1 | listed)
        assert "needs the species of its wild images: put a list afhq7.csv into" in refusal(
            "afhq7", data_dir
        )
        return
    else:
        write_folder(tmp_path, listed)
        archive = write_zip(tmp_path / "afhq.zip", below("afhq", AFHQ_1))
        data_dir = archive if place == "beside the zip" else tmp_path
    data = load_dataset("afhq7", data_dir=data_dir)
    assert data.class_names == ("cat", "cheetah", "dog", "fox", "leopard", "lion", "tiger")
    found = labels(data)
    for i, name in enumerate(WILD):
        assert found.get(name) == (SPECIES[i % 5] if i < len(WILD) - 2 else None)
    assert sum(name == "cat" for name in found.values()) == 23  # of both published parts
    assert data.notes == ("67 images, not the 3500 of seven full classes",)
    for split in data.splits.values():
        assert set(split.labels) == set(range(7))
    mixed = {i.split("/")[0] for i in data.splits["test"].ids + data.splits["validation"].ids}
    assert mixed <= {"train", "val"}
    assert data.provenance["published_parts"] == []


def test_afhq7_is_cut_by_the_seed(tmp_path, monkeypatch):
    root = write_folder(tmp_path, AFHQ_1 | {"afhq7.csv": species_list()})
    monkeypatch.setattr(afhq7, "CUT", 4)
    data = load_dataset("afhq7", data_dir=root)
    assert [list(labels(data).values()).count(name) for name in data.class_names] == [4] * 7
    again, other = (load_dataset("afhq7", data_dir=root, seed=seed) for seed in (0, 1))
    assert again.manifest() == data.manifest()
    assert labels(other).keys() != labels(data).keys()


def test_afhq7_by_the_names_of_files(tmp_path):
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


def test_afhq7_with_folders_of_species(tmp_path):
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
            "line 2 of .*'train/cat/0.png' is no image of wild/",
        ),
        (b"path,label\n0.png,fox\n", "'0.png' is the name of several files: give the path"),
        (b"path,label\ntrain/wild/1.png,\n", "gives no image a label: fill in the species"),
        (
            b"path,label\ntrain/wild/1.png,fox\ntrain/wild/1.png,lion\n",
            "line 3 of .* again: keep one",
        ),
        (species_list(SPECIES[:4]), "instead of cat, dog and 5 species: give as many"),
        (species_list((*SPECIES, "wolf")), "has the classes cat, cheetah, .*, wolf instead of"),
        (b"name\nx\n", "has no column path in its first line"),
    ],
)
def test_lists_of_species_that_cannot_be_used(tmp_path, content, message):
    root = write_folder(tmp_path, AFHQ_1 | {"afhq7.csv": content})
    with pytest.raises(InputError, match=message) as error:
        load_dataset("afhq7", data_dir=root)
    assert "\n" not in str(error.value)


def test_afhq7_without_a_list(tmp_path):
    message = refusal("afhq7", write_folder(tmp_path, AFHQ_1))
    assert f"put a list afhq7.csv into {tmp_path}, with the columns path,label" in message


# cats_dogs; Kaggle's other layout is in test_load.py


def test_cats_dogs_with_what_lies_in_its_folders(tmp_path):
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
        f"{part}/{name}s/{name}.{i}.jpg": png(i + place * 100, format="JPEG")
        for place, part in enumerate(("train", "test"))
        for name in ("cat", "dog")
        for i in range(10)
    }
    data = load_dataset("cats_dogs", data_dir=write_zip(tmp_path / "cats_dogs.zip", files))
    assert sizes(data) == {"train": 18, "validation": 2, "test": 20}
    assert data.class_names == ("cats", "dogs")


def inner_zip(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "way", ["zip of zips", "folder with it", "folder of zips", "train.zip", "unpacked", "flat"]
)
def test_cats_dogs_of_the_competition(tmp_path, way):
    outer = {
        "train.zip": inner_zip(COMPETITION),
        "test1.zip": inner_zip(UNLABELLED),
        "sampleSubmission.csv": b"id,label\n",
    }
    if way in ("zip of zips", "folder with it"):
        data_dir = write_zip(tmp_path / "dogs-vs-cats.zip", outer)
        data_dir = data_dir if way == "zip of zips" else tmp_path
    elif way in ("folder of zips", "train.zip"):
        data_dir = write_folder(tmp_path, outer)
        data_dir = data_dir / "train.zip" if way == "train.zip" else data_dir
    elif way == "unpacked":
        names = COMPETITION | UNLABELLED | {"sampleSubmission.csv": b""}
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
    assert ("ignored 4 images without a label" in data.notes) == (way == "unpacked")
    assert any("unpacked once" in note for note in data.notes) == (
        way in ("zip of zips", "folder with it")
    )
    image, label = data.splits["test"][0]
    assert image.shape == (6, 5, 3)


def test_cats_dogs_named_alike(tmp_path):
    files = COMPETITION | {"more/cat.1.jpg": png(5, format="JPEG")}
    assert "holds cat.1.jpg twice" in refusal("cats_dogs", write_folder(tmp_path, files))


def test_damaged_zips_in_a_zip(tmp_path, own_cache):
    good = inner_zip(COMPETITION)
    path = write_zip(tmp_path / "a.zip", {"train.zip": good[:-50]})
    assert f"{path} is a damaged or incomplete zip" in refusal("cats_dogs", path)
    path = write_zip(tmp_path / "b.zip", {"train.zip": good})
    path.write_bytes(path.read_bytes().replace(good[100:110], bytes(10)))
    assert f"{path} has a damaged or encrypted train.zip (Bad CRC" in refusal("cats_dogs", path)
    path = write_zip(tmp_path / "c.zip", {"train.zip": good})
    load_dataset("cats_dogs", data_dir=path)
    (copy,) = (c for c in (own_cache / "archives").iterdir() if c.stat().st_size == len(good))
    copy.write_bytes(good[:-50])
    load_dataset("cats_dogs", data_dir=path)
    assert copy.read_bytes() == good


def test_bomb_in_a_zip(tmp_path, monkeypatch):
    from datasets.formats import sources

    monkeypatch.setattr(sources, "FREE_BYTES", 100_000)
    bomb = {"train.zip": bytes(10_000_000)}
    path = write_zip(tmp_path / "a.zip", bomb, compression=zipfile.ZIP_DEFLATED)
    assert "would unpack to 10 MiB" in refusal("cats_dogs", path)


def test_damaged_zip_of_zips(tmp_path):
    files = {"train.zip": inner_zip(COMPETITION)}
    path = write_zip(tmp_path / "dogs-vs-cats.zip", files, compression=zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes()[:-40])
    assert "damaged or incomplete zip" in refusal("cats_dogs", path)


# pig_faces


def test_pig_faces(tmp_path):
    data = load_dataset(
        "pig_faces", data_dir=write_folder(tmp_path, images("pig10", "pig2", "pig1"))
    )
    assert data.name == "pig_faces"
    assert data.class_names == ("pig1", "pig2", "pig10")
    assert data.info.num_classes == 3
    assert data.notes == ("30 images, not the 1015 of the document",)
    parts = images("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", count=2)
    data = load_dataset("pig_faces", data_dir=write_zip(tmp_path / "pigs.zip", parts))
    assert sizes(data) == {"train": 4, "validation": 4, "test": 4}
    assert data.notes == (
        "4 training, 4 validation and 4 test images, not the 684, 77 and 254 of the document",
    )


def test_visits_stay_together(tmp_path):
    """As the module's docstring says."""
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


def test_counts_are_of_images_that_can_be_decoded(tmp_path):
    files = images("a", "b", count=20) | {"a/3.png": b"spoilt"}
    data = load_dataset("pig_faces", data_dir=write_folder(tmp_path, files))
    assert data.notes[0] == "39 images, not the 1015 of the document"


def test_counts_are_those_of_the_data_however_they_are_split(tmp_path):
    root = write_folder(tmp_path / "a", AFHQ_1)
    plain = load_dataset("afhq", data_dir=root)
    (tmp_path / "splits.json").write_text(json.dumps(plain.manifest()))
    for options in ({"folds": 3, "fold": 1}, {"splits_file": tmp_path / "splits.json"}):
        assert load_dataset("afhq", data_dir=root, **options).notes[0] == plain.notes[0]
