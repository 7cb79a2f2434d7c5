"""Groups, folds and split files."""

import json
import re

import numpy as np
import pytest
from image_files import images, png, write_folder, write_zip

from datasets import InputError, load_dataset
from datasets.dataset import DatasetInfo, Options
from datasets.formats.examples import Example, Layout, assemble, natural_key
from datasets.manifest import edition_of, read_manifest

pytestmark = pytest.mark.usefixtures("own_cache")

VISITS = {
    f"{pig}/visit{visit}_{frame}.png": png(1000 * number + 10 * visit + frame)
    for number, pig in enumerate(("pig1", "pig2", "pig10"))
    for visit in range(12)
    for frame in range(1 + visit % 3)
}
PUBLISHED = images("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", count=10)


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def splits_by_group(data, pattern):
    """Return the names of the splits that contain each group."""
    found = {}
    for split_name, split in data.splits.items():
        for name in split.ids:
            found.setdefault(re.search(pattern, name).group(1), set()).add(split_name)
    return found


def error_message(path, **options):
    with pytest.raises(InputError) as error:
        load_dataset(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Groups


@pytest.mark.parametrize("pattern", [r"^(.+)_\d+\.png$", r"(visit\d+)_", r"visit\d+(?=_)"])
def test_groups_stay_together(tmp_path, pattern):
    root = write_folder(tmp_path / "pigs", VISITS)
    data = load_dataset(root, group=pattern)
    assert sum(sizes(data).values()) == len(VISITS)
    group = r"^(.+)_" if "^" in pattern else r"(visit\d+)"
    assert all(len(splits) == 1 for splits in splits_by_group(data, group).values())
    assert data.class_names == ("pig1", "pig2", "pig10")
    for split in data.splits.values():
        assert set(split.labels.tolist()) == {0, 1, 2}
        assert list(split.ids) == sorted(split.ids, key=natural_key)
    assert not data.notes
    ungrouped = load_dataset(root)
    assert any(len(splits) > 1 for splits in splits_by_group(ungrouped, r"(.+)_").values())
    assert ungrouped.fingerprint == data.fingerprint
    assert data.provenance["group"] == pattern
    groups = data.manifest()["groups"]
    assert groups == {name: re.search(group, name).group(1) for name in VISITS}
    assert ungrouped.manifest()["groups"] == {}


def test_groups_do_not_change_published_splits(tmp_path):
    files = images("train/a", "train/b", "test/a", "test/b", count=12)
    data = load_dataset(write_folder(tmp_path, files), group=r"/(\d)\d*\.png")
    assert all(name.startswith("test/") for name in data.splits["test"].ids)
    drawn = [splits - {"test"} for splits in splits_by_group(data, r"/(\d)\d*\.png").values()]
    assert all(len(splits) == 1 for splits in drawn)
    assert sum(n.endswith("test split, starting with 0") for n in data.notes) == 1
    (of_train,) = [n for n in data.notes if "both the train and" in n]
    assert re.match(
        r"\d groups have images in both the train and the test split, starting with", of_train
    )


def in_memory(groups, options):
    rng = np.random.default_rng(0)
    examples = [Example(f"{i}", i, "ab"[i % 2], None, group) for i, group in enumerate(groups)]
    return assemble(
        Layout(examples, ("a", "b"), (), []),
        DatasetInfo("arrays", "", ""),
        options,
        digests={e.id: f"{e.content:064x}" for e in examples},
        load=lambda example: rng.integers(0, 256, (8, 8, 3), np.uint8),
    )


def test_groups_of_the_data_take_precedence():
    groups = [f"g{i // 4}" if i < 40 else "" for i in range(60)]
    data = in_memory(groups, Options(group=r"^\d"))
    found = data.manifest()["groups"]
    assert {k: v for k, v in found.items() if int(k) < 40} == {str(i): groups[i] for i in range(40)}
    assert {found[str(i)] for i in range(40, 60)} == {"4", "5"}
    without = in_memory(groups, Options())
    assert without.manifest()["groups"] == {str(i): groups[i] for i in range(40)}
    split_of = {}
    for name, split in without.splits.items():
        for group in set(split.groups) - {""}:
            assert split_of.setdefault(group, name) == name


def test_group_patterns_must_match_every_id(tmp_path):
    root = write_folder(tmp_path, VISITS | {"pig2/portrait.png": png(7)})
    for pattern in (r"visit(\d+)", r"visit\d+", r"(visit\d+)?", "x*"):
        message = error_message(root, group=pattern)
        first = "pig1/visit0_0.png" if pattern == "x*" else "pig2/portrait.png"
        if pattern == r"(visit\d+)?":
            first = "pig1/visit0_0.png"
        assert f"the group pattern {pattern!r} finds no group in {first}: use a" in message
    assert "group '(' is not a valid regular expression: missing )" in error_message(
        root, group="("
    )


def test_groups_that_are_whole_classes_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.formats.examples.verify", lambda *_: pytest.fail("decoded first"))
    message = error_message(write_folder(tmp_path, VISITS), group="^[^/]+")
    assert "class pig1 (like 2 more classes) has only one group, pig1, which cannot be" in message
    assert "split into train, validation and test: add groups, or remove the class" in message


def test_groups_of_one_image_are_noted(tmp_path):
    data = load_dataset(write_folder(tmp_path, VISITS), group=".+")
    assert data.notes == ("each group has only one image, so grouping has no effect",)


def test_class_missing_from_a_split_is_noted(tmp_path):
    data = load_dataset(write_folder(tmp_path, images("a", "b") | images("c", count=2, first=9000)))
    assert data.notes == ("the validation split has no images of c: there are too few",)


# Folds


@pytest.mark.parametrize("group", [None, r"^(.+)_"])
def test_folds_test_every_image_once(tmp_path, group):
    root = write_folder(tmp_path, VISITS)
    folds = [load_dataset(root, folds=3, fold=fold, group=group) for fold in range(3)]
    tested = [name for data in folds for name in data.splits["test"].ids]
    assert sorted(tested) == sorted(VISITS)
    assert len({data.fingerprint for data in folds}) == 1
    for data in folds:
        assert sum(sizes(data).values()) == len(VISITS)
        assert len(data.splits["validation"]) >= 3
        assert not data.notes
        assert data.provenance["folds"] == 3
        if group:
            assert all(len(splits) == 1 for splits in splits_by_group(data, group).values())
    assert folds[1].provenance["fold"] == 1
    assert load_dataset(root, folds=3, seed=1).splits["test"].ids != folds[0].splits["test"].ids


def test_folds_keep_the_published_test_split(tmp_path):
    root = write_folder(tmp_path, PUBLISHED)
    folds = [load_dataset(root, folds=4, fold=fold) for fold in range(4)]
    for data in folds:
        assert sizes(data) == {"train": 30, "validation": 10, "test": 20}
        assert all(name.startswith("test/") for name in data.splits["test"].ids)
    validated = [name for data in folds for name in data.splits["validation"].ids]
    assert sorted(validated) == sorted(name for name in PUBLISHED if not name.startswith("test/"))
    assert folds[2].notes == (
        "the published test split is kept; fold 2 (of 0 to 3) is the validation split",
        "the published training and validation splits are merged into folds",
    )


def test_published_validation_images_join_the_folds(tmp_path):
    files = {name: content for name, content in PUBLISHED.items() if not name.startswith("test/")}
    data = load_dataset(write_folder(tmp_path, files), folds=2, fold=1, validation_fraction=0.2)
    assert sizes(data) == {"train": 16, "validation": 4, "test": 20}
    assert len(data.notes) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds is 1: use 2 or more, or 0 for none"),
        ({"folds": -3}, "folds is -3"),
        ({"fold": 1}, "fold is 1: use folds as well"),
        ({"folds": 3, "fold": 3}, "fold is 3: use 0 to 2"),
        ({"folds": 3, "fold": -1}, "fold is -1: use 0 to 2"),
        ({"folds": 3, "splits_file": "x"}, "splits_file and folds are mutually exclusive"),
        ({"folds": 1000}, "images cannot be split into 1000 folds: use at most"),
        ({"folds": 37, "group": "^(.+)_"}, "36 groups cannot be split into 37 folds"),
    ],
)
def test_invalid_folds(tmp_path, options, message):
    assert re.search(message, error_message(write_folder(tmp_path, VISITS), **options))


