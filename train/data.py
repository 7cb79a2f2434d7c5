"""Look at a data set and make it ready:  python -m train.data show photos.zip --augment.rotation 15

`show` draws training images beside what a training step would see of them, and how many images each class has;
`prepare` checks all images and writes them, with their parts and classes, for fast later runs."""

from collections.abc import Callable
from typing import Any

import tyro

from train import cli
from train.data_prepare import Prepare, prepare
from train.data_show import Show, show

# Name: its arguments, and what it does with them.
COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "show": (Show, show),
    "prepare": (Prepare, prepare),
}


def parse(argv: list[str]) -> Any:
    """The arguments of the command that is named first."""
    return tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in COMMANDS.items()},
        args=argv,
        prog="python -m train.data",
        description=__doc__,
    )


def main(argv: list[str]) -> None:
    """The command."""
    arguments = parse(argv)
    for kind, command in COMMANDS.values():
        if type(arguments) is kind:
            command(arguments)


if __name__ == "__main__":
    cli.main(main)
