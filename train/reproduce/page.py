"""One self-contained page about a paper's ledger: `report.html`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.record.directory import RunDir
from train.report import figures, page
from train.reproduce import words
from train.reproduce.folders import Folders
from zoo.common.files import write_atomically

MOST_CURVES = 8  # in one figure


def write_page(result: Mapping[str, Any], folders: Folders) -> Path:
    """Write OUT/PAPER/report.html from a ledger and the run directories that it names, and return its path."""
    out = folders.base
    badge = " <span class=badge>smoke: no results</span>" if result["smoke"] else ""
    title = f"{result['document']}: paper against ours"
    parts = [
        f"<h1>{page.text(title)}{badge}</h1>",
        f"<p class=soft>{page.text(result['title'])}</p>",
        *(_table(result, name) for name in dict.fromkeys(r["table"] for r in result["rows"])),
        _comparisons(result["orderings"]),
        *(_grid(grid) for grid in result["grids"]),
        *_figures(result, out, folders.root / "figures"),
        page.section("Rows one by one", "".join(_row(row, out) for row in result["rows"])),
    ]
    write_atomically(folders.report, page.document(title, parts).encode())
    return folders.report


def _table(result: Mapping[str, Any], name: str) -> str:
    lines = []
    for row in result["rows"]:
        if row["table"] != name:
            continue
        lines.append((row["label"], "", "", "", "", words.show_data(row), row["text"]))
        lines += [
            (
                "",
                words.title_of(c["column"]),
                words.show_reported(c),
                words.show(c["column"], c["mean"], c["sd"]),
                c["n"] or "",
                "",
                c["verdict"],
            )
            for c in row["columns"]
        ]
    heading = ("row", "column", "printed", "ours", "seeds", "data", "verdict")
    return page.section(name, page.table(heading, lines))


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (c["text"], c["higher"], c["lower"], words.describe_comparison(c)) for c in comparisons
    ]
    heading = ("the paper says", "higher", "lower", "ours")
    return page.section("Orderings", page.table(heading, lines))


def _grid(grid: Mapping[str, Any]) -> str:
    paths = list(grid["axes"])
    lines = [
        (
            point["index"],
            *(point["point"][path] for path in paths),
            _share(point.get("validation_accuracy")),
            _share(point.get("accuracy")),
            point["text"] or point["state"],
        )
        for point in grid["points"]
    ]
    heading = ("point", *(p.rpartition(".")[2] for p in paths), "validation", "test", "state")
    about = f"<p>{page.text(words.describe_grid(grid))}</p>"
    if grid["reading"]:
        about += f"<p class=soft>{page.text(grid['reading'])}</p>"
    about += f"<pre>{page.text(grid['command'])}</pre>"
    title = f"Grid {grid['name']} ({grid['table']})"
    return page.section(title, about + page.table(heading, lines))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _row(row: Mapping[str, Any], out: Path) -> str:
    data = row["data"] or {}
    facts = [
        ("paper's setting", row["setting"]),
        ("ours", "; ".join(row["ran"])),
        ("verdict", row["text"]),
        ("reading", row["reading"]),
        ("data", words.show_data(row)),
        ("images", ", ".join(f"{n} {part}" for part, n in data.get("images", {}).items())),
        ("fingerprint", data.get("fingerprint", "")),
        ("epochs", ", ".join(str(run["epochs_run"]) for run in row["runs"] if run["epochs_run"])),
        ("commit", ", ".join(row["commits"]) + " with local changes" * row["dirty"]),
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
                body += f"<p>{page.picture(folder / f'{name}.png', title)}</p>"
    return f"<h3>{page.text(row['name'])}: {page.text(row['label'])}</h3>{body}"


def _figures(result: Mapping[str, Any], out: Path, folder: Path) -> list[str]:
    """Figures of several runs together, drawn into `folder` and embedded."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []

    def add(file: str, title: str, draw: Callable[..., None], *arguments: Any) -> None:
        path = folder / f"{file}.png"
        draw(*arguments, path, title)
        parts.append(page.section(title, page.picture(path, title)))

    for number, table in enumerate(dict.fromkeys(row["table"] for row in result["rows"])):
        rows = [row for row in result["rows"] if row["table"] == table]
        curves = {}
        for row in rows:
            for run in row["runs"][:1]:
                if epochs := RunDir(out / run["directory"]).read_summary():
                    curves[row["label"]] = epochs
        for start in range(0, len(curves), MOST_CURVES):
            some = dict(list(curves.items())[start : start + MOST_CURVES])
            title = f"{table}: curves of the first seeds"
            add(
                f"curves-{number}-{start}",
                title,
                figures.curves_of_runs,
                some,
                ("loss", "accuracy"),
            )
        scores = {
            row["label"]: list(column["values"].values())
            for row in rows
            for column in row["columns"]
            if column["column"] == "accuracy" and column["n"] > 1
        }
        if scores:
            add(f"seeds-{number}", f"{table}: accuracy over seeds", figures.seed_boxplot, scores)
        if any(
            c["column"] == "test_time_ms" and c["printed"] is not None
            for row in rows
            for c in row["columns"]
        ):
            times = _times(rows)
            if times:
                add(f"times-{number}", f"{table}: test times", figures.timing_bars, times)
    return parts


def _times(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Test times by model and batch size, as the rows' labels and settings tell."""
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        for column in row["columns"]:
            if column["column"] == "test_time_ms" and column["mean"] is not None:
                times.setdefault(row["model"], {})[str(row["batch_size"])] = column["mean"]
    return times
