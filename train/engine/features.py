"""Features of a trained or frozen net, computed once for every sample.

`extract` is the one way to them: for data sets of features, for probes, and for stages that train a head.

Where a stage freezes all but the head and shows every image unchanged, what enters the head, or the dropout in
front of it, is the same in every epoch. It is computed once, in evaluation mode, and takes the place of the images.
The step stays the whole model's: `FromFeatures` applies it to blank images and exchanges what enters the module at
the cut, so that dropout draws the masks that it would have drawn, and XLA removes the backbone, whose result nobody
uses. Losses and parameters are those of training without a cache, up to the rounding of another program.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

import zoo
from datasets.cache import cache_dir, whole_file
from datasets.dataset import Progress
from datasets.pipeline import Samples, eval_batches
from train.engine import freezing
from train.engine.evaluation import run_outputs
from train.engine.inputs import Inputs
from train.engine.objectives import Batch
from train.engine.parallel import Devices

FeatureStep = Callable[[dict[str, Any], Batch], dict[str, jax.Array]]


def extract(
    step: FeatureStep,
    variables: dict[str, Any],
    samples: Mapping[str, Samples],
    devices: Devices,
    *,
    batch_size: int,
    key: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """What a step computes for every sample of some parts, float32 [N, ...] each.

    Args:
      step: `layer_step`'s or `cut_step`'s, of one device.
      variables: of the net, on the devices or on the host.
      samples: what each part's batches are made of, by the part's name.
      batch_size: samples per step, over all devices.
      key: JSON-able data that says what the features depend on; with it they are kept in the cache directory.
      progress: called while it takes long.
    """
    path = None
    if key is not None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = cache_dir() / "features" / f"{digest[:32]}.npz"
        try:
            with open(path, "rb") as read, np.load(read, allow_pickle=False) as saved:
                return {part: saved[part] for part in samples}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or torn
            pass
    compiled = devices.compile_eval_step(step)
    placed = devices.replicate(variables)
    found = {}
    for part, of in samples.items():
        batches = eval_batches(of, batch_size=batch_size)
        counted = _counted(batches, len(of), f"features of {part} images", progress)
        found[part] = run_outputs(compiled, placed, counted)["features"]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, **found)
    return found


def _counted(
    batches: Iterable[dict[str, np.ndarray]], total: int, text: str, progress: Progress | None
) -> Iterator[dict[str, np.ndarray]]:
    done = 0
    for batch in batches:
        yield batch
        done += int(batch["mask"].sum())
        if progress:
            progress(text, done, total)


def layer_step(module: nn.Module, inputs: Inputs, layer: str | None = None) -> FeatureStep:
    """`features` float32 [B, D] of one device: what `zoo.features` gives of a layer, flattened."""

    def step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        found = zoo.features(module, variables, inputs.for_evaluation(batch["image"]), layer)
        return {"features": found.astype(jnp.float32).reshape(len(found), -1)}

    return step


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where features enter a model."""

    path: freezing.Path  # of the module whose input they are: a dropout layer, or the head
    input_shape: tuple[int, ...]  # of an image
    feature_shape: tuple[int, ...]  # of an image's features


def cut(
    model: nn.Module,
    variables: dict[str, Any],
    input_shape: tuple[int, ...],
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

    programs: dict[Any, int] = {}
    in_training, in_evaluation = (
        _value_numbers(jax.make_jaxpr(lambda x, t=train: exchanged(t, x)[0])(inputs), programs)
        for train in (True, False)
    )
    return Cut(path, input_shape, shape[1:]) if in_training == in_evaluation else None


def _value_numbers(program: ClosedJaxpr, numbers: dict[Any, int]) -> tuple[int, ...]:
    """A number for each output of a program, the same for outputs that are computed in the same way.

    Value numbering: an equation's outputs are named by its primitive, its parameters and the numbers of its inputs,
    so that equations whose results nobody uses make no difference. Programs that share `numbers` can be compared.
    """

    def number(key: Any) -> int:
        return numbers.setdefault(key, len(numbers))

    def of_parameter(value: Any) -> Any:
        if isinstance(value, ClosedJaxpr):
            return of_program(value.jaxpr, value.consts)
        if isinstance(value, Jaxpr):
            return of_program(value, ())
        if isinstance(value, tuple | list):
            return tuple(map(of_parameter, value))
        # Rules of differentiation are made anew for each trace, and change no value.
        return None if callable(value) else repr(value)

    def of_program(jaxpr: Jaxpr, constants: Iterable[Any]) -> tuple[int, ...]:
        known = {v: number(("input", i)) for i, v in enumerate(jaxpr.invars)}
        known |= {
            v: number(of_constant(c)) for v, c in zip(jaxpr.constvars, constants, strict=True)
        }

        def of(atom: Any) -> int:
            if isinstance(atom, Literal):
                return number(of_constant(atom.val))
            return known[atom]

        for equation in jaxpr.eqns:
            parameters = tuple((k, of_parameter(v)) for k, v in sorted(equation.params.items()))
            key = (equation.primitive.name, parameters, tuple(map(of, equation.invars)))
            known |= {v: number((*key, i)) for i, v in enumerate(equation.outvars)}
        return tuple(map(of, jaxpr.outvars))

    def of_constant(value: Any) -> Any:
        array = np.asarray(value)
        return "constant", array.dtype.str, array.shape, array.tobytes()

    return of_program(program.jaxpr, program.consts)


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


def cut_step(model: nn.Module, cut: Cut, inputs: Inputs) -> FeatureStep:
    """`features` float32 [B, ...] of one device: what enters the model at the cut."""

    def step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        entered: list[jax.Array] = []

        def look(x):
            entered.append(x)
            return x

        with _exchanging(cut.path, look):
            model.apply(variables, inputs.for_evaluation(batch["image"]), train=False)
        return {"features": entered[0].astype(jnp.float32)}

    return step
