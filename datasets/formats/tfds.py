"""Read data sets prepared by tensorflow-datasets (TFDS) as ArrayRecord, without TensorFlow.

`tfds:NAME`, `tfds:NAME/CONFIG` and `tfds:NAME:VERSION` are looked up in the TFDS data directory: `data_dir`, else
$TFDS_DATA_DIR, else ~/tensorflow_datasets. `tfds:PATH`, or just the path, is a prepared directory (`cifar10/3.0.2`) or
a directory of versions (`cifar10`), of which the newest is read.

Any data set with one image and one class label per example is supported. Data sets written by
`datasets.formats.prepare` are read back with their splits, ids and classes. Images are decoded by
`datasets.images.decode`, since TFDS's decoder returns four channels for some files, and different pixels if OpenCV is
installed.
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
from datasets.formats.folder import SPLIT_NAMES
from datasets.formats.sources import File
from datasets.images.decode import UndecodableError
from datasets.manifest import edition_of
from zoo.common.commands import typed

INFO_FILE = "dataset_info.json"
FEATURES_FILE = "features.json"
METADATA_FILE = "metadata.json"
METADATA_KEY = "jax_zoo"  # the metadata of `datasets.formats.prepare`; see its `describe`
METADATA_FORMAT = 1
ARRAY_RECORD = "array_record"
VERSION = re.compile(r"\d+\.\d+\.\d+")
NAME = re.compile(r"(?P<path>[A-Za-z]\w*(/[\w.+-]+)?)(:(?P<version>\d+\.\d+\.\d+))?")

# Text features that identify an example, in order of preference.
ID_FEATURES = ("id", "file_name", "filename", "image/filename", "image/file_name", "image_id")
UNLABELED = -1  # TFDS's label in competition test splits
INDEX_FORMAT = 1
PROGRESS_SECONDS = 0.1


def load_tfds(text: str, options: Options, preparable: Collection[str] = ()) -> Dataset:
    """Load the data set `tfds:<text>`; see the module docstring.

    `preparable` contains the names of data sets that `train.data prepare` can prepare, for error messages.
    """
    if text.startswith(("/", "~", ".")):
        path = Path(text).expanduser()
        directory = _find(path)
        if directory is None:
            raise InputError(
                f"{path} is not a prepared TFDS data set ({INFO_FILE} or {FEATURES_FILE} is missing):"
                " use the folder of a version, such as ~/tensorflow_datasets/cifar10/3.0.2"
            )
        return load_prepared(directory, options)
    match = NAME.fullmatch(text)
    if not match:
        raise InputError(
            f"tfds:{text} is not a valid name of a TFDS data set: use tfds:NAME, tfds:NAME/CONFIG,"
            " tfds:NAME:1.0.0 or tfds:/path/of/a/prepared/directory"
        )
    root = data_root(options.data_dir)
    directory = _find(root / match["path"], match["version"])
    if directory is None:
        raise InputError(_not_prepared(text, root, match, preparable))
    return load_prepared(directory, options)


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the TFDS data directory: `data_dir`, $TFDS_DATA_DIR, or TFDS's default."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared_directory(path: Path) -> Path | None:
    """Return `path` if it is a prepared directory, or else the newest version directly below it, if any."""
    if os.path.isfile(path / INFO_FILE) and os.path.isfile(path / FEATURES_FILE):
        return path
    versions = _versions(path)
    return path / versions[-1] if versions else None


def _find(path: Path, version: str | None = None) -> Path | None:
    """Like `prepared_directory`, but also search the only config of a data set."""
    configs = [] if prepared_directory(path) else _configs(path)
    if len(configs) > 1:
        raise InputError(
            f"{path} is prepared in {len(configs)} configs:"
            f" use {_listed([f'tfds:{path.name}/{c}' for c in configs], ' or ')}"
        )
    path = path / configs[0] if configs else path
    return prepared_directory(path / version if version else path)


def _versions(path: Path) -> list[str]:
    """Return the prepared versions directly below a path, newest last. Unfinished ones are named differently."""
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
            f"tfds:{text} is not prepared in {root}, which has {_listed(others, ' and ')}:"
            f" use tfds:{match['path']}:{others[-1]}"
        )
    if match["path"] in preparable:
        return (
            f"tfds:{text} is not prepared in {root}:"
            f" run `{typed('train.data')} prepare {match['path']} --out {root}`"
        )
    prepared = [name for name in _names(root) if _versions(root / name) or _configs(root / name)]
    near = difflib.get_close_matches(match["path"], prepared, n=1)
    hint = f" (did you mean tfds:{near[0]}?)" if near else ""
    return (
        f"tfds:{text} is not prepared in {root}{hint}: where TensorFlow is installed, run"
        f" `tfds build {text} --data_dir={root} --file_format={ARRAY_RECORD}`, or pass its directory with --data-dir"
    )


def _listed(words: Sequence[str], last: str) -> str:
    shown = [*words[:5], *["..."] * (len(words) > 5)]
    return last.join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


# Reading a prepared directory.


class Keys(NamedTuple):
    """The feature names of a TFDS data set's images, labels and ids."""

    image: str
    label: str
    names: tuple[str, ...] | None  # class names; None if labels are plain integers
    id: str | None


