"""A stage of several training runs as one program: `jax.vmap` over their states, keys and scalar settings.

The members share the model, the objective and the structure of the optimizer; seeds, scalar settings and splits differ.
Samples are vectors, or the features of a frozen backbone (see `train.engine.features`), all in one array in device
memory that each member indexes in its own order. Parameters that no member trains are not stacked.
"""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from datasets.dataset import Labeled, VectorSplit
from train.engine import stage as stages
from train.engine import steps
from train.engine.experiment import Experiment, StagePlan
from train.engine.features import FromFeatures
from train.engine.feeding import CHUNK_SECONDS, FIRST_CHUNK, Chunk, epoch_orders
from train.engine.inputs import Inputs
from train.engine.optimizers import build_optimizer, scalars
from train.engine.parallel import Devices
from train.engine.requests import Outputs
from train.engine.steps import RngContext, TrainState

EVAL_BYTES = 64 << 20  # of the samples of all members in an evaluation step
MAX_EVAL_ROWS = 512


class Settings(flax.struct.PyTreeNode):
    """Inputs of a member's training step besides its state, keys and samples."""

    scalars: Mapping[str, Any]  # of the optimizer, float32
    class_weights: Any  # float32 [classes], or None


class Table:
    """The distinct samples of all members: rows of one array."""

    def __init__(self) -> None:
        self._row_of: dict[tuple[bytes, int], int] = {}
        self._values: list[np.ndarray] = []
        self._known: dict[
            int, tuple[VectorSplit, np.ndarray]
        ] = {}  # by id of the split, kept alive

    def rows(self, split: Labeled) -> np.ndarray:
        """Rows of the samples of a split, int32 [N]; adds those that are new."""
        assert isinstance(split, VectorSplit)
        if id(split) not in self._known:
            values = np.ascontiguousarray(split.values, np.float32)
            rows = np.empty(len(split), np.int32)
            for index, (value, label) in enumerate(zip(values, split.labels.tolist(), strict=True)):
                key = value.tobytes(), label
                if key not in self._row_of:
                    self._row_of[key] = len(self._row_of)
                    self._values.append(value)
                rows[index] = self._row_of[key]
            self._known[id(split)] = split, rows
        return self._known[id(split)][1]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Samples, float32 [N, ...], and labels, int32 [N]."""
        labels = np.array([label for _, label in self._row_of], np.int32)
        return np.stack(self._values), labels


class Stack:
    """States of several members in device memory, stacked along a new first axis, except for shared leaves."""

    def __init__(
        self,
        members: Sequence["MemberStage"],
        states: Sequence[Any],
        shared: Sequence[bool],
        devices: Devices,
    ) -> None:
        self.members = tuple(members)
        self.shared = shared
        on_host = [state.on_host() for state in states]
        flat = [jax.tree.leaves(state) for state in on_host]
        self.structure: Any = jax.tree.structure(on_host[0])
        leaves = [
            of_members[0] if is_shared else np.stack(of_members)
            for is_shared, of_members in zip(shared, zip(*flat, strict=True), strict=True)
        ]
        self.state = devices.replicate(jax.tree.unflatten(self.structure, leaves))
        self.settings = jax.tree.map(lambda *x: np.stack(x), *(m.settings for m in members))
        flags: TrainState = jax.tree.unflatten(self.structure, shared)
        self.shared_variables = jax.tree.leaves(flags.variables())

    def slot(self, member: "MemberStage") -> int:
        """Position of a member in the stack."""
        return self.members.index(member)

    def take(self, tree: Any, shared: Sequence[bool], slot: int) -> Any:
        """Copy the leaves of one member to the host, of a tree with the stack's axis."""
        structure: Any
        leaves, structure = jax.tree.flatten(tree)
        # Each leaf is transferred once for all members, since a `jax.Array` keeps its value on the host.
        on_host = jax.device_get(leaves)
        return jax.tree.unflatten(
            structure,
            [x if s else np.array(x[slot]) for x, s in zip(on_host, shared, strict=True)],
        )


