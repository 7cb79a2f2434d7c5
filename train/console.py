"""The console command `jax-zoo`: `jax-zoo run --model sam_alexnet` is `python -m train.run --model sam_alexnet`.

Unlike `python -m`, it does not import a `train.py` or `datasets/` in the working folder. `--help` imports only the
standard library.
"""

import importlib
import sys

from zoo.common.commands import SCRIPT

# Subcommands with their modules and descriptions.
COMMANDS = {
    "run": ("train.run", "train a model, or resume a run"),
    "evaluate": ("train.evaluate", "evaluate a finished run again"),
    "predict": ("train.predict", "classify images"),
    "compare": ("train.compare", "compare finished runs, and test their difference"),
    "study": ("train.study", "train folds x seeds x settings, and compare them"),
    "models": ("train.models", "list the models, their layers or published weights"),
    "data": ("train.data", "show or prepare a data set"),
    "reproduce": ("train.reproduce", "run the rows of a paper's tables"),
}


def usage() -> str:
    """The text of `jax-zoo --help`."""
    lines = [
        f"usage: {SCRIPT} COMMAND [FLAGS]",
        "",
        *(
            f"    {f'{SCRIPT} {name}':<20}{text}  (python -m {module})"
            for name, (module, text) in COMMANDS.items()
        ),
        "",
        f"{SCRIPT} COMMAND --help lists the flags, which are those of python -m. Unlike python -m,"
        f" {SCRIPT} does not",
        "import a train.py or datasets/ of the working folder.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the subcommand named in the process's arguments, as `python -m` would run its module."""
    # Before any other import, as train/__init__.py does for `python -m`.
    from train import stopping

    stopping.install()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        from zoo.common.names import did_you_mean

        hint = did_you_mean(name, COMMANDS, f"choose from {', '.join(COMMANDS)}")
        print(f"error: {SCRIPT} has no command {name!r}: {hint}", file=sys.stderr)
        sys.exit(2)
    from train import cli

    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.__main__")
    cli.main(module.main, arguments)
