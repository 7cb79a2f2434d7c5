"""`python -m train.predict`."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from train import predict


@pytest.fixture
def photos(tmp_path):
    """A folder with twelve images, a damaged file and a text file."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    colors = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
    rng = np.random.default_rng(5)
    for number in range(1, 13):
        name = list(colors)[number % 3]
        pixels = np.clip(rng.normal(colors[name], 40, (20, 24, 3)), 0, 255).astype(np.uint8)
        folder = root if number % 2 else root / "sub"
        Image.fromarray(pixels).save(folder / f"{name}{number}.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8 and no more")
    (root / "notes.txt").write_text("not an image")
    return root


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_folder_gives_one_row_per_image_and_reports_damaged_files(small_run, photos, call):
    status, stdout, stderr = call(predict, small_run, photos)
    rows = rows_of(stdout)
    assert status == 0
    assert len(rows) == 13
    assert "1 of 13 images cannot be decoded" in stderr
    ignored = "ignored 1 file (.txt 1) without an image suffix, starting with notes.txt"
    assert f"note: {photos}: {ignored}\n" in stderr
    broken = [r for r in rows if r["error"]]
    assert [r["image"] for r in broken] == [f"{photos}/broken.jpg"]
    right = [r["class"] in r["image"].rpartition("/")[2] for r in rows if not r["error"]]
    assert np.mean(right) > 0.7
    assert all(1 / 3 <= float(r["probability"]) <= 1 for r in rows if not r["error"])


@pytest.mark.slow
def test_rows_are_in_natural_order(small_run, photos, call):
    rows = rows_of(call(predict, small_run, photos / "sub")[1])
    numbers = [int("".join(c for c in r["image"].rpartition("/")[2] if c.isdigit())) for r in rows]
    by_color = [
        (r["image"].rpartition("/")[2].rstrip("0123456789.png"), n)
        for r, n in zip(rows, numbers, strict=True)
    ]
    assert by_color == sorted(by_color)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_archive_gives_the_rows_of_the_folder(small_run, photos, tmp_path, call, kind):
    archive = shutil.make_archive(str(tmp_path / "archived"), kind, photos)
    _, from_archive, _ = call(predict, small_run, archive)
    _, from_folder, _ = call(predict, small_run, photos)
    assert from_archive.replace(str(archive), "X") == from_folder.replace(str(photos), "X")


def test_top_k_json_to_a_file_in_small_batches(small_run, photos, tmp_path, call):
    output = tmp_path / "out.json"
    given = ("--top-k", 3, "--format", "json", "--output", output, "--batch-size", 4)
    status, stdout, _ = call(predict, small_run, photos / "red3.png", photos / "sub", *given)
    assert (status, stdout) == (0, "")
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert len(rows) == 7
    for row in rows:
        probabilities = [p["probability"] for p in row["predictions"]]
        assert sorted(p["class"] for p in row["predictions"]) == ["blue", "green", "red"]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert not list(tmp_path.glob(".*"))  # no temporary file remains


def test_columns_for_top_2(small_run, photos, call):
    heading = call(predict, small_run, photos / "red3.png", "--top-k", 2)[1].splitlines()[0]
    assert heading == "image,class_1,probability_1,class_2,probability_2,error"


@pytest.mark.parametrize(
    ("images", "flags", "message"),
    [
        ([], [], "no images given: name image files, folders or archives"),
        (["nowhere.jpg"], [], "nowhere.jpg does not exist"),
        (["empty"], [], "empty contains no images"),
        (["broken.jpg"], [], "none of the 1 images could be decoded"),
        (["red3.png"], ["--top-k", 4], "--top-k is 4: use 1 to 3"),
        (["red3.png"], ["--batch-size", 0], "--batch-size is 0"),
        (["red3.png"], ["--output", "/no/such/folder/x.csv"], "its folder does not exist"),
        (["red3.png"], ["--output", "/"], "--output / is a folder"),
        (
            ["red3.png"],
            ["--output", "/proc/x.csv"],
            "--output /proc/x.csv: /proc cannot be written",
        ),
    ],
)
def test_bad_input_is_one_line_and_exits_with_2(images, flags, message, small_run, photos, call):
    (photos / "empty").mkdir()
    status, _, stderr = call(predict, small_run, *(photos / name for name in images), *flags)
    assert status == 2
    last = stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_an_output_that_fails_leaves_nothing_and_a_device_stays_a_device(
    small_run, photos, tmp_path, call, monkeypatch
):
    output = tmp_path / "out" / "x.csv"
    output.parent.mkdir()
    output.write_text("before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(predict, "_write_csv", fail)
        status, _, stderr = call(predict, small_run, photos / "red3.png", "--output", output)
    assert status == 1 and "no space left on the disk" in stderr
    assert [p.name for p in output.parent.iterdir()] == ["x.csv"]
    assert output.read_text() == "before"

    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    status, _, stderr = call(predict, small_run, photos / "red3.png", "--output", pipe)
    assert status == 0, stderr
    assert len(rows_of(os.read(reader, 9999).decode())) == 1
    os.close(reader)
    assert pipe.is_fifo()


def test_names_that_are_not_utf_8_are_shown_with_a_replacement_character(
    small_run, photos, tmp_path, call
):
    odd = photos / os.fsdecode(b"sub/caf\xe9.png")
    shutil.copy(photos / "red3.png", odd)
    output = tmp_path / os.fsdecode(b"out\xe9.csv")
    status, _, stderr = call(predict, small_run, odd, photos / "sub", "--output", output)
    assert status == 0, stderr
    shown = [row["image"] for row in rows_of(output.read_text("utf-8"))]
    assert shown.count(f"{photos}/sub/caf\N{REPLACEMENT CHARACTER}.png") == 2


def test_not_a_run(photos, call):
    status, _, stderr = call(predict, photos, photos / "red3.png")
    assert status == 2
    assert "has no trained model" in stderr


def test_help_does_not_import_jax(command_environment):
    code = "import sys; from train import cli, predict\n"
    code += "try: cli.main(predict.main)\nfinally: print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env=command_environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("False\n")
