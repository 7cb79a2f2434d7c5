"""Leases: which process runs which task of a study, the same on every storage.

A `Table` has one row per task, and changes of a row are atomic. A process claims a task by exchanging its row: that
succeeds only if the row is still as it was read. While a process works on a task, it increments the row's `beat` every
few seconds (`Held`). A lease has expired if its beat has not changed for `patience` seconds on the clock of the process
that wants the task (clocks of machines differ, and are never compared), or at once if its owner ran on this machine and
has ended. Whoever lost a lease cannot finish the task any more: its row has another owner. So each task is finished
once, however often it was started.

Imports only the standard library.
"""

import contextlib
import dataclasses
import functools
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

State = Literal["open", "claimed", "done"]


@dataclasses.dataclass(frozen=True)
class Row:
    """The row of a task."""

    key: str  # unique in the study
    state: State = "open"
    owner: str = ""  # process that has claimed or finished it
    beat: int = 0  # grows while the owner is alive
    result: Any = None  # JSON, of a finished task


class Table(Protocol):
    """The rows of a study's tasks. Every change is atomic, and visible to all processes when its method returns."""

    def add(self, keys: Sequence[str]) -> None:
        """Add a row per key, unless there is one."""

    def read(self) -> dict[str, Row]:
        """Return all rows, by key, in the order in which they were added."""

    def exchange(self, seen: Row, new: Row) -> bool:
        """Replace a row if state, owner and beat are still as `seen`; returns whether they were."""

    def fact(self, value: Any) -> Any:
        """Record what the study is (JSON), and return what was recorded first."""


# Processes.


def new_owner() -> str:
    """Name this process: machine, process id, start of the process, and a random part."""
    pid = os.getpid()
    return f"{_machine()} {pid} {_start_of(pid)} {secrets.token_hex(4)}"


def has_ended(owner: str) -> bool:
    """Whether a process is known to have ended; False for those of other machines."""
    machine, pid, start, _ = owner.split(" ")
    if machine != _machine():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _start_of(int(pid)) != start  # another process with the same id


@functools.cache
def _machine() -> str:
    """Name what process ids are unique in: this machine since it was started, or a container."""
    parts = [platform.node() or "unknown"]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts).replace(" ", "_")


def _start_of(pid: int) -> str:
    """Return when a process started, in clock ticks; "0" where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "0"
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return "ended" if fields[0] == "Z" else fields[19]


# Claims.


class Claims:
    """Claims tasks for this process."""

    def __init__(self, table: Table, *, patience: float = 60.0, owner: str = "") -> None:
        """Claim tasks of a table. `patience`: seconds without a beat after which a lease has expired."""
        self.table = table
        self.owner = owner or new_owner()
        self.patience = patience
        self._seen: dict[str, tuple[str, int, float]] = {}  # owner, beat, since when

    def claim(self, keys: Iterable[str]) -> Row | None:
        """Claim the first of these tasks that is open or has an expired lease; None if there is none."""
        rows = self.table.read()
        for key in keys:
            row = rows.get(key)
            if row is not None and self._is_free(row) and (claimed := self._take(row)):
                return claimed
        return None

    def claim_all(self, keys: Iterable[str]) -> list[Row]:
        """Claim each of these tasks that is free."""
        rows = self.table.read()
        free = [rows[key] for key in keys if key in rows and self._is_free(rows[key])]
        return [row for row in map(self._take, free) if row is not None]

    def finish(self, row: Row, result: Any) -> bool:
        """Record the result of a claimed task. Returns False if another process has taken the task."""
        return self._replace(row.key, state="done", result=result)

    def release(self, row: Row) -> bool:
        """Let other processes claim a task that is not finished. Returns False if one has already taken it."""
        return self._replace(row.key, state="open", owner="")

    def is_held(self, key: str) -> bool:
        """Whether this process has the lease of a task."""
        row = self.table.read().get(key)
        return row is not None and row.state == "claimed" and row.owner == self.owner

    def beat(self, key: str) -> bool:
        """Renew a lease. Returns False if it is lost."""
        return self._replace(key)

    def _take(self, row: Row) -> Row | None:
        new = dataclasses.replace(row, state="claimed", owner=self.owner, beat=row.beat + 1)
        return new if self.table.exchange(row, new) else None

    def _replace(self, key: str, **changes: Any) -> bool:
        """Change a row of this process, whose beat another thread may change at the same time."""
        while True:
            row = self.table.read().get(key)
            if row is None or row.state != "claimed" or row.owner != self.owner:
                return False
            if self.table.exchange(row, dataclasses.replace(row, beat=row.beat + 1, **changes)):
                return True

    def _is_free(self, row: Row) -> bool:
        if row.state != "claimed":
            return row.state == "open"
        if row.owner == self.owner:
            return False
        if has_ended(row.owner):
            return True
        owner, beat, since = self._seen.get(row.key, ("", -1, 0.0))
        if (owner, beat) != (row.owner, row.beat):
            self._seen[row.key] = row.owner, row.beat, time.monotonic()
            return False
        return time.monotonic() - since > self.patience


@contextlib.contextmanager
def held(claims: Claims, rows: Sequence[Row]) -> Iterator[None]:
    """Context in which a thread renews the leases of claimed tasks, six times within a lease's patience.

    A storage that does not answer is asked again: the lease may survive that.
    """
    stop = threading.Event()

    def renew() -> None:
        keys = [row.key for row in rows]
        while not stop.wait(claims.patience / 6):
            with contextlib.suppress(Exception):
                keys = [key for key in keys if claims.beat(key)]

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
