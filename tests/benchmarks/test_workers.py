import os
import subprocess
import sys
import time

import pytest

from benchmarks.workers import Worker, WorkerError, explain, worker_command

FAKE = "tests.benchmarks.fake_worker"
BUILD = {
    "model": "m",
    "num_classes": 10,
    "mode": "train",
    "dtype": "float32",
    "images": [1, 8, 8, 3],
    "seed": 0,
}


def start(behavior, **options):
    return Worker(worker_command(FAKE, behavior), **options)


def test_output_of_libraries_does_not_disturb_calls():
    with start("Fake") as worker:
        assert worker.call("describe") == {"fake": "1.0"}
        assert worker.call("run", steps=4) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("Failing", "RuntimeError: no kernel for this"),
        ("OutOfMemory", "out of memory"),
        ("Dying", "exited with status 3: last line"),
    ],
)
def test_a_failure_is_reported_in_one_line(behavior, message):
    with start(behavior) as worker, pytest.raises(WorkerError) as error:
        worker.call("build", **BUILD)
    assert str(error.value) == message


def test_a_failed_call_leaves_the_worker_alive():
    with start("Failing") as worker:
        with pytest.raises(WorkerError):
            worker.call("build", **BUILD)
        assert worker.call("describe") == {"fake": "1.0"}


@pytest.mark.slow
def test_a_call_that_takes_too_long_kills_the_worker():
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


@pytest.mark.slow
def test_a_worker_is_stopped_between_calls():
    """A thread that ticks every 10 ms must not run while another worker is timed."""
    with start("Ticking") as worker:
        worker.call("run", steps=1)
        before = worker.call("read")
        time.sleep(1)
        assert worker.call("read") - before < 20


PARENT = """
import time
from benchmarks.workers import Worker, worker_command

worker = Worker(worker_command("tests.benchmarks.fake_worker", "Fake"))
worker.call("describe")
print(worker._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_stopped_worker_ends_with_its_parent(command_environment):
    """Even if the parent is killed: the worker would keep its memory on the device."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=command_environment, stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(worker)


def is_alive(pid):
    """Whether a process exists, and is more than an entry that nobody has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_out_of_memory_has_the_same_message_for_every_library():
    for text in (
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    ):
        assert explain(RuntimeError(text)) == "out of memory"
    assert explain(ValueError("bad\n value")) == "ValueError: bad value"
