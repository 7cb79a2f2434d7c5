"""Training several experiments in lockstep, with equal requests of their loops run as one program.

Each loop is `fit.train`, so each run records and saves what it would alone. Its results equal those of a single run up
to rounding, which depends on the compiled program.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from datasets.dataset import Labeled
from train.engine import features
from train.engine import stage as stages
from train.engine.experiment import Experiment
from train.engine.features import Cut
from train.engine.inputs import Inputs, VectorInputs
from train.engine.members import MemberChunks, MemberStage, MemberState, Program, Table
from train.engine.requests import NextChunk, Outputs, Prepare, Request, Routine
from train.engine.state import LoopState
from train.record.log import RunLog


class Clock:
    """Time of one run in seconds: its work on the host, and its share of the joint work."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        """Seconds so far."""
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return self._seconds + running

    def start(self) -> None:
        """Start counting."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """Stop counting."""
        self._seconds, self._since = self(), None

    def add(self, seconds: float) -> None:
        """Add the run's share of joint work, in seconds."""
        self._seconds += seconds


def can_train_together(experiment: Experiment) -> bool:
    """Whether all stages train on vectors, or only a head on the features of a frozen backbone."""
    if not experiment.stages:
        return False
    if isinstance(experiment.inputs, VectorInputs):
        return True
    if any(plan.spec.ema for plan in experiment.stages):
        return False
    return all(stages.find_cut(experiment, plan) is not None for plan in experiment.stages)


class Group:
    """Experiments that `can_train_together`, with recipes that differ only in seeds, splits and scalar settings."""

    def __init__(self, experiments: Sequence[Experiment], log: RunLog) -> None:
        """`log` receives notes and progress of joint work."""
        self._experiments, self._log = experiments, log
        self._cuts: dict[int, Cut | None] = {}
        self._features: dict[tuple[int, str], dict[str, Labeled]] = {}

    def cut(self, index: int = -1) -> Cut | None:
        """Where features enter the model of a stage; None if the samples are vectors."""
        first = self._experiments[0]
        if isinstance(first.inputs, VectorInputs):
            return None
        if index not in self._cuts:
            self._cuts[index] = stages.find_cut(first, first.stages[index])
        return self._cuts[index]

    def features(self, experiment: Experiment, variables: Mapping[str, Any]) -> dict[str, Labeled]:
        """Features of all images of an experiment. The backbone is the same in all stages, since it is frozen."""
        cut, plan = self.cut(), experiment.stages[-1]
        assert cut is not None
        key = id(experiment.dataset), stages.backbone_digest(plan, variables)
        if key not in self._features:
            names = tuple(experiment.dataset.splits)
            self._features[key] = stages.extract_features(
                experiment, plan, cut, variables, names, self._log.progress
            )
        return self._features[key]

    def prepare(self, requests: Sequence[Prepare]) -> list[MemberStage]:
        """Prepare the same stage of several experiments, and compile a program for all whose epochs have equal
        shapes."""
        first = requests[0]
        cut, table = self.cut(first.loop.stage), Table()
        model, inputs = first.plan.module, first.experiment.inputs
        devices = first.experiment.devices
        model = devices.synchronized(model)
        if cut is not None:
            model, inputs = features.FromFeatures(model, cut), VectorInputs(cut.feature_shape)
        members = [self._member(request, cut, inputs, table) for request in requests]
        data = devices.replicate(table.arrays())
        by_shape: dict[Any, list[int]] = {}
        for number, member in enumerate(members):
            shape = member.steps_per_epoch, member.batches.batch_sizes
            by_shape.setdefault(shape, []).append(number)
        began = time.monotonic()
        self._log.note("compiling the training step ...")
        for chosen in by_shape.values():
            loops = [requests[i].loop for i in chosen]
            stage_members = [members[i] for i in chosen]
            program = Program(stage_members, model, inputs, [loop.train for loop in loops], data)
            for slot, loop in enumerate(loops):
                loop.train = MemberState(program.stack, slot)  # type: ignore[assignment]
            program.compile_all()
        self._log.note(f"compiled in {time.monotonic() - began:.1f} s")
        return members

    def _member(
        self, request: Prepare, cut: Cut | None, inputs: Inputs, table: Table
    ) -> MemberStage:
        splits: Mapping[str, Labeled] = request.experiment.dataset.splits
        if cut is not None:
            assert request.loop.train is not None
            splits = self.features(request.experiment, request.loop.train.variables())
        return MemberStage(request.experiment, request.plan, splits, inputs, table)

    def run(
        self, routines: Sequence[Routine], clocks: Sequence[Clock]
    ) -> list[LoopState | Exception]:
        """Run the training loops (`fit.train`) of all experiments. Returns what each returned or raised."""
        lockstep = _Lockstep(self, routines, clocks)
        try:
            return lockstep.run()
        finally:
            for routine in routines:
                routine.close()


