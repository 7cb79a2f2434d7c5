"""Saving and loading variables as safetensors, a format that cannot execute code when it is loaded."""

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
    """Write a tree of arrays atomically as `.safetensors`, with tensors named by path ("params/conv1/conv/kernel").

    Returns the sha256 of the file's content, in hex.
    """
    flat = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    )
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_variables(path: str | os.PathLike, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read a file of `save_variables` into the structure of `like` (arrays or ShapeDtypeStructs).

    Raises InputError if the file is missing or damaged, does not fit `like` (the message names the first differences),
    or contains NaN or inf.
    """
    try:
        found = safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise InputError(f"no weights at {path}: use a run directory or its best/ folder") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is not a valid safetensors file ({error}): copy it again"
        ) from None
    expected = flax.traverse_util.flatten_dict(dict(like), sep="/")
    differences = [
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{name} is not in the model" for name in found if name not in expected),
        *(
            f"{name} has shape {list(found[name].shape)}, the model's has {list(leaf.shape)}"
            for name, leaf in expected.items()
            if name in found and found[name].shape != leaf.shape
        ),
    ]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"{path} does not fit the model: {'; '.join(differences[:3])}{more};"
            " use weights of this model, with the same options"
        )
    for name, array in found.items():
        if not np.all(np.isfinite(array)):
            raise InputError(f"{path} contains NaN or inf, first in {name}: use other weights")
    tree = flax.traverse_util.unflatten_dict(found, sep="/")
    return {collection: tree.get(collection, {}) for collection in like}
