"""Write the README's tables from what is recorded:

    python -m benchmarks.tables

The text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced; a test fails when the README and
the records disagree.
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks import epoch
from benchmarks.record import RESULTS
from train import cli
from train.reproduce.markdown import markdown as ledger_markdown
from zoo.common.files import write_atomically

README = Path(__file__).parents[1] / "README.md"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """It has no flags of its own."""


def main(argv: list[str]) -> None:
    """The command."""
    tyro.cli(Arguments, args=argv, prog="python -m benchmarks.tables", description=__doc__)
    cli.prepare_environment(large_arrays=False)
    write_atomically(README, render(README.read_text(encoding="utf-8")).encode())


def render(text: str) -> str:
    """The README with each marked table made anew."""
    tables = {
        "models": models_table,
        "runs": runs_table,
        "ledger": ledger_tables,
        "speed": speed_table,
        "table1": table1_table,
        "loading": loading_table,
        "epoch": epoch_table,
        "startup": startup_table,
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + table() + end + rest.partition(end)[2]
    return text


def models_table() -> str:
    """Every registered model with its parameters and source."""
    import zoo

    rows = []
    for name in zoo.list_models():
        info = zoo.model_info(name)
        size = "x".join(map(str, info.input_shape[:2]))
        rows.append((f"`{name}`", size, f"{info.parameters:,}", info.source, info.description))
    return markdown(("model", "input", "parameters", "source", "what it is"), rows)


def runs_table() -> str:
    """Every recorded run."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        dataset = f"{data['dataset']}{' (synthetic)' if data['synthetic'] else ''}"
        rows.append(
            (
                f"[`{data['model']}`](benchmarks/results/runs/{path.name})",
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
    heading = (
        "model, data, epochs, test accuracy, macro-F1, test images, training, waiting for data, on"
    )
    return markdown(tuple(heading.split(", ")), rows)


def ledger_tables() -> str:
    """Every recorded ledger."""
    paths = sorted(RESULTS.parent.glob("ledger_*.json"))
    texts = [
        ledger_markdown(
            json.loads(path.read_text(encoding="utf-8")), f"benchmarks/results/{path.name}"
        )
        for path in paths
    ]
    return "\n".join(texts) or "Nothing recorded yet.\n"


def speed_table() -> str:
    """The zoo beside its peers: every recorded run of benchmarks.throughput, a line a step and batch."""
    paths = sorted(RESULTS.parent.glob("throughput_*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    peers = list(dict.fromkeys(name for r in records for name in r["environment"] if name != "zoo"))
    heading = ["model", "step", "batch", "images/s", *peers, "on"]
    rows, backends = [], set()
    for path, data in zip(paths, records, strict=True):
        zoo = data["environment"]["zoo"]
        backends.add(zoo.get("backend", "cpu"))
        where = f"{zoo['devices'][0]}, {zoo['cores']} cores, JAX {zoo['versions']['jax']}"
        lines: dict[tuple, dict[str, str]] = {}
        for row in data["results"]:
            name, prefix = row["implementation"], "train" if row["mode"] == "train" else "infer"
            size, batch = row[f"{prefix}_img_size"], row[f"{prefix}_batch_size"]
            line = lines.setdefault(
                (row["mode"], batch, size, row["model"], row["dtype"]),
                dict.fromkeys(heading, "")
                | {
                    "model": f"[`{row['model']}`](benchmarks/results/{path.name})",
                    "step": f"{row['mode']}, {row['dtype']}",
                    "batch": f"{batch} x {size}x{size}",
                    "on": where,
                },
            )
            speed = row.get("error") or three_digits(row[f"{prefix}_samples_per_sec"])
            if name == "zoo":
                line["images/s"] = speed
            else:
                times = f"**{row['zoo_speedup']:.2f}**: " if row.get("zoo_speedup") else ""
                line[name] = f"{times}{speed} ({peer_label(name, data['environment'][name])})"
        rows += [tuple(line.values()) for line in lines.values()]
    if backends <= {"cpu"}:
        rows.append(("all", "", "", *["not measured"] * (1 + len(peers)), "a GPU"))
    return markdown(heading, rows)


def table1_table() -> str:
    """The pig face paper's times beside ours: the recorded run of benchmarks.table1."""
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
    heading = "net, batch, test (ms), printed, an epoch (ms), printed for all epochs"
    return markdown(heading.split(", "), rows)


def loading_table() -> str:
    """Loading JPEG files beside torchvision: the recorded run of benchmarks.input_pipeline."""
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
    return markdown(("loader", "images/s", *(f"times {name}" for name in peers)), rows)


def epoch_table() -> str:
    """Whole epochs beside a DataLoader loop: the recorded run of benchmarks.epoch."""
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
    return markdown(("feeding", "images", "s an epoch", "images/s", "s until training"), rows)


def startup_table() -> str:
    """How long a user waits: the recorded run of benchmarks.startup."""
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
    return markdown(("what", "s"), rows)


def read(name: str) -> dict[str, Any]:
    """A record by its file's name."""
    return json.loads((RESULTS.parent / name).read_text(encoding="utf-8"))


def three_digits(number: float) -> str:
    """A positive number with three digits or all that it has before the point: 9.83, 24.3, 1,385."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.{1 if number >= 10 else 2}f}"


def peer_label(name: str, facts: dict[str, Any]) -> str:
    """A peer and its library's version: "torch-compile 2.13.0", "keras 3.15.1"; absent ones have none."""
    return f"{name} {facts.get(name.partition('-')[0], '')}".strip()


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    cli.main(main)
