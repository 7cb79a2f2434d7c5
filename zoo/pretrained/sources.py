"""Sources of published weights: URLs, hashes and preprocessing.

    torchvision, torchvision_v2   the file name ends with the first eight digits of the file's sha256
    keras, keras_no_top           Keras applications; MD5 from Keras's source code, none for MobileNetV2
    hf://owner/name[@revision]    timm models on Hugging Face: model.safetensors and config.json

If no hash is published, the hash of the first download is stored next to the file and checked from then on. `fetched`
states whether the download of a source has been tested; if not, its URL and hash were only copied from the library's
source code.
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

from zoo.common.commands import typed
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
    """A published file could not be downloaded."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A published weights file."""

    tag: str
    host: str  # key of BASE_URLS
    path: str  # relative to the base URL
    hash: str | None  # "sha256:7be5be79" (a prefix) or "md5:..."; None: not published
    num_classes: int  # 0: the file has no head
    preprocessing: Preprocessing
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the model
    fetched: bool = False

    @property
    def url(self) -> str:
        """URL of the file."""
        return BASE_URLS[self.host] + self.path

    @property
    def variant(self) -> str:
        """The model's `variant` that these weights fit: "keras" or "torch"."""
        return "keras" if self.host == "keras" else "torch"


def torch_preprocessing(size: int = 224, resized: int = 256) -> Preprocessing:
    """torchvision's preprocessing: resize the shorter side to `resized`, center-crop `size`, normalize."""
    rule = ResizeRule((size, size), "crop", "bilinear", size / resized)
    return Preprocessing(rule, mean=IMAGENET_MEAN, std=IMAGENET_STD)


CAFFE = {"channel_order": "bgr", "scale": 1.0, "mean": (103.939, 116.779, 123.68)}
MINUS_ONE_TO_ONE = {"scale": 1 / 127.5, "mean": (1.0, 1.0, 1.0)}


def torchvision_source(file: str, tag: str = "torchvision", resized: int = 256) -> Source:
    """A torchvision file, whose name contains its hash; `resized` is the length of the shorter side after resizing."""
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
    """Two files of Keras applications, with and without the head.

    Args:
      file: with the head.
      no_top: without the head.
      md5: hashes of both files, or None.
      arithmetic: the equivalent of `preprocess_input`, as fields of `zoo.Preprocessing`.
      size: height and width of the images.
      options: the model's options.
    """
    preprocessing = Preprocessing(ResizeRule((size, size)), **arithmetic)
    with_head, without = (f"md5:{digits}" if digits else None for digits in md5)
    return (
        Source("keras", "keras", file, with_head, 1000, preprocessing, dict(options)),
        Source("keras_no_top", "keras", no_top, without, 0, preprocessing, dict(options)),
    )


def find_source(
    model: str, tag: str, width: float | None = None, image_size: int | None = None
) -> Source:
    """Find the source of a tag; `width` (default 1) and `image_size` (default 224) select one of several.

    Raises InputError, which lists the available ones, if there is none.
    """
    published: tuple[Source, ...] = get_entry(model).pretrained
    tagged = [source for source in published if source.tag == tag]
    if not tagged:
        tags = ", ".join(dict.fromkeys(source.tag for source in published))
        raise InputError(
            f"no source {tag!r} for {model}: use {f'{tags}, ' if tags else ''}hf://owner/name or the path of"
            f" a file (see `{typed('train.models')} --pretrained`)"
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
        f"{tag} has no weights of {model} with width {width:g} and image size {size}: choose from widths"
        f" {', '.join(map(str, widths))} and sizes {', '.join(map(str, sizes))}"
    )


def huggingface_source(model: str, name: str) -> Source:
    """The source `hf://owner/name[@revision]`, with the preprocessing in its config.json, which is downloaded.

    A revision (a commit) pins the file; without one, it is the state of "main" at the first download.
    """
    match = re.fullmatch(r"hf://([\w.-]+)/([\w.-]+?)(?:@([\w.-]+))?", name)
    if not match:
        raise InputError(
            f"{name!r} is not a valid source: use hf://owner/name or hf://owner/name@revision"
        )
    folder = f"{match[1]}/{match[2]}/resolve/{match[3] or 'main'}"
    get_entry(model)
    unused = Preprocessing(ResizeRule((224, 224)))
    config_path = fetch(Source(name, "hf", f"{folder}/config.json", None, 0, unused))
    try:
        config = json.loads(config_path.read_bytes())
        preprocessing, classes = timm_preprocessing(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{config_path} is not a timm configuration ({error!r}): use a timm model"
        ) from None
    return Source(name, "hf", f"{folder}/model.safetensors", None, classes, preprocessing)


def timm_preprocessing(config: dict[str, Any]) -> tuple[Preprocessing, int]:
    """Read preprocessing and number of classes from timm's config.json."""
    config = config | config.get("pretrained_cfg", {})
    _, height, width = config["input_size"]
    fraction = float(config.get("crop_pct", 0.875))
    mean, std = ([float(value) for value in config[key]] for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or 0 in std or not 0 < height * width <= 4096**2:
        raise ValueError(f"input_size {config['input_size']}, mean {mean}, std {std}")
    if config["interpolation"] not in ("nearest", "bilinear", "bicubic") or not 0 < fraction <= 1:
        raise ValueError(f"interpolation {config['interpolation']}, crop_pct {fraction}")
    preprocessing = Preprocessing(
        ResizeRule((int(height), int(width)), "crop", config["interpolation"], fraction),
        mean=tuple(mean),  # type: ignore[arg-type]
        std=tuple(std),  # type: ignore[arg-type]
    )
    return preprocessing, int(config["num_classes"])


def cache_dir() -> Path:
    """Directory of downloads: $JAX_ZOO_CACHE/weights, or weights in the user's cache directory."""
    if os.environ.get("JAX_ZOO_CACHE"):
        return Path(os.environ["JAX_ZOO_CACHE"]) / "weights"
    import platformdirs

    return Path(platformdirs.user_cache_dir("jax-zoo")) / "weights"


def fetch(source: Source) -> Path:
    """Return the local file of a source. Downloads it if necessary; checks its hash on every call.

    Downloads are atomic. Raises InputError if the download fails or the hash differs.
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
            f"{path} is not the published file (expected {expected}): delete it to download it again from"
            f" {source.url}"
        )
    return path


def _download(source: Source, path: Path) -> None:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    temporary = path.with_name(f"{path.name}.part")
    temporary.unlink(missing_ok=True)  # left by a killed process
    try:
        # pooch cannot check a hash if only a prefix is known, so `_matches` does.
        pooch.retrieve(source.url, known_hash=None, fname=temporary.name, path=path.parent)
        if source.hash and not _matches(temporary, source.hash):
            raise InputError(
                f"the download from {source.url} is not the published file (expected {source.hash}): try"
                f" again, or put the correct file at {path}"
            )
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = (
            str(error) if getattr(error, "response", None) is not None else type(error).__name__
        )
        raise DownloadError(
            f"cannot download {source.url} ({reason.splitlines()[0]}): download it on a machine with network access"
            f" and put it at {path}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _matches(path: Path, expected: str) -> bool:
    algorithm, _, digits = expected.partition(":")
    return _digest(path, algorithm).startswith(digits)
