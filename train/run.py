"""Train a model:  python -m train.run --model sam_alexnet --quick

Settings come from the model's own recipe (train/papers), and every field of it is a flag. Running the same
--workdir again goes on where the run stopped.
"""

import csv
import dataclasses
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from datasets import list_datasets
from train import cli, papers
from train.machine import cpu_model
from train.recipe import InputError, Recipe
from train.rundir import FORMAT, RunDir, write_json
from zoo import list_models


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
        print("\n".join(papers.RECIPES))
    else:
        run(arguments.recipe, arguments.workdir, arguments.resume, quick=arguments.quick)


def parse(argv: list[str]) -> Arguments:
    """Two passes: the run directory or the model gives the defaults, then every flag overrides."""
    default = _default_recipe(argv)
    arguments = tyro.cli(
        Arguments,
        default=Arguments(recipe=default),
        args=argv,
        prog="python -m train.run",
        description=__doc__,
    )
    recipe = arguments.recipe
    if (arguments.epochs is not None or arguments.lr is not None) and len(recipe.stages) != 1:
        raise InputError(
            f"recipe {recipe.name!r} has {len(recipe.stages)} stages:"
            " say --stages.0.epochs, --stages.1.optimizer.learning-rate and so on"
        )
    stage = recipe.stages[0]
    if arguments.epochs is not None:
        stage = dataclasses.replace(stage, epochs=arguments.epochs)
    if arguments.lr is not None:
        optimizer = dataclasses.replace(stage.optimizer, learning_rate=arguments.lr)
        stage = dataclasses.replace(stage, optimizer=optimizer)
    recipe = dataclasses.replace(recipe, stages=(stage, *recipe.stages[1:]))
    recipe.validate()
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
        recipe = papers.get_recipe(named)
        return dataclasses.replace(recipe, model=model) if model else recipe
    return papers.recipe_for(model or Recipe.model, quick=quick)


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
) -> dict[str, Any]:
    """Train, test and report; returns what test.json holds. For Python callers, too."""
    began = time.time()
    recipe.validate()
    recipe = _with_absolute_paths(recipe)
    directory = RunDir(workdir or _new_workdir(recipe))
    directory.check(recipe, resume)
    cli.prepare_environment()
    devices, dataset, start = _prepare(with_own_splits(directory, recipe), directory)
    check_data(directory, dataset)

    import jax

    from train.engine.loop import fit
    from train.predictor import load_run, save_best
    from train.results import finish

    size = start.preprocessing.input_size
    _say_what(recipe, size, dataset, directory, quick, on_cpu=jax.default_backend() == "cpu")
    with directory.locked(), cli.StopRequest() as stop:
        if start.pretrained:
            write_json(directory.start, start.to_json())
        if not directory.exists():
            _write_start(directory, recipe, dataset)
        else:
            write_json(directory.config, {"format": FORMAT, "recipe": recipe.to_json()})

        provenance = {
            "pretrained": recipe.pretrained,
            "pretrained_sha256": start.pretrained.get("sha256"),
            "dataset": dataset.name,
            "synthetic": dataset.info.synthetic,
            "data_fingerprint": dataset.fingerprint,
        }

        def save(weights: dict[str, Any], facts: dict[str, Any]) -> None:
            save_best(
                directory.best,
                weights,
                recipe,
                start.options,
                start.preprocessing,
                dataset.class_names,
                provenance | facts,
            )

        end = fit(
            recipe,
            start.module,
            start.variables,
            start.preprocessing,
            dataset,
            directory,
            devices,
            save_best=save,
            stop=stop,
        )
        facts = {"train_time_ms": round(1000 * end.train_seconds, 1), "epochs_run": end.epoch}
        results = finish(directory, load_run(directory.path), dataset, recipe, facts)
    synthetic = " (synthetic images)" if dataset.info.synthetic else ""
    cli.say(
        f"done in {cli.duration(time.time() - began)}; report: {directory.path / 'report.html'}"
    )
    print(
        f"{recipe.model} on {dataset.name}{synthetic}: test accuracy {results['accuracy']:.2%},"
        f" macro-F1 {results['f1']:.2%}, {results['num_examples']} images,"
        f" best of {cli.count(results['epochs_run'], 'epoch')}: {results['best_epoch']}"
    )
    return results


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """So that the run can go on from another folder. Names of data sets and of sources stay names."""

    def absolute(text: str) -> str:
        return os.path.abspath(text) if os.path.exists(text) else text

    changed: dict[str, Any] = {}
    if recipe.dataset not in list_datasets():
        changed["dataset"] = absolute(recipe.dataset)
    if recipe.data_dir:
        changed["data_dir"] = absolute(recipe.data_dir)
    if recipe.splits:
        changed["splits"] = absolute(recipe.splits)
    if recipe.pretrained and (os.sep in recipe.pretrained or "." in recipe.pretrained):
        changed["pretrained"] = absolute(recipe.pretrained)
    return dataclasses.replace(recipe, **changed)


