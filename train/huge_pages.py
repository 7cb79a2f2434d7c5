"""Transparent huge pages (2 MiB) for XLA's temporary buffers on CPU, where Linux grants them on request.

On CPU, XLA reallocates its temporary memory in each step: AlexNet's 530 MB are 136,000 pages of 4 KiB, which cost a
fifth of the step; MobileNetV2's cost a third (`benchmarks/NOTES.md`). glibc reads the setting at process startup, so a
command restarts itself with `exec`, which keeps the process ID but repeats the imports. Any other process (a notebook,
a Python caller) is not restarted; only its child processes get the setting.

Imports only the standard library.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from train import stopping
from zoo.common.commands import started_by_script

HUGE_PAGES = "glibc.malloc.hugetlb"  # tunable of glibc 2.35 and later
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_RESTARTED = "JAX_ZOO_RESTARTED"  # ID of the process that has restarted: it never restarts twice
_may_restart = False


@contextlib.contextmanager
def restart_allowed(command: Callable[[list[str]], None]) -> Iterator[None]:
    """Context in which `enable` may restart the process, provided that the process runs only this command."""
    global _may_restart
    _may_restart = _is_whole_process(command)
    try:
        yield
    finally:
        _may_restart = False


def _is_whole_process(command: Callable[[list[str]], None]) -> bool:
    """Whether the interpreter was started to run only this command: not by a notebook, debugger, profiler or test, and
    not with a script on standard input."""
    if sys.gettrace() is not None or not (command.__module__ == "__main__" or started_by_script()):
        return False
    spec = sys.modules["__main__"].__spec__
    name = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    tail = [*name, *sys.argv[1:]]
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(tail)]  # interpreter options
    words = [w for w, last in zip(before, ["", *before], strict=False) if last not in ("-X", "-W")]
    return (
        tail[0] not in ("", "-", "-c")
        and sys.orig_argv[1 + len(before) :] == tail
        and all(word.startswith("-") and word not in ("-m", "-c") for word in words)
    )


def enable() -> None:
    """Request huge pages for child processes and, if it may restart, for this process."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if HUGE_PAGES in tunables or not _available():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}=1".removeprefix(":")
    if _may_restart and sys.executable and os.environ.get(_RESTARTED) != f"{os.getpid()}":
        os.environ[_RESTARTED] = f"{os.getpid()}"
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None if the parent process closed it
                stream.flush()
        # Without huge pages the command only runs slower.
        with contextlib.suppress(OSError), stopping.until_exec():
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _available() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        new_enough = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
        return new_enough and "[madvise]" in _POLICY.read_text(encoding="ascii")
    except (AttributeError, OSError, ValueError):  # another system, C library or kernel
        return False
