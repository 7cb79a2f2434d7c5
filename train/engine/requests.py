"""The device work of a training loop, as requests.

`fit.train` is a generator: where it needs the devices, it yields a request and receives the result. `run` handles the
requests of one loop. `train.engine.together` handles those of several loops, and runs matching ones as one program.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from train.engine.experiment import Experiment, StagePlan
from train.engine.feeding import Chunk
from train.engine.state import LoopState
from train.engine.steps import TrainState
from train.record.log import RunLog


@dataclass(frozen=True)
class Prepare:
    """Prepare a stage and compile its steps: a `PreparedStage`. Moves `loop.train` to the devices."""

    experiment: Experiment
    plan: StagePlan
    loop: LoopState
    log: RunLog


@dataclass(frozen=True)
class NextChunk:
    """Run the next training steps of an epoch: a `Chunk`."""

    chunks: Iterator[Chunk]


@dataclass(frozen=True)
class Outputs:
    """Compute the objective's outputs for all samples of a split: arrays [N, ...] in host memory."""

    stage: Any  # PreparedStage
    state: TrainState
    split: str
    before_batch: Callable[[], None] = lambda: None  # may raise to stop


Request = Prepare | NextChunk | Outputs
Routine = Generator[Request, Any, LoopState]


def run(routine: Routine, prepare: Callable[[Prepare], Any]) -> LoopState:
    """Run a training loop alone and return its result; errors of its requests are raised inside the loop."""
    result: Any = None
    error: Exception | None = None
    while True:
        try:
            request = routine.send(result) if error is None else routine.throw(error)
        except StopIteration as end:
            return end.value
        result, error = None, None
        try:
            match request:
                case Prepare():
                    result = prepare(request)
                case NextChunk(chunks):
                    result = next(chunks)
                case Outputs(stage, state, split, before_batch):
                    result = stage.outputs(state.variables(), split, before_batch)
        except Exception as raised:
            error = raised
