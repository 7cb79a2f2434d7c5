"""Tables of tasks: in a database, or in a journal (an append-only file)."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from train.studies.leases import Change, Row

Made = TypeVar("Made")

TASKS = "jax_zoo_tasks"
STUDIES = "jax_zoo_studies"


ATTEMPTS = 20


def created(create: Callable[[], Made], url: str) -> Made:
    """Call `create`, which creates database tables; retry if another process creates them at the same time."""
    import sqlalchemy

    clashes: list[type[Exception]] = [
        sqlalchemy.exc.IntegrityError,
        sqlalchemy.exc.ProgrammingError,
    ]
    if url.startswith("sqlite"):
        clashes.append(sqlalchemy.exc.OperationalError)  # on a server, a connection error
    for _ in range(ATTEMPTS):
        with contextlib.suppress(*clashes):
            return create()
        time.sleep(0.1)
    return create()


class JournalTable:
    """Rows in a journal, whose lines are changes, applied in order.

    A change has an effect only if the row is as it expects, so all readers see the same rows. Lines are appended under
    a lock, which the operating system releases if the process is killed; a line that a full disk truncated is skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(f"{path.name}.lock")
        self._rows: dict[str, Row] = {}
        self._facts: dict[str, Any] = {}
        self._position = 0

    def add(self, keys: Sequence[str]) -> None:
        """See `train.studies.leases.Table`."""
        with self._locked():
            missing = [key for key in keys if key not in self._rows]
            self._append([{"add": key} for key in missing])

    def read(self) -> dict[str, Row]:
        """See `train.studies.leases.Table`."""
        with self._locked():
            return dict(self._rows)

    def exchange(self, changes: Sequence[Change]) -> list[bool]:
        """See `train.studies.leases.Table`."""
        with self._locked():
            is_same = [
                seen.key in self._rows and _version(self._rows[seen.key]) == _version(seen)
                for seen, _ in changes
            ]
            self._append(
                [
                    {"row": dataclasses.asdict(new), "beat": seen.beat, "owner": seen.owner}
                    for (seen, new), same in zip(changes, is_same, strict=True)
                    if same
                ]
            )
            return is_same

    def fact(self, value: Any, *, replace: bool = False) -> Any:
        """See `train.studies.leases.Table`."""
        with self._locked():
            if replace or "study" not in self._facts:
                self._append([{"study": value, "replace": replace}])
            return self._facts["study"]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, and read the lines that other processes have appended."""
        from filelock import FileLock

        with FileLock(self._lock):
            self._read_on()
            yield

    def _read_on(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._position)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._apply(json.loads(line))

    def _append(self, changes: Sequence[dict[str, Any]]) -> None:
        if not changes:
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        begin = "\n" if size > self._position else ""  # ends a truncated line
        lines = "".join(f"{json.dumps(change)}\n" for change in changes)
        with open(self.path, "ab") as file:
            file.write((begin + lines).encode())
            file.flush()
            os.fsync(file.fileno())
        self._read_on()

    def _apply(self, change: dict[str, Any]) -> None:
        if "study" in change:
            if change.get("replace") or "study" not in self._facts:
                self._facts["study"] = change["study"]
        elif "add" in change:
            self._rows.setdefault(change["add"], Row(change["add"]))
        else:
            new = Row(**change["row"])
            row = self._rows[new.key]
            if (row.beat, row.owner) == (change["beat"], change["owner"]):
                self._rows[new.key] = new


def _version(row: Row) -> tuple[str, str, int]:
    return row.state, row.owner, row.beat


class DatabaseTable:
    """Rows in a table of a relational database (SQLite or PostgreSQL), which may also hold other studies."""

    def __init__(self, engine: Any, study: str) -> None:
        """Use a study's rows, and create the tables if the database of this SQLAlchemy `engine` has none."""
        import sqlalchemy as sa

        self._engine, self._study = engine, study
        metadata = sa.MetaData()
        self._tasks = sa.Table(
            TASKS,
            metadata,
            sa.Column("study", sa.String(200), primary_key=True),
            sa.Column("key", sa.String(200), primary_key=True),
            sa.Column("number", sa.Integer, nullable=False),
            sa.Column("state", sa.String(10), nullable=False),
            sa.Column("owner", sa.String(400), nullable=False),
            sa.Column("beat", sa.Integer, nullable=False),
            sa.Column("result", sa.Text, nullable=True),
        )
        self._studies = sa.Table(
            STUDIES,
            metadata,
            sa.Column("study", sa.String(200), primary_key=True),
            sa.Column("content", sa.Text, nullable=False),
        )
        metadata.create_all(engine)

    def add(self, keys: Sequence[str]) -> None:
        """See `train.studies.leases.Table`."""
        present = self.read()
        rows = [
            {
                "study": self._study,
                "key": key,
                "number": number,
                "state": "open",
                "owner": "",
                "beat": 0,
            }
            for number, key in enumerate(keys, len(present))
            if key not in present
        ]
        if rows:
            self._insert(self._tasks, rows)

    def read(self) -> dict[str, Row]:
        """See `train.studies.leases.Table`."""
        import sqlalchemy as sa

        t = self._tasks.c
        query = (
            sa.select(t.key, t.state, t.owner, t.beat, t.result)
            .where(t.study == self._study)
            .order_by(t.number, t.key)
        )
        with self._engine.connect() as connection:
            found = connection.execute(query).all()
        return {
            key: Row(key, state, owner, beat, None if result is None else json.loads(result))
            for key, state, owner, beat, result in found
        }

    def exchange(self, changes: Sequence[Change]) -> list[bool]:
        """See `train.studies.leases.Table`. Each change is one statement, which the database executes atomically."""
        import sqlalchemy as sa

        if not changes:
            return []
        t = self._tasks.c
        exchanged = {}
        with self._engine.begin() as connection:
            # All processes change rows in the same order, so that they cannot deadlock.
            for seen, new in sorted(changes, key=lambda change: change[0].key):
                values = {
                    "state": new.state,
                    "owner": new.owner,
                    "beat": new.beat,
                    "result": None if new.result is None else json.dumps(new.result),
                }
                same = (t.state == seen.state) & (t.owner == seen.owner) & (t.beat == seen.beat)
                statement = (
                    sa.update(self._tasks)
                    .where((t.study == self._study) & (t.key == seen.key) & same)
                    .values(**values)
                )
                exchanged[seen.key] = connection.execute(statement).rowcount == 1
        return [exchanged[seen.key] for seen, _ in changes]

    def fact(self, value: Any, *, replace: bool = False) -> Any:
        """See `train.studies.leases.Table`."""
        import sqlalchemy as sa

        content = json.dumps(value)
        self._insert(self._studies, [{"study": self._study, "content": content}])
        t = self._studies.c
        if replace:
            changed = sa.update(self._studies).where(t.study == self._study)
            with self._engine.begin() as connection:
                connection.execute(changed.values(content=content))
        with self._engine.connect() as connection:
            query = sa.select(t.content).where(t.study == self._study)
            return json.loads(connection.execute(query).scalar_one())

    def _insert(self, table: Any, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows, except those whose key exists."""
        if self._engine.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        else:
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
        with self._engine.begin() as connection:
            connection.execute(insert(table).on_conflict_do_nothing(), list(rows))
