"""Ctrl-C at any moment of a command: exit status 130 within two seconds, without a traceback."""

import re
import signal
import subprocess
import sys
import time

import pytest

# A command as `python -m` starts it: the handlers are installed before its libraries are imported.
SCRIPT = """
import signal, sys
from train import stopping

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # in case that the tests run in the background
stopping.install()
stopping.install()

from train import cli
{body}

def main(argv):
    print("started", flush=True)
    command()

if __name__ == "__main__":
    cli.main(main)
"""

# An exception raised in a callback of a library is printed and dropped.
SWALLOWING = """
import gc, time

def callback(phase, info):
    print("in a callback", flush=True)
    time.sleep(0.3)

def command():
    gc.callbacks.append(callback)
    progress = cli.Progress()
    progress.start("checking images", 10_000)
    try:
        for number in range(10_000):
            gc.collect()
            progress.update(number)
    finally:
        print("cleaned up", flush=True)
"""

# One call of a library that nothing interrupts, like a compilation. In it, Python does not run any handler.
STUCK = """
import hashlib

def command():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**28)
"""

TRAINING = """
import sys, time

def command():
    with cli.StopRequest() as stop:
        {before}
        for step in range(10_000):
            time.sleep(0.02)
            if step == 5:
                print("training", flush=True)
            if stop.poll():
                print("saved", flush=True)
                raise cli.Interrupted("interrupted at step 7, saved")
        stop.end("after training")
"""


@pytest.fixture
def start(tmp_path, command_environment):
    """Start the script with this body, and wait until it prints a line."""
    started = []

    def run(body, until="started"):
        (tmp_path / "script.py").write_text(SCRIPT.format(body=body))
        process = subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env=command_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        while (line := process.stdout.readline()).strip() != until:
            assert line, process.stderr.read()
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def stop(process, number=signal.SIGINT):
    """Send a signal. Returns exit status, stdout, stderr and the seconds that it took."""
    began = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_inside_a_callback_is_not_lost(start, number):
    status, stdout, stderr, seconds = stop(start(SWALLOWING, until="in a callback"), number)
    assert (status, stderr) == (130, "interrupted\n")
    assert "cleaned up\n" in stdout
    assert seconds < 2


@pytest.mark.slow
def test_a_command_outside_python_is_ended(start):
    status, _, stderr, seconds = stop(start(STUCK))
    assert (status, stderr) == (130, "interrupted\n")
    assert 0.9 < seconds < 2


@pytest.mark.slow
def test_training_saves_first(start):
    status, stdout, stderr, _ = stop(start(TRAINING.format(before="pass"), until="training"))
    assert (status, stdout) == (130, "saved\n")
    assert stderr.splitlines()[1:] == [
        "stopping after the current step, then saving (Ctrl-C again stops immediately)",
        "interrupted at step 7, saved",
    ]


@pytest.mark.slow
def test_a_second_signal_ends_training_at_once(start):
    body = TRAINING.format(before="pass").replace(
        "if stop.poll():", "if stop.poll():\n                time.sleep(60)"
    )
    process = start(body, until="training")
    process.send_signal(signal.SIGINT)
    time.sleep(0.8)
    assert process.poll() is None
    status, _, stderr, seconds = stop(process)
    assert (status, stderr.splitlines()[-1]) == (130, "interrupted")
    assert seconds < 0.5


@pytest.mark.slow
def test_before_the_first_step_there_is_nothing_to_save(start):
    process = start(TRAINING.format(before="time.sleep(60)"))
    status, stdout, stderr, seconds = stop(process)
    assert (status, stdout, stderr) == (130, "", "interrupted\n")
    assert seconds < 2


@pytest.mark.slow
def test_a_signal_while_the_process_restarts_is_kept(start, tmp_path):
    """As for huge pages: between the last look at the flag and `exec`."""
    body = """
import os, signal, time

def command():
    if "JAX_ZOO_RESTARTED" in os.environ:
        time.sleep(60)
    os.environ["JAX_ZOO_RESTARTED"] = "yes"
    with stopping.until_exec():
        os.kill(os.getpid(), signal.SIGINT)
        os.execv(sys.executable, [sys.executable, "script.py"])
"""
    process = start(body)
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted\n")
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_a_command_with_its_own_handlers_takes_its_time(start):
    """As benchmarks.gpu, which stops a step first."""
    body = """
import time

def command():
    stopping.release()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print("released", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(stopping.CLEANUP_SECONDS + 0.3)
        print("stopped it", flush=True)
        raise
"""
    status, stdout, stderr, _ = stop(start(body, until="released"), signal.SIGTERM)
    assert (status, stdout, stderr) == (130, "stopped it\n", "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "milliseconds"),
    [
        ("train.run", 60),
        *(pytest.param("train.run", ms, marks=pytest.mark.long) for ms in (120, 200)),
        ("train.run", 400),
        ("benchmarks.linear_baseline", 120),
    ],
)
def test_a_signal_during_the_imports(module, milliseconds, command_environment, tmp_path):
    """Python itself takes some of this time; its own handler prints a traceback."""
    words = [module, "--dataset", "digits", "--out", str(tmp_path / "x.json")]
    if module == "train.run":
        words[-2:] = ["--workdir", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", *words],
        env=command_environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:  # the handlers are installed after this import
            if re.search(r"\| +train\.stopping$", line):
                break
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        stderr = process.stderr.read()
        assert process.wait() == 130, stderr
        assert time.monotonic() - began < 2
        assert "Traceback" not in stderr


def test_nothing_is_handled_in_other_processes():
    """Such as this one, which only imports the package."""
    # Ignored if the suite runs in the background.
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)
