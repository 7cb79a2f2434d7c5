"""Data sets by name: listing, metadata, options and other packages; digits and cats_dogs."""

import subprocess
import sys
import textwrap
import urllib.parse

import numpy as np
import pytest
from image_files import images, write_folder, write_zip

import datasets
from datasets import InputError, dataset_info, list_datasets, load_dataset
from zoo.common import names

BUILTIN = [
    *("afhq", "afhq7", "animals10", "cats_dogs", "cifar10", "cifar10_animals", "cifar10_domains"),
    *("digits", "pig_faces", "synthetic_pigs"),
]


def test_listing_and_info_do_not_import_heavy_packages():
    code = """
import sys, datasets
for name in datasets.list_datasets():
    datasets.dataset_info(name)
print(*sorted({"numpy", "jax", "PIL", "grain", "sklearn"} & set(sys.modules)))
"""
    environment = {"PYTHONPATH": str(datasets.__path__[0] + "/..")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", BUILTIN)
def test_info_is_complete(name):
    info = dataset_info(name)
    assert info.name == name
    assert info.description
    assert "\n" not in info.description
    assert info.source
    assert info.num_classes >= 2
    assert set(info.split_sizes) == {"train", "validation", "test"}
    assert info.synthetic == name.startswith("synthetic")
    if not info.synthetic and name != "pig_faces":  # never published
        assert urllib.parse.urlparse(info.homepage).scheme == "https"


def test_info_tells_which_data_sets_need_or_accept_files():
    needs = {name for name in BUILTIN if dataset_info(name).needs_data_dir}
    assert needs == {"afhq", "afhq7", "animals10", "cats_dogs", "pig_faces"}
    takes = {name for name in BUILTIN if dataset_info(name).takes_data_dir}
    assert takes == needs | {"cifar10", "cifar10_animals", "cifar10_domains"}
    for name in BUILTIN:
        assert ("--data-dir" in dataset_info(name).description) == (name in takes)


def test_patterns():
    assert list_datasets() == BUILTIN
    assert list_datasets("*dog*") == ["cats_dogs"]
    assert list_datasets("nothing*") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", r"unknown data set 'digit': did you mean digits\? \(or use the path"),
        ("cat_dog", "did you mean cats_dogs"),
        ("xyzzy", "unknown data set 'xyzzy': choose from afhq, afhq7, animals10, cats_dogs"),
        ("./digits", "digits does not exist: use the path"),
        ("some/where", "some/where does not exist"),
        ("photos.zip", "photos.zip does not exist"),
        ("~/no such folder", "no such folder does not exist"),
    ],
)
def test_unknown_data_set(name, message):
    with pytest.raises(InputError, match=message) as error:
        load_dataset(name)
    assert "\n" not in str(error.value)


def test_info_of_an_unknown_data_set():
    with pytest.raises(InputError, match="did you mean digits"):
        dataset_info("digitz")


