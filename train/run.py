"""Train a model:  python -m train.run --model sam_alexnet --quick

Settings default to the model's recipe (train/recipes); every field is a flag. Run again with the same --workdir to
resume.
"""

import contextlib
import dataclasses
import itertools
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from datasets import list_datasets
from train import cli, flags, recipe_files, recipes
from train.errors import InputError, Interrupted, RunError
from train.recipe import Recipe, Stage
from train.record.directory import RunDir
from train.record.terminal import intervals_note, score_text
from zoo import list_models
from zoo.common.commands import typed
from zoo.common.files import check_output_file

if TYPE_CHECKING:
    from train.engine.experiment import Experiment
    from train.record.log import MakeWriter, RunLog


@dataclasses.dataclass(frozen=True)
class RecipeArguments:
    """The recipe and its command-line flags, also those of `train.study`."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    epochs: int | None = None
    """Shorthand for --stages.0.epochs, for recipes with one stage."""
    lr: float | None = None
    """Shorthand for --stages.0.optimizer.learning-rate, for recipes with one stage."""
    writers: tuple[str, ...] = ()
    """Additional run-log writers: mlflow, wandb, or those of other packages (entry points jax_zoo.writers)."""
    quick: bool = False
    """Use the model's quick recipe (sam_alexnet: 5 epochs)."""
    from_recipe: str | None = None
    """Use this recipe instead of the model's own (see train.run --list-recipes)."""
    recipe_file: Annotated[Path | None, tyro.conf.arg(name="recipe")] = None
    """Use the recipe of a TOML file, or of a Python file that defines `recipe`; flags override it."""


@dataclasses.dataclass(frozen=True)
class Arguments(RecipeArguments):
    """All command-line flags."""

    workdir: Path | None = None
    """Run directory (default: runs/<model>-<dataset>-<time>). An existing run is resumed."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Whether --workdir may (auto), must not (never) or must contain a run."""
    save_recipe: Path | None = None
    """Write the recipe with all flags to this TOML file and exit."""
    list_models: bool = False
    """List the models and exit."""
    list_datasets: bool = False
    """List the registered data sets and exit."""
    list_recipes: bool = False
    """List the recipes and exit."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = parse(argv)
    if arguments.save_recipe:
        save_recipe(arguments.recipe, arguments.save_recipe)
    elif arguments.list_models:
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
    """Parse in two passes: the run directory, recipe or model determines the defaults, which flags then override."""
    default = _default_recipe(argv)
    arguments = flags.parse(
        Arguments, argv, "train.run", __doc__, default=Arguments(recipe=default)
    )
    recipe = with_shorthands(arguments.recipe, arguments.epochs, arguments.lr)
    return dataclasses.replace(arguments, recipe=recipe)


def with_shorthands(recipe: Recipe, epochs: int | None, lr: float | None) -> Recipe:
    """Apply the flags --epochs and --lr. Raises InputError for a recipe that has not exactly one stage."""
    if (epochs is not None or lr is not None) and len(recipe.stages) != 1:
        raise InputError(
            f"--epochs and --lr are ambiguous: recipe {recipe.name!r} has {len(recipe.stages)} stages;"
            " use --stages.0.epochs, --stages.1.optimizer.learning-rate and so on"
        )
    stage = recipe.stages[0] if recipe.stages else Stage()
    if epochs is not None:
        stage = dataclasses.replace(stage, epochs=epochs)
    if lr is not None:
        optimizer = dataclasses.replace(stage.optimizer, learning_rate=lr)
        stage = dataclasses.replace(stage, optimizer=optimizer)
    if recipe.stages:
        recipe = dataclasses.replace(recipe, stages=(stage, *recipe.stages[1:]))
    return recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a valid recipe to a TOML file. Raises InputError if the recipe is invalid or the file cannot be written."""
    recipe.validate()
    if path.suffix != ".toml":
        raise InputError(f"--save-recipe {path} does not end in .toml: use the path of a TOML file")
    check_output_file(path, "--save-recipe")
    recipe_files.write(recipe, path)
    cli.say(f"written: {path}; use it with {typed('train.run')} --recipe {shlex.quote(str(path))}")


