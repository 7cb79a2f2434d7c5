"""Commands in separate processes, which can be stopped at any moment.

Most are forked from this process, which has imported what a command imports but has not started JAX's backend, so a
command starts in a few milliseconds instead of four seconds. The others are started "cold", as from a shell.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from train import cli, stopping

TIMEOUT_SECONDS = 900  # allows for a busy machine
ORPHAN_SECONDS = 5.0  # for a command's child processes to end after it
TRY = "CAMPAIGN_TRY"  # variable that names the working folder
HANDLER_SECONDS = 10.0  # maximum time until a command handles signals
BROKEN = 70  # status of a process that ended with an exception
PRELOADED = (
    *("train.run", "train.evaluate", "train.predict", "train.models", "train.data"),
    *("train.reproduce.__main__", "train.reproduce.page", "train.reproduce.smoke"),
    *("train.engine.fit", "train.setup", "train.results", "train.predictor", "train.report.html"),
    *("train.report.figures", "train.record.best", "train.record.tensorboard", "train.streams"),
    *("datasets.formats.prepare", "datasets.formats.csv_list", "datasets.named.digits"),
    *("tensorboardX", "tensorflow_datasets", "sklearn.manifold", "filelock", "rich.console"),
    *("matplotlib.backends.backend_agg", "matplotlib.font_manager", "rich.table", "rich.progress"),
    *("train.analysis.embedding", "train.analysis.metrics", "datasets.checks.duplicates"),
    *("benchmarks.linear_baseline", "benchmarks.input_pipeline", "benchmarks.augmentation"),
    *("benchmarks.epoch", "benchmarks.scaling", "benchmarks.parity", "benchmarks.throughput"),
    *("benchmarks.table1", "benchmarks.startup", "benchmarks.gpu", "tests.registered_net"),
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
    cold: bool = False  # always start it as from a shell

    @property
    def name(self) -> str:
        """Name of the module, with its subcommand if it has one."""
        return " ".join([self.module, *self.words[: self.module == "train.data"]])

    def with_variables(self, **values: object) -> "Command":
        """The command with more environment variables."""
        more = tuple((name, str(value)) for name, value in values.items())
        return dataclasses.replace(self, variables=(*self.variables, *more))


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended."""

    status: (
        int | None
    )  # negative: the signal that ended it; None: it had to be killed after TIMEOUT_SECONDS
    stdout: str
    stderr: str
    seconds: float
    seconds_to_stop: float = 0.0  # since the last signal


class Process:
    """A running command; its output goes to files."""

    def __init__(
        self,
        command: Command,
        cwd: Path,
        *,
        cold: bool = False,
        limited: bool = False,
        stdout: Path | None = None,
    ) -> None:
        command = command.with_variables(**{TRY: cwd})
        number = time.monotonic_ns()
        self._out = stdout or cwd.parent / f"{cwd.name}.{number}.out"
        self._err = cwd.parent / f"{cwd.name}.{number}.err"
        self._began = time.monotonic()
        self._status: int | None = None
        self._sent: float | None = None
        self._cwd = cwd
        if cold or command.cold:
            self._pid = self._start(command, cwd, limited)
        else:
            self._pid = os.fork()
            if self._pid == 0:
                _run(command, cwd, self._out, self._err, limited)

    def _start(self, command: Command, cwd: Path, limited: bool) -> int:
        with open(self._out, "ab") as out, open(self._err, "ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", command.module, *command.words],
                cwd=cwd,
                env={**os.environ, **dict(command.variables)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=lambda: _restrict(limited),  # this process has one thread
            )
        process.returncode = 0  # this class waits for it
        return process.pid

    def send_after(self, seconds: float, number: int) -> None:
        """Send a signal after this time, unless the process has ended.

        Except for SIGKILL, waits until the command has installed its handler: Python's default would end it.
        """
        while time.monotonic() - self._began < seconds and not self._ended():
            time.sleep(0.002)
        if number != signal.SIGKILL:
            deadline = time.monotonic() + HANDLER_SECONDS
            while not (self._ended() or self._handles_signals() or time.monotonic() > deadline):
                time.sleep(0.002)
        if not self._ended():
            self._sent = time.monotonic()
            os.kill(self._pid, number)

    def _handles_signals(self) -> bool:
        try:
            text = Path(f"/proc/{self._pid}/status").read_text("ascii")
        except OSError:
            return True
        masks = [int(line.split()[1], 16) for line in text.splitlines() if line[:4] == "SigC"]
        # After SIGINT and SIGTERM, SIGHUP is the last one for which a command sets a handler.
        return any(mask >> (signal.SIGTERM - 1) & mask >> (signal.SIGHUP - 1) & 1 for mask in masks)

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
        to_stop = self._began + seconds - self._sent if self._sent is not None else 0.0
        return Ended(status, *texts, seconds, to_stop)

    def leftovers(self) -> list[int]:
        """Kill the processes that this one started and left running; return their IDs."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (left := _processes_of(self._cwd)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def _processes_of(cwd: Path) -> list[int]:
    mark = f"{TRY}={cwd}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def run(command: Command, cwd: Path, **options: object) -> Ended:
    """Run a command to its end."""
    return Process(command, cwd, **options).wait()  # type: ignore[arg-type]


def _run(command: Command, cwd: Path, out: Path, err: Path, limited: bool) -> None:
    """Run a command in a forked process; does not return."""
    status = BROKEN
    try:
        os.setsid()
        _restrict(limited)
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
        status = _status_of(command)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _restrict(limited: bool) -> None:
    """Tie this new process to the campaign, with default signal handlers and, if `limited`, without root's rights."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of Linux
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if limited:
        _obey_file_modes()


def own_mounts() -> None:
    """Mount file systems in a private namespace from now on, if allowed, so that they vanish with this process."""
    new_namespace = 0x20000  # CLONE_NEWNS
    if ctypes.CDLL(None).unshare(new_namespace) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False)


def _status_of(command: Command) -> int:
    module = importlib.import_module(command.module)
    if not hasattr(module, "main"):  # a package
        module = importlib.import_module(f"{command.module}.__main__")
    sys.argv = [str(module.__file__), *command.words]
    status = 0
    try:
        stopping.install()  # a command's first line
        cli.main(module.main)
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    # What the interpreter does when a process ends.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def _obey_file_modes() -> None:
    """Drop root's right to read and write all files (Linux capabilities 1 and 2)."""
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(0x20080522, 0), (_Capabilities * 2)()
    libc.capget(ctypes.byref(header), sets)
    for name in ("effective", "permitted"):
        setattr(sets[0], name, getattr(sets[0], name) & ~0b110)
    if libc.capset(ctypes.byref(header), sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def environment(cache: Path) -> Mapping[str, str]:
    """Variables for all commands, to be set before JAX is imported."""
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_ZOO_CACHE": str(cache / "zoo"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",  # no command restarts itself, except cold ones
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
