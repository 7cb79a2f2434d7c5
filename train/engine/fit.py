"""The training loop. It owns all side effects around the pure step.

The loop runs epochs of steps, validation and Keras's two end-of-epoch rules, reports the best weights and saves
checkpoints. It stops on request and resumes exactly where it stopped.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np

import zoo
from train.analysis.probes import probe_accuracy
from train.engine.checkpoints import Checkpoints
from train.engine.experiment import Experiment, StagePlan
from train.engine.feeding import Chunk
from train.engine.optimizers import set_plateau_scale
from train.engine.requests import NextChunk, Outputs, Prepare, Request, Routine, run
from train.engine.stage import (
    DeviceCache,
    PreparedStage,
    abstract_state,
    initial_state,
    prepare,
    rng_context,
)
from train.engine.state import LoopState
from train.errors import Diverged, InputError, Interrupted, RunError
from train.recipe import Stage
from train.record.log import EpochRecord, NewBest, RunLog, RunStart, StepRecord

CHECKPOINT_SECONDS = 300.0  # between checkpoints within a long epoch
# Largest dimension of latents that `Probe.every_epoch` scores: an SVM on 100,000 features would take minutes.
MAX_PROBED_FEATURES = 4096
MIN_CHECKPOINT_SECONDS = 3.0  # between checkpoints after short epochs


def fit(
    experiment: Experiment,
    checkpoints: Checkpoints,
    log: RunLog,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> LoopState:
    """Train all stages of an experiment, starting from the newest checkpoint if there is one.

    Args:
      experiment: the model to train and the data.
      checkpoints: where the state is saved, after epochs and every few minutes.
      log: receives all events.
      stop: called after each step; training stops if it returns True.

    Returns:
      The final state.

    Raises:
      Interrupted: stopped on request; the state is saved.
      Diverged: the loss or the gradient norm is not finite.
      RunError: data can no longer be read; the state is saved.
    """
    cache = DeviceCache(experiment.devices)

    def prepare_stage(request: Prepare) -> PreparedStage:
        loop = request.loop
        loop.train = experiment.devices.replicate(loop.train)
        return prepare(experiment, request.plan, loop, cache, log)

    routine = train(experiment, checkpoints, log, stop=stop)
    try:
        return run(routine, prepare_stage)
    finally:
        checkpoints.close()


def train(
    experiment: Experiment,
    checkpoints: Checkpoints,
    log: RunLog,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    save_seconds: float | None = None,
) -> Routine:
    """Train as `fit` does, with all work on the devices left to whoever handles the requests.

    The caller closes `checkpoints`. If training is stopped on request, only that waits for the last save.

    Args:
      experiment, checkpoints, log, stop: see `fit`.
      clock: the run's own time in seconds, from which the log's speeds follow.
      save_seconds: for many runs at once, whose checkpoints would take longer than their training: minimum time between
        checkpoints, also before the first one and at the end of a stage, except for the last stage. Default: the
        first epoch and each stage are saved, and epochs after `MIN_CHECKPOINT_SECONDS`.
    """
    loop = LoopState()
    previous = None  # variables at the end of the previous stage
    try:
        if experiment.stages:
            loop = _restore(experiment, checkpoints, log)
        if save_seconds is not None:
            checkpoints.postpone()
        log.run_started(RunStart(loop.step, loop.epoch))
        if not experiment.stages:  # nothing to train: report the initial variables
            objective = zoo.get_entry(experiment.recipe.model).objective
            variables = experiment.initial_variables()
            log.new_best(NewBest(Stage(objective=objective), variables, {"epoch": 0, "step": 0}))
        for index in range(loop.stage, len(experiment.stages)):
            plan = experiment.stages[index]
            if loop.train is None or previous is not None:
                state = initial_state(experiment, plan, previous)
                loop.start_stage(index, state, comparable=plan.comparable)
            if not _is_finished(plan, loop):
                if loop.step == 0 and experiment.weights is not None:
                    checkpoints.save(loop)  # a resumed run does not need the weights file
                try:
                    prepared = yield Prepare(experiment, plan, loop, log)
                    while not _is_finished(plan, loop):
                        yield from _train_epoch(
                            experiment, plan, prepared, loop, checkpoints, log, stop, clock
                        )
                        yield from _end_epoch(experiment, plan, prepared, loop, log, stop, clock)
                        _save_after_epoch(
                            experiment, plan, loop, checkpoints, log, stop, save_seconds
                        )
                except _StopValidation:
                    _interrupt(loop, checkpoints, log)
                except InputError as error:  # such as an image that has been deleted
                    _save(loop, checkpoints, log)
                    checkpoints.wait()
                    raise RunError(
                        f"{error}; training is saved at step {loop.step}, and the same command resumes it"
                    ) from error
            log.stage_ended(plan.spec.name)
            assert loop.train is not None
            previous = jax.device_get(loop.train.variables())
            # Preparing the next stage may take a long time.
            if plan is not experiment.stages[-1] and stop():
                _interrupt(loop, checkpoints, log)
        checkpoints.wait()
        return loop
    finally:
        log.run_ended()


class _StopValidation(Exception):
    """A stop was requested during validation; a resumed run repeats the validation."""


def _is_finished(plan: StagePlan, loop: LoopState) -> bool:
    return loop.stopped or loop.stage_epoch >= plan.spec.epochs


def _restore(experiment: Experiment, checkpoints: Checkpoints, log: RunLog) -> LoopState:
    """Restore the newest intact checkpoint, or create a new state."""
    restored = checkpoints.restore(
        lambda stage: abstract_state(experiment.stages[stage]),
        lambda text: log.note(f"warning: {text}"),
    )
    if restored is None:
        return LoopState()
    log.note(f"resuming after epoch {restored.epoch}, step {restored.step}")
    return restored


def _train_epoch(
    experiment: Experiment,
    plan: StagePlan,
    prepared: PreparedStage,
    loop: LoopState,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: Callable[[], bool],
    clock: Callable[[], float],
) -> Generator[Request, Any, None]:
    """Run the remaining steps of an epoch."""
    assert loop.train is not None
    done = loop.stage_step - loop.stage_epoch * prepared.steps_per_epoch
    pending: Chunk | None = None  # read one chunk late, so that the devices never wait for the host
    last_save = time.monotonic()
    chunks = prepared.epoch(loop.train, loop.stage_step, rng_context(experiment, loop))
    while done < prepared.steps_per_epoch:
        began = clock()
        try:
            chunk = yield NextChunk(chunks)
        except InputError:
            if pending is not None:  # so that `loop` is the state after the last step
                _record_chunk(plan, prepared, loop, pending, checkpoints, log)
            raise
        loop.train = chunk.state
        done += len(chunk.sizes)
        if pending is not None:
            _record_chunk(plan, prepared, loop, pending, checkpoints, log)
        pending = chunk
        is_last, asked_to_stop = done == prepared.steps_per_epoch, stop()
        if is_last or asked_to_stop or time.monotonic() - last_save > CHECKPOINT_SECONDS:
            _record_chunk(plan, prepared, loop, pending, checkpoints, log)
            pending = None
        elapsed = clock() - began
        loop.sums.wait_seconds += chunk.wait_seconds
        loop.sums.seconds += elapsed
        loop.train_seconds += elapsed
        if asked_to_stop and not is_last:
            _interrupt(loop, checkpoints, log)
        if pending is None and not is_last:
            _save(loop, checkpoints, log)
            last_save = time.monotonic()


def _record_chunk(
    plan: StagePlan,
    prepared: PreparedStage,
    loop: LoopState,
    chunk: Chunk,
    checkpoints: Checkpoints,
    log: RunLog,
) -> None:
    """Count and log the steps of a chunk. Raises Diverged if the loss or the gradient norm is not finite."""
    metrics = {k: np.atleast_1d(v) for k, v in jax.device_get(chunk.metrics).items()}
    num_steps = plan.spec.epochs * prepared.steps_per_epoch
    for index, size in enumerate(chunk.sizes):
        loop.step += 1
        loop.stage_step += 1
        values = {name: float(each[index]) for name, each in metrics.items()}
        log.step(
            StepRecord(
                step=loop.step,
                epoch=loop.epoch + 1,
                stage=plan.spec.name,
                values=values,
                epoch_step=loop.stage_step - loop.stage_epoch * prepared.steps_per_epoch,
                steps_per_epoch=prepared.steps_per_epoch,
                steps_left=num_steps - loop.stage_step,
            )
        )
        for name, value in (("loss", values["loss"]), ("gradient norm", values["grad_norm"])):
            if not math.isfinite(value):
                log.flush()
                raise Diverged(loop.step, name, _advice(values["learning_rate"], checkpoints))
        loop.sums.loss += values["loss"] * size
        loop.sums.accuracy += values.get("accuracy", math.nan) * size
        loop.sums.samples += size
        loop.sums.learning_rate = values["learning_rate"]


def _advice(learning_rate: float, checkpoints: Checkpoints) -> str:
    """Say what is saved and what to do after training diverged."""
    checkpoints.wait()
    step = checkpoints.latest_step()
    if step is None:
        saved = "There is no checkpoint yet"
    else:
        saved = f"The last checkpoint, of step {step}, is kept, but resuming it would repeat these steps"
    return f"{saved}: start again with a lower --lr than {learning_rate:g} and another --workdir"


def _end_epoch(
    experiment: Experiment,
    plan: StagePlan,
    prepared: PreparedStage,
    loop: LoopState,
    log: RunLog,
    stop: Callable[[], bool],
    clock: Callable[[], float],
) -> Generator[Request, Any, None]:
    """Validate, report a new best epoch, and apply the end-of-epoch rules.

    Changes `loop` only after all data are read, so that it can be saved if that fails or is stopped.
    """

    def raise_if_stopped() -> None:
        if stop():
            raise _StopValidation

    assert loop.train is not None
    stage, sums, objective = plan.spec, loop.sums, prepared.objective
    began = clock()
    outputs = yield Outputs(prepared, loop.train, "validation", raise_if_stopped)
    scores = objective.scores(outputs)
    if experiment.recipe.probe.every_epoch and "accuracy" not in scores:
        scores |= yield from _probe(experiment, prepared, loop, outputs)
    warning = objective.warning(outputs, len(experiment.dataset.class_names))
    if warning and not loop.warned:
        loop.warned = True
        log.note(f"warning: epoch {loop.epoch + 1}: {warning}")
    elapsed = clock() - began
    train_accuracy = sums.accuracy / sums.samples
    if math.isnan(train_accuracy) and "cluster_log_probabilities" in outputs:
        # Clusters are matched after the epoch.
        outputs = yield Outputs(prepared, loop.train, "train", raise_if_stopped)
        train_accuracy = objective.scores(outputs)["accuracy"]
    began = clock()
    loop.epoch += 1
    loop.stage_epoch += 1
    monitor: str = objective.monitor if stage.monitor == "auto" else stage.monitor
    if experiment.recipe.score == "last":
        monitor, loop.best.epoch = "epoch", loop.epoch
    else:
        loop.best.update(-_to_minimize(scores, monitor), loop.epoch)
    # An epoch that is trained again because the process was killed before its checkpoint also rewrites its weights.
    is_best = loop.best.epoch == loop.epoch  # with score="last", every epoch is written to best/
    if is_best:
        facts: dict[str, Any] = {"epoch": loop.epoch, "step": loop.step, "monitor": monitor}
        facts |= {f"val_{name}": value for name, value in scores.items()}
        log.new_best(NewBest(stage, jax.device_get(loop.train.variables()), facts))
    elapsed += clock() - began
    sums.seconds += elapsed
    loop.train_seconds += elapsed
    log.epoch(
        EpochRecord(
            epoch=loop.epoch,
            step=loop.step,
            stage=stage.name,
            train_loss=sums.loss / sums.samples,
            train_accuracy=train_accuracy,
            val_loss=scores["loss"],
            val_accuracy=scores.get("accuracy", math.nan),
            learning_rate=sums.learning_rate,
            seconds=round(sums.seconds, 3),
            images_per_second=round(sums.samples / sums.seconds, 2),
            data_wait_share=round(sums.wait_seconds / sums.seconds, 4),
            is_best=is_best and experiment.recipe.score == "best",
            stage_epoch=loop.stage_epoch,
            stage_epochs=stage.epochs,
        )
    )

    scale = loop.plateau.scale
    if loop.plateau.update(_to_minimize(scores, stage.plateau.monitor), stage.plateau) != scale:
        opt_state = set_plateau_scale(loop.train.opt_state, loop.plateau.scale)
        loop.train = loop.train.replace(opt_state=opt_state)
    monitored = _to_minimize(scores, stage.early_stop.monitor)
    loop.stopped = loop.early_stop.update(monitored, stage.early_stop)
    loop.start_epoch()


def _to_minimize(scores: Mapping[str, float], monitor: str) -> float:
    """The loss, or the negative accuracy."""
    return scores["loss"] if monitor == "loss" else -scores["accuracy"]


def _probe(
    experiment: Experiment,
    prepared: PreparedStage,
    loop: LoopState,
    validation: Mapping[str, np.ndarray],
) -> Generator[Request, Any, dict[str, float]]:
    """Accuracy of the recipe's probe on the latents; empty for the wide feature map of a net without bottleneck."""
    assert loop.train is not None
    if validation["latent"].shape[1] > MAX_PROBED_FEATURES:
        return {}
    train = yield Outputs(prepared, loop.train, "train")
    accuracy = probe_accuracy(
        experiment.recipe.probe,
        (train["latent"], train["label"]),
        (validation["latent"], validation["label"]),
        len(experiment.dataset.class_names),
        experiment.recipe.seed,
    )
    return {"accuracy": accuracy}


