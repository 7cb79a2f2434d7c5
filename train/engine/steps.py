"""The training and the evaluation step of one device: pure functions, testable without data or devices."""

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
from train.engine.objectives import Batch, Objective
from train.engine.optimizers import learning_rate
from zoo import cpu

AXIS = "batch"  # the mapped axis over devices


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes."""

    step: jax.Array  # int32: updates so far
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any  # moving average of the parameters; empty where there is none

    def variables(self) -> dict[str, Any]:
        """What is evaluated and kept: the average, where there is one."""
        return {"params": self.average or self.params, "batch_stats": self.batch_stats}


class Clock(flax.struct.PyTreeNode):
    """What randomness depends on besides the step: arguments rather than constants of the compiled step,
    so that another seed does not compile anew."""

    seed: ArrayLike  # uint32
    epoch: ArrayLike  # int32


def init_variables(model: nn.Module, input_shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Fresh `params` and `batch_stats` (empty where the model has none) for images or vectors of `input_shape`."""
    image = jnp.zeros((1, *input_shape), jnp.float32)
    # Under jit: eagerly, one compilation an initialiser takes seconds.
    variables = jax.jit(model.init)(jax.random.key(seed), image)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def abstract_variables(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Structure, shapes and types of what `init_variables` makes; nothing is computed."""
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
    """The state before the first step; the optimiser knows the parameters that are not frozen."""
    params = variables["params"]
    trainable, _ = freezing.split(params, frozen)
    # An int32 array from the start: a Python int would be weakly typed and compile the step twice.
    zero = jnp.zeros((), jnp.int32)
    # Copied, since a step uses up its state, and no buffer twice.
    average = jax.tree.map(jnp.array, params) if ema else {}
    return TrainState(zero, params, variables["batch_stats"], optimizer.init(trainable), average)


def keys(clock: Clock) -> tuple[jax.Array, jax.Array]:
    """Keys of the augmentation, of this epoch, and of dropout, of all steps."""
    augment_key, dropout_key = jax.random.split(jax.random.key(clock.seed))
    return jax.random.fold_in(augment_key, clock.epoch), dropout_key


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together: float32."""
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
) -> Callable[[TrainState, Batch, Clock], tuple[TrainState, dict[str, jax.Array]]]:
    """The step of one device under a mapped axis `AXIS`, over which gradients and metrics are averaged.

    The batch holds `image` (samples as the host loads them: uint8 [B, H, W, 3], or vectors), `label` int32 [B] and
    `index` int32 [B], the visit's number (see `datasets.pipeline.epoch_order`). An image is augmented by
    (seed, epoch, index), so alike on any number of devices; dropout masks come from (seed, step, device). Parameters
    at `frozen` paths and the statistics of batch-norm layers that are frozen come out as they went in, bit for bit.
    With `class_weights`, one per class, the objective gets each example's as `weight`. With `ema` the state's average
    moves to `ema * average + (1 - ema) * params` after each step, and to the parameters after the first (Keras's
    `ema_momentum`).
    """

    def train_step(state: TrainState, batch: Batch, clock: Clock):
        key, dropout_key = keys(clock)
        image = inputs.for_training(batch["image"], batch["index"], key, augmentation)
        seen = {"image": image, "label": batch["label"]}
        if class_weights is not None:
            seen["weight"] = jnp.asarray(class_weights, jnp.float32)[batch["label"]]
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(AXIS))

        trainable, fixed = freezing.split(state.params, frozen)
        still = freezing.still_norms(state.params, frozen)

        def loss(trainable):
            with freezing.standing_still(still):
                params = freezing.join(trainable, fixed)
                return objective.loss(params, state.batch_stats, seen, dropout_key)

        (_, (batch_stats, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        if jax.lax.axis_size(AXIS) > 1:  # over one device XLA copies everything
            grads, batch_stats, metrics = jax.lax.pmean((grads, batch_stats, metrics), AXIS)
        # The mean of equal numbers over three devices may differ from them in the last bit.
        batch_stats = freezing.keep(state.batch_stats, batch_stats, still)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        params = freezing.join(trainable, fixed)
        average = {}
        if ema:
            kept = jnp.where(state.step == 0, 0.0, ema)
            average = optax.incremental_update(params, state.average, 1 - kept)
        metrics |= {
            "learning_rate": learning_rate(opt_state),
            "grad_norm": norm(grads),
            "param_norm": norm(params),
            "update_norm": norm(updates),
        }
        return TrainState(state.step + 1, params, batch_stats, opt_state, average), metrics

    return train_step


def make_steps(
    train_step: Callable[[TrainState, Batch, Clock], tuple[TrainState, dict[str, jax.Array]]],
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Steps `start` to `stop` of an epoch as one function of one device, with the data in its memory.

    It takes the state, `images` uint8 [N, H, W, 3], `labels` int32 [N], `order` int32 [steps, B] (the visits
    of each step, see `datasets.pipeline.epoch_order`), `start`, `stop` and the clock, and gives the state and
    the metrics, each [steps], zero where no step was run. The bounds are arguments, so that one program runs
    any piece of an epoch.
    """

    def run(state: TrainState, images, labels, order, start, stop, clock: Clock):
        def batch_of(step: ArrayLike) -> Batch:
            visits = order[step]
            examples = visits % len(images)
            return {"image": images[examples], "label": labels[examples], "index": visits}

        def body(step, carry):
            state, log = carry
            state, metrics = train_step(state, batch_of(step), clock)
            return state, jax.tree.map(lambda old, new: old.at[step].set(new), log, metrics)

        _, metrics = jax.eval_shape(train_step, state, batch_of(0), clock)
        log = jax.tree.map(lambda m: jnp.zeros(len(order), m.dtype), metrics)
        return jax.lax.fori_loop(start, stop, body, (state, log))

    return run


def make_eval_step(
    objective: Objective, inputs: Inputs
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
    """Per-sample outputs of one device, for a batch whose `image` holds samples as the host loads them."""

    def eval_step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        return objective.outputs(variables, {"image": inputs.for_evaluation(batch["image"])})

    return eval_step
