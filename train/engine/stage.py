"""A stage made ready: its samples, its objective, its compiled steps."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from datasets.dataset import Labeled, VectorSplit
from datasets.pipeline import Samples, TrainBatches, eval_batches, load_arrays
from train.engine import features, steps
from train.engine.evaluation import run_outputs
from train.engine.experiment import Experiment, StagePlan
from train.engine.feeding import Resident, Stepwise
from train.engine.inputs import Inputs, VectorInputs
from train.engine.objectives import OBJECTIVES, Objective, balanced_weights
from train.engine.parallel import Devices
from train.engine.state import LoopState
from train.engine.transitions import TRANSITIONS, Transition
from train.recipe import Augmentation
from train.record.log import RunLog


class DeviceData:
    """Samples that stay in the memory of the devices from one stage to the next."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._train: tuple[Samples, Any] | None = None
        self._validation: tuple[Samples, list[dict[str, Any]]] | None = None

    def train(self, samples: Samples) -> Any:
        """All samples and labels, on every device."""
        if self._train is None or self._train[0] != samples:
            self._train = None  # makes room
            self._train = samples, self._devices.replicate(load_arrays(samples))
        return self._train[1]

    def validation(self, samples: Samples, batch_size: int) -> list[dict[str, Any]]:
        """Evaluation batches, split over the devices."""
        if self._validation is None or self._validation[0] != samples:
            self._validation = None
            placed = [
                batch | self._devices.split({"image": batch["image"]})
                for batch in eval_batches(samples, batch_size=batch_size)
            ]
            self._validation = samples, placed
        return self._validation[1]


@dataclasses.dataclass
class RunningStage:
    """What the loop needs of a stage."""

    objective: Objective
    feed: Stepwise | Resident
    steps_per_epoch: int
    _eval_step: Any
    _evaluated: Mapping[str, Iterable[dict[str, Any]]]  # batches of each part, again and again

    def outputs(self, variables: dict[str, Any], part: str) -> dict[str, np.ndarray]:
        """What the objective's outputs are for every sample of a part."""
        return run_outputs(self._eval_step, variables, self._evaluated[part])

    def compile(self, loop: LoopState, clock: steps.Clock) -> None:
        """Compile every shape that the stage needs; run no training step."""
        assert loop.train is not None
        self.feed.compile(loop.train, clock)
        first = next(iter(self._evaluated["validation"]))
        self._eval_step(loop.train.variables(), {"image": first["image"]})


class _Batches:
    """Evaluation batches that can be gone through many times."""

    def __init__(self, samples: Samples, batch_size: int) -> None:
        self._samples, self._batch_size = samples, batch_size

    def __iter__(self) -> Any:
        return iter(eval_batches(self._samples, batch_size=self._batch_size))


def first_state(
    experiment: Experiment, plan: StagePlan, before: dict[str, Any] | None
) -> steps.TrainState:
    """The state that a stage begins with; `before` holds the variables that the stage before it has left."""
    variables = experiment.initial_variables(plan.module) if before is None else before
    if before is not None or plan.spec.start != "continue":

        def latents(variables: dict[str, Any]) -> np.ndarray:
            objective = OBJECTIVES["autoencoder"].build(plan.module, plan.spec)
            step = steps.make_eval_step(objective, experiment.inputs)
            samples = experiment.inputs.evaluation(experiment.dataset.splits["train"])
            batches = _Batches(samples, experiment.recipe.batch_size)
            devices = experiment.devices
            compiled = devices.compile_eval_step(step)
            return run_outputs(compiled, devices.replicate(variables), batches)["latent"]

        given = Transition(plan.module, variables, experiment.recipe.seed, latents)
        variables = TRANSITIONS[plan.spec.start](given)
    return steps.init_state(variables, plan.optimizer, plan.frozen, ema=plan.spec.ema > 0)


@dataclasses.dataclass(frozen=True)
class Steps:
    """What a stage computes, not compiled: see `train.engine.steps`."""

    objective: Objective
    train: Any
    evaluate: Any


def make_steps(
    experiment: Experiment,
    plan: StagePlan,
    *,
    model: Any = None,
    inputs: Inputs | None = None,
    class_weights: np.ndarray | None = None,
) -> Steps:
    """The steps of a stage, with its own model and inputs unless others are given in their place."""
    model = experiment.devices.synchronised(plan.module) if model is None else model
    inputs = experiment.inputs if inputs is None else inputs
    stage = plan.spec
    objective = plan.objective.build(model, stage)
    train = steps.make_train_step(
        objective, plan.optimizer, inputs, stage.augment, plan.frozen, class_weights, stage.ema
    )
    return Steps(objective, train, steps.make_eval_step(objective, inputs))


