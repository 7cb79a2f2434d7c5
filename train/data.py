"""Inspect and prepare data sets:  python -m train.data show photos.zip --augment.rotation 15

`show` plots training images next to their augmented versions, and the number of images per class; `prepare` checks all
images and writes them with their splits and classes, so that later runs start and load faster."""

from collections.abc import Callable
from typing import Any

import tyro

from train import cli, flags
from train.data_prepare import Prepare, prepare
from train.data_show import Show, show
from zoo.common.commands import typed

# Subcommand name: its flags and its function.
COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "show": (Show, show),
    "prepare": (Prepare, prepare),
}


def parse(argv: list[str]) -> Any:
    """Parse the flags of the subcommand that comes first in `argv`."""
    return tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in COMMANDS.items()},
        args=flags.with_current_names(argv),
        prog=typed("train.data"),
        description=flags.with_other_form(__doc__ or "", "train.data"),
        registry=flags.REGISTRY,
    )


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = parse(argv)
    for kind, command in COMMANDS.values():
        if type(arguments) is kind:
            command(arguments)


if __name__ == "__main__":
    cli.main(main)
