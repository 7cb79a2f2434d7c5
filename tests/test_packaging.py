"""Packaging and documentation: dependency versions, make targets, quoted commands."""

import ast
import fnmatch
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

from train import console

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["optional-dependencies"].items()
}
PYTHONS = ["3.11", "3.12", "3.13"]
PACKAGES = ["zoo", "datasets", "train", "benchmarks"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


LOWEST = "lowest"  # of the admitted versions, for Python 3.11


def constraints(python: str) -> dict[str, Version]:
    """Return the pinned versions by canonical name; anything but `name==version` is an error."""
    pins = {}
    name = python if python == LOWEST else f"constraints-{python}"
    text = (ROOT / "constraints" / f"{name}.txt").read_text("utf-8")
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


@pytest.mark.parametrize("python", [*PYTHONS, LOWEST])
def test_declared_ranges_admit_the_tested_versions(python):
    pins = constraints(python)
    for requirement in RUNTIME + EXTRAS["test"]:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} but {pin} is tested"


@pytest.mark.parametrize("python", [*PYTHONS, LOWEST])
def test_tested_versions_are_platform_independent(python):
    """Pinned accelerator libraries would be installed on machines without accelerators."""
    accelerator = re.compile(r"nvidia|cuda|rocm|libtpu|triton")
    assert not [name for name in constraints(python) if accelerator.search(name)]


@pytest.mark.parametrize("requirement", RUNTIME + EXTRAS["test"], ids=lambda r: r.name)
def test_lower_bounds_are_tested_and_upper_bounds_exist(requirement):
    """The lower bound is the version in constraints/lowest.txt, up to the bound's precision."""
    bounds = {s.operator: Version(s.version).release for s in requirement.specifier}
    assert set(bounds) == {">=", "<"}
    lower = bounds[">="]
    tested = constraints(LOWEST)[canonicalize_name(requirement.name)]
    assert tested.release[: len(lower)] == lower


def test_the_lowest_versions_run_in_ci():
    """And the ranges are wide enough for gradio (pillow below 13) and jax2onnx (orbax-checkpoint 0.11)."""
    assert "make test-lowest" in (ROOT / ".ci" / "run").read_text("utf-8")
    lowest, tested = constraints(LOWEST), constraints("3.13")
    assert lowest["pillow"].major < 13 <= tested["pillow"].major
    assert lowest["orbax-checkpoint"].release[:2] == (0, 11) < tested["orbax-checkpoint"].release


@pytest.mark.parametrize("requirement", EXTRAS["docs"], ids=lambda r: r.name)
def test_the_tools_of_the_site_are_closed_above(requirement):
    """A new warning in one of these tools would fail `make docs`."""
    assert {s.operator for s in requirement.specifier} == {">=", "<"}


def test_the_site_is_neither_committed_nor_packaged():
    find = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    for folder in ("site", "docs"):
        assert not any(fnmatch.fnmatch(folder, p) for p in find["packages"]["find"]["include"])
    assert "/site/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert re.search(r"(?m)^site_dir: site$", (ROOT / "mkdocs.yml").read_text("utf-8"))


