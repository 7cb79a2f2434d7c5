"""The benchmark of image loading, on a few small images."""

import json

import pytest

from benchmarks import input_pipeline

SMALL = ("--images", "40", "--batch-size", "8", "--image-size", "48", "--rounds", "2")


@pytest.mark.slow
def test_every_loader_is_timed(tmp_path, call, capsys):
    out = tmp_path / "times.json"
    words = [*SMALL, "--num-workers", "1", "--cached-images", "320", "--out", str(out)]
    status, text, err = call(
        input_pipeline, *words, "--peers", "torchvision", "torchvision-float32"
    )
    assert status == 0, err
    record = json.loads(out.read_text())
    rows = {(row["side"], row["workers"]): row for row in record["results"]}
    for decoder in ("exact", "fast"):
        for workers in (1,):
            row = rows[f"zoo, {decoder}", workers]
            assert len(row["seconds"]) == 2 and row["images_per_second"] > 0
            assert row["peak_memory_mb"] > 50
        assert record["best"][f"zoo, {decoder}"] > 0
    # torch may be missing in this environment: this is recorded, and the other loaders are timed.
    for baseline in ("torchvision", "torchvision-float32"):
        assert {workers for name, workers in rows if name == baseline} == {0, 1}
    for (name, _), row in rows.items():
        if name.startswith("torchvision") and "error" in row:
            assert "is not installed: python -m pip" in row["error"]
    assert 0 < record["fast_deviation"]["mean"] < 5
    assert record["cached"]["ratio"] > 1
    assert "cached" in text and "fast differs from Pillow" in text
    assert str(tmp_path) not in record["command"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds is 0: use at least 1"),
        (["--num-workers", "0"], "--num-workers must have one or more counts of at least 1"),
        (["--images", "100"], "--images 100 is too few for a batch size of 64: use at least 128"),
        (["--data", "x.zip", "--peers", "torchvision"], "--data x.zip is not a folder"),
        (["--torch-python", "/nowhere"], "--torch-python /nowhere is not an executable"),
    ],
)
def test_bad_flags_are_reported_in_one_line(call, words, message):
    status, out, err = call(input_pipeline, *words)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
