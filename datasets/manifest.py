"""Files of splits: which example is in which part, written by every run as `splits.json` and read back.

A manifest is a JSON object. Its fields, of which only `splits` is needed:

    format        2; files without it are older and have no hashes
    splits        {"train": {id: label, ...}, "validation": {...}, "test": {...}}; a label is a position in
                  class_names, and the order of the examples is kept
    class_names   ["cats", "dogs"]; without it, those of the data
    sha256        {id: hash of the file's bytes, or of the pixels of data that are no files}
    groups        {id: group} of examples that are in one

What else it holds is for the reader: `dataset`, `fingerprint`, `seed`, `provenance`, `notes`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from datasets.dataset import MANIFEST_FORMAT, SPLITS, InputError

HOW = "give the splits.json of a run"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a file of splits says."""

    path: Path
    parts: dict[str, dict[str, int]]  # exactly "train", "validation", "test": id to label
    class_names: tuple[str, ...] | None
    digests: dict[str, str]
    groups: dict[str, str]


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a file of splits, or that of a run directory. Raises InputError, one line."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "splits.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file of splits at {path}: {HOW}") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from None
    except ValueError as error:
        raise _unusable(path, f"no JSON ({error})") from None
    if not isinstance(content, dict) or "splits" not in content:
        raise _unusable(path, "no JSON object with the field splits")
    version = content.get("format", 1)
    if version not in range(1, MANIFEST_FORMAT + 1):
        raise InputError(
            f"{path} has format {version!r}, and this version reads up to {MANIFEST_FORMAT}: {HOW} of it"
        )
    parts = content["splits"]
    if not isinstance(parts, dict) or set(parts) != set(SPLITS):
        raise _unusable(path, f"its splits are not {', '.join(SPLITS)}")
    names = content.get("class_names")
    if names is not None and not (
        isinstance(names, list) and len(names) > 1 and all(isinstance(n, str) for n in names)
    ):
        raise _unusable(path, "its class_names are no list of two names or more")
    if names is not None and len(set(names)) < len(names):
        raise _unusable(path, "a name is twice in its class_names")
    where: dict[str, str] = {}
    for part in SPLITS:
        for example, label in _pairs(path, f"splits.{part}", parts[part], int):
            if label < 0 or (names is not None and label >= len(names)):
                raise _unusable(path, f"{example} has label {label}, which no class has")
            if where.setdefault(example, part) != part:
                raise _unusable(path, f"{example} is in the {where[example]} and the {part} part")
        if not parts[part]:
            raise _unusable(path, f"its {part} part is empty")
    return Manifest(
        path,
        {part: parts[part] for part in SPLITS},
        None if names is None else tuple(names),
        dict(_pairs(path, "sha256", content.get("sha256", {}), str)),
        dict(_pairs(path, "groups", content.get("groups", {}), str)),
    )


def _pairs(path: Path, field: str, content: Any, kind: type) -> Any:
    if not isinstance(content, dict):
        raise _unusable(path, f"its {field} is no object")
    for name, value in content.items():
        if type(value) is not kind:  # a bool is no label
            raise _unusable(path, f"its {field} says {value!r} of {name}")
    return content.items()


def _unusable(path: Path, why: str) -> InputError:
    return InputError(f"{path} cannot be used as a file of splits, {why}: {HOW}")


def edition_of(manifest: Mapping[str, Any]) -> Literal["", "lossy copy", "repacked"]:
    """How the files of a run's data differ from the published ones: not at all, lossily, or in their packing."""
    if any("lossy copy" in note for note in manifest.get("notes", ())):
        return "lossy copy"
    first = next(iter(manifest["splits"]["train"]), "")
    return "repacked" if manifest["dataset"] == "cifar10" and "." in first else ""
