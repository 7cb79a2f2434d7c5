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
from train.recipe import InputError, Recipe, Stage, parse_options
from train.record.directory import FORMAT, RunDir, write_json
from train.record.environment import cpu_model
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
    stage = recipe.stages[0] if recipe.stages else Stage()
    if arguments.epochs is not None:
        stage = dataclasses.replace(stage, epochs=arguments.epochs)
    if arguments.lr is not None:
        optimizer = dataclasses.replace(stage.optimizer, learning_rate=arguments.lr)
        stage = dataclasses.replace(stage, optimizer=optimizer)
    if recipe.stages:
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
    figures: bool = True,
) -> dict[str, Any]:
    """Train, test and report; returns what test.json holds. For Python callers, too.

    Without `figures`, there are only numbers at the end: no figures and no report.html.
    """
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

    _say_what(
        recipe,
        start.input_shape,
        dataset,
        directory,
        quick,
        on_cpu=jax.default_backend() == "cpu",
    )
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

        def save(weights: dict[str, Any], facts: dict[str, Any], stage: Stage) -> None:
            save_best(
                directory.best,
                weights,
                recipe,
                stage,
                start,
                dataset.class_names,
                provenance | facts,
            )

        if not recipe.stages:  # the net as it is
            save(start.variables, {"epoch": 0, "step": 0}, Stage(objective=_objective(recipe)))
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
        results = finish(directory, load_run(directory.path), dataset, recipe, facts, figures)
    synthetic = " (synthetic images)" if dataset.info.synthetic else ""
    where = f"; report: {directory.path / 'report.html'}" if figures else ""
    cli.say(f"done in {cli.duration(time.time() - began)}{where}")
    print(f"{recipe.model} on {dataset.name}{synthetic}: {_scores(results)}")
    return results


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


