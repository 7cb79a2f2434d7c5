"""The run directory: its files, who may write into it, and how logs are cut back on resume.

Imports the standard library only.
"""

import collections
import contextlib
import csv
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from datasets.dataset import Dataset
from train.recipe import FORMAT, InputError, Recipe, differences
from train.record.environment import environment
from zoo.common.files import write_atomically

# Fields of a recipe in which a run may change when it goes on: where its data are, how they are fed, its name.
FREE_FIELDS = frozenset(["data_dir", "dataset", "feed", "name"])
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


class RunDir:
    """Paths and small files of one run."""

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

    def begin(self, recipe: Recipe, dataset: Dataset, decisions: Mapping[str, Any] | None) -> None:
        """Write the files that a run begins with; config.json last, since it makes the folder a run. Of a run that goes
        on, only the recipe is new. `decisions`: what pretrained weights have decided besides the numbers."""
        manifest = dataset.manifest()
        if decisions is not None:
            write_json(self.start, decisions)
        if not self.exists():
            write_json(self.splits, manifest)
            write_json(self.path / "env.json", environment())
            if dataset.bad_images:
                lines = [f"{bad.id}\t{bad.reason}\n" for bad in dataset.bad_images]
                (self.path / "bad_images.txt").write_text("".join(lines), encoding="utf-8")
            if dataset.leaks:
                with open(self.path / "leaks.csv", "w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(field.name for field in dataclasses.fields(dataset.leaks[0]))
                    writer.writerows(dataclasses.astuple(leak) for leak in dataset.leaks)
        write_json(self.config, {"format": FORMAT, "recipe": recipe.to_json()})

    # What is there already.

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config.is_file()

    def has_checkpoint(self) -> bool:
        """Whether training has got so far that it can go on."""
        return self.checkpoints.is_dir() and any(
            path.name.isdecimal() for path in self.checkpoints.iterdir()
        )

    def read_recipe(self) -> Recipe:
        """The recipe of the run; InputError when there is none or it cannot be read."""
        return Recipe.from_json(self.read_json(self.config).get("recipe", {}))

    def read_json(self, path: Path) -> dict[str, Any]:
        """A JSON object of this directory; InputError names what is missing or damaged."""
        if not self.path.is_dir():
            raise InputError(f"no run directory at {self.path}: check the path")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{self.path} is not a run directory (it has no {path.relative_to(self.path)}):"
                " give the --workdir of a training run"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read ({error}): restore it or start a new run"
            ) from None
        if not isinstance(data, dict):
            raise InputError(f"{path} does not hold a JSON object: restore it or start a new run")
        return data

    def check(self, recipe: Recipe, resume: Literal["auto", "never", "must"]) -> None:
        """Raise InputError unless a run of this recipe may start or go on here. Writes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir {self.path} is a file: give a folder")
        if not self.exists():
            if self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir()):
                raise InputError(
                    f"--workdir {self.path} holds other files and no run: give a new or empty folder"
                )
            if resume == "must":
                raise InputError(f"there is no run to resume in {self.path}: check --workdir")
            return
        if resume == "never":
            raise InputError(
                f"{self.path} already holds a run: give another --workdir, or --resume auto to go on with it"
            )
        config = self.read_json(self.config)
        before = Recipe.from_json(config.get("recipe", {}))
        # More epochs continue a run, data may have moved (their fingerprint is compared later), and the way
        # in which they are fed changes nothing but the speed.
        changed = [
            difference
            for difference in differences(before, recipe)
            if difference.path[0] not in FREE_FIELDS and difference.path[-1] != "epochs"
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise InputError(
                f"{self.path} holds a run of other settings ({'; '.join(map(str, changed[:3]))}{more}):"
                " give another --workdir, or leave these flags out to go on with it"
            )
        self._check_epochs(before, recipe)

    def _check_epochs(self, recorded: Recipe, recipe: Recipe) -> None:
        """Raise InputError where the recipe claims other epochs than were trained: what has ended stays as it is."""
        rows = self.read_summary()
        trained = collections.Counter(row["stage"] for row in rows)
        for index, (before, now) in enumerate(zip(recorded.stages, recipe.stages, strict=True)):
            done = trained[before.name]
            has_ended = done > 0 and before.name != rows[-1]["stage"]
            if now.epochs < done or (has_ended and now.epochs != before.epochs):
                raise InputError(
                    f"{self.path} has trained {done} epochs of stage {index} ({before.name})"
                    f"{' and gone on to the next' if has_ended else ''}: they cannot become {now.epochs};"
                    " give another --workdir"
                )

    def check_data(self, dataset: Dataset) -> None:
        """Raise InputError unless the data of a run that goes on are what they were, and in the same splits."""
        before, now = self.read_json(self.splits), dataset.manifest()
        if before.get("fingerprint") != dataset.fingerprint:
            raise InputError(
                f"the data of {dataset.name} are not those of the run in {self.path} (fingerprint"
                f" {dataset.fingerprint[:12]}, not {str(before.get('fingerprint'))[:12]}): restore them, or give"
                " another --workdir"
            )
        if any(before.get(field) != now[field] for field in ("class_names", "splits")):
            raise InputError(
                f"the images of {dataset.name} are not in the splits that they have in {self.splits}: give"
                " that file with --splits and another --workdir"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out; InputError when one is already at work here."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"another process is training in {self.path}: wait, or give another --workdir"
                ) from None
            yield

    def read_summary(self) -> list[dict[str, Any]]:
        """The epochs so far, numbers as numbers."""
        if not self.summary.exists():
            return []
        with open(self.summary, newline="", encoding="utf-8") as file:
            return [{k: _parse(k, v) for k, v in row.items()} for row in csv.DictReader(file)]


# A list of numbers as `json.dumps` indents it. No string can look so: its line breaks are escaped.
_NUMBERS = re.compile(r"\[\n(?:\s*(?:-?\d[\d.eE+-]*|null),?\n)+\s*\]")


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Write plain data atomically, a list of numbers on one line; numbers that are not finite raise ValueError,
    since JSON has none."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda match: json.dumps(json.loads(match[0])), text)
    write_atomically(path, (text + "\n").encode())


def _parse(column: str, text: str) -> Any:
    if column in ("epoch", "step", "is_best"):
        return int(text)
    return text if column == "stage" else float(text)
