"""Compare finished runs:  python -m train.compare runs/first runs/second

Prints scores with 95% intervals and pairwise tests, and writes an HTML page that also overlays the learning curves and
shows the images that only one of the runs gets right. Rows of a paper (results/PAPER/ROW, with all seeds) and studies
(studies/NAME, its best settings) can be compared, too. Tests require the same test images: McNemar's test for two runs,
Nadeau and Bengio's t-test for folds, Holm's adjustment for more than two candidates.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from train import cli, flags
from train.errors import InputError
from zoo.common.files import check_output_file

if TYPE_CHECKING:
    from train.analysis.statistics import Metric
    from train.comparison.results import Pair
    from train.comparison.sources import Candidate

# Values of --metric: the metric of `statistics`, and its name in sentences.
METRICS: "dict[str, tuple[Metric, str]]" = {
    "accuracy": ("accuracy", "accuracy"),
    "macro_f1": ("f1", "macro-F1"),
    "macro_precision": ("precision", "macro-precision"),
    "macro_recall": ("recall", "macro-recall"),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two or more run directories, studies or rows of a paper."""
    metric: Literal["accuracy", "macro_f1", "macro_precision", "macro_recall"] = "accuracy"
    """Score to test."""
    settings: int = 5
    """Number of settings to compare from each study, the best by validation score."""
    tests: bool = True
    """Test the differences; without tests, the runs may have different test images."""
    out: Path = Path("comparison.html")
    """HTML page to write."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "train.compare", __doc__)
    if arguments.settings < 1:
        raise InputError(f"--settings is {arguments.settings}: use at least 1")
    if arguments.out.suffix != ".html":
        raise InputError(f"--out {arguments.out} does not end in .html: use the path of a page")
    check_output_file(arguments.out, "--out")

    from train.comparison import page, results, sources

    candidates = sources.find(arguments.runs, arguments.settings)
    if len(candidates) < 2:
        raise InputError("nothing to compare with: name at least two runs")
    metric, name = METRICS[arguments.metric]
    pairs = results.compare(candidates, metric) if arguments.tests else []
    sentences = describe(candidates, pairs, name)
    table = score_table(candidates)
    pixels, note = load_images(candidates[0], page.shown_images(candidates, pairs))
    page.write(arguments.out, candidates, table, sentences, pairs, pixels, note)
    show(table, sentences)
    cli.say(f"written: {arguments.out}")


def score_table(candidates: "Sequence[Candidate]") -> tuple[list[str], list[list[str]]]:
    """Build the heading and the rows of the score table."""
    from train.comparison.results import score

    heading = ["", "model", "data", "runs", "test images", "accuracy", "95%", "macro-F1", "95%"]
    rows = []
    for candidate in candidates:
        pooled = candidate.pooled
        scores = [score(pooled, "accuracy"), score(pooled, "f1")]
        cells = [
            text
            for s in scores
            for text in (
                f"{s.value:.2%}" + (f" ± {100 * s.sd:.2f}" if s.sd is not None else ""),
                cli.interval_text(s.interval) or "none",
            )
        ]
        rows.append(
            [
                candidate.name,
                _unique(run.model for run in candidate.runs),
                _unique(run.dataset for run in candidate.runs),
                _counts(pooled.num_folds, len(pooled.seeds)),
                f"{len(pooled.images)}" + (" in groups" if pooled.groups else ""),
                *cells,
            ]
        )
    return heading, rows


def _unique(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))


def _counts(folds: int, seeds: int) -> str:
    if folds > 1:
        return f"{cli.count(folds, 'fold')} x {cli.count(seeds, 'seed')}"
    return cli.count(seeds, "seed")


def describe(candidates: "Sequence[Candidate]", pairs: "Sequence[Pair]", metric: str) -> list[str]:
    """Describe the test results, one sentence per test, and what they cover."""
    from train.analysis.statistics import sentence

    lines = []
    for pair in pairs:
        names = candidates[pair.first].name, candidates[pair.second].name
        for difference in pair.differences:
            text = sentence(*names, difference)
            lines.append(f"{metric}: {text} ({difference.test})")
    if len(pairs) > 1:
        lines.append(f"p-values of the {len(pairs)} main tests are adjusted by Holm's method")
    if pairs and all(len(c.pooled.seeds) == 1 and c.pooled.num_folds == 1 for c in candidates):
        lines.append(
            "tests and intervals cover only the choice of test images: with one seed each, part of a difference may be"
            " due to the seed"
        )
    return lines


def load_images(candidate: "Candidate", ids: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Load images from a candidate's data set by id, uint8 [H, W, 3]. Also returns why some are missing."""
    if not ids:
        return {}, ""
    from datasets import load_dataset

    run = candidate.runs[0].directory
    progress = cli.Progress()
    found: dict[str, Any] = {}
    try:
        recipe = run.read_recipe()
        options = dataclasses.asdict(recipe.data_options()) | {"splits_file": run.splits}
        options["image_size"] = recipe.image_size
        options["progress"] = cli.progress_callback(progress)
        dataset = load_dataset(recipe.dataset, **options)
        wanted = set(ids)
        for split in dataset.splits.values():
            for index, name in enumerate(split.ids):
                if name in wanted:
                    found[name] = split[index][0]
    except InputError as error:
        return found, f"Images are not shown: {error}"
    finally:
        progress.stop()
    missing = len(ids) - len(found)
    return found, f"{missing} images are not shown: not in the data set" if missing else ""


def show(table: tuple[list[str], list[list[str]]], sentences: Sequence[str]) -> None:
    """Print the table and the sentences."""
    from rich.console import Console
    from rich.table import Table

    heading, rows = table
    shown = Table(*heading, box=None, pad_edge=False, header_style="")
    for row in rows:
        shown.add_row(*row)
    width = None if sys.stdout.isatty() else 200
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    console.print(shown)
    if sentences:
        cli.result("\n".join(sentences))


if __name__ == "__main__":
    cli.main(main)
