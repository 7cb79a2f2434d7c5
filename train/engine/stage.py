"""Prepares a stage: its samples, objective and compiled steps."""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from datasets.dataset import Labeled, Progress, VectorSplit
from datasets.pipeline import Samples, TrainBatches, eval_batches, load_arrays
from datasets.views import joined
from train.engine import feature_store, features, freezing, steps
from train.engine.checkpoints import digest
from train.engine.evaluation import collect_outputs
from train.engine.experiment import Experiment, StagePlan
from train.engine.feeding import Cached, Chunk, Streamed
from train.engine.inputs import Inputs, VectorInputs
from train.engine.memo import memoized
from train.engine.objectives import OBJECTIVES, Objective, balanced_weights
from train.engine.parallel import Devices
from train.engine.state import LoopState
from train.engine.transitions import TRANSITIONS, TransitionContext
from train.recipe import Augmentation, Stage
from train.record.log import RunLog


class DeviceCache:
    """Samples kept in device memory from one stage to the next."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._train: tuple[Samples, Any] | None = None
        self._validation: tuple[Samples, list[dict[str, Any]]] | None = None

    def train(self, samples: Samples) -> Any:
        """All samples and labels, on every device."""
        if self._train is None or self._train[0] != samples:
            self._train = None  # free memory first
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
class PreparedStage:
    """Everything that the training loop needs for a stage."""

    objective: Objective
    feed: Streamed | Cached
    steps_per_epoch: int
    _eval_step: Any
    _eval_batches: Mapping[str, Iterable[dict[str, Any]]]  # by split; can be iterated repeatedly

    def epoch(
        self, state: steps.TrainState, stage_step: int, context: steps.RngContext
    ) -> Iterator[Chunk]:
        """Run the steps from `stage_step` to the end of its epoch."""
        return self.feed.epoch(state, stage_step, context)

    def outputs(
        self, variables: dict[str, Any], split: str, before_batch: Callable[[], None] = lambda: None
    ) -> dict[str, np.ndarray]:
        """Compute the objective's outputs for every sample of a split. `before_batch` may raise to stop."""

        def batches() -> Iterator[dict[str, Any]]:
            for batch in self._eval_batches[split]:
                before_batch()
                yield batch

        return collect_outputs(self._eval_step, variables, batches())

    def compile(self, loop: LoopState, context: steps.RngContext) -> None:
        """Compile the steps for every batch shape of the stage, without training."""
        assert loop.train is not None
        self.feed.compile(loop.train, context)
        first = next(iter(self._eval_batches["validation"]))
        self._eval_step(loop.train.variables(), {"image": first["image"]})


class _Batches:
    """Evaluation batches that can be iterated repeatedly."""

    def __init__(self, samples: Samples, batch_size: int) -> None:
        self._samples, self._batch_size = samples, batch_size

    def __iter__(self) -> Any:
        return iter(eval_batches(self._samples, batch_size=self._batch_size))


def initial_state(
    experiment: Experiment, plan: StagePlan, previous: dict[str, Any] | None
) -> steps.TrainState:
    """Create the state at the beginning of a stage.

    `previous`: variables at the end of the previous stage; None for the first stage.
    """
    variables = experiment.initial_variables(plan.module) if previous is None else previous
    if previous is not None or plan.spec.start != "continue":

        def latents(variables: dict[str, Any]) -> np.ndarray:
            samples = experiment.inputs.eval_samples(experiment.dataset.splits["train"])
            batches = _Batches(samples, experiment.recipe.batch_size)
            devices = experiment.devices
            compiled = _latents_step(devices, plan.module, experiment.inputs)
            return collect_outputs(compiled, devices.replicate(variables), batches)["latent"]

        context = TransitionContext(plan.module, variables, experiment.recipe.seed, latents)
        variables = TRANSITIONS[plan.spec.start](context)
    return steps.init_state(variables, plan.optimizer, plan.frozen, ema=plan.spec.ema > 0)


@memoized
def _latents_step(devices: Devices, module: Any, inputs: Inputs) -> Any:
    objective = OBJECTIVES["autoencoder"].build(module, Stage(objective="autoencoder"))
    return devices.compile_eval_step(steps.make_eval_step(objective, inputs))


@dataclasses.dataclass(frozen=True)
class Steps:
    """Objective and steps of a stage, not compiled; see `train.engine.steps`."""

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
    """Make the steps of a stage. `model` and `inputs` replace those of the stage."""
    model = experiment.devices.synchronized(plan.module) if model is None else model
    inputs = experiment.inputs if inputs is None else inputs
    stage = plan.spec
    objective = plan.objective.build(model, stage)
    train = steps.make_train_step(
        objective, plan.optimizer, inputs, stage.augment, plan.frozen, class_weights, stage.ema
    )
    return Steps(objective, train, steps.make_eval_step(objective, inputs))


def abstract_state(plan: StagePlan) -> steps.TrainState:
    """Return structure, shapes and dtypes of a stage's state, for checkpoints, without computing it."""

    def make(variables: dict[str, Any]) -> steps.TrainState:
        return steps.init_state(variables, plan.optimizer, plan.frozen, ema=plan.spec.ema > 0)

    return jax.eval_shape(make, plan.abstract)


