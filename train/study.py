"""Run a study, folds x seeds x settings:

    python -m train.study --model resnet_tiny --dataset photos.zip --folds 5 --seeds 3 --vary lr=1e-3,1e-4

Trains every setting on every fold with every seed, and reports means, intervals and tests in study.json, study.csv and
study.html. --model takes several models, --vary any field of a recipe. All other flags are those of
train.run and apply to every run. The same command continues a study, including on another machine that shares its
folder and --storage.
"""

import dataclasses
import json
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from train import cli, flags
from train import run as train_run
from train.errors import InputError, RunError
from train.studies import storage as storages
from train.studies import varied
from train.studies.definition import Definition, default_name, difference, is_extension
from train.studies.results import RETRIED
from train.studies.study_files import study_words
from zoo import get_entry, list_models
from zoo.common.commands import typed
from zoo.common.files import check_output_folder

if TYPE_CHECKING:
    from train.studies.engine import Data
    from train.studies.results import StudyResults


@dataclasses.dataclass(frozen=True)
class Arguments(train_run.RecipeArguments):
    """All command-line flags."""

    study: Annotated[str | None, tyro.conf.Positional] = None
    """Name of the study, a TOML file with its flags, or the folder of a study to continue."""
    vary: tuple[str, ...] = ()
    """Fields to vary, FIELD=VALUE,VALUE or FIELD=LOW..HIGH: lr=1e-3,1e-4 stages.0.augment.rotation=0,15."""
    seeds: int = 1
    """Number of seeds, starting at --seed."""
    metric: Literal["accuracy", "macro_f1", "loss"] = "accuracy"
    """Score used to choose settings (on validation images) and to compare them."""
    sampler: Literal["grid", "random", "tpe"] = "grid"
    """grid: all combinations of the varied values; random, tpe: a search (tpe learns from earlier scores)."""
    trials: int = 0
    """Number of settings that a search tries."""
    prune: bool = False
    """Stop runs of a search that are worse than the median at the same epoch."""
    workers: int = 1
    """Number of processes that train on this machine."""
    storage: str | None = None
    """sqlite:///FILE, postgresql://..., or the path of a journal (default: study.db in the study's folder)."""
    out: Path | None = None
    """Folder of the study (default: studies/NAME)."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments, definition, folder = parse(argv)
    url = arguments.storage or storages.default(folder)
    check_output_folder(folder, "--out")
    if arguments.storage:
        storages.check(url)
    if arguments.workers < 1:
        raise InputError(f"--workers is {arguments.workers}: use at least 1")

    from train.record.trackers import load_writers, tracked_study
    from train.studies import engine, summary
    from train.studies.worker import Order

    load_writers(arguments.writers)
    for recipe in definition.recipes:
        if recipe.model not in list_models():
            get_entry(recipe.model)
    record = engine.read_record(folder)
    if record is not None and engine.has_runs(folder):  # before the data are read
        recorded = engine.recorded_definition(record, folder)
        if difference(recorded, definition) and not is_extension(recorded, definition):
            engine.check_same(record, definition, engine.Data("", False), folder)
    data = check_data(definition)
    if not arguments.storage:
        folder.mkdir(parents=True, exist_ok=True)
    storage = engine.begin(folder, url, definition, data)
    order = Order(
        folder=str(folder.absolute()),
        storage=storages.absolute(url),
        definition=definition,
        has_test_split=data.has_test_split,
        writers=arguments.writers,
    )
    runs = definition.num_settings * max(definition.folds, 1) * len(definition.seeds)
    cli.say(
        f"study {definition.name} in {folder}: {cli.count(definition.num_settings, 'setting')} x"
        f" {cli.count(max(definition.folds, 1), 'fold')} x {cli.count(len(definition.seeds), 'seed')} ="
        f" {cli.count(runs, 'run')}, {cli.count(arguments.workers, 'worker')}"
    )
    command = f"{typed('train.study')} {shlex.join(argv)}"
    with tracked_study(arguments.writers, folder, definition.to_json()) as scores:
        results = engine.run(storage, order, arguments.workers, command=command)
        lines = summary.write(folder, results)
        scores |= _scores(folder, results)
    cli.say(f"written: {folder / summary.HTML}")
    cli.result("\n".join(lines))
    failed = [run.name for run in results.runs if run.state in RETRIED]
    if failed:
        raise RunError(
            f"{cli.count(len(failed), 'run')} failed: {', '.join(failed[:3])}{', ...' if len(failed) > 3 else ''};"
            " run the same command again to retry"
        )


def _scores(folder: Path, results: "StudyResults") -> dict[str, Any]:
    """Return the scores logged to trackers: the number of runs, the best mean validation score, and the score of the
    chosen setting on images that were not used to choose it, with its interval."""
    from train.studies import summary

    best = results.choose()
    written = json.loads((folder / summary.JSON).read_text(encoding="utf-8"))
    chosen = written["choice"]["score"] or {}
    name = f"test_{results.metric}"
    return {
        "runs": float(sum(run.is_finished for run in results.runs)),
        f"validation_{results.metric}": None if best is None else results.validation_mean(best),
        name: chosen.get("mean"),
        "intervals": {name: chosen.get("interval") or chosen.get("runs_interval")},
    }


# Flags.


def file_flags() -> dict[str, Any]:
    """Return the types of the flags that a study's TOML file may have besides the fields of a recipe, by name."""
    kinds = typing.get_type_hints(Arguments)
    kinds["recipe"] = kinds.pop("recipe_file")
    del kinds["study"]
    return {name: str | None if kind == Path | None else kind for name, kind in kinds.items()}


