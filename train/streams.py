"""Standard streams that are closed, broken or of another encoding, as a command gets them from a shell.

Progress on stderr is not worth a training run: when its reader is gone, it is dropped. The results on stdout are: see
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
    """A text stream that swallows what it cannot write."""

    def write(self, text: str) -> int:
        """Write a text, or nothing."""
        with self._dropped():
            super().write(printable(text))
        return len(text)

    def flush(self) -> None:
        """Flush, or drop what cannot be written."""
        with self._dropped():
            super().flush()

    @contextlib.contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass  # the reader is slow and the stream does not wait: later text may fit
        except OSError:  # the reader is gone, or the disk is full
            to_devnull(self)
        except ValueError:  # closed at exit
            pass


def protect() -> None:
    """Make stdout and stderr usable, whatever a parent process has made of them. Call it first in a process.

    - A closed descriptor (`>&-`) is opened on the null device; else the next file that is opened would take its number,
      and messages would be written into it.
    - stderr never raises.
    - stdout writes characters that its encoding lacks as escape sequences, such as `\\u732b`.
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
    """Let a stream write to the null device from now on, what it still holds included."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
