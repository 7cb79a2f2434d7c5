"""A paper in miniature, through the command itself."""

import json

from train.reproduce import __main__ as reproduce
from train.reproduce.papers import PAPERS


def one_of_each_kind(paper):
    """The first row of each way through the program: models, objectives, starts, frozen parts, features, probes."""
    kinds = {}
    for row in paper.rows:
        recipe = row.recipe
        stages = tuple((s.objective, s.start, bool(s.freeze)) for s in recipe.stages)
        kind = recipe.model, stages, type(recipe.features), type(recipe.pretrained)
        kinds.setdefault((*kind, recipe.probe.method), row.name)
    return list(kinds.values())


def check_smoke(name, out, call, *, every):
    """Every row once and two points of each grid, or a row of each kind, the rows that it needs, and one point; and a
    second call finds all of it there."""
    paper = PAPERS[name]
    rows = [row.name for row in paper.rows] if every else one_of_each_kind(paper)
    points = 2 if every else 1
    words = [name, "--scale", "smoke", "--seeds", "1", "--out", out, "--rows", *rows]
    if paper.grids:
        words += ["--grids", "*", "--points", f"0:{points}"]
    status, _, stderr = call(reproduce, *words)
    assert status == 0, stderr
    ledger = json.loads((out / "smoke" / f"{name}.json").read_text(encoding="utf-8"))
    states = {row["name"]: (row["verdict"], len(row["runs"])) for row in ledger["rows"]}
    assert list(states) == [row.name for row in paper.rows]
    ran = [row for row, state in states.items() if state == ("smoke", 1)]
    assert {row: states[row] for row in states if row not in ran} == {
        row: ("not run", 0) for row in states if row not in ran
    }
    assert set(rows) <= set(ran)
    for grid in ledger["grids"]:
        done = [point["state"] for point in grid["points"]]
        assert done[:points] == ["done"] * points, grid["name"]
    page = (out / "smoke" / name / "report.html").read_text(encoding="utf-8")
    assert f"{name}: paper against ours" in page
    *_, stderr = call(reproduce, *words)
    assert stderr.count("is there already") == len(ran) + points * len(paper.grids)