# Split files


@pytest.fixture
def written(tmp_path):
    """A folder of visits, its splits file as a run writes it, and the data set."""
    root = write_folder(tmp_path / "pigs", VISITS)
    data = load_dataset(root, seed=3, group=r"^(.+)_")
    path = tmp_path / "run" / "splits.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data.manifest()))
    return root, path, data


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def assert_same_splits(actual, expected):
    assert actual.class_names == expected.class_names
    for name, split in expected.splits.items():
        assert actual.splits[name].ids == split.ids
        assert actual.splits[name].labels.tolist() == split.labels.tolist()


def test_manifest_is_read_back(written, tmp_path):
    root, path, data = written
    archive = write_zip(tmp_path / "pigs.zip", {f"wrapped/{k}": v for k, v in VISITS.items()})
    for source in (root, archive):
        for file in (path, path.parent, str(path)):
            again = load_dataset(source, splits_file=file)
            assert_same_splits(again, data)
            assert again.fingerprint == data.fingerprint
            assert not again.notes
            actual, expected = again.manifest(), data.manifest()
            for field in ("format", "splits", "sha256", "groups", "class_names"):
                assert actual[field] == expected[field]
    assert again.provenance["splits_file"] == str(path)
    assert again.provenance["split_fractions"] == {}


def test_manifest_has_hash_and_group_of_each_image(written):
    import hashlib

    manifest = json.loads(written[1].read_text())
    assert manifest["format"] == 2
    assert manifest["sha256"] == {k: hashlib.sha256(v).hexdigest() for k, v in VISITS.items()}
    assert manifest["groups"] == {k: k.split("_")[0] for k in VISITS}
    assert manifest["class_names"] == ["pig1", "pig2", "pig10"]


