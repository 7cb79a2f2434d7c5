"""Show the models:  python -m train.models   or, layer by layer,   python -m train.models sam_alexnet

python -m train.models --pretrained   lists the published weights that zoo.load_pretrained knows."""

import dataclasses
from typing import Annotated

import tyro

from train import cli
from train.flags import REGISTRY
from train.recipe import InputError, ModelOptions


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    model: Annotated[str, tyro.conf.Positional] = "*"
    """A name for its layer table; a pattern such as '*alexnet*' for a table of models."""
    num_classes: int | None = None
    """Classes of the head (default: the model's)."""
    image_size: int | None = None
    """Height and width in pixels (default: the model's)."""
    options: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    """Fields of the model, as name=value."""
    pretrained: bool = False
    """List published weights, of the models that match, instead."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(
        Arguments, args=argv, prog="python -m train.models", description=__doc__, registry=REGISTRY
    )
    cli.prepare_environment(large_arrays=False)
    if arguments.pretrained:
        show_pretrained(arguments)
    elif any(c in arguments.model for c in "*?["):
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


def show_pretrained(arguments: Arguments) -> None:
    """A table of the published weights, those that differ in width and size only in one row."""
    import zoo

    given = (arguments.num_classes, arguments.image_size, arguments.options)
    if given != (None, None, {}):
        raise InputError(
            "--pretrained lists weights: it takes a model or a pattern, and no other flag"
        )
    models = zoo.list_models(arguments.model)
    if not models:
        zoo.get_entry(arguments.model)  # names the nearest ones
    groups: dict[tuple[str, str], list] = {}
    for model in models:
        for source in zoo.get_entry(model).pretrained:
            groups.setdefault((model, source.tag), []).append(source)
    if not groups:
        raise InputError(
            f"no published weights are listed for {arguments.model!r}: see `python -m train.models --pretrained`,"
            " or give a file or hf://owner/name"
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
            (first.hash or "of the first download")[:22],
            "yes" if first.fetched else "no",
            first.url + (f" and {len(sources) - 1} more" if len(sources) > 1 else ""),
        )
    _print(table, wide=True)
    print("zoo.load_pretrained also takes hf://owner/name[@revision] (timm) and local files.")
    print(
        "fetched: whether the download was tried for this table, beyond copying its address and hash."
    )


def show_layers(arguments: Arguments) -> None:
    """The layers of one model, for a batch of one image."""
    import zoo

    entry = zoo.get_entry(arguments.model)
    size = arguments.image_size
    if size is not None and size < 1:
        raise InputError(f"--image-size is {size}: give at least 1 pixel")
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


def _print(table, *, wide: bool = False) -> None:
    """To stdout, as wide as the terminal; when piped, or `wide` for addresses, as wide as the table."""
    import sys

    from rich.console import Console

    Console(width=None if sys.stdout.isatty() and not wide else 300 if wide else 200).print(table)


if __name__ == "__main__":
    cli.main(main)
