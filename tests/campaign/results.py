"""The output of a command, reduced to what must be equal with and without a fault."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TIMES = ("seconds", "images_per_second", "data_wait_share")
TEST_TIMES = ("test_time_ms", "train_time_ms")


def of_run(path: Path) -> dict[str, Any]:
    """Content of a finished run directory without times; each field is compared bit for bit."""
    rows = list(csv.DictReader(io.StringIO((path / "summary.csv").read_text("utf-8"))))
    test = json.loads((path / "test.json").read_text("utf-8"))
    with np.load(path / "predictions.npz", allow_pickle=False) as saved:
        predictions = {name: _hash(saved[name].tobytes()) for name in saved.files}
    return {
        "metrics.jsonl": (path / "metrics.jsonl").read_text("utf-8"),
        "summary.csv": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "test.json": {k: v for k, v in test.items() if k not in TEST_TIMES},
        "weights": _hash((path / "best" / "weights.safetensors").read_bytes()),
        "predictions.npz": predictions,
        "splits.json": json.loads((path / "splits.json").read_text("utf-8"))["splits"],
        "recipe": json.loads((path / "config.json").read_text("utf-8"))["recipe"],
        "figures": sorted(p.name for p in path.glob("figures/*")),
        "report": (path / "report.html").is_file(),
        "unfinished": sorted(p.name for p in path.rglob("*.part")),
    }


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of the fields that differ."""
    return [name for name in expected if found.get(name) != expected[name]]


def only_shorter(found: str, expected: str) -> bool:
    """Whether a log is the expected one with lines missing."""
    return set(found.splitlines()) <= set(expected.splitlines())


def of_files(root: Path, ignored: tuple[str, ...] = ()) -> dict[str, str]:
    """Hashes of all files below a folder. OSError if the folder is missing."""
    root.stat()
    return {
        path.relative_to(root).as_posix(): _hash(path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not set(path.relative_to(root).parts) & set(ignored)
    }


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
