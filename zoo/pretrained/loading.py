"""`load_pretrained`: a model of this zoo with somebody else's weights in it."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from zoo.common.errors import InputError
from zoo.common.resize import ResizeRule
from zoo.preprocessing import Preprocessing
from zoo.pretrained import names
from zoo.pretrained.readers import Arrays, KerasFile, config_layers, read
from zoo.pretrained.sources import (
    Source,
    fetch,
    find_source,
    huggingface_source,
    torch_preprocessing,
)
from zoo.registry import create_model, get_entry, module_options

HEAD = ("params/head/kernel", "params/head/bias")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model, weights that fit it, and what images they are used to."""

    module: Any  # nn.Module
    options: dict[str, Any]  # its fields that the weights and the caller decide: plain data
    variables: dict[
        str, Any
    ]  # params, and batch_stats where the model has some; float32 NumPy arrays
    preprocessing: Preprocessing
    sha256: str  # of the file that was read, in hex
    report: str  # one line: what was taken, what is newly initialised, what was left in the file


def load_pretrained(
    name: str,
    source: str | os.PathLike,
    num_classes: int | None = None,
    *,
    image_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[Any, dict[str, Any], Preprocessing]:
    """`load` without its report, which the logger "zoo" gets: (module, variables, preprocessing)."""
    loaded = load(name, source, num_classes, image_size=image_size, seed=seed, **options)
    return loaded.module, loaded.variables, loaded.preprocessing


def load(
    name: str,
    source: str | os.PathLike,
    num_classes: int | None = None,
    *,
    image_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Pretrained:
    """Build a model and fill it with pretrained weights.

    Args:
      name: a registered model.
      source: a tag (`python -m train.models --pretrained` lists them), "hf://owner/name[@revision]", or a local
        .pth, .pt, .safetensors, .h5, .weights.h5 or .keras file; of torchvision, timm, Keras or this zoo; or
        a run directory of this zoo, or its best/ folder.
      num_classes: None for the weights' own. Another number means a new head; 0 none.
      image_size: height and width, where not the weights' own. It chooses among Keras's MobileNetV2, and is
        needed for a VGG with Keras's first dense layer for other images than 224x224.
      seed: of what is newly initialised.
      options: fields of the module. The dialect is the weights'; MobileNetV2's width is seen from a file.

    Raises InputError: unknown model, option or source; a download that fails or has another hash; a file that
    is damaged, refused, of another model (the first differences are named) or not finite; weights without a head
    and no `num_classes`.
    """
    get_entry(name)
    text = os.fspath(source)
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}: give at least 1 pixel")
    published = _published(name, text, image_size, options)
    path = fetch(published) if published else _weights_file(Path(text))
    weights = read(path)
    if isinstance(weights, dict) and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): a for name, a in weights.items()}  # DataParallel's
    asked = set(options)
    options = {**(published.options if published else {}), **options}

    origin, options = _resolve(name, weights, options, text)
    module = create_model(name, None, **options)
    config = weights.config if isinstance(weights, KerasFile) else None
    preprocessing = _preprocessing(name, origin, published, path, config, image_size)
    size = preprocessing.input_size
    try:
        shapes = _shapes(module.clone(num_classes=module.num_classes or 1), size)
        taken = _take(origin, module, weights, shapes)
    except InputError as error:
        raise InputError(
            f"{text} does not fit {name}: {error}; give weights of this model"
        ) from None
    if config and "GlobalMaxPooling2D" in str(config) and HEAD[0] in taken.arrays:
        taken.left.append(f"{taken.names[HEAD[0]]} (it follows max-pooling, and {name} averages)")
        _drop_head(taken)
    body = {leaf: shape for leaf, shape in shapes.items() if leaf not in HEAD}
    _check(text, name, body, taken, _new_leaves(body, taken))

    theirs = _classes_of_head(shapes, taken)
    classes = theirs if num_classes is None else num_classes
    if classes is None:
        raise InputError(
            f"{text} has no head that fits {name}: give num_classes for a new one (0: features)"
        )
    notes = []
    if classes != theirs:
        if HEAD[0] in taken.arrays:
            kernel = taken.arrays[HEAD[0]]
            notes.append(f"left in the file: {taken.names[HEAD[0]]} ({kernel.shape[-1]} classes)")
        _drop_head(taken)
    module = module.clone(num_classes=classes)
    head = {HEAD[0]: (*shapes[HEAD[0]][:-1], classes), HEAD[1]: (classes,)}
    shapes = {**body, **(head if classes else {})}
    new = _new_leaves(shapes, taken)
    _check(text, name, shapes, taken, new)
    _check_finite(text, shapes, taken)
    variables = _fill(module, size, shapes, taken.arrays, new, seed)

    if new:
        layers = dict.fromkeys(leaf.split("/", 1)[1].rpartition("/")[0] for leaf in new)
        notes.insert(0, f"newly initialised: {', '.join(layers)} (seed {seed})")
    if taken.left:
        notes.append(f"left in the file: {', '.join(taken.left)}")
    if origin == "keras" and not published and _rescaling(config) is None:
        notes.append("preprocessing assumed: Keras's preprocess_input")
    height, width = size
    assumed = (
        "" if published or _input_size(config) or image_size or _companion(path) else " assumed"
    )
    notes.append(f"images of {height}x{width}{assumed}")
    decided = [f"{k}={v}" for k, v in options.items() if k not in asked]
    if decided:
        notes.append(f"options {' '.join(decided)}")
    count = len(shapes) - len(new)
    report = f"{name} from {text} ({origin}): {count} of {len(shapes)} tensors taken"
    report = "; ".join([report, *notes])
    logging.getLogger("zoo").info(report)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Pretrained(module, options, variables, preprocessing, digest, report)