class MemberState:
    """The state of one member, in place of a `TrainState`: a view of a stack, valid until the member's next step."""

    def __init__(self, stack: Stack, slot: int) -> None:
        self.stack, self.slot = stack, slot

    def variables(self) -> dict[str, Any]:
        """See `TrainState.variables`."""
        stack = self.stack
        return stack.take(stack.state.variables(), stack.shared_variables, self.slot)

    def copy(self) -> TrainState:
        """Copy to a `TrainState` of arrays on the host."""
        return self.stack.take(self.stack.state, self.stack.shared, self.slot)

    def on_host(self) -> TrainState:
        """See `TrainState.on_host`."""
        return self.copy()

    @property
    def opt_state(self) -> Any:
        """See `TrainState`."""
        return self.copy().opt_state

    def replace(self, **changes: Any) -> TrainState:
        """See `TrainState`."""
        return self.copy().replace(**changes)


class MemberStage:
    """A stage for the training loop of one member, in place of a `PreparedStage`."""

    def __init__(
        self,
        experiment: Experiment,
        plan: StagePlan,
        splits: Mapping[str, Labeled],
        inputs: Inputs,
        table: Table,
    ) -> None:
        self.experiment, self.plan = experiment, plan
        self.batches = stages.train_batches(experiment, plan, splits, inputs)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.labels = {name: split.labels for name, split in splits.items()}
        self.rows = {name: table.rows(splits[name]) for name in ("train", "validation")}
        self.training_rows = table.rows(self.batches.samples)  # type: ignore[arg-type]
        weights = stages.class_weights(experiment, plan.spec)
        self.settings = Settings(
            {name: np.float32(value) for name, value in scalars(plan.spec.optimizer).items()},
            weights,
        )
        self.program: Program
        self.is_active = True  # until its loop leaves the stage

    @property
    def objective(self) -> Any:
        """See `PreparedStage`."""
        return self.program.objective

    def epoch(self, state: Any, stage_step: int, context: RngContext) -> "MemberChunks":
        """Chunks of steps, which only `Program.train` runs."""
        return MemberChunks(self, state, stage_step, context)


class MemberChunks(Iterator[Chunk]):
    """The remaining steps of an epoch of one member."""

    def __init__(
        self, stage: MemberStage, state: Any, stage_step: int, context: RngContext
    ) -> None:
        epoch, self.start = divmod(stage_step, stage.steps_per_epoch)
        numbers = epoch_orders(stage.batches, epoch)
        self.orders = [stage.training_rows[n % len(stage.training_rows)] for n in numbers]
        self.stage, self.state, self.context = stage, state, context
        self._skip()

    def _skip(self) -> None:
        while self.orders and self.start >= len(self.orders[0]):
            self.start -= len(self.orders.pop(0))

    def __next__(self) -> Chunk:
        (chunk,) = self.stage.program.train([self])
        return chunk

    @property
    def shape(self) -> tuple[int, ...]:
        """First step in the current order, and the order's shape: equal for steps that can run together."""
        return (self.start, *self.orders[0].shape)

    def advance(self, state: MemberState, stop: int, metrics: dict[str, Any]) -> Chunk:
        """Record that the steps up to `stop` of the current order are done."""
        size = self.orders[0].shape[1]
        done = stop - self.start
        self.state, self.start = state, stop
        self._skip()
        return Chunk(state, [size] * done, metrics, 0.0)  # type: ignore[arg-type]


