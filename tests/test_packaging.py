"""What a newcomer relies on before any of our code runs: versions, targets, quoted commands."""

import ast
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["optional-dependencies"].items()
}
PYTHONS = ["3.11", "3.12", "3.13"]
ROOMS = ["zoo", "datasets", "train", "benchmarks"]
DOCUMENTS = sorted(ROOT.glob("*.md"))


def constraints(python: str) -> dict[str, Version]:
    """Pinned versions by canonical name; anything but `name==version` is an error."""
    pins = {}
    text = (ROOT / "constraints" / f"constraints-{python}.txt").read_text("utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
        pins[canonicalize_name(name)] = Version(version)
    return pins


def test_there_is_a_constraints_file_for_each_python():
    assert {p.name for p in (ROOT / "constraints").glob("constraints-*")} == {
        f"constraints-{python}.txt" for python in PYTHONS
    }
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


@pytest.mark.parametrize("python", PYTHONS)
def test_declared_ranges_admit_the_tested_versions(python):
    pins = constraints(python)
    for requirement in RUNTIME + EXTRAS["test"]:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} but {pin} is tested"


@pytest.mark.parametrize("python", PYTHONS)
def test_tested_versions_suit_every_platform(python):
    """A pin of an accelerator's libraries would bind machines that have none."""
    accelerator = re.compile(r"nvidia|cuda|rocm|libtpu|triton")
    assert not [name for name in constraints(python) if accelerator.search(name)]


@pytest.mark.parametrize("requirement", RUNTIME + EXTRAS["test"], ids=lambda r: r.name)
def test_bounds_are_tested_below_and_closed_above(requirement):
    """The lower bound is the lowest version in constraints/, in as many places as it has."""
    bounds = {s.operator: Version(s.version).release for s in requirement.specifier}
    assert set(bounds) == {">=", "<"}
    lower = bounds[">="]
    tested = min(constraints(python)[canonicalize_name(requirement.name)] for python in PYTHONS)
    assert tested.release[: len(lower)] == lower


def third_party_imports(folders: list[str], *, without: str = "") -> dict[str, Path]:
    """Top-level names that our files import, each with a file that does."""
    found = {}
    for path in (p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))):
        if without and path.is_relative_to(ROOT / without):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            found |= {name.partition(".")[0]: path for name in names}
    # pytest puts the folder of a test module on the path, so that helpers are imported by their name.
    ours = {*ROOMS, "tests", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    return {n: p for n, p in found.items() if n not in ours | sys.stdlib_module_names}


@functools.cache
def distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def undeclared(imported: dict[str, Path], requirements: list[Requirement]) -> list[str]:
    declared = {canonicalize_name(r.name) for r in requirements}
    found = []
    for name, path in imported.items():
        # A name that is not installed is taken for its distribution's.
        owners = {canonicalize_name(owner) for owner in distributions().get(name, [name])}
        if not owners & declared:
            found.append(f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml lacks")
    return found


def test_what_the_packages_import_is_declared():
    imported = third_party_imports(ROOMS, without="benchmarks/peers")
    # Both modules know what to do when they are not there.
    assert imported.pop("simplejpeg") == ROOT / "datasets" / "images" / "fast.py"
    for name in ("cv2", "numba"):
        assert imported.pop(name) == ROOT / "datasets" / "images" / "resampling.py"
    assert not undeclared(imported, RUNTIME)
    names = {r.name for r in EXTRAS["fast"]}
    assert names == {"numba", "opencv-python-headless", "simplejpeg"}


def test_what_tests_and_peers_import_is_declared():
    imported = third_party_imports(["tests"])
    del imported["packaging"]  # comes with pytest
    imported.pop("torchvision", None)  # looked at where it happens to be installed
    # Tests that compare with a peer run where the peer is.
    assert not undeclared(imported, RUNTIME + EXTRAS["test"] + EXTRAS["bench"])
    assert not undeclared(third_party_imports(["benchmarks/peers"]), RUNTIME + EXTRAS["bench"])


def test_an_undeclared_import_is_noticed():
    imported = {"jax": ROOT / "a.py", "sklearn": ROOT / "a.py", "pluggy": ROOT / "a.py"}
    assert undeclared(imported, RUNTIME) == ["a.py imports pluggy, which pyproject.toml lacks"]


def test_no_file_names_a_package_registry():
    """Where packages come from is the reader's own setting."""
    files = [ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run"]
    for path in [*files, *sorted((ROOT / "constraints").iterdir())]:
        found = re.search(r"index-url|find-links|trusted-host|\w+://", path.read_text("utf-8"))
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_the_changelog_keeps_a_place_for_what_comes():
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_ci_runs_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "set -euo pipefail" in script
    assert "\nmake test\n" in script and script.endswith("\nmake parity\n")
    assert "make test" in (ROOT / "README.md").read_text("utf-8")


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    # Started by make itself, the suite must not hand its flags on.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments, *(f"{k}={v}" for k, v in variables.items())]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "target", ["help", "run", "test", "test-all", "bench", "constraints", "clean"]
)
def test_make_has_the_target(target):
    done = make("--dry-run", target)
    assert "No rule" not in done.stderr
    assert "Nothing to be done" not in done.stdout
    # test-all looks for its Pythons in a dry run, too, and may find one missing.
    assert done.returncode == 0 or (target == "test-all" and "error: no Python" in done.stderr)


def test_make_help_names_every_target():
    listed = re.findall(r"^make ([\w-]+)", make("help").stdout, re.MULTILINE)
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {*listed, "help"} == set(declared[1].split())


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_make_refuses_an_unsuited_python_in_one_line(tmp_path, version):
    stub = tmp_path / "python"
    stub.write_text(
        f"#!/bin/sh\n"
        f'code="$2" exec "{sys.executable}" -c'
        f" 'import os, sys; sys.version_info = {version}; exec(os.environ[\"code\"])'\n"
    )
    stub.chmod(0o755)
    done = make("run", PYTHON=str(stub), VENV=str(tmp_path / "venv"))
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(errors) == 1
    assert f"is Python {version[0]}.{version[1]}: give one of 3.11 to 3.13" in errors[0]
    assert not (tmp_path / "venv").exists()


def test_make_says_when_there_is_no_python(tmp_path):
    done = make("test", PYTHON="no-such-python", VENV=str(tmp_path / "venv"))
    assert done.returncode != 0
    assert "error: no no-such-python here: install Python 3.11 to 3.13" in done.stderr


def quoted_commands(document: Path) -> list[str]:
    """Our commands in a document's code blocks (fenced or indented) and code spans, without comments."""
    text = document.read_text("utf-8").replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    commands = [re.sub(r"^\$ |^\.venv/bin/|\s+#.*", "", line.strip()) for line in lines]
    return [command for command in commands if re.match(r"(make|python -m) ", command)]


def quoted() -> list[str]:
    return sorted({command for document in DOCUMENTS for command in quoted_commands(document)})


@pytest.mark.parametrize("command", quoted())
def test_commands_in_the_documents_exist(command):
    """A quoted command's module or target is there; tests/test_readme.py parses the README's flags."""
    words = command.split()
    if words[0] == "make":
        target = next(word for word in words[1:] if "=" not in word)
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
    elif words[2].partition(".")[0] in ROOMS:
        assert importlib.util.find_spec(words[2])
