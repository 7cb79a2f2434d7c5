"""No package has import cycles. Imports inside functions and for type checkers count, lazily loaded names do not."""

from pathlib import Path

import pytest
from test_imports import ROOT, imports, modules

PACKAGES = ("zoo", "datasets", "train", "benchmarks")


def targets(names: set[str], known: set[str]) -> set[str]:
    """Map imported names to modules: `a.b` is the module `a.b`, or else a name in the module `a`."""
    found = set()
    for name in names:
        parent = name.rpartition(".")[0]
        found |= {next((n for n in (name, parent) if n in known), "")} - {""}
    return found


def graph_of(sources: dict[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Build the import graph of modules, given by dotted name as (source, whether it is a package's __init__).

    Python's implicit imports of parent packages are not counted.
    """
    graph = {}
    for name, (source, is_package) in sources.items():
        found = imports(source, name, is_package=is_package)
        graph[name] = targets(found, set(sources)) - {name}
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return one cycle, from a module back to itself, or an empty list."""
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph[module]):
            if cycle := follow(target, [*path, module]):
                return cycle
        done.add(module)
        return []

    for module in sorted(graph):
        if cycle := follow(module, []):
            return cycle
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_no_cycle(package):
    sources = {
        name: (path.read_text("utf-8"), path.name == "__init__.py")
        for name, path in modules()
        if name.partition(".")[0] == package
    }
    cycle = find_cycle(graph_of(sources))
    assert not cycle, " imports ".join(cycle)


def test_all_modules_are_checked():
    assert {name.partition(".")[0] for name, _ in modules()} == set(PACKAGES)
    files = {path for package in PACKAGES for path in Path(ROOT, package).rglob("*.py")}
    assert {path for _, path in modules()} == files


EXAMPLE = {
    "p": ("from p.a import f", True),
    "p.a": ("def f():\n    from p import b", False),
    "p.b": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .q.c import Thing",
        False,
    ),
    "p.q": ("", True),
    "p.q.c": ("import os\nimport p.d", False),
    "p.d": ("from p.q import name", False),
}


def test_graph_of_an_example():
    assert graph_of(EXAMPLE) == {
        "p": {"p.a"},
        "p.a": {"p.b"},
        "p.b": {"p.q.c"},
        "p.q": set(),
        "p.q.c": {"p.d"},
        "p.d": {"p.q"},
    }
    assert find_cycle(graph_of(EXAMPLE)) == []


@pytest.mark.parametrize(
    ("module", "source", "cycle"),
    [
        ("p.d", "from p.a import f", ["p.a", "p.b", "p.q.c", "p.d", "p.a"]),
        ("p.d", "def g():\n    import p.q.c", ["p.q.c", "p.d", "p.q.c"]),
        ("p.q", "from ..b import x", None),
        ("p.q.c", "from .. import name", ["p", "p.a", "p.b", "p.q.c", "p"]),
    ],
)
def test_a_cycle_is_found(module, source, cycle):
    changed = EXAMPLE | {module: (source, EXAMPLE[module][1])}
    found = find_cycle(graph_of(changed))
    if cycle is None:  # p.b -> p.q.c -> p.d -> p.q -> p.b, from any start
        assert set(found) == {"p.b", "p.q.c", "p.d", "p.q"} and found[0] == found[-1]
    else:
        assert found == cycle
