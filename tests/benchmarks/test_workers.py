import time

import pytest

from benchmarks.workers import Worker, WorkerError, explain, worker_command

FAKE = "tests.benchmarks.fake_side"
BUILD = {
    "model": "m",
    "num_classes": 10,
    "mode": "train",
    "dtype": "float32",
    "images": [1, 8, 8, 3],
    "seed": 0,
}


def start(behaviour, **options):
    return Worker(worker_command(FAKE, behaviour), **options)


def test_calls_go_through_whatever_the_library_prints():
    with start("Fake") as worker:
        assert worker.call("describe") == {"fake": "1.0"}
        assert worker.call("run", steps=4) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("Failing", "RuntimeError: no kernel for this"),
        ("Hungry", "out of memory"),
        ("Dying", "ended with status 3: a last word"),
    ],
)
def test_a_failure_is_one_line(behaviour, message):
    with start(behaviour) as worker, pytest.raises(WorkerError) as error:
        worker.call("build", **BUILD)
    assert str(error.value) == message


def test_a_failed_call_leaves_the_worker_alive():
    with start("Failing") as worker:
        with pytest.raises(WorkerError):
            worker.call("build", **BUILD)
        assert worker.call("describe") == {"fake": "1.0"}


def test_a_call_that_takes_too_long_ends_the_worker():
    with start("Sleeping", timeout=2) as worker:
        began = time.monotonic()
        with pytest.raises(WorkerError, match=r"took more than 2 s"):
            worker.call("build", **BUILD)
        assert time.monotonic() - began < 20
        with pytest.raises(WorkerError):
            worker.call("describe")


def test_a_missing_interpreter_is_named():
    with pytest.raises(WorkerError, match=r"cannot start /no/such/python: No such file"):
        Worker(["/no/such/python"])


def test_a_worker_stands_still_between_calls():
    """A thread that ticks every 10 ms must not go on while another worker is timed."""
    with start("Ticking") as worker:
        worker.call("run", steps=1)
        before = worker.call("read")
        time.sleep(1)
        assert worker.call("read") - before < 20


def test_out_of_memory_has_one_name_in_every_library():
    for text in (
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    ):
        assert explain(RuntimeError(text)) == "out of memory"
    assert explain(ValueError("bad\n value")) == "ValueError: bad value"