def _objective(recipe: Recipe) -> Any:
    """What the recipe's last stage minimises; without stages, what its model is made for."""
    import zoo

    return recipe.stages[-1].objective if recipe.stages else zoo.get_entry(recipe.model).objective


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
    if recipe.features and "=" not in recipe.features and recipe.features != "pixels":
        changed["features"] = absolute(recipe.features)
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
    from datasets.images import fast
    from train.engine.parallel import Devices
    from train.predictor import start_of

    entry = zoo.get_entry(recipe.model)
    _check_objectives(recipe, entry)
    if recipe.decoder == "fast":
        fast.check()
    cli.report_devices()
    dataset = load_data(recipe, input_size(recipe, entry))
    devices = Devices.sharing(recipe.batch_size)
    if len(devices) < (count := len(Devices())):
        cli.say(
            f"note: a batch of {recipe.batch_size} is shared by {len(devices)} of {count} devices;"
            f" a --batch-size that is a multiple of {count} uses all"
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
    start = start_of(recipe, _shape(recipe, entry, dataset), len(dataset.class_names), decided)
    if start.pretrained and decided is None:
        cli.say(f"weights: {start.pretrained['report']}")
    _check_freezing(recipe, start.variables["params"])
    if recipe.probe.method != "none" and recipe.probe.layer not in ("features", "input"):
        _check_layer(start, recipe.probe.layer)
    return devices, dataset, start


def input_size(recipe: Recipe, entry: Any) -> tuple[int, int] | None:
    """Height and width of the recipe's images; None where the data's own size is meant, for vectors."""
    if recipe.image_size:
        return recipe.image_size, recipe.image_size
    if len(entry.input_shape) == 1:
        return None
    height, width, *_ = recipe.options().get("input_shape", entry.input_shape)
    return height, width


def _shape(recipe: Recipe, entry: Any, dataset: Any) -> tuple[int, ...]:
    if recipe.features:
        return dataset.splits["train"].values.shape[1:]
    return (*input_size(recipe, entry), 3)  # type: ignore[misc]


# Which objectives a model can be trained by, of those that a stage may name.
OBJECTIVES_OF = {
    "classification": ("classification",),
    "autoencoder": ("autoencoder",),
    "vade": ("autoencoder", "vade"),
    "gmvae": ("autoencoder", "gmvae"),
}


def _check_objectives(recipe: Recipe, entry: Any) -> None:
    """InputError for stages that cannot train this model, and for data that it cannot take."""
    import zoo

    takes_vectors = len(entry.input_shape) == 1
    if takes_vectors and not recipe.features:
        raise InputError(
            f"{recipe.model} takes vectors: give --features pixels, the directory of a finished run, or"
            " resnet50=torchvision"
        )
    if recipe.features and not takes_vectors:
        raise InputError(
            f"{recipe.model} takes images: --features is for models of vectors, such as vade"
        )
    known = OBJECTIVES_OF[entry.objective]
    for index, stage in enumerate(recipe.stages):
        if stage.objective not in known:
            raise InputError(
                f"--stages.{index}.objective is {stage.objective}, which cannot train {recipe.model}:"
                f" give {' or '.join(known)}"
            )
        if stage.start == "mixture" and entry.objective != "vade":
            raise InputError(f"--stages.{index}.start mixture is for vade, not for {recipe.model}")
        if stage.start == "bottleneck" and entry.objective != "autoencoder":
            raise InputError(
                f"--stages.{index}.start bottleneck is for conv_autoencoder, not for {recipe.model}"
            )
        zoo.create_model(recipe.model, **recipe.options() | parse_options(stage.model_options))


def _check_layer(start: Any, layer: str) -> None:
    """InputError for a layer that the model does not have."""
    import jax

    import zoo

    example = jax.ShapeDtypeStruct((1, *start.input_shape), "float32")
    try:
        jax.eval_shape(
            lambda v, x: zoo.features(start.module, v, x, layer), start.variables, example
        )
    except zoo.InputError as error:
        raise InputError(f"--probe.layer: {error}, or features, or input") from None


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


def load_data(recipe: Recipe, size: tuple[int, int] | None) -> Any:
    """The recipe's data set; what comes in any size, as large as it is used. With `features` one of vectors."""
    from datasets import load_dataset
    from datasets.views import add_noise, limit_per_class
    from train.engine.vectors import vector_dataset

    sizes = [size[0], *(stage.augment.resize or 0 for stage in recipe.stages)] if size else []

    progress = cli.Progress()
    try:
        dataset = load_dataset(
            recipe.dataset,
            data_dir=recipe.data_dir,
            seed=recipe.split_seed,
            validation_fraction=recipe.validation_fraction,
            test_fraction=recipe.test_fraction,
            image_size=max(sizes, default=None),
            on_bad_image=recipe.on_bad_image,
            group=recipe.group,
            folds=recipe.folds,
            fold=recipe.fold,
            splits_file=recipe.splits,
            progress=cli.progress_callback(progress),
        )
        if recipe.images_per_class:
            dataset = limit_per_class(dataset, recipe.images_per_class, recipe.split_seed)
        if recipe.noisy_images:
            share, sigma = recipe.noisy_images, recipe.noise_sigma
            dataset = add_noise(dataset, share, sigma, recipe.split_seed)
        if recipe.features:
            dataset = vector_dataset(recipe, dataset, cli.progress_callback(progress))
        return dataset
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
    input_shape: tuple[int, ...],
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
        f"model: {recipe.model}, {_pixels(input_shape)}, batch {recipe.batch_size}, {recipe.dtype},"
        f" at most {cli.count(sum(s.epochs for s in recipe.stages), 'epoch')}, recipe {recipe.name}"
    )
    if quick and recipe.name == "pig_faces_quick":
        cli.say(
            "quick form: 5 epochs, and batch-norm momentum 0.9 instead of the document's (Keras's) 0.99,"
            " because its 215 steps are too few for 0.99"
        )
    elif on_cpu and f"{recipe.name}_quick" in papers.RECIPES and recipe.stages[0].epochs > 20:
        cli.say("hint: on a CPU this may take hours; --quick gives a first result in minutes")


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} pixels" if len(shape) == 3 else f"vectors of {shape[0]}"


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
        "glibc_tunables": cli.TUNABLES,
        "git_commit": commit,
        "git_dirty": dirty,
        "command": cli.command_line(),
    }


if __name__ == "__main__":
    cli.main(main)
