"""Data sets that tensorflow-datasets (TFDS) has prepared as ArrayRecord, read without TensorFlow.

`tfds:NAME`, `tfds:NAME/CONFIG` and `tfds:NAME:VERSION` are looked for in the TFDS data directory: the `data_dir`
of the call, else $TFDS_DATA_DIR, else ~/tensorflow_datasets. `tfds:PATH`, or the path alone, is a prepared directory
itself (`cifar10/3.0.2`) or one that holds versions (`cifar10`), of which the newest counts.

Any data set with one image and one class label an example will do, whoever prepared it; what `datasets.formats.prepare`
wrote comes back with its parts, ids and classes. Images are decoded by `datasets.images.decode`: TFDS's decoder gives
four channels for some files, and another picture where OpenCV is installed.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.cache import cache_dir, write_cache
from datasets.dataset import SPLITS, Dataset, DatasetInfo, InputError, Options, Progress
from datasets.formats.examples import Example, Layout, load_files
from datasets.formats.folder import PART_NAMES
from datasets.formats.sources import File
from datasets.images.decode import UndecodableError
from datasets.manifest import edition_of

INFO_FILE = "dataset_info.json"
FEATURES_FILE = "features.json"
METADATA_FILE = "metadata.json"
METADATA_KEY = "jax_zoo"  # of what `datasets.formats.prepare` says there; see its `describe`
METADATA_FORMAT = 1
ARRAY_RECORD = "array_record"
VERSION = re.compile(r"\d+\.\d+\.\d+")
NAME = re.compile(r"(?P<path>[A-Za-z]\w*(/[\w.+-]+)?)(:(?P<version>\d+\.\d+\.\d+))?")

# Text features that name an example, the best first.
ID_FEATURES = ("id", "file_name", "filename", "image/filename", "image/file_name", "image_id")
UNLABELLED = -1  # TFDS's mark, in the test parts of competitions
INDEX_FORMAT = 1
PROGRESS_SECONDS = 0.1


def load_tfds(text: str, options: Options, preparable: Collection[str] = ()) -> Dataset:
    """The data set that `tfds:` and `text` name; see the module's docstring.

    `preparable` are the names of data sets that `train.data prepare` can prepare, for the hint.
    """
    if text.startswith(("/", "~", ".")):
        path = Path(text).expanduser()
        directory = _find(path)
        if directory is None:
            raise InputError(
                f"{path} is no prepared TFDS data set (there is no {INFO_FILE} with {FEATURES_FILE}):"
                " give the folder of a version, such as ~/tensorflow_datasets/cifar10/3.0.2"
            )
        return load_prepared(directory, options)
    match = NAME.fullmatch(text)
    if not match:
        raise InputError(
            f"tfds:{text} is no name of a TFDS data set: say tfds:NAME, tfds:NAME/CONFIG,"
            " tfds:NAME:1.0.0 or tfds:/path/of/a/prepared/directory"
        )
    root = data_root(options.data_dir)
    directory = _find(root / match["path"], match["version"])
    if directory is None:
        raise InputError(_not_prepared(text, root, match, preparable))
    return load_prepared(directory, options)


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """The TFDS data directory: the one given, $TFDS_DATA_DIR, or TFDS's default."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared_directory(path: Path) -> Path | None:
    """The prepared directory at a path, or the newest version right below it, if there is any."""
    if os.path.isfile(path / INFO_FILE) and os.path.isfile(path / FEATURES_FILE):
        return path
    versions = _versions(path)
    return path / versions[-1] if versions else None


def _find(path: Path, version: str | None = None) -> Path | None:
    """As `prepared_directory`, and through a data set's only config."""
    configs = [] if prepared_directory(path) else _configs(path)
    if len(configs) > 1:
        raise InputError(
            f"{path} is prepared in {len(configs)} configs:"
            f" say {_listed([f'tfds:{path.name}/{c}' for c in configs], ' or ')}"
        )
    path = path / configs[0] if configs else path
    return prepared_directory(path / version if version else path)


