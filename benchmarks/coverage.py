"""Measure the coverage of the 95% intervals of `train.analysis.statistics` by simulation:

    python -m benchmarks.coverage --out benchmarks/results/coverage.json

For each case, draws --repeats test sets from a known distribution with a fixed seed, computes the interval for each,
and counts how many contain the true value. For tests of two equally good runs, counts false positives.
"""

import dataclasses
import math
from pathlib import Path

from benchmarks import command
from train import cli, flags


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    repeats: int = 10_000
    """Test sets per case."""
    seed: int = 0
    """Seed of the test sets."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "benchmarks.coverage", __doc__)
    command.check_at_least_one(arguments, ["repeats"])
    command.check_out(arguments.out)
    from benchmarks import coverage_cases

    record = command.head("benchmarks.coverage", warn=False)
    record |= {"repeats": arguments.repeats, "seed": arguments.seed, "cases": []}
    for case in coverage_cases.cases():
        rate = coverage_cases.measure(case, arguments.repeats, arguments.seed)
        error = math.sqrt(rate * (1 - rate) / arguments.repeats)
        fields = {"name": case.name, "text": case.text, "images": case.images}
        record["cases"].append({**fields, "measures": case.measures, "rate": round(rate, 4)})
        print(f"{case.name}, {case.images} images: {case.measures} {rate:.2%} ± {error:.2%}")
    command.write(record, arguments.out)


if __name__ == "__main__":
    cli.main(main)