def test_name_wins_over_folder(tmp_path, monkeypatch, own_cache):
    write_folder(tmp_path / "digits", images("cats", "dogs"))
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("digits").class_names) == 10
    assert load_dataset("./digits").class_names == ("cats", "dogs")
    assert load_dataset(tmp_path / "digits").class_names == ("cats", "dogs")


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """An installed package with data sets."""
    (tmp_path / "their_data.py").write_text(
        textwrap.dedent(
            """
            import datasets

            class Blanks:
                INFO = datasets.DatasetInfo("blanks", "empty cages", "a test")

                def build(self, options):
                    data = datasets.load_dataset("digits", seed=options.seed)
                    data.name = "blanks"
                    return data

            blanks = Blanks()
            digits = "not the ones of scikit-learn"
            """
        )
    )
    declared = tmp_path / "their_data-1.0.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: their-data\nVersion: 1.0\n")
    (declared / "entry_points.txt").write_text(
        "[jax_zoo.datasets]\nblanks = their_data:blanks\ndigits = their_data:digits\n"
        "nothing = their_data:digits\nlost = their_data:lost\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    names._entry_points.cache_clear()
    yield
    names._entry_points.cache_clear()
    sys.modules.pop("their_data", None)


def test_data_sets_of_other_packages(other_package):
    assert list_datasets() == sorted([*BUILTIN, "blanks", "lost", "nothing"])
    assert "their_data" not in sys.modules
    assert dataset_info("blanks").description == "empty cages"
    data = load_dataset("blanks", seed=3)
    assert (data.name, data.seed) == ("blanks", 3)


def test_builtin_data_sets_take_precedence_over_other_packages(other_package):
    assert len(load_dataset("digits").class_names) == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "'nothing' from another package is 'not the ones .*, which lacks INFO"),
        (
            "lost",
            "'lost' is declared by another package as their_data:lost, which cannot be imported",
        ),
        ("blank", "did you mean blanks"),
    ],
)
def test_invalid_data_sets_of_other_packages(other_package, name, message):
    for use in (dataset_info, load_dataset):
        with pytest.raises(InputError, match=message):
            use(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1: use 0 or more"),
        ({"validation_fraction": 0}, "validation_fraction is 0: use a fraction between 0 and 1"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"image_size": 0}, "image_size is 0: use at least 1 pixel"),
        ({"on_bad_image": "warn"}, "on_bad_image is warn: use skip or error"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(InputError, match=message):
        load_dataset("digits", **options)


# digits


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_digits_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    original = load_digits()
    assert sum(map(len, digits.splits.values())) == 1797
    for split in digits.splits.values():
        for name, (image, label) in zip(split.ids, split, strict=True):
            index = int(name.split("/")[1])
            assert label == original.target[index]
            assert name == f"{label}/{index:04d}"
            assert image.shape == (8, 8, 3)
            assert image.dtype == np.uint8
            scan = np.dstack([original.images[index]] * 3)  # 0 to 16
            np.testing.assert_allclose(image / 255 * 16, scan, atol=0.04)


def test_digits_are_split_by_class(digits):
    assert {name: len(split) for name, split in digits.splits.items()} == digits.info.split_sizes
    assert len(set().union(*(s.ids for s in digits.splits.values()))) == 1797
    for name, low, high in (("validation", 17, 19), ("test", 17, 19), ("train", 138, 147)):
        counts = np.bincount(digits.splits[name].labels)
        assert low <= counts.min() <= counts.max() <= high
    assert digits.class_names == tuple("0123456789")


@pytest.mark.slow
def test_digits_in_any_size(digits):
    large = load_dataset("digits", image_size=20)
    image, label = large.splits["test"][5]
    assert image.shape == (20, 20, 3)
    assert label == digits.splits["test"][5][1]
    assert large.fingerprint == digits.fingerprint
    assert large.manifest() == digits.manifest()
    again = load_dataset("digits", seed=1)
    assert again.fingerprint == digits.fingerprint
    assert again.splits["test"].ids != digits.splits["test"].ids


# cats_dogs

KAGGLE = {
    **images("training_set/training_set/cats", "training_set/training_set/dogs", count=20),
    **images("test_set/test_set/cats", "test_set/test_set/dogs", count=4, first=5000),
}


@pytest.mark.parametrize("place", ["folder", "zip", "download"])
def test_cats_dogs(tmp_path, own_cache, place):
    if place == "folder":
        data_dir = write_folder(tmp_path / "here", KAGGLE)
    else:
        data_dir = write_zip(tmp_path / "archive.zip", KAGGLE)
    data = load_dataset("cats_dogs", data_dir=tmp_path if place == "download" else data_dir)
    assert data.name == "cats_dogs"
    assert data.info is dataset_info("cats_dogs")
    assert data.class_names == ("cats", "dogs")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 36,
        "validation": 4,
        "test": 8,
    }
    assert data.notes == (
        "40 training (with validation) and 8 test images, not the 8005 and 2023 of the published set",
    )


@pytest.mark.parametrize("data_dir", [None, "nowhere", "empty", "zip"])
def test_missing_files_of_cats_dogs(tmp_path, own_cache, data_dir):
    (tmp_path / "empty").mkdir()
    write_zip(tmp_path / "zip", images("pigs", "cows"))
    with pytest.raises(InputError) as error:
        load_dataset("cats_dogs", data_dir=data_dir and tmp_path / data_dir)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("cats_dogs")
    for text in (
        "https://www.kaggle.com/datasets/tongpython/cat-and-dog",
        "--data-dir",
        "training_set/training_set/{cats,dogs} with 4000 and 4005",
        "test_set/test_set/{cats,dogs} with 1011 and 1012",
    ):
        assert text in message


def test_split_sizes_of_cats_dogs_follow_from_the_published_ones():
    from datasets.splits import split_counts

    validation = sum(split_counts(n, {"validation": 0.1})["validation"] for n in (4000, 4005))
    assert dataset_info("cats_dogs").split_sizes == {
        "train": 8005 - validation,
        "validation": validation,
        "test": 1011 + 1012,
    }
