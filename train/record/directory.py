"""The run directory: its files, its lock, and the checks before a run starts or resumes.

Imports only the standard library.
"""

import collections
import contextlib
import csv
import dataclasses
import errno
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import zoo
from datasets import dataset_info, list_datasets, locks
from datasets.dataset import Dataset
from train.recipe import (
    FORMAT,
    LAST_FORMAT_OF_VERSION_0_1,
    InputError,
    ModelOptions,
    Recipe,
    differences,
)
from train.record.environment import environment, numerics
from train.record.terminal import say
from zoo.common.files import PART, printable, write_atomically

# Recipe fields that may change when a run is resumed: data location (the data are compared), input pipeline, name.
FREE_FIELDS = frozenset(["data_dir", "dataset", "feed", "max_bad", "name"])
SUMMARY_COLUMNS = (
    "epoch",
    "step",
    "stage",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_second",
    "data_wait_share",
    "is_best",
)
LOCK = ".lock"
# Files that `begin` writes before config.json. They are left behind next to the lock if the disk is full.
FIRST_FILES = frozenset(
    [LOCK, "start.json", "splits.json", "env.json", "bad_images.txt", "leaks.csv"]
)


class RunDir:
    """Paths and small files of a run."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.splits = self.path / "splits.json"
        self.start = self.path / "start.json"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.csv"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.test = self.path / "test.json"
        self.predictions = self.path / "predictions.npz"
        self.figures = self.path / "figures"
        self.report = self.path / "report.html"

    def begin(
        self, recipe: Recipe, dataset: Dataset, start_settings: Mapping[str, Any] | None
    ) -> None:
        """Write the initial files of a run, config.json last, because its existence marks the folder as a run.

        When a run is resumed, only the recipe is rewritten. `start_settings` are options and preprocessing
        that come from pretrained weights or training images, for start.json.
        """
        manifest = dataset.manifest()
        if start_settings is not None:
            write_json(self.start, start_settings)
        if not self.exists():
            write_json(self.splits, manifest)
            write_json(self.path / "env.json", environment())
            if dataset.bad_images:
                lines = [f"{bad.id}\t{bad.reason}\n" for bad in dataset.bad_images]
                write_text(self.path / "bad_images.txt", "".join(lines))
            if dataset.duplicates:
                table = io.StringIO()
                writer = csv.writer(table)
                writer.writerow(["kind", "part", "id", "other_part", "other_id", "distance"])
                writer.writerows(dataclasses.astuple(d) for d in dataset.duplicates)
                write_text(self.path / "leaks.csv", table.getvalue())
        write_json(self.config, {"format": FORMAT, "recipe": recipe.to_json()})

    # Existing runs.

    def exists(self) -> bool:
        """Whether the directory contains a run. Raises InputError if it cannot be searched."""
        try:
            return self.config.is_file()
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}): check its permissions"
            ) from None

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.checkpoints.is_dir() and any(
            path.name.isdecimal() for path in self.checkpoints.iterdir()
        )

    def read_recipe(self) -> Recipe:
        """Read the recipe of the run. Raises InputError if it is missing or unreadable."""
        config = self.read_json(self.config)
        recipe = Recipe.from_json(config.get("recipe", {}))
        return recipe if _is_current(config) else as_version_0_1(recipe)

    def is_of_version_0_1(self) -> bool:
        """Whether the run was started by version 0.1."""
        return not _is_current(self.read_json(self.config))

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON object from a file in this directory. Raises InputError if it is missing or damaged."""
        if not self.path.is_dir():
            raise InputError(f"no run directory at {self.path}: check the path")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{self.path} is not a run directory (it has no {path.relative_to(self.path)}):"
                " use the --workdir of a training run"
            ) from None
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): check its permissions and the disk"
            ) from None
        except ValueError as error:
            raise InputError(
                f"{path} cannot be read ({error}): restore it or start a new run"
            ) from None
        if not isinstance(data, dict):
            raise InputError(
                f"{path} does not contain a JSON object: restore it or start a new run"
            )
        return data

    def check(self, recipe: Recipe, resume: Literal["auto", "never", "must"]) -> None:
        """Raise InputError unless a run of this recipe can start or resume here. Writes nothing."""
        self._check_folder()
        if not self.exists():
            if resume == "must":
                raise InputError(f"no run to resume in {self.path}: check --workdir")
            return
        if resume == "never":
            raise InputError(
                f"{self.path} already contains a run: use another --workdir, or --resume auto to resume it"
            )
        before = self.read_recipe()
        # A run may be extended by epochs, its data may have moved (the fingerprint is compared later), and the input
        # pipeline only affects the speed.
        changed = [
            difference
            for difference in differences(before, recipe)
            if difference.path[0] not in FREE_FIELDS and difference.path[-1] != "epochs"
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise InputError(
                f"{self.path} contains a run with different settings ({'; '.join(map(str, changed[:3]))}{more}):"
                " use another --workdir, or omit these flags to resume it"
            )
        self._check_epochs(before, recipe)

    def _check_epochs(self, recorded: Recipe, recipe: Recipe) -> None:
        """Raise InputError if a stage has trained for more epochs than the recipe allows, or has ended with a
        different number of epochs."""
        rows = self.read_summary()
        trained = collections.Counter(row["stage"] for row in rows)
        for index, (before, now) in enumerate(zip(recorded.stages, recipe.stages, strict=True)):
            done = trained[before.name]
            has_ended = done > 0 and before.name != rows[-1]["stage"]
            if now.epochs < done or (has_ended and now.epochs != before.epochs):
                raise InputError(
                    f"{self.path} has already trained {done} epochs of stage {index} ({before.name})"
                    f"{' and started the next stage' if has_ended else ''}: cannot change the number of epochs to"
                    f" {now.epochs}; use another --workdir"
                )

    def check_data(self, dataset: Dataset) -> None:
        """Raise InputError unless the data and their splits are the same as when the run started."""
        before, now = self.read_json(self.splits), dataset.manifest()
        if before.get("fingerprint") != dataset.fingerprint:
            raise InputError(
                f"the data of {dataset.name} differ from those of the run in {self.path} (fingerprint"
                f" {dataset.fingerprint[:12]}, not {str(before.get('fingerprint'))[:12]}): restore them, or use"
                " another --workdir"
            )
        if any(before.get(field) != now[field] for field in ("class_names", "splits")):
            raise InputError(
                f"the splits of {dataset.name} differ from {self.splits}: use that file with --splits and another"
                " --workdir"
            )

    def _check_folder(self) -> None:
        """Raise InputError if the path is a file, or a folder with files that do not belong to a run."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir {self.path} is a file: use a folder")
        if self.path.is_dir() and not self.exists():
            names = {path.name for path in self.path.iterdir()} - {p.name for p in self._parts()}
            if names and not (LOCK in names and names <= FIRST_FILES):
                raise InputError(
                    f"--workdir {self.path} contains other files but no run: use a new or empty folder"
                )

    @contextlib.contextmanager
    def locked(self, *, new: bool = False, warn: Callable[[str], None] = say) -> Iterator[None]:
        """Create the directory and lock it against other processes, before anything in it is checked or read.

        If the block fails before it has written anything, the created files and folders are removed again.

        Args:
          new: the directory must not exist.
          warn: called with a message if the file system has no locks.

        Raises:
          InputError: another process holds the lock, or the folder cannot be written or contains other files.
          FileExistsError: the directory is not `new`.
        """
        _check_utf8(self.path)
        created = [p for p in (self.path, *self.path.parents) if not os.path.lexists(p)]
        busy = f"another process is training in {self.path}: wait, or use another --workdir"
        with contextlib.ExitStack() as stack:
            try:
                self._check_folder()
                self.path.mkdir(parents=True, exist_ok=not new)
                stack.enter_context(locks.locked(self.path / LOCK, busy, warn))
            except OSError as error:
                if isinstance(error, FileExistsError) and new and os.path.lexists(self.path):
                    raise  # else a parent is the obstacle, such as a link to a disk that is not mounted
                _remove_empty(created)
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise InputError(
                    f"--workdir {self.path} cannot be written ({error.strerror}): use another folder"
                ) from None
            try:
                for left in self._parts():
                    left.unlink(missing_ok=True)
                yield
            except BaseException:
                with contextlib.suppress(OSError):
                    if {path.name for path in self.path.iterdir()} == {LOCK}:
                        (self.path / LOCK).unlink()
                        _remove_empty(created)
                raise

    def _parts(self) -> list[Path]:
        """Unfinished files left by a killed process."""
        return [p for d in (self.path, self.best, self.figures) for p in d.glob(f".*{PART}")]

    def check_numerics(self) -> None:
        """Raise InputError if a resumed run would compute differently than before, such as in float64.

        Older runs did not record this.
        """
        before: Mapping[str, Any] = {}
        with contextlib.suppress(InputError):  # the rest of env.json is informational
            before = self.read_json(self.path / "env.json").get("numerics", {})
        for name, value in numerics().items():
            if before.get(name, value) != value:
                raise InputError(
                    f"the run in {self.path} was started with {name} {before[name]}, not {value}: set"
                    f" {name.upper()}={before[name]} to resume it, or use another --workdir"
                )

    def read_summary(self) -> list[dict[str, Any]]:
        """Read summary.csv: one dict per epoch, with numbers parsed.

        Lines that are not the row of a later epoch are skipped: a full disk or a crash leaves truncated lines.
        """
        try:
            text = self.summary.read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        header, *lines = (_cells(line) for line in text.split("\n"))
        if not set(SUMMARY_COLUMNS) <= set(header):
            return []
        rows: list[dict[str, Any]] = []
        for values in lines:
            if len(values) != len(header):
                continue
            named = dict(zip(header, values, strict=True))
            try:
                row = {column: _parse(column, named[column]) for column in SUMMARY_COLUMNS}
            except ValueError:
                continue
            if not rows or row["epoch"] > rows[-1]["epoch"]:
                rows.append(row)
        return rows


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a field of more than 131,072 characters
        return []


def _check_utf8(path: Path) -> None:
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError:  # TensorStore, which writes the checkpoints, accepts no other names
        raise InputError(
            f"--workdir {path}: the name is not valid UTF-8, which checkpoints need: use another folder"
        ) from None


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that this process created, innermost first, unless they are in use."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _is_current(config: dict[str, Any]) -> bool:
    return config.get("format", 1) > LAST_FORMAT_OF_VERSION_0_1


def as_version_0_1(recipe: Recipe) -> Recipe:
    """Make explicit the defaults of version 0.1 for a recipe that have changed since."""
    name = recipe.model
    stages = tuple(
        dataclasses.replace(
            stage,
            model_options=ModelOptions(
                zoo.options_of_version_0_1(name, stage.model_options, defaults=False)
            ),
        )
        for stage in recipe.stages
    )
    options = ModelOptions(zoo.options_of_version_0_1(name, recipe.model_options))
    recipe = dataclasses.replace(recipe, model_options=options, stages=stages)
    if recipe.dataset in list_datasets() and dataset_info(recipe.dataset).pools_splits:
        return dataclasses.replace(recipe, published_splits="keep")
    return recipe


# A list of numbers as indented by `json.dumps`. Never matches inside a string, whose line breaks are escaped.
_NUMBERS = re.compile(r"\[\n(?:\s*(?:-?\d[\d.eE+-]*|null),?\n)+\s*\]")


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Write JSON atomically, with lists of numbers on one line.

    Raises ValueError for NaN and infinity, which JSON cannot represent.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda match: json.dumps(json.loads(match[0])), text)
    # In JSON, a lone surrogate (from a file name that is not UTF-8) becomes an escape sequence.
    write_atomically(path, (text + "\n").encode(errors="backslashreplace"))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically. Invalid Unicode is replaced."""
    write_atomically(path, printable(text).encode())


def _parse(column: str, text: str) -> Any:
    if column in ("epoch", "step", "is_best"):
        return int(text)
    return text if column == "stage" else float(text)
