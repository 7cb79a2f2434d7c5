"""Features of a trained or frozen network, computed once per sample.

`extract` computes them for data sets of features, for probes, and for stages that train only a head.

If a stage freezes everything but the head and does not augment, the input of the head (or of the dropout before it) is
the same in every epoch. It is computed once, in evaluation mode, and replaces the images. The training step remains
that of the whole model: `FromFeatures` applies the model to blank images and replaces the input of the module at the
cut. Dropout therefore draws the same masks as without the cache, and XLA removes the backbone as dead code. Losses and
parameters equal those of training without the cache, up to the rounding of a different program.
"""

import contextlib
import dataclasses
import functools
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

import zoo
from datasets.cache import whole_file
from datasets.dataset import Progress
from datasets.pipeline import Samples, eval_batches
from train.engine import feature_store, freezing
from train.engine.evaluation import collect_outputs
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
    names: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Compute the features of every sample of some splits.

    Args:
      step: single-device step from `layer_step` or `cut_step`.
      variables: the network's variables, on the devices or on the host.
      samples: samples of each split, by its name.
      devices: where to compute.
      batch_size: samples per step, over all devices.
      key: everything that the features depend on, JSON-able. If given, they are kept in the cache directory.
      names: names of the samples of each split, by content (`feature_store.image_names`). Each sample's features are
        then kept by its name, and `key` is everything else that they depend on.
      progress: called during the computation.

    Returns:
      Features by split, float32 [N, ...].
    """

    def compute(samples: Mapping[str, Samples]) -> dict[str, np.ndarray]:
        compiled = devices.compile_eval_step(step)
        placed = devices.replicate(variables)
        features = {}
        for split, split_samples in samples.items():
            batches = _with_progress(
                eval_batches(split_samples, batch_size=batch_size),
                len(split_samples),
                f"features of {split} images",
                progress,
            )
            features[split] = collect_outputs(compiled, placed, batches)["features"]
        return features

    if key is not None and names is not None:
        return feature_store.look_up(
            feature_store.file_of(key),
            names,
            lambda indices: compute({n: _Selected(samples[n], i) for n, i in indices.items()}),
        )
    path = None
    if key is not None:
        path = feature_store.file_of(key)
        try:
            with open(path, "rb") as read, np.load(read, allow_pickle=False) as saved:
                return {split: saved[split] for split in samples}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # missing or damaged
            pass
    features = compute(samples)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, **features)
    return features


@dataclasses.dataclass(frozen=True)
class _Selected:
    """Some samples of another source. Implements `Samples`."""

    samples: Samples
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        return self.samples.labels[self.indices]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.samples.shape

    @property
    def dtype(self) -> np.dtype:
        return self.samples.dtype

    def load(self, indices: np.ndarray) -> np.ndarray:
        return self.samples.load(self.indices[indices])

    def arrays(self) -> np.ndarray:
        return self.load(np.arange(len(self)))


def _with_progress(
    batches: Iterable[dict[str, np.ndarray]], total: int, text: str, progress: Progress | None
) -> Iterator[dict[str, np.ndarray]]:
    done = 0
    for batch in batches:
        yield batch
        done += int(batch["mask"].sum())
        if progress:
            progress(text, done, total)


def layer_step(module: nn.Module, inputs: Inputs, layer: str | None = None) -> FeatureStep:
    """Make a single-device step that returns `features`: the flattened output of a layer, float32 [B, D].

    For `layer`, see `zoo.features`.
    """

    def step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        output = zoo.features(module, variables, inputs.preprocess_eval(batch["image"]), layer)
        return {"features": output.astype(jnp.float32).reshape(len(output), -1)}

    return step


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where features enter a model."""

    path: freezing.Path  # of the module whose input they replace: a dropout layer, or the head
    input_shape: tuple[int, ...]  # of one image
    feature_shape: tuple[int, ...]  # of the features of one image


