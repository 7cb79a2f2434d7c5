"""Single-device training and evaluation steps: pure functions, testable without data or accelerators."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from train import recipe
from train.engine import freezing
from train.engine.inputs import Inputs
from train.engine.memo import memoized
from train.engine.objectives import Batch, Objective
from train.engine.optimizers import learning_rate
from zoo import cpu

AXIS = "batch"  # the mapped axis over devices


class TrainState(flax.struct.PyTreeNode):
    """Everything that training updates."""

    step: jax.Array  # int32, number of updates
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any  # moving average of the parameters; empty if disabled

    def variables(self) -> dict[str, Any]:
        """Return the variables to evaluate and save, with averaged parameters if averaging is enabled."""
        return {"params": self.average or self.params, "batch_stats": self.batch_stats}

    def on_host(self) -> "TrainState":
        """Copy to the host: NumPy arrays."""
        return jax.tree.map(np.asarray, jax.device_get(self))


class RngContext(flax.struct.PyTreeNode):
    """Inputs of the random keys besides the step.

    An argument of the compiled step rather than a constant, so that another seed does not recompile it.
    """

    seed: ArrayLike  # uint32
    epoch: ArrayLike  # int32


def init_variables(model: nn.Module, input_shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Initialize `params` and `batch_stats` (empty if the model has none) for images or vectors of `input_shape`."""
    image = jnp.zeros((1, *input_shape), jnp.float32)
    variables = _initializer(model)(jax.random.key(seed), image)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


@memoized
def _initializer(model: nn.Module) -> Callable[[jax.Array, jax.Array], Any]:
    # Under jit: eagerly, compiling each initializer separately takes seconds.
    return jax.jit(model.init)


