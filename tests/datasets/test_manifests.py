"""Groups, folds and files of splits, as data sets come with them."""

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
    f"{pig}/visit{visit}_{frame}.png": png(1000 * place + 10 * visit + frame)
    for place, pig in enumerate(("pig1", "pig2", "pig10"))
    for visit in range(12)
    for frame in range(1 + visit % 3)
}
PARTED = images("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", count=10)


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def parts_of(data, pattern):
    """The parts in which each group is."""
    found = {}
    for part, split in data.splits.items():
        for name in split.ids:
            found.setdefault(re.search(pattern, name).group(1), set()).add(part)
    return found


def refusal(path, **options):
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
    told = r"^(.+)_" if "^" in pattern else r"(visit\d+)"
    assert all(len(parts) == 1 for parts in parts_of(data, told).values())
    assert data.class_names == ("pig1", "pig2", "pig10")
    for split in data.splits.values():
        assert set(split.labels.tolist()) == {0, 1, 2}
        assert list(split.ids) == sorted(split.ids, key=natural_key)
    assert not data.notes
    alone = load_dataset(root)
    assert any(len(parts) > 1 for parts in parts_of(alone, r"(.+)_").values())
    assert alone.fingerprint == data.fingerprint
    assert data.provenance["group"] == pattern
    groups = data.manifest()["groups"]
    assert groups == {name: re.search(told, name).group(1) for name in VISITS}
    assert "groups" in alone.manifest() and not alone.manifest()["groups"]


def test_groups_keep_to_published_parts(tmp_path):
    files = images("train/a", "train/b", "test/a", "test/b", count=12)
    data = load_dataset(write_folder(tmp_path, files), group=r"/(\d)\d*\.png")
    assert all(name.startswith("test/") for name in data.splits["test"].ids)
    pool = {k: {p for p in v if p != "test"} for k, v in parts_of(data, r"/(\d)\d*\.png").items()}
    assert all(len(parts) == 1 for parts in pool.values())
    assert sum(n.endswith("test part, the first is 0") for n in data.notes) == 1
    (of_train,) = [n for n in data.notes if "both the train and" in n]
    assert re.match(
        r"\d groups have images in both the train and the test part, the first is", of_train
    )


def in_memory(groups, options, parts=None):
    rng = np.random.default_rng(0)
    examples = [
        Example(f"{i}", i, "ab"[i % 2], parts[i] if parts else None, group)
        for i, group in enumerate(groups)
    ]
    published = tuple(p for p in ("train", "validation", "test") if parts and p in parts)
    return assemble(
        Layout(examples, ("a", "b"), published, []),
        DatasetInfo("arrays", "", ""),
        options,
        digests={e.id: f"{e.content:064x}" for e in examples},
        load=lambda example: rng.integers(0, 256, (8, 8, 3), np.uint8),
    )


def test_groups_that_come_with_the_data_win():
    groups = [f"g{i // 4}" if i < 40 else "" for i in range(60)]
    data = in_memory(groups, Options(group=r"^\d"))
    found = data.manifest()["groups"]
    assert {k: v for k, v in found.items() if int(k) < 40} == {str(i): groups[i] for i in range(40)}
    assert {found[str(i)] for i in range(40, 60)} == {"4", "5"}
    without = in_memory(groups, Options())
    assert without.manifest()["groups"] == {str(i): groups[i] for i in range(40)}
    sides = {}
    for part, split in without.splits.items():
        for group in set(split.groups) - {""}:
            assert sides.setdefault(group, part) == part


def test_patterns_that_find_nothing_are_refused(tmp_path):
    root = write_folder(tmp_path, VISITS | {"pig2/portrait.png": png(7)})
    for pattern in (r"visit(\d+)", r"visit\d+", r"(visit\d+)?", "x*"):
        message = refusal(root, group=pattern)
        first = "pig1/visit0_0.png" if pattern == "x*" else "pig2/portrait.png"
        if pattern == r"(visit\d+)?":
            first = "pig1/visit0_0.png"
        assert f"the group pattern {pattern!r} finds nothing in {first}: give one" in message
    assert "group '(' is not a valid regular expression: missing )" in refusal(root, group="(")


