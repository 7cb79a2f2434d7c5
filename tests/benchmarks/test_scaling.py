import pytest

from benchmarks import scaling
from train.recipe import InputError


def test_counts_are_powers_of_two_and_all():
    assert scaling.device_counts((), 4) == [1, 2, 4]
    assert scaling.device_counts((), 6) == [1, 2, 4, 6]
    assert scaling.device_counts((3,), 4) == [1, 3]


def test_one_device_is_too_few():
    with pytest.raises(InputError, match="use --simulate 4"):
        scaling.device_counts((), 1)
    with pytest.raises(InputError, match="--counts has 8, but JAX finds only 4 devices"):
        scaling.device_counts((2, 8), 4)


class FakeWorker:
    """Fake worker: a step takes 1 ms per image and device, and 2 ms more on two or more devices."""

    def __init__(self, devices):
        self.devices = devices

    def build(self, model, num_classes, mode, dtype, images, seed):
        if images[0] > 100 * self.devices:
            raise RuntimeError("RESOURCE_EXHAUSTED: no room")
        self.milliseconds = images[0] / self.devices + 2 * (self.devices > 1)

    def run(self, steps):
        return steps * self.milliseconds / 1000


def test_efficiency_is_relative_to_linear_speedup():
    arguments = scaling.Arguments(batch_size=8, rounds=3, seconds=0.1)
    rows = scaling.measure(arguments, (1, 2, 4), FakeWorker)
    found = {(row["scaling"], row["devices"]): row for row in rows}
    assert [found["weak", n]["batch_size"] for n in (1, 2, 4)] == [8, 16, 32]
    assert [found["strong", n]["batch_size"] for n in (1, 2, 4)] == [32, 32, 32]
    assert [found["weak", n]["efficiency"] for n in (1, 2, 4)] == [1.0, 0.8, 0.8]
    assert [found["strong", n]["efficiency"] for n in (1, 2, 4)] == [1.0, 0.8889, 0.8]
    assert found["weak", 4]["train_samples_per_sec"] == 3200.0
    assert len(found["weak", 4]["train_step_times"]) == 3


def test_there_is_no_efficiency_if_one_device_runs_out_of_memory():
    arguments = scaling.Arguments(batch_size=40, rounds=1, seconds=0.1)
    rows = scaling.scale(arguments, "strong", dict.fromkeys((1, 4), 160), FakeWorker)
    assert rows[0]["error"] == "out of memory"
    assert rows[1]["efficiency"] is None and rows[1]["train_step_time"] == 42.0


@pytest.mark.slow
def test_simulated_devices_agree_and_are_not_timed(call, monkeypatch, small_net):
    """Uses the suite's four devices and keeps its XLA_FLAGS."""
    monkeypatch.setenv("XLA_FLAGS", scaling.os.environ["XLA_FLAGS"])
    words = ("--model", "small_net", "--simulate", "4", "--counts", "2")
    status, out, err = call(scaling, *words)
    assert status == 0, err
    assert out.count("agrees") == 2 and "only losses were compared" in out
    assert "images/s" not in out


def test_the_command_fails_if_losses_differ(call, monkeypatch):
    from benchmarks import zoo_worker

    class Zoo:
        def __init__(self, *, use_cache, devices):
            self.devices = devices

        def losses(self, *_):
            return [2.0, 1.0 + 0.001 * self.devices]

    monkeypatch.setenv("XLA_FLAGS", scaling.os.environ["XLA_FLAGS"])
    monkeypatch.setattr(zoo_worker, "Zoo", Zoo)
    status, out, err = call(scaling, "--simulate", "4")
    assert status == 1 and "DOES NOT AGREE" in out
    assert "the losses depend on the number of devices" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "sam_alexnut"], "unknown model 'sam_alexnut'"),
        (["--model", "vade"], "vade samples latents"),
        (["--simulate", "1"], "--simulate is 1: use at least 2"),
        (["--rounds", "0"], "--batch-size and --rounds must be at least 1"),
        (["--counts", "0"], "--counts must be at least 1"),
        (["--out", "x.txt"], "--out x.txt: use a file that ends in .json"),
    ],
)
def test_bad_flags_are_reported_in_one_line(call, words, message):
    status, out, err = call(scaling, *words)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
