"""Handling of standard streams that are closed, broken or not UTF-8 when a command starts.

Progress on stderr must never stop a training run: if its reader is gone, it is dropped. Results on stdout are not: see
`train.cli.main`. Imports only the standard library.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from zoo.common.files import printable

DESCRIPTORS = (0, 1, 2)


class _Unbreakable(io.TextIOWrapper):
    """A text stream that drops output it cannot write."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with self._dropped():
            super().write(printable(text))
        return len(text)

    def flush(self) -> None:
        """Flush, dropping what cannot be written."""
        with self._dropped():
            super().flush()

    @contextlib.contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass  # the reader is slow and the stream is non-blocking; later text may fit
        except OSError:  # the reader is gone, or the disk is full
            to_devnull(self)
        except ValueError:  # closed at exit
            pass


def protect() -> None:
    """Make stdout and stderr usable, in whatever state the parent process left them. Call it first in a process.

    - A closed descriptor (`>&-`) is opened on the null device; otherwise the next opened file would get its number, and
      messages would be written into that file.
    - stderr never raises.
    - stdout writes characters missing from its encoding as escape sequences, such as `\\u732b`.
    """
    for number in DESCRIPTORS:
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:
                os.set_inheritable(null, True)
            else:
                os.dup2(null, number)
                os.close(null)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in (
        "strict",
        "surrogateescape",
    ):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, _Unbreakable):
        return
    if sys.stderr is None or _is_descriptor(sys.stderr, 2):
        encoding = sys.stderr.encoding if sys.stderr is not None else "utf-8"
        raw = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
        sys.stderr = _Unbreakable(
            raw, encoding=encoding, errors="backslashreplace", line_buffering=True
        )


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == number
    except (OSError, ValueError):
        return False


def to_devnull(stream: TextIO) -> None:
    """Redirect a stream, including its buffered output, to the null device."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
