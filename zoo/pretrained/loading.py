"""Loading published and local weights into models of this zoo."""

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
from zoo.version_0_1 import options_of_version_0_1

HEAD = ("params/head/kernel", "params/head/bias")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights and the image preprocessing that they expect."""

    module: Any  # nn.Module
    options: dict[str, Any]  # fields of the module set by the weights or the caller: plain data
    variables: dict[str, Any]  # params and, if the model has any, batch_stats; float32 NumPy arrays
    preprocessing: Preprocessing
    sha256: str  # of the weights file, in hex
    report: str  # one line: what was loaded, what is newly initialized, what was not loaded


def load_pretrained(
    name: str,
    source: str | os.PathLike,
    num_classes: int | None = None,
    *,
    image_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[Any, dict[str, Any], Preprocessing]:
    """`load`, returning (module, variables, preprocessing); the report goes to the logger "zoo"."""
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
    """Build a model with pretrained weights.

    Args:
      name: a registered model.
      source: a tag (listed by `python -m train.models --pretrained`); "hf://owner/name[@revision]"; a local .pth, .pt,
        .safetensors, .h5, .weights.h5 or .keras file of torchvision, timm, Keras or this zoo; a run directory of this
        zoo or its best/ folder.
      num_classes: None for that of the weights. Another number gives a new head, 0 no head.
      image_size: height and width, if they differ from those of the weights. It selects one of Keras's MobileNetV2
        weights, and is required for Keras's VGG weights with their dense layers if the images are not 224x224.
      seed: initializes layers that are not loaded.
      options: fields of the module. The variant is that of the weights; MobileNetV2's width is inferred from a file.

    Raises InputError for an unknown model, option or source; a failed download or a wrong hash; a file that is damaged,
    rejected, of another model (the message names the first differences) or contains NaN or inf; weights without a head
    if `num_classes` is None.
    """
    get_entry(name)
    text = os.fspath(source)
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}: use at least 1 pixel")
    published = _published(name, text, image_size, options)
    path = fetch(published) if published else _weights_file(Path(text))
    weights = read(path)
    if isinstance(weights, dict):
        weights = names.without_wrappers(weights)
    given = set(options)
    options = {**(published.options if published else {}), **options}

    origin, options = _resolve(name, weights, options, text)
    description = _description(path) if origin == "zoo" else {}
    earlier = _options_of_version_0_1(name, description)
    options = {**earlier, **options}
    module = create_model(name, None, **options)
    config = weights.config if isinstance(weights, KerasFile) else None
    preprocessing = _preprocessing(name, origin, published, description, config, image_size)
    size = preprocessing.input_size
    try:
        shapes = _shapes(module.clone(num_classes=module.num_classes or 1), size)
        converted = _convert(origin, module, weights, shapes)
    except InputError as error:
        raise InputError(
            f"{text} does not fit {name}: {error}; use weights of this model"
        ) from None
    if config and "GlobalMaxPooling2D" in str(config) and HEAD[0] in converted.arrays:
        kernel_name = converted.names[HEAD[0]]
        converted.unused.append(
            f"{kernel_name} (trained on max pooling; {name} has average pooling)"
        )
        _drop_head(converted)
    body = {leaf: shape for leaf, shape in shapes.items() if leaf not in HEAD}
    _check_shapes(text, name, body, converted, _new_leaves(body, converted))

    file_classes = _head_classes(shapes, converted)
    classes = file_classes if num_classes is None else num_classes
    if classes is None:
        raise InputError(
            f"{text} has no head that fits {name}: set num_classes for a new head, or to 0 for features"
        )
    notes = []
    if classes != file_classes:
        if HEAD[0] in converted.arrays:
            kernel = converted.arrays[HEAD[0]]
            notes.append(f"not loaded: {converted.names[HEAD[0]]} ({kernel.shape[-1]} classes)")
        _drop_head(converted)
    module = module.clone(num_classes=classes)
    head = {HEAD[0]: (*shapes[HEAD[0]][:-1], classes), HEAD[1]: (classes,)}
    shapes = {**body, **(head if classes else {})}
    new = _new_leaves(shapes, converted)
    _check_shapes(text, name, shapes, converted, new)
    _check_finite(text, shapes, converted)
    variables = _fill(module, size, shapes, converted.arrays, new, seed)

    if new:
        layers = dict.fromkeys(leaf.split("/", 1)[1].rpartition("/")[0] for leaf in new)
        notes.insert(0, f"newly initialized: {', '.join(layers)} (seed {seed})")
    if converted.unused:
        notes.append(f"not loaded: {', '.join(converted.unused)}")
    if origin == "keras" and not published and _rescaling(config) is None:
        notes.append("preprocessing assumed: Keras's preprocess_input")
    height, width = size
    size_known = published or _input_size(config) or image_size or description
    notes.append(f"images of {height}x{width}{'' if size_known else ' assumed'}")
    inferred = [f"{k}={v}" for k, v in options.items() if k not in given]
    if inferred:
        notes.append(f"options {' '.join(inferred)}{' of version 0.1' if earlier else ''}")
    count = len(shapes) - len(new)
    report = f"{name} from {text} ({origin}): {count} of {len(shapes)} tensors loaded"
    report = "; ".join([report, *notes])
    logging.getLogger("zoo").info(report)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Pretrained(module, options, variables, preprocessing, digest, report)


def _weights_file(path: Path) -> Path:
    """Resolve a run directory or best/ folder to its weights file."""
    for folder in (path / "best", path):
        if (folder / "weights.safetensors").is_file():
            return folder / "weights.safetensors"
    return path


def _published(
    name: str, source: str, image_size: int | None, options: Mapping[str, Any]
) -> Source | None:
    """The published source, or None for a local file."""
    if source.startswith("hf://"):
        return huggingface_source(name, source)
    if any(known.tag == source for known in get_entry(name).pretrained):
        return find_source(name, source, options.get("width"), image_size)
    if os.path.exists(source):
        return None
    if os.sep in source or "." in source:
        raise InputError(f"no file {source}: use a .pth, .safetensors, .h5 or .keras file")
    return find_source(name, source)


def _resolve(
    name: str, weights: Arrays | KerasFile, options: dict[str, Any], source: str
) -> tuple[str, dict[str, Any]]:
    """Library that the file's names come from (keras, torchvision, timm or zoo), and options with its variant."""
    if isinstance(weights, KerasFile):
        origin = "keras"
    elif any(leaf.startswith("params/") for leaf in weights):
        origin = "zoo"
    else:
        origin = "torchvision"
    known = module_options(create_model(name))
    if origin != "zoo" and "variant" in known:
        variant = "keras" if origin == "keras" else "torch"
        if options.get("variant", variant) != variant:
            raise InputError(
                f"{source} has weights for variant={variant!r}, not {options['variant']!r}: drop this option"
            )
        options = {**options, "variant": variant}
    if origin != "zoo" and "width" in known and "width" not in options:
        width = names.published_width(weights)
        options = options if width is None else {**options, "width": width}
    if origin == "torchvision" and isinstance(weights, dict):
        timm_only = {"conv_stem.weight", "pre_logits.fc1.weight"}
        origin = "timm" if timm_only & set(weights) else origin
    return origin, options


