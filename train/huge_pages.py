"""Memory in pages of 2 MiB, where Linux gives them to who asks.

XLA on a CPU takes its temporary memory from the system anew in each step: AlexNet's 530 MB are 136,000 pages of 4 KiB,
a fifth of the step; MobileNetV2's a third (`benchmarks/NOTES.md`). glibc reads the setting before a process starts, so
that a command has to start again: in the same process, in the time that its imports take. Any other process (a
notebook's, a caller's) is left alone, but for processes that it starts.

Imports the standard library only.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HUGE_PAGES = "glibc.malloc.hugetlb"  # of glibc 2.35 and later
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_RESTARTED = "JAX_ZOO_RESTARTED"  # the process that has, so that nothing can make it loop
_may_restart = False


@contextlib.contextmanager
def started_for(command: Callable[[list[str]], None]) -> Iterator[None]:
    """Within, `take` may start the process again, if it was started for this command alone."""
    global _may_restart
    _may_restart = _is_whole_process(command)
    try:
        yield
    finally:
        _may_restart = False


def _is_whole_process(command: Callable[[list[str]], None]) -> bool:
    """Whether the interpreter was started with just this command: not by a notebook, a debugger, a profiler, a test,
    or reading it from standard input."""
    if command.__module__ != "__main__" or sys.gettrace() is not None:
        return False
    spec = sys.modules["__main__"].__spec__
    name = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    tail = [*name, *sys.argv[1:]]
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(tail)]  # options of the interpreter
    words = [w for w, last in zip(before, ["", *before], strict=False) if last not in ("-X", "-W")]
    return (
        tail[0] not in ("", "-", "-c")
        and sys.orig_argv[1 + len(before) :] == tail
        and all(word.startswith("-") and word not in ("-m", "-c") for word in words)
    )


def take() -> None:
    """Ask for them, for this process where it may start again, and for those that it starts."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if HUGE_PAGES in tunables or not _for_the_asking():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}=1".removeprefix(":")
    if _may_restart and sys.executable and os.environ.get(_RESTARTED) != f"{os.getpid()}":
        os.environ[_RESTARTED] = f"{os.getpid()}"
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by whoever started us
                stream.flush()
        with contextlib.suppress(OSError):  # it is only slower without
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _for_the_asking() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        new_enough = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
        return new_enough and "[madvise]" in _POLICY.read_text(encoding="ascii")
    except (AttributeError, OSError, ValueError):  # another system, C library or kernel
        return False
