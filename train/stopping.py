"""Stop a command on Ctrl-C, SIGTERM or SIGHUP: always within two seconds, with exit status 130.

Python's default handler raises KeyboardInterrupt wherever the program happens to be. Inside a library's callback, such
as JAX's hook on garbage collection, the exception is printed and dropped, and the command would continue. Here, a
signal sets a flag:

  - `check`, called where progress is reported, raises KeyboardInterrupt, so that caches are written and files closed.
  - A thread ends the process if nothing else does: a compilation, for example, cannot be interrupted. No more is lost
    than if the process were killed.
  - A training loop (`StopRequest`) that has steps to save stops after the current one. A second signal ends the
    process at once.

Imports only the standard library, since commands call `install` before they import anything else.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from train import streams

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
STATUS = 130
# Seconds until the process is ended: if `check` is not called, and after `check` has raised.
GRACE_SECONDS, CLEANUP_SECONDS = 1.0, 1.8
# A terminal and a parent process may both deliver the same Ctrl-C.
SAME_SIGNAL_SECONDS = 0.5


class _Process:
    """Signal handlers of a process that runs a single command, and the thread that ends it."""

    def __init__(self) -> None:
        self.requested = False
        self.raised = False  # by `check`
        self.reported = False  # the user has been told
        self.loop: StopRequest | None = None
        self._announcing = threading.Lock()
        self._announced = False
        streams.protect()  # otherwise, the sockets would take the descriptors of closed streams
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # The C handler writes the signal number, even while the main thread is outside Python.
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            # With nohup, SIGHUP is ignored.
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        # Inherited by the thread, so that only the main thread receives signals; see `until_exec`.
        _mask("SIG_BLOCK")
        threading.Thread(target=self._watch, name="stopping", daemon=True).start()
        _mask("SIG_UNBLOCK")

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True

    def wake(self) -> None:
        """Make the thread check its state again."""
        self._writer.send(b"\0")

    def announce(self) -> None:
        """Print once that training stops after saving: from the thread, or from the loop if that is faster."""
        with self._announcing:
            if not self._announced:
                self._announced = True
                _write(STOPPING)

    def _watch(self) -> None:
        first = 0.0  # time of the first signal
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if select.select([self._reader], [], [], left)[0]:
                has_signal = any(number in SIGNALS for number in self._reader.recv(4096))
                now = time.monotonic()
                if has_signal and not first:
                    first, self.requested = now, True
                    if self._is_saving():
                        self.announce()
                elif has_signal and now - first > SAME_SIGNAL_SECONDS:
                    self._end()
                if first and deadline is None and not self._is_saving():
                    deadline = now + GRACE_SECONDS
            elif self._is_saving():
                deadline = None
            elif self.raised and time.monotonic() < first + CLEANUP_SECONDS:
                deadline = first + CLEANUP_SECONDS
            else:
                self._end()

    def _is_saving(self) -> bool:
        return self.loop is not None and self.loop.has_steps

    def _end(self) -> NoReturn:
        if not self.reported:
            _write("interrupted\n")
        if sys.stderr is not None and sys.stderr.isatty():
            _write("\x1b[?25h")  # a progress bar hides the cursor
        os._exit(STATUS)


_process: _Process | None = None


def install() -> None:
    """Handle this process's signals from now on, if it runs a single command. A second call does nothing."""
    global _process
    if _process is None and threading.current_thread() is threading.main_thread():
        _process = _Process()


def release() -> None:
    """Stop handling signals, so that the caller can install its own handlers."""
    if _process is not None:
        signal.set_wakeup_fd(-1)
        check()


def check() -> None:
    """Raise KeyboardInterrupt if the user wants the command to stop, except in a training loop, which saves first."""
    if _process is None or not _process.requested or _process.raised:
        return
    if _process.loop is None or not _process.loop.has_steps:
        _process.raised = True
        raise KeyboardInterrupt


def reported() -> None:
    """Record that the user has been told that the command is stopping."""
    if _process is not None:
        _process.reported = True


@contextlib.contextmanager
def until_exec() -> Iterator[None]:
    """Context in which signals are held back, if the process handles them. `exec` passes them on to the new program.

    Raises KeyboardInterrupt if one has already arrived.
    """
    if _process is None:
        yield
        return
    _mask("SIG_BLOCK")
    try:
        check()
        yield
    finally:
        _mask("SIG_UNBLOCK")


class StopRequest:
    """Context of a training loop: the first signal stops it after the current step, a second one ends it immediately.

    Until the loop first calls `poll`, and after `end`, there is nothing to save, and a signal stops the process as
    anywhere else. This also works in a process that has not called `install`, such as a notebook, but only in its main
    thread.
    """

    def __init__(self) -> None:
        self.requested = False
        self.has_steps = False
        self._requested_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if _process is not None:
            _process.loop = self
        elif threading.current_thread() is threading.main_thread():
            signals = (signal.SIGINT, signal.SIGTERM)
            self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if _process is not None:
            _process.loop = None
            if _process.requested:
                _process.wake()

    def poll(self) -> bool:
        """Whether the loop should save and stop. Called after each step."""
        self.has_steps = True
        if _process is not None:
            self.requested = _process.requested
            if self.requested:
                _process.announce()
        return self.requested

    def end(self, message: str) -> None:
        """Leave the context early. Raises Interrupted with the message if a stop was requested."""
        requested = self.poll()
        self.__exit__()
        if requested:
            from train.errors import Interrupted

            raise Interrupted(message)

    def _handle(self, number: int, frame: Any) -> None:
        if self.requested:
            if time.monotonic() - self._requested_at > SAME_SIGNAL_SECONDS:
                raise KeyboardInterrupt
            return
        self.requested, self._requested_at = True, time.monotonic()
        # Not with `_write`, because a notebook's stderr has no file descriptor.
        print(STOPPING, end="", file=sys.stderr, flush=True)


STOPPING = "\nstopping after the current step, then saving (Ctrl-C again stops immediately)\n"


def _mask(how: str) -> None:
    """Block or unblock the signals in this thread, if the system supports it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(getattr(signal, how), SIGNALS)


def _write(text: str) -> None:
    """Write to stderr, unless its reader is stuck: a full pipe would block."""
    with contextlib.suppress(
        OSError, ValueError, AttributeError
    ):  # closed, or replaced by another object
        number = sys.stderr.fileno()
        if select.select([], [number], [], 0)[1]:
            os.write(number, text.encode())
