"""Recipes in user files: TOML, or Python that defines `recipe`.

A TOML file has the fields of a `Recipe`, with one table per nested field and `[[stages]]` for its stages; omitted
fields have the defaults of `train/recipe.py`. TOML has no null: a field that is None is omitted, and in model options
the text "None" means None, as on the command line.

A Python file is executed, so it must be trusted. Imports only the standard library until a file is written.
"""

import os
import tomllib
import traceback
from pathlib import Path
from typing import Any

from train.errors import InputError
from train.recipe import Recipe

HEADER = "# A recipe: python -m train.run --recipe {name}\n\n"


def read(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a .toml or .py file. Raises InputError, with the file and the field, for anything else."""
    path = Path(path).expanduser()
    if path.suffix == ".py":
        return _run(path)
    if path.suffix != ".toml":
        raise InputError(f"{path} is neither a .toml nor a .py file: use one of them for a recipe")
    return from_toml(read_toml(path), f"{path}: recipe")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises InputError if it is missing or not valid TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise InputError(f"{path} is not valid TOML ({error}): correct it") from None


def from_toml(data: dict[str, Any], where: str) -> Recipe:
    """Make a recipe from the content of a TOML file. `where` starts the message of an InputError."""
    return Recipe.from_json_at(_options(data), where)


def to_toml(recipe: Recipe) -> dict[str, Any]:
    """Inverse of `from_toml`: the content of a TOML file."""
    return _without_none(recipe.to_json())


def write(recipe: Recipe, path: Path) -> None:
    """Write a recipe to a TOML file, atomically, with all fields that are not None."""
    import tomli_w

    from zoo.common.files import write_atomically

    text = HEADER.format(name=path.name) + tomli_w.dumps(to_toml(recipe))
    write_atomically(path, text.encode())


def _run(path: Path) -> Recipe:
    """Execute a Python file and return its `recipe`, or what its function `recipe` returns."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from None
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(source, str(path), "exec"), names)
        found = names.get("recipe")
        if callable(found):
            found = found()
    except (Exception, SystemExit) as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = f", line {line}" if line else ""
        raise InputError(f"{path}{place}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Recipe):
        raise InputError(
            f"{path} defines no recipe: assign a train.recipe.Recipe to `recipe`, or return one from `recipe()`"
        )
    return found


OPTIONS = "model_options"


def _options(data: Any) -> Any:
    """Replace the text "None" with None in model options, of the recipe and of its stages."""
    if isinstance(data, dict):
        return {k: _none(v) if k == OPTIONS else _options(v) for k, v in data.items()}
    return [_options(item) for item in data] if isinstance(data, list) else data


def _none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _none(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_none(item) for item in value]
    return None if value == "None" else value


def _without_none(value: Any, *, option: bool = False) -> Any:
    if isinstance(value, dict):
        kept = {
            name: _without_none(item, option=option or name == OPTIONS)
            for name, item in value.items()
            if item is not None or option
        }
        return kept
    if isinstance(value, list):
        return [_without_none(item, option=option) for item in value]
    return "None" if value is None else value
