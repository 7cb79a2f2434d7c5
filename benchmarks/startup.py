"""Time how long the user waits before anything happens:

    python -m benchmarks.startup --model sam_alexnet --out startup.json

Commands and imports, each in a new process, interpreter included: what a person feels. Then the way from
`python` to the end of the first training step, with an empty compilation cache and with a filled one. The
table goes to stdout, medians of --rounds; the first step is run once each way.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

import zoo
from benchmarks import command
from benchmarks.workers import ROOT, Worker, worker_command
from train import cli
from train.recipe import InputError

# What is timed: the words after `python`.
WAITS = {
    "python, nothing else": ["-c", "pass"],
    "import zoo": ["-c", "import zoo"],
    "import datasets": ["-c", "import datasets"],
    "import train": ["-c", "import train"],
    "import jax": ["-c", "import jax"],
    "import train.run": ["-c", "import train.run"],
    "train.run --help": ["-m", "train.run", "--help"],
    "train.run --list-models": ["-m", "train.run", "--list-models"],
    "train.run --list-datasets": ["-m", "train.run", "--list-datasets"],
    "train.evaluate --help": ["-m", "train.evaluate", "--help"],
    "train.predict --help": ["-m", "train.predict", "--help"],
    "train.models --help": ["-m", "train.models", "--help"],
    "train.data --help": ["-m", "train.data", "--help"],
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    model: str = "sam_alexnet"
    """Whose first training step is timed."""
    batch_size: int = 16
    """Images in that step."""
    rounds: int = 5
    """How often each command is started."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m benchmarks.startup", description=__doc__
    )
    cli.prepare_environment()
    zoo.get_entry(arguments.model)
    if min(arguments.rounds, arguments.batch_size) < 1:
        raise InputError("--rounds and --batch-size have to be at least 1")
    command.check_out(arguments.out)
    with Worker(worker_command("benchmarks.zoo_worker")) as worker:
        environment = worker.call("describe")
    record = {
        **command.head("benchmarks.startup", environment=False),
        "environment": environment,
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "seconds": {name: waits(words, arguments.rounds) for name, words in WAITS.items()},
        "first_step": first_steps(arguments.model, arguments.batch_size),
    }
    command.write(record, arguments.out)
    show(record)


def waits(words: list[str], rounds: int) -> list[float]:
    """Seconds of so many new processes; the first, which fills the disk's cache, is left out."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - began)
        if done.returncode:
            reason = (done.stderr.strip() or "without a word").splitlines()[-1]
            raise cli.RunError(f"`python {' '.join(words)}` failed: {reason}")
    return [round(s, 4) for s in seconds[1:]]


def first_steps(model: str, batch_size: int) -> dict[str, dict[str, float]]:
    """Seconds of each part of the way to the first step's end; "cold" without cached programs, "warm"
    with those of the cold run."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            began = time.time()
            call = f"first_step({model!r}, {batch_size}, {began})"
            done = subprocess.run(
                [sys.executable, "-c", f"from benchmarks.startup import first_step; {call}"],
                cwd=ROOT,
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                reason = (done.stderr.strip() or "without a word").splitlines()[-1]
                raise cli.RunError(f"the first step failed: {reason}")
            found[name] = json.loads(done.stdout)
    return found


def first_step(model: str, batch_size: int, began: float) -> None:
    """Run in a process that was started at the time `began`: print the seconds of each part of the way."""
    parts: dict[str, float] = {}

    def end(part: str) -> None:
        parts[part] = round(time.time() - began - sum(parts.values()), 4)

    from benchmarks.zoo_worker import Zoo

    end("start and imports")
    side = Zoo(use_cache=True)
    end("devices")
    entry = zoo.get_entry(model)
    images = [batch_size, *entry.input_shape]
    side.prepare(model, entry.num_classes, "train", "float32", images, seed=0)
    end("weights and batch")
    side.run(1)
    end("compile and run the step")
    parts["all"] = round(sum(parts.values()), 4)
    print(json.dumps(parts))


def show(record: dict[str, Any]) -> None:
    """Two tables on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    commands = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    commands.add_column("command")
    commands.add_column("s", justify="right")
    commands.add_column("(least-most)", justify="right")
    for name, seconds in record["seconds"].items():
        spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
        commands.add_row(name, f"{statistics.median(seconds):.2f}", spread)
    steps = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    steps.add_column(f"first step of {record['model']}, batch {record['batch_size']}")
    for name in record["first_step"]:
        steps.add_column(f"{name}, s", justify="right")
    for part in record["first_step"]["cold"]:
        steps.add_row(part, *(f"{times[part]:.2f}" for times in record["first_step"].values()))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(commands)
    console.print(steps)


if __name__ == "__main__":
    cli.main(main)
