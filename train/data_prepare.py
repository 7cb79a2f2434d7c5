"""`python -m train.data prepare`: any data set as a TFDS one in ArrayRecord, which later runs read as it is."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import cli
from train.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Check all images, resize them if asked to, and write them for TFDS (ArrayRecord), without TensorFlow."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Registered data set, tfds:NAME, or the path of a folder, .zip, .tar, .csv or .npz of images."""
    data_dir: str | None = None
    """Where a registered data set's files lie."""
    out: Path | None = None
    """TFDS data directory to write to (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    name: str | None = None
    """Of what is written (default: the data set's, and the image size)."""
    image_size: int | None = None
    """Pixels of the shorter side of larger images (default: all files stay as they are)."""
    resize: Literal["shorter", "squash"] = "shorter"
    """Bring the shorter side to --image-size, or make squares as models do that squash."""
    format: Literal["jpeg", "png"] = "jpeg"
    """Of resized images: JPEG of quality 95, or PNG, which loses nothing and is larger."""
    split_seed: int = 0
    """Of the split of data that come unsplit."""
    validation_fraction: float = 0.1
    """Share of the validation part, where it has to be made."""
    test_fraction: float = 0.1
    """Share of the test part, where it has to be made."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """Leave out images that cannot be decoded, or stop."""


def prepare(arguments: Prepare) -> None:
    """The command `prepare`."""
    from datasets import load_dataset
    from datasets.formats.prepare import BAD_IMAGES
    from datasets.formats.prepare import prepare as write
    from datasets.formats.tfds import data_root

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
            progress=cli.progress_callback(progress),
        )
        for note in dataset.notes:
            cli.say(f"note: {note}")
        directory = write(
            dataset,
            data_root(arguments.out),
            name=arguments.name,
            image_size=arguments.image_size,
            resize=arguments.resize,
            format=arguments.format,
            progress=cli.progress_callback(progress),
        )
        # Checked as every data set is when it is first read; later runs find that done.
        written = load_dataset(directory, progress=cli.progress_callback(progress))
    finally:
        progress.stop()
    if dataset.bad_images:
        cli.say(
            f"warning: {len(dataset.bad_images)} files cannot be decoded and are left out:"
            f" {directory / BAD_IMAGES}"
        )
    sizes = ", ".join(f"{len(split)} {part}" for part, split in written.splits.items())
    synthetic = " SYNTHETIC images," if written.info.synthetic else ""
    megabytes = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
    print(
        f"{directory}:{synthetic} {len(written.class_names)} classes, {sizes} images,"
        f" {megabytes:,.1f} MB, fingerprint {written.fingerprint[:12]}"
    )
    print(
        f"python -m train.run --model {Recipe.model} --dataset {shlex.quote(str(directory.parent))}"
    )
