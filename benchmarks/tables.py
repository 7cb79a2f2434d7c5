"""Generate the tables and pages of the documentation from records and code:

    python -m benchmarks.tables

In README.md, mkdocs.yml and the pages under docs/, the text between a line `<!-- NAME:begin -->` (`# NAME:begin` in
YAML) and the line `NAME:end` is replaced. Pages for model families, papers and commands are generated entirely. A test
fails if a file is out of date.
"""

import dataclasses
import importlib
import json
import os
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import epoch, gpu, pages
from benchmarks.command import check_checkout
from benchmarks.pages import DOCS, GENERATED, ROOT, markdown
from benchmarks.record import RESULTS
from train import cli, flags
from train.record.environment import hardware
from train.reproduce.markdown import markdown as ledger_markdown
from zoo.common.files import write_atomically

README = ROOT / "README.md"
# Folders of pages that are generated entirely, except for their index.md.
WHOLE = ("models", "papers", "commands")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags: none."""


def main(argv: list[str]) -> None:
    """Run the command."""
    flags.parse(Arguments, argv, "benchmarks.tables", __doc__)
    check_checkout("benchmarks.tables")
    cli.prepare_environment(large_arrays=False)
    for path, text in rendered().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode())
            print(path.relative_to(ROOT))
    for path in stale():
        path.unlink()
        print(f"{path.relative_to(ROOT)} (removed)")


def rendered() -> dict[Path, str]:
    """All files that the command writes, with their text."""
    found = whole_pages()
    for path in (README, ROOT / "mkdocs.yml", *sorted(DOCS.rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if path not in found and MARKER.search(text):
            found[path] = render(text, path.parent)
    return found


def whole_pages() -> dict[Path, str]:
    """Pages for model families, papers and commands."""
    found = {DOCS / "models" / f"{name}.md": pages.family_page(name) for name in pages.families()}
    found |= {DOCS / "papers" / f"{name}.md": paper_page(name) for name in papers()}
    for name in pages.commands():
        found[DOCS / "commands" / f"{name}.md"] = pages.command_page(name)
    return found


def stale() -> list[Path]:
    """Generated pages that this version no longer writes."""
    found = []
    for folder, names in page_names().items():
        for path in sorted((DOCS / folder).glob("*.md")):
            if path.stem not in names and GENERATED in path.read_text("utf-8"):
                found.append(path)
    return found


def page_names() -> dict[str, list[str]]:
    """Names of the pages in each folder of WHOLE."""
    names = (list(pages.families()), list(papers()), list(pages.commands()))
    return dict(zip(WHOLE, names, strict=True))


MARKER = re.compile(r"^( *)(<!--|#) ([\w-]+):begin(?: -->)?\n", re.MULTILINE)


def render(text: str, folder: Path) -> str:
    """Replace each marked table in the text of a file. Its links are relative to `folder`."""
    position = 0
    while match := MARKER.search(text, position):
        indent, name = match[1], match[3]
        end = text.index(match[0].replace(":begin", ":end"), match.end())
        lines = TABLES[name](folder).splitlines()
        table = "".join(f"{indent}{line}\n" if line else "\n" for line in lines)
        text = text[: match.end()] + table + text[end:]
        position = match.end() + len(table)
    return text


def link(path: Path, folder: Path) -> str:
    """Relative link from a page in `folder` to a file of the repository."""
    return os.path.relpath(path, folder)


# Models.


def families_table(folder: Path) -> str:
    """One row per model family."""
    rows = []
    for family, names in pages.families().items():
        infos = [pages.model_info(name) for name in names]
        counts = sorted(info.parameters for info in infos)
        tags = dict.fromkeys(tag for info in infos for tag in info.pretrained)
        rows.append(
            (
                f"[{family}]({link(DOCS / 'models' / f'{family}.md', folder)})",
                pages.family_summary(family),
                ", ".join(f"`{name}`" for name in names),
                f"{millions(counts[0])} to {millions(counts[-1])}",
                ", ".join(tags),
            )
        )
    return markdown(("family", "description", "models", "parameters", "published weights"), rows)


def millions(count: int) -> str:
    """Format a parameter count with three digits: 62.4 M, 9.87 k."""
    return f"{three_digits(count / 1e6)} M" if count >= 1e6 else f"{three_digits(count / 1e3)} k"


def models_table(folder: Path) -> str:
    """One row per registered model."""
    rows = []
    for family, names in pages.families().items():
        for name in names:
            info = pages.model_info(name)
            page = link(DOCS / "models" / f"{family}.md", folder)
            size, count = pages.input_size(info), f"{info.parameters:,}"
            rows.append((f"[`{name}`]({page})", size, count, info.source, info.description))
    rows.sort(key=lambda row: pages.natural(row[0].split("`")[1]))
    return markdown(("model", "input", "parameters", "source", "description"), rows)


def parity_table(folder: Path) -> str:
    """One row per case of the recorded comparison with torchvision."""
    rows = []
    for name, case in read("parity_torch.json")["cases"].items():
        step = case.get("step")
        rows.append(
            (
                name,
                "x".join(map(str, case["case"]["size"])),
                f"{case['logits_max_error']:.1e}",
                f"{case['logits_max']:.3g}",
                *((f"{step[key]:.1e}" for key in ("loss", "gradients")) if step else ("", "")),
            )
        )
    heading = "model, input, error of logits, largest logit, error of the loss, error of gradients"
    return markdown(heading.split(", "), rows)


def api_models(folder: Path) -> str:
    """One API section per model family, with its public classes and functions, except for variants."""
    sections = []
    for family, variants in pages.families().items():
        module = importlib.import_module(f"zoo.{family}")
        names = [
            name
            for name, item in vars(module).items()
            if getattr(item, "__module__", None) == module.__name__
            and not name.startswith("_")
            and name not in variants
        ]
        lines = [
            f"## {family}\n",
            f"[Variants and weights]({link(DOCS / 'models' / f'{family}.md', folder)})\n",
        ]
        lines += [
            f"::: zoo.{family}.{name}\n    options:\n      heading_level: 3\n" for name in names
        ]
        sections.append("\n".join(lines))
    return "\n".join(sections)


# Runs and papers.


def runs_table(folder: Path) -> str:
    """One row per recorded run."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        dataset = f"{data['dataset']}{' (synthetic)' if data['synthetic'] else ''}"
        rows.append(
            (
                f"[`{data['model']}`]({link(path, folder)})",
                dataset,
                str(data["epochs_run"]),
                f"{data['test']['accuracy']:.2%}",
                f"{data['test']['f1']:.2%}",
                str(data["num_examples"]),
                cli.duration(data["train_time_ms"] / 1000),
                f"{data['data_wait_share']:.1%}",
                data["hardware"],
            )
        )
    heading = "model, data, epochs, test accuracy, macro-F1, test images, training time, waiting for data, hardware"
    return markdown(heading.split(", "), rows)


