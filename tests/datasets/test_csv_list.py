"""A .csv that lists images as a data set, and errors that name the line."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from image_files import images, png, write_folder, write_tar, write_zip

from datasets import InputError, load_dataset
from datasets.dataset import Options
from datasets.formats.csv_list import load_csv

pytestmark = pytest.mark.usefixtures("own_cache")

FILES = images("a", "b", count=10)
LABELS = {name: "cats" if name.startswith("a") else "dogs" for name in FILES}


def write(path, *lines, head="path,label", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *lines, ""]), encoding=encoding)
    return path


def listing(path):
    return write(path, *(f"{name},{label}" for name, label in LABELS.items()))


def labels(data):
    return {
        name: data.class_names[label]
        for split in data.splits.values()
        for name, label in zip(split.ids, split.labels, strict=True)
    }


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def error_message(path, **options):
    with pytest.raises(InputError) as error:
        load_dataset(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("place", ["beside", "folder", "zip", "tar"])
def test_list_of_images(tmp_path, place):
    data_dir = None
    if place == "beside":
        write_folder(tmp_path, FILES | {"not listed/1.png": b"not read"})
    elif place == "folder":
        data_dir = write_folder(tmp_path / "elsewhere", FILES)
    else:
        writer = write_zip if place == "zip" else write_tar
        data_dir = writer(tmp_path / f"x.{place}", FILES | {"not listed.png": b""})
    path = listing(tmp_path / "pets.csv")
    data = load_dataset(path, data_dir=data_dir)
    assert data.name == "pets"
    assert data.class_names == ("cats", "dogs")
    assert labels(data) == LABELS
    assert sizes(data) == {"train": 16, "validation": 2, "test": 2}
    assert data.provenance["list"] == str(path)
    assert not [note for note in data.notes if "unpacked" not in note]
    np.testing.assert_array_equal(data.splits["test"][0][0].shape, (6, 5, 3))


def test_data_do_not_depend_on_where_the_images_are(tmp_path):
    path = listing(tmp_path / "pets.csv")
    places = (
        write_folder(tmp_path / "x", FILES),
        write_zip(tmp_path / "x.zip", FILES),
        write_tar(tmp_path / "x.tar", FILES, "w"),
    )
    loaded = [load_dataset(path, data_dir=place) for place in places]
    assert len({data.fingerprint for data in loaded}) == 1
    assert len({str(data.manifest()["splits"]) for data in loaded}) == 1


def test_columns_in_any_order_and_format(tmp_path):
    """Including files written by Excel: with a byte-order mark, and semicolons."""
    write_folder(tmp_path, FILES)
    rows = [f"{LABELS[name]};note;{name};1" for name in FILES]
    path = write(tmp_path / "a.csv", *rows, "", head="Label;x;PATH ;y", encoding="utf-8-sig")
    assert labels(load_dataset(path)) == LABELS


def test_order_of_lines_does_not_matter(tmp_path):
    write_folder(tmp_path, FILES)
    rows = [f"{name},{label}" for name, label in LABELS.items()]
    data, other = (load_dataset(write(tmp_path / "a.csv", *r)) for r in (rows, rows[::-1]))
    assert data.splits["train"].ids == other.splits["train"].ids


def test_splits_are_kept(tmp_path):
    write_folder(tmp_path, FILES)
    splits = ["training", "Val", "test", "train", "train"] * 4
    rows = [f"{n},{LABELS[n]},{split}" for n, split in zip(FILES, splits, strict=True)]
    data = load_dataset(write(tmp_path / "a.csv", *rows, head="path,label,split"))
    assert sizes(data) == {"train": 12, "validation": 4, "test": 4}
    for split, text in (("validation", "Val"), ("test", "test")):
        listed = {name for name, s in zip(FILES, splits, strict=True) if s == text}
        assert set(data.splits[split].ids) == listed
    assert data.provenance["published_parts"] == ["train", "validation", "test"]
    rows = [f"{n},{LABELS[n]},{'test' if '/3' in n else 'train'}" for n in FILES]
    data = load_dataset(write(tmp_path / "b.csv", *rows, head="path,label,split"))
    assert sizes(data) == {"train": 16, "validation": 2, "test": 2}
    assert all("/3" in name for name in data.splits["test"].ids)


def test_empty_split_column_is_ignored(tmp_path):
    write_folder(tmp_path, FILES)
    rows = [f"{name},{LABELS[name]}," for name in FILES]
    data = load_dataset(write(tmp_path / "a.csv", *rows, head="path,label,split"))
    assert data.provenance["published_parts"] == []


def test_groups_are_passed_to_the_examples(tmp_path, monkeypatch):
    from datasets.formats import csv_list

    groups = {}
    monkeypatch.setattr(
        csv_list,
        "load_files",
        lambda source, layout, *_: groups.update({e.id: e.group for e in layout.examples}) or 1 / 0,
    )
    write_folder(tmp_path, FILES)
    rows = [f"{name},{LABELS[name]},visit{name[2]}" for name in FILES]
    with pytest.raises(ZeroDivisionError):
        load_csv(write(tmp_path / "a.csv", *rows, head="path,label,group"), Options())
    assert groups == {name: f"visit{name[2]}" for name in FILES}


def test_accents_and_windows_paths(tmp_path):
    accented = {name.replace("a/", "café/"): content for name, content in FILES.items()}
    on_disk = {unicodedata.normalize("NFD", n): c for n, c in accented.items()}
    path = write(
        tmp_path / "a.csv",
        *(f"{name.replace('/', chr(92))},{name[0]}" for name in accented),
    )
    for place in (write_folder(tmp_path / "x", on_disk), write_zip(tmp_path / "x.zip", on_disk)):
        assert set(labels(load_dataset(path, data_dir=place))) == set(accented)


def test_classes_are_names_in_natural_order(tmp_path):
    write_folder(tmp_path, FILES)
    rows = [f"{name},{10 if name[0] == 'a' else 9}" for name in FILES]
    assert load_dataset(write(tmp_path / "a.csv", *rows)).class_names == ("9", "10")


def test_bad_images_are_left_out(tmp_path):
    files = {name: png(i) for i, name in enumerate(f"x/{i}" for i in range(40))}
    write_folder(tmp_path, files | {"x/3": b"", "x/folder/y": b""})
    rows = [f"{name},{i % 2}" for i, name in enumerate(files)]
    data = load_dataset(write(tmp_path / "a.csv", *rows, "x/folder,1"))
    assert [bad.id for bad in data.bad_images] == ["x/3", "x/folder"]


ROWS = [f"{name},{label}" for name, label in LABELS.items()]


@pytest.mark.parametrize(
    ("lines", "head", "message"),
    [
        (
            [*ROWS, "a/99.png,cats"],
            None,
            "lists 1 image missing from {root}, starting with 'a/99.png' in line 22:",
        ),
        (
            ["c/1.png,cats", *ROWS, "a/99.png,cats"],
            None,
            "lists 2 images missing from {root}, starting with 'c/1.png' in line 2, listed in ",
        ),
        ([*ROWS, ROWS[0]], None, "lists 'a/0.png' twice, in lines 2 and 22: keep one of them"),
        ([*ROWS, "./a//0.png,dogs"], None, "lists 'a/0.png' twice, in lines 2 and 22"),
        (
            ["../x.png,cats"],
            None,
            "line 2 of {path} has the path '../x.png', which is outside {root}",
        ),
        (["a/../../x.png,cats"], None, "is outside {root}: use paths relative to the list"),
        (["/etc/passwd,cats"], None, "has the path '/etc/passwd', which is outside"),
        (["C:\\x.png,cats"], None, "has the path 'C:\\\\x.png', which is outside"),
        ([*ROWS, "a/9.png,"], None, "line 22 of {path} has no label: correct or remove it"),
        ([*ROWS, "a/9.png"], None, "line 22 of {path} has no label"),
        ([",cats"], None, "line 2 of {path} has no path"),
        (["a/1.png,big, cats"], None, "line 2 of {path} has 3 cells for 2 columns: correct or"),
        (
            ROWS,
            "file,label",
            "has no column path in its first line: begin it with path,label and optionally split,group",
        ),
        (ROWS, "file,class", "has no column path and no column label in its first line"),
        ([], None, "has no lines after the header: list one image per line"),
        (
            ['a/1.png,"cats'],
            None,
            "is not a valid .csv (unexpected end of data): save it again",
        ),
        (ROWS[:10], None, "has only one class, cats: a classifier needs at least two"),
        (
            [*(f"{row},train" for row in ROWS[1:]), f"{ROWS[0]},dev"],
            "path,label,split",
            "line 21 of {path} has the split 'dev': use train, validation or test",
        ),
        (
            [*(f"{row},train" for row in ROWS[1:]), f"{ROWS[0]},"],
            "path,label,split",
            "line 21 of {path} has no split, but other lines have one: fill it in, or leave all empty",
        ),
        (
            [f"{row},test" for row in ROWS],
            "path,label,split",
            "{path} has test images, but no training images: add some",
        ),
        (
            [*(f"{row},train" for row in ROWS), "c/1.png,pigs,test"],
            "path,label,split",
            "the test split of {path} has pigs, missing from the training split: use the same class",
        ),
    ],
)
def test_invalid_lists(tmp_path, lines, head, message):
    root = write_folder(
        tmp_path, FILES | ({"c/1.png": png()} if "c/1.png,pigs,test" in lines else {})
    )
    path = write(root / "a.csv", *lines, head=head or "path,label")
    assert message.format(path=path, root=root) in error_message(path)


def test_files_that_are_not_lists(tmp_path):
    assert "does not exist: use the path of a .csv" in error_message(tmp_path / "no.csv")
    assert "no.csv does not exist" in error_message("no.csv")
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe\n")
    assert "is not encoded in UTF-8: save it in UTF-8" in error_message(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"")
    assert "has no column path and no column label" in error_message(tmp_path / "a.csv")


def test_missing_images(tmp_path):
    path = listing(tmp_path / "a.csv")
    assert "nowhere does not exist" in error_message(path, data_dir=tmp_path / "nowhere")
    assert "lists 20 images missing from" in error_message(path)


def test_list_with_a_relative_path(tmp_path, monkeypatch):
    write_folder(tmp_path, FILES)
    listing(tmp_path / "a.csv")
    monkeypatch.chdir(tmp_path)
    assert labels(load_dataset("a.csv")) == LABELS
    assert labels(load_dataset(Path("a.csv"))) == LABELS


def test_folder_named_csv_is_a_folder(tmp_path):
    assert load_dataset(write_folder(tmp_path / "a.csv", FILES)).class_names == ("a", "b")