def _save_after_epoch(
    experiment: Experiment,
    plan: StagePlan,
    loop: LoopState,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: Callable[[], bool],
    save_seconds: float | None,
) -> None:
    """Save a checkpoint, unless epochs are so short that saving would take longer than training."""
    is_finished, asked_to_stop = _is_finished(plan, loop), stop()
    pause = MIN_CHECKPOINT_SECONDS if save_seconds is None else save_seconds
    is_last = is_finished and (save_seconds is None or plan is experiment.stages[-1])
    if is_last or asked_to_stop or checkpoints.seconds_since_save() > pause:
        _save(loop, checkpoints, log)
    if loop.stopped:
        rule = plan.spec.early_stop
        epochs = "epoch" if rule.patience == 1 else "epochs"
        log.note(
            f"early stop: no improvement of the validation {rule.monitor} for {rule.patience} {epochs}"
        )
    elif asked_to_stop and not is_finished:
        _interrupt(loop, checkpoints, log)


def _save(loop: LoopState, checkpoints: Checkpoints, log: RunLog) -> None:
    log.flush()
    checkpoints.save(loop)


def _interrupt(loop: LoopState, checkpoints: Checkpoints, log: RunLog) -> None:
    _save(loop, checkpoints, log)
    raise Interrupted(f"interrupted at step {loop.step}")
