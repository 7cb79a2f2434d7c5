"""Train a model:  python -m train.run --model sam_alexnet --quick

Settings come from the model's own recipe (train/recipes), and every field of it is a flag. Running the same
--workdir again goes on where the run stopped.
"""

import dataclasses
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from datasets import list_datasets
from train import cli, recipes
from train.errors import InputError, Interrupted
from train.flags import REGISTRY
from train.recipe import Recipe, Stage
from train.record.directory import RunDir
from zoo import list_models

if TYPE_CHECKING:
    from train.engine.experiment import Experiment
    from train.record.log import MakeWriter, RunLog


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command, besides the fields of the recipe."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """Run directory (default: runs/<model>-<dataset>-<time>); an earlier run in it is continued."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Whether an earlier run in --workdir may, must not, or has to be there."""
    epochs: int | None = None
    """Short for --stages.0.epochs, in recipes of one stage."""
    lr: float | None = None
    """Short for --stages.0.optimizer.learning-rate, in recipes of one stage."""
    writers: tuple[str, ...] = ()
    """Run-log writers of other packages (entry points jax_zoo.writers), besides files, TensorBoard and terminal."""
    quick: bool = False
    """The model's short form, for a first look (sam_alexnet: 5 epochs)."""
    from_recipe: str | None = None
    """Start from a recipe by name instead of the model's own (see --list-recipes)."""
    list_models: bool = False
    """Print the models' names and stop."""
    list_datasets: bool = False
    """Print the data sets' names and stop."""
    list_recipes: bool = False
    """Print the recipes' names and stop."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = parse(argv)
    if arguments.list_models:
        print("\n".join(list_models()))
    elif arguments.list_datasets:
        print("\n".join(list_datasets()))
    elif arguments.list_recipes:
        print("\n".join(recipes.RECIPES))
    else:
        run(
            arguments.recipe,
            arguments.workdir,
            arguments.resume,
            quick=arguments.quick,
            writers=arguments.writers,
        )


def parse(argv: list[str]) -> Arguments:
    """Two passes: the run directory or the model gives the defaults, then every flag overrides."""
    default = _default_recipe(argv)
    arguments = tyro.cli(
        Arguments,
        default=Arguments(recipe=default),
        args=argv,
        prog="python -m train.run",
        description=__doc__,
        registry=REGISTRY,
    )
    recipe = arguments.recipe
    if (arguments.epochs is not None or arguments.lr is not None) and len(recipe.stages) != 1:
        raise InputError(
            f"recipe {recipe.name!r} has {len(recipe.stages)} stages:"
            " say --stages.0.epochs, --stages.1.optimizer.learning-rate and so on"
        )
    stage = recipe.stages[0] if recipe.stages else Stage()
    if arguments.epochs is not None:
        stage = dataclasses.replace(stage, epochs=arguments.epochs)
    if arguments.lr is not None:
        optimizer = dataclasses.replace(stage.optimizer, learning_rate=arguments.lr)
        stage = dataclasses.replace(stage, optimizer=optimizer)
    if recipe.stages:
        recipe = dataclasses.replace(recipe, stages=(stage, *recipe.stages[1:]))
    return dataclasses.replace(arguments, recipe=recipe)


def _default_recipe(argv: list[str]) -> Recipe:
    """The recipe that the flags start from: the run's in --workdir, the named one, the model's own."""
    quick = "--quick" in argv
    model, named, workdir = (_value(argv, flag) for flag in ("model", "from-recipe", "workdir"))
    if workdir and RunDir(workdir).exists():
        return RunDir(workdir).read_recipe()
    if named and quick:
        raise InputError("--quick and --from-recipe each name a recipe: give one of them")
    if named:
        recipe = recipes.get_recipe(named)
        return dataclasses.replace(recipe, model=model) if model else recipe
    return recipes.recipe_for(model or Recipe.model, quick=quick)


def _value(argv: list[str], flag: str) -> str | None:
    """The last value of a flag, in any of the spellings that the parser takes."""
    found = None
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == f"--{flag}":
            found = value if equals else argv[index + 1] if index + 1 < len(argv) else None
    return found


def run(
    recipe: Recipe,
    workdir: Path | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    *,
    quick: bool = False,
    figures: bool = True,
    writers: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Train, test and report; returns what test.json holds. For Python callers, too.

    Without `figures`, there are only numbers at the end: no figures and no report.html. `writers` names run-log writers
    of other packages.
    """
    began = time.time()
    cli.prepare_environment()

    from train.engine.checkpoints import Checkpoints
    from train.engine.fit import fit
    from train.predictor import load_run
    from train.record.best import saved_best
    from train.record.log import load_writers
    from train.results import finish
    from train.setup import resolve

    others = load_writers(writers)
    workdir = workdir or _new_workdir(recipe)
    experiment = resolve(recipe, workdir, resume)
    _say_what(experiment, workdir, quick)
    directory = RunDir(workdir)
    with directory.locked(), cli.StopRequest() as stop:
        log = _open_log(experiment, directory, others)
        directory.begin(experiment.recipe, experiment.dataset, experiment.decisions())
        try:
            end = fit(
                experiment,
                Checkpoints(directory.checkpoints),
                log,
                stop=lambda: stop.requested,
                saved_best=saved_best(directory.best),
            )
        except Interrupted as stopped:
            raise Interrupted(
                f"{stopped}, saved in {directory.path};"
                f" to go on: python -m train.run --workdir {directory.path}"
            ) from None
        facts = {"train_time_ms": round(1000 * end.train_seconds, 1), "epochs_run": end.epoch}
        results = finish(directory, load_run(directory.path), experiment, facts, figures)
    where = f"; report: {directory.path / 'report.html'}" if figures else ""
    cli.say(f"done in {cli.duration(time.time() - began)}{where}")
    synthetic = " (synthetic images)" if experiment.dataset.info.synthetic else ""
    print(f"{recipe.model} on {experiment.dataset.name}{synthetic}: {_scores(results)}")
    return results