def parse(argv: Sequence[str]) -> tuple[Arguments, Definition, Path]:
    """Return the flags, the study, and its folder."""
    argv = list(argv)
    positional = argv[0] if argv and not argv[0].startswith("-") else None
    if positional and positional.endswith(".toml"):
        argv = [*study_words(Path(positional), file_flags()), *argv[1:]]
        positional = argv[0] if argv and not argv[0].startswith("-") else None
    continued = (
        Path(positional) if positional and Path(positional, "definition.json").is_file() else None
    )
    if continued and len(argv) > 1:
        argv, recorded = argv[1:], continued
        return _continue(recorded, argv)
    if continued:
        return _continue(continued, [])
    if positional and len(argv) == 1:
        own = Path("studies", positional)
        if (own / "definition.json").is_file():
            return _continue(own, [])
        raise InputError(
            f"there is no study {positional}: start one with --dataset, --model and --vary, or name the folder of one"
        )
    models, argv = take(argv, "--model")
    vary, argv = take(argv, "--vary")
    words = [*argv, *(["--vary", *vary] if vary else [])]
    parsed = []
    named: list[str | None] = [*models] or [None]
    for model in named:
        default = train_run.default_recipe(argv, model)
        arguments = flags.parse(
            Arguments, words, "train.study", __doc__, default=Arguments(recipe=default)
        )
        recipe = train_run.with_shorthands(arguments.recipe, arguments.epochs, arguments.lr)
        parsed.append(dataclasses.replace(arguments, recipe=recipe))
    arguments = parsed[0]
    recipes = tuple(dataclasses.replace(a.recipe, fold=0) for a in parsed)
    if any(a.recipe.fold for a in parsed):
        raise InputError("--fold is for single runs: a study trains on all folds")
    given = recipes[0].name if _given(argv, "--name") else ""
    name = arguments.study or given or default_name(recipes)
    if arguments.study and "/" in name and Path(name).is_dir():
        raise InputError(
            f"{name} is a folder without a study (no definition.json): use the folder of a study to continue it, or a"
            " name without / and --out for a new one"
        )
    if not name or "/" in name or name in (".", ".."):
        raise InputError(
            f"{name!r} is neither the name nor the folder of a study: use a name without /"
        )
    if arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}: use at least 1")
    first = recipes[0].seed
    definition = Definition(
        name=name,
        recipes=recipes,
        varied=tuple(varied.parse(text) for text in arguments.vary),
        seeds=tuple(range(first, first + arguments.seeds)),
        metric=arguments.metric,
        sampler=arguments.sampler,
        trials=arguments.trials,
        prune=arguments.prune,
    )
    definition.check()
    return arguments, definition, (arguments.out or Path("studies", name)).expanduser()


