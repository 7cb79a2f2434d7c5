"""Pages under docs/ that are generated from the code: one per model family, one per command.

`python -m benchmarks.tables` writes them. Imports only the standard library, so that the site build can use
`as_markdown` without JAX.
"""

import contextlib
import functools
import importlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = "<!-- Written by `python -m benchmarks.tables`: do not edit. -->"
HELP_WIDTH = 84  # columns; wider lines are cut off next to the table of contents


# Model families.


def families() -> dict[str, list[str]]:
    """Models of each module in `zoo`: {"alexnet": ["alexnet", "alexnet_tiny", ...], ...}."""
    from zoo.registry import builtin_modules

    found: dict[str, list[str]] = {}
    for model, module in sorted(builtin_modules().items(), key=lambda pair: natural(pair[0])):
        found.setdefault(module.rpartition(".")[2], []).append(model)
    return dict(sorted(found.items()))


def natural(name: str) -> list[Any]:
    """Sort key that puts resnet18 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@functools.cache
def model_info(model: str) -> Any:
    """`zoo.model_info`, called once per model."""
    import zoo

    return zoo.model_info(model)


def family_summary(family: str) -> str:
    """First paragraph of a family's docstring, without URLs."""
    text = (importlib.import_module(f"zoo.{family}").__doc__ or "").partition("\n\n")[0]
    return re.sub(r",? https?://[^\s)]+", "", " ".join(text.split())).rstrip(".")


def family_page(family: str) -> str:
    """A family's docstring, its variants and their options, and its published weights."""
    import zoo

    names = families()[family]
    infos = [model_info(name) for name in names]
    variants = [
        (
            f"`{info.name}`",
            input_size(info),
            str(info.num_classes),
            f"{info.parameters:,}",
            f"{info.total_parameters:,}",
        )
        for info in infos
    ]
    heading = ("model", "input", "classes", "parameters", "with statistics")
    descriptions = [
        f"- `{info.name}`: {info.description.rstrip('.')} ({info.source})."
        + (f" {sentence(info.notes)}" if info.notes else "")
        for info in infos
    ]
    options = [
        f"- `{info.name}`: "
        + ", ".join(f"`{name}={show_option(value)}`" for name, value in info.options.items())
        for info in infos
    ]
    weights = [row for name in names for row in weights_rows(zoo.get_entry(name))]
    published = (
        markdown(("model", "source", "classes", "input", "width", "hash", "file"), weights)
        + "\nUse them by source: `--pretrained SOURCE`, or `zoo.load_pretrained(model, SOURCE)`;"
        " see [pretrained weights](../guide/pretrained.md).\n"
        if weights
        else "None are listed. [Weights](../guide/pretrained.md) can also be read from a file.\n"
    )
    docstring = as_markdown(importlib.import_module(f"zoo.{family}").__doc__ or "")
    return "\n\n".join(
        (
            f"# {family}",
            GENERATED,
            docstring.strip(),
            f"Source: [`zoo/{family}.py`](../../zoo/{family}.py). Classes: [API](../api/models.md).",
            "## Variants",
            markdown(heading, variants).strip(),
            "The classes column is the default of `num_classes`. Statistics are the moving means and variances of batch"
            " normalization, which Keras counts as parameters.",
            "\n".join(descriptions),
            "## Options",
            "Fields for `create_model` and `--model-options`, with their defaults:",
            "\n".join(options),
            "## Published weights",
            published,
        )
    )


def sentence(text: str) -> str:
    """Format a note as a sentence, unless it begins with code."""
    first = text.split()[0]
    return (text if re.search(r"[_=]", first) else text[0].upper() + text[1:]).rstrip(".") + "."


def input_size(info: Any) -> str:
    """Format the input size: 224x224 for images, 2048 for vectors."""
    return "x".join(map(str, info.input_shape[:2]))


def show_option(value: Any) -> str:
    """Format the default of an option as Python code."""
    return getattr(value, "__name__", None) or repr(value)


def weights_rows(entry: Any) -> list[tuple[str, ...]]:
    """One row per published source of a model; files that differ only in size and width share a row."""
    tags = dict.fromkeys(source.tag for source in entry.pretrained)
    rows: list[tuple[str, ...]] = []
    for tag in tags:
        sources = [source for source in entry.pretrained if source.tag == tag]
        sizes = dict.fromkeys(str(source.preprocessing.input_size[0]) for source in sources)
        widths = dict.fromkeys(str(source.options.get("width", "")) for source in sources)
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        rows.append(
            (
                f"`{entry.name}`",
                f"`{tag}`",
                str(sources[0].num_classes or "no head"),
                ", ".join(sizes),
                ", ".join(filter(None, widths)),
                f"`{sources[0].hash}`" if sources[0].hash else "not published",
                f"`{sources[0].url}`{more}",
            )
        )
    return rows


