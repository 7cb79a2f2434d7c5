"""A worker of `test_leases.py`: claims fake tasks, which take a few steps and can be resumed.

    python -m tests.train.lease_worker URL FOLDER PATIENCE

A task writes each step to FOLDER/KEY.steps, a line with owner and step, and continues after the last step there.
FOLDER/finished lists the tasks whose result is recorded.
"""

import sys
import time
from pathlib import Path

from train.studies.leases import Claims
from train.studies.storage import open_table
from train.studies.worker import Tasks, work

STEPS = 4
STEP_SECONDS = 0.02


class Fake(Tasks):
    def __init__(self, claims, folder):
        self.claims, self.folder = claims, folder

    def next(self, rows):
        return list(rows)

    def is_over(self, rows):
        return all(row.state == "done" for row in rows.values())

    def run(self, claimed):
        (row,) = claimed
        path = self.folder / f"{row.key}.steps"
        done = len(path.read_text().splitlines()) if path.exists() else 0
        for step in range(done, STEPS):
            time.sleep(STEP_SECONDS)
            with open(path, "a") as file:
                file.write(f"{self.claims.owner}\t{step}\n")
        return [{"key": row.key}]

    def finished(self, claimed):
        with open(self.folder / "finished", "a") as file:
            file.write("".join(f"{row.key}\n" for row in claimed))


if __name__ == "__main__":
    url, folder, patience = sys.argv[1:]
    claims = Claims(open_table(url, "fake"), patience=float(patience))
    print("ready", flush=True)
    work(claims, Fake(claims, Path(folder)), poll=0.05)
