"""List the models, or the layers of one model:  python -m train.models   python -m train.models sam_alexnet

With --pretrained, list the published weights that zoo.load_pretrained knows:  python -m train.models --pretrained"""

import dataclasses
from typing import Annotated

import tyro

from train import cli, flags
from train.recipe import InputError, ModelOptions
from zoo.common.commands import typed


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    model: Annotated[str, tyro.conf.Positional] = "*"
    """Model name, for its layer table, or a pattern such as '*alexnet*', for a list of models."""
    num_classes: int | None = None
    """Number of classes of the head (default: the model's)."""
    image_size: int | None = None
    """Input height and width in pixels (default: the model's)."""
    options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    """Options of the model, as name=value."""
    pretrained: bool = False
    """List published weights instead."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "train.models", __doc__)
    cli.prepare_environment(large_arrays=False)
    if arguments.pretrained:
        show_pretrained(arguments)
    elif any(c in arguments.model for c in "*?["):
        show_models(arguments.model)
    else:
        show_layers(arguments)


def show_models(pattern: str) -> None:
    """Print a table of the models whose names match a pattern."""
    import zoo

    names = zoo.list_models(pattern)
    if not names:
        raise InputError(f"no model matches {pattern!r}: see `{typed('train.models')}`")
    table = _table("model", "input", ">parameters", ">with statistics", "source", "description")
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


def show_pretrained(arguments: Arguments) -> None:
    """Print a table of published weights; those that differ only in width and input size share a row."""
    import zoo

    given = (arguments.num_classes, arguments.image_size, arguments.options)
    if given != (None, None, {}):
        raise InputError(
            "--pretrained lists weights: combine it with a model name or pattern only, and drop the other flags"
        )
    models = zoo.list_models(arguments.model)
    if not models:
        zoo.get_entry(arguments.model)  # raises InputError with the closest names
    groups: dict[tuple[str, str], list] = {}
    for model in models:
        for source in zoo.get_entry(model).pretrained:
            groups.setdefault((model, source.tag), []).append(source)
    if not groups:
        raise InputError(
            f"no published weights are listed for {arguments.model!r}: see `{typed('train.models')} --pretrained`,"
            " or use a file or hf://owner/name"
        )
    table = _table("model", "source", ">classes", "sizes", "widths", "hash", "fetched", "file")
    for (model, tag), sources in sorted(groups.items()):
        sizes = dict.fromkeys(source.preprocessing.input_size[0] for source in sources)
        widths = dict.fromkeys(str(source.options.get("width", "")) for source in sources)
        first = sources[0]
        table.add_row(
            model,
            tag,
            str(first.num_classes or "no head"),
            " ".join(map(str, sizes)),
            " ".join(widths),
            (first.hash or "from first download")[:22],
            "yes" if first.fetched else "no",
            first.url + (f" and {len(sources) - 1} more" if len(sources) > 1 else ""),
        )
    _print(table, wide=True)
    print("zoo.load_pretrained also accepts hf://owner/name[@revision] (timm) and local files.")
    print("fetched: whether the download was tested, or only its address and hash were copied.")


def show_layers(arguments: Arguments) -> None:
    """Print the layers of one model, for a batch of one image."""
    import zoo

    entry = zoo.get_entry(arguments.model)
    size = arguments.image_size
    if size is not None and size < 1:
        raise InputError(f"--image-size is {size}: use at least 1 pixel")
    shape = (size, size, 3) if size else entry.input_shape
    module = zoo.create_model(arguments.model, arguments.num_classes, **arguments.options)
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
    print("FLOPs: 2 x multiply-adds of convolutions and dense layers, per image.")


def _table(*columns: str):
    """Create a table with one column per heading; a heading that starts with ">" is right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.lstrip(">")
        wraps = name in ("source", "description")
        table.add_column(name, justify="right" if column != name else "left", no_wrap=not wraps)
    return table


def _print(table, *, wide: bool = False) -> None:
    """Print a table, limited to the terminal's width unless stdout is piped or the table is `wide`."""
    import sys

    from rich.console import Console

    Console(width=None if sys.stdout.isatty() and not wide else 300 if wide else 200).print(table)


if __name__ == "__main__":
    cli.main(main)
