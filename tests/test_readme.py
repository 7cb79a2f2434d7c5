"""Tests of README.md and docs/: tables, generated pages, commands, Python examples, links."""

import importlib
import json
import re
import shlex
import sys

import pytest

from benchmarks import record, tables
from tests.small_net import small_net
from train import flags, run
from zoo import registry

__all__ = ["small_net"]

GUIDE = tables.DOCS / "guide"
TEXTS = {
    path: path.read_text(encoding="utf-8")
    for path in (tables.README, tables.ROOT / "CONTRIBUTING.md", *sorted(tables.DOCS.rglob("*.md")))
}
# Two pages may quote one command; a command of pytest is run below.
COMMANDS = sorted(
    {
        command.strip()
        for text in TEXTS.values()
        for command in re.findall(
            r"^    (?:\.venv/bin/)?((?:python -m (?!pytest)|jax-zoo )[^#\n]+)", text, re.MULTILINE
        )
    }
)
# Python examples, executed in this order.
BLOCKS = [
    block
    for path in (
        tables.README,
        GUIDE / "python.md",
        GUIDE / "extending.md",
        GUIDE / "statistics.md",
    )
    for block in re.findall(r"```python\n(.*?)```", TEXTS[path], re.DOTALL)
]


@pytest.mark.slow
def test_pages_are_what_the_command_writes():
    """Tables agree with the registry and the records, pages with docstrings and `--help`."""
    expected = tables.rendered()
    assert tables.README in expected and tables.DOCS / "models" / "alexnet.md" in expected
    different = [
        str(path.relative_to(tables.ROOT))
        for path, text in expected.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    different += [f"{path.relative_to(tables.ROOT)} (not written)" for path in tables.stale()]
    assert not different, f"run `python -m benchmarks.tables`: {', '.join(different)}"


@pytest.mark.slow
def test_a_changed_table_is_restored():
    text = TEXTS[tables.README]
    # A test accuracy in the table of runs, and names in that of families.
    changed = re.sub(r"(synthetic\) \| 5 \|) [\d.]+%", r"\1 99.99%", text)
    assert changed != text
    changed = changed.replace("`alexnet`, `alexnet_original`", "`alexnett`")
    assert "`alexnett`" in changed
    assert tables.render(changed, tables.ROOT) == text


@pytest.mark.parametrize(("name", "lines"), [("README.md", 150), ("CONTRIBUTING.md", 30)])
def test_front_pages_stay_short(name, lines):
    """Longer content belongs in docs/."""
    assert len(TEXTS[tables.ROOT / name].splitlines()) <= lines


def test_every_record_has_its_provenance():
    records = sorted(tables.RESULTS.glob("*.json"))
    assert records
    for path in records:
        data = json.loads(path.read_text(encoding="utf-8"))
        assert re.fullmatch(r"[0-9a-f]{40}", data["commit"]), path
        assert data["command"].startswith(("python -m train.run", "jax-zoo run")), path
        assert data["hardware"] and data["versions"]["jax"] and data["data_fingerprint"], path


def test_recorded_ledgers_pass_the_checks_for_recording():
    for path in tables.RESULTS.parent.glob("ledger_*.json"):
        content = record.checked_ledger(path)
        assert path.name == f"ledger_{content['document']}.json"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted_by_their_parsers(command):
    """The commands are parsed but not run, since they use the reader's data."""
    words = shlex.split(command.replace("jax-zoo ", "python -m train."))
    module = importlib.import_module(words[2])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{words[2]}.__main__")
    if hasattr(module, "parse"):
        parsed = module.parse(words[3:])
    else:
        parsed = flags.parse(module.Arguments, words[3:], words[2], "")
    assert parsed is not None


@pytest.mark.slow
def test_python_examples_run(tmp_path, monkeypatch, small_net, image_folder):
    """In the order of the pages, each in the same namespace."""
    import numpy as np

    text = f"--model small_net --dataset {image_folder} --epochs 1 --workdir {tmp_path / 'run'}"
    run.run(run.parse(text.split()).recipe, tmp_path / "run", figures=False)
    monkeypatch.chdir(tmp_path)
    namespace = {"image": np.zeros((40, 50, 3), np.uint8), "__name__": "my_variants"}
    for block in (block for block in BLOCKS if "def test_" not in block):
        block = re.sub(r'"runs/[^"]*"', repr(str(tmp_path / "run")), block)
        exec(compile(block, "docs", "exec"), namespace)
    assert namespace["logits"].shape == (8, 4)
    assert namespace["codes"].shape == (8, 1024)
    assert namespace["attention"].shape == (8, 8, 8, 384)
    assert namespace["probabilities"].shape == (1, 3)
    assert namespace["narrow_sam"](10).widths[0] == 32

    registry._ENTRIES.pop("narrow_sam")


@pytest.fixture
def forget_the_variant():
    yield
    for name in ("my_variants", "test_my_variants"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.usefixtures("forget_the_variant")
def test_variant_in_another_folder_is_tested_and_trained(tmp_path, image_folder, monkeypatch, call):
    """Run the two files of the page and its commands, on a small data set and with only the head trained.

    In this process, with the folder on the path, as `python -m` has it.
    """
    for block in BLOCKS:
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    assert len((tmp_path / "my_variants.py").read_text().splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    def command(text):
        _, _, name, *words = shlex.split(text)
        status, stdout, stderr = call(importlib.import_module(name), *words)
        assert status == 0, stderr
        return stdout

    page = TEXTS[GUIDE / "extending.md"]
    commands = re.search(r"In the folder of these two files:\n\n((?:    .*\n)+)", page)[1]
    pytest_command, models, training = map(str.strip, commands.strip().splitlines())
    assert pytest_command == "python -m pytest test_my_variants.py"
    importlib.import_module("test_my_variants").test_narrow_sam()
    assert "head_widths" not in command(models) and "sam4" in command(models)
    training = training.replace("synthetic_pigs --epochs 5", f"{image_folder} --epochs 1")
    command(f"{training} --batch-size 24 --workdir run --stages.0.freeze backbone")
    assert json.loads((tmp_path / "run" / "test.json").read_text())["model"] == (
        "my_variants:narrow_sam"
    )


def test_linked_files_exist():
    links = [
        (path, target)
        for path, text in TEXTS.items()
        for target in re.findall(r"\]\((?!http)([^)#\s]+)", text)
    ]
    assert len(links) > 100
    missing = [(path, target) for path, target in links if not (path.parent / target).exists()]
    assert not missing