def papers() -> list[str]:
    """Short names of the papers."""
    from train.reproduce.papers import PAPERS

    return list(PAPERS)


def ledger(paper: str) -> tuple[Path, dict[str, Any] | None]:
    """A paper's recorded ledger and its file; None if nothing is recorded."""
    path = RESULTS.parent / f"ledger_{paper}.json"
    return path, json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def papers_table(folder: Path) -> str:
    """One row per paper."""
    from train.reproduce.papers import PAPERS

    rows = []
    for name, paper in PAPERS.items():
        _, recorded = ledger(name)
        measured = sum(bool(row["runs"]) for row in recorded["rows"]) if recorded else 0
        page = link(DOCS / "papers" / f"{name}.md", folder)
        rows.append((f"[{name}]({page})", paper.title, str(len(paper.rows)), str(measured)))
    return markdown(("name", "paper", "rows", "rows that were run"), rows)


def paper_page(name: str) -> str:
    """A paper's claims and settings, from the docstrings of its modules, and its recorded ledger."""
    from train.reproduce.papers import PAPERS

    claims, settings = (
        pages.as_markdown(importlib.import_module(f"{package}.{name}").__doc__ or "", ragged=True)
        for package in ("train.reproduce.papers", "train.recipes")
    )
    path, recorded = ledger(name)
    page = DOCS / "papers" / f"{name}.md"
    results = ledger_markdown(recorded, link(path, page.parent)) if recorded else "Not run.\n"
    learned = PAPERS[name].learned.strip()
    if learned:
        learned = f"\n## What we learned\n\n{learned}\n"
    return (
        f"# {PAPERS[name].title}\n\n{GENERATED}\n\n{claims.strip()}\n\n"
        f"[Reproducing a paper](../guide/reproducing.md) explains rows, verdicts and proxy data.\n\n"
        f"## Reported and measured\n\n{results}\n{paper_figures(name)}"
        f"## Settings\n\n{settings.strip()}\n{learned}"
    )


