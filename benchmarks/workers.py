"""Processes that take turns: one of them is timed, the others stand still.

Each implementation that is timed (the zoo, a peer) is a process of its own, so that its library, threads and
memory are its own. It stays alive between rounds, since building is expensive, and is stopped by a signal
whenever it is not its turn: idle threads of one library that still spin would slow the other one down.

The processes talk over pipes, one line of JSON each way:

    {"call": "run", "arguments": {"steps": 5}}    ->    {"value": 4.02}    or    {"error": "out of memory"}

`serve` is the worker's end, `Worker` the other; `python -m benchmarks.workers MODULE` runs a module that ends in
`serve`, and says so where a package that it imports is not installed. This file imports the standard library only
(and so does what it takes from `train`): a peer may live in an environment that has little else.
"""

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
    """A worker could not do what it was asked to; the message is one line for the record."""


class NotInstalled(WorkerError):
    """A worker's interpreter lacks a package."""

    def __init__(self, package: str) -> None:
        elsewhere = ", or --torch-python" if package in ("torch", "torchvision") else ""
        super().__init__(
            f"{package} is not installed: python -m pip install -e '.[bench]'{elsewhere}"
        )


class Refusal(Exception):
    """Raised in a worker that does not do what it is asked to; the record has the message as it is."""


def serve(side: Any) -> None:
    """Answer calls of the public methods of `side` until standard input ends."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(side, request["call"])(**request["arguments"])}
        except Exception as error:
            answer = {"error": explain(error)}
        print(json.dumps(answer), file=answers, flush=True)


def worker_command(
    module: str, *words: str, python: str | os.PathLike[str] | None = None
) -> list[str]:
    """How the process of a worker's module is started, in this interpreter or another."""
    return [os.fspath(python or sys.executable), "-m", "benchmarks.workers", module, *words]


def run_worker(module: str) -> None:
    """Run a worker's module; where a package is missing, say which in answer to whatever is asked."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        answer = json.dumps({"missing": (error.name or module).partition(".")[0]})
        for _ in sys.stdin:
            print(answer, flush=True)


def explain(error: Exception) -> str:
    """One line; the same words for running out of memory in every library."""
    text = " ".join(str(error).split())
    if exhausted(error) == "memory":
        return "out of memory"
    return text if isinstance(error, Refusal) else f"{type(error).__name__}: {text}"[:300]


def peak_process_memory() -> float:
    """Most memory that this process has held so far, libraries included, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class Worker:
    """One worker process, standing still except while a call is under way."""

    def __init__(self, command: Sequence[str | os.PathLike], *, timeout: float = 300.0):
        """Start the process. A call that takes longer than `timeout` seconds ends it."""
        self._timeout = timeout
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        try:
            self._process = subprocess.Popen(
                [os.fspath(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
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
        """What the worker's method `name` returns; WorkerError when it fails, dies or takes too long."""
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
        """End the process; it has nothing to save."""
        self._process.kill()  # reaches a stopped process, too
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
            part = os.read(self._answers.fileno(), 65536)
            if not part:
                raise WorkerError(self._cause_of_death())
            received += part
        return received

    def _cause_of_death(self) -> str:
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return "out of memory, it seems: the system killed it"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "without a word"
        return f"ended with status {status}: {last}"[:300]


if __name__ == "__main__":
    del sys.argv[0]  # the module's own words come after its name
    run_worker(sys.argv[0])
