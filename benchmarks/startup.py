"""Time the start-up of commands, imports and training:

    python -m benchmarks.startup --model sam_alexnet --out startup.json

Each command or import runs in a new process, and the time includes the interpreter. The first training step is timed
from the start of `python` to the end of the step, once with an empty and once with a filled compilation cache. Prints
the medians over --rounds, and the times of the first step.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zoo
from benchmarks import command
from benchmarks.workers import ROOT, Worker, worker_command
from train import cli, flags
from train.recipe import InputError

# Timed commands: the arguments of `python`.
TIMED_COMMANDS = {
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
    """Command-line flags."""

    model: str = "sam_alexnet"
    """Model of the first training step."""
    batch_size: int = 16
    """Images in the first training step."""
    rounds: int = 5
    """Number of times each command is started."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.startup", __doc__)
    cli.prepare_environment()
    zoo.get_entry(arguments.model)
    if min(arguments.rounds, arguments.batch_size) < 1:
        raise InputError("--rounds and --batch-size must be at least 1")
    command.check_out(arguments.out)
    with Worker(worker_command("benchmarks.zoo_worker")) as worker:
        environment = worker.call("describe")
    record = {
        **command.head("benchmarks.startup", environment=False),
        "environment": environment,
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "seconds": {
            name: time_command(words, arguments.rounds) for name, words in TIMED_COMMANDS.items()
        },
        "first_step": first_steps(arguments.model, arguments.batch_size),
    }
    command.write(record, arguments.out)
    show(record)


def time_command(words: list[str], rounds: int) -> list[float]:
    """Time `python words` in `rounds` new processes, in seconds, after one that fills the disk cache."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        done = command.run_process([sys.executable, *words], cwd=ROOT)
        seconds.append(time.perf_counter() - began)
        if done.returncode:
            reason = (done.stderr.strip() or "no error message").splitlines()[-1]
            raise cli.RunError(f"`python {' '.join(words)}` failed: {reason}")
    return [round(s, 4) for s in seconds[1:]]


def first_steps(model: str, batch_size: int) -> dict[str, dict[str, float]]:
    """Time the phases of the first step, with an empty ("cold") and with a filled ("warm") compilation cache."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            began = time.time()
            call = f"first_step({model!r}, {batch_size}, {began})"
            done = command.run_process(
                [sys.executable, "-c", f"from benchmarks.startup import first_step; {call}"],
                cwd=ROOT,
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
            )
            if done.returncode:
                reason = (done.stderr.strip() or "no error message").splitlines()[-1]
                raise cli.RunError(f"the first step failed: {reason}")
            found[name] = json.loads(done.stdout)
    return found


def first_step(model: str, batch_size: int, began: float) -> None:
    """Run one training step in a process that was started at time `began`; print the seconds of each phase as JSON."""
    phases: dict[str, float] = {}

    def end(phase: str) -> None:
        phases[phase] = round(time.time() - began - sum(phases.values()), 4)

    from benchmarks.zoo_worker import Zoo

    end("start and imports")
    worker = Zoo(use_cache=True)
    end("devices")
    entry = zoo.get_entry(model)
    images = [batch_size, *entry.input_shape]
    worker.prepare(model, entry.num_classes, "train", "float32", images, seed=0)
    end("weights and batch")
    worker.run(1)
    end("compile and run the step")
    phases["all"] = round(sum(phases.values()), 4)
    print(json.dumps(phases))


def show(record: dict[str, Any]) -> None:
    """Print the results as two tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    commands = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    commands.add_column("command")
    commands.add_column("s", justify="right")
    commands.add_column("(min-max)", justify="right")
    for name, seconds in record["seconds"].items():
        spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
        commands.add_row(name, f"{statistics.median(seconds):.2f}", spread)
    steps = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    steps.add_column(f"first step of {record['model']}, batch {record['batch_size']}")
    for name in record["first_step"]:
        steps.add_column(f"{name}, s", justify="right")
    for phase in record["first_step"]["cold"]:
        steps.add_row(phase, *(f"{times[phase]:.2f}" for times in record["first_step"].values()))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(commands)
    console.print(steps)


if __name__ == "__main__":
    cli.main(main)