def _versions(path: Path) -> list[str]:
    """Prepared versions right below a path, the newest last. What is not finished has another name."""
    found = [n for n in _names(path) if VERSION.fullmatch(n) and prepared_directory(path / n)]
    return sorted(found, key=lambda name: [int(number) for number in name.split(".")])


def _configs(path: Path) -> list[str]:
    return [name for name in _names(path) if _versions(path / name)]


def _names(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _not_prepared(text: str, root: Path, match: re.Match[str], preparable: Collection[str]) -> str:
    others = _versions(root / match["path"])
    if others:
        return (
            f"tfds:{text} is not prepared in {root}: there is {_listed(others, ' and ')},"
            f" say tfds:{match['path']}:{others[-1]}"
        )
    if match["path"] in preparable:
        return (
            f"tfds:{text} is not prepared in {root}:"
            f" `python -m train.data prepare {match['path']} --out {root}` prepares it"
        )
    there = [name for name in _names(root) if _versions(root / name) or _configs(root / name)]
    near = difflib.get_close_matches(match["path"], there, n=1)
    hint = f", did you mean tfds:{near[0]}?" if near else ""
    return (
        f"tfds:{text} is not prepared in {root}{hint}: where TensorFlow is installed,"
        f" `tfds build {text} --data_dir={root} --file_format={ARRAY_RECORD}` prepares it;"
        " or say with --data-dir where it is"
    )


def _listed(words: Sequence[str], last: str) -> str:
    shown = [*words[:5], *["..."] * (len(words) > 5)]
    return last.join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


# A prepared directory.


class Keys(NamedTuple):
    """Which features of a TFDS data set mean what."""

    image: str
    label: str
    names: tuple[str, ...] | None  # of the classes; None: plain numbers
    id: str | None


class Records:
    """The examples of a prepared directory as a source of files: `<part>/<position>` is the image of a record."""

    kind = "tfds"
    notes: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self.root = root
        _check_format(root)
        import tensorflow_datasets as tfds

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            builder = tfds.builder_from_directory(root)
            self.info = builder.info
            self.keys = _keys(self.info, tfds)
            # Each shard has one reader, which is safe in threads and is opened when it is first read from.
            self._parts = {
                part: builder.as_data_source(part, deserialize_method=raw, file_format=ARRAY_RECORD)
                for part, about in self.info.splits.items()
                if about.num_examples
            }
        except InputError:
            raise
        except Exception as error:  # from a JSON's syntax to features of others' making
            raise InputError(
                f"{root} cannot be opened by tensorflow-datasets ({_first_line(error)}): prepare it again"
            ) from error
        self.stamp = self._stamp()
        self.files = [
            File(f"{part}/{position}", self.stamp, (part, position))
            for part, records in self._parts.items()
            for position in range(len(records))
        ]
        features = self.info.features
        self._image = tfds.features.FeaturesDict({self.keys.image: features[self.keys.image]})
        self._rest = tfds.features.FeaturesDict(
            {key: features[key] for key in (self.keys.label, self.keys.id) if key}
        )
        self._as_stored = {self.keys.image: tfds.decode.SkipDecoding()}

    def _stamp(self) -> str:
        """Differs when a file of the directory does."""
        shards = [path for about in self.info.splits.values() for path in about.filepaths]
        digest = hashlib.sha256()
        for path in (self.root / INFO_FILE, *shards):
            try:
                status = os.stat(path)
            except OSError as error:
                raise InputError(
                    f"{path} cannot be read ({error.strerror}): copy or prepare {self.root} again"
                ) from None
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def read(self, file: File) -> bytes:
        part, position = file.handle
        try:
            record = self._parts[part][position]
            example = self._image.deserialize_example_np(record, decoders=self._as_stored)
            return bytes(example[self.keys.image])
        except Exception as error:  # the reader raises about anything over damaged files
            raise UndecodableError(f"damaged record: {_first_line(error)}") from error

    def index(self, progress: Progress | None = None) -> dict[str, tuple[list[int], list[str]]]:
        """Labels and ids ("" without) of all records by part: read once, then kept in the cache."""
        cache = cache_dir() / "tfds" / f"{_digest(os.path.realpath(self.root))}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(cache.read_bytes())
            if (content["format"], content["stamp"]) == (INDEX_FORMAT, self.stamp):
                return {part: (labels, ids) for part, (labels, ids) in content["parts"].items()}
        done, last = 0, 0.0
        index: dict[str, tuple[list[int], list[str]]] = {}
        for part, records in self._parts.items():
            labels, ids = index[part] = ([], [])
            for position in range(len(records)):
                label, name = self._label_and_id(part, position)
                labels.append(label)
                ids.append(name)
                done += 1
                if progress and (time.monotonic() - last > PROGRESS_SECONDS):
                    progress("reading labels", done, len(self.files))
                    last = time.monotonic()
        write_cache(cache, {"format": INDEX_FORMAT, "stamp": self.stamp, "parts": index})
        return index

    def _label_and_id(self, part: str, position: int) -> tuple[int, str]:
        try:
            example = self._rest.deserialize_example_np(self._parts[part][position])
        except Exception as error:
            raise InputError(
                f"record {position} of the {part} part of {self.root} is damaged"
                f" ({_first_line(error)}): copy or prepare it again"
            ) from error
        name = example[self.keys.id].decode(errors="replace") if self.keys.id else ""
        return int(example[self.keys.label]), name


def load_prepared(directory: Path, options: Options) -> Dataset:
    """The data set in a prepared directory, that of one version."""
    records = Records(directory)
    about = ours(directory)
    if about is None:
        layout = read_layout(records, options.progress)
        info = DatasetInfo(
            records.info.full_name.rpartition("/")[0],
            f"TFDS data set {records.info.full_name}",
            "prepared by tensorflow-datasets",
            records.info.homepage or "",
        )
        return load_files(records, layout, info, options)
    manifest = about["manifest"]
    shape = about["info"]["image_shape"]
    info = DatasetInfo(**about["info"] | {"image_shape": shape and tuple(shape)})
    dataset = load_files(records, _written_layout(records, manifest), info, options)
    if dataset.fingerprint != about["fingerprint"]:
        bad = f", {dataset.bad_images[0].id} among others" if dataset.bad_images else ""
        raise InputError(f"{directory} is not as it was written{bad}: copy or prepare it again")
    return dataclasses.replace(
        dataset,
        name=manifest["dataset"],
        seed=manifest["seed"],
        edition=edition_of(manifest),
        notes=tuple(dict.fromkeys([*manifest["notes"], *dataset.notes])),
        provenance=dataset.provenance | {"prepared_from": about["from"]},
    )


def read_layout(records: Records, progress: Progress | None = None) -> Layout:
    """The examples of a directory that others have prepared, with their published parts."""
    root, keys = records.root, records.keys
    index = records.index(progress)
    notes = []
    parts: dict[str, str | None] = {}
    for name in index:
        part = PART_NAMES.get(name.casefold())
        if part and part not in parts.values():
            parts[name] = part
    if not parts and len(index) == 1:
        parts = dict.fromkeys(index)
    for name, (labels, _) in index.items():
        if name not in parts:
            notes.append(f"ignored the part {name} of {len(labels)} images")
        elif missing := labels.count(UNLABELLED):
            notes.append(f"ignored {missing} of {len(labels)} {name} images, which have no label")
    if not {"train", None} & set(parts.values()):
        raise InputError(
            f"{root} has the parts {_listed(list(index), ' and ')}, but none called train to train on"
        )
    numbers = {label for name in parts for label in index[name][0]} - {UNLABELLED}
    names = dict(enumerate(keys.names)) if keys.names else {n: str(n) for n in sorted(numbers)}
    if len(names) < 2:
        raise InputError(
            f"{root} has only one class, {_listed(list(names.values()), '')}: a classifier needs two"
        )
    examples = [
        Example(id, File(f"{name}/{i}", records.stamp, (name, i)), names[label], part)
        for name, part in parts.items()
        for i, (label, id) in enumerate(
            zip(index[name][0], _ids(name, index[name][1]), strict=True)
        )
        if label != UNLABELLED
    ]
    there = {example.part for example in examples}
    return Layout(examples, tuple(names.values()), tuple(p for p in SPLITS if p in there), notes)


def _ids(part: str, names: list[str]) -> list[str]:
    """What the data set calls its examples, or their positions when that is not one name for each."""
    named = all(names) and len(set(names)) == len(names)
    return [f"{part}/{name if named else i}" for i, name in enumerate(names)]


def _written_layout(records: Records, manifest: dict[str, Any]) -> Layout:
    """What `datasets.formats.prepare` wrote: the records of a part are in the order of its manifest."""
    names = manifest["class_names"]
    return Layout(
        examples=[
            Example(id, File(f"{part}/{i}", records.stamp, (part, i)), names[label], part)
            for part in SPLITS
            for i, (id, label) in enumerate(manifest["splits"][part].items())
        ],
        class_names=tuple(names),
        published=SPLITS,
        notes=[],
    )


def ours(directory: Path) -> dict[str, Any] | None:
    """What `datasets.formats.prepare` says of a directory, when it was that."""
    try:
        about = json.loads((directory / METADATA_FILE).read_bytes())[METADATA_KEY]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # TFDS's own, whatever it holds
        return None
    if about.get("format") != METADATA_FORMAT:
        raise InputError(
            f"{directory} was prepared by another version of this program: prepare it again"
        )
    return about


def _check_format(root: Path) -> None:
    """ArrayRecord is what can be read without TensorFlow."""
    try:
        about = json.loads((root / INFO_FILE).read_bytes())
        formats = [about.get("fileFormat", "tfrecord"), *about.get("alternativeFileFormats", [])]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{root / INFO_FILE} cannot be read ({_first_line(error)}): prepare the data set again"
        ) from None
    if ARRAY_RECORD not in formats:
        raise InputError(
            f"{root} is prepared as {formats[0]}, not as {ARRAY_RECORD}: where TensorFlow is installed,"
            f" `tfds convert_format --dataset_version_dir={root} --out_file_format={ARRAY_RECORD}` adds that"
        )


