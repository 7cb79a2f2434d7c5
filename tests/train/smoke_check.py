"""A paper in miniature, through the command itself."""

import json

from train.reproduce import __main__ as reproduce
from train.reproduce.papers import PAPERS


def check_smoke(name, out, call):
    """Every row once, two points of each grid; and a second call finds all of it there."""
    paper = PAPERS[name]
    words = [name, "--scale", "smoke", "--seeds", "1", "--out", out, "--rows", "*"]
    if paper.grids:
        words += ["--grids", "*", "--points", "0:2"]
    status, _, stderr = call(reproduce, *words)
    assert status == 0, stderr
    ledger = json.loads((out / "smoke" / f"{name}.json").read_text(encoding="utf-8"))
    states = {row["name"]: (row["verdict"], len(row["runs"])) for row in ledger["rows"]}
    assert states == {row.name: ("smoke", 1) for row in paper.rows}
    for grid in ledger["grids"]:
        assert [point["state"] for point in grid["points"]] == ["done", "done"], grid["name"]
    page = (out / "smoke" / name / "report.html").read_text(encoding="utf-8")
    assert f"{name}: paper against ours" in page
    *_, stderr = call(reproduce, *words)
    assert stderr.count("is there already") == len(paper.rows) + 2 * len(paper.grids)
