"""Run-log writer for files: `metrics.jsonl` has one line per step, `summary.csv` one row per epoch."""

import csv
import dataclasses
import io
import json
import math
from typing import Any

from train.record.directory import SUMMARY_COLUMNS, RunDir, write_text
from train.record.log import EpochRecord, RunLog, RunStart, StepRecord
from zoo.common.files import sync, write_atomically


class FileWriter(RunLog):
    """Writes metrics.jsonl and summary.csv. Steps are buffered until the end of an epoch or a checkpoint."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._steps: list[dict[str, Any]] = []

    def run_started(self, start: RunStart) -> None:
        """Truncate the logs to the checkpoint from which training resumes; later entries are dropped."""
        metrics, summary = self._run.metrics, self._run.summary
        if metrics.exists():
            lines = metrics.read_bytes().splitlines()
            kept = [line + b"\n" for line in lines if _step_of(line) <= start.step]
            write_atomically(metrics, b"".join(kept))
        if summary.exists():
            rows = [row for row in self._run.read_summary() if row["epoch"] <= start.epoch]
            table = io.StringIO()
            writer = csv.DictWriter(table, SUMMARY_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
            write_text(summary, table.getvalue())

    def step(self, record: StepRecord) -> None:
        """Buffer the step until the next flush. NaN and infinity become null."""
        values = {k: v if math.isfinite(v) else None for k, v in record.values.items()}
        named = {"step": record.step, "epoch": record.epoch, "stage": record.stage}
        self._steps.append({**named, **values})

    def epoch(self, record: EpochRecord) -> None:
        """Append the steps to metrics.jsonl and a row to summary.csv."""
        self._write_steps()
        values = dataclasses.asdict(record)
        row = {name: values[name] for name in SUMMARY_COLUMNS}
        row["is_best"] = int(record.is_best)
        is_new = not self._run.summary.exists()
        with open(self._run.summary, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, SUMMARY_COLUMNS)
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def flush(self) -> None:
        """Flush everything to disk, so that a checkpoint is never newer than the logs."""
        self._write_steps()
        for path in (self._run.metrics, self._run.summary):
            if path.exists():
                with open(path, "rb+") as file:
                    sync(file)

    def _write_steps(self) -> None:
        with open(self._run.metrics, "a", encoding="utf-8") as file:
            for step in self._steps:
                file.write(json.dumps(step, allow_nan=False) + "\n")
        self._steps = []


def _step_of(line: bytes) -> float:
    """Return the step of a line; infinity for an invalid line, such as one truncated by a full disk or a crash."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if type(step) is int else math.inf
