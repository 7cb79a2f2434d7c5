"""The README tells the truth: tables, commands, Python examples."""

import re
import shlex

import pytest

from benchmarks import tables

TEXT = tables.README.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (?:\.venv/bin/)?(python -m [^#\n]+)", TEXT, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_tables_agree_with_the_registry_and_the_records():
    assert tables.render(TEXT) == TEXT, "run `python -m benchmarks.tables`"


def test_every_record_says_how_it_was_made():
    import json

    records = sorted(tables.RESULTS.glob("*.json"))
    assert records
    for path in records:
        data = json.loads(path.read_text(encoding="utf-8"))
        assert re.fullmatch(r"[0-9a-f]{40}", data["commit"]), path
        assert data["command"].startswith("python -m train.run"), path
        assert data["hardware"] and data["versions"]["jax"] and data["data_fingerprint"], path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted_by_their_parsers(command, monkeypatch):
    """Parsed as typed; not run, since they name data of the reader's."""
    import importlib

    import tyro

    words = shlex.split(command)
    module = importlib.import_module(words[2])
    parsed = tyro.cli(module.Arguments, default=defaults(module), args=words[3:])
    assert parsed is not None


def defaults(module):
    """What the command starts from, where its flags depend on a recipe."""
    from train import papers, run

    return module.Arguments(recipe=papers.DEFAULT) if module is run else None


@pytest.mark.slow
def test_python_examples_run(tmp_path, monkeypatch, small_run):
    """In the order of the page, each in the same namespace."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    namespace = {"image": np.zeros((40, 50, 3), np.uint8), "__name__": "my_variants"}
    for block in BLOCKS:
        block = re.sub(r'"runs/[^"]*"', repr(str(small_run)), block)
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["logits"].shape == (8, 4)
    assert namespace["codes"].shape == (8, 1024)
    assert namespace["attention"].shape == (8, 8, 8, 384)
    assert namespace["probabilities"].shape == (1, 3)
    assert namespace["narrow_sam"](10).widths[0] == 32

    from zoo import registry

    registry._ENTRIES.pop("narrow_sam")


def test_files_that_the_readme_links_to_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (tables.README.parent / target).exists(), target