def test_order_of_classes_and_images_is_that_of_the_file(written):
    root, path, data = written

    def reverse(content):
        content["class_names"].reverse()
        content["splits"] = {
            split: {name: 2 - label for name, label in reversed(labels.items())}
            for split, labels in content["splits"].items()
        }

    edit_json(path, reverse)
    again = load_dataset(root, splits_file=path)
    assert again.class_names == ("pig10", "pig2", "pig1")
    assert again.splits["test"].ids == data.splits["test"].ids[::-1]
    assert again.splits["test"].labels.tolist() == [2 - n for n in data.splits["test"].labels[::-1]]
    for split in again.splits.values():
        assert all(
            i.startswith(again.class_names[n] + "/")
            for i, n in zip(split.ids, split.labels, strict=True)
        )
    assert again.fingerprint == data.fingerprint


def test_old_files_without_hashes_are_read(written):
    root, path, data = written
    edit_json(path, lambda content: [content.pop(k) for k in ("format", "sha256", "groups")])
    assert_same_splits(load_dataset(root, splits_file=path), data)
    (root / "pig1/visit0_0.png").write_bytes(png(77))  # cannot be detected
    assert_same_splits(load_dataset(root, splits_file=path), data)
    edit_json(path, lambda content: [content.pop(k) for k in set(content) - {"splits"}])
    assert_same_splits(load_dataset(root, splits_file=path), data)


def test_images_missing_from_the_file_are_left_out(written, monkeypatch):
    root, path, data = written
    write_folder(root, {"pig1/new.png": png(1), "pig2/bad.png": b"", "pig3/new.png": png(2)})
    again = load_dataset(root, splits_file=path, on_bad_image="error")
    assert_same_splits(again, data)
    assert again.fingerprint == data.fingerprint
    assert again.notes == (f"left out 3 images not listed in {path}",)
    assert not again.bad_images


def test_split_file_overrides_published_splits(tmp_path):
    root = write_folder(tmp_path / "data", PUBLISHED)
    manifest = load_dataset(root).manifest()
    moved = next(iter(manifest["splits"]["test"]))
    manifest["splits"]["train"][moved] = manifest["splits"]["test"].pop(moved)
    (tmp_path / "splits.json").write_text(json.dumps(manifest))
    data = load_dataset(root, splits_file=tmp_path / "splits.json")
    assert data.splits["train"].ids[-1] == moved
    assert sizes(data) == {"train": 21, "validation": 20, "test": 19}


def test_groups_across_the_splits_of_a_file_are_noted(written):
    root, path, _ = written
    data = load_dataset(root, seed=3)
    path.write_text(json.dumps(data.manifest()))
    assert any(
        "groups have images in both" in note
        for note in load_dataset(root, splits_file=path, group="^(.+)_").notes
    )
    assert not load_dataset(root, splits_file=path).notes


def test_split_files_for_digits_and_arrays(tmp_path):
    digits = load_dataset("digits", seed=4)
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(digits.manifest()))
    assert_same_splits(load_dataset("digits", seed=0, splits_file=path), digits)
    arrays = in_memory([""] * 40, Options(seed=1))
    path.write_text(json.dumps(arrays.manifest()))
    assert_same_splits(in_memory([""] * 40, Options(splits_file=path)), arrays)


def test_missing_images_are_named(written):
    root, path, _ = written
    missing = [*json.loads(path.read_text())["splits"]["train"]][:2]
    for name in missing:
        (root / name).unlink()
    message = error_message(root, splits_file=path)
    assert f"names 2 images missing from the data, starting with {missing[0]}, listed in" in message


def test_damaged_images_are_named(written):
    root, path, data = written
    name = data.splits["test"].ids[0]
    (root / name).write_bytes(b"damaged")
    message = error_message(root, splits_file=path)
    assert f"starting with {name} (cannot be decoded: not an image in any known format)" in message


