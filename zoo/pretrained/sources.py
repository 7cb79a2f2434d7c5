"""Where published weights are, how they are checked, and what an image must go through before they see it.

    torchvision, torchvision_v2   the file's name ends in the first eight digits of its sha256
    keras, keras_no_top           Keras applications; an MD5 in Keras's source, none for MobileNetV2
    hf://owner/name[@revision]    timm on Hugging Face: model.safetensors and config.json

Where nobody publishes a hash, that of the first download is written beside the file and checked from then on.
`fetched` says whether the download was ever carried out for this table; where not, URL and hash are copied from
the origin's source code.
"""

import dataclasses
import hashlib
import json
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.common.errors import InputError
from zoo.common.files import write_atomically
from zoo.common.resize import ResizeRule
from zoo.preprocessing import Preprocessing
from zoo.registry import get_entry

BASE_URLS = {
    "torchvision": "https://download.pytorch.org/models/",
    "keras": "https://storage.googleapis.com/tensorflow/keras-applications/",
    "hf": "https://huggingface.co/",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DownloadError(InputError):
    """A published file that could not be fetched."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One published file of weights."""

    tag: str
    host: str  # key of BASE_URLS
    path: str  # what follows the base
    hash: str | None  # "sha256:7be5be79" (its beginning) or "md5:..."; None: not published
    num_classes: int  # 0: the file has no head
    preprocessing: Preprocessing
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the model
    fetched: bool = False

    @property
    def url(self) -> str:
        """The address of the file."""
        return BASE_URLS[self.host] + self.path

    @property
    def dialect(self) -> str:
        """Whose layout the model must follow: "keras" or "torch"."""
        return "keras" if self.host == "keras" else "torch"


def torch_preprocessing(size: int = 224, resized: int = 256) -> Preprocessing:
    """torchvision's: the shorter side to `resized`, the centre, ImageNet's mean and deviation."""
    rule = ResizeRule((size, size), "crop", "bilinear", size / resized)
    return Preprocessing(rule, mean=IMAGENET_MEAN, std=IMAGENET_STD)


CAFFE = {"channel_order": "bgr", "scale": 1.0, "mean": (103.939, 116.779, 123.68)}
MINUS_ONE_TO_ONE = {"scale": 1 / 127.5, "mean": (1.0, 1.0, 1.0)}


def torchvision_source(file: str, tag: str = "torchvision", resized: int = 256) -> Source:
    """A file of torchvision, for images whose shorter side was `resized`; its name says how its sha256 begins."""
    hash = f"sha256:{file[-12:-4]}"
    return Source(tag, "torchvision", file, hash, 1000, torch_preprocessing(resized=resized))


def keras_sources(
    file: str,
    no_top: str,
    md5: tuple[str | None, str | None],
    arithmetic: Mapping[str, Any],
    size: int = 224,
    options: Mapping[str, Any] = types.MappingProxyType({}),
) -> tuple[Source, Source]:
    """Two files of Keras applications, with the head and without, their hashes, and what `preprocess_input` does to
    images of `size` x `size` (fields of `zoo.Preprocessing`); `options` are those of the model."""
    preprocessing = Preprocessing(ResizeRule((size, size)), **arithmetic)
    with_head, without = (f"md5:{digits}" if digits else None for digits in md5)
    return (
        Source("keras", "keras", file, with_head, 1000, preprocessing, dict(options)),
        Source("keras_no_top", "keras", no_top, without, 0, preprocessing, dict(options)),
    )


def find_source(
    model: str, tag: str, width: float | None = None, image_size: int | None = None
) -> Source:
    """The source of a tag. Among several, `width` (default 1) and `image_size` (default 224) choose.

    Raises InputError when there is none, naming what there is.
    """
    ours: tuple[Source, ...] = get_entry(model).pretrained
    tagged = [source for source in ours if source.tag == tag]
    if not tagged:
        tags = ", ".join(dict.fromkeys(source.tag for source in ours))
        raise InputError(
            f"no source {tag!r} for {model}: give {f'{tags}, ' if tags else ''}hf://owner/name or the path of"
            " a file (see `python -m train.models --pretrained`)"
        )
    if len(tagged) == 1:
        return tagged[0]
    width, size = 1.0 if width is None else width, image_size or 224
    for source in tagged:
        if source.options["width"] == width and source.preprocessing.input_size[0] == size:
            return source
    widths = dict.fromkeys(source.options["width"] for source in tagged)
    sizes = dict.fromkeys(source.preprocessing.input_size[0] for source in tagged)
    raise InputError(
        f"{tag} has no weights of {model} with width {width:g} and image size {size}: widths are"
        f" {', '.join(map(str, widths))}, sizes {', '.join(map(str, sizes))}"
    )


def huggingface_source(model: str, name: str) -> Source:
    """The source `hf://owner/name[@revision]`; its config.json, which is downloaded, says the preprocessing.

    Give a revision (a commit) to mean the same file for ever; without one it is what "main" was at the first
    download.
    """
    match = re.fullmatch(r"hf://([\w.-]+)/([\w.-]+?)(?:@([\w.-]+))?", name)
    if not match:
        raise InputError(f"{name!r} is no source: give hf://owner/name or hf://owner/name@revision")
    folder = f"{match[1]}/{match[2]}/resolve/{match[3] or 'main'}"
    get_entry(model)
    blank = Preprocessing(ResizeRule((224, 224)))
    config_path = fetch(Source(name, "hf", f"{folder}/config.json", None, 0, blank))
    try:
        config = json.loads(config_path.read_bytes())
        preprocessing, classes = timm_preprocessing(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{config_path} is no configuration of timm ({error!r}): give a timm model"
        ) from None
    return Source(name, "hf", f"{folder}/model.safetensors", None, classes, preprocessing)


def timm_preprocessing(config: dict[str, Any]) -> tuple[Preprocessing, int]:
    """Preprocessing and number of classes that timm's config.json states."""
    stated = config | config.get("pretrained_cfg", {})
    _, height, width = stated["input_size"]
    fraction = float(stated.get("crop_pct", 0.875))
    mean, std = ([float(number) for number in stated[key]] for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or 0 in std or not 0 < height * width <= 4096**2:
        raise ValueError(f"input_size {stated['input_size']}, mean {mean}, std {std}")
    if stated["interpolation"] not in ("nearest", "bilinear", "bicubic") or not 0 < fraction <= 1:
        raise ValueError(f"interpolation {stated['interpolation']}, crop_pct {fraction}")
    preprocessing = Preprocessing(
        ResizeRule((int(height), int(width)), "crop", stated["interpolation"], fraction),
        mean=tuple(mean),  # type: ignore[arg-type]
        std=tuple(std),  # type: ignore[arg-type]
    )
    return preprocessing, int(stated["num_classes"])


def cache_dir() -> Path:
    """Where downloads are kept: $JAX_ZOO_CACHE/weights, else in the user's cache directory."""
    if os.environ.get("JAX_ZOO_CACHE"):
        return Path(os.environ["JAX_ZOO_CACHE"]) / "weights"
    import platformdirs

    return Path(platformdirs.user_cache_dir("jax-zoo")) / "weights"


def fetch(source: Source) -> Path:
    """The local file of a source, downloaded if it is not there, its hash checked each time.

    A download appears whole or not at all. Raises InputError when it fails or when the hash differs.
    """
    path = cache_dir() / source.host / source.path
    if not path.is_file():
        _download(source, path)
    record = path.with_name(f"{path.name}.sha256")
    expected = source.hash
    if expected is None and record.is_file():
        expected = f"sha256:{record.read_text().strip()}"
    if expected is None:
        write_atomically(record, f"{_digest(path, 'sha256')}\n".encode())
    elif not _matches(path, expected):
        raise InputError(
            f"{path} is not the file that was published ({expected} expected): delete it, then it is"
            f" downloaded again from {source.url}"
        )
    return path


def _download(source: Source, path: Path) -> None:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed
    try:
        # Only the beginning of a hash may be known, which pooch cannot check: `_matches` does.
        pooch.retrieve(source.url, known_hash=None, fname=part.name, path=path.parent)
        if source.hash and not _matches(part, source.hash):
            raise InputError(
                f"what {source.url} gave is not the file that was published ({source.hash} expected): try"
                f" again, or put the right file at {path}"
            )
        os.replace(part, path)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = (
            str(error) if getattr(error, "response", None) is not None else type(error).__name__
        )
        raise DownloadError(
            f"cannot download {source.url} ({reason.splitlines()[0]}): fetch it where there is a network and"
            f" put it at {path}"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _matches(path: Path, expected: str) -> bool:
    algorithm, _, digits = expected.partition(":")
    return _digest(path, algorithm).startswith(digits)