@memoized
def abstract_variables(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return structure, shapes and dtypes of what `init_variables` returns, without computing it."""
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def init_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    frozen: Collection[freezing.Path] = (),
    *,
    ema: bool = False,
) -> TrainState:
    """Create the state before the first step. The optimizer's state covers only parameters that are not frozen."""
    params = variables["params"]
    trainable, _ = freezing.split(params, frozen)
    # An int32 array: a Python int would be weakly typed, and the step would compile twice.
    zero = jnp.zeros((), jnp.int32)
    # A copy, since a step donates its state and cannot donate a buffer twice.
    average = jax.tree.map(jnp.array, params) if ema else {}
    return TrainState(zero, params, variables["batch_stats"], optimizer.init(trainable), average)


def keys(context: RngContext) -> tuple[jax.Array, jax.Array]:
    """Return the key of this epoch's augmentation and the key of dropout in all steps."""
    augment_key, dropout_key = jax.random.split(jax.random.key(context.seed))
    return jax.random.fold_in(augment_key, context.epoch), dropout_key


def global_norm(tree: Any) -> jax.Array:
    """Euclidean norm of all leaves together, float32."""
    return jnp.sqrt(sum((_sum_of_squares(leaf) for leaf in jax.tree.leaves(tree)), jnp.float32(0)))


def _sum_of_squares(x: jax.Array) -> jax.Array:
    if cpu.uses("sums"):
        return cpu.sums.sum_of_squares(x)
    return jnp.sum(jnp.square(x.astype(jnp.float32)))


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    inputs: Inputs,
    augmentation: recipe.Augmentation,
    frozen: Collection[freezing.Path] = (),
    class_weights: Sequence[float] | np.ndarray | None = None,
    ema: float = 0.0,
) -> Callable[[TrainState, Batch, RngContext], tuple[TrainState, dict[str, jax.Array]]]:
    """Make a single-device training step, to be mapped over the axis `AXIS`.

    The step takes the state, a batch and the `RngContext`, and returns the new state and scalar metrics. The batch
    contains `image` (samples as loaded by the host: uint8 [B, H, W, 3], or vectors), `label` int32 [B] and `index`
    int32 [B], the number of the sample in its epoch (see `datasets.pipeline.epoch_order`).

    Gradients, batch statistics and metrics are averaged over the axis. The augmentation of a sample depends on (seed,
    epoch, index) and is the same on any number of devices; dropout masks depend on (seed, step, device).

    Args:
      objective: provides the loss to minimize.
      optimizer: optimizer of the parameters that are not frozen.
      inputs: preprocess the images of the batch.
      augmentation: random changes of the images.
      frozen: paths of parameters that the step returns bit-identical. The statistics of a batch-norm layer whose
        parameters are all frozen do not change either.
      class_weights: one per class; the objective receives the weight of each sample as `weight`.
      ema: Keras's `ema_momentum`. After each step, the average becomes `ema * average + (1 - ema) * params`; after the
        first, it equals the parameters. 0: no average.
    """

    def train_step(state: TrainState, batch: Batch, context: RngContext):
        key, dropout_key = keys(context)
        image = inputs.preprocess_train(batch["image"], batch["index"], key, augmentation)
        prepared = {"image": image, "label": batch["label"]}
        if class_weights is not None:
            prepared["weight"] = jnp.asarray(class_weights, jnp.float32)[batch["label"]]
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(AXIS))

        trainable, fixed = freezing.split(state.params, frozen)
        frozen_modules = freezing.fully_frozen_modules(state.params, frozen)

        def loss(trainable):
            with freezing.batch_norm_in_inference_mode(frozen_modules):
                params = freezing.join(trainable, fixed)
                return objective.loss(params, state.batch_stats, prepared, dropout_key)

        (_, (batch_stats, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        if jax.lax.axis_size(AXIS) > 1:  # on one device, XLA would copy everything
            grads, batch_stats, metrics = jax.lax.pmean((grads, batch_stats, metrics), AXIS)
        # The mean of equal values over three devices can differ from them in the last bit.
        batch_stats = freezing.keep_modules(state.batch_stats, batch_stats, frozen_modules)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        params = freezing.join(trainable, fixed)
        average = {}
        if ema:
            momentum = jnp.where(state.step == 0, 0.0, ema)
            average = optax.incremental_update(params, state.average, 1 - momentum)
        metrics |= {
            "learning_rate": learning_rate(opt_state),
            "grad_norm": global_norm(grads),
            "param_norm": global_norm(params),
            "update_norm": global_norm(updates),
        }
        return TrainState(state.step + 1, params, batch_stats, opt_state, average), metrics

    return train_step


def make_step_loop(
    train_step: Callable[[TrainState, Batch, RngContext], tuple[TrainState, dict[str, jax.Array]]],
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Make a single-device function that runs steps `start` to `stop` of an epoch, with the data in device memory.

    It takes the state, `images` uint8 [N, H, W, 3], `labels` int32 [N], `order` int32 [steps, B] (the sample numbers
    of each step, see `datasets.pipeline.epoch_order`), `start`, `stop` and the `RngContext`. It returns the state and
    the metrics, each [steps], zero for steps that were not run. The bounds are arguments, so one program runs any
    chunk of an epoch.
    """

    def run(state: TrainState, images, labels, order, start, stop, context: RngContext):
        def batch_of(step: ArrayLike) -> Batch:
            index = order[step]
            rows = index % len(images)
            return {"image": images[rows], "label": labels[rows], "index": index}

        def body(step, carry):
            state, log = carry
            state, metrics = train_step(state, batch_of(step), context)
            return state, jax.tree.map(lambda old, new: old.at[step].set(new), log, metrics)

        _, metrics = jax.eval_shape(train_step, state, batch_of(0), context)
        log = jax.tree.map(lambda m: jnp.zeros(len(order), m.dtype), metrics)
        return jax.lax.fori_loop(start, stop, body, (state, log))

    return run


def make_eval_step(
    objective: Objective, inputs: Inputs
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
    """Make a single-device evaluation step: per-sample outputs for `image`, samples as loaded by the host."""

    def eval_step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        return objective.outputs(variables, {"image": inputs.preprocess_eval(batch["image"])})

    return eval_step
