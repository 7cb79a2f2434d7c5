"""Name what is in images:  python -m train.predict runs/my-run photos/ more.zip one.jpg --top-k 3

Writes a row an image, as csv or json, to stdout or to --output. Folders and archives are searched for images,
in natural order; files that cannot be decoded get a row that says why.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import tyro

from train import cli
from train.recipe import InputError

if TYPE_CHECKING:
    import numpy as np

    from train.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags of the command."""

    workdir: Annotated[Path, tyro.conf.Positional]
    """Run directory, or a best/ folder of one."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, folders, .zip and .tar."""
    top_k: int = 1
    """How many classes to name for each image, the likeliest first."""
    format: Literal["csv", "json"] = "csv"
    """Of what is written."""
    output: Path | None = None
    """File to write, whole or not at all (default: stdout)."""
    batch_size: int = 32
    """Images per step."""


def main(argv: list[str]) -> None:
    """The command."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m train.predict", description=__doc__)
    if not arguments.images:
        raise InputError("no images given: name image files, folders or archives")
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size is {arguments.batch_size}: give at least 1")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise InputError(f"--output {arguments.output}: there is no such folder; make it first")
    cli.prepare_environment()
    found = list(find_images(arguments.images))
    from train.predictor import load_run

    predictor = load_run(arguments.workdir)
    predictor.image_classifier()  # refuses before anything is written
    if not 1 <= arguments.top_k <= len(predictor.class_names):
        raise InputError(
            f"--top-k is {arguments.top_k}: give 1 to {len(predictor.class_names)}, the number of classes"
        )
    rows = predict(predictor, found, arguments.top_k, arguments.batch_size)
    failed = write(counted(rows, len(found)), arguments)
    if failed:
        cli.say(f"{failed} of {len(found)} images cannot be decoded: see the column `error`")
    if failed == len(found):
        raise InputError(f"none of the {failed} images could be decoded: check what they are")


# What is found: a name for people, and how to get the bytes.
Found = tuple[str, Any]


def find_images(paths: Iterable[Path]) -> Iterator[Found]:
    """The images in files, folders, .zip and .tar; InputError for a path without any."""
    from datasets.formats.archives import SUFFIXES
    from datasets.formats.folder import natural_key
    from datasets.formats.open import open_source
    from datasets.images.decode import EXTENSIONS

    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist: give image files, folders or archives")
        if path.is_file() and not path.name.lower().endswith((".zip", *SUFFIXES)):
            yield str(path), path.read_bytes
            continue
        source = open_source(path)
        files = [file for file in source.files if Path(file.path).suffix.lower() in EXTENSIONS]
        if not files:
            raise InputError(f"{path} holds no images: give another folder or archive")
        for file in sorted(files, key=lambda file: natural_key(file.path)):
            yield f"{path}/{file.path}", lambda source=source, file=file: source.read(file)


def predict(
    predictor: "Predictor", found: Iterable[Found], top_k: int, batch_size: int
) -> Iterator[dict[str, Any]]:
    """A row an image: `image`, `predictions` (the likeliest first), `error`. Holds one batch in memory."""
    found = iter(found)
    size = predictor.image_classifier().preprocessing.input_size
    while batch := list(itertools.islice(found, batch_size)):
        read = [(name, *_decode(load, size)) for name, load in batch]
        images = [image for _, image, _ in read if image is not None]
        probabilities = iter(predictor.probabilities(images, batch_size))
        for name, image, error in read:
            predictions = []
            if image is not None:
                row = next(probabilities)
                best = (-row).argsort(kind="stable")[:top_k]
                predictions = [
                    {"class": predictor.class_names[i], "probability": round(float(row[i]), 6)}
                    for i in best
                ]
            yield {"image": name, "predictions": predictions, "error": error}


def _decode(load: Any, size: tuple[int, int]) -> "tuple[np.ndarray | None, str | None]":
    """An image, to be resized to `size`, and no error; or no image and the reason."""
    from datasets import InputError as DataError
    from datasets.images.decode import decode

    try:
        return decode(load(), for_size=size), None
    except (DataError, OSError) as error:
        return None, " ".join(str(error).split())


def counted(rows: Iterable[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
    """The rows, with progress on stderr."""
    progress = cli.Progress()
    progress.start("images", total)
    try:
        for number, row in enumerate(rows, start=1):
            progress.update(number)
            yield row
    finally:
        progress.stop()


def write(rows: Iterable[dict[str, Any]], arguments: Arguments) -> int:
    """Write the rows as they come; the number of those with an error."""
    form = _write_csv if arguments.format == "csv" else _write_json
    if arguments.output is None:
        return form(rows, sys.stdout, arguments.top_k)
    part = arguments.output.with_name(f".{arguments.output.name}.part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        failed = form(rows, file, arguments.top_k)
    os.replace(part, arguments.output)
    return failed


def _write_csv(rows: Iterable[dict[str, Any]], file: TextIO, top_k: int) -> int:
    import csv

    writer = csv.writer(file, lineterminator="\n")
    numbers = [""] if top_k == 1 else [f"_{k}" for k in range(1, top_k + 1)]
    writer.writerow(
        ["image", *(f"{c}{n}" for n in numbers for c in ("class", "probability")), "error"]
    )
    failed = 0
    for row in rows:
        cells = [cell for p in row["predictions"] for cell in p.values()] or [""] * (2 * top_k)
        writer.writerow([row["image"], *cells, row["error"] or ""])
        failed += row["error"] is not None
    return failed


def _write_json(rows: Iterable[dict[str, Any]], file: TextIO, top_k: int) -> int:
    import json

    failed = 0
    file.write("[")
    for number, row in enumerate(rows):
        file.write(f"{',' if number else ''}\n  {json.dumps(row, ensure_ascii=False)}")
        failed += row["error"] is not None
    file.write("\n]\n")
    return failed


if __name__ == "__main__":
    cli.main(main)