class Program:
    """The compiled steps of a stage for several members whose epochs have the same shapes."""

    def __init__(
        self,
        members: Sequence[MemberStage],
        model: Any,
        inputs: Inputs,
        states: Sequence[Any],
        data: Any,
    ) -> None:
        """Compile for these members. `data`: samples and labels of all members, on the devices."""
        first = members[0]
        experiment, plan = first.experiment, first.plan
        self.devices = experiment.devices
        self._data = data
        self._chunk = FIRST_CHUNK
        self._compiled: set[tuple[int, ...]] = set()
        self.shared = shared_leaves(plan, states, has_cut=isinstance(model, FromFeatures))
        spec = plan.spec
        self.objective = plan.objective.build(model, spec)
        num_steps = spec.epochs * first.steps_per_epoch

        def run(state, settings, context, images, labels, start, stop, order):
            optimizer = build_optimizer(spec.optimizer, num_steps, settings.scalars)
            step = steps.make_train_step(
                self.objective,
                optimizer,
                inputs,
                spec.augment,
                plan.frozen,
                settings.class_weights,
                spec.ema,
            )
            loop = steps.make_step_loop(step)
            return loop(state, images, labels, order, start, stop, context)

        evaluate = steps.make_eval_step(self.objective, inputs)

        def outputs(variables, images, rows):
            return evaluate(variables, {"image": images[rows]})

        self.stack = self._stacked(members, states)
        axes = jax.tree.unflatten(self.stack.structure, [None if s else 0 for s in self.shared])
        self._run = self.devices.map_members(
            run, (axes, 0, 0, None, None, None, None, 0), (axes, 0)
        )
        variables, shared = self.stack.state.variables(), self.stack.shared_variables
        axes = jax.tree.unflatten(jax.tree.structure(variables), [None if s else 0 for s in shared])
        self._outputs = self.devices.map_members(outputs, (axes, None, 0), 0)
        for member in members:
            member.program = self

    def _stacked(self, members: Sequence[MemberStage], states: Sequence[Any]) -> Stack:
        return Stack(members, states, self.shared, self.devices)

    def _stack_for(self, chunks: Sequence[MemberChunks]) -> Stack:
        """Return a stack of these members' states: the current one if it differs only by members that have left."""
        stack, members = self.stack, [chunk.stage for chunk in chunks]
        in_place = all(
            isinstance(c.state, MemberState) and c.state.stack is stack for c in chunks
        ) and {id(m) for m in members} == {id(m) for m in stack.members if m.is_active}
        # Slots of members that have left are computed and ignored, until they are half of the stack.
        if in_place and 2 * len(members) > len(stack.members):
            return stack
        return self._stacked(members, [chunk.state for chunk in chunks])

    def train(self, chunks: Sequence[MemberChunks]) -> list[Chunk]:
        """Run the next steps of several members, of equal `MemberChunks.shape`."""
        self.stack = stack = self._stack_for(chunks)
        slots = [stack.slot(chunk.stage) for chunk in chunks]
        start, length, size = chunks[0].shape
        stop = min(start + self._chunk, length)
        order = np.zeros((len(stack.members), length, size), np.int32)
        seeds, epochs = np.zeros(len(order), np.uint32), np.zeros(len(order), np.int32)
        for slot, chunk in zip(slots, chunks, strict=True):
            order[slot], seeds[slot] = chunk.orders[0], chunk.context.seed
            epochs[slot] = chunk.context.epoch
        arguments = self._arguments(stack, order, RngContext(seeds, epochs), start, stop)
        self.compile(order.shape, arguments)
        began = time.monotonic()
        stack.state, metrics = self._run(*arguments)
        metrics = jax.device_get(metrics)
        seconds = time.monotonic() - began
        self._chunk = max(1, int(CHUNK_SECONDS * (stop - start) / max(seconds, 1e-6)))
        return [
            chunk.advance(
                MemberState(stack, slot), stop, {k: v[slot, start:stop] for k, v in metrics.items()}
            )
            for slot, chunk in zip(slots, chunks, strict=True)
        ]

    def _arguments(
        self, stack: Stack, order: np.ndarray, context: RngContext, start: int, stop: int
    ) -> tuple[Any, ...]:
        bounds = np.int32(start), np.int32(stop)
        placed = self.devices.split_orders(order)
        return (stack.state, stack.settings, context, *self._data, *bounds, placed)

    def compile(self, shape: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Compile the steps for an order of this shape, unless already compiled."""
        if shape not in self._compiled:
            self._run.lower(*arguments).compile()
            self._compiled.add(shape)

    def _eval_rows(self, stack: Stack) -> int:
        """Rows per evaluation step, the same for all splits, so that one program evaluates them."""
        longest = max(len(member.rows["validation"]) for member in stack.members)
        longest = max(longest, stack.members[0].experiment.recipe.batch_size)
        bytes_per_row = len(stack.members) * 4 * math.prod(self._data[0].shape[1:])
        fitting = max(1, EVAL_BYTES // bytes_per_row)
        return self.devices.round_up(min(longest, MAX_EVAL_ROWS, fitting))

    def compile_all(self) -> None:
        """Compile for the current stack: the steps of an epoch, and evaluation."""
        stack = self.stack
        zeros = np.zeros(len(stack.members), np.uint32)
        first = stack.members[0]
        for order in epoch_orders(first.batches, 0):
            orders = np.zeros((len(stack.members), *order.shape), np.int32)
            context = RngContext(zeros, zeros.astype(np.int32))
            self.compile(orders.shape, self._arguments(stack, orders, context, 0, 0))
        rows = np.zeros((len(stack.members), self._eval_rows(stack)), np.int32)
        variables = stack.state.variables()
        self._outputs.lower(variables, self._data[0], self.devices.split_rows(rows)).compile()

    def outputs(self, requests: Sequence[Outputs]) -> list[dict[str, np.ndarray] | Exception]:
        """Compute the outputs of all samples of the same split, for several members; see `requests.Outputs`.

        For a member whose `before_batch` raises, the exception is returned.
        """
        stack, members = self.stack, [request.stage for request in requests]
        if not all(isinstance(r.state, MemberState) and r.state.stack is stack for r in requests):
            stack = self._stacked(members, [request.state for request in requests])
        variables = stack.state.variables()
        samples = self._data[0]
        rows = [member.rows[requests[0].split] for member in members]
        longest, count = max(map(len, rows)), len(stack.members)
        size = self._eval_rows(stack)
        order = np.zeros((count, -(-longest // size), size), np.int32)
        for member, of_member in zip(members, rows, strict=True):
            order[stack.slot(member)].flat[: len(of_member)] = of_member
        errors: dict[int, Exception] = {}
        batches: dict[str, list[np.ndarray]] = {}
        for block in range(order.shape[1]):
            for index, request in enumerate(requests):
                try:
                    request.before_batch()
                except Exception as error:
                    errors.setdefault(index, error)
            if len(errors) == len(requests):
                break
            placed = self.devices.split_rows(order[:, block])
            for name, values in jax.device_get(self._outputs(variables, samples, placed)).items():
                # [devices, members, B / devices, ...] to [members, B, ...]
                joined = np.moveaxis(values, 0, 1).reshape(count, size, *values.shape[3:])
                batches.setdefault(name, []).append(joined)
        results: list[dict[str, np.ndarray] | Exception] = []
        for index, (member, of_member) in enumerate(zip(members, rows, strict=True)):
            if index in errors:
                results.append(errors[index])
                continue
            slot = stack.slot(member)
            own = {
                name: np.concatenate([b[slot] for b in of_name])[: len(of_member)]
                for name, of_name in batches.items()
            }
            results.append(own | {"label": member.labels[requests[0].split]})
        return results


def shared_leaves(plan: StagePlan, states: Sequence[Any], *, has_cut: bool) -> list[bool]:
    """Return which leaves of the states members can share: frozen and equal ones, in a stage on features."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(states[0])]
    # A moving average is computed per member, even that of a frozen parameter.
    if not has_cut or plan.spec.ema:
        return [False] * len(paths)
    frozen: Collection[tuple[str, ...]] = plan.frozen
    flat = list(zip(*(jax.tree.leaves(state) for state in states), strict=True))

    def is_shared(path: Any, leaves: Sequence[Any]) -> bool:
        field = path[0].name
        names = (
            tuple(str(key.key) for key in path[1:]) if field in ("params", "batch_stats") else ()
        )
        if field != "batch_stats" and not (field == "params" and names in frozen):
            return False
        return all(x is leaves[0] or np.array_equal(x, leaves[0]) for x in leaves)

    return [is_shared(path, leaves) for path, leaves in zip(paths, flat, strict=True)]
