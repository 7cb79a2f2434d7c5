"""This project's commands in the form that the user typed: `jax-zoo run`, or `python -m train.run`.

Messages and help that name a command use `typed`. Imports only the standard library.
"""

import sys
from pathlib import Path

SCRIPT = "jax-zoo"  # also the name of the installed package


def started_by_script() -> bool:
    """Whether the console command `jax-zoo` started this process."""
    return Path(*sys.argv[:1]).stem == SCRIPT


def typed(module: str) -> str:
    """The command that runs a module such as "train.run"; `jax-zoo` covers only the modules of `train`."""
    if started_by_script() and module.startswith("train."):
        return f"{SCRIPT} {module.removeprefix('train.')}"
    return f"python -m {module}"


def as_typed(text: str) -> str:
    """Replace the form `python -m train.run` in a text if the user typed the other one."""
    return text.replace("python -m train.", f"{SCRIPT} ") if started_by_script() else text