def third_party_imports(folders: list[str], *, without: str = "") -> dict[str, Path]:
    """Return the top-level names of third-party imports, each with a file that imports it."""
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
    # pytest adds the folder of a test module to sys.path, so test helpers are imported by their file name.
    own = {*PACKAGES, "tests", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    return {n: p for n, p in found.items() if n not in own | sys.stdlib_module_names}


@functools.cache
def distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def undeclared(imported: dict[str, Path], requirements: list[Requirement]) -> list[str]:
    declared = {canonicalize_name(r.name) for r in requirements}
    found = []
    for name, path in imported.items():
        # If a package is not installed, its distribution is assumed to have the same name.
        owners = {canonicalize_name(owner) for owner in distributions().get(name, [name])}
        if not owners & declared:
            found.append(
                f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does not declare"
            )
    return found


@pytest.mark.slow
def test_imports_of_the_packages_are_declared():
    imported = third_party_imports(PACKAGES, without="benchmarks/peers")
    # Optional: these modules handle missing packages.
    assert imported.pop("simplejpeg") == ROOT / "datasets" / "images" / "fast.py"
    for name in ("cv2", "numba"):
        assert imported.pop(name) == ROOT / "datasets" / "images" / "resampling.py"
    assert imported.pop("pillow_heif") == ROOT / "datasets" / "images" / "decode.py"
    for name in ("mlflow", "wandb"):
        assert imported.pop(name) == ROOT / "train" / "record" / "trackers.py"
        assert any(r.name.startswith(name) for r in EXTRAS[name])
    assert not undeclared(imported, RUNTIME)
    names = {r.name for r in EXTRAS["fast"]}
    assert names == {"numba", "opencv-python-headless", "simplejpeg"}


@pytest.mark.slow
def test_imports_of_tests_and_baselines_are_declared():
    imported = third_party_imports(["tests"])
    del imported["packaging"]  # a dependency of pytest
    imported.pop("torchvision", None)  # optional in tests
    # Tests that compare with a baseline are skipped where it is not installed.
    assert not undeclared(imported, RUNTIME + EXTRAS["test"] + EXTRAS["bench"])
    assert not undeclared(third_party_imports(["benchmarks/peers"]), RUNTIME + EXTRAS["bench"])


def test_an_undeclared_import_is_found():
    imported = {"jax": ROOT / "a.py", "sklearn": ROOT / "a.py", "pluggy": ROOT / "a.py"}
    assert undeclared(imported, RUNTIME) == [
        "a.py imports pluggy, which pyproject.toml does not declare"
    ]


def test_no_file_sets_a_package_index():
    """The package index is a setting of the user."""
    files = [ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run"]
    for path in [*files, *sorted((ROOT / "constraints").iterdir())]:
        found = re.search(r"index-url|find-links|trusted-host|\w+://", path.read_text("utf-8"))
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_the_license_is_apache_2():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_the_changelog_has_an_unreleased_section():
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_ci_runs_the_documented_targets():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "set -euo pipefail" in script
    assert "\nmake test\n" in script and "\nmake parity\n" in script
    assert script.endswith("\nmake docs\n")
    assert "make test" in (ROOT / "README.md").read_text("utf-8")


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # If make started the suite, its flags must not be inherited.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments, *(f"{k}={v}" for k, v in variables.items())]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "target",
    ["help", "run", "test", "test-all", "test-lowest", "docs", "bench", "constraints", "clean"],
)
def test_make_has_the_target(target):
    done = make("--dry-run", target)
    assert "No rule" not in done.stderr
    assert "Nothing to be done" not in done.stdout
    # test-all looks for its Python versions even in a dry run, and one may be missing.
    assert done.returncode == 0 or (target == "test-all" and "error: no Python" in done.stderr)


def test_make_help_names_every_target():
    listed = re.findall(r"^make ([\w-]+)", make("help").stdout, re.MULTILINE)
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {*listed, "help"} == set(declared[1].split())


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_make_rejects_an_unsupported_python_in_one_line(tmp_path, version):
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
    assert f"is Python {version[0]}.{version[1]}: use one of 3.11 to 3.13" in errors[0]
    assert not (tmp_path / "venv").exists()


def test_make_says_when_there_is_no_python(tmp_path):
    done = make("test", PYTHON="no-such-python", VENV=str(tmp_path / "venv"))
    assert done.returncode != 0
    assert "error: no no-such-python here: install Python 3.11 to 3.13" in done.stderr


def quoted_commands(document: Path) -> list[str]:
    """List the project's commands in a document's code blocks (fenced or indented) and code spans, without comments."""
    text = document.read_text("utf-8").replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    commands = [re.sub(r"^\$ |^\.venv/bin/|\s+#.*", "", line.strip()) for line in lines]
    return [command for command in commands if re.match(r"(make|python -m|jax-zoo) ", command)]


def quoted() -> list[str]:
    return sorted({command for document in DOCUMENTS for command in quoted_commands(document)})


@pytest.mark.parametrize("command", quoted())
def test_commands_in_the_documents_exist(command):
    """A quoted command's module or target is there; tests/test_readme.py parses the flags."""
    words = command.split()
    if words[0] == "make":
        target = next(word for word in words[1:] if "=" not in word)
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
    elif words[0] == "jax-zoo":
        assert words[1] in (*console.COMMANDS, "--help")
    elif words[2].partition(".")[0] in PACKAGES:
        assert importlib.util.find_spec(words[2])
