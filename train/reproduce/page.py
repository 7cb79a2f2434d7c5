"""HTML report of a paper's ledger as one self-contained file: `report.html`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.formats.sources import OUTPUT_MARK
from train.record.directory import RunDir, write_text
from train.report import page
from train.reproduce import formatting
from train.reproduce.figures import draw_figures as _figures
from train.reproduce.folders import Folders


def write_page(result: Mapping[str, Any], folders: Folders) -> Path:
    """Write OUT/PAPER/report.html from a ledger and the run directories it names; return its path."""
    out = folders.base
    drawn = _figures(result, folders.root / "figures", lambda run: _epochs(run, out))
    badge = " <span class=badge>smoke: no results</span>" if result["smoke"] else ""
    title = f"{result['document']}: reported and measured results"
    parts = [
        f"<h1>{page.text(title)}{badge}</h1>",
        f"<p class=soft>{page.text(result['title'])}</p>",
        *(_table(result, name) for name in dict.fromkeys(r["table"] for r in result["rows"])),
        _comparisons(result["orderings"]),
        _claims(result["claims"]),
        *(_grid(grid) for grid in result["grids"]),
        *(page.section(title, page.image(path, title)) for path, title in drawn),
        page.section("Details per row", "".join(_row(row, out) for row in result["rows"])),
    ]
    write_text(folders.report, page.document(title, parts))
    (folders.root / OUTPUT_MARK).touch()
    return folders.report


def _table(result: Mapping[str, Any], name: str) -> str:
    lines = []
    for row in result["rows"]:
        if row["table"] != name:
            continue
        lines.append((row["label"], "", "", "", "", formatting.show_data(row), row["text"]))
        lines += [
            (
                "",
                formatting.column_title(c["column"]),
                formatting.show_reported(c),
                formatting.show_value(c["column"], c["mean"], c["sd"]),
                c["n"] or "",
                "",
                c["verdict"],
            )
            for c in row["columns"]
        ]
    heading = ("row", "column", "reported", "measured", "seeds", "data", "verdict")
    return page.section(name, page.table(heading, lines))


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (c["text"], c["higher"], c["lower"], formatting.describe_comparison(c)) for c in comparisons
    ]
    heading = ("statement of the paper", "higher", "lower", "measured")
    return page.section("Comparisons", page.table(heading, lines))


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    lines = [(c["text"], c["row"], formatting.describe_claim(c)) for c in claims]
    return page.section("Claims", page.table(("statement of the paper", "row", "measured"), lines))


def _grid(grid: Mapping[str, Any]) -> str:
    paths = list(grid["axes"])
    lines = [
        (
            trial["index"],
            *(trial["point"][path] for path in paths),
            _percent(trial.get("validation_accuracy")),
            _percent(trial.get("accuracy")),
            trial["text"] or trial["state"],
        )
        for trial in grid["points"]
    ]
    heading = ("trial", *(p.rpartition(".")[2] for p in paths), "validation", "test", "state")
    intro = f"<p>{page.text(formatting.describe_grid(grid))}</p>"
    if grid["reading"]:
        intro += f"<p class=soft>{page.text(grid['reading'])}</p>"
    intro += f"<pre>{page.text(grid['command'])}</pre>"
    title = f"Grid {grid['name']} ({grid['table']})"
    return page.section(title, intro + page.table(heading, lines))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _row(row: Mapping[str, Any], out: Path) -> str:
    data = row["data"] or {}
    facts = [
        ("paper's setting", row["setting"]),
        ("measured with", "; ".join(row["ran"])),
        ("verdict", row["text"]),
        ("note", row["reading"]),
        ("data", formatting.show_data(row)),
        ("images", ", ".join(f"{n} {split}" for split, n in data.get("images", {}).items())),
        ("fingerprint", data.get("fingerprint", "")),
        ("epochs", ", ".join(str(run["epochs_run"]) for run in row["runs"] if run["epochs_run"])),
        ("commit", ", ".join(row["commits"]) + " with uncommitted changes" * row["dirty"]),
        ("hardware", ", ".join(row["hardware"])),
        (
            "versions",
            "; ".join(", ".join(f"{k} {v}" for k, v in each.items()) for each in row["versions"]),
        ),
        *((f"seed {run['seed']}", run["remark"]) for run in row["runs"] if run.get("remark")),
        *((f"seed {run['seed']}", f"{run['state']} {run['text']}") for run in row["others"]),
    ]
    body = page.table(("field", "value"), (fact for fact in facts if fact[1]))
    body += f"<pre>{page.text(row['command'])}</pre>"
    for run in row["runs"][:1]:
        folder = RunDir(out / run["directory"]).figures
        for name, text in (("confusion_matrix", "confusion matrix"), ("tsne", "t-SNE")):
            if (folder / f"{name}.png").exists():
                title = f"{row['name']}, seed {run['seed']}: {text}"
                body += f"<p>{page.image(folder / f'{name}.png', title)}</p>"
    return f"<h3>{page.text(row['name'])}: {page.text(row['label'])}</h3>{body}"


def _epochs(run: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Read the epochs of a run."""
    return RunDir(out / run["directory"]).read_summary()