def _keys(info: Any, tfds: Any) -> Keys:
    """The image and the class label of a TFDS data set: those of its supervised keys, those called so, or
    the only ones."""
    features = dict(info.features)

    def is_image(feature: Any) -> bool:
        # Labelled images are masks; floats are stored as the bytes of four channels.
        kinds = tfds.features.Image, tfds.features.LabeledImage
        return (
            isinstance(feature, kinds[0])
            and not isinstance(feature, kinds[1])
            and feature.np_dtype.kind == "u"
        )

    def is_number(feature: Any) -> bool:
        return type(feature) in (tfds.features.Tensor, tfds.features.Scalar) and (
            feature.shape == () and feature.np_dtype.kind in "iu"
        )

    images = [key for key, feature in features.items() if is_image(feature)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    numbers = [key for key, feature in features.items() if is_number(feature)]
    given = info.supervised_keys if isinstance(info.supervised_keys, tuple) else ()
    image = _one([*given, "image"], images)
    label = _one([*given, "label"], labels) or _one([*given, "label"], numbers, only=False)
    if image is None or label is None:
        found = ", ".join(f"{key} ({type(f).__name__})" for key, f in list(features.items())[:8])
        raise InputError(
            f"{info.full_name} is no data set of one image and one class label an example (it has"
            f" {found}): choose another, or sort its images into one folder a class"
        )
    names = None if label in numbers else tuple(features[label].names)
    texts = [key for key, feature in features.items() if type(feature) is tfds.features.Text]
    return Keys(image, label, names, next((key for key in ID_FEATURES if key in texts), None))


def _one(preferred: Sequence[Any], keys: Sequence[str], *, only: bool = True) -> str | None:
    named = [key for key in preferred if key in keys]
    return named[0] if named else keys[0] if only and len(keys) == 1 else None


def _first_line(error: Exception) -> str:
    return (f"{error}".strip() or type(error).__name__).splitlines()[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
