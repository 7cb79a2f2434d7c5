"""The README tells the truth: tables, commands, Python examples."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from benchmarks import record, tables
from train.flags import REGISTRY

TEXT = tables.README.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (?:\.venv/bin/)?(python -m (?!pytest)[^#\n]+)", TEXT, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_tables_agree_with_the_registry_and_the_records():
    assert tables.render(TEXT) == TEXT, "run `python -m benchmarks.tables`"


def test_every_record_says_how_it_was_made():
    records = sorted(tables.RESULTS.glob("*.json"))
    assert records
    for path in records:
        data = json.loads(path.read_text(encoding="utf-8"))
        assert re.fullmatch(r"[0-9a-f]{40}", data["commit"]), path
        assert data["command"].startswith("python -m train.run"), path
        assert data["hardware"] and data["versions"]["jax"] and data["data_fingerprint"], path


def test_recorded_ledgers_could_be_recorded_again():
    for path in tables.RESULTS.parent.glob("ledger_*.json"):
        content = record.checked_ledger(path)
        assert path.name == f"ledger_{content['document']}.json"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted_by_their_parsers(command, monkeypatch):
    """Parsed as typed; not run, since they name data of the reader's."""
    import importlib

    import tyro

    words = shlex.split(command)
    module = importlib.import_module(words[2])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{words[2]}.__main__")
    if hasattr(module, "COMMANDS"):
        parsed = module.parse(words[3:])
    else:
        parsed = tyro.cli(
            module.Arguments, default=defaults(module), args=words[3:], registry=REGISTRY
        )
    assert parsed is not None


def defaults(module):
    """What the command starts from, where its flags depend on a recipe."""
    from train import recipes, run

    return module.Arguments(recipe=recipes.DEFAULT) if module is run else None


@pytest.mark.slow
def test_python_examples_run(tmp_path, monkeypatch, small_run):
    """In the order of the page, each in the same namespace."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    namespace = {"image": np.zeros((40, 50, 3), np.uint8), "__name__": "my_variants"}
    for block in (block for block in BLOCKS if "def test_" not in block):
        block = re.sub(r'"runs/[^"]*"', repr(str(small_run)), block)
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["logits"].shape == (8, 4)
    assert namespace["codes"].shape == (8, 1024)
    assert namespace["attention"].shape == (8, 8, 8, 384)
    assert namespace["probabilities"].shape == (1, 3)
    assert namespace["narrow_sam"](10).widths[0] == 32

    from zoo import registry

    registry._ENTRIES.pop("narrow_sam")


@pytest.mark.slow
def test_variant_in_another_folder_is_tested_and_trained(
    tmp_path, image_folder, command_environment
):
    """The two files of the page as they stand there, and its commands, on a small data set."""
    for block in BLOCKS:
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    assert len((tmp_path / "my_variants.py").read_text().splitlines()) <= 20
    environment = {k: v for k, v in command_environment.items() if k != "PYTHONPATH"}

    def command(text):
        words = [sys.executable, *shlex.split(text)[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    commands = re.search(r"In the folder of these two files:\n\n((?:    .*\n)+)", TEXT)[1]
    pytest_command, models, training = map(str.strip, commands.strip().splitlines())
    assert "1 passed" in command(pytest_command)
    assert "head_widths" not in command(models) and "sam4" in command(models)
    training = training.replace("synthetic_pigs --epochs 5", f"{image_folder} --epochs 1")
    command(f"{training} --batch-size 24 --workdir run")
    assert json.loads((tmp_path / "run" / "test.json").read_text())["model"] == (
        "my_variants:narrow_sam"
    )


def test_files_that_the_readme_links_to_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (tables.README.parent / target).exists(), target
