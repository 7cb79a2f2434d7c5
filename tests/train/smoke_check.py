"""Smoke run of a paper through its command."""

import json
import math

from train.reproduce import __main__ as reproduce
from train.reproduce import page as report
from train.reproduce import runner
from train.reproduce.papers import PAPERS
from train.reproduce.smoke import smoke_recipe


def forms(recipe):
    """What a recipe asks of the program: objectives, starts and freezing, features, weights, probe.

    A frozen stage followed by others includes a frozen stage alone.
    """
    asked = {(s.objective, s.start) for s in recipe.stages}
    if any(stage.freeze for stage in recipe.stages):
        asked |= {("freeze", stages) for stages in range(1, len(recipe.stages) + 1)}
    asked |= {type(recipe.features), type(recipe.pretrained), recipe.probe.method}
    return asked


def one_of_each_form():
    """Choose few rows, by paper, in which every form of smoke run occurs."""
    rows = [
        (name, row.name, forms(smoke_recipe(row.recipe)), len(row.recipe.stages))
        for name, paper in PAPERS.items()
        for row in paper.rows
    ]
    missing = set().union(*(asked for *_, asked, _ in rows))
    chosen = {name: [] for name in PAPERS}
    while missing:
        # The row with the most new forms; of several, one with the fewest stages.
        paper, row, asked, _ = max(rows, key=lambda r: (len(r[2] & missing), -r[3]))
        missing -= asked
        chosen[paper].append(row)
    return chosen


CHOSEN = one_of_each_form()
WITH_GRID = "cifar10"  # one trial of a grid


def check_smoke(name, out, call, monkeypatch, *, every):
    """Run every row and two trials per grid, or the rows of `one_of_each_form` and a trial of one grid of `WITH_GRID`.

    A second call must reuse all of them.
    """
    paper = PAPERS[name]
    rows = [row.name for row in paper.rows if row.seeds] if every else CHOSEN[name]
    grids = [grid.name for grid in paper.grids]
    if not every:
        grids = grids[: name == WITH_GRID]
    trials = 2 if every else 1
    words = [name, "--scale", "smoke", "--seeds", "1", "--out", out, "--rows", *rows]
    if grids:
        words += ["--grids", *grids, "--points", f"0:{trials}"]
    monkeypatch.setattr(
        runner, "REPORT_SECONDS", math.inf
    )  # draw the report's figures once, at the end
    status, _, stderr = call(reproduce, *words)
    assert status == 0, stderr
    ledger = json.loads((out / "smoke" / f"{name}.json").read_text(encoding="utf-8"))
    states = {row["name"]: (row["verdict"], len(row["runs"])) for row in ledger["rows"]}
    assert list(states) == [row.name for row in paper.rows]
    ran = [row for row, state in states.items() if state == ("smoke", 1)]
    assert all(runs == 0 for row, (_, runs) in states.items() if row not in ran)
    assert set(rows) <= set(ran)
    for grid in ledger["grids"]:
        outcomes = [trial["state"] for trial in grid["points"]]
        done = trials if grid["name"] in grids else 0
        assert outcomes[:done] == ["done"] * done, grid["name"]
    page = (out / "smoke" / name / "report.html").read_text(encoding="utf-8")
    assert f"{name}: reported and measured results" in page
    monkeypatch.setattr(report, "_figures", lambda *arguments: [])
    *_, stderr = call(reproduce, *words)
    assert stderr.count("already done") == len(ran) + trials * len(grids)