def default_recipe(argv: Sequence[str], model: str | None) -> Recipe:
    """Return the recipe that flags override: of --recipe, of --from-recipe, or else the model's."""
    quick = "--quick" in argv
    named, file = (_value(argv, flag) for flag in ("from-recipe", "recipe"))
    if named or file:
        recipe = recipes.get_recipe(named) if named else recipe_files.read(file or "")
        return dataclasses.replace(recipe, model=model) if model else recipe
    return recipes.recipe_for(model or Recipe.model, quick=quick)


def _default_recipe(argv: list[str]) -> Recipe:
    """Return the recipe that the flags override: that of the run in --workdir, else that of `default_recipe`."""
    quick = "--quick" in argv
    model, named, workdir = (_value(argv, flag) for flag in ("model", "from-recipe", "workdir"))
    file = _value(argv, "recipe")
    given = [f for f, v in (("--quick", quick), ("--from-recipe", named), ("--recipe", file)) if v]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} each name a recipe: use one of them")
    # With --recipe, a run in --workdir must have the same settings, which is checked later.
    if workdir and not file and (run := RunDir(Path(workdir).expanduser())).exists():
        recipe = run.read_recipe()
        if (named or quick) and _value(argv, "name") is None:
            asked = (
                recipes.get_recipe(named) if named else recipes.recipe_for(recipe.model, quick=True)
            )
            if asked.name != recipe.name:
                raise InputError(
                    f"{workdir} contains a run of recipe {recipe.name!r}, not {asked.name!r}: use another"
                    f" --workdir, or omit {'--from-recipe' if named else '--quick'} to resume it"
                )
        return recipe
    return default_recipe(argv, model)


