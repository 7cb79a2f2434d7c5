"""How images are loaded for random windows, and what evaluation sees then: one scale for both.

A stage whose `augment.resize` is n has images of n x n pixels loaded, of which the training step takes a window
of the model's size at a random place. Evaluation takes the window in the middle.
"""

import dataclasses
from collections.abc import Iterable

import zoo
from datasets.images.decode import Decoder, Geometry
from train.recipe import Augmentation, InputError, Stage


def evaluation_view(preprocessing: zoo.Preprocessing, stages: Iterable[Stage]) -> zoo.Preprocessing:
    """The preprocessing that evaluation and `best/` have: what belongs to the weights, with a middle that is
    small enough for every stage's windows. InputError for images that would be smaller than the model's."""
    height, width = preprocessing.input_size
    fraction = preprocessing.crop_fraction
    for index, stage in enumerate(stages):
        size = stage.augment.resize
        if size is None:
            continue
        if size < height:
            raise InputError(
                f"--stages.{index}.augment.resize is {size}, less than the model's {height}x{width}:"
                f" give at least {height}"
            )
        fraction = min(fraction, height / size)
    return dataclasses.replace(preprocessing, crop_fraction=fraction)


def evaluation_geometry(preprocessing: zoo.Preprocessing) -> Geometry:
    """What the host does to images of evaluation."""
    return Geometry(
        preprocessing.input_size,
        preprocessing.resize,
        preprocessing.interpolation,
        preprocessing.crop_fraction,
    )


def training_geometry(
    preprocessing: zoo.Preprocessing, augmentation: Augmentation, decoder: Decoder = "exact"
) -> Geometry:
    """What the host does to training images.

    `preprocessing` is `evaluation_view`'s. At n instead of the model's m pixels the images show n / m times as
    much along each side, so that things are as large as in evaluation.
    """
    geometry = dataclasses.replace(evaluation_geometry(preprocessing), decoder=decoder)
    height, width = geometry.size
    loaded = augmentation.resize or height
    if loaded == height:
        return geometry
    # Rounded, so that 28 / 32 of 32 / 28 is 1: the image as it is.
    fraction = min(1.0, round(geometry.crop_fraction * loaded / height, 9))
    size = (loaded, round(loaded * width / height))
    return dataclasses.replace(geometry, size=size, crop_fraction=fraction)
