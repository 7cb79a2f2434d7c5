"""Which room may import which, and what an import may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Package: what it may import of the project, and all below that. The longest prefix of a module's name decides.
MAY_IMPORT = {
    "zoo": {"zoo"},
    "zoo.common": {"zoo.common"},  # and otherwise the standard library alone
    "datasets": {"datasets", "zoo.common"},
    "train": {"train", "zoo", "datasets"},
    "train.analysis": {"train", "zoo", "datasets"},
    "benchmarks": {"benchmarks", "train", "zoo", "datasets"},
    "benchmarks.peers": {"benchmarks", "train", "zoo", "datasets"},
}
# What no module of a package imports, though the table above would allow it.
NEVER = {
    "zoo": {"torch", "tensorflow", "keras"},
    "zoo.common": {"torch", "tensorflow", "keras"},
    "datasets": {"torch", "tensorflow", "keras"},
    "train": {"torch", "tensorflow", "keras"},
    # Metrics and clustering work on arrays, whoever made them.
    "train.analysis": {"torch", "tensorflow", "keras", "train.engine", "jax", "flax", "optax"},
    "benchmarks": {"torch", "tensorflow", "keras"},
    "benchmarks.peers": {"tensorflow"},
}
ROOMS = {"zoo", "datasets", "train", "benchmarks", "tests"}

# These answer before JAX is there; everything else in them is imported when it is used.
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
    """Dotted names that a module's source imports anywhere, inside functions too; `from a import b`
    counts as `a.b`, since b may be a module."""
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


def room_of(module: str) -> str:
    return max((r for r in MAY_IMPORT if within(module, r)), key=len)


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    room = room_of(module)
    found = []
    for name in sorted(imports(source, module, is_package=is_package)):
        top = name.partition(".")[0]
        ours = top in ROOMS and not any(within(name, allowed) for allowed in MAY_IMPORT[room])
        foreign = room == "zoo.common" and top not in ROOMS | sys.stdlib_module_names
        if ours or foreign or any(within(name, n) for n in NEVER[room]):
            found.append(f"{module} imports {name}")
    return found


def modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module of the four rooms."""
    found = []
    for room in ("zoo", "datasets", "train", "benchmarks"):
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def test_rooms_import_in_one_direction():
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
def test_a_wrong_direction_is_noticed(module, source):
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
def test_a_right_direction_is_let_through(module, source):
    assert not violations(source, module)


def newly_loaded(module: str) -> set[str]:
    """Top-level names of what importing a module loads, in a fresh process."""
    code = (
        f"import sys; before = set(sys.modules); import {module};"
        " print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", STANDARD_LIBRARY_ONLY)
def test_import_loads_the_standard_library_only(module):
    assert newly_loaded(module) <= ROOMS | sys.stdlib_module_names


def is_command(path: Path) -> bool:
    return "cli.main(main)" in path.read_text("utf-8")


@pytest.mark.parametrize(
    "module",
    [name for name, path in modules() if is_command(path)],
)
def test_commands_answer_before_anything_heavy_is_loaded(module):
    """A parser is built from what the import loads, so `--help` pays for all of it."""
    assert not newly_loaded(module) & HEAVY


def test_a_heavy_import_is_noticed():
    assert newly_loaded("numpy") & HEAVY
    assert not newly_loaded("zoo.alexnet") <= ROOMS | sys.stdlib_module_names
