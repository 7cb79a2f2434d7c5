"""Processes that share the work of a command on this machine. Imports only the standard library."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from train import stopping
from zoo.common.commands import started_by_script


class Processes:
    """Running processes of one module, each with a log file.

    Each has a pipe as stdin, which stays open: see `watch_parent`. Each uses all CPU cores: with fewer, XLA sums in
    a different order, and a run that another process resumes would give different results.
    """

    def __init__(
        self, module: str, words: Sequence[str], count: int, folder: Path, first_line: str = ""
    ) -> None:
        """Start `count` processes `python -m module words` with a line on stdin, and log files in `folder`."""
        self.logs: list[Path] = []
        self._processes: list[subprocess.Popen[str]] = []
        folder.mkdir(exist_ok=True)
        # Like the console command, do not import from the working folder.
        safe = ["-P"] if started_by_script() else []
        for _ in range(count):
            # A unique name, since other machines may share the folder.
            log = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.log"
            self.logs.append(log)
            with open(log, "ab") as output:
                process = subprocess.Popen(
                    [sys.executable, *safe, "-m", module, *words],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    text=True,
                    start_new_session=True,  # a Ctrl-C is passed on once, by `stop`
                )
            self._processes.append(process)
            if first_line:
                assert process.stdin
                with contextlib.suppress(BrokenPipeError):  # it has already ended: see its log
                    process.stdin.write(f"{first_line}\n")
                    process.stdin.flush()

    def are_running(self) -> bool:
        """Whether any process is running."""
        return any(process.poll() is None for process in self._processes)

    def failed(self) -> Path | None:
        """Return the log of a process that ended with an error, None if there is none."""
        for process, log in zip(self._processes, self.logs, strict=True):
            if process.poll() not in (None, 0):
                return log
        return None

    def stop(self) -> None:
        """Tell the processes to save their runs and exit, and wait for them."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait()

    def close(self) -> None:
        """Stop processes, and remove the logs of those that succeeded or were stopped."""
        self.stop()
        for process, log in zip(self._processes, self.logs, strict=True):
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            if process.returncode in (0, stopping.STATUS):
                log.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.logs[0].parent.rmdir()


def share_gpu() -> None:
    """Let JAX reserve GPU memory when needed instead of most of it at once, in this process and those it starts."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def watch_parent() -> None:
    """Stop this process, as on SIGTERM, when its stdin closes because its parent has ended."""

    def watch() -> None:
        while sys.stdin.read(1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
