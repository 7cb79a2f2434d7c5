"""Worker processes that take turns: one of them is timed while the others are stopped.

Each timed implementation (the zoo or a baseline) runs in its own process, so that libraries, threads and memory are
separate. A worker stays alive between rounds, since building is expensive, and is stopped by SIGSTOP between its turns,
so that one library's spinning idle threads do not slow down another.

The processes communicate over pipes, with one line of JSON per request and response:

    {"call": "run", "arguments": {"steps": 5}}    ->    {"value": 4.02}    or    {"error": "out of memory"}

A worker's module ends in `serve`; `Worker` is the parent's handle. `python -m benchmarks.workers MODULE` runs a module,
and reports a missing package in answer to calls. Imports only the standard library, directly and through `train`, since
the environment of a baseline may contain little else.
"""

import ctypes
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.errors import exhausted

ROOT = Path(__file__).parents[1]


class WorkerError(Exception):
    """Raised when a call to a worker fails; the message is one line, for the record."""


class NotInstalled(WorkerError):
    """Raised when a package is missing in a worker's environment."""

    def __init__(self, package: str) -> None:
        elsewhere = ", or --torch-python" if package in ("torch", "torchvision") else ""
        super().__init__(
            f"{package} is not installed: python -m pip install -e '.[bench]'{elsewhere}"
        )


class Unsupported(Exception):
    """Raised in a worker for calls that it does not support; recorded without the name of the exception."""


def serve(target: Any) -> None:
    """Answer calls of the public methods of `target` until standard input ends."""
    # Redirect stdout to stderr, so that output of libraries does not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(target, request["call"])(**request["arguments"])}
        except Exception as error:
            answer = {"error": explain(error)}
        print(json.dumps(answer), file=answers, flush=True)


def worker_command(
    module: str, *words: str, python: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return the command that runs a worker's module, in this interpreter or another one."""
    return [os.fspath(python or sys.executable), "-m", "benchmarks.workers", module, *words]


PARENT = "JAX_ZOO_PARENT"  # process ID of the parent, for `die_with_parent`


def die_with_parent() -> None:
    """On Linux, let the system kill this process when its parent ends, even by SIGKILL.

    A stopped worker would otherwise remain and keep its device memory. This is not done in Popen's preexec_fn, which
    may deadlock in a process with threads.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if PARENT in os.environ:
            try:
                os.kill(int(os.environ[PARENT]), 0)
            except ProcessLookupError:  # the parent ended before the call above
                sys.exit(1)


def run_worker(module: str) -> None:
    """Run a worker's module; if it lacks a package, answer every call with the package's name."""
    die_with_parent()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        answer = json.dumps({"missing": (error.name or module).partition(".")[0]})
        for _ in sys.stdin:
            print(answer, flush=True)


def explain(error: Exception) -> str:
    """Describe an error in one line, with the same text for running out of memory in every library."""
    text = " ".join(str(error).split())
    if exhausted(error) == "memory":
        return "out of memory"
    return text if isinstance(error, Unsupported) else f"{type(error).__name__}: {text}"[:300]


def peak_process_memory() -> float:
    """Return the peak resident memory of this process, including libraries, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class Worker:
    """A worker process, stopped except during calls."""

    def __init__(self, command: Sequence[str | os.PathLike], *, timeout: float = 300.0):
        """Start the process. A call that takes longer than `timeout` seconds kills it.

        JAX allocates GPU memory on demand: by default, it would reserve three quarters while other workers are alive.
        """
        self._timeout = timeout
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        try:
            self._process = subprocess.Popen(
                [os.fspath(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=ROOT,
                env={
                    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    PARENT: f"{os.getpid()}",
                },
                bufsize=0,
            )
        except OSError as error:
            self._log.close()
            raise WorkerError(f"cannot start {command[0]}: {error.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, name: str, **arguments: Any) -> Any:
        """Call the worker's method `name` and return its result; WorkerError if it fails, dies or takes too long."""
        request = json.dumps({"call": name, "arguments": arguments}) + "\n"
        self._signal(signal.SIGCONT)
        try:
            self._requests.write(request.encode())
            answer = json.loads(self._read_line())
        except BrokenPipeError:
            raise WorkerError(self._cause_of_death()) from None
        finally:
            self._signal(signal.SIGSTOP)
        if "missing" in answer:
            raise NotInstalled(answer["missing"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()  # works on a stopped process, too
        self._process.wait()
        self._requests.close()
        self._answers.close()
        self._log.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _read_line(self) -> bytes:
        deadline = time.monotonic() + self._timeout
        received = b""
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._answers], [], [], max(left, 0))
            if not ready:
                self._process.kill()
                raise WorkerError(f"took more than {self._timeout:g} s")
            chunk = os.read(self._answers.fileno(), 65536)
            if not chunk:
                raise WorkerError(self._cause_of_death())
            received += chunk
        return received

    def _cause_of_death(self) -> str:
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return "killed by the system, probably out of memory"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no error message"
        return f"exited with status {status}: {last}"[:300]


if __name__ == "__main__":
    del sys.argv[0]  # leaves the module's name and its arguments
    run_worker(sys.argv[0])