def test_groups_that_are_whole_classes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.formats.examples.verify", lambda *_: pytest.fail("decoded first"))
    message = refusal(write_folder(tmp_path, VISITS), group="^[^/]+")
    assert (
        "class pig1 has one group, pig1, which cannot be split into train and validation" in message
    )


def test_groups_of_one_image_are_noted(tmp_path):
    data = load_dataset(write_folder(tmp_path, VISITS), group=".+")
    assert data.notes == ("each group has one image: they keep nothing together",)


def test_class_that_a_part_lacks_is_noted(tmp_path):
    data = load_dataset(write_folder(tmp_path, images("a", "b") | images("c", count=2, first=9000)))
    assert data.notes == ("the validation part has no images of c: too few to go round",)


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
            assert all(len(parts) == 1 for parts in parts_of(data, group).values())
    assert folds[1].provenance["fold"] == 1
    assert load_dataset(root, folds=3, seed=1).splits["test"].ids != folds[0].splits["test"].ids


def test_published_test_part_is_kept_by_folds(tmp_path):
    root = write_folder(tmp_path, PARTED)
    folds = [load_dataset(root, folds=4, fold=fold) for fold in range(4)]
    for data in folds:
        assert sizes(data) == {"train": 30, "validation": 10, "test": 20}
        assert all(name.startswith("test/") for name in data.splits["test"].ids)
    validated = [name for data in folds for name in data.splits["validation"].ids]
    assert sorted(validated) == sorted(name for name in PARTED if not name.startswith("test/"))
    assert folds[2].notes == (
        "the published test part is kept: fold 2 (of 0 to 3) is the validation part",
        "the published validation part is pooled with the training part into folds",
    )


def test_published_validation_part_joins_the_folds(tmp_path):
    files = {name: content for name, content in PARTED.items() if not name.startswith("test/")}
    data = load_dataset(write_folder(tmp_path, files), folds=2, fold=1, validation_fraction=0.2)
    assert sizes(data) == {"train": 16, "validation": 4, "test": 20}
    assert len(data.notes) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds is 1: give 2 or more, or 0 for none"),
        ({"folds": -3}, "folds is -3"),
        ({"fold": 1}, "fold is 1: give folds, too"),
        ({"folds": 3, "fold": 3}, "fold is 3: give 0 to 2"),
        ({"folds": 3, "fold": -1}, "fold is -1: give 0 to 2"),
        ({"folds": 3, "splits_file": "x"}, "splits_file leaves nothing to make folds of"),
        ({"folds": 1000}, "images cannot make 1000 folds: give at most"),
        ({"folds": 30, "group": "^(.+)_"}, "class pig1 .*|36 groups cannot make|leave none for"),
    ],
)
def test_folds_that_cannot_be(tmp_path, options, message):
    if options.get("folds") == 30:
        options = options | {"folds": 37}
    assert re.search(message, refusal(write_folder(tmp_path, VISITS), **options))


# Files of splits


@pytest.fixture
def written(tmp_path):
    """A folder of visits, and its splits as a run writes them."""
    root = write_folder(tmp_path / "pigs", VISITS)
    data = load_dataset(root, seed=3, group=r"^(.+)_")
    path = tmp_path / "run" / "splits.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data.manifest()))
    return root, path, data