class _Lockstep:
    def __init__(self, group: Group, routines: Sequence[Routine], clocks: Sequence[Clock]) -> None:
        self._group, self._routines, self._clocks = group, routines, clocks
        self._pending: dict[int, Request] = {}
        self._ended: dict[int, LoopState | Exception] = {}
        self._stages: dict[int, MemberStage] = {}

    def run(self) -> list[LoopState | Exception]:
        for number in range(len(self._routines)):
            self._advance(number, None)
        while self._pending:
            for numbers, work in self._next():
                began = time.monotonic()
                results: Sequence[Any]
                try:
                    results = work([self._pending[n] for n in numbers])
                except Exception as error:
                    results = [error] * len(numbers)
                share = (time.monotonic() - began) / len(numbers)
                for number, result in zip(numbers, results, strict=True):
                    self._clocks[number].add(share)
                    self._advance(number, result)
        return [self._ended[number] for number in range(len(self._routines))]

    def _next(self) -> Iterator[tuple[list[int], Callable[[Sequence[Any]], Sequence[Any]]]]:
        """Split the pending requests into those that run together; a stage starts when all loops have reached it."""
        pending = dict(self._pending)
        partition: dict[Any, list[int]] = {}
        for number, request in pending.items():
            if isinstance(request, NextChunk):
                chunks = request.chunks
                assert isinstance(chunks, MemberChunks)
                key: Any = ("train", id(chunks.stage.program), chunks.shape)
            elif isinstance(request, Outputs):
                key = ("outputs", id(request.stage.program), request.split)
            else:
                continue
            partition.setdefault(key, []).append(number)
        for (kind, *_), numbers in partition.items():
            yield numbers, self._train if kind == "train" else self._outputs
        if partition:
            return
        starting = {n: r for n, r in pending.items() if isinstance(r, Prepare)}
        stage = min(r.loop.stage for r in starting.values())
        yield [n for n, r in starting.items() if r.loop.stage == stage], self._group.prepare

    def _train(self, requests: Sequence[Any]) -> Sequence[Any]:
        return requests[0].chunks.stage.program.train([request.chunks for request in requests])

    def _outputs(self, requests: Sequence[Any]) -> Sequence[Any]:
        return requests[0].stage.program.outputs(requests)

    def _advance(self, number: int, result: Any) -> None:
        """Send a result, or an exception, to a loop, and run it up to its next request."""
        routine, clock = self._routines[number], self._clocks[number]
        if isinstance(result, MemberStage):
            self._stages[number] = result
        self._pending.pop(number, None)
        clock.start()
        try:
            failed = isinstance(result, Exception)
            request = routine.throw(result) if failed else routine.send(result)
        except StopIteration as end:
            self._ended[number] = end.value
        except Exception as error:
            self._ended[number] = error
        else:
            self._pending[number] = request
        finally:
            clock.stop()
        is_in_stage = isinstance(self._pending.get(number), NextChunk | Outputs)
        if number in self._stages and not is_in_stage:
            self._stages[number].is_active = False