class Records:
    """The records of a prepared directory as a source of files: `<split>/<index>` is the image of a record."""

    kind = "tfds"
    notes: tuple[str, ...] = ()
    folders: list[str] = []

    def __init__(self, root: Path) -> None:
        self.root = root
        _check_format(root)
        import tensorflow_datasets as tfds

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            builder = tfds.builder_from_directory(root)
            self.info = builder.info
            self.keys = _keys(self.info, tfds)
            # Each shard has one thread-safe reader, opened on the first read.
            self._splits = {
                split: builder.as_data_source(
                    split, deserialize_method=raw, file_format=ARRAY_RECORD
                )
                for split, split_info in self.info.splits.items()
                if split_info.num_examples
            }
        except InputError:
            raise
        except Exception as error:  # anything from invalid JSON to custom features
            raise InputError(
                f"{root} cannot be opened by tensorflow-datasets ({_first_line(error)}): prepare it again"
            ) from error
        self.stamp = self._stamp()
        self.files = [
            File(f"{split}/{index}", self.stamp, (split, index))
            for split, records in self._splits.items()
            for index in range(len(records))
        ]
        features = self.info.features
        self._image = tfds.features.FeaturesDict({self.keys.image: features[self.keys.image]})
        self._rest = tfds.features.FeaturesDict(
            {key: features[key] for key in (self.keys.label, self.keys.id) if key}
        )
        self._as_stored = {self.keys.image: tfds.decode.SkipDecoding()}

    def _stamp(self) -> str:
        """Hash the sizes and times of the directory's files."""
        shards = [path for split in self.info.splits.values() for path in split.filepaths]
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
        split, index = file.handle
        try:
            record = self._splits[split][index]
            example = self._image.deserialize_example_np(record, decoders=self._as_stored)
            return bytes(example[self.keys.image])
        except Exception as error:  # for damaged files, the reader raises any kind of error
            raise UndecodableError(f"damaged record: {_first_line(error)}") from error

    def labels_and_ids(
        self, progress: Progress | None = None
    ) -> dict[str, tuple[list[int], list[str]]]:
        """Return the labels and ids ("" for none) of all records by split, read once and then kept in the cache."""
        cache = cache_dir() / "tfds" / f"{_digest(os.path.realpath(self.root))}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(cache.read_bytes())
            if (content["format"], content["stamp"]) == (INDEX_FORMAT, self.stamp):
                return {split: (labels, ids) for split, (labels, ids) in content["parts"].items()}
        done, last = 0, 0.0
        found: dict[str, tuple[list[int], list[str]]] = {}
        for split, records in self._splits.items():
            labels, ids = found[split] = ([], [])
            for index in range(len(records)):
                label, name = self._label_and_id(split, index)
                labels.append(label)
                ids.append(name)
                done += 1
                if progress and (time.monotonic() - last > PROGRESS_SECONDS):
                    progress("reading labels", done, len(self.files))
                    last = time.monotonic()
        write_cache(cache, {"format": INDEX_FORMAT, "stamp": self.stamp, "parts": found})
        return found

    def _label_and_id(self, split: str, index: int) -> tuple[int, str]:
        try:
            example = self._rest.deserialize_example_np(self._splits[split][index])
        except Exception as error:
            raise InputError(
                f"record {index} of the {split} split of {self.root} is damaged"
                f" ({_first_line(error)}): copy or prepare it again"
            ) from error
        name = example[self.keys.id].decode(errors="replace") if self.keys.id else ""
        return int(example[self.keys.label]), name


