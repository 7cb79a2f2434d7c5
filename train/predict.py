"""Classify images:  python -m train.predict runs/my-run photos/ more.zip one.jpg --top-k 3

Writes one row per image, as CSV or JSON, to stdout or --output. Folders and archives are searched for images, in
natural order; a file that cannot be decoded gets a row with the reason.
"""

import dataclasses
import io
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import tyro

from train import cli, flags
from train.recipe import InputError
from zoo.common.files import check_output_file, printable, whole_file

if TYPE_CHECKING:
    import numpy as np

    from train.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    workdir: Annotated[Path, tyro.conf.Positional]
    """Run directory, or its best/ folder."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, folders, .zip and .tar archives."""
    top_k: int = 1
    """Number of classes per image, most probable first."""
    format: Literal["csv", "json"] = "csv"
    """Output format."""
    output: Path | None = None
    """File to write, atomically (default: stdout)."""
    batch_size: int = 32
    """Images per batch."""


def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = flags.parse(Arguments, argv, "train.predict", __doc__)
    if not arguments.images:
        raise InputError("no images given: name image files, folders or archives")
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size is {arguments.batch_size}: use at least 1")
    if arguments.output is not None:
        check_output_file(arguments.output, "--output")
    cli.prepare_environment()
    sources = list(find_images(arguments.images))
    from train.predictor import load_run

    predictor = load_run(arguments.workdir)
    predictor.image_classifier()  # raises InputError before anything is written
    if not 1 <= arguments.top_k <= len(predictor.class_names):
        raise InputError(
            f"--top-k is {arguments.top_k}: use 1 to {len(predictor.class_names)}, the number of classes"
        )
    rows = predict(predictor, sources, arguments.top_k, arguments.batch_size)
    failed = write(with_progress(rows, len(sources)), arguments)
    if failed:
        cli.say(f"{failed} of {len(sources)} images cannot be decoded: see the column `error`")
    if failed == len(sources):
        raise InputError(f"none of the {failed} images could be decoded: check the files")


# An image to classify: its display name, and a function that reads its bytes.
ImageSource = tuple[str, Any]


def find_images(paths: Iterable[Path]) -> Iterator[ImageSource]:
    """Find the images in files, folders, .zip and .tar archives. Raises InputError for a path without images."""
    from datasets.formats.archives import SUFFIXES
    from datasets.formats.folder import divide, ignored, natural_key
    from datasets.formats.open import open_source

    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist: use image files, folders or archives")
        if path.is_file() and not path.name.lower().endswith((".zip", *SUFFIXES)):
            yield printable(path), path.read_bytes
            continue
        source = open_source(path)
        files, others = divide(source.files)
        notes = [*source.notes, *ignored(others)]
        if not files:
            found = f" ({'; '.join(notes)})" if notes else ""
            raise InputError(f"{path} contains no images{found}: use another folder or archive")
        for note in notes:
            cli.say(f"note: {printable(path)}: {note}")
        for file in sorted(files, key=lambda file: natural_key(file.path)):
            yield (
                f"{printable(path)}/{file.path}",
                lambda source=source, file=file: source.read(file),
            )


def predict(
    predictor: "Predictor", sources: Iterable[ImageSource], top_k: int, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield one row per image: `image`, `predictions` (most probable first), `error`. Only one batch is in memory."""
    sources = iter(sources)
    size = predictor.image_classifier().preprocessing.input_size
    while batch := list(itertools.islice(sources, batch_size)):
        decoded = [(name, *_decode(load, size)) for name, load in batch]
        images = [image for _, image, _ in decoded if image is not None]
        probabilities = iter(predictor.probabilities(images, batch_size))
        for name, image, error in decoded:
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
    """Decode an image that will be resized to `size`. Returns (image, None), or (None, reason) on failure."""
    from datasets import InputError as DataError
    from datasets.images.decode import decode

    try:
        return decode(load(), for_size=size), None
    except (DataError, OSError) as error:
        return None, " ".join(str(error).split())


def with_progress(rows: Iterable[dict[str, Any]], total: int) -> Iterator[dict[str, Any]]:
    """Yield the rows and report progress on stderr."""
    progress = cli.Progress()
    progress.start("images", total)
    try:
        for number, row in enumerate(rows, start=1):
            progress.update(number)
            yield row
    finally:
        progress.stop()


def write(rows: Iterable[dict[str, Any]], arguments: Arguments) -> int:
    """Write the rows as they arrive, and return the number of rows with an error."""
    write_rows = _write_csv if arguments.format == "csv" else _write_json
    if arguments.output is None:
        return write_rows(rows, sys.stdout, arguments.top_k)
    with (
        whole_file(arguments.output) as binary,
        io.TextIOWrapper(binary, encoding="utf-8", newline="") as file,
    ):
        return write_rows(rows, file, arguments.top_k)


def _write_csv(rows: Iterable[dict[str, Any]], file: TextIO, top_k: int) -> int:
    import csv

    writer = csv.writer(file, lineterminator="\n")
    ranks = [""] if top_k == 1 else [f"_{k}" for k in range(1, top_k + 1)]
    writer.writerow(
        ["image", *(f"{c}{rank}" for rank in ranks for c in ("class", "probability")), "error"]
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
    ascii_only = cli.is_ascii(file)
    file.write("[")
    for number, row in enumerate(rows):
        file.write(f"{',' if number else ''}\n  {json.dumps(row, ensure_ascii=ascii_only)}")
        failed += row["error"] is not None
    file.write("\n]\n")
    return failed


if __name__ == "__main__":
    cli.main(main)
