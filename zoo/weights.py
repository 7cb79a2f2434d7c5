"""Variables on disk: safetensors, which hold numbers and text only, so that loading executes nothing."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from zoo.common.errors import InputError
from zoo.common.files import write_atomically


def save_variables(path: str | os.PathLike, variables: Mapping[str, Any]) -> str:
    """Write a tree of arrays as `.safetensors`, tensors named by their paths ("params/conv1/conv/kernel").

    The file appears whole or not at all. Returns the sha256 of its content, in hex.
    """
    flat = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    )
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_variables(path: str | os.PathLike, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read a file of `save_variables` into the structure of `like` (arrays or ShapeDtypeStructs).

    Raises InputError when the file is missing or damaged, does not fit (the first differences are named),
    or holds numbers that are not finite.
    """
    try:
        found = safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise InputError(
            f"no weights at {path}: give a run directory or a best/ folder of one"
        ) from None
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): copy it again"
        ) from None
    wanted = flax.traverse_util.flatten_dict(dict(like), sep="/")
    wrong = [
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{name} is unknown to the model" for name in found if name not in wanted),
        *(
            f"{name} is {list(found[name].shape)}, the model's is {list(leaf.shape)}"
            for name, leaf in wanted.items()
            if name in found and found[name].shape != leaf.shape
        ),
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"{path} does not fit the model: {'; '.join(wrong[:3])}{more}")
    for name, array in found.items():
        if not np.all(np.isfinite(array)):
            raise InputError(
                f"{path} holds numbers that are not finite, first in {name}: take other weights"
            )
    tree = flax.traverse_util.unflatten_dict(found, sep="/")
    return {collection: tree.get(collection, {}) for collection in like}
