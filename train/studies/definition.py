"""Definition of a study: recipes, varied fields, folds and seeds, and how settings are chosen.

Imports only the standard library.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from train.errors import InputError
from train.jobs import Job
from train.recipe import Recipe, with_values
from train.studies import varied
from train.studies.results import Metric, Setting
from train.studies.varied import MODEL, Varied

FORMAT = 1  # of to_json
Sampler = Literal["grid", "random", "tpe"]


@dataclasses.dataclass(frozen=True)
class Definition:
    """A study. Its jobs are all settings x folds x seeds."""

    name: str
    recipes: tuple[Recipe, ...]  # one per model; each with the study's number of folds
    varied: tuple[Varied, ...] = ()
    seeds: tuple[int, ...] = (0,)
    metric: Metric = "accuracy"
    sampler: Sampler = "grid"
    trials: int = 0  # number of settings of a search, 0 for a grid
    prune: bool = False

    @property
    def folds(self) -> int:
        """Number of folds, 0 without cross-validation."""
        return self.recipes[0].folds

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether a higher or a lower score is better."""
        return "minimize" if self.metric == "loss" else "maximize"

    @property
    def parameters(self) -> tuple[Varied, ...]:
        """The varied fields, including the model if there are several."""
        models = tuple(recipe.model for recipe in self.recipes)
        return (*([Varied(MODEL, models)] if len(models) > 1 else []), *self.varied)

    @property
    def num_settings(self) -> int:
        """Number of settings; for a search, the number it tries."""
        return self.trials or len(list(self.grid()))

    def grid(self) -> Iterator[dict[str, Any]]:
        """Iterate over the values of all settings of a grid, as JSON by path."""
        names = [p.path for p in self.parameters]
        for values in itertools.product(*(p.values for p in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a setting, given its values as JSON by path. Fold and seed are 0.

        Raises InputError if a field does not exist in the recipe, such as the second stage of a one-stage recipe.
        """
        model = values.get(MODEL, self.recipes[0].model)
        base = next(recipe for recipe in self.recipes if recipe.model == model)
        typed = {p: varied.typed(p, value) for p, value in values.items() if p != MODEL}
        try:
            return with_values(base, typed)
        except (IndexError, ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f"--vary {' '.join(typed)}: the recipe of {model} has no such field ({error})"
            ) from None

    def jobs(self, number: int, values: Mapping[str, Any]) -> list[Job]:
        """Return the jobs of a setting, by fold and seed."""
        recipe = self.recipe(values)
        jobs = []
        for fold in range(self.folds) if self.folds else [None]:
            for seed in self.seeds:
                name = job_name(number, fold, seed)
                changed = dataclasses.replace(recipe, fold=fold or 0, seed=seed)
                jobs.append(
                    Job(name, changed, group=f"{number:03d}", figures=False, keep_checkpoints=False)
                )
        return jobs

    def setting(self, number: int, values: Mapping[str, Any]) -> Setting:
        """Describe a setting for the results."""
        return Setting(number, {path: varied.shown(value) for path, value in values.items()})

    def check(self) -> None:
        """Raise InputError if the study is invalid."""
        if self.metric not in ("accuracy", "macro_f1", "loss"):
            raise InputError(f"--metric is {self.metric}: use accuracy, macro_f1 or loss")
        if not self.seeds:
            raise InputError("--seeds is 0: use at least 1")
        paths = [p.path for p in self.varied]
        for path in paths:
            if paths.count(path) > 1:
                raise InputError(f"--vary has {path} twice: give all its values at once")
        ranges = [p.path for p in self.varied if p.is_range]
        if self.sampler == "grid":
            if ranges:
                raise InputError(
                    f"--vary {ranges[0]} is a range, but a grid needs a list: list values, or use --sampler tpe"
                    " with --trials"
                )
            if self.trials:
                raise InputError(
                    "--trials is for searches: add --sampler random or tpe, or leave it out"
                )
            if self.prune:
                raise InputError(
                    "--prune is for searches: add --sampler random or tpe, or leave it out"
                )
        else:
            if self.trials < 1:
                raise InputError(
                    f"--sampler {self.sampler} needs --trials, the number of settings to try"
                )
            if not self.parameters:
                raise InputError(
                    f"--sampler {self.sampler} has nothing to search: add --vary FIELD=LOW..HIGH"
                )
        self._check_recipes()

    def _check_recipes(self) -> None:
        """Raise InputError if a value of a varied field is invalid in the recipe of any model."""
        models = [recipe.model for recipe in self.recipes]
        for recipe in self.recipes:
            if models.count(recipe.model) > 1:
                raise InputError(f"--model names {recipe.model} twice: name it once")
            values: dict[str, Any] = {MODEL: recipe.model}
            self.recipe(values).validate()
            for parameter in self.varied:
                _check_stage(parameter.path, recipe)
                for value in parameter.values or (parameter.low, parameter.high):
                    changed = self.recipe({MODEL: recipe.model, parameter.path: value})
                    changed.validate(lambda path: f"--vary {path}")

    # Records.

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON-serializable data."""
        data = dataclasses.asdict(dataclasses.replace(self, recipes=()))
        return {"format": FORMAT, **data, "recipes": [recipe.to_json() for recipe in self.recipes]}

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Definition":
        """Inverse of `to_json`. Raises InputError for data of another version; `where` starts its message."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(
                f"{where} was written by another version of the program: continue the study with that version, or"
                " start a new one"
            )
        try:
            return cls(
                name=data["name"],
                recipes=tuple(Recipe.from_json_at(r, where) for r in data["recipes"]),
                varied=tuple(Varied(**{**v, "values": tuple(v["values"])}) for v in data["varied"]),
                seeds=tuple(data["seeds"]),
                metric=data["metric"],
                sampler=data["sampler"],
                trials=data["trials"],
                prune=data["prune"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where} is damaged (missing or invalid: {error}): restore it"
            ) from None

    def comparable(self) -> dict[str, Any]:
        """Return the JSON without fields that may differ between machines: data locations and names."""
        data = self.to_json()
        data.pop("name")
        for recipe in data["recipes"]:
            for field in ("dataset", "data_dir", "name", "feed", "max_bad"):
                recipe.pop(field)
        return data


def _check_stage(path: str, recipe: Recipe) -> None:
    """Raise InputError if a path names a stage that a recipe does not have."""
    place, _, rest = path.partition(".")
    number = rest.partition(".")[0]
    count = len(recipe.stages)
    if place == "stages" and not (count if number == "*" else int(number) < count):
        raise InputError(
            f"--vary {path}: the recipe of {recipe.model} has {count} stage{'' if count == 1 else 's'}"
            f"{', counted from 0' if count else ''}"
        )


def job_name(number: int, fold: int | None, seed: int) -> str:
    """Return the name of a job, and the path of its run below runs/: 003/fold1/seed0, or 003/seed0 without folds."""
    return f"{number:03d}/{'' if fold is None else f'fold{fold}/'}seed{seed}"


def difference(recorded: Definition, given: Definition) -> str:
    """Describe the first difference between a recorded and a given study; empty if they are the same."""

    def find(first: Any, second: Any, path: str) -> str:
        if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
            pairs: Sequence[tuple[Any, Any, Any]] = [(k, first[k], second[k]) for k in first]
        elif (
            isinstance(first, list | tuple)
            and isinstance(second, list | tuple)
            and len(first) == len(second)
        ):
            pairs = [(k, a, b) for k, (a, b) in enumerate(zip(first, second, strict=True))]
        else:
            name = path.removeprefix("recipes.0.")
            return "" if first == second else f"{name}: {_brief(first)}, not {_brief(second)}"
        found = (find(a, b, f"{path}.{key}" if path else f"{key}") for key, a, b in pairs)
        return next((text for text in found if text), "")

    before, now = ([field.path for field in each.varied] for each in (recorded, given))
    if before != now:
        return f"it varies {_listed(before)}, not {_listed(now)}"
    for first, second in zip(recorded.varied, given.varied, strict=True):
        if first.values != second.values:
            return f"--vary {first.path}: {_listed(first.values)}, not {_listed(second.values)}"
    return find(recorded.comparable(), given.comparable(), "")


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "nothing"


def is_extension(recorded: Definition, given: Definition) -> bool:
    """Whether a study is another one with more seeds, or more values of the same fields."""
    more = dataclasses.replace(recorded, seeds=given.seeds, varied=given.varied)
    if recorded == more or difference(more, given) or len(recorded.varied) != len(given.varied):
        return False
    return given.seeds[: len(recorded.seeds)] == recorded.seeds and all(
        before.path == now.path
        and not before.is_range
        and all(value in now.values for value in before.values)
        for before, now in zip(recorded.varied, given.varied, strict=True)
    )


def _brief(value: Any) -> str:
    text = f"{value!r}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def default_name(recipes: Sequence[Recipe]) -> str:
    """Name a study by its models and its data."""
    dataset = Path(recipes[0].dataset).stem or "data"
    models = "-".join(recipe.model.rpartition(":")[2] for recipe in recipes)
    return f"{models}-{dataset}"