def find_cut(
    model: nn.Module,
    variables: dict[str, Any],
    input_shape: tuple[int, ...],
    frozen: Collection[freezing.Path],
) -> Cut | None:
    """Find where features can replace the images in a stage that freezes these parameters.

    Traces the model, which must have no axis name, and computes nothing.

    Returns:
      The cut, or None unless all of these hold:

      - everything but the head is frozen;
      - the features are the same function of the image in training and in evaluation;
      - the logits depend on the image only through the features;
      - no frozen layer follows the features. In VGG, a frozen dense layer follows a dropout layer: it would remain in
        every step, and the cut would save too little.
    """
    params, stats = variables["params"], variables.get("batch_stats", {})
    trainable, _ = freezing.split(params, frozen)
    if set(trainable) != {freezing.HEAD}:
        return None
    inputs = {
        "head": params[freezing.HEAD],
        "backbone": {name: tree for name, tree in params.items() if name != freezing.HEAD},
        "stats": stats,
        "image": jax.ShapeDtypeStruct((2, *input_shape), jnp.float32),
        "key": jax.random.key(0),
    }
    frozen_modules = freezing.fully_frozen_modules(params, frozen)

    def apply(train: bool, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Return (logits, new statistics)."""
        params = inputs["backbone"] | {freezing.HEAD: inputs["head"]}
        with freezing.batch_norm_in_inference_mode(frozen_modules):
            logits, updated = model.apply(
                {"params": params, "batch_stats": inputs["stats"]},
                inputs["image"],
                train=train,
                mutable=["batch_stats"],
                rngs={"dropout": inputs["key"]} if train else {},
            )
        return logits, updated.get("batch_stats", {})

    candidate = _first_dropout_or_head(
        lambda: jax.eval_shape(functools.partial(apply, True), inputs)
    )
    if candidate is None:
        return None
    path, shape = candidate
    inputs["features"] = jax.ShapeDtypeStruct(shape, jnp.float32)

    def apply_to_features(train: bool, inputs: dict[str, Any]) -> tuple[list, Any, list]:
        """Return (the replaced input of the module in each call, logits, changed statistics)."""
        replaced: list[jax.Array] = []

        def replace(x):
            replaced.append(x)
            return inputs["features"].astype(x.dtype)

        with _replacing_input(path, replace):
            logits, updated = apply(train, inputs)
        before = {id(leaf) for leaf in jax.tree.leaves(inputs["stats"])}
        changed = [leaf for leaf in jax.tree.leaves(updated) if id(leaf) not in before]
        return replaced, logits, changed

    for train in (True, False):
        replaced, logits, changed = _dependencies(
            functools.partial(apply_to_features, train), inputs
        )
        if len(replaced) != 1 or changed:
            return None
        if not replaced[0] <= {"backbone", "stats", "image"}:
            return None
        if any(not names <= {"features", "head", "key"} for names in jax.tree.leaves(logits)):
            return None

    numbers: dict[Any, int] = {}
    in_training, in_evaluation = (
        _value_numbers(
            jax.make_jaxpr(lambda x, t=train: apply_to_features(t, x)[0])(inputs), numbers
        )
        for train in (True, False)
    )
    return Cut(path, input_shape, shape[1:]) if in_training == in_evaluation else None


def _value_numbers(program: ClosedJaxpr, numbers: dict[Any, int]) -> tuple[int, ...]:
    """Number the outputs of a program so that equal numbers mean equal computations.

    Value numbering: the outputs of an equation are identified by its primitive, its parameters and the numbers of its
    inputs, so dead code makes no difference. Programs that share `numbers` can be compared.
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
        # Differentiation rules are new objects in each trace and do not affect values.
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


def _first_dropout_or_head(
    trace: Callable[[], Any],
) -> tuple[freezing.Path, tuple[int, ...]] | None:
    """Return the path and input shape of the first active dropout layer, else of the head."""
    heads, dropouts = [], []

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and args:
            module = context.module
            if module.path == (freezing.HEAD,):
                heads.append((module.path, args[0].shape))
            # Inactive dropout returns its input.
            elif isinstance(module, nn.Dropout) and output is not args[0]:
                dropouts.append((module.path, args[0].shape))
        return output

    with nn.intercept_methods(record):
        trace()
    return next(iter(dropouts + heads), None)


def _replacing_input(
    path: freezing.Path, replace: Callable[[jax.Array], jax.Array]
) -> contextlib.AbstractContextManager:
    """Context in which the module at `path` is called with `replace(x)` instead of x."""

    def intercept(call, args, kwargs, context):
        if context.method_name == "__call__" and args and context.module.path == path:
            args = (replace(args[0]), *args[1:])
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _dependencies(fun: Callable[[dict[str, Any]], Any], inputs: dict[str, Any]) -> Any:
    """Return, for each array that `fun` returns, the names of the inputs that it may depend on."""
    closed, outputs = jax.make_jaxpr(fun, return_shape=True)(inputs)
    jaxpr = closed.jaxpr
    names = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
    dependencies = {var: {name} for var, name in zip(jaxpr.invars, names, strict=True)}

    def union(variables: Iterable[Any]) -> set[str]:
        sets = (dependencies.get(v, set()) for v in variables if not isinstance(v, Literal))
        return set().union(*sets)

    for equation in jaxpr.eqns:
        dependencies |= dict.fromkeys(equation.outvars, union(equation.invars))
    leaves = [union([variable]) for variable in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(outputs), leaves)


@dataclasses.dataclass(frozen=True)
class FromFeatures:
    """A model that takes features float32 [B, ...] instead of images.

    Call it under `jax.jit`: eagerly, the backbone would run on the blank images.
    """

    model: nn.Module
    cut: Cut

    def apply(self, variables: dict[str, Any], features: jax.Array, **options: Any) -> Any:
        """Return what `model.apply(variables, images, **options)` returns for the images of these features."""
        images = jnp.zeros((len(features), *self.cut.input_shape), jnp.float32)
        with _replacing_input(self.cut.path, lambda x: features.astype(x.dtype)):
            return self.model.apply(variables, images, **options)


def cut_step(model: nn.Module, cut: Cut, inputs: Inputs) -> FeatureStep:
    """Make a single-device step that returns `features`: the input of the module at the cut, float32 [B, ...]."""

    def step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        recorded: list[jax.Array] = []

        def record(x):
            recorded.append(x)
            return x

        with _replacing_input(cut.path, record):
            model.apply(variables, inputs.preprocess_eval(batch["image"]), train=False)
        return {"features": recorded[0].astype(jnp.float32)}

    return step