def abstract_state(plan: StagePlan) -> steps.TrainState:
    """Structure, shapes and types of a stage's state, for checkpoints; nothing is computed."""

    def make(variables: dict[str, Any]) -> steps.TrainState:
        return steps.init_state(variables, plan.optimizer, plan.frozen, ema=plan.spec.ema > 0)

    return jax.eval_shape(make, plan.abstract)


def prepare(
    experiment: Experiment, plan: StagePlan, loop: LoopState, data: DeviceData, log: RunLog
) -> RunningStage:
    """Everything that a stage needs, compiled; `loop.train` is on the devices already."""
    assert loop.train is not None
    recipe, stage, devices = experiment.recipe, plan.spec, experiment.devices
    if plan.frozen:
        total = len(jax.tree.leaves(loop.train.params))
        log.note(f"frozen: {len(plan.frozen)} of {total} arrays of parameters")
    model: Any = None
    splits: Mapping[str, Labeled] = experiment.dataset.splits
    inputs: Inputs = experiment.inputs
    cut = _cut(experiment, plan, loop.train)
    if cut is not None:
        model = features.FromFeatures(devices.synchronised(plan.module), cut)
        splits = _frozen_features(experiment, plan, cut, loop, log)
        inputs = VectorInputs(cut.feature_shape)

    weights = None
    if stage.balance == "class_weights":
        weights = balanced_weights(splits["train"].labels, len(experiment.dataset.class_names))
    made = make_steps(experiment, plan, model=model, inputs=inputs, class_weights=weights)
    batches = TrainBatches(
        inputs.training(splits["train"], stage.augment),
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        keep_tail=recipe.keep_tail,
        num_epochs=stage.epochs,
        multiple_of=len(devices),
        repeats=stage.augment.crops_per_image,
        balanced=stage.balance == "sampling",
    )
    evaluated: dict[str, Iterable[dict[str, Any]]] = {
        part: _Batches(inputs.evaluation(splits[part]), recipe.batch_size)
        for part in ("train", "validation")
    }
    feed: Stepwise | Resident
    if experiment.feed == "stepwise":
        feed = Stepwise(batches, devices, made.train)
    else:
        feed = Resident(batches, devices, made.train, *data.train(batches.samples))
        evaluated["validation"] = data.validation(
            inputs.evaluation(splits["validation"]), recipe.batch_size
        )
    eval_step = devices.compile_eval_step(made.evaluate)
    running = RunningStage(made.objective, feed, batches.steps_per_epoch, eval_step, evaluated)

    began = time.monotonic()
    log.note("compiling the training step ...")
    running.compile(loop, clock_of(experiment, loop))
    log.note(f"compiled in {time.monotonic() - began:.1f} s")
    return running


def clock_of(experiment: Experiment, loop: LoopState) -> steps.Clock:
    """What randomness depends on in the epoch under way."""
    return steps.Clock(np.uint32(experiment.recipe.seed), np.int32(loop.epoch))


def _cut(experiment: Experiment, plan: StagePlan, state: steps.TrainState) -> features.Cut | None:
    """Where the frozen part of the model ends, if what it gives is the same at every visit of an image."""
    augment = dataclasses.replace(plan.spec.augment, crops_per_image=1)
    # An objective of another package may call the model in other ways.
    is_classification = plan.objective is OBJECTIVES["classification"]
    if not plan.frozen or augment != Augmentation() or not is_classification:
        return None
    if isinstance(experiment.inputs, VectorInputs):
        return None
    return features.cut(
        plan.module,
        {"params": state.params, "batch_stats": state.batch_stats},
        experiment.inputs.shape,
        plan.frozen,
    )


def _frozen_features(
    experiment: Experiment,
    plan: StagePlan,
    cut: features.Cut,
    loop: LoopState,
    log: RunLog,
) -> dict[str, Labeled]:
    """What the frozen part gives for each training and validation image, in place of the images."""
    assert loop.train is not None
    began = time.monotonic()
    splits, inputs = experiment.dataset.splits, experiment.inputs
    found = features.extract(
        features.cut_step(plan.module, cut, inputs),
        loop.train.variables(),
        {
            "train": inputs.training(splits["train"], plan.spec.augment),
            "validation": inputs.evaluation(splits["validation"]),
        },
        experiment.devices,
        batch_size=experiment.recipe.batch_size,
        progress=log.working,
    )
    elapsed = time.monotonic() - began
    loop.train_seconds += elapsed
    log.note(f"features: what is frozen was computed once for each image, in {elapsed:.1f} s")
    return {part: VectorSplit(splits[part], values) for part, values in found.items()}
