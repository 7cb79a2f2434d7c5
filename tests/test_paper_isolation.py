"""Only a few packages refer to papers by their short names, and only a few modules import `train.reproduce`."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoo", "datasets", "train", "benchmarks")

# Where short names of papers, and of data sets with the same name, may appear. `cifar10` is not checked, since many
# papers use this data set.
ALLOWED = ("train/reproduce/", "train/recipes/", "datasets/named/", "datasets/load.py")
SHORT_NAME = re.compile(r"(?<![a-z0-9])(pig_faces|animals10|afhq7?|cats_dogs)(?![a-z0-9])")
NUMBER = re.compile(r"\b(?:document|paper)s?(?:'s)? [1-9]", re.IGNORECASE)
# Modules that may import `train.reproduce`: they record its ledgers and time its tables.
MAY_IMPORT = (
    "train/reproduce/",
    "benchmarks/record.py",
    "benchmarks/tables.py",
    "benchmarks/gpu.py",
    "benchmarks/table1.py",
)


def violations(source: str, path: str) -> list[str]:
    """List violations of a module as "path:line: reason"."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    allowed = path.startswith(ALLOWED)
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for match in NUMBER.finditer(node.value):
                where = line + node.value.count("\n", 0, match.start())
                found.append(f"{path}:{where}: a paper by its number: {match[0]!r}")
            if not allowed and id(node) not in docstrings:
                for match in SHORT_NAME.finditer(node.value):
                    found.append(f"{path}:{line}: a paper by its short name: {match[0]!r}")
        for name in names(node):
            if not allowed and SHORT_NAME.search(name.lower()):
                found.append(f"{path}:{line}: a paper by its short name: {name!r}")
        for module in imports(node, path):
            if within_reproduce(module) and not path.startswith(MAY_IMPORT):
                found.append(f"{path}:{line}: imports {module}")
    return sorted(set(found))


def names(node: ast.AST) -> list[str]:
    """Return the identifiers of a node itself, without its children."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.arg | ast.keyword):
        return [node.arg or ""]
    if isinstance(node, ast.alias):
        return [node.name, node.asname or ""]
    if isinstance(node, ast.ImportFrom) and not within_reproduce(node.module or ""):
        return [node.module or ""]
    return []


def within_reproduce(module: str) -> bool:
    """Return whether a module belongs to `train.reproduce`."""
    return f"{module}.".startswith("train.reproduce.")


def imports(node: ast.AST, path: str) -> list[str]:
    """Return the dotted names that a node imports; `from a import b` counts as `a.b`, since b may be a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = Path(path).parent.parts
    above = package[: len(package) - node.level + 1] if node.level else ()
    base = ".".join((*above, *([node.module] if node.module else [])))
    return [f"{base}.{alias.name}" for alias in node.names]


def test_papers_are_named_and_imported_only_where_allowed():
    found = [
        line
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in violations(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "line"),
    [
        ("zoo/a.py", '"""A net.\n\nOf document 3."""', 3),
        ("zoo/a.py", 'x = "as Paper 4 has it"', 1),
        ("train/reproduce/a.py", '"""documents 1 and 5"""', 1),
        ("zoo/a.py", 'x = 1\nsource = "afhq, Figure 1"', 2),
        ("train/a.py", 'if name == "pig_faces_quick":\n    pass', 1),
        ("train/a.py", 'x = f"{y} of cats_dogs"', 1),
        ("train/a.py", "x = {'animals10': 1}", 1),
        ("train/a.py", "from train.recipes import pig_faces", 1),
        ("train/a.py", "import train.recipes.afhq as settings", 1),
        ("train/a.py", "x = recipes.AFHQ_RECIPE", 1),
        ("train/a.py", "def run_afhq7(): pass", 1),
        ("train/a.py", "run(cats_dogs=True)", 1),
        ("benchmarks/a.py", "from train.reproduce.verdicts import Run", 1),
        ("train/study.py", "def f():\n    from train import reproduce", 2),
        ("train/analysis/a.py", "from ..reproduce import formatting", 1),
        ("train/jobs.py", "import train.reproduce.schema", 1),
    ],
)
def test_a_violation_is_found(path, source, line):
    found = violations(source, path)
    assert found and all(text.startswith(f"{path}:{line}: ") for text in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("zoo/a.py", "source = 'Le 2021, \"Alexnet and image classification\", Table 2'"),
        ("zoo/a.py", '"""After the pig face paper; runs/cats_dogs is an example."""'),
        ("zoo/a.py", 'class A:\n    x: int\n    """Such as afhq."""'),
        ("zoo/a.py", 'x = "document 0, papers of 4 authors, cifar10, wildcats_dogsled"'),
        ("datasets/load.py", 'x = {"afhq": 1}'),
        ("train/recipes/__init__.py", "from train.recipes import afhq"),
        ("train/reproduce/papers/a.py", "from train.reproduce.schema import Paper\nx = 'afhq'"),
        ("benchmarks/tables.py", "from train.reproduce.markdown import markdown"),
        ("benchmarks/table1.py", "from train.reproduce.papers.pig_faces import PAPER"),
        ("train/a.py", "from train import recipes\nfrom train.reproducer import x"),
    ],
)
def test_other_code_passes(path, source):
    assert not violations(source, path)
