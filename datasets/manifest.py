"""Split files: the examples of each split. Every run writes one, `splits.json`, and can read one.

A manifest is a JSON object. Only the field `splits` is required:

    format        2; older files have neither a format nor hashes
    splits        {"train": {id: label, ...}, "validation": {...}, "test": {...}}; a label is an index into
                  class_names, and the order of the examples is kept
    class_names   ["cats", "dogs"]; default: the class names of the data
    sha256        {id: hash of the file's bytes, or of the pixels if the image has no file}
    groups        {id: group} of grouped examples
    edition       "lossy copy" or "repacked" if the images differ from the published ones: see `Dataset.edition`

The other fields are informative: `dataset`, `fingerprint`, `seed`, `provenance`, `notes`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.dataset import MANIFEST_FORMAT, SPLITS, Edition, InputError

HOW = "use the splits.json of a run"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of a split file."""

    path: Path
    splits: dict[str, dict[str, int]]  # exactly "train", "validation", "test": id to label
    class_names: tuple[str, ...] | None
    digests: dict[str, str]
    groups: dict[str, str]


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a split file, given its path or its run directory. Raises InputError."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "splits.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no split file at {path}: {HOW}") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from None
    except ValueError as error:
        raise _unusable(path, f"it is not valid JSON ({error})") from None
    if not isinstance(content, dict) or "splits" not in content:
        raise _unusable(path, "it is not a JSON object with the field splits")
    version = content.get("format", 1)
    if version not in range(1, MANIFEST_FORMAT + 1):
        raise InputError(
            f"{path} has format {version!r}, but this version reads formats up to {MANIFEST_FORMAT}: {HOW} of"
            " this version"
        )
    splits = content["splits"]
    if not isinstance(splits, dict) or set(splits) != set(SPLITS):
        raise _unusable(path, f"its splits are not {', '.join(SPLITS)}")
    names = content.get("class_names")
    if names is not None and not (
        isinstance(names, list) and len(names) > 1 and all(isinstance(n, str) for n in names)
    ):
        raise _unusable(path, "its class_names are not a list of at least two names")
    if names is not None and len(set(names)) < len(names):
        raise _unusable(path, "its class_names contain a name twice")
    split_of: dict[str, str] = {}
    for split in SPLITS:
        for example, label in _pairs(path, f"splits.{split}", splits[split], int):
            if label < 0 or (names is not None and label >= len(names)):
                raise _unusable(path, f"{example} has label {label}, which is not a class")
            if split_of.setdefault(example, split) != split:
                raise _unusable(path, f"{example} is in both {split_of[example]} and {split}")
        if not splits[split]:
            raise _unusable(path, f"its {split} split is empty")
    return Manifest(
        path,
        {split: splits[split] for split in SPLITS},
        None if names is None else tuple(names),
        dict(_pairs(path, "sha256", content.get("sha256", {}), str)),
        dict(_pairs(path, "groups", content.get("groups", {}), str)),
    )


def edition_of(manifest: Mapping[str, Any]) -> Edition:
    """Return the edition of the data of a manifest (a JSON object): see `Dataset.edition`.

    In manifests written before the field existed, a lossy copy is recognized by a note, and a repacked CIFAR-10 by its
    ids: the published batches have no file per image, so their ids have no suffix.
    """
    if "edition" in manifest:
        return manifest["edition"]
    if any("lossy copy" in note for note in manifest.get("notes", ())):
        return "lossy copy"
    first = next(iter(manifest["splits"]["train"]), "")
    return "repacked" if manifest.get("dataset") == "cifar10" and "." in first else ""


def _pairs(path: Path, field: str, content: Any, kind: type) -> Any:
    if not isinstance(content, dict):
        raise _unusable(path, f"its {field} is not an object")
    for name, value in content.items():
        if type(value) is not kind:  # a bool is not a label
            raise _unusable(path, f"its {field} has {value!r} for {name}")
    return content.items()


def _unusable(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be used as a split file, {reason}: {HOW}")
