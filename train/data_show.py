"""`python -m train.data show`: draws training images beside what a training step would see of them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from train import cli
from train.recipe import Augmentation, InputError, Recipe, Stage, flag_of

DEFAULT_SIZE = 224


@dataclasses.dataclass(frozen=True)
class Show:
    """Draw examples, as they are and augmented, and the number of images of each class."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Registered data set, tfds:NAME, or the path of a folder, .zip, .tar, .csv or .npz of images."""
    data_dir: str | None = None
    """Where a registered data set's files lie."""
    image_size: int | None = None
    """The model's height and width in pixels (default: the data set's own, or 224)."""
    count: int = 6
    """Images to draw, of as many classes as there are."""
    versions: int = 6
    """What of each image to draw: so many visits of a training."""
    seed: int = 0
    """Of the augmentation: that of the training."""
    split_seed: int = 0
    """Of the split of data that come unsplit."""
    out: Path | None = None
    """PNG file to write, and beside it FILE_classes.png (default: the data set's name)."""
    augment: Augmentation = Augmentation()


def show(arguments: Show) -> None:
    """The command `show`."""
    if min(arguments.count, arguments.versions) < 1:
        raise InputError("--count and --versions have to be at least 1")
    size = arguments.image_size
    if size is None:
        size = _own_size(arguments.dataset)
    out = arguments.out or Path(f"{Path(arguments.dataset).stem or 'data'}.png")
    if out.suffix != ".png":
        raise InputError(f"--out {out} does not end in .png")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    cli.prepare_environment(large_arrays=False)

    from train.report import figures
    from train.setup import resolve

    recipe = Recipe(
        dataset=arguments.dataset,
        data_dir=arguments.data_dir,
        split_seed=arguments.split_seed,
        image_size=size,
        stages=(Stage(augment=arguments.augment),),
    )

    def called(path: str) -> str:
        return flag_of(path.removeprefix("stages.0."))

    experiment = resolve(recipe, train=False, called=called)
    dataset = experiment.dataset
    title = f"{dataset.name}{' (synthetic)' if dataset.info.synthetic else ''}"
    before, after, labels = visits(experiment, arguments)
    figures.augmentation_grid(before, after, labels, dataset.class_names, out, title)
    bars = out.with_name(f"{out.stem}_classes.png")
    counts = {name: _counts(split.labels, dataset) for name, split in dataset.splits.items()}
    figures.class_distribution(counts, dataset.class_names, bars, title)
    print(out)
    print(bars)


def _own_size(name: str) -> int:
    from datasets import dataset_info, list_datasets

    shape = dataset_info(name).image_shape if name in list_datasets() else None
    return shape[0] if shape else DEFAULT_SIZE


def _counts(labels: Any, dataset: Any) -> Any:
    import numpy as np

    return np.bincount(labels, minlength=len(dataset.class_names))


def visits(experiment: Any, arguments: Show) -> tuple[Any, Any, Any]:
    """Training images as they are loaded, uint8 [N, H, W, 3], what a training's first visits make of them,
    uint8 [N, versions, size, size, 3], and their labels."""
    import jax
    import numpy as np

    from train.engine import steps
    from train.results import sample_of_classes

    augment, inputs = arguments.augment, experiment.inputs
    split = experiment.dataset.splits["train"]
    chosen = sample_of_classes(split.labels, arguments.count)
    before = inputs.training(split, augment).load(chosen)

    @jax.jit
    def see(clock: Any, index: Any) -> Any:
        return inputs.augmented(before, index, steps.keys(clock)[0], augment)

    after = []
    for number in range(arguments.versions):
        epoch, repeat = divmod(number, augment.crops_per_image)
        clock = steps.Clock(np.uint32(arguments.seed), np.int32(epoch))
        index = (chosen + repeat * len(split)).astype(np.int32)
        after.append(np.asarray(see(clock, index)))
    rounded = np.clip(np.rint(np.stack(after, axis=1)), 0, 255).astype(np.uint8)
    return before, rounded, split.labels[chosen]
