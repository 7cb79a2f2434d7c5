"""Compare runs trained as one program with the same runs trained one after another:

    python -m benchmarks.members --out benchmarks/results/members.json

Cases: seeds of VaDE on digits (`vade_tiny`, and `vade` at the paper's size), heads of a frozen MobileNetV2,
and steps of convolutional nets, which `train.studies` therefore runs one after another. Each measurement runs in its
own process and includes everything from reading the data to test.json. Caches are empty at first; then it is repeated
with the compiled programs in the cache, as when a study is extended or repeated with other values.
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from benchmarks import command
from benchmarks.workers import PARENT
from train import cli, flags
from train.recipe import InputError

Case = Literal["vade_tiny", "vade", "heads", "steps"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    cases: tuple[Case, ...] = ("vade_tiny", "vade", "heads", "steps")
    """Cases to measure."""
    seeds: int = 8
    """Number of VaDE runs."""
    heads: int = 120
    """Number of heads; 5 folds x 3 seeds x 4 learning rates x 2 weight decays make 120."""
    alone: int = 3
    """Number of runs measured one after another, at least 2; the total is extrapolated from all but the first."""
    epochs: int = 10
    """Epochs of each stage."""
    dataset: str = "synthetic_pigs"
    """Images for the heads."""
    pretrained: str | None = None
    """Weights of the MobileNetV2; without them, all heads share one random backbone and seed."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.members", __doc__)
    command.check_at_least_one(arguments, ["seeds", "heads", "alone", "epochs"])
    if arguments.alone < 2:
        raise InputError("--alone is 1: use at least 2, since the first run includes compilation")
    command.check_out(arguments.out)
    record = command.head("benchmarks.members")
    record["cases"] = []
    for case in arguments.cases:
        result = measure(case, arguments)
        record["cases"].append(result)
        print(_text(result), flush=True)
    command.write(record, arguments.out)


def measure(case: Case, arguments: Arguments) -> dict[str, Any]:
    """Measure a case and return its entry in the record."""
    settings: dict[str, Any] = {"case": case, "epochs": arguments.epochs}
    if case == "steps":
        return {"case": case, "nets": _run(settings)["nets"]}
    count = arguments.heads if case == "heads" else arguments.seeds
    if case == "heads":
        settings |= {"dataset": arguments.dataset, "pretrained": arguments.pretrained}
    measured = min(count, arguments.alone)
    with tempfile.TemporaryDirectory() as compiled:
        rounds = [
            _compared(
                count,
                _run(settings | {"count": count, "side": "together"}, compiled),
                _run(settings | {"count": measured, "side": "alone"}, compiled),
            )
            for _ in range(2)
        ]
    first, again = rounds
    head = {"case": case, "runs": count, "epochs": arguments.epochs, "measured_alone": measured}
    return {**head, **first, "compiled_before": again}


def _compared(count: int, together: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of both sides; those of `count` runs alone are extrapolated from the measured ones."""
    # The first run pays for the features and for compilation.
    first, *_, last = ended = alone["ended"]
    later = (last - first) / (len(ended) - 1)
    total = first + (count - 1) * later
    return {
        "together_s": round(together["seconds"], 2),
        "parts_s": together["parts"],
        "first_alone_s": round(first, 2),
        "later_alone_s": round(later, 2),
        "alone_s": round(total, 2),
        "ratio": round(total / together["seconds"], 2),
    }


def _run(settings: dict[str, Any], compiled: str | None = None) -> dict[str, Any]:
    """Measure in a process of its own. `compiled`: folder that keeps compiled programs; default: an empty one."""
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "JAX_ZOO_CACHE": f"{folder}/cache",
            "JAX_COMPILATION_CACHE_DIR": compiled or f"{folder}/xla",
            PARENT: f"{os.getpid()}",
        }
        done = command.run_process(
            [sys.executable, "-m", "benchmarks.members_worker", folder, json.dumps(settings)],
            env=os.environ | own,
            stderr=None,  # shown
        )
    if done.returncode:
        raise InputError(f"the process of {settings['case']} failed: see its output above")
    return json.loads(done.stdout.splitlines()[-1])


def _text(result: dict[str, Any]) -> str:
    if result["case"] == "steps":
        return "\n".join(
            f"{net['model']}: a step of {net['members']} members {net['together_ms']:.1f} ms as one program,"
            f" {net['alone_ms']:.1f} ms one after another"
            for net in result["nets"]
        )
    return "\n".join(
        f"{result['case']}{when}: {result['runs']} runs in {found['together_s']:.1f} s as one program,"
        f" {found['alone_s']:.1f} s one after another ({found['ratio']:.1f}x)"
        for when, found in (("", result), (", compiled before", result["compiled_before"]))
    )


if __name__ == "__main__":
    cli.main(main)
