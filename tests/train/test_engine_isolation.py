"""Layering: the engine does not print or import the layers above it, and the record does not import the engine."""

import ast
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "train"
ENGINE = sorted((TRAIN / "engine").glob("*.py"))
RECORD = sorted(path for path in (TRAIN / "record").glob("*.py") if path.name != "terminal.py")
# Layers above the engine: the user interface, and lookup by name or path.
UPPER_LAYERS = (
    "train.cli",
    "train.setup",
    "train.predictor",
    "train.run",
    "train.results",
    "train.report",
)


def imports(tree, package="train.engine"):
    """Dotted names of everything that a module imports, including inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(text, forbidden):
    """Calls of print, uses of stdout and stderr, and forbidden imports in a module."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "builtins.print"):
            yield f"line {node.lineno} prints"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            yield f"line {node.lineno} uses {ast.unparse(node)}"
    for name in imports(tree):
        if any(name == module or name.startswith(f"{module}.") for module in forbidden):
            yield f"imports {name}"


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.name)
def test_engine_does_not_print_or_import_upper_layers(path):
    # Writers for terminal and files are passed to the engine as a `RunLog`.
    writers = ("train.record.terminal", "train.record.files", "train.record.tensorboard")
    assert list(violations(path.read_text(encoding="utf-8"), (*UPPER_LAYERS, *writers))) == []


@pytest.mark.parametrize("path", RECORD, ids=lambda path: path.name)
def test_record_does_not_print_or_import_the_engine(path):
    text = path.read_text(encoding="utf-8")
    assert list(violations(text, (*UPPER_LAYERS, "train.engine"))) == []


def test_terminal_writer_does_not_import_the_engine():
    tree = ast.parse((TRAIN / "record" / "terminal.py").read_text(encoding="utf-8"))
    assert not [name for name in imports(tree) if name.startswith("train.engine")]


@pytest.mark.parametrize(
    ("text", "count"),
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
def test_violations_are_detected(text, count):
    assert len(list(violations(text, UPPER_LAYERS))) == count


def test_checked_modules_exist():
    assert {"fit.py", "stage.py", "features.py"} <= {path.name for path in ENGINE}
    assert {"files.py", "log.py", "best.py", "directory.py"} <= {path.name for path in RECORD}