def load_prepared(directory: Path, options: Options) -> Dataset:
    """Load the prepared directory of one version."""
    records = Records(directory)
    metadata = read_metadata(directory)
    if metadata is None:
        layout = read_layout(records, options.progress)
        info = DatasetInfo(
            records.info.full_name.rpartition("/")[0],
            f"TFDS data set {records.info.full_name}",
            "prepared by tensorflow-datasets",
            records.info.homepage or "",
        )
        return load_files(records, layout, info, options)
    manifest = metadata["manifest"]
    shape = metadata["info"]["image_shape"]
    info = DatasetInfo(**metadata["info"] | {"image_shape": shape and tuple(shape)})
    dataset = load_files(records, _manifest_layout(records, manifest), info, options)
    if dataset.fingerprint != metadata["fingerprint"]:
        bad = f", starting with {dataset.bad_images[0].id}" if dataset.bad_images else ""
        raise InputError(
            f"{directory} has changed since it was written{bad}: copy or prepare it again"
        )
    return dataclasses.replace(
        dataset,
        name=manifest["dataset"],
        seed=manifest["seed"],
        edition=edition_of(manifest),
        notes=tuple(dict.fromkeys([*manifest["notes"], *dataset.notes])),
        provenance=dataset.provenance | {"prepared_from": metadata["from"]},
    )


def read_layout(records: Records, progress: Progress | None = None) -> Layout:
    """Find the examples and published splits of a directory that was not written by `datasets.formats.prepare`."""
    root, keys = records.root, records.keys
    found = records.labels_and_ids(progress)
    notes = []
    splits: dict[str, str | None] = {}  # by TFDS's name
    for name in found:
        split = SPLIT_NAMES.get(name.casefold())
        if split and split not in splits.values():
            splits[name] = split
    if not splits and len(found) == 1:
        splits = dict.fromkeys(found)
    for name, (labels, _) in found.items():
        if name not in splits:
            notes.append(f"ignored the split {name} of {len(labels)} images")
        elif missing := labels.count(UNLABELED):
            notes.append(f"ignored {missing} of {len(labels)} {name} images, which have no label")
    if not {"train", None} & set(splits.values()):
        raise InputError(
            f"{root} has the splits {_listed(list(found), ' and ')}, but no split named train: prepare one"
        )
    numbers = {label for name in splits for label in found[name][0]} - {UNLABELED}
    names = dict(enumerate(keys.names)) if keys.names else {n: str(n) for n in sorted(numbers)}
    if len(names) < 2:
        raise InputError(
            f"{root} has only one class, {_listed(list(names.values()), '')}: a classifier needs at least two"
        )
    examples = [
        Example(id, File(f"{name}/{i}", records.stamp, (name, i)), names[label], split)
        for name, split in splits.items()
        for i, (label, id) in enumerate(
            zip(found[name][0], _ids(name, found[name][1]), strict=True)
        )
        if label != UNLABELED
    ]
    published = {example.split for example in examples}
    return Layout(
        examples, tuple(names.values()), tuple(s for s in SPLITS if s in published), notes
    )