def _new_workdir(recipe: Recipe) -> Path:
    model = recipe.model.rpartition(":")[2]
    dataset = Path(recipe.dataset).stem or "data"
    name = re.sub(r"[^\w.-]+", "_", f"{model}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}")
    path, number = Path("runs", name), 1
    while path.exists():
        number += 1
        path = Path("runs", f"{name}-{number}")
    return path


def _prepare(recipe: Recipe, directory: RunDir) -> tuple[Any, Any, Any]:
    """Devices, data set, and the `Start`: everything that bad input can fail, before work starts."""
    import zoo
    from datasets import fast
    from train.engine.parallel import Devices
    from train.predictor import start_of

    entry = zoo.get_entry(recipe.model)
    for objective in (entry.objective, *(stage.objective for stage in recipe.stages)):
        if objective != "classification":
            raise InputError(
                f"this command trains classifiers only: {recipe.model} would need the objective"
                f" {objective!r}; `python -m train.models` lists the models"
            )
    if recipe.decoder == "fast":
        fast.check()
    height, width, *_ = entry.input_shape
    size = (recipe.image_size, recipe.image_size) if recipe.image_size else (height, width)
    dataset = load_data(recipe, size)
    cli.report_devices()
    devices = Devices()
    if recipe.batch_size % len(devices):
        raise InputError(
            f"--batch-size {recipe.batch_size} cannot be shared by {len(devices)} devices:"
            f" give a multiple of {len(devices)}"
        )
    train_size = len(dataset.splits["train"])
    if recipe.batch_size > train_size:
        raise InputError(
            f"--batch-size {recipe.batch_size} is more than the {train_size} training images"
            f" of {dataset.name}: give at most {train_size}"
        )
    decided = None
    if recipe.pretrained and directory.start.exists() and directory.has_checkpoint():
        decided = directory.read_json(directory.start)
    start = start_of(recipe, size, len(dataset.class_names), decided)
    if start.pretrained and decided is None:
        cli.say(f"weights: {start.pretrained['report']}")
    _check_freezing(recipe, start.variables["params"])
    return devices, dataset, start


def _check_freezing(recipe: Recipe, params: Any) -> None:
    """InputError for a stage whose patterns name nothing, or everything."""
    from train.engine.freezing import frozen_paths

    for index, stage in enumerate(recipe.stages):
        where = f"stage {index} ({stage.name})"
        try:
            frozen = frozen_paths(params, stage.freeze)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if frozen and len(frozen) == len(frozen_paths(params, ["*"])):
            raise InputError(
                f"{where} freezes all of {recipe.model}: leave something to train, such as its head"
            )


def load_data(recipe: Recipe, size: tuple[int, int]) -> Any:
    """The recipe's data set; what comes in any size, as large as it is used."""
    from datasets import load_dataset

    sizes = [size[0], *(stage.augment.resize or 0 for stage in recipe.stages)]

    progress = cli.Progress()
    try:
        return load_dataset(
            recipe.dataset,
            data_dir=recipe.data_dir,
            seed=recipe.split_seed,
            validation_fraction=recipe.validation_fraction,
            test_fraction=recipe.test_fraction,
            image_size=max(sizes),
            on_bad_image=recipe.on_bad_image,
            group=recipe.group,
            folds=recipe.folds,
            fold=recipe.fold,
            splits_file=recipe.splits,
            progress=cli.progress_callback(progress),
        )
    finally:
        progress.stop()


