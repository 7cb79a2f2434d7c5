import json

import pytest

from benchmarks import epoch
from benchmarks.workers import worker_command

FAKE = worker_command("tests.benchmarks.fake_worker")


def measure(baseline, **options):
    arguments = epoch.Arguments(
        images=256, rounds=2, feeds=("streamed",), peers=("torch",), **options
    )
    return epoch.measure(arguments, {"zoo": [*FAKE, "Fake"], "torch": [*FAKE, baseline]})


def test_all_implementations_are_timed(image_folder):
    record = measure("Slower", data=image_folder, num_workers=(0, 1))
    zoo, *baselines = record["results"]
    assert (zoo["epoch_seconds"], zoo["samples_per_sec"]) == (1.0, 64.0)
    assert zoo["seconds"] == [1.0, 1.0] and zoo["losses"] == [0.5, 0.5]
    assert [row["num_workers"] for row in baselines] == [0, 1]
    assert record["speedups"] == {"streamed over torch": 3.0}
    assert record["data"] == "pens"


def test_speedup_is_over_the_fastest_number_of_workers():
    rows = [
        {"side": "zoo", "feed": "cached", "epoch_seconds": 2.0, "seconds": [2.0, 2.0]},
        {"side": "torch", "num_workers": 0, "epoch_seconds": 8.0, "seconds": [8.0, 8.0]},
        {"side": "torch", "num_workers": 2, "epoch_seconds": 3.0, "seconds": [3.0, 3.0]},
        {"side": "torch", "num_workers": 4, "error": "out of memory"},
    ]
    assert epoch.speedups(rows) == {"cached over torch": 1.5}


def test_a_failing_baseline_is_recorded_and_shown(image_folder, capsys):
    record = measure("OutOfMemory", data=image_folder, num_workers=(1,))
    assert [row.get("error") for row in record["results"]] == [None, "out of memory"]
    assert record["speedups"] == {}
    epoch.show(record)
    text = capsys.readouterr().out
    assert "torch, 1 worker" in text and "out of memory" in text and "zoo, streamed" in text


@pytest.mark.slow
def test_streamed_and_cached_epochs_have_the_same_losses(small_net, image_folder):
    from benchmarks.epoch_worker import ZooEpoch

    losses = {}
    for feed in ("streamed", "cached"):
        worker = ZooEpoch(devices=1)
        built = worker.build_epoch(str(image_folder), "small_net", 16, "float32", feed)
        assert built["images"] % 16 == 0 and built["images"] > 40 and built["classes"] == 3
        # Dropout uses the same keys: equal up to rounding.
        losses[feed] = [worker.run_epoch()["loss"] for _ in range(2)]
    assert losses["streamed"] == pytest.approx(losses["cached"], rel=1e-3)
    assert losses["streamed"][0] != losses["streamed"][1]


@pytest.mark.slow
def test_an_epoch_has_several_crops_of_each_image(small_net, image_folder):
    """Windows of the net's size, 8x8, in images of 32x32, which stay in memory once."""
    from benchmarks.epoch_worker import ZooEpoch

    worker = ZooEpoch(devices=1)
    built = worker.build_epoch(str(image_folder), "small_net", 16, "float32", "cached", crops=3)
    images = len(worker.experiment.dataset.splits["train"])
    assert built["images"] == 3 * images // 16 * 16
    cached, _ = worker.stage.feed._data
    assert cached.shape == (images, 32, 32, 3)


@pytest.mark.long  # the dry run of `make bench-gpu` in CI does the same with --feeds cached
def test_the_zoo_is_timed_for_real(tmp_path, call, registered_net):
    out = tmp_path / "epoch.json"
    words = ["--model", registered_net, "--images", "64", "--batch-size", "16"]
    words += ["--feeds", "streamed", "--rounds", "1", "--out", out]
    status, text, err = call(epoch, *words)
    assert status == 0, err
    [row] = json.loads(out.read_text())["results"]
    assert row["epoch_seconds"] > 0 and row["losses"][0] > 0
    assert row["images"] == 64  # all of them
    assert "zoo, streamed" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "deconv_alexnut"], "unknown model 'deconv_alexnut'"),
        (["--model", "vade"], "vade is not a classifier: use an image classifier"),
        (["--rounds", "0"], "--rounds is 0: use at least 1"),
        (
            ["--images", "100"],
            "--images 100 is too few for a batch size of 128: use at least 256",
        ),
        (["--data", "/nowhere"], "--data /nowhere is not a folder"),
        (
            ["--out", "/nowhere/x.json"],
            "--out /nowhere/x.json: its folder does not exist: create it first",
        ),
        (["--crops", "0"], "--crops is 0: use at least 1"),
        (["--crops", "6", "--model", "vgg16"], "--crops needs a model for at most 32 pixels"),
        (
            ["--crops", "6", "--peers", "torch"],
            "of the baselines, only torch-graph has random crops",
        ),
        (["--peers", "torch", "--num-workers", "-1"], "--num-workers must have one or more counts"),
        (["--torch-python", "/nowhere"], "--torch-python /nowhere is not an executable"),
    ],
)
def test_bad_flags_are_reported_in_one_line(call, words, message):
    status, out, err = call(epoch, *words)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
