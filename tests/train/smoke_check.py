"""A document in miniature, through the command itself."""

import json

from train import papers, reproduce


def check_smoke(name, out, call):
    """Every row once, two points of each grid; and a second call finds all of it there."""
    document = papers.DOCUMENTS[name]
    words = [name, "--scale", "smoke", "--seeds", "1", "--out", out, "--rows", "*"]
    if document.grids:
        words += ["--grids", "*", "--points", "0:2"]
    status, _, stderr = call(reproduce, *words)
    assert status == 0, stderr
    ledger = json.loads((out / "smoke" / f"{name}.json").read_text(encoding="utf-8"))
    states = {row["name"]: (row["verdict"], len(row["runs"])) for row in ledger["rows"]}
    assert states == {row.name: ("smoke", 1) for row in document.rows}
    for grid in ledger["grids"]:
        assert [point["state"] for point in grid["points"]] == ["done", "done"], grid["name"]
    page = (out / "smoke" / name / "report.html").read_text(encoding="utf-8")
    assert f"{name}: paper against ours" in page
    *_, stderr = call(reproduce, *words)
    assert stderr.count("is there already") == len(document.rows) + 2 * len(document.grids)