def _value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag, in any spelling that the parser accepts."""
    last = None
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == f"--{flag}":
            last = value if equals else argv[index + 1] if index + 1 < len(argv) else None
    return last


def run(
    recipe: Recipe,
    workdir: Path | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    *,
    quick: bool = False,
    figures: bool = True,
    writers: tuple[str, ...] = (),
    logs: "Sequence[MakeWriter]" = (),
    split: Literal["test", "validation"] = "test",
    validate: bool = False,
    locked: bool = False,
) -> dict[str, Any]:
    """Train, test and write a report. Can also be called from Python.

    Args:
      recipe: settings of the run.
      workdir: run directory (default: a new one below runs/).
      resume: whether `workdir` may ("auto"), must not ("never") or must ("must") contain a run.
      quick: whether to omit the hint at --quick.
      figures: whether to write figures and report.html.
      writers: names of additional run-log writers.
      logs: additional run-log writers that have no name.
      split: the split to test on.
      validate: whether to record the scores on the validation split, too; see `train.results.finish`.
      locked: whether the caller has locked `workdir`; see `RunDir.locked`.

    Returns:
      The content of test.json.

    Raises:
      InputError: the recipe, the data or the run directory cannot be used.
      Diverged: the loss or a gradient became NaN or inf.
      Interrupted: the user stopped the run.
    """
    start_time = time.time()
    cli.prepare_environment()

    from train.engine.checkpoints import Checkpoints
    from train.engine.fit import fit
    from train.predictor import load_run
    from train.record.trackers import load_writers
    from train.results import finish
    from train.setup import resolve

    plugins = load_writers(writers)
    with _claimed(recipe, workdir, locked=locked) as directory:
        experiment = resolve(recipe, directory.path, resume)
        _print_setup(experiment, directory.path, quick)
        directory.begin(experiment.recipe, experiment.dataset, experiment.start_settings())
        with cli.StopRequest() as stop:
            log = _open_log(experiment, directory, [*plugins, *logs])
            try:
                end = fit(
                    experiment,
                    Checkpoints(directory.checkpoints),
                    log,
                    stop=stop.poll,
                )
            except Interrupted as stopped:
                raise Interrupted(
                    f"{stopped}, saved in {directory.path};"
                    f" to resume: {typed('train.run')} --workdir {shlex.quote(str(directory.path))}"
                ) from None
            stop.end(
                f"interrupted after training, saved in {directory.path};"
                f" to test it: {typed('train.run')} --workdir {shlex.quote(str(directory.path))}"
            )
        facts = {"train_time_ms": round(1000 * end.train_seconds, 1), "epochs_run": end.epoch}
        try:
            predictor = load_run(directory.path)
            results = finish(
                directory, predictor, experiment, facts, figures, split=split, validate=validate
            )
        except InputError as error:  # after training, such as a test image that has been deleted
            raise RunError(f"{error}; the trained model is saved in {directory.path}") from error
        log.tested(results)
    where = f"; report: {directory.report}" if figures and directory.report.exists() else ""
    cli.say(f"done in {cli.duration(time.time() - start_time)}{where}")
    synthetic = " (synthetic images)" if experiment.dataset.info.synthetic else ""
    cli.result(
        f"{recipe.model} on {experiment.dataset.name}{synthetic}: {_scores(results, recipe.score)}"
    )
    return results


def _open_log(experiment: "Experiment", directory: RunDir, plugins: "list[MakeWriter]") -> "RunLog":
    """Create all writers of a run: files, weights, TensorBoard, terminal, and plugins."""
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
        *(make(directory.path, experiment.recipe) for make in plugins),
    )


@contextlib.contextmanager
def _claimed(recipe: Recipe, workdir: Path | None, *, locked: bool = False) -> Iterator[RunDir]:
    """Lock the run directory, unless it is `locked`, or a new one below runs/."""
    if workdir is not None:
        directory = RunDir(workdir.expanduser())
        with contextlib.nullcontext() if locked else directory.locked():
            yield directory
        return
    name = _new_name(recipe)
    with contextlib.ExitStack() as stack:
        for number in itertools.count(1):
            directory = RunDir(Path("runs", name if number == 1 else f"{name}-{number}"))
            try:
                stack.enter_context(directory.locked(new=True))
            except FileExistsError:  # from a run that was started in the same second
                continue
            break
        yield directory


def _new_name(recipe: Recipe) -> str:
    model = recipe.model.rpartition(":")[2]
    dataset = Path(recipe.dataset).stem or "data"
    return re.sub(r"[^\w.-]+", "_", f"{model}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}")


def _print_setup(experiment: "Experiment", workdir: Path, quick: bool) -> None:
    recipe, dataset = experiment.recipe, experiment.dataset
    on_cpu = experiment.devices.platform == "cpu"
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    synthetic = " SYNTHETIC images," if dataset.info.synthetic else ""
    cli.say(
        f"data: {dataset.name},{synthetic} {len(dataset.class_names)} classes, {sizes['train']} training,"
        f" {sizes['validation']} validation, {sizes['test']} test images"
    )
    cli.say_notes(dataset)
    if dataset.duplicates:
        cli.say(
            f"warning: duplicates and near-duplicates across splits: {len(dataset.duplicates)}, listed in"
            f" {workdir / 'leaks.csv'}"
        )
    cli.say_skipped(dataset, workdir / "bad_images.txt")
    cli.say(
        f"model: {recipe.model}, {_size(experiment.inputs.shape)}, batch {recipe.batch_size}, {recipe.dtype},"
        f" at most {cli.count(sum(s.epochs for s in recipe.stages), 'epoch')}, recipe {recipe.name}"
    )
    if experiment.feed == "cached":
        cli.say(
            f"input pipeline: cached, {experiment.feed_bytes / 1e6:,.0f} MB of images on each device"
        )
        if recipe.feed == "cached" and on_cpu:
            cli.say(
                "warning: on a CPU, XLA runs convolutions inside loops several times slower:"
                " --feed streamed is faster here"
            )
    if recipe.name in recipes.NOTES:
        cli.say(recipes.NOTES[recipe.name])
    elif (
        on_cpu and not quick and recipes.quick_recipe(recipe.name) and recipe.stages[0].epochs > 20
    ):
        cli.say("hint: this may take hours on a CPU; --quick gives a first result in minutes")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} pixels" if len(shape) == 3 else f"vectors of {shape[0]}"


def _scores(results: dict[str, Any], score: str) -> str:
    """Format the scores for the last line of output."""
    if "accuracy" not in results:
        text = f"test loss {results['loss']:.4f}"
    else:
        text = (
            f"test accuracy {score_text(results, 'accuracy')}, macro-F1 {score_text(results, 'f1')}"
        )
    how = f" ({results['scored_by']})" if results["scored_by"] != "classification" else ""
    epochs = cli.count(results["epochs_run"], "epoch")
    which = f"best of {epochs}: {results['best_epoch']}"
    if results["best_epoch"] == results["epochs_run"] and score == "last":
        which = f"last of {epochs}"
    note = f"; {note}" if (note := intervals_note(results)) else ""
    return f"{text}{how}, {results['num_examples']} images, {which}{note}"


if __name__ == "__main__":
    cli.main(main)