def with_own_splits(directory: RunDir, recipe: Recipe) -> Recipe:
    """The recipe of a run that reads its splits from its own directory: the file that it was given may be
    gone, or have changed."""
    if recipe.splits is None or not directory.exists() or not directory.splits.exists():
        return recipe
    return dataclasses.replace(recipe, splits=str(directory.splits))


def check_data(directory: RunDir, dataset: Any) -> None:
    """On resume the data must be what they were, and in the same parts."""
    if not directory.exists() or not directory.splits.exists():
        return
    before = directory.read_json(directory.splits)
    if before.get("fingerprint") != dataset.fingerprint:
        raise InputError(
            f"the data of {dataset.name} are not those of the run in {directory.path} (fingerprint"
            f" {dataset.fingerprint[:12]}, not {str(before.get('fingerprint'))[:12]}): restore them, or give"
            " another --workdir"
        )
    now = dataset.manifest()
    if any(before.get(field) != now[field] for field in ("class_names", "splits")):
        raise InputError(
            f"the images of {dataset.name} are not in the parts that they have in {directory.splits}: give"
            " that file with --splits and another --workdir"
        )


def _say_what(
    recipe: Recipe,
    image_size: tuple[int, int],
    dataset: Any,
    directory: RunDir,
    quick: bool,
    *,
    on_cpu: bool,
) -> None:
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
            f" {directory.path / 'leaks.csv'}"
        )
    if dataset.bad_images:
        cli.say(
            f"warning: {len(dataset.bad_images)} files cannot be decoded and are left out:"
            f" {directory.path / 'bad_images.txt'}"
        )
    cli.say(
        f"model: {recipe.model}, {image_size[0]}x{image_size[1]} pixels, batch {recipe.batch_size}, {recipe.dtype},"
        f" at most {cli.count(sum(s.epochs for s in recipe.stages), 'epoch')}, recipe {recipe.name}"
    )
    if quick and recipe.name == "pig_faces_quick":
        cli.say(
            "quick form: 5 epochs, and batch-norm momentum 0.9 instead of the document's (Keras's) 0.99,"
            " because its 215 steps are too few for 0.99"
        )
    elif on_cpu and f"{recipe.name}_quick" in papers.RECIPES and recipe.stages[0].epochs > 20:
        cli.say("hint: on a CPU this may take hours; --quick gives a first result in minutes")


def _write_start(directory: RunDir, recipe: Recipe, dataset: Any) -> None:
    """The files that a run begins with; config.json last, since it makes the folder a run."""
    directory.path.mkdir(parents=True, exist_ok=True)
    write_json(directory.splits, dataset.manifest())
    write_json(directory.path / "env.json", environment())
    if dataset.bad_images:
        lines = [f"{bad.id}\t{bad.reason}\n" for bad in dataset.bad_images]
        (directory.path / "bad_images.txt").write_text("".join(lines), encoding="utf-8")
    if dataset.leaks:
        with open(directory.path / "leaks.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in dataclasses.fields(dataset.leaks[0]))
            writer.writerows(dataclasses.astuple(leak) for leak in dataset.leaks)
    write_json(directory.config, {"format": FORMAT, "recipe": recipe.to_json()})


def environment() -> dict[str, Any]:
    """Versions, devices, commit and command line of this process."""
    import platform

    import jax

    from train.predictor import versions

    def git(*words: str) -> str:
        root = Path(__file__).parent
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        commit, dirty = git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except OSError:  # no git here
        commit, dirty = "", False
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.local_devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git_commit": commit,
        "git_dirty": dirty,
        "command": cli.command_line(),
    }


if __name__ == "__main__":
    cli.main(main)
