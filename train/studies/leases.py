"""Leases: which process runs which task of a study, with any storage.

A `Table` has one row per task, and changes of a row are atomic. A process claims a task by exchanging its row: this
succeeds only if the row has not changed since it was read. While a process works on a task, it increments the row's
`beat` every few seconds (`held`). A lease has expired if its beat has not changed for `patience` seconds on the clock
of the process that wants the task (clocks of machines differ, and are never compared), or at once if its owner ran on
this machine and has ended. A process that lost a lease can no longer finish the task, because its row has another
owner. So each task is finished once, however often it was started.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

State = Literal["open", "claimed", "done"]


@dataclasses.dataclass(frozen=True)
class Row:
    """The row of a task."""

    key: str  # unique in the study
    state: State = "open"
    owner: str = ""  # process that has claimed or finished it
    beat: int = 0  # incremented while the owner is alive
    result: Any = None  # JSON, of a finished task


Change = tuple[Row, Row]  # a row as it was read, and its replacement


class Table(Protocol):
    """The rows of a study's tasks. Every change is atomic, and visible to all processes when its method returns."""

    def add(self, keys: Sequence[str]) -> None:
        """Add a row for each key that has none."""

    def read(self) -> dict[str, Row]:
        """Return all rows, by key, in the order in which they were added."""

    def exchange(self, changes: Sequence[Change]) -> list[bool]:
        """Replace rows whose state, owner and beat are unchanged; return which were replaced. One change per key."""

    def fact(self, value: Any, *, replace: bool = False) -> Any:
        """Record the study (JSON), and return what was recorded first, or last replaced."""


# Processes.


def new_owner() -> str:
    """Name this process: machine, process id, start of the process, and a random part."""
    pid = os.getpid()
    return f"{_machine()} {pid} {_start_of(pid)} {secrets.token_hex(4)}"


def has_ended(owner: str) -> bool:
    """Whether a process is known to have ended; False for processes on other machines."""
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
    """Identify the scope of process ids: this boot of the machine, or a container."""
    parts = [platform.node() or "unknown"]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts).replace(" ", "_")


def _start_of(pid: int) -> str:
    """Return when a process started, in clock ticks; "0" if the system does not report it."""
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
        self._seen: dict[str, tuple[str, int, float]] = {}  # owner, beat, when first seen

    def claim(self, keys: Iterable[str]) -> Row | None:
        """Claim the first of these tasks that is open or has an expired lease; None if there is none."""
        rows = self.table.read()
        for key in keys:
            row = rows.get(key)
            if row is not None and self._is_free(row) and (claimed := self._take([row])):
                return claimed[0]
        return None

    def claim_all(self, keys: Iterable[str]) -> list[Row]:
        """Claim each of these tasks that is free."""
        rows = self.table.read()
        return self._take([rows[key] for key in keys if key in rows and self._is_free(rows[key])])

    def finish(self, results: Mapping[str, Any]) -> list[str]:
        """Record the results of claimed tasks, by key. Returns the keys that no other process has taken."""
        return self._replace(
            {key: {"state": "done", "result": result} for key, result in results.items()}
        )

    def release(self, keys: Iterable[str]) -> list[str]:
        """Let other processes claim tasks that are not finished. Returns the keys that no other process has taken."""
        return self._replace({key: {"state": "open", "owner": ""} for key in keys})

    def is_held(self, key: str) -> bool:
        """Whether this process has the lease of a task."""
        row = self.table.read().get(key)
        return row is not None and row.state == "claimed" and row.owner == self.owner

    def beat(self, keys: Iterable[str]) -> list[str]:
        """Renew leases. Returns the keys of those that were not lost."""
        return self._replace({key: {} for key in keys})

    def _take(self, rows: Sequence[Row]) -> list[Row]:
        taken = [
            dataclasses.replace(row, state="claimed", owner=self.owner, beat=row.beat + 1)
            for row in rows
        ]
        exchanged = self.table.exchange(list(zip(rows, taken, strict=True)))
        return [row for row, is_taken in zip(taken, exchanged, strict=True) if is_taken]

    def _replace(self, fields: Mapping[str, dict[str, Any]]) -> list[str]:
        """Change rows of this process, whose beats another thread may change at the same time; see `beat`."""
        done: list[str] = []
        left = list(fields)
        while left:
            rows = self.table.read()
            mine = [
                rows[key]
                for key in left
                if key in rows and rows[key].state == "claimed" and rows[key].owner == self.owner
            ]
            exchanged = self.table.exchange(
                [
                    (row, dataclasses.replace(row, beat=row.beat + 1, **fields[row.key]))
                    for row in mine
                ]
            )
            pairs = list(zip(mine, exchanged, strict=True))
            done += [row.key for row, is_done in pairs if is_done]
            left = [row.key for row, is_done in pairs if not is_done]
        return [key for key in fields if key in done]

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

    If the storage does not respond, the renewal is retried: the lease may survive that.
    """
    stop = threading.Event()

    def renew() -> None:
        keys = [row.key for row in rows]
        while not stop.wait(claims.patience / 6):
            with contextlib.suppress(Exception):
                keys = claims.beat(keys)

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
