"""Evaluate a finished run:  python -m train.evaluate runs/my-run --dataset other_photos/

Without --dataset, recomputes test.json from best/ and prints it as JSON on stdout; every field except the times is
equal. For other data, the output is the same; classes are matched by name and may be a subset of the model's.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from train import cli, flags
from train.recipe import InputError, Recipe
from train.record.directory import RunDir
from train.record.terminal import intervals_note, score_text

if TYPE_CHECKING:
    from train.engine.experiment import Experiment
    from train.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    workdir: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    split: Literal["test", "validation", "train"] = "test"
    """Split to evaluate; for other data without splits, all images."""
    dataset: str | None = None
    """Current path of the run's data if they were moved, or other data: registered name, tfds:NAME, or path."""
    data_dir: str | None = None
    """Directory with a registered data set's files."""
    max_bad: float | None = None
    """Maximum fraction of images to skip because they cannot be decoded (default: the run's)."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "train.evaluate", __doc__)
    run = RunDir(arguments.workdir)
    recipe = run.read_recipe()
    names = ("dataset", "data_dir", "max_bad")
    changed = {name: v for name in names if (v := getattr(arguments, name)) is not None}
    if "dataset" in changed:
        changed.setdefault("data_dir", None)
    recipe = dataclasses.replace(recipe, **changed)
    cli.prepare_environment()

    from train.analysis.metrics import averages_of_present
    from train.analysis.statistics import interval_fields
    from train.predictor import load_run
    from train.results import TRAINING_FIELDS, test
    from train.setup import resolve

    predictor = load_run(arguments.workdir)
    try:
        experiment, other = resolve(recipe, arguments.workdir, train=False), False
    except InputError:
        if arguments.dataset is None and arguments.data_dir is None:
            raise
        experiment, other = resolve_other(recipe, run, predictor, arguments.split), True
    results, predictions = test(predictor, experiment, arguments.split)
    if other:
        if not experiment.dataset.provenance.get("published_parts"):
            results["split"] = "all"
        if "per_class" in results:
            results |= averages_of_present(results)
            groups = experiment.dataset.splits[arguments.split].groups
            results["intervals"] = interval_fields(
                predictions["labels"], predictions["predictions"], None, groups
            )
    if arguments.split == "test" and run.test.exists():
        # Fields that only the training run can measure.
        recorded = run.read_json(run.test)
        results |= {k: recorded[k] for k in TRAINING_FIELDS if k in recorded}
    if "accuracy" in results:
        cli.say(
            f"accuracy {score_text(results, 'accuracy')}, macro-F1 {score_text(results, 'f1')};"
            f" {intervals_note(results)}"
        )
    cli.result(json.dumps(results, indent=2, ensure_ascii=cli.is_ascii(sys.stdout)))


def resolve_other(recipe: Recipe, run: RunDir, predictor: "Predictor", split: str) -> "Experiment":
    """Load data other than the run's, with the classes of its model. Raises InputError if they cannot be scored."""
    from datasets import load_dataset
    from train.engine.inputs import ImageInputs
    from train.setup import resolve

    inputs = predictor.inputs
    if (
        recipe.features is not None
        or recipe.probe.method != "none"
        or not isinstance(inputs, ImageInputs)
    ):
        raise InputError(
            f"{recipe.dataset} is not the data set of {run.path}, whose scores need its training images (features or a"
            " probe): use that data set"
        )
    recipe = dataclasses.replace(
        recipe,
        # These apply to the training data only.
        group=None,
        folds=0,
        fold=0,
        splits=None,
        images_per_class=None,
        noisy_images=0.0,
    )
    progress = cli.Progress()
    try:
        options = dataclasses.asdict(recipe.data_options()) | {
            "classes": predictor.class_names,
            "image_size": inputs.preprocessing.input_size[0],
            "progress": cli.progress_callback(progress),
        }
        dataset = load_dataset(recipe.dataset, **options)
    finally:
        progress.stop()
    images = dataset.splits[split]
    if not len(images):
        others = [name for name, images in dataset.splits.items() if len(images)]
        raise InputError(f"{dataset.name} has no {split} images: use --split {' or '.join(others)}")
    present = len(set(images.labels.tolist()))
    cli.say(
        f"note: these are not the run's data: {len(images)} images, {present} of"
        f" {len(dataset.class_names)} classes, over which precision, recall and F1 are averaged"
    )
    cli.say_notes(dataset)
    cli.say_skipped(dataset)
    trained = run.read_json(run.splits)
    of_id = trained.get("sha256", {})
    hashes = {of_id.get(name) for name in trained["splits"]["train"]} - {None}
    if seen := sum(digest in hashes for digest in images.digests):
        cli.say(f"warning: the model was trained on {seen} of these images")
    return resolve(recipe, train=False, dataset=dataset)


if __name__ == "__main__":
    cli.main(main)
