"""The simulation of intervals, and its record."""

import json

import numpy as np
import pytest

from benchmarks import coverage, coverage_cases, tables
from benchmarks.record import RESULTS
from train.analysis import statistics


def test_the_recorded_intervals_cover_as_they_say():
    record = json.loads((RESULTS.parent / "coverage.json").read_text())
    assert record["repeats"] == 10_000
    assert [(c["name"], c["images"]) for c in record["cases"]] == [
        (case.name, case.images) for case in coverage_cases.cases()
    ]
    for case in record["cases"]:
        if case["measures"] == "coverage":
            assert coverage_cases.BOUNDS[0] < case["rate"] < coverage_cases.BOUNDS[1], case["name"]
        else:
            assert case["rate"] < 0.06, case["name"]
    assert "| Wilson | " in tables.coverage_table(tables.DOCS)


@pytest.mark.parametrize(
    "case", coverage_cases.cases(), ids=lambda case: f"{case.name} {case.images}"
)
def test_few_test_sets_agree_with_the_record(case):
    record = json.loads((RESULTS.parent / "coverage.json").read_text())
    (found,) = (
        c["rate"] for c in record["cases"] if (c["name"], c["images"]) == (case.name, case.images)
    )
    repeats = 10_000 if case.name == "Wilson" else 40
    rate = coverage_cases.measure(case, repeats, seed=0)
    assert abs(rate - found) < 4 * max(np.sqrt(found * (1 - found) / repeats), 1e-4)


def test_narrow_intervals_are_found(monkeypatch):
    monkeypatch.setattr(statistics, "CONFIDENCE", 0.9)
    case = coverage_cases.cases()[1]
    assert case.images == 500
    assert coverage_cases.measure(case, 10_000, seed=0) < coverage_cases.BOUNDS[0]


def test_the_command_writes_a_record(tmp_path, call, monkeypatch):
    monkeypatch.setattr(coverage_cases, "SIZES", (20,))
    out = tmp_path / "record.json"
    status, stdout, _ = call(coverage, "--repeats", "3", "--out", out)
    assert status == 0 and stdout.count("± ") == 6
    record = json.loads(out.read_text())
    assert record["command"] == "python -m benchmarks.coverage --repeats 3"
    assert {c["images"] for c in record["cases"]} == {20}
    status, _, stderr = call(coverage, "--repeats", "0")
    assert status == 2 and "use at least 1" in stderr