def _weights_file(path: Path) -> Path:
    """The weights of a run, where its directory is given."""
    for folder in (path / "best", path):
        if (folder / "weights.safetensors").is_file():
            return folder / "weights.safetensors"
    return path


def _published(
    name: str, source: str, image_size: int | None, options: Mapping[str, Any]
) -> Source | None:
    """The published source that is meant; None for a local file."""
    if source.startswith("hf://"):
        return huggingface_source(name, source)
    if any(known.tag == source for known in get_entry(name).pretrained):
        return find_source(name, source, options.get("width"), image_size)
    if os.path.exists(source):
        return None
    if os.sep in source or "." in source:
        raise InputError(f"no file {source}: give a .pth, .safetensors, .h5 or .keras file")
    return find_source(name, source)


def _resolve(
    name: str, weights: Arrays | KerasFile, options: dict[str, Any], source: str
) -> tuple[str, dict[str, Any]]:
    """Whose names the file uses (keras, torchvision, timm or zoo), and the model's options with its dialect."""
    if isinstance(weights, KerasFile):
        origin = "keras"
    elif any(leaf.startswith("params/") for leaf in weights):
        origin = "zoo"
    else:
        origin = "torchvision"
    known = module_options(create_model(name))
    if origin != "zoo" and "dialect" in known:
        dialect = "keras" if origin == "keras" else "torch"
        if options.get("dialect", dialect) != dialect:
            raise InputError(
                f"{source} has weights for dialect={dialect!r}, not {options['dialect']!r}"
            )
        options = {**options, "dialect": dialect}
    if origin != "zoo" and "width" in known and "width" not in options:
        width = names.published_width(weights)
        options = options if width is None else {**options, "width": width}
    if origin == "torchvision" and isinstance(weights, dict):
        timm = {"conv_stem.weight", "pre_logits.fc1.weight"} & set(weights)
        origin = "timm" if timm else origin
    return origin, options


def _preprocessing(
    name: str,
    origin: str,
    published: Source | None,
    path: Path,
    config: Mapping[str, Any] | None,
    image_size: int | None,
) -> Preprocessing:
    height, width, _ = get_entry(name).input_shape
    if published:
        chosen = published.preprocessing
    elif origin == "keras":
        rule = ResizeRule(_input_size(config) or (height, width))
        chosen = Preprocessing(rule, **getattr(create_model(name), "keras_arithmetic", {}))
        rescaling = _rescaling(config)
        if rescaling:  # the model does it itself; here it belongs to the weights
            scale, offset = rescaling
            chosen = Preprocessing(chosen.rule, scale=scale, mean=(-offset,) * 3)
    elif origin == "zoo":
        chosen = _companion(path) or Preprocessing(ResizeRule((height, width)))
    else:
        chosen = _of_size(torch_preprocessing(), (height, width))
    if image_size is not None:
        chosen = _of_size(chosen, (image_size, image_size))
    return chosen


