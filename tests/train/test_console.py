"""The console command `jax-zoo`: the same commands as `python -m`, without modules of the working folder."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zoo
from benchmarks import pages
from train import console, stopping
from train.predictor import load_run
from train.record.environment import command_line
from zoo.common import commands

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path, command_environment):
    """Run Python in a folder with the user's own train.py, zoo.py and datasets/: `start(words, **environment)`."""
    for name in ("datasets", "benchmarks"):
        (tmp_path / name).mkdir()
    for name in ("train.py", "zoo.py", "datasets/__init__.py", "benchmarks/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('theirs')")
    # As pip writes it for the entry point.
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    module, _, function = scripts["jax-zoo"].partition(":")
    script = tmp_path / "bin" / "jax-zoo"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")

    def run(*words):
        words = [str(script) if word == "jax-zoo" else word for word in words]
        return subprocess.run(
            [sys.executable, *words],
            env=command_environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.slow
def test_modules_of_the_working_folder_are_not_imported(start):
    assert start("-m", "train.run", "--list-models").stderr == "theirs\n"
    done = start("jax-zoo", "run", "--list-models")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == zoo.list_models()


@pytest.mark.slow
def test_models_of_the_working_folder_are_found(start, tmp_path):
    """After our own packages, also those that are not imported yet, such as `benchmarks`."""
    (tmp_path / "my_nets.py").write_text(
        "import benchmarks, zoo\nfrom tests.small_net import SmallNet\nfrom helper import WIDTH\n"
        "@zoo.register_model(input_shape=(8, 8, 3), num_classes=3, source='me')\n"
        "def net(num_classes):\n    'A net.'\n    return SmallNet(num_classes, WIDTH)\n"
    )
    (tmp_path / "helper.py").write_text("WIDTH = 5")
    done = start("jax-zoo", "models", "my_nets:net")
    assert done.returncode == 0, done.stderr
    assert "conv" in done.stdout and "140" in done.stdout  # 3 * 3 * 3 * 5 + 5


@pytest.mark.slow
def test_help_of_the_console_imports_the_standard_library_only(start):
    code = (
        "import sys; from train.console import main; main()\n"
        "print('loaded', *({'jax', 'numpy', 'tyro', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    # -P: not from the working folder.
    done = start("-P", "-c", code)
    assert (done.returncode, done.stderr) == (0, "loaded\n")
    assert "jax-zoo run " in done.stdout and "python -m train.run" in done.stdout


@pytest.mark.slow
def test_signals_stop_the_command_from_its_first_import_on(start, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    code = (
        "import sys; from train import console; sys.argv = ['jax-zoo', 'run'];"
        " console.COMMANDS['run'] = ('slow', ''); sys.path.append('.'); console.main()"
    )
    done = start("-P", "-c", code)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_the_script_is_known_to_messages():
    assert console.SCRIPT == commands.SCRIPT


def test_every_command_of_train_has_a_subcommand():
    modules = {module for module, _ in console.COMMANDS.values()}
    assert modules == {name for name in pages.commands() if name.startswith("train.")}
    assert all(module == f"train.{name}" for name, (module, _) in console.COMMANDS.items())


def printed(monkeypatch, capsys, *words):
    """Exit status, stdout and stderr of a command in this process."""
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(stopping, "install", lambda: None)  # not in the process of the tests
    status = 0
    try:
        if Path(words[0]).name == "jax-zoo":
            console.main()
        else:
            pages.load_command(f"train.{Path(words[0]).stem}").main(list(words[1:]))
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("name", [n for n in console.COMMANDS if n != "reproduce"])
def test_help_names_both_forms(monkeypatch, capsys, name):
    status, typed, _ = printed(monkeypatch, capsys, "/venv/bin/jax-zoo", name, "--help")
    assert status == 0
    assert f"usage: jax-zoo {name} " in typed and f"python -m train.{name}" in typed
    assert typed.count("python -m") <= 2  # one may be in the help of a flag
    status, other, _ = printed(monkeypatch, capsys, f"/zoo/train/{name}.py", "--help")
    assert f"usage: python -m train.{name} " in other and f"jax-zoo {name}" in other
    assert other.count("--") == typed.count("--")  # the same flags


@pytest.mark.parametrize("words", [["rum"], ["--quick"], ["no-such"]])
def test_unknown_subcommands_are_one_line(monkeypatch, capsys, words):
    status, _, err = printed(monkeypatch, capsys, "jax-zoo", *words)
    assert status == 2
    assert err.startswith(f"error: jax-zoo has no command {words[0]!r}: ") and err.count("\n") == 1
    assert ("did you mean run?" in err) == (words == ["rum"])


@pytest.mark.parametrize(
    ("program", "form"), [("/bin/jax-zoo", "jax-zoo run"), ("run.py", "python -m train.run")]
)
def test_messages_name_the_form_that_was_typed(monkeypatch, tmp_path, program, form):
    monkeypatch.setattr(sys, "argv", [program, "run"])
    with pytest.raises(zoo.InputError, match=f"see `{form} --list-models`"):
        zoo.get_entry("xyz")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(zoo.InputError, match=f"resume it with {form} --workdir"):
        load_run(tmp_path)


def test_the_recorded_command_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/jax-zoo", "run", "--model", "alexnet"])
    assert command_line() == ["jax-zoo", "run", "--model", "alexnet"]