# Commands.


def commands() -> dict[str, Path]:
    """Modules that `python -m` runs, and their files."""
    found = {}
    for path in sorted(ROOT.glob("train/**/*.py")) + sorted(ROOT.glob("benchmarks/*.py")):
        if re.search(r"^    cli\.main\(main\)$", path.read_text("utf-8"), re.MULTILINE):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__main__")] = path
    return found


def load_command(name: str) -> Any:
    """Import the module behind `python -m name`."""
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module


def command_summary(name: str) -> str:
    """Summarize a command: the start of its docstring, up to the example."""
    text = " ".join((load_command(name).__doc__ or "").partition("\n\n")[0].split())
    return re.split(r"[:.](?: |$)", text)[0]


def command_page(name: str) -> str:
    """A command's description and flags, and those of its subcommands."""
    module = load_command(name)
    description = with_examples(module.__doc__ or "")
    text = f"# {name}\n\n{GENERATED}\n\n{as_markdown(description).strip()}\n\n{help_section(module, ())}"
    subcommands = (
        module.COMMANDS if hasattr(module, "parse") and hasattr(module, "COMMANDS") else {}
    )
    for subcommand, (kind, _) in subcommands.items():
        text += f"\n## {name} {subcommand}\n\n{as_markdown(kind.__doc__ or '').strip()}\n\n"
        text += help_section(module, (subcommand,))
    return text


def with_examples(description: str) -> str:
    """Separate the examples in a description: "Train a model:  python -m ..." becomes text and a code block."""
    lines = []
    for line in description.split("\n"):
        parts = re.split(r" {2,}", line)
        if line.startswith(" ") or not any(part.startswith("python -m") for part in parts):
            lines.append(line)
            continue
        for part in parts:
            lines += ["", f"    {part}" if part.startswith("python -m") else part]
        lines.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def help_section(module: Any, words: Sequence[str]) -> str:
    """Usage of a command, and its flags, with one block per group."""
    text = help_text(module, words)
    usage = text.partition("\n\n")[0]
    sections = [f"```text\n{usage.strip()}\n```\n"]
    for title, body in re.findall(r"╭─ (.*?) ─+╮\n(.*?)╰─+╯", text, re.DOTALL):
        lines = [re.sub(r"^│ ?|\s*│$|─+", "", line) for line in body.splitlines()]
        level = "###" if words else "##"
        sections.append(f"{level} {title.capitalize()}\n\n```text\n" + "\n".join(lines) + "\n```\n")
    return "\n".join(sections)


def help_text(module: Any, words: Sequence[str]) -> str:
    """Output of `--help`, HELP_WIDTH columns wide and without colors."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(HELP_WIDTH)
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")  # the frames around groups depend on the encoding
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            module.main([*words, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    out.seek(0)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.read())


# Markdown.


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def as_markdown(docstring: str, *, ragged: bool = False) -> str:
    """Convert a docstring to Markdown that all renderers read alike.

    Blank lines are added around lists and before indented blocks, and placeholders such as <paper>, which would
    otherwise be HTML tags, are escaped. With `ragged`, a line that ends a sentence well before the margin ends a
    paragraph.
    """
    lines: list[str] = []
    in_list = in_fence = False
    for line in docstring.split("\n"):
        after_text = bool(lines and lines[-1].strip())
        indented = line.startswith("    ")
        if line.startswith("```"):
            in_fence = not in_fence
        if in_fence:
            lines.append(line)
            continue
        is_item = re.match(r"(?:[-*]|\d+\.) ", line) is not None
        if after_text and (
            (is_item and not in_list)
            or (in_list and line.strip() and not is_item and not line.startswith(" "))
            or (indented and not in_list and re.match(r"\S.*:$", lines[-1]))
            or (ragged and not in_list and re.match(r"\S.{,89}[.:]$", lines[-1]))
        ):
            lines.append("")
        if line.strip() and not line.startswith(" "):
            in_list = is_item
        lines.append(line if indented and not in_list else _escaped(line))
    return "\n".join(lines)


def _escaped(line: str) -> str:
    outside = line.split("`")
    outside[::2] = [re.sub(r"<(?=[a-z_][\w-]*>)", "&lt;", text) for text in outside[::2]]
    return "`".join(outside)