def _of_size(preprocessing: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    rule = dataclasses.replace(preprocessing.rule, size=size)
    return dataclasses.replace(preprocessing, rule=rule)


def _companion(path: Path) -> Preprocessing | None:
    """What the model.json of a run's best/ folder says, beside which these weights lie."""
    try:
        description = json.loads(path.with_name("model.json").read_text(encoding="utf-8"))
        return Preprocessing.from_json(description["preprocessing"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.with_name('model.json')} is damaged ({error}): copy it again"
        ) from None


def _input_size(config: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Height and width of a Keras model's images, where its configuration fixes them."""
    for layer in _all_layers(config):
        inner = layer["config"]
        shape = inner.get("batch_shape") or inner.get("batch_input_shape") or ()
        match shape:
            case [_, int(height), int(width), 3] if 0 < height <= 4096 and 0 < width <= 4096:
                return height, width
    return None


def _rescaling(config: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Scale and offset, if the model begins with a single Rescaling layer of plain numbers."""
    found = [
        layer["config"] for layer in _all_layers(config) if layer.get("class_name") == "Rescaling"
    ]
    match found:
        case [{"scale": int() | float() as scale, "offset": int() | float() as offset}]:
            return float(scale), float(offset)
    return None


def _all_layers(config: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Layers of a configuration and of the models nested in it, outermost first."""
    waiting, found = [config] if config else [], []
    while waiting:
        inner = config_layers(waiting.pop(0))
        found += [layer for layer in inner if isinstance(layer["config"], dict)]
        waiting += inner
    return found


def _shapes(module: Any, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's leaves, by "collection/path/variable"."""
    image = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    tree = jax.eval_shape(module.init, jax.random.key(0), image)
    return {k: v.shape for k, v in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _take(
    origin: str, module: Any, weights: Arrays | KerasFile, shapes: Mapping[str, tuple[int, ...]]
) -> names.Taken:
    if isinstance(weights, KerasFile):
        return names.take_keras(weights, names.keras_layers(module), shapes)
    if origin == "zoo":
        arrays = {leaf: weights[leaf] for leaf in shapes if leaf in weights}
        unknown = [leaf for leaf in weights if leaf not in shapes]
        return names.Taken(arrays, {leaf: leaf for leaf in shapes}, unknown, [])
    modules = names.timm_modules if origin == "timm" else names.torchvision_modules
    return names.take_torch(weights, modules(module), shapes)


def _classes_of_head(shapes: Mapping[str, tuple[int, ...]], taken: names.Taken) -> int | None:
    """Classes of the file's head; None if it has none, or none that reads this model's features."""
    kernel = taken.arrays.get(HEAD[0])
    body = {leaf for leaf in shapes if leaf not in HEAD}
    if kernel is None or kernel.shape[:-1] != shapes[HEAD[0]][:-1] or not body <= set(taken.arrays):
        return None
    return kernel.shape[-1]


def _drop_head(taken: names.Taken) -> None:
    for leaf in HEAD:
        taken.arrays.pop(leaf, None)


def _new_leaves(shapes: Mapping[str, Any], taken: names.Taken) -> list[str]:
    """Leaves that may be initialised anew: a head that is not there, and AlexNet's and VGG's hidden dense
    layers where the file has none of them."""
    top = [leaf for leaf in shapes if leaf.split("/")[1] in ("top", "fc1", "fc2") or leaf in HEAD]
    hidden = [leaf for leaf in top if leaf not in HEAD]
    new = [leaf for leaf in HEAD if leaf in shapes and not set(HEAD) & set(taken.arrays)]
    if hidden and not set(top) & set(taken.arrays):
        new = hidden + new
    return new


def _check(
    source: str,
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    taken: names.Taken,
    new: Sequence[str],
) -> None:
    if not taken.arrays:
        raise InputError(
            f"{source} holds no {name}: what it has is called {', '.join(taken.unknown[:3]) or 'nothing'};"
            " give weights of this model"
        )
    wrong = [
        *(
            f"{taken.names[leaf]} is missing"
            for leaf in shapes
            if leaf not in {*taken.arrays, *new}
        ),
        *(f"{unknown} is unknown to the model" for unknown in taken.unknown),
        *(
            f"{taken.names[leaf]} is {list(taken.arrays[leaf].shape)} in our layout, the model's"
            f" {leaf} is {list(shape)}"
            for leaf, shape in shapes.items()
            if leaf in taken.arrays and taken.arrays[leaf].shape != shape
        ),
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{source} does not fit {name}: {'; '.join(wrong[:3])}{more}; give weights of this model, or the"
            " options that they were made with"
        )


def _check_finite(source: str, shapes: Mapping[str, Any], taken: names.Taken) -> None:
    for leaf in shapes:
        if leaf in taken.arrays and not np.all(np.isfinite(taken.arrays[leaf])):
            raise InputError(
                f"{source} holds numbers that are not finite, first in {taken.names[leaf]}: take other weights"
            )


def _fill(
    module: Any,
    size: tuple[int, int],
    shapes: Mapping[str, Any],
    arrays: Arrays,
    new: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """The model's variables: the file's arrays, and initial values for the leaves in `new`."""
    initial: Mapping[str, Any] = {}
    if new:

        @jax.jit  # of which only what is asked for is computed
        def initialise(key: jax.Array) -> dict[str, jax.Array]:
            variables = module.init(key, jnp.zeros((1, *size, 3)))
            flat = flax.traverse_util.flatten_dict(variables, sep="/")
            return {leaf: flat[leaf] for leaf in new}

        initial = jax.device_get(initialise(jax.random.key(seed)))
    flat = {leaf: initial[leaf] if leaf in initial else arrays[leaf] for leaf in shapes}
    return flax.traverse_util.unflatten_dict(flat, sep="/")
