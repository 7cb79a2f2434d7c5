"""The one training loop: it owns the side effects around the pure step.

Epochs of steps, validation, Keras's two epoch-end rules, best weights, checkpoints; it stops on request and goes on
exactly where it stopped.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import zoo
from train.engine.checkpoints import Checkpoints
from train.engine.experiment import Experiment, StagePlan
from train.engine.feeding import Chunk
from train.engine.optimizers import set_plateau_scale
from train.engine.stage import (
    DeviceData,
    RunningStage,
    abstract_state,
    clock_of,
    first_state,
    prepare,
)
from train.engine.state import LoopState
from train.errors import Diverged, Interrupted
from train.recipe import Stage
from train.record.best import SavedBest
from train.record.log import EpochRecord, NewBest, RunLog, RunStart, StepRecord

CHECKPOINT_SECONDS = 300.0  # between checkpoints inside a long epoch
SAVE_SECONDS = 3.0  # at least, between checkpoints after short epochs


def fit(
    experiment: Experiment,
    checkpoints: Checkpoints,
    log: RunLog,
    *,
    stop: Callable[[], bool] = lambda: False,
    saved_best: SavedBest | None = None,
) -> LoopState:
    """Train through the stages of an experiment, from the newest checkpoint if there is one.

    Args:
      experiment: what to train, on what.
      checkpoints: where the state is saved, each epoch and every few minutes.
      log: told everything that happens.
      stop: asked after each step.
      saved_best: what `best/` holds. Where it is later than the checkpoint, its epoch is trained again, and its weights
        are replaced by better ones only.

    Returns the state in which training ended. Raises Interrupted after saving, Diverged when the loss or a gradient is
    not finite.
    """
    loop = LoopState()
    data = DeviceData(experiment.devices)
    left = None  # by the stage before: its variables
    try:
        if experiment.stages:
            loop = _restored(experiment, checkpoints, log, saved_best)
        log.run_started(RunStart(loop.step, loop.epoch))
        if not experiment.stages:  # the net as it is
            objective = zoo.get_entry(experiment.recipe.model).objective
            variables = experiment.initial_variables()
            log.new_best(NewBest(Stage(objective=objective), variables, {"epoch": 0, "step": 0}))
        for index in range(loop.stage, len(experiment.stages)):
            plan = experiment.stages[index]
            if loop.train is None or left is not None:
                state = first_state(experiment, plan, left)
                loop.start_stage(index, state, comparable=plan.comparable)
            loop.train = experiment.devices.replicate(loop.train)
            if not _is_over(plan, loop):
                if loop.step == 0 and experiment.weights is not None:
                    checkpoints.save(loop)  # from here on the file of weights may go
                running = prepare(experiment, plan, loop, data, log)
                while not _is_over(plan, loop):
                    _train_epoch(experiment, plan, running, loop, checkpoints, log, stop)
                    _end_epoch(experiment, plan, running, loop, log)
                    _save_after_epoch(plan, loop, checkpoints, log, stop)
            log.stage_ended(plan.spec.name)
            assert loop.train is not None
            left = jax.device_get(loop.train.variables())
        checkpoints.wait()
        return loop
    finally:
        log.run_ended()
        checkpoints.close()


def _is_over(plan: StagePlan, loop: LoopState) -> bool:
    return loop.stopped or loop.stage_epoch >= plan.spec.epochs


def _restored(
    experiment: Experiment, checkpoints: Checkpoints, log: RunLog, saved_best: SavedBest | None
) -> LoopState:
    """The state of the newest whole checkpoint, or a new one."""
    restored = checkpoints.restore(
        lambda stage: abstract_state(experiment.stages[stage]),
        lambda text: log.note(f"warning: {text}"),
    )
    if restored is None:
        return LoopState()
    if saved_best is not None and saved_best.step > restored.step:
        restored.best.update(saved_best.score, saved_best.epoch)
    log.note(f"resuming after epoch {restored.epoch}, step {restored.step}")
    return restored


def _train_epoch(
    experiment: Experiment,
    plan: StagePlan,
    running: RunningStage,
    loop: LoopState,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: Callable[[], bool],
) -> None:
    """The steps that are left of an epoch."""
    assert loop.train is not None
    done = loop.stage_step - loop.stage_epoch * running.steps_per_epoch
    pending: Chunk | None = None  # read one chunk late, so that the devices never wait
    last_save = time.monotonic()
    chunks = running.feed.epoch(loop.train, loop.stage_step, clock_of(experiment, loop))
    while done < running.steps_per_epoch:
        began = time.monotonic()
        chunk = next(chunks)
        loop.train = chunk.state
        done += len(chunk.sizes)
        if pending is not None:
            _take(plan, running, loop, pending, log)
        pending = chunk
        is_last, asked_to_stop = done == running.steps_per_epoch, stop()
        if is_last or asked_to_stop or time.monotonic() - last_save > CHECKPOINT_SECONDS:
            _take(plan, running, loop, pending, log)
            pending = None
        elapsed = time.monotonic() - began
        loop.sums.wait_seconds += chunk.waited
        loop.sums.seconds += elapsed
        loop.train_seconds += elapsed
        if asked_to_stop and not is_last:
            _interrupt(loop, checkpoints, log)
        if pending is None and not is_last:
            _save(loop, checkpoints, log)
            last_save = time.monotonic()


def _take(
    plan: StagePlan, running: RunningStage, loop: LoopState, chunk: Chunk, log: RunLog
) -> None:
    """Count and log the steps of a chunk; Diverged when they are no longer finite."""
    metrics = {k: np.atleast_1d(v) for k, v in jax.device_get(chunk.metrics).items()}
    num_steps = plan.spec.epochs * running.steps_per_epoch
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
                place=loop.stage_step - loop.stage_epoch * running.steps_per_epoch,
                steps_per_epoch=running.steps_per_epoch,
                steps_left=num_steps - loop.stage_step,
            )
        )
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            log.flush()
            raise Diverged(
                loop.step,
                f"loss {values['loss']}, gradient norm {values['grad_norm']};"
                f" try a lower --lr than {values['learning_rate']:g}. The last good checkpoint is kept",
            )
        loop.sums.loss += values["loss"] * size
        loop.sums.accuracy += values.get("accuracy", math.nan) * size
        loop.sums.samples += size
        loop.sums.learning_rate = values["learning_rate"]


def _end_epoch(
    experiment: Experiment,
    plan: StagePlan,
    running: RunningStage,
    loop: LoopState,
    log: RunLog,
) -> None:
    """Validate, keep the best, and apply the rules that end an epoch."""
    assert loop.train is not None
    stage, sums, objective = plan.spec, loop.sums, running.objective
    began = time.monotonic()
    outputs = running.outputs(loop.train.variables(), "validation")
    scores = objective.scores(outputs)
    warning = objective.warning(outputs, len(experiment.dataset.class_names))
    if warning and not loop.warned:
        loop.warned = True
        log.note(f"warning: epoch {loop.epoch + 1}: {warning}")
    loop.epoch += 1
    loop.stage_epoch += 1
    by_accuracy = objective.monitor == "accuracy"
    score = scores["accuracy"] if by_accuracy else -scores["loss"]
    # Also when its weights were written before the process was killed, and it is trained again.
    is_best = loop.best.update(score, loop.epoch) or loop.best.epoch == loop.epoch
    if is_best:
        facts: dict[str, Any] = {
            "epoch": loop.epoch,
            "step": loop.step,
            "monitor": objective.monitor,
        }
        facts |= {f"val_{name}": value for name, value in scores.items()}
        log.new_best(NewBest(stage, jax.device_get(loop.train.variables()), facts))
    elapsed = time.monotonic() - began
    sums.seconds += elapsed
    loop.train_seconds += elapsed

    train_accuracy = sums.accuracy / sums.samples
    if math.isnan(train_accuracy) and "accuracy" in scores:  # clusters are matched afterwards
        outputs = running.outputs(loop.train.variables(), "train")
        train_accuracy = objective.scores(outputs)["accuracy"]
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
            is_best=is_best,
            stage_epoch=loop.stage_epoch,
            stage_epochs=stage.epochs,
        )
    )

    scale = loop.plateau.scale
    if loop.plateau.update(scores["loss"], stage.plateau) != scale:
        opt_state = set_plateau_scale(loop.train.opt_state, loop.plateau.scale)
        loop.train = loop.train.replace(opt_state=opt_state)
    loop.stopped = loop.early_stop.update(scores["loss"], stage.early_stop)
    loop.start_epoch()


def _save_after_epoch(
    plan: StagePlan,
    loop: LoopState,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: Callable[[], bool],
) -> None:
    """A checkpoint, unless epochs take so short that it would take longer than what it saves."""
    is_over, asked_to_stop = _is_over(plan, loop), stop()
    if is_over or asked_to_stop or checkpoints.seconds_since_save() > SAVE_SECONDS:
        _save(loop, checkpoints, log)
    if loop.stopped:
        patience = plan.spec.early_stop.patience
        log.note(f"early stop: the validation loss has not fallen for {patience} epochs")
    elif asked_to_stop and not is_over:
        _interrupt(loop, checkpoints, log)


def _save(loop: LoopState, checkpoints: Checkpoints, log: RunLog) -> None:
    log.flush()
    checkpoints.save(loop)


def _interrupt(loop: LoopState, checkpoints: Checkpoints, log: RunLog) -> None:
    _save(loop, checkpoints, log)
    checkpoints.wait()
    raise Interrupted(f"interrupted at step {loop.step}")
