"""What the benchmarks share."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import command

PARENT = """
import sys
from train import stopping

stopping.install()

from benchmarks import command
from train import cli

def main(argv):
    command.run_process([sys.executable, "-c", argv[0]])

if __name__ == "__main__":
    cli.main(main)
"""
CHILD = """
import os, pathlib, time
pathlib.Path("child.part").write_text(str(os.getpid()))
os.rename("child.part", "child")
time.sleep(60)
"""


def test_a_process_is_run_with_its_output():
    words = [sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr); sys.exit(3)"]
    done = command.run_process(words)
    assert (done.returncode, done.stdout, done.stderr) == (3, "1\n", "2\n")


@pytest.mark.slow
def test_an_interrupted_command_leaves_no_process(tmp_path, command_environment):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        cwd=tmp_path,
        env=command_environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    while not (tmp_path / "child").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # not to the child
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "child").read_text()), 0)
