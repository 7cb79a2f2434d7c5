"""Commands in processes of their own, which can be stopped at any moment.

Most are forked from this process, which has imported what a command imports but has not started JAX's backend: so a
command begins in a few milliseconds instead of four seconds. The others are started "cold", as from a shell.
"""

import atexit
import dataclasses
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from train import cli

TIMEOUT_SECONDS = 180
NOBODY = 65534  # a user without the right to read everything
PRELOADED = (
    *("train.run", "train.evaluate", "train.predict", "train.models", "train.data"),
    *("train.reproduce.__main__", "train.reproduce.page", "train.reproduce.smoke"),
    *("train.engine.fit", "train.setup", "train.results", "train.predictor", "train.report.html"),
    *("train.report.figures", "train.record.best", "train.record.tensorboard", "train.streams"),
    *("datasets.formats.prepare", "datasets.formats.csv_list", "datasets.named.digits"),
    *("tensorboardX", "tensorflow_datasets", "sklearn.manifold", "filelock", "rich.console"),
    "tests.registered_net",
)


def preload() -> None:
    """Import everything that a command imports. Starts neither JAX's backend nor threads, which a fork would lose."""
    for name in PRELOADED:
        importlib.import_module(name)


@dataclasses.dataclass(frozen=True)
class Command:
    """A module and its arguments."""

    module: str
    words: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Name of the module, with its subcommand if it has one."""
        return " ".join([self.module, *self.words[: self.module == "train.data"]])


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process has ended."""

    status: (
        int | None
    )  # negative: the signal that ended it; None: it had to be killed after TIMEOUT_SECONDS
    stdout: str
    stderr: str
    seconds: float


class Process:
    """A running command; its output goes to files."""

    def __init__(
        self,
        command: Command,
        cwd: Path,
        *,
        cold: bool = False,
        user: int | None = None,
        max_file_bytes: int | None = None,
        stdout: Path | None = None,
    ) -> None:
        number = time.monotonic_ns()
        self._out = stdout or cwd.parent / f"{cwd.name}.{number}.out"
        self._err = cwd.parent / f"{cwd.name}.{number}.err"
        self._began = time.monotonic()
        self._status: int | None = None
        if cold:
            self._pid = self._start(command, cwd)
        else:
            self._pid = os.fork()
            if self._pid == 0:
                _run(command, cwd, self._out, self._err, user, max_file_bytes)

    def _start(self, command: Command, cwd: Path) -> int:
        with open(self._out, "ab") as out, open(self._err, "ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", command.module, *command.words],
                cwd=cwd,
                env={**os.environ, **dict(command.variables)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        process.returncode = 0  # this class waits for it
        return process.pid

    def send_after(self, seconds: float, number: int) -> None:
        """Send a signal after this time, unless the process has ended."""
        while time.monotonic() - self._began < seconds and not self._ended():
            time.sleep(0.002)
        if not self._ended():
            os.kill(self._pid, number)

    def _ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def wait(self) -> Ended:
        """Wait for the end, at most TIMEOUT_SECONDS."""
        while not self._ended() and time.monotonic() - self._began < TIMEOUT_SECONDS:
            time.sleep(0.005)
        seconds, status = time.monotonic() - self._began, self._status
        if status is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._status = -signal.SIGKILL
        texts = [
            path.read_text("utf-8", "replace") if path.is_file() else ""
            for path in (self._out, self._err)
        ]
        return Ended(status, *texts, seconds)


def run(command: Command, cwd: Path, **options: object) -> Ended:
    """Run a command to its end."""
    return Process(command, cwd, **options).wait()  # type: ignore[arg-type]


def _run(
    command: Command, cwd: Path, out: Path, err: Path, user: int | None, max_file_bytes: int | None
) -> None:
    """Run a command in a forked process; does not return."""
    status = 70
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in enumerate((os.devnull, out, err)):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND * (number > 0), 0o666)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            for number, mode in enumerate(("r", "w", "w"))
        )
        os.chdir(cwd)
        os.environ.update(dict(command.variables))
        if (
            max_file_bytes is not None
        ):  # Python ignores the signal; writing then fails with "File too large"
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        status = _status_of(command)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _status_of(command: Command) -> int:
    module = importlib.import_module(command.module)
    sys.argv = [str(module.__file__), *command.words]
    status = 0
    try:
        cli.main(module.main)
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    # What the interpreter does at the end of a process.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def environment(cache: Path) -> Mapping[str, str]:
    """Variables for all commands, to be set before JAX is imported."""
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_ZOO_CACHE": str(cache / "zoo"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",  # cold commands do not restart themselves
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def words(*items: object) -> tuple[str, ...]:
    """Arguments of a command."""
    return tuple(map(str, items))


def tail(text: str, lines: int = 3) -> str:
    """The last lines of a text, in one line."""
    return " | ".join(_nonempty(text)[-lines:])


def _nonempty(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if line.strip()]
