"""`python -m train.data prepare`: write any data set as a TFDS data set (ArrayRecord) for later runs."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import cli
from train.recipe import Recipe
from zoo.common.commands import typed
from zoo.common.files import check_output_folder


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Check all images, optionally resize them, and write them as a TFDS data set (ArrayRecord), without TensorFlow."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Registered data set, tfds:NAME, or path of a folder, .zip, .tar, .csv or .npz of images."""
    data_dir: str | None = None
    """Directory with a registered data set's files."""
    out: Path | None = None
    """TFDS data directory to write to (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    name: str | None = None
    """Name of the written data set (default: the original name and the image size)."""
    image_size: int | None = None
    """Size in pixels; larger images are resized to it (default: keep all files unchanged)."""
    resize: Literal["shorter", "squash"] = "shorter"
    """shorter: resize the shorter side to --image-size; squash: resize to a square, ignoring the aspect ratio."""
    format: Literal["jpeg", "png"] = "jpeg"
    """File format of resized images: JPEG at quality 95, or PNG, which is lossless and larger."""
    split_seed: int = 0
    """Seed of the random split, for data without splits."""
    validation_fraction: float = 0.1
    """Fraction of images for validation, for data without a validation split."""
    test_fraction: float = 0.1
    """Fraction of images for testing, for data without a test split."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """Skip images that cannot be decoded, or refuse data that have any."""
    max_bad: float = 0.05
    """Maximum fraction of images to skip because they cannot be decoded."""


def prepare(arguments: Prepare) -> None:
    """Run `python -m train.data prepare`."""
    from datasets import load_dataset
    from datasets.formats.prepare import BAD_IMAGES
    from datasets.formats.prepare import prepare as write
    from datasets.formats.tfds import data_root

    out = data_root(arguments.out)
    check_output_folder(out, "--out")
    progress = cli.Progress()
    try:
        dataset = load_dataset(
            arguments.dataset,
            data_dir=arguments.data_dir,
            seed=arguments.split_seed,
            validation_fraction=arguments.validation_fraction,
            test_fraction=arguments.test_fraction,
            image_size=arguments.image_size,
            on_bad_image=arguments.on_bad_image,
            max_bad=arguments.max_bad,
            progress=cli.progress_callback(progress),
        )
        progress.stop()
        cli.say_notes(dataset)
        directory = write(
            dataset,
            out,
            name=arguments.name,
            image_size=arguments.image_size,
            resize=arguments.resize,
            format=arguments.format,
            progress=cli.progress_callback(progress),
            warn=cli.say,
        )
        # Reading it here runs the checks of a first read, so that later runs skip them.
        written = load_dataset(directory, progress=cli.progress_callback(progress))
    finally:
        progress.stop()
    cli.say_skipped(dataset, directory / BAD_IMAGES)
    sizes = ", ".join(f"{len(split)} {name}" for name, split in written.splits.items())
    synthetic = " SYNTHETIC images," if written.info.synthetic else ""
    megabytes = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
    print(
        f"{directory}:{synthetic} {len(written.class_names)} classes, {sizes} images,"
        f" {megabytes:,.1f} MB, fingerprint {written.fingerprint[:12]}"
    )
    print(
        f"{typed('train.run')} --model {Recipe.model} --dataset {shlex.quote(str(directory.parent))}"
    )