def _open_log(experiment: "Experiment", directory: RunDir, others: "list[MakeWriter]") -> "RunLog":
    """All writers of a run: files, weights, TensorBoard, terminal, and those that are asked for."""
    from train.record.best import BestWriter
    from train.record.files import FileWriter
    from train.record.log import Writers
    from train.record.tensorboard import TensorBoardWriter
    from train.record.terminal import TerminalWriter

    return Writers(
        FileWriter(directory),
        BestWriter(directory.best, experiment.describe(), experiment.provenance()),
        TensorBoardWriter(directory.tensorboard),
        TerminalWriter(len(experiment.stages)),
        *(make(directory.path, experiment.recipe) for make in others),
    )


def _new_workdir(recipe: Recipe) -> Path:
    model = recipe.model.rpartition(":")[2]
    dataset = Path(recipe.dataset).stem or "data"
    name = re.sub(r"[^\w.-]+", "_", f"{model}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}")
    path, number = Path("runs", name), 1
    while path.exists():
        number += 1
        path = Path("runs", f"{name}-{number}")
    return path


def _say_what(experiment: "Experiment", workdir: Path, quick: bool) -> None:
    recipe, dataset = experiment.recipe, experiment.dataset
    on_cpu = experiment.devices.platform == "cpu"
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    synthetic = " SYNTHETIC images," if dataset.info.synthetic else ""
    cli.say(
        f"data: {dataset.name},{synthetic} {len(dataset.class_names)} classes, {sizes['train']} training,"
        f" {sizes['validation']} validation, {sizes['test']} test images"
    )
    for note in dataset.notes:
        cli.say(f"note: {note}")
    if dataset.leaks:
        cli.say(
            f"warning: copies, or images that look the same, in two parts: {len(dataset.leaks)}, listed in"
            f" {workdir / 'leaks.csv'}"
        )
    if dataset.bad_images:
        cli.say(
            f"warning: {len(dataset.bad_images)} files cannot be decoded and are left out:"
            f" {workdir / 'bad_images.txt'}"
        )
    cli.say(
        f"model: {recipe.model}, {_size(experiment.inputs.shape)}, batch {recipe.batch_size}, {recipe.dtype},"
        f" at most {cli.count(sum(s.epochs for s in recipe.stages), 'epoch')}, recipe {recipe.name}"
    )
    if experiment.feed == "resident":
        cli.say(
            f"feeding: resident, {experiment.feed_bytes / 1e6:,.0f} MB of images on each device"
        )
        if recipe.feed == "resident" and on_cpu:
            cli.say(
                "warning: on a CPU, XLA runs convolutions inside loops several times slower:"
                " --feed stepwise is faster here"
            )
    if recipe.name in recipes.NOTES:
        cli.say(recipes.NOTES[recipe.name])
    elif on_cpu and not quick and recipes.quick_form(recipe.name) and recipe.stages[0].epochs > 20:
        cli.say("hint: on a CPU this may take hours; --quick gives a first result in minutes")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} pixels" if len(shape) == 3 else f"vectors of {shape[0]}"


def _scores(results: dict[str, Any]) -> str:
    """The last line of a run."""
    if "accuracy" not in results:
        text = f"test loss {results['loss']:.4f}"
    else:
        text = f"test accuracy {results['accuracy']:.2%}, macro-F1 {results['f1']:.2%}"
    how = f" ({results['scored_by']})" if results["scored_by"] != "classification" else ""
    return (
        f"{text}{how}, {results['num_examples']} images,"
        f" best of {cli.count(results['epochs_run'], 'epoch')}: {results['best_epoch']}"
    )


if __name__ == "__main__":
    cli.main(main)
