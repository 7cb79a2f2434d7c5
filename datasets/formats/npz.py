"""Read the arrays of a NumPy .npz as a data set.

Images are named `images` or `x`, and labels `labels` or `y`. Published splits have the split's name as a prefix or
suffix: `x_train, y_train, x_test, y_test` (Keras's mnist.npz), `train_images, train_labels, val_images, ...`
(MedMNIST). Names are case-insensitive; other arrays are ignored.

    images: [N, H, W] or [N, H, W, 1 or 3]; integers from 0 to 255; floats from 0 to 1, or from 0 to 255, all with the
        same scale
    labels: [N] or [N, 1], integers or strings
    class_names: [K] strings, optional; integer labels are then indices into it, and classes keep this order

Nothing in the file is executed: arrays of Python objects are rejected. Images are kept in memory as uint8, and the
fingerprint is computed from these bytes.
"""

import hashlib
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from datasets.dataset import SPLITS, Dataset, DatasetInfo, InputError, Options
from datasets.formats.examples import Example, Layout, assemble
from datasets.formats.folder import class_names, split_named
from datasets.formats.sources import check_bounds
from datasets.images.decode import LEAST_MAXIMUM, UndecodableError, float_scale, floats_to_uint8
from zoo.common.files import printable

IMAGES, LABELS, CLASS_NAMES = ("images", "image", "x"), ("labels", "label", "y"), "class_names"
NAMES = "x and y, or x_train, y_train, x_test, y_test, or train_images, train_labels and so on"
CHUNK_BYTES = 64 << 20  # floats converted at a time
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)

Key = tuple[str | None, str]  # split, and "images" or "labels"


def load_npz(path: Path, options: Options) -> Dataset:
    """Load a .npz; see `datasets.load_dataset`. An example's id is its split and index."""
    keys, arrays, other = _read(path, needs_train=not options.classes)
    splits = sorted({split for split, _ in keys}, key=[None, *SPLITS].index)
    images = _as_uint8(path, {s: arrays[keys[s, "images"]] for s in splits}, keys)
    labels = {s: _label_strings(path, keys[s, "labels"], arrays[keys[s, "labels"]]) for s in splits}
    given = _given_names(path, arrays)
    if given:
        labels = {s: _named(path, keys[s, "labels"], arrays, labels[s], given) for s in splits}
    examples = []
    for split in splits:
        if len(labels[split]) != len(images[split]):
            raise InputError(
                f"{path} has {len(images[split])} images in {keys[split, 'images']}, but"
                f" {len(labels[split])} labels in {keys[split, 'labels']}: use one label per image"
            )
        for index, label in enumerate(labels[split]):
            name = f"{split}/{index}" if split else f"{index}"
            examples.append(Example(name, images[split][index], label, split))
    notes = [f"ignored the arrays {', '.join(other)}"] if other else []
    brightest = max(array.max() for array in images.values())
    if brightest < LEAST_MAXIMUM:
        notes.append(f"the images are nearly black: the largest value is {brightest}, of 0 to 255")
    used = class_names(path, examples, notes, options.classes)
    if options.classes:
        given = []
    layout = Layout(
        examples=examples,
        class_names=tuple(name for name in given if name in used) if given else used,
        published=tuple(split for split in SPLITS if split in splits),
        notes=notes,
    )
    shape = images[splits[0]].shape[1:3]
    same_shape = all(images[split].shape[1:3] == shape for split in splits)
    return assemble(
        layout,
        DatasetInfo(
            printable(path.stem),
            f"images of the arrays in {printable(path)}",
            "the user's own",
            image_shape=(*shape, 3) if same_shape else None,
        ),
        options,
        digests={e.id: hashlib.sha256(e.content.tobytes()).hexdigest() for e in examples},
        load=lambda example: _rgb(example.content),
        provenance={"path": str(path), "kind": "npz"},
    )


