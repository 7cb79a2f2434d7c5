"""`python -m train.data show`: plot training images next to their augmented versions."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from train import cli
from train.recipe import Augmentation, InputError, Recipe, Stage, flag_of
from zoo.common.files import check_output_file

DEFAULT_SIZE = 224


@dataclasses.dataclass(frozen=True)
class Show:
    """Plot example images, original and augmented, and the number of images per class."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Registered data set, tfds:NAME, or path of a folder, .zip, .tar, .csv or .npz of images."""
    data_dir: str | None = None
    """Directory with a registered data set's files."""
    image_size: int | None = None
    """Height and width of the model's input in pixels (default: the data set's, or 224)."""
    count: int = 6
    """Number of images to plot, from as many classes as possible."""
    versions: int = 6
    """Augmented versions to plot per image, in the order in which a training run draws them."""
    seed: int = 0
    """Seed of the augmentation, as in train.run."""
    split_seed: int = 0
    """Seed of the random split, for data without splits."""
    max_bad: float = 0.05
    """Maximum fraction of images to skip because they cannot be decoded."""
    out: Path | None = None
    """PNG file to write; FILE_classes.png is written next to it (default: the data set's name)."""
    augment: Augmentation = Augmentation()


def show(arguments: Show) -> None:
    """Run `python -m train.data show`."""
    if min(arguments.count, arguments.versions) < 1:
        raise InputError("--count and --versions must be at least 1: use larger numbers")
    size = arguments.image_size
    if size is None:
        size = _default_size(arguments.dataset)
    out = arguments.out or Path(f"{Path(arguments.dataset).stem or 'data'}.png")
    if out.suffix != ".png":
        raise InputError(f"--out {out} does not end in .png: use the path of a PNG file")
    bars = out.with_name(f"{out.stem}_classes.png")
    for path in (out, bars):
        check_output_file(path, "--out")
    _check_outside(out, Path(arguments.dataset).expanduser())
    cli.prepare_environment(large_arrays=False)

    from train.report import figures
    from train.setup import resolve

    recipe = Recipe(
        dataset=arguments.dataset,
        data_dir=arguments.data_dir,
        split_seed=arguments.split_seed,
        max_bad=arguments.max_bad,
        image_size=size,
        stages=(Stage(augment=arguments.augment),),
    )

    def field_name(path: str) -> str:
        return flag_of(path.removeprefix("stages.0."))

    experiment = resolve(recipe, train=False, field_name=field_name)
    dataset = experiment.dataset
    cli.say_notes(dataset)
    cli.say_skipped(dataset)
    title = f"{dataset.name}{' (synthetic)' if dataset.info.synthetic else ''}"
    before, after, labels = augmented_samples(experiment, arguments)
    figures.augmentation_grid(before, after, labels, dataset.class_names, out, title)
    counts = {name: _class_counts(split.labels, dataset) for name, split in dataset.splits.items()}
    figures.class_distribution(counts, dataset.class_names, bars, title)
    print(out)
    print(bars)


def _check_outside(out: Path, data: Path) -> None:
    """Raise InputError if the figure would be written to a data folder, where it would be mistaken for an image."""
    folder, root = out.resolve().parent, data.resolve()
    if root.is_dir() and folder != root and root in folder.parents:
        raise InputError(f"--out {out} is inside the data folder: use a path outside of {data}")


def _default_size(name: str) -> int:
    from datasets import dataset_info, list_datasets

    shape = dataset_info(name).image_shape if name in list_datasets() else None
    return shape[0] if shape else DEFAULT_SIZE


def _class_counts(labels: Any, dataset: Any) -> Any:
    import numpy as np

    return np.bincount(labels, minlength=len(dataset.class_names))


def augmented_samples(experiment: Any, arguments: Show) -> tuple[Any, Any, Any]:
    """Load training images and augment them as the first epochs of a run would.

    Returns the loaded images, uint8 [N, H, W, 3]; their augmented versions, uint8 [N, versions, size, size, 3]; and
    their labels, [N].
    """
    import jax
    import numpy as np

    from train.engine import steps
    from train.results import class_balanced_indices

    augment, inputs = arguments.augment, experiment.inputs
    split = experiment.dataset.splits["train"]
    chosen = class_balanced_indices(split.labels, arguments.count)
    before = inputs.train_samples(split, augment).load(chosen)

    @jax.jit
    def augment_batch(context: Any, index: Any) -> Any:
        return inputs.augment(before, index, steps.keys(context)[0], augment)

    after = []
    for number in range(arguments.versions):
        epoch, repeat = divmod(number, augment.crops_per_image)
        context = steps.RngContext(np.uint32(arguments.seed), np.int32(epoch))
        index = (chosen + repeat * len(split)).astype(np.int32)
        after.append(np.asarray(augment_batch(context, index)))
    rounded = np.clip(np.rint(np.stack(after, axis=1)), 0, 255).astype(np.uint8)
    return before, rounded, split.labels[chosen]
