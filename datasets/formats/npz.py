"""Images in the arrays of a NumPy .npz as a data set.

Images are `images` or `x`, their labels `labels` or `y`; for parts that come split, with the part's name before or
behind: `x_train, y_train, x_test, y_test` (Keras's mnist.npz), `train_images, train_labels, val_images, ...`
(MedMNIST). Upper and lower case are alike, other arrays are ignored.

    images: [N, H, W] or [N, H, W, 1 or 3]; whole numbers are 0 to 255; floats are 0 to 1 or, when one in the file
        exceeds 1, 0 to 255 (clipped; what is no number counts as 0)
    labels: [N] or [N, 1], whole numbers or texts
    class_names: [K] texts, optional; a label is then a position in it, and classes keep this order

Nothing in the file is executed: arrays of Python objects are refused. Images stay in memory as bytes. The fingerprint
is that of the images as bytes.
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
from datasets.formats.folder import class_names, part_called
from datasets.formats.sources import check_bounds

IMAGES, LABELS, CLASS_NAMES = ("images", "image", "x"), ("labels", "label", "y"), "class_names"
FORM = "x and y, or x_train, y_train, x_test, y_test, or train_images, train_labels and so on"
CHUNK_BYTES = 64 << 20  # of floats that are converted at a time
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)

Key = tuple[str | None, str]  # of a part, and images or labels


def load_npz(path: Path, options: Options) -> Dataset:
    """The data set of a .npz; see `datasets.load_dataset`. An example's id is its part and position."""
    keys, arrays, other = _read(path)
    parts = sorted({part for part, _ in keys}, key=[None, *SPLITS].index)
    images = _as_bytes(path, {p: arrays[keys[p, "images"]] for p in parts}, keys)
    texts = {p: _texts(path, keys[p, "labels"], arrays[keys[p, "labels"]]) for p in parts}
    given = _given_names(path, arrays)
    if given:
        texts = {p: _named(path, keys[p, "labels"], arrays, texts[p], given) for p in parts}
    examples = []
    for part in parts:
        if len(texts[part]) != len(images[part]):
            raise InputError(
                f"{path} has {len(images[part])} images in {keys[part, 'images']}, but"
                f" {len(texts[part])} labels in {keys[part, 'labels']}: each image needs one"
            )
        for index, text in enumerate(texts[part]):
            name = f"{part}/{index}" if part else f"{index}"
            examples.append(Example(name, images[part][index], text, part))
    notes = [f"ignored the arrays {', '.join(other)}"] if other else []
    used = class_names(path, examples, notes)
    layout = Layout(
        examples=examples,
        class_names=tuple(name for name in given if name in used) if given else used,
        published=tuple(part for part in SPLITS if part in parts),
        notes=notes,
    )
    shape = images[parts[0]].shape[1:3]
    alike = all(images[part].shape[1:3] == shape for part in parts)
    return assemble(
        layout,
        DatasetInfo(
            path.stem,
            f"images of the arrays in {path}",
            "the user's own",
            image_shape=(*shape, 3) if alike else None,
        ),
        options,
        digests={e.id: hashlib.sha256(e.content.tobytes()).hexdigest() for e in examples},
        load=lambda example: _rgb(example.content),
        provenance={"path": str(path), "kind": "npz"},
    )


def _rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] as [H, W, 3]."""
    return np.repeat(image, 3 // image.shape[-1], axis=-1)


def _read(path: Path) -> tuple[dict[Key, str], dict[str, np.ndarray], list[str]]:
    """Which array is what, the arrays by their names, and the names of those that are not used."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            total = sum(member.file_size for member in members.values())
            check_bounds(path, len(members), total, path.stat().st_size)
            keys, other = _keys(path, list(members))
            wanted = [*keys.values(), *(m for m in members if m.casefold() == CLASS_NAMES)]
            arrays = {name: _array(path, archive, members[name]) for name in wanted}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give the path of a .npz") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"{path} is a damaged or incomplete .npz ({' '.join(str(error).split())}): copy it or save it anew"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions and the disk"
        ) from None
    return keys, arrays, other


def _keys(path: Path, names: list[str]) -> tuple[dict[Key, str], list[str]]:
    keys: dict[Key, str] = {}
    other = []
    for name in names:
        if name.casefold() == CLASS_NAMES:
            continue
        key = _meaning(name)
        if key is None:
            other.append(name)
        elif key in keys:
            raise InputError(f"{path} has {keys[key]} and {name}, which mean the same: keep one")
        else:
            keys[key] = name
    parts = {part for part, _ in keys}
    if not keys:
        held = (
            f"the arrays {', '.join(names[:5])}{', ...' * (len(names) > 5)}" if names else "nothing"
        )
        raise InputError(f"{path} has {held}, none for images or labels: name them {FORM}")
    for part in parts:
        for kind in ("images", "labels"):
            if (part, kind) not in keys:
                there = next(name for key, name in keys.items() if key[0] == part)
                raise InputError(
                    f"{path} has {there}, but no {kind} for it: name the arrays {FORM}"
                )
    if parts != {None} and (None in parts or "train" not in parts):
        what = "arrays of parts and others beside them" if None in parts else "none to train on"
        raise InputError(f"{path} has {what} ({', '.join(keys.values())}): name the arrays {FORM}")
    return keys, other