def _preprocessing(
    name: str,
    origin: str,
    published: Source | None,
    description: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    image_size: int | None,
) -> Preprocessing:
    height, width, _ = get_entry(name).input_shape
    if published:
        preprocessing = published.preprocessing
    elif origin == "keras":
        rule = ResizeRule(_input_size(config) or (height, width))
        preprocessing = Preprocessing(rule, **getattr(create_model(name), "keras_arithmetic", {}))
        rescaling = _rescaling(config)
        if rescaling:  # a layer of the Keras model, part of the preprocessing here
            scale, offset = rescaling
            preprocessing = Preprocessing(rule, scale=scale, mean=(-offset,) * 3)
    elif origin == "zoo":
        stored = description.get("preprocessing")
        preprocessing = stored or Preprocessing(ResizeRule((height, width)))
    else:
        preprocessing = _with_size(torch_preprocessing(), (height, width))
    if image_size is not None:
        preprocessing = _with_size(preprocessing, (image_size, image_size))
    return preprocessing


def _with_size(preprocessing: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    rule = dataclasses.replace(preprocessing.rule, size=size)
    return dataclasses.replace(preprocessing, rule=rule)


def _description(path: Path) -> dict[str, Any]:
    """Content of model.json next to the weights in a run's best/ folder; empty if there is no such file.

    `preprocessing` is a `Preprocessing`, or None for a model of vectors.
    """
    path = path.with_name("model.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        stored = found["preprocessing"]
        return {
            "model": found.get("model"),
            "format": found.get("format"),
            "options": dict(found.get("options", {})),
            "preprocessing": None if stored is None else Preprocessing.from_json(stored),
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): copy it again") from None


def _options_of_version_0_1(name: str, description: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a `best/` folder of version 0.1 whose defaults have changed since; empty for any other source."""
    if (description.get("model"), description.get("format")) != (name, 1):
        return {}
    recorded = options_of_version_0_1(name, description["options"])
    return {
        option: tuple(value) if isinstance(value, list) else value
        for option, value in recorded.items()
        if option in options_of_version_0_1(name, {})
    }


def _input_size(config: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Height and width of a Keras model's input; None if its configuration does not fix them."""
    for layer in _all_layers(config):
        layer_config = layer["config"]
        shape = layer_config.get("batch_shape") or layer_config.get("batch_input_shape") or ()
        match shape:
            case [_, int(height), int(width), 3] if 0 < height <= 4096 and 0 < width <= 4096:
                return height, width
    return None


def _rescaling(config: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Scale and offset of the model's only Rescaling layer; None without it, or if they are not scalars."""
    found = [
        layer["config"] for layer in _all_layers(config) if layer.get("class_name") == "Rescaling"
    ]
    match found:
        case [{"scale": int() | float() as scale, "offset": int() | float() as offset}]:
            return float(scale), float(offset)
    return None


def _all_layers(config: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Layers of a configuration and of its nested models, outermost first."""
    queue, layers = [config] if config else [], []
    while queue:
        inner = config_layers(queue.pop(0))
        layers += [layer for layer in inner if isinstance(layer["config"], dict)]
        queue += inner
    return layers


def _shapes(module: Any, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's variables, by "collection/path/variable"."""
    image = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    tree = jax.eval_shape(module.init, jax.random.key(0), image)
    return {k: v.shape for k, v in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _convert(
    origin: str, module: Any, weights: Arrays | KerasFile, shapes: Mapping[str, tuple[int, ...]]
) -> names.Converted:
    if isinstance(weights, KerasFile):
        return names.convert_keras(weights, names.keras_layers(module), shapes)
    if origin == "zoo":
        arrays = {leaf: weights[leaf] for leaf in shapes if leaf in weights}
        unknown = [leaf for leaf in weights if leaf not in shapes]
        return names.Converted(arrays, {leaf: leaf for leaf in shapes}, unknown, [])
    modules = names.timm_modules if origin == "timm" else names.torchvision_modules
    return names.convert_torch(weights, modules(module), shapes)


def _head_classes(shapes: Mapping[str, tuple[int, ...]], converted: names.Converted) -> int | None:
    """Number of classes of the file's head; None if it has no head that takes this model's features."""
    kernel = converted.arrays.get(HEAD[0])
    body = {leaf for leaf in shapes if leaf not in HEAD}
    if kernel is None or kernel.shape[:-1] != shapes[HEAD[0]][:-1]:
        return None
    return kernel.shape[-1] if body <= set(converted.arrays) else None


def _drop_head(converted: names.Converted) -> None:
    for leaf in HEAD:
        converted.arrays.pop(leaf, None)


def _new_leaves(shapes: Mapping[str, Any], converted: names.Converted) -> list[str]:
    """Leaves that may be newly initialized: a missing head, and the hidden dense layers of AlexNet and VGG if the file
    contains none of them."""
    top = [leaf for leaf in shapes if leaf.split("/")[1] in ("top", "fc1", "fc2") or leaf in HEAD]
    hidden = [leaf for leaf in top if leaf not in HEAD]
    new = [leaf for leaf in HEAD if leaf in shapes and not set(HEAD) & set(converted.arrays)]
    if hidden and not set(top) & set(converted.arrays):
        new = hidden + new
    return new


def _check_shapes(
    source: str,
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    converted: names.Converted,
    new: Sequence[str],
) -> None:
    if not converted.arrays:
        raise InputError(
            f"{source} contains no weights of {name}, but {', '.join(converted.unknown[:3]) or 'nothing'};"
            " use weights of this model"
        )
    differences = [
        *(
            f"{converted.names[leaf]} is missing"
            for leaf in shapes
            if leaf not in {*converted.arrays, *new}
        ),
        *(f"{unknown} is not in the model" for unknown in converted.unknown),
        *(
            f"{converted.names[leaf]} has shape {list(converted.arrays[leaf].shape)} in the zoo's layout,"
            f" the model's {leaf} has {list(shape)}"
            for leaf, shape in shapes.items()
            if leaf in converted.arrays and converted.arrays[leaf].shape != shape
        ),
    ]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"{source} does not fit {name}: {'; '.join(differences[:3])}{more}; use weights of this model, or the"
            " options that they were trained with"
        )


def _check_finite(source: str, shapes: Mapping[str, Any], converted: names.Converted) -> None:
    for leaf in shapes:
        if leaf in converted.arrays and not np.all(np.isfinite(converted.arrays[leaf])):
            raise InputError(
                f"{source} contains NaN or inf, first in {converted.names[leaf]}: use other weights"
            )


def _fill(
    module: Any,
    size: tuple[int, int],
    shapes: Mapping[str, Any],
    arrays: Arrays,
    new: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Assemble the model's variables from the file's arrays, and initial values for the leaves in `new`."""
    initial: Mapping[str, Any] = {}
    if new:

        @jax.jit  # computes only the requested leaves
        def initialize(key: jax.Array) -> dict[str, jax.Array]:
            variables = module.init(key, jnp.zeros((1, *size, 3)))
            flat = flax.traverse_util.flatten_dict(variables, sep="/")
            return {leaf: flat[leaf] for leaf in new}

        initial = jax.device_get(initialize(jax.random.key(seed)))
    flat = {leaf: initial[leaf] if leaf in initial else arrays[leaf] for leaf in shapes}
    return flax.traverse_util.unflatten_dict(flat, sep="/")
