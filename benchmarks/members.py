"""Compare runs trained as one program with the same runs trained one after another:

    python -m benchmarks.members --out benchmarks/results/members.json

Cases: seeds of VaDE on digits (`vade_tiny`, and `vade` at the paper's size), heads of a frozen MobileNetV2,
and steps of convolutional nets, which `train.studies` therefore runs one after another. Each measurement runs in its
own process with empty caches, and includes everything from reading the data to test.json.
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
    """Number of runs measured one after another; the total is extrapolated from all but the first."""
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
    together = _run(settings | {"count": count, "side": "together"})
    ended = _run(settings | {"count": min(count, arguments.alone), "side": "alone"})["ended"]
    # The first run pays for the features and fills the cache of compiled programs.
    later = (ended[-1] - ended[0]) / (len(ended) - 1) if len(ended) > 1 else ended[0]
    alone = ended[0] + (count - 1) * later
    return {
        "case": case,
        "runs": count,
        "epochs": arguments.epochs,
        "together_s": round(together["seconds"], 2),
        "parts_s": together["parts"],
        "measured_alone": len(ended),
        "first_alone_s": round(ended[0], 2),
        "later_alone_s": round(later, 2),
        "alone_s": round(alone, 2),
        "ratio": round(alone / together["seconds"], 2),
    }


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "JAX_ZOO_CACHE": f"{folder}/cache",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/xla",
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
    return (
        f"{result['case']}: {result['runs']} runs in {result['together_s']:.1f} s as one program,"
        f" {result['alone_s']:.1f} s one after another ({result['ratio']:.1f}x)"
    )


if __name__ == "__main__":
    cli.main(main)