def _ids(split: str, names: list[str]) -> list[str]:
    """Return the data set's ids of a split's examples, or their indices if the ids are missing or not unique."""
    valid = all(names) and len(set(names)) == len(names)
    return [f"{split}/{name if valid else i}" for i, name in enumerate(names)]


def _manifest_layout(records: Records, manifest: dict[str, Any]) -> Layout:
    """Build the layout of a directory written by `datasets.formats.prepare`, in the order of its manifest."""
    names = manifest["class_names"]
    return Layout(
        examples=[
            Example(id, File(f"{split}/{i}", records.stamp, (split, i)), names[label], split)
            for split in SPLITS
            for i, (id, label) in enumerate(manifest["splits"][split].items())
        ],
        class_names=tuple(names),
        published=SPLITS,
        notes=[],
    )


def read_metadata(directory: Path) -> dict[str, Any] | None:
    """Read the metadata that `datasets.formats.prepare` wrote; None if something else wrote the directory."""
    try:
        metadata = json.loads((directory / METADATA_FILE).read_bytes())[METADATA_KEY]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # metadata of other TFDS builders
        return None
    if metadata.get("format") != METADATA_FORMAT:
        raise InputError(
            f"{directory} was prepared by a different version of this package: prepare it again"
        )
    return metadata


def _check_format(root: Path) -> None:
    """Raise InputError unless the data are stored as ArrayRecord, which can be read without TensorFlow."""
    try:
        info = json.loads((root / INFO_FILE).read_bytes())
        formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{root / INFO_FILE} cannot be read ({_first_line(error)}): prepare the data set again"
        ) from None
    if ARRAY_RECORD not in formats:
        raise InputError(
            f"{root} is prepared as {formats[0]}, not as {ARRAY_RECORD}: where TensorFlow is installed, run"
            f" `tfds convert_format --dataset_version_dir={root} --out_file_format={ARRAY_RECORD}`"
        )


def _keys(info: Any, tfds: Any) -> Keys:
    """Find the image, label and id features of a TFDS data set.

    Image and label are the supervised keys, else the features named "image" and "label", else the only candidates.
    """
    features = dict(info.features)

    def is_image(feature: Any) -> bool:
        # Labeled images are masks; float images are stored as the bytes of four channels.
        kinds = tfds.features.Image, tfds.features.LabeledImage
        return (
            isinstance(feature, kinds[0])
            and not isinstance(feature, kinds[1])
            and feature.np_dtype.kind == "u"
        )

    def is_integer(feature: Any) -> bool:
        return type(feature) in (tfds.features.Tensor, tfds.features.Scalar) and (
            feature.shape == () and feature.np_dtype.kind in "iu"
        )

    images = [key for key, feature in features.items() if is_image(feature)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    integers = [key for key, feature in features.items() if is_integer(feature)]
    given = info.supervised_keys if isinstance(info.supervised_keys, tuple) else ()
    image = _choose([*given, "image"], images)
    label = _choose([*given, "label"], labels)
    label = label or _choose([*given, "label"], integers, only=False)
    if image is None or label is None:
        found = ", ".join(f"{key} ({type(f).__name__})" for key, f in list(features.items())[:8])
        raise InputError(
            f"{info.full_name} does not have one image and one class label per example (it has"
            f" {found}): choose another data set, or sort its images into one folder per class"
        )
    names = None if label in integers else tuple(features[label].names)
    texts = [key for key, feature in features.items() if type(feature) is tfds.features.Text]
    return Keys(image, label, names, next((key for key in ID_FEATURES if key in texts), None))


def _choose(preferred: Sequence[Any], keys: Sequence[str], *, only: bool = True) -> str | None:
    """Return the first preferred key that exists, else, if `only`, the only key."""
    found = [key for key in preferred if key in keys]
    return found[0] if found else keys[0] if only and len(keys) == 1 else None


def _first_line(error: Exception) -> str:
    return (f"{error}".strip() or type(error).__name__).splitlines()[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
