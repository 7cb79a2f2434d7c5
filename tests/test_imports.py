"""Rules for imports between packages, and limits on what an import may load."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Package -> the project's packages that it may import, with their subpackages. The longest matching package applies.
MAY_IMPORT = {
    "zoo": {"zoo"},
    "zoo.common": {"zoo.common"},  # apart from that only the standard library
    "datasets": {"datasets", "zoo.common"},
    "train": {"train", "zoo", "datasets"},
    "train.analysis": {"train", "zoo", "datasets"},
    "benchmarks": {"benchmarks", "train", "zoo", "datasets"},
    "benchmarks.peers": {"benchmarks", "train", "zoo", "datasets"},
}
# Package -> further imports that are forbidden in it.
NEVER = {
    "zoo": {"torch", "tensorflow", "keras"},
    "zoo.common": {"torch", "tensorflow", "keras"},
    "datasets": {"torch", "tensorflow", "keras"},
    "train": {"torch", "tensorflow", "keras"},
    # Metrics and clustering work on plain arrays.
    "train.analysis": {"torch", "tensorflow", "keras", "train.engine", "jax", "flax", "optax"},
    "benchmarks": {"torch", "tensorflow", "keras"},
    "benchmarks.peers": {"tensorflow"},
}
PACKAGES = {"zoo", "datasets", "train", "benchmarks", "tests"}

# Modules that are imported before JAX; they import anything else only when it is used.
STANDARD_LIBRARY_ONLY = [
    "zoo",
    "zoo.registry",
    "zoo.common.names",
    "zoo.common.resize",
    "datasets",
    "train",
    "train.recipe",
    "train.cli",
    "train.recipes",
]
HEAVY = {"jax", "jaxlib", "flax", "optax", "numpy", "scipy", "sklearn", "PIL", "matplotlib"}


def imports(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Return the dotted names that a module imports anywhere, also inside functions.

    `from a import b` counts as `a.b`, since b may be a module.
    """
    parts = module.split(".")
    package = parts if is_package else parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
    return found


def package_of(module: str) -> str:
    return max((p for p in MAY_IMPORT if within(module, p)), key=len)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    package = package_of(module)
    found = []
    for name in sorted(imports(source, module, is_package=is_package)):
        top = name.partition(".")[0]
        internal = top in PACKAGES and not any(within(name, p) for p in MAY_IMPORT[package])
        external = package == "zoo.common" and top not in PACKAGES | sys.stdlib_module_names
        if internal or external or any(within(name, n) for n in NEVER[package]):
            found.append(f"{module} imports {name}")
    return found


def modules() -> list[tuple[str, Path]]:
    """List (dotted name, file) of every module of the four packages."""
    found = []
    for package in ("zoo", "datasets", "train", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


@pytest.mark.slow
def test_packages_import_in_one_direction():
    found = [
        line
        for name, path in modules()
        for line in violations(path.read_text("utf-8"), name, is_package=path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("zoo.a", "import train"),
        ("zoo.a", "from datasets import images"),
        ("zoo.a", "def f():\n    import torch.nn"),
        ("zoo.a", "from .. import datasets"),
        ("zoo.common.a", "from zoo.registry import get_entry"),
        ("zoo.common.a", "import zoo"),
        ("zoo.common.a", "from .. import layers"),
        ("zoo.common.a", "def f():\n    import numpy as np"),
        ("datasets.a", "import zoo.registry"),
        ("datasets.a", "import zoo"),
        ("datasets.a", "from zoo import Preprocessing"),
        ("datasets.a", "from zoo.commonplace import x"),
        ("datasets.a", "def f():\n    from zoo.preprocessing import Preprocessing"),
        ("datasets.a", "from tensorflow import keras"),
        ("train.a", "import benchmarks.throughput"),
        ("train.a", "import keras"),
        ("train.analysis.a", "from train.engine.loop import fit"),
        ("train.analysis.a", "from train import engine"),
        ("train.analysis.a", "from ..engine import loop"),
        ("train.analysis.a", "import jax.numpy as jnp"),
        ("benchmarks.a", "import torch"),
        ("benchmarks.a", "import tests.conftest"),
        ("benchmarks.peers.a", "import tensorflow"),
    ],
)
def test_a_forbidden_import_is_found(module, source):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("zoo.a", "import jax\nfrom zoo.registry import get_entry\nfrom . import layers"),
        ("zoo.common.a", "import math\nfrom zoo.common.errors import InputError"),
        ("datasets.a", "import numpy\nfrom zoo.common import resize\nimport zoo.common.errors"),
        (
            "datasets.a",
            "from datasets.dataset import Split\nfrom zoo.common.resize import ResizeRule",
        ),
        ("train.a", "import zoo\nimport datasets.images.decode\nfrom .engine import loop"),
        ("train.analysis.a", "import sklearn.metrics\nfrom train.recipe import InputError"),
        ("benchmarks.peers.a", "import torch\nimport keras"),
    ],
)
def test_an_allowed_import_passes(module, source):
    assert not violations(source, module)


IMPORT_EACH = """
import importlib, json, sys

found = []
for module in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(module)
    found.append(sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print(json.dumps(found))
"""


def newly_loaded(*modules: str) -> dict[str, set[str]]:
    """Import modules in this order in a new process. Returns the top-level names that each import loads."""
    command = [sys.executable, "-c", IMPORT_EACH, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(modules, map(set, json.loads(done.stdout)), strict=True))


def test_imports_that_load_the_standard_library_only():
    for module, loaded in newly_loaded(*STANDARD_LIBRARY_ONLY).items():
        assert loaded <= PACKAGES | sys.stdlib_module_names, module


def is_command(path: Path) -> bool:
    return "cli.main(main)" in path.read_text("utf-8")


def test_importing_a_command_loads_no_heavy_library():
    """`--help` waits for all imports of a command's module. What two of them import counts for the first."""
    commands = [name for name, path in modules() if is_command(path)]
    assert len(commands) > 10
    for module, loaded in newly_loaded(*commands).items():
        assert not loaded & HEAVY, module


@pytest.mark.slow
def test_a_heavy_import_is_found():
    loaded = newly_loaded("train.recipe", "numpy", "zoo.alexnet")
    assert not loaded["train.recipe"] & HEAVY
    assert loaded["numpy"] & HEAVY
    assert not loaded["zoo.alexnet"] <= PACKAGES | sys.stdlib_module_names