def prepare(
    experiment: Experiment, plan: StagePlan, loop: LoopState, cache: DeviceCache, log: RunLog
) -> PreparedStage:
    """Prepare a stage and compile its steps. `loop.train` must be on the devices."""
    assert loop.train is not None
    recipe, stage, devices = experiment.recipe, plan.spec, experiment.devices
    if plan.frozen:
        total = len(jax.tree.leaves(loop.train.params))
        log.note(f"frozen: {len(plan.frozen)} of {total} parameter arrays")
    model: Any = None
    splits: Mapping[str, Labeled] = experiment.dataset.splits
    inputs: Inputs = experiment.inputs
    cut = find_cut(experiment, plan)
    if cut is not None:
        model = features.FromFeatures(devices.synchronized(plan.module), cut)
        began = time.monotonic()
        splits = extract_features(
            experiment, plan, cut, loop.train.variables(), ("train", "validation"), log.progress
        )
        elapsed = time.monotonic() - began
        loop.train_seconds += elapsed
        log.note(f"features: computed the frozen layers' output once per image in {elapsed:.1f} s")
        inputs = VectorInputs(cut.feature_shape)

    made = make_steps(
        experiment, plan, model=model, inputs=inputs, class_weights=class_weights(experiment, stage)
    )
    batches = train_batches(experiment, plan, splits, inputs)
    evaluation: dict[str, Iterable[dict[str, Any]]] = {
        split: _Batches(inputs.eval_samples(splits[split]), recipe.batch_size)
        for split in ("train", "validation")
    }
    feed: Streamed | Cached
    if experiment.feed == "streamed":
        feed = Streamed(batches, devices, made.train)
    else:
        feed = Cached(batches, devices, made.train, *cache.train(batches.samples))
        evaluation["validation"] = cache.validation(
            inputs.eval_samples(splits["validation"]), recipe.batch_size
        )
    eval_step = devices.compile_eval_step(made.evaluate)
    prepared = PreparedStage(made.objective, feed, batches.steps_per_epoch, eval_step, evaluation)

    began = time.monotonic()
    log.note("compiling the training step ...")
    prepared.compile(loop, rng_context(experiment, loop))
    log.note(f"compiled in {time.monotonic() - began:.1f} s")
    return prepared


def train_batches(
    experiment: Experiment, plan: StagePlan, splits: Mapping[str, Labeled], inputs: Inputs
) -> TrainBatches:
    """Batches of the training samples of a stage."""
    recipe, stage = experiment.recipe, plan.spec
    return TrainBatches(
        inputs.train_samples(training_split(splits, stage), stage.augment),
        batch_size=plan.batch_size,
        seed=recipe.seed,
        drop_last=recipe.drop_last,
        num_epochs=stage.epochs,
        multiple_of=len(experiment.devices),
        repeats=stage.augment.crops_per_image,
        balanced=stage.balance == "sampling",
    )


def class_weights(experiment: Experiment, stage: Stage) -> np.ndarray | None:
    """Weight of each class in the loss of a stage; None if it has none."""
    if stage.balance != "class_weights":
        return None
    labels = experiment.dataset.splits["train"].labels
    return balanced_weights(labels, len(experiment.dataset.class_names))


def training_split(splits: Mapping[str, Labeled], stage: Stage) -> Labeled:
    """The samples that a stage trains on: the training split, or all splits together."""
    return joined(list(splits.values())) if stage.all_splits else splits["train"]


def rng_context(experiment: Experiment, loop: LoopState) -> steps.RngContext:
    """Seed and current epoch, from which the steps derive their random keys."""
    return steps.RngContext(np.uint32(experiment.recipe.seed), np.int32(loop.epoch))


def find_cut(experiment: Experiment, plan: StagePlan) -> features.Cut | None:
    """Find where the frozen part of the model ends, if its output for an image is the same in every epoch."""
    augment = dataclasses.replace(plan.spec.augment, crops_per_image=1)
    # An objective from another package may call the model differently.
    is_classification = plan.objective is OBJECTIVES["classification"]
    if not plan.frozen or augment != Augmentation() or not is_classification:
        return None
    if isinstance(experiment.inputs, VectorInputs):
        return None
    return features.find_cut(plan.module, dict(plan.abstract), experiment.inputs.shape, plan.frozen)


def backbone_digest(plan: StagePlan, variables: Mapping[str, Any]) -> str:
    """Hash of the frozen parameters and all batch statistics."""
    _, frozen = freezing.split(variables["params"], plan.frozen)
    return digest({"params": frozen, "batch_stats": variables["batch_stats"]})


def extract_features(
    experiment: Experiment,
    plan: StagePlan,
    cut: features.Cut,
    variables: Mapping[str, Any],
    splits: Collection[str],
    progress: Progress | None,
) -> dict[str, Labeled]:
    """Replace the images of some splits by the output of the frozen layers, computed once per image and network.

    The features are kept for other runs if the images can be identified by their content.
    """
    data, inputs = experiment.dataset, experiment.inputs
    samples = {
        name: inputs.train_samples(data.splits[name], plan.spec.augment)
        if name == "train"
        else inputs.eval_samples(data.splits[name])
        for name in splits
    }
    names = {n: feature_store.image_names(s, experiment.data_key) for n, s in samples.items()}
    known = {name: of_split for name, of_split in names.items() if of_split is not None}
    key = {
        "weights": backbone_digest(plan, variables),
        "inputs": inputs.to_json(),
        "module": repr(plan.module),
        "cut": [list(cut.path), list(cut.input_shape), list(cut.feature_shape)],
        "platform": experiment.devices.platform,
        "data": [data.name, data.fingerprint],
    }
    extracted = features.extract(
        features.cut_step(plan.module, cut, inputs),
        dict(variables),
        samples,
        experiment.devices,
        batch_size=experiment.recipe.batch_size,
        key=key if len(known) == len(names) else None,
        names=known if len(known) == len(names) else None,
        progress=progress,
    )
    return {name: VectorSplit(data.splits[name], values) for name, values in extracted.items()}
