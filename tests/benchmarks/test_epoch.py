import json

import pytest

from benchmarks import epoch
from benchmarks.workers import worker_command

FAKE = worker_command("tests.benchmarks.fake_side")


def measure(peer, **options):
    arguments = epoch.Arguments(
        images=256, rounds=2, feeds=("stepwise",), peers=("torch",), **options
    )
    return epoch.measure(arguments, {"zoo": [*FAKE, "Fake"], "torch": [*FAKE, peer]})


def test_sides_are_timed_and_the_peers_best_counts(image_folder):
    record = measure("Slower", data=image_folder, num_workers=(0, 1))
    ours, *theirs = record["results"]
    assert (ours["epoch_seconds"], ours["samples_per_sec"]) == (1.0, 64.0)
    assert ours["seconds"] == [1.0, 1.0] and ours["losses"] == [0.5, 0.5]
    assert [row["num_workers"] for row in theirs] == [0, 1]
    assert record["speedups"] == {"stepwise over torch": 3.0}
    assert record["data"] == "pens"


def test_the_fastest_number_of_workers_is_compared():
    rows = [
        {"side": "zoo", "feed": "resident", "epoch_seconds": 2.0, "seconds": [2.0, 2.0]},
        {"side": "torch", "num_workers": 0, "epoch_seconds": 8.0, "seconds": [8.0, 8.0]},
        {"side": "torch", "num_workers": 2, "epoch_seconds": 3.0, "seconds": [3.0, 3.0]},
        {"side": "torch", "num_workers": 4, "error": "out of memory"},
    ]
    assert epoch.speedups(rows) == {"resident over torch": 1.5}


def test_a_side_that_fails_is_recorded_and_shown(image_folder, capsys):
    record = measure("Hungry", data=image_folder, num_workers=(1,))
    assert [row.get("error") for row in record["results"]] == [None, "out of memory"]
    assert record["speedups"] == {}
    epoch.show(record)
    text = capsys.readouterr().out
    assert "torch, 1 worker" in text and "out of memory" in text and "zoo, stepwise" in text


@pytest.mark.slow
def test_both_ways_of_feeding_train_the_same(image_folder):
    from benchmarks.epoch_worker import ZooEpoch

    losses = {}
    for feed in ("stepwise", "resident"):
        side = ZooEpoch(devices=1)
        built = side.build_epoch(str(image_folder), "deconv_alexnet_tiny", 16, "float32", feed)
        assert built["images"] % 16 == 0 and built["images"] > 40 and built["classes"] == 3
        # Small losses by Adam with dropout: the same keys, up to rounding.
        losses[feed] = [side.run_epoch()["loss"] for _ in range(2)]
    assert losses["stepwise"] == pytest.approx(losses["resident"], rel=1e-3)
    assert losses["stepwise"][0] != losses["stepwise"][1]


@pytest.mark.slow
def test_the_zoo_is_timed_for_real(tmp_path, call):
    out = tmp_path / "epoch.json"
    words = ["--model", "deconv_alexnet_tiny", "--images", "64", "--batch-size", "16"]
    words += ["--feeds", "stepwise", "--rounds", "1", "--out", out]
    status, text, err = call(epoch, *words)
    assert status == 0, err
    [row] = json.loads(out.read_text())["results"]
    assert row["epoch_seconds"] > 0 and row["losses"][0] > 0
    assert "zoo, stepwise" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "deconv_alexnut"], "unknown model 'deconv_alexnut'"),
        (["--model", "vade"], "vade gives no classes: give a classifier of images"),
        (["--rounds", "0"], "--rounds is 0: give at least 1"),
        (["--images", "100"], "--images 100 are too few for batches of 128: give at least 256"),
        (["--data", "/nowhere"], "--data /nowhere is no folder"),
        (["--out", "/nowhere/x.json"], "--out /nowhere/x.json: there is no folder /nowhere"),
        (["--peers", "torch", "--num-workers", "-1"], "--num-workers has to name counts"),
        (["--torch-python", "/nowhere"], "--torch-python /nowhere is no interpreter"),
    ],
)
def test_bad_flags_are_one_line(call, words, message):
    status, out, err = call(epoch, *words)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