@dataclasses.dataclass(frozen=True)
class _Continued:
    """Flags for continuing a study from its folder."""

    study: Annotated[Path, tyro.conf.Positional]
    """Folder of the study to continue."""
    workers: int = 1
    """Number of processes that train on this machine."""
    storage: str | None = None
    """Storage of the study, if it is not the default one."""
    writers: tuple[str, ...] = ()
    """Additional run-log writers (default: the trackers that the study was started with)."""


def _continue(folder: Path, argv: Sequence[str]) -> tuple[Arguments, Definition, Path]:
    """Read the study from its folder."""
    from train.record.trackers import writers_of_study
    from train.studies import engine

    given = flags.parse(_Continued, [str(folder), *argv], "train.study", __doc__)
    record = engine.read_record(folder)
    assert record is not None
    definition = engine.recorded_definition(record, folder)
    storage = given.storage or record["storage"]
    beside = storages.file_of(storages.default(folder))
    # The default storage, even if the folder has been moved.
    if storages.is_beside(storage, folder) or (not given.storage and beside and beside.exists()):
        storage = None
    arguments = Arguments(
        recipe=definition.recipes[0],
        workers=given.workers,
        storage=storage,
        writers=given.writers or writers_of_study(folder),
    )
    return arguments, definition, folder


def take(argv: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """Separate the values of a flag, wherever it occurs, from the other words."""
    values: list[list[str]] = []  # of each occurrence
    rest: list[str] = []
    taking = False
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            taking = name == flag
            if taking:
                values.append([value] if equals else [])
            else:
                rest.append(word)
        else:
            (values[-1] if taking else rest).append(word)
    if not all(words and all(words) for words in values):
        raise InputError(f"{flag} has an empty value: name at least one")
    return [word for words in values for word in words], rest


def _given(argv: Sequence[str], flag: str) -> bool:
    return any(word.partition("=")[0] == flag for word in argv)


# Data.


def check_data(definition: Definition) -> "Data":
    """Load the data of a study once. Raises InputError if they cannot be used, or have fewer images than folds."""
    from datasets import load_dataset
    from train.studies.engine import Data

    recipe = definition.recipes[0]
    progress = cli.Progress()
    options = dataclasses.asdict(recipe.data_options()) | {
        "image_size": recipe.image_size,
        "progress": cli.progress_callback(progress),
    }
    try:
        dataset = load_dataset(recipe.dataset, **options)
    finally:
        progress.stop()
    published = "test" in dataset.provenance.get("published_parts", ())
    if recipe.folds:
        splits = [
            split for name, split in dataset.splits.items() if name != "test" or not published
        ]
        check_folds(splits, dataset.class_names, recipe.folds)
    cli.say_notes(dataset)
    cli.say_skipped(dataset)
    return Data(dataset.fingerprint, published)


def check_folds(splits: Sequence[Any], class_names: Sequence[str], folds: int) -> None:
    """Raise InputError if a class has fewer images, or groups of them, than there are folds."""
    units: dict[int, set[str]] = {label: set() for label in range(len(class_names))}
    groups = any(any(split.groups) for split in splits)
    for split in splits:
        for name, label, group in zip(split.ids, split.labels.tolist(), split.groups, strict=True):
            units[label].add(f"group {group}" if group else f"image {name}")
    smallest = min(units, key=lambda label: len(units[label]))
    count = len(units[smallest])
    if count < folds:
        what = "groups" if groups else "images"
        if count < 2:
            raise InputError(
                f"--folds {folds}: class {class_names[smallest]} has only {count} of the {what} for training and"
                f" validation, and each fold needs one: add {what}, or remove the class"
            )
        raise InputError(
            f"--folds {folds}: class {class_names[smallest]} has only {count} {what} for training and validation: use"
            f" at most {count} folds, or add {what}"
        )


if __name__ == "__main__":
    cli.main(main)
