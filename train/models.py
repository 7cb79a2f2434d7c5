"""Show the models:  python -m train.models   or, layer by layer,   python -m train.models sam_alexnet"""

import dataclasses
from typing import Annotated

import tyro

from train import cli
from train.recipe import InputError, Recipe


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    model: Annotated[str, tyro.conf.Positional] = "*"
    """A name for its layer table; a pattern such as '*alexnet*' for a table of models."""
    num_classes: int | None = None
    """Classes of the head (default: the model's)."""
    image_size: int | None = None
    """Height and width in pixels (default: the model's)."""
    options: tuple[str, ...] = ()
    """Fields of the model, as name=value."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m train.models", description=__doc__)
    cli.prepare_environment()
    if any(c in arguments.model for c in "*?["):
        show_models(arguments.model)
    else:
        show_layers(arguments)


def show_models(pattern: str) -> None:
    """A table of the models that match."""
    import zoo

    names = zoo.list_models(pattern)
    if not names:
        raise InputError(f"no model matches {pattern!r}: see `python -m train.models`")
    table = _table("model", "input", ">parameters", ">with statistics", "source", "what it is")
    for name in names:
        info = zoo.model_info(name)
        table.add_row(
            name,
            "x".join(map(str, info.input_shape[:2])),
            f"{info.parameters:,}",
            f"{info.total_parameters:,}",
            info.source,
            info.description,
        )
    _print(table)


def show_layers(arguments: Arguments) -> None:
    """The layers of one model, for a batch of one image."""
    import zoo

    entry = zoo.get_entry(arguments.model)
    size = arguments.image_size
    if size is not None and size < 1:
        raise InputError(f"--image-size is {size}: give at least 1 pixel")
    shape = (size, size, 3) if size else entry.input_shape
    options = Recipe(model_options=arguments.options).options()
    module = zoo.create_model(arguments.model, arguments.num_classes, **options)
    rows = zoo.layer_table(module, shape)

    table = _table("layer", "type", "output", ">parameters", ">statistics", ">MFLOPs")
    for row in rows:
        table.add_row(
            row.path,
            row.kind,
            " x ".join(map(str, row.output_shape)),
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.statistics:,}" if row.statistics else "",
            f"{row.flops / 1e6:,.2f}" if row.flops else "",
        )
    table.add_section()
    parameters, statistics, flops = (
        sum(getattr(row, name) for row in rows) for name in ("parameters", "statistics", "flops")
    )
    table.add_row(
        "total",
        "",
        f"{' x '.join(map(str, shape))} in",
        f"{parameters:,}",
        f"{statistics:,}",
        f"{flops / 1e6:,.2f}",
    )
    print(f"{arguments.model}: {entry.description}")
    print(f"source: {entry.source}{f'; {entry.notes}' if entry.notes else ''}")
    _print(table)
    print("FLOPs are 2 x multiply-adds of convolutions and dense layers, for one image.")


def _table(*columns: str):
    """A table with a column a heading; ">" before a heading aligns it right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.lstrip(">")
        wraps = name in ("source", "what it is")
        table.add_column(name, justify="right" if column != name else "left", no_wrap=not wraps)
    return table


def _print(table) -> None:
    """To stdout, as wide as the terminal; when piped, as wide as the table."""
    import sys

    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    cli.main(main)
