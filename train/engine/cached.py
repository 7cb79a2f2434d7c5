"""Training a head on what a frozen backbone computed once.

Where a stage freezes all but the head and shows every image unchanged, what enters the head, or the dropout in
front of it, is the same in every epoch. It is computed once, in evaluation mode, and takes the place of the images.
The step stays the whole model's: `FromFeatures` applies it to blank images and exchanges what enters the module at
the cut, so that dropout draws the masks that it would have drawn, and XLA removes the backbone, whose result nobody
uses. Losses and parameters are those of training without a cache, up to the rounding of another program.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal

import zoo
from train.engine import freezing, steps
from train.engine.objectives import Batch, Objective, classification


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where features enter a model."""

    path: freezing.Path  # of the module whose input they are: a dropout layer, or the head
    input_shape: tuple[int, int, int]  # of an image
    feature_shape: tuple[int, ...]  # of an image's features


def cut(
    model: nn.Module,
    variables: dict[str, Any],
    input_shape: tuple[int, int, int],
    frozen: Collection[freezing.Path],
) -> Cut | None:
    """Where to cut the model, without an axis name, for a stage that freezes these parameters; None where features
    would not do, or would save too little.

    That is, unless all but the head is frozen; the features are the same function of the image in training as in
    evaluation; logits depend on the image through them alone; and no frozen layer comes after them, as in VGG,
    whose dropout leaves a frozen dense layer to every step. Nothing is computed: all of it is read off traces.
    """
    params, stats = variables["params"], variables.get("batch_stats", {})
    trainable, _ = freezing.split(params, frozen)
    if set(trainable) != {freezing.HEAD}:
        return None
    inputs = {
        "head": params[freezing.HEAD],
        "backbone": {name: part for name, part in params.items() if name != freezing.HEAD},
        "stats": stats,
        "image": jax.ShapeDtypeStruct((2, *input_shape), jnp.float32),
        "key": jax.random.key(0),
    }
    still = freezing.still_norms(params, frozen)

    def apply(train: bool, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """(logits, new statistics)"""
        params = inputs["backbone"] | {freezing.HEAD: inputs["head"]}
        with freezing.standing_still(still):
            logits, updated = model.apply(
                {"params": params, "batch_stats": inputs["stats"]},
                inputs["image"],
                train=train,
                mutable=["batch_stats"],
                rngs={"dropout": inputs["key"]} if train else {},
            )
        return logits, updated.get("batch_stats", {})

    found = _find_cut(lambda: jax.eval_shape(functools.partial(apply, True), inputs))
    if found is None:
        return None
    path, shape = found
    inputs["features"] = jax.ShapeDtypeStruct(shape, jnp.float32)

    def exchanged(train: bool, inputs: dict[str, Any]) -> tuple[list, Any, list]:
        """(what entered the module before it was exchanged, once a call; logits; statistics that moved)"""
        entered: list[jax.Array] = []

        def exchange(x):
            entered.append(x)
            return inputs["features"].astype(x.dtype)

        with _exchanging(path, exchange):
            logits, updated = apply(train, inputs)
        before = {id(leaf) for leaf in jax.tree.leaves(inputs["stats"])}
        moved = [leaf for leaf in jax.tree.leaves(updated) if id(leaf) not in before]
        return entered, logits, moved

    for train in (True, False):
        entered, logits, moved = _sources(functools.partial(exchanged, train), inputs)
        if len(entered) != 1 or moved:
            return None
        if not entered[0] <= {"backbone", "stats", "image"}:
            return None
        if any(not sources <= {"features", "head", "key"} for sources in jax.tree.leaves(logits)):
            return None

    backbone = jax.jit(lambda train, inputs: exchanged(train, inputs)[0], static_argnums=0)
    if backbone.lower(True, inputs).as_text() != backbone.lower(False, inputs).as_text():
        return None
    return Cut(path, input_shape, shape[1:])


def _find_cut(trace: Callable[[], Any]) -> tuple[freezing.Path, tuple[int, ...]] | None:
    """Path, and shape of the input, of the first dropout layer that is active, or of the head."""
    heads, dropouts = [], []

    def look(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and args:
            module = context.module
            if module.path == (freezing.HEAD,):
                heads.append((module.path, args[0].shape))
            # One that drops nothing hands on what it got.
            elif isinstance(module, nn.Dropout) and output is not args[0]:
                dropouts.append((module.path, args[0].shape))
        return output

    with nn.intercept_methods(look):
        trace()
    return next(iter(dropouts + heads), None)


def _exchanging(
    path: freezing.Path, exchange: Callable[[jax.Array], jax.Array]
) -> contextlib.AbstractContextManager:
    """Inside, the module at `path` is called with `exchange(x)` in place of x."""

    def intercept(call, args, kwargs, context):
        if context.method_name == "__call__" and args and context.module.path == path:
            args = (exchange(args[0]), *args[1:])
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _sources(fun: Callable[[dict[str, Any]], Any], inputs: dict[str, Any]) -> Any:
    """For each array that `fun` returns, the names of the inputs that it may depend on."""
    closed, outputs = jax.make_jaxpr(fun, return_shape=True)(inputs)
    jaxpr = closed.jaxpr
    names = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
    sources = {var: {name} for var, name in zip(jaxpr.invars, names, strict=True)}

    def of(variables: Iterable[Any]) -> set[str]:
        found = (sources.get(v, set()) for v in variables if not isinstance(v, Literal))
        return set().union(*found)

    for equation in jaxpr.eqns:
        sources |= dict.fromkeys(equation.outvars, of(equation.invars))
    leaves = [of([variable]) for variable in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(outputs), leaves)


class FromFeatures:
    """A model's `apply` with features float32 [B, ...] in place of images, under `jax.jit`: eagerly the backbone
    would really run."""

    def __init__(self, model: nn.Module, cut: Cut):
        self.model = model
        self.cut = cut

    def apply(self, variables: dict[str, Any], features: jax.Array, **options: Any) -> Any:
        """What `model.apply(variables, images, **options)` gives for the images of these features."""
        images = jnp.zeros((len(features), *self.cut.input_shape), jnp.float32)
        with _exchanging(self.cut.path, lambda x: features.astype(x.dtype)):
            return self.model.apply(variables, images, **options)


def classification_from_features(
    model: nn.Module, cut: Cut, label_smoothing: float = 0.0
) -> Objective:
    """`objectives.classification` of batches whose `image` holds features."""
    cached: Any = FromFeatures(model, cut)
    return classification(cached, label_smoothing)


def make_feature_step(
    model: nn.Module, cut: Cut, preprocessing: zoo.Preprocessing
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
    """`features` float32 [B, ...] of one device for `image` uint8 [B, H, W, 3]."""

    def feature_step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        entered: list[jax.Array] = []

        def look(x):
            entered.append(x)
            return x

        images = steps.normalise(batch["image"].astype(jnp.float32), preprocessing)
        with _exchanging(cut.path, look):
            model.apply(variables, images, train=False)
        return {"features": entered[0].astype(jnp.float32)}

    return feature_step