def _meaning(name: str) -> Key | None:
    pieces = re.split("[_ -]", name.casefold())
    for kind, words in (("images", IMAGES), ("labels", LABELS)):
        if len(pieces) == 1 and pieces[0] in words:
            return None, kind
        for word, rest in ((pieces[0], pieces[1:]), (pieces[-1], pieces[:-1])):
            if word in words and (part := part_called("_".join(rest))):
                return part, kind
    return None


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array, of which the header is looked at before memory is taken."""
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            raise ValueError(f"{name} is in version {version} of the format")
        shape, _, dtype = header(file)
    if dtype.hasobject:
        raise InputError(
            f"{path} has Python objects in {name}, which could run a program when they are read:"
            " save it with plain arrays"
        )
    if np.prod(shape, dtype=object) * dtype.itemsize > member.file_size:
        raise ValueError(f"{name} says that it is larger than it is")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _as_bytes(
    path: Path, images: dict[str | None, np.ndarray], keys: dict[Key, str]
) -> dict[str | None, np.ndarray]:
    """All images as uint8 [N, H, W, 1 or 3]."""
    for part, array in images.items():
        name = keys[part, "images"]
        if array.ndim == 3:
            images[part] = array = array[..., None]
        if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
            first = array.ndim == 4 and array.shape[1] in (1, 3)
            raise InputError(
                f"{path} has {name} of shape {list(array.shape)}{', channels first' * first}: give"
                " [N, H, W], [N, H, W, 1] or [N, H, W, 3], channels last"
            )
        if array.dtype.kind not in "biuf":
            raise InputError(f"{path} has {name} of type {array.dtype}: give uint8, or floats")
        if array.dtype.kind in "iu" and array.dtype != np.uint8:
            low, high = array.min(), array.max()
            if low < 0 or high > 255:
                raise InputError(
                    f"{path} has {name} of type {array.dtype} from {low} to {high}: give 0 to 255"
                )
    floats = [array for array in images.values() if array.dtype.kind == "f"]
    # As in `datasets.images.decode.to_rgb`, but for all at once: a dark image must not be taken for a bright one.
    scale = 1 if any(np.any(array > 1) for array in floats) else 255
    return {part: _to_bytes(array, scale) for part, array in images.items()}


def _to_bytes(array: np.ndarray, scale: int) -> np.ndarray:
    if array.dtype.kind in "iu":
        return np.ascontiguousarray(array, np.uint8)
    if array.dtype.kind == "b":
        return np.ascontiguousarray(array * np.uint8(255))
    result = np.empty(array.shape, np.uint8)
    step = max(1, CHUNK_BYTES // array[0].nbytes)
    for start in range(0, len(array), step):
        values = np.nan_to_num(array[start : start + step].astype(np.float32))
        result[start : start + step] = np.rint(np.clip(values, 0, 255 / scale) * scale)
    return result


def _texts(path: Path, name: str, labels: np.ndarray) -> list[str]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(
            f"{path} has {name} of shape {list(labels.shape)}: give one label an image, not one column a class"
        )
    if labels.dtype.kind == "S":
        return [bytes(label).decode("utf-8", "replace") for label in labels]
    if labels.dtype.kind == "U":
        return [str(label) for label in labels]
    if labels.dtype.kind in "biu" or labels.dtype.kind == "f" and np.all(labels == np.rint(labels)):
        return [str(int(label)) for label in labels]
    raise InputError(f"{path} has {name} of type {labels.dtype}: give whole numbers, or texts")


def _given_names(path: Path, arrays: dict[str, Any]) -> list[str]:
    array = next((array for name, array in arrays.items() if name.casefold() == CLASS_NAMES), None)
    if array is None:
        return []
    names = _texts(path, CLASS_NAMES, array)
    if array.dtype.kind not in "US" or len(set(names)) != len(names) or not all(names):
        raise InputError(f"{path} has {CLASS_NAMES} that are not texts, all different: mend them")
    return names


def _named(
    path: Path, name: str, arrays: dict[str, np.ndarray], labels: list[str], given: list[str]
) -> list[str]:
    """Classes by name: a number is a position among the given names, a text is one of them."""
    if arrays[name].dtype.kind in "US":
        known = dict(zip(given, given, strict=True))
    else:
        known = {str(position): text for position, text in enumerate(given)}
    for label in labels:
        if label not in known:
            raise InputError(
                f"{path} has the label {label} in {name}, which none of its {len(given)} {CLASS_NAMES}"
                " is for: a number is a position among them"
            )
    return [known[label] for label in labels]