def edited(path, edit):
    """The file after a change of its content."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def same(ours, theirs):
    assert ours.class_names == theirs.class_names
    for name, split in theirs.splits.items():
        assert ours.splits[name].ids == split.ids
        assert ours.splits[name].labels.tolist() == split.labels.tolist()


def test_manifest_is_read_back(written, tmp_path):
    root, path, data = written
    archive = write_zip(tmp_path / "pigs.zip", {f"wrapped/{k}": v for k, v in VISITS.items()})
    for source in (root, archive):
        for file in (path, path.parent, str(path)):
            again = load_dataset(source, splits_file=file)
            same(again, data)
            assert again.fingerprint == data.fingerprint
            assert not again.notes
            ours, theirs = again.manifest(), data.manifest()
            fields = ("format", "splits", "sha256", "groups", "class_names")
            assert {k: ours[k] for k in fields} == {k: theirs[k] for k in fields}
    assert again.provenance["splits_file"] == str(path)
    assert again.provenance["split_fractions"] == {}


def test_manifest_holds_hash_and_group_of_each_image(written):
    import hashlib

    manifest = json.loads(written[1].read_text())
    assert manifest["format"] == 2
    assert manifest["sha256"] == {k: hashlib.sha256(v).hexdigest() for k, v in VISITS.items()}
    assert manifest["groups"] == {k: k.split("_")[0] for k in VISITS}
    assert manifest["class_names"] == ["pig1", "pig2", "pig10"]


def test_order_of_classes_and_images_is_the_files(written):
    root, path, data = written

    def turn(content):
        content["class_names"].reverse()
        content["splits"] = {
            part: {name: 2 - label for name, label in reversed(labels.items())}
            for part, labels in content["splits"].items()
        }

    edited(path, turn)
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
    edited(path, lambda content: [content.pop(k) for k in ("format", "sha256", "groups")])
    same(load_dataset(root, splits_file=path), data)
    (root / "pig1/visit0_0.png").write_bytes(png(77))  # who could tell
    same(load_dataset(root, splits_file=path), data)
    edited(path, lambda content: [content.pop(k) for k in set(content) - {"splits"}])
    same(load_dataset(root, splits_file=path), data)


def test_images_that_a_file_does_not_name_are_left_out(written, monkeypatch):
    root, path, data = written
    write_folder(root, {"pig1/new.png": png(1), "pig2/bad.png": b"", "pig3/new.png": png(2)})
    again = load_dataset(root, splits_file=path, on_bad_image="error")
    same(again, data)
    assert again.fingerprint == data.fingerprint
    assert again.notes == (f"left out 3 images that {path} does not name",)
    assert not again.bad_images


def test_parts_of_a_file_win_over_published_ones(tmp_path):
    root = write_folder(tmp_path / "data", PARTED)
    manifest = load_dataset(root).manifest()
    moved = next(iter(manifest["splits"]["test"]))
    manifest["splits"]["train"][moved] = manifest["splits"]["test"].pop(moved)
    (tmp_path / "splits.json").write_text(json.dumps(manifest))
    data = load_dataset(root, splits_file=tmp_path / "splits.json")
    assert data.splits["train"].ids[-1] == moved
    assert sizes(data) == {"train": 21, "validation": 20, "test": 19}


def test_groups_across_the_parts_of_a_file_are_noted(written):
    root, path, _ = written
    data = load_dataset(root, seed=3)
    path.write_text(json.dumps(data.manifest()))
    assert any(
        "groups have images in both" in note
        for note in load_dataset(root, splits_file=path, group="^(.+)_").notes
    )
    assert not load_dataset(root, splits_file=path).notes


def test_other_kinds_of_data_take_files_of_splits(tmp_path):
    digits = load_dataset("digits", seed=4)
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(digits.manifest()))
    same(load_dataset("digits", seed=0, splits_file=path), digits)
    arrays = in_memory([""] * 40, Options(seed=1))
    path.write_text(json.dumps(arrays.manifest()))
    same(in_memory([""] * 40, Options(splits_file=path)), arrays)


def test_lost_images_are_named(written):
    root, path, _ = written
    lost = [*json.loads(path.read_text())["splits"]["train"]][:2]
    for name in lost:
        (root / name).unlink()
    message = refusal(root, splits_file=path)
    assert f"names 2 images that the data lack, the first is {lost[0]}: restore them" in message


def test_spoilt_images_are_named(written):
    root, path, data = written
    name = data.splits["test"].ids[0]
    (root / name).write_bytes(b"spoilt")
    message = refusal(root, splits_file=path)
    assert f"the first is {name} (cannot be decoded: not an image in any known format)" in message


def test_changed_images_are_named(written):
    root, path, data = written
    for name in data.splits["test"].ids[:2]:
        (root / name).write_bytes(png(4711))
    first = data.splits["test"].ids[0]
    message = refusal(root, splits_file=path)
    assert f"2 images changed since {path} was written, the first is {first}: restore" in message


def drop(field):
    return lambda content: content.pop(field)


def put(**fields):
    return lambda content: content.update(fields)


def first_label(label):
    return lambda content: content["splits"]["train"].update({"pig1/visit0_0.png": label})


def both(content):
    content["splits"]["test"] |= dict([next(iter(content["splits"]["train"].items()))])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("splits"), "no JSON object with the field splits: give the splits.json of a run"),
        (put(format=3), "has format 3, and this version reads up to 2"),
        (put(format="2"), "has format '2'"),
        (put(splits=[]), "its splits are not train, validation, test"),
        (lambda c: c["splits"].pop("test"), "its splits are not train, validation, test"),
        (lambda c: c["splits"].update(test={}), "its test part is empty"),
        (lambda c: c["splits"].update(test=["a"]), "its splits.test is no object"),
        (first_label("pig1"), "its splits.train says 'pig1' of pig1/visit0_0.png"),
        (first_label(True), "its splits.train says True of"),
        (first_label(7), "pig1/visit0_0.png has label 7, which no class has"),
        (first_label(-1), "pig1/visit0_0.png has label -1"),
        (both, "is in the train and the test part"),
        (put(class_names="pigs"), "its class_names are no list of two names or more"),
        (put(class_names=["pig1"]), "its class_names are no list of two names or more"),
        (put(class_names=["a", "a", "b"]), "a name is twice in its class_names"),
        (put(sha256=[]), "its sha256 is no object"),
        (put(groups={"x": 1}), "its groups says 1 of x"),
        (
            put(class_names=["pig1", "pig10", "pig2"]),
            "has pig2/.* in class pig10, the data have it in pig2: give",
        ),
        (put(class_names=["pig1", "pig2", "pig10", "pig3"]), "no training images of class pig3"),
        (first_label(1), "has pig1/visit0_0.png in class pig2, the data have it in pig1"),
    ],
)
def test_files_that_cannot_be_used(written, edit, message):
    root, path, _ = written

    # Whatever the seed, this one is in training.
    def into_training(content):
        labels = {k: v for part in content["splits"].values() for k, v in part.items()}
        for part in content["splits"].values():
            part.pop("pig1/visit0_0.png", None)
        content["splits"]["train"]["pig1/visit0_0.png"] = labels["pig1/visit0_0.png"]

    edited(path, into_training)
    edited(path, edit)
    found = refusal(root, splits_file=path)
    assert re.search(message, found)
    assert str(path) in found


def test_label_beyond_the_datas_classes(written):
    root, path, _ = written
    edited(path, drop("class_names"))
    edited(path, lambda content: content["splits"]["test"].update({"pig1/visit1_0.png": 9}))
    edited(
        path,
        lambda content: [
            content["splits"][p].pop("pig1/visit1_0.png", 0) for p in ("train", "validation")
        ],
    )
    assert "has pig1/visit1_0.png in class number 9, the data have it in pig1" in refusal(
        root, splits_file=path
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"splits"'])
def test_files_that_are_no_manifest(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x.json cannot be used as a file of splits, no JSON"):
        read_manifest(tmp_path / "x.json")


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"there is no file of splits at .*/none.json: give the"):
        read_manifest(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"there is no file of splits at .*/splits.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("written", "edition"),
    [
        ({"edition": "lossy copy"}, "lossy copy"),
        ({"edition": "", "notes": ["a lossy copy"], "dataset": "cifar10"}, ""),
        # Of version 0.1, without the field.
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
