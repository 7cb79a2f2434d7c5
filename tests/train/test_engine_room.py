"""Who may know whom: the engine says nothing and finds nothing by itself, and the record does not know the engine."""

import ast
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "train"
ENGINE = sorted((TRAIN / "engine").glob("*.py"))
RECORD = sorted(path for path in (TRAIN / "record").glob("*.py") if path.name != "terminal.py")
# Above the engine: what talks to people, and what finds things by name or by path.
ABOVE = (
    "train.cli",
    "train.setup",
    "train.predictor",
    "train.run",
    "train.results",
    "train.report",
)


def imported(tree, package="train.engine"):
    """Dotted names of all that a module imports, inside of functions, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def offences(text, forbidden):
    """What is wrong with a module: what it prints with, and what it imports."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "builtins.print"):
            yield f"line {node.lineno} prints"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            yield f"line {node.lineno} reaches for {ast.unparse(node)}"
    for name in imported(tree):
        if any(name == module or name.startswith(f"{module}.") for module in forbidden):
            yield f"imports {name}"


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.name)
def test_the_engine_prints_nothing_and_knows_nobody_above_it(path):
    # Terminals and files are writers, which are handed to it.
    writers = ("train.record.terminal", "train.record.files", "train.record.tensorboard")
    assert list(offences(path.read_text(encoding="utf-8"), (*ABOVE, *writers))) == []


@pytest.mark.parametrize("path", RECORD, ids=lambda path: path.name)
def test_the_record_prints_nothing_and_does_not_know_the_engine(path):
    assert list(offences(path.read_text(encoding="utf-8"), (*ABOVE, "train.engine"))) == []


def test_the_terminal_does_not_know_the_engine_either():
    tree = ast.parse((TRAIN / "record" / "terminal.py").read_text(encoding="utf-8"))
    assert not [name for name in imported(tree) if name.startswith("train.engine")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("print('x')", 1),
        ("def f():\n    import sys\n    sys.stderr.write('x')", 1),
        ("from train import cli", 1),
        ("from train.setup import resolve", 2),
        ("import train.predictor", 1),
        ("from .. import run", 1),
        ("def f():\n    from train.report.html import page", 2),
        ("from train import clinic, runners\nfingerprint('x')\nlog.print('x')", 0),
    ],
)
def test_offences_are_seen(text, found):
    assert len(list(offences(text, ABOVE))) == found


def test_there_are_modules_to_look_at():
    assert {"fit.py", "stage.py", "features.py"} <= {path.name for path in ENGINE}
    assert {"files.py", "log.py", "best.py", "directory.py"} <= {path.name for path in RECORD}
