"""Model inspection: features of any layer, layer tables, parameter counts."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.common.errors import InputError
from zoo.common.names import did_you_mean


def features(model: nn.Module, variables: Any, x: jax.Array, layer: str | None = None) -> Any:
    """Compute features of any layer in evaluation mode (no dropout, moving statistics).

    Args:
      model: a Linen module of this zoo.
      variables: the model's variables.
      x: images, float [B, H, W, C], or vectors, float [B, N], depending on the model.
      layer: path of a module whose output to return, such as "conv3", "sam3" or "top/fc1" (or "top.fc1"). None for the
        input of `head`, or for the latent means [B, latent] of an autoencoder.

    Raises InputError if no module has that path.
    """
    if layer is None:
        if hasattr(model, "embed"):
            return model.apply(variables, x, method="embed")
        return model.clone(num_classes=0).apply(variables, x, train=False)
    layer = layer.replace(".", "/")
    path = tuple(layer.split("/"))
    _, state = model.apply(
        variables,
        x,
        train=False,
        capture_intermediates=lambda module, method: module.path == path and method == "__call__",
        mutable=["intermediates"],
    )
    captured = jax.tree.leaves(state)
    if not captured:
        paths = [row.path for row in layer_table(model, x.shape[1:], leaves_only=False)]
        stages = dict.fromkeys(path.partition("/")[0] for path in paths)
        hint = did_you_mean(layer, paths, f"paths begin with {', '.join(stages)}", cutoff=0.4)
        raise InputError(f"no layer {layer!r} in this model: {hint}")
    return captured[0]


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """A layer, for a batch of one image."""

    path: str
    kind: str  # class of the module
    output_shape: tuple[int, ...]  # without the batch axis
    parameters: int  # trainable, without submodules
    statistics: int  # batch norm moving statistics, without submodules
    flops: int  # 2 per multiply-add of convolutions and dense layers; other operations do not count


def layer_table(
    model: nn.Module, input_shape: tuple[int, ...], *, leaves_only: bool = True
) -> list[LayerRow]:
    """List the layers of a model in execution order, computed from shapes only.

    With `leaves_only=False`, modules that contain others are listed too, with the parameters that they own directly.
    """
    rows: list[LayerRow] = []
    running: set[tuple[str, ...]] = set()

    def record(call, args, kwargs, context):
        module = context.module
        if module.path in running:  # the super().__call__ of a subclass is the same layer
            return call(*args, **kwargs)
        running.add(module.path)
        output = call(*args, **kwargs)
        running.remove(module.path)
        if context.method_name != "__call__" or not module.path:
            return output
        own = _own_size(module, "params"), _own_size(module, "batch_stats")
        shape = getattr(output, "shape", None)
        # A mixture prior has parameters, but its output is not an array.
        if shape is not None or any(own):
            flops = _flops(module, args[0].shape, shape) if args and shape else 0
            path, kind = "/".join(module.path), type(module).__name__
            rows.append(LayerRow(path, kind, tuple(shape or ())[1:], *own, flops))
        return output

    with nn.intercept_methods(record):
        _abstract_variables(model, input_shape)
    if leaves_only:
        parents = {row.path.rpartition("/")[0] for row in rows}
        rows = [r for r in rows if r.path not in parents or r.parameters or r.statistics]
    return rows


def count_parameters(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Count parameters from shapes: (trainable, including batch norm moving statistics, as Keras counts)."""
    variables = _abstract_variables(model, input_shape)
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in variables.items()
    }
    trainable = sizes.get("params", 0)
    return trainable, trainable + sizes.get("batch_stats", 0)


def _abstract_variables(model: nn.Module, input_shape: tuple[int, ...]) -> Any:
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def _own_size(module: nn.Module, collection: str) -> int:
    own = module.variables.get(collection, {})
    return sum(math.prod(leaf.shape) for leaf in own.values() if hasattr(leaf, "shape"))


def _flops(module: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    if isinstance(module, nn.Dense):
        return 2 * input_shape[-1] * math.prod(output_shape[1:])
    if isinstance(module, nn.ConvTranspose):
        kernel = module.variables["params"]["kernel"].shape  # applied to each input pixel
        return 2 * math.prod(kernel) * math.prod(input_shape[1:-1])
    if isinstance(module, nn.Conv):
        kernel = module.variables["params"]["kernel"].shape  # (kh, kw, in / groups, out)
        return 2 * math.prod(kernel[:-1]) * math.prod(output_shape[1:])
    return 0