def _rgb(image: np.ndarray) -> np.ndarray:
    """Convert uint8 [H, W, 1 or 3] to [H, W, 3]."""
    return np.repeat(image, 3 // image.shape[-1], axis=-1)


def _read(
    path: Path, *, needs_train: bool
) -> tuple[dict[Key, str], dict[str, np.ndarray], list[str]]:
    """Return the array name of each key, the arrays by name, and the names of unused arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            total = sum(member.file_size for member in members.values())
            check_bounds(path, len(members), total, path.stat().st_size)
            keys, other = _keys(path, list(members), needs_train=needs_train)
            wanted = [*keys.values(), *(m for m in members if m.casefold() == CLASS_NAMES)]
            arrays = {name: _array(path, archive, members[name]) for name in wanted}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: use the path of a .npz") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"{path} is a damaged or incomplete .npz ({' '.join(str(error).split())}): copy or save it again"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions and the disk"
        ) from None
    return keys, arrays, other


def _keys(path: Path, names: list[str], *, needs_train: bool) -> tuple[dict[Key, str], list[str]]:
    keys: dict[Key, str] = {}
    other = []
    for name in names:
        if name.casefold() == CLASS_NAMES:
            continue
        key = _key_of(name)
        if key is None:
            other.append(name)
        elif key in keys:
            raise InputError(f"{path} has {keys[key]} and {name}, which mean the same: keep one")
        else:
            keys[key] = name
    splits = {split for split, _ in keys}
    if not keys:
        shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        among = f" among its arrays {shown}" if names else ""
        raise InputError(f"{path} has no images and labels{among}: name the arrays {NAMES}")
    for split in splits:
        for kind in ("images", "labels"):
            if (split, kind) not in keys:
                other_name = next(name for key, name in keys.items() if key[0] == split)
                raise InputError(
                    f"{path} has {other_name}, but no {kind} for it: name the arrays {NAMES}"
                )
    if splits != {None} and (None in splits or (needs_train and "train" not in splits)):
        what = "both split and unsplit arrays" if None in splits else "no training arrays"
        raise InputError(f"{path} has {what} ({', '.join(keys.values())}): name the arrays {NAMES}")
    return keys, other


def _key_of(name: str) -> Key | None:
    pieces = re.split("[_ -]", name.casefold())
    for kind, words in (("images", IMAGES), ("labels", LABELS)):
        if len(pieces) == 1 and pieces[0] in words:
            return None, kind
        for word, rest in ((pieces[0], pieces[1:]), (pieces[-1], pieces[:-1])):
            if word in words and (split := split_named("_".join(rest))):
                return split, kind
    return None


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read an array after checking its header, so that no excessive memory is allocated."""
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            raise ValueError(f"{name} has the unsupported format version {version}")
        shape, _, dtype = header(file)
    if dtype.hasobject:
        raise InputError(
            f"{path} has Python objects in {name}, which could execute code when read:"
            " save plain arrays instead"
        )
    if np.prod(shape, dtype=object) * dtype.itemsize > member.file_size:
        raise ValueError(f"{name} is smaller than its header says")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _as_uint8(
    path: Path, images: dict[str | None, np.ndarray], keys: dict[Key, str]
) -> dict[str | None, np.ndarray]:
    """Check the image arrays and convert them to uint8 [N, H, W, 1 or 3]."""
    for split, array in images.items():
        name = keys[split, "images"]
        if array.ndim == 3:
            images[split] = array = array[..., None]
        if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
            first = array.ndim == 4 and array.shape[1] in (1, 3)
            raise InputError(
                f"{path} has {name} of shape {list(array.shape)}{', channels first' * first}: use"
                " [N, H, W], [N, H, W, 1] or [N, H, W, 3], channels last"
            )
        if array.dtype.kind not in "biuf":
            raise InputError(f"{path} has {name} of type {array.dtype}: use uint8, or floats")
        if array.dtype.kind in "iu" and array.dtype != np.uint8:
            low, high = array.min(), array.max()
            if low < 0 or high > 255:
                raise InputError(
                    f"{path} has {name} of type {array.dtype} from {low} to {high}: use 0 to 255"
                )
    floats = {split: array for split, array in images.items() if array.dtype.kind == "f"}
    try:
        scale = float_scale(list(floats.values())) if floats else 1
    except UndecodableError as error:
        names = ", ".join(keys[split, "images"] for split in floats)
        raise InputError(f"{path} has {names} with {error}") from None
    return {split: _to_uint8(array, scale) for split, array in images.items()}


def _to_uint8(array: np.ndarray, scale: int) -> np.ndarray:
    if array.dtype.kind in "iu":
        return np.ascontiguousarray(array, np.uint8)
    if array.dtype.kind == "b":
        return np.ascontiguousarray(array * np.uint8(255))
    result = np.empty(array.shape, np.uint8)
    step = max(1, CHUNK_BYTES // array[0].nbytes)
    for start in range(0, len(array), step):
        result[start : start + step] = floats_to_uint8(array[start : start + step], scale)
    return result


def _label_strings(path: Path, name: str, labels: np.ndarray) -> list[str]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(
            f"{path} has {name} of shape {list(labels.shape)}: use one label per image, not one column per class"
        )
    if labels.dtype.kind == "S":
        return [bytes(label).decode("utf-8", "replace") for label in labels]
    if labels.dtype.kind == "U":
        return [str(label) for label in labels]
    if labels.dtype.kind == "f" and not np.all(np.isfinite(labels)):
        raise InputError(f"{path} has NaN or infinity in {name}: use integers or strings")
    if labels.dtype.kind in "biu" or labels.dtype.kind == "f" and np.all(labels == np.rint(labels)):
        return [str(int(label)) for label in labels]
    raise InputError(f"{path} has {name} of type {labels.dtype}: use integers or strings")


def _given_names(path: Path, arrays: dict[str, Any]) -> list[str]:
    array = next((array for name, array in arrays.items() if name.casefold() == CLASS_NAMES), None)
    if array is None:
        return []
    names = _label_strings(path, CLASS_NAMES, array)
    if array.dtype.kind not in "US" or len(set(names)) != len(names) or not all(names):
        raise InputError(f"{path} has invalid {CLASS_NAMES}: use unique, non-empty strings")
    return names


def _named(
    path: Path, name: str, arrays: dict[str, np.ndarray], labels: list[str], given: list[str]
) -> list[str]:
    """Map labels to the given class names: an integer is an index into them, a string is one of them."""
    if arrays[name].dtype.kind in "US":
        known = dict(zip(given, given, strict=True))
    else:
        known = {str(index): text for index, text in enumerate(given)}
    for label in labels:
        if label not in known:
            raise InputError(
                f"{path} has the label {label} in {name}, which is not among its {len(given)} {CLASS_NAMES}:"
                " use their names, or indices from 0"
            )
    return [known[label] for label in labels]