def test_changed_images_are_named(written):
    root, path, data = written
    for name in data.splits["test"].ids[:2]:
        (root / name).write_bytes(png(4711))
    first = data.splits["test"].ids[0]
    message = error_message(root, splits_file=path)
    assert f"2 images changed since {path} was written, starting with {first}, listed in" in message


def remove(field):
    return lambda content: content.pop(field)


def replace(**fields):
    return lambda content: content.update(fields)


def set_label(label):
    return lambda content: content["splits"]["train"].update({"pig1/visit0_0.png": label})


def repeat_in_test(content):
    content["splits"]["test"] |= dict([next(iter(content["splits"]["train"].items()))])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (remove("splits"), "it is not a JSON object with the field splits: use the splits.json"),
        (replace(format=3), "has format 3, but this version reads formats up to 2"),
        (replace(format="2"), "has format '2'"),
        (replace(splits=[]), "its splits are not train, validation, test"),
        (lambda c: c["splits"].pop("test"), "its splits are not train, validation, test"),
        (lambda c: c["splits"].update(test={}), "its test split is empty"),
        (lambda c: c["splits"].update(test=["a"]), "its splits.test is not an object"),
        (set_label("pig1"), "its splits.train has 'pig1' for pig1/visit0_0.png"),
        (set_label(True), "its splits.train has True for"),
        (set_label(7), "pig1/visit0_0.png has label 7, which is not a class"),
        (set_label(-1), "pig1/visit0_0.png has label -1"),
        (repeat_in_test, "is in both train and test"),
        (replace(class_names="pigs"), "its class_names are not a list of at least two names"),
        (replace(class_names=["pig1"]), "its class_names are not a list of at least two names"),
        (replace(class_names=["a", "a", "b"]), "its class_names contain a name twice"),
        (replace(sha256=[]), "its sha256 is not an object"),
        (replace(groups={"x": 1}), "its groups has 1 for x"),
        (
            replace(class_names=["pig1", "pig10", "pig2"]),
            "has pig2/.* in class pig10, but the data have it in pig2: use the split file of",
        ),
        (
            replace(class_names=["pig1", "pig2", "pig10", "pig3"]),
            "no training images of class pig3",
        ),
        (set_label(1), "has pig1/visit0_0.png in class pig2, but the data have it in pig1"),
    ],
)
def test_invalid_split_files(written, edit, message):
    root, path, _ = written

    def move_to_training(content):
        labels = {k: v for split in content["splits"].values() for k, v in split.items()}
        for split in content["splits"].values():
            split.pop("pig1/visit0_0.png", None)
        content["splits"]["train"]["pig1/visit0_0.png"] = labels["pig1/visit0_0.png"]

    edit_json(path, move_to_training)
    edit_json(path, edit)
    found = error_message(root, splits_file=path)
    assert re.search(message, found)
    assert str(path) in found


def test_label_beyond_the_classes_of_the_data(written):
    root, path, _ = written
    edit_json(path, remove("class_names"))
    edit_json(path, lambda content: content["splits"]["test"].update({"pig1/visit1_0.png": 9}))
    edit_json(
        path,
        lambda content: [
            content["splits"][p].pop("pig1/visit1_0.png", 0) for p in ("train", "validation")
        ],
    )
    assert "has pig1/visit1_0.png in class number 9, but the data have it in pig1" in error_message(
        root, splits_file=path
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"splits"'])
def test_files_that_are_not_manifests(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    message = r"x.json cannot be used as a split file, it is not (valid JSON|a JSON object)"
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "x.json")


def test_missing_split_file(tmp_path):
    with pytest.raises(InputError, match=r"there is no split file at .*/none.json: use the"):
        read_manifest(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"there is no split file at .*/splits.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("written", "edition"),
    [
        ({"edition": "lossy copy"}, "lossy copy"),
        ({"edition": "", "notes": ["a lossy copy"], "dataset": "cifar10"}, ""),
        # As written by version 0.1, without the field.
        (
            {"dataset": "cifar10", "notes": ["JPEG files, a lossy copy of the published"]},
            "lossy copy",
        ),
        ({"dataset": "cifar10", "notes": []}, "repacked"),
        ({"dataset": "afhq", "notes": []}, ""),
        ({}, ""),
    ],
)
def test_edition_of_new_and_old_manifests(written, edition):
    splits = {"train": {"train/frog/0001.png": 0}, "validation": {}, "test": {}}
    assert edition_of({"splits": splits} | written) == edition


def test_edition_of_an_old_manifest_of_the_published_batches():
    assert edition_of({"dataset": "cifar10", "splits": {"train": {"train/frog/0": 0}}}) == ""