def paper_figures(name: str) -> str:
    """The figures that `benchmarks.record` has drawn of a paper's recorded runs."""
    titles = DOCS / "papers" / f"{name}-figures.json"
    if not titles.is_file():
        return ""
    drawn = json.loads(titles.read_text(encoding="utf-8"))
    return "".join(f"![{title}]({file})\n\n" for file, title in drawn.items())


# Speed.


def speed_table(folder: Path) -> str:
    """One row per step and batch size of the recorded runs of benchmarks.throughput."""
    paths = sorted(RESULTS.parent.glob("throughput_*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    peers = list(dict.fromkeys(name for r in records for name in r["environment"] if name != "zoo"))
    heading = ["model", "step", "batch", "images/s", *peers, "hardware, versions"]
    rows, backends = [], set()
    for path, data in zip(paths, records, strict=True):
        zoo = data["environment"]["zoo"]
        backends.add(zoo.get("backend", "cpu"))
        versions = {
            library: facts[library]
            for name, facts in data["environment"].items()
            if (library := name.partition("-")[0]) in facts
        }
        where = [f"{zoo['devices'][0]}, {zoo['cores']} cores, JAX {zoo['versions']['jax']}"]
        where += [f"{library} {version}" for library, version in versions.items()]
        lines: dict[tuple, dict[str, str]] = {}
        for row in data["results"]:
            name, prefix = row["implementation"], "train" if row["mode"] == "train" else "infer"
            size, batch = row[f"{prefix}_img_size"], row[f"{prefix}_batch_size"]
            line = lines.setdefault(
                (row["mode"], batch, size, row["model"], row["dtype"]),
                dict.fromkeys(heading, "")
                | {
                    "model": f"[`{row['model']}`]({link(path, folder)})",
                    "step": f"{row['mode']}, {row['dtype']}",
                    "batch": f"{batch} x {size}x{size}",
                    "hardware, versions": ", ".join(where),
                },
            )
            speed = row.get("error") or three_digits(row[f"{prefix}_samples_per_sec"])
            if name == "zoo":
                line["images/s"] = speed
            else:
                times = f"**{row['zoo_speedup']:.2f}**: " if row.get("zoo_speedup") else ""
                line[name] = times + speed
        rows += [tuple(line.values()) for line in lines.values()]
    if backends <= {"cpu"}:
        rows.append(("all", "", "", *["not measured"] * (1 + len(peers)), "a GPU"))
    return markdown(heading, rows)


def speed_summary(folder: Path) -> str:
    """State the range of the zoo's speed relative to torch's, over all recorded runs on a CPU."""
    speedups: dict[str, list[float]] = {"train": [], "test": []}
    models = set()
    for path in sorted(RESULTS.parent.glob("throughput_*_cpu.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["results"]:
            if row["implementation"] == "torch" and row.get("zoo_speedup"):
                speedups[row["mode"]].append(row["zoo_speedup"])
                models.add(row["model"])
    train, test = (f"{min(s):.2f} to {max(s):.2f} times" for s in speedups.values())
    return (
        f"Relative to torch on two CPU cores, over {len(models)} networks and the recorded batch sizes: training steps"
        f" run\n{train} as fast, test steps {test}.\n"
    )


def table1_table(folder: Path) -> str:
    """One row per network and batch size of the recorded run of benchmarks.table1."""
    data = read("table1_cpu.json")
    rows = [
        (
            row["label"],
            f"{row['batch_size']}",
            f"{row['test_time_ms']:,.0f}",
            f"{row['printed']['test_time_ms']:,}",
            f"{row['epoch_time_ms']:,.0f}",
            f"{row['printed']['train_time_ms']:,}",
        )
        for row in data["results"]
    ]
    heading = "network, batch, test (ms), reported, one epoch (ms), reported for all epochs"
    return markdown(heading.split(", "), rows)


def loading_table(folder: Path) -> str:
    """One row per loader of the recorded run of benchmarks.input_pipeline."""
    best = read("input_pipeline_cpu.json")["best"]
    peers = {name: speed for name, speed in best.items() if name.startswith("torchvision")}
    rows = [
        (
            name,
            f"{speed:,.0f}",
            *("" if name in peers else f"{speed / other:.2f}" for other in peers.values()),
        )
        for name, speed in best.items()
    ]
    return markdown(("loader", "images/s", *(f"relative to {name}" for name in peers)), rows)


def epoch_table(folder: Path) -> str:
    """One row per implementation in the recorded run of benchmarks.epoch."""
    data = read("epoch_cpu.json")
    rows = [
        (
            epoch.label(row),
            f"{row['images']:,}",
            f"{row['epoch_seconds']:.1f}",
            f"{row['samples_per_sec']:,.0f}",
            f"{row['seconds_until_training']:.1f}",
        )
        for row in data["results"]
    ]
    return markdown(
        ("loader", "images", "s per epoch", "images/s", "s before the first epoch"), rows
    )


def gpu_table(folder: Path) -> str:
    """One row per step of the recorded runs of benchmarks.gpu; dry runs are marked."""
    rows = []
    for path in sorted(RESULTS.parent.glob("gpu_*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        facts = data["calls"][0]["environment"]
        where = hardware(facts) + (", dry run with tiny networks" if data["dry_run"] else "")
        for name, step in data["steps"].items():
            seconds = f"{step['seconds']:.0f}"
            message = step.get("message", "")
            rows.append((f"[{where}]({link(path, folder)})", name, step["state"], seconds, message))
    return markdown(("hardware", "step", "state", "s", "message"), rows)


def gpu_goals(folder: Path) -> str:
    """One row per goal, with the measured value on each recorded GPU."""
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.parent.glob("gpu_*.json"))
    ]
    measured = [data for data in records if not data["dry_run"]]
    names = [hardware(data["calls"][0]["environment"]) for data in measured]
    rows = []
    for goal in gpu.goals({}):
        cells = []
        for data in measured:
            [found] = [g for g in data["goals"] if g["goal"] == goal["goal"]] or [goal]
            value = found["value"]
            verdict = "met" if found["met"] else "not met"
            cells.append("not measured" if value is None else f"{value:.2f}, {verdict}")
        bound = f"{goal['relation']} {goal['bound']:g}"
        rows.append((goal["goal"], bound, *(cells or ["not measured"])))
    return markdown(("goal", "bound", *(names or ["a GPU"])), rows)


def startup_table(folder: Path) -> str:
    """One row per command of the recorded run of benchmarks.startup."""
    data = read("startup_cpu.json")
    rows = [
        (f"`{name}`", f"{statistics.median(seconds):.2f}")
        for name, seconds in data["seconds"].items()
    ]
    rows += [
        (
            f"first training step of `{data['model']}`, {name} compilation cache",
            f"{parts['all']:.1f}",
        )
        for name, parts in data["first_step"].items()
    ]
    return markdown(("command", "s"), rows)


def read(name: str) -> dict[str, Any]:
    """Read a record by its file name."""
    return json.loads((RESULTS.parent / name).read_text(encoding="utf-8"))


def three_digits(number: float) -> str:
    """Format a positive number with three significant digits, or all its integer digits: 9.83, 24.3, 1,385."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.{1 if number >= 10 else 2}f}"


# Navigation and lists of pages.


def commands_table(folder: Path) -> str:
    """One row per command."""
    rows = []
    for name in pages.commands():
        page = link(DOCS / "commands" / f"{name}.md", folder)
        rows.append((f"[`python -m {name}`]({page})", pages.command_summary(name)))
    return markdown(("command", "what it does"), rows)


def navigation(section: str) -> Callable[[Path], str]:
    """Pages of a folder of WHOLE, in the form of `nav` in mkdocs.yml."""
    return lambda folder: "".join(f"- {section}/{name}.md\n" for name in page_names()[section])


def coverage_table(folder: Path) -> str:
    """One row per interval or test in the recorded simulation, and one column per number of images."""
    record = read("coverage.json")
    sizes = sorted({case["images"] for case in record["cases"]})
    rows: dict[tuple[str, str], list[str]] = {}
    for case in record["cases"]:
        what = {"coverage": "coverage", "false alarms": "false positive rate"}
        row = rows.setdefault((case["name"], case["text"]), [what[case["measures"]]])
        row.append(f"{case['rate']:.1%}")
    heading = ("interval or test", "of", "measure", *(f"{size} images" for size in sizes))
    note = f"{record['repeats']:,} test sets each; intervals have a nominal coverage of 95%."
    return markdown(heading, [(*key, *row) for key, row in rows.items()]) + f"\n\n{note}"


def members_table(folder: Path) -> str:
    """One row per recorded set of runs that train as one program, or would."""
    rows = []
    for path in sorted(RESULTS.parent.glob("members*.json")):
        for case in read(path.name)["cases"]:
            for net in case.get("nets", ()):
                what = f"a step of {net['members']} seeds of `{net['model']}`, batch {net['batch_size']}"
                times = [f"{net[key]:.0f} ms" for key in ("together_ms", "alone_ms")]
                rows.append((what, *times, f"{net['alone_ms'] / net['together_ms']:.1f}"))
            if "runs" in case:
                what = MEMBERS[case["case"]].format(runs=case["runs"], epochs=case["epochs"])
                rounds = {"": case, ", compiled before": case.get("compiled_before")}
                for when, found in rounds.items():
                    if found:
                        times = [f"{found[key]:.0f} s" for key in ("together_s", "alone_s")]
                        rows.append((what + when, *times, f"{found['ratio']:.1f}"))
    heading = ("what", "as one program", "one after another", "speedup")
    return markdown(heading, rows)


MEMBERS = {
    "heads": "{runs} heads of a frozen `mobilenet_v2`, 3,500 photographs, {epochs} epochs, from files to test scores",
    "vade_tiny": "{runs} seeds of `vade_tiny` on digits, {epochs} epochs per stage",
    "vade": "{runs} seeds of `vade` on digits, {epochs} epochs per stage",
}


TABLES: dict[str, Callable[[Path], str]] = {
    "families": families_table,
    "models": models_table,
    "api-models": api_models,
    "parity": parity_table,
    "runs": runs_table,
    "papers": papers_table,
    "speed": speed_table,
    "speed-summary": speed_summary,
    "table1": table1_table,
    "loading": loading_table,
    "epoch": epoch_table,
    "startup": startup_table,
    "gpu": gpu_table,
    "gpu-goals": gpu_goals,
    "commands": commands_table,
    "coverage": coverage_table,
    "members": members_table,
    **{f"nav-{section}": navigation(section) for section in WHOLE},
}


if __name__ == "__main__":
    cli.main(main)
