"""The one training loop: it owns the side effects around the pure step.

Epochs of steps, validation, Keras's two epoch-end rules, best weights, logs, checkpoints; it stops on
request and goes on exactly where it stopped.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

import zoo
from datasets import Dataset
from datasets.dataset import Split, VectorSplit
from datasets.pipeline import TrainBatches, eval_batches, load_arrays, steps_per_epoch
from train import cli
from train.analysis.clustering import collapse_warning, occupancy
from train.engine import steps
from train.engine.cached import Cut, classification_from_features, cut, make_feature_step
from train.engine.checkpoints import Checkpoints
from train.engine.cropping import evaluation_geometry, training_geometry
from train.engine.evaluation import run_outputs
from train.engine.feeding import Chunk, Resident, Stepwise, choose
from train.engine.freezing import frozen_paths
from train.engine.objectives import OBJECTIVES, balanced_weights
from train.engine.optimizers import (
    EarlyStopping,
    ReduceOnPlateau,
    build_optimizer,
    set_plateau_scale,
)
from train.engine.parallel import Devices
from train.engine.transitions import TRANSITIONS, Transition
from train.recipe import Augmentation, InputError, Recipe, Stage, parse_options
from train.record.directory import RunDir

CHECKPOINT_SECONDS = 300.0  # between checkpoints inside a long epoch
SAVE_SECONDS = 3.0  # at least, between checkpoints after short epochs


@dataclasses.dataclass
class Position:
    """Where training stands: everything besides the state that a resumed run needs, as plain data."""

    stage: int = 0
    epoch: int = 0  # whole epochs of all stages so far
    stage_epoch: int = 0  # whole epochs of this stage
    step: int = 0  # updates of all stages
    stage_step: int = 0  # updates of this stage: the position in its data
    train_seconds: float = 0.0  # without compilation
    # The epoch under way.
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    examples: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    # Epoch-end rules of this stage.
    plateau_best: float | None = None
    plateau_wait: int = 0
    plateau_scale: float = 1.0
    stop_best: float | None = None
    stop_wait: int = 0
    stopped: bool = False  # early, in this stage
    # The best epoch of the stages that can be compared: its validation accuracy, or its validation loss negated.
    best_score: float | None = None
    best_epoch: int = 0

    def start_epoch(self) -> None:
        """Forget the sums of the epoch before."""
        self.loss_sum = self.accuracy_sum = self.seconds = self.wait_seconds = 0.0
        self.examples = 0

    def start_stage(self, stage: int, *, comparable: bool) -> None:
        """Move to a stage's beginning; unless it is `comparable` with the one before, the best epoch is sought anew."""
        fresh = Position()
        if not comparable:
            self.best_score = None
        for name in ("stage_epoch", "stage_step", "stopped", *_RULE_FIELDS):
            setattr(self, name, getattr(fresh, name))
        self.stage = stage
        self.start_epoch()


_RULE_FIELDS = ("plateau_best", "plateau_wait", "plateau_scale", "stop_best", "stop_wait")


def fit(
    recipe: Recipe,
    model: nn.Module,
    variables: dict[str, Any],
    preprocessing: zoo.Preprocessing | None,
    dataset: Dataset,
    run: RunDir,
    devices: Devices,
    *,
    save_best: Callable[[dict[str, Any], dict[str, Any], Stage], None],
    stop: cli.StopRequest,
) -> Position:
    """Train through the recipe's stages, from the run directory's newest checkpoint if it has one.

    Args:
      recipe: what to do.
      model: a Linen module, without an axis name.
      variables: initial `params` and `batch_stats`.
      preprocessing: geometry for the host, arithmetic for the step; None for vectors.
      dataset: with `train` and `validation` splits.
      run: where logs and checkpoints go.
      devices: what to train on.
      save_best: called with the variables (on the host), facts and stage of each new best epoch.
      stop: asked after each step.

    Returns where training ended. Raises Interrupted after saving, RunError when the loss diverges.
    """
    return _Fit(
        recipe, model, variables, preprocessing, dataset, run, devices, save_best, stop
    ).run_all()


@dataclasses.dataclass
class _Fit:
    """The loop's working memory; the arguments of `fit`."""

    recipe: Recipe
    model: nn.Module
    variables: dict[str, Any]
    preprocessing: zoo.Preprocessing | None
    dataset: Dataset
    run: RunDir
    devices: Devices
    save_best: Callable[[dict[str, Any], dict[str, Any], Stage], None]
    stop: cli.StopRequest

    def run_all(self) -> Position:
        """Go through the stages, if there are any."""
        from tensorboardX import SummaryWriter

        if not self.recipe.stages:
            return Position()
        self.given = self.variables
        self.position = Position()
        self.progress = cli.Progress()
        self.checkpoints = Checkpoints(self.run.checkpoints)
        self.feeding = self._choose_feeding()
        self.resident: tuple[Any, jax.Array, jax.Array] | None = None  # of what, images, labels
        # What the stage at hand trains on and is judged by, and its validation batches on the devices, where they
        # stay.
        self.splits: Mapping[str, Split] = self.dataset.splits
        self.view = self.preprocessing
        self.validation: list[dict[str, Any]] | None = None
        self.saved = 0.0  # when the last checkpoint was written
        self.collapsed = False  # clusters; said once
        restored = None
        if self.run.exists():
            restored = self._restore()
        self.board = SummaryWriter(str(self.run.tensorboard), purge_step=self.position.step)
        self.log: list[dict[str, Any]] = []
        try:
            for index in range(self.position.stage, len(self.recipe.stages)):
                stage = self.recipe.stages[index]
                self.stage_model = stage_model(self.model, stage)
                if restored is None:
                    comparable = index > 0 and _comparable(self.recipe.stages[index - 1], stage)
                    self.position.start_stage(index, comparable=comparable)
                    self.variables = self._started(stage, self.variables if index else None)
                self._run_stage(stage, restored)
                self.variables = jax.device_get(
                    self.state.variables()
                )  # the next stage goes on with these
                restored = None
            self.checkpoints.wait()
            return self.position
        finally:
            self.progress.stop()
            self.board.close()
            self.checkpoints.close()

    def _choose_feeding(self) -> Literal["stepwise", "resident"]:
        train, validation = (self.dataset.splits[part] for part in ("train", "validation"))
        if self.preprocessing is None:
            num_bytes = sum(s.values.nbytes for s in (train, validation))  # type: ignore[attr-defined]
        else:
            views = [training_geometry(self.preprocessing, s.augment) for s in self.recipe.stages]
            pixels = len(train) * max(math.prod(view.size) for view in views)
            num_bytes = 3 * (pixels + len(validation) * math.prod(self.preprocessing.input_size))
        feeding = choose(self.recipe.feed, num_bytes, self.devices)
        if feeding == "resident":
            cli.say(f"feeding: resident, {num_bytes / 1e6:,.0f} MB of images on each device")
            if self.recipe.feed == "resident" and jax.default_backend() == "cpu":
                cli.say(
                    "warning: on a CPU, XLA runs convolutions inside loops several times slower:"
                    " --feed stepwise is faster here"
                )
        return feeding

    def _restore(self) -> Any:
        """Take position and logs back to the newest whole checkpoint, and return its state."""
        restored = self.checkpoints.restore(
            lambda position: self._blank_state(self.recipe.stages[position["stage"]]),
            lambda text: cli.say(f"warning: {text}"),
        )
        if restored is None:
            self.run.cut_logs(step=0, epoch=0)
            return None
        state, position = restored
        self.position = Position(**position)
        self.run.cut_logs(self.position.step, self.position.epoch)
        self._adopt_best()
        cli.say(
            f"resuming {self.run.path} after epoch {self.position.epoch}, step {self.position.step}"
        )
        return state

    def _adopt_best(self) -> None:
        """Count a best/ that was written after this checkpoint: its epoch is run again, and its weights
        are replaced only by better ones."""
        try:
            info = self.run.read_json(self.run.best / "model.json")
        except InputError:
            return
        if info.get("step", 0) > self.position.step:
            score = info.get("val_accuracy" if info["monitor"] == "accuracy" else "val_loss")
            if score is not None:
                self._take_best(score if info["monitor"] == "accuracy" else -score, info["epoch"])

    def _take_best(self, score: float, epoch: int) -> bool:
        """Note an epoch that is strictly better than those before; whether it is."""
        position = self.position
        if not math.isfinite(score):
            return False
        if position.best_score is not None and score <= position.best_score:
            return False
        position.best_score, position.best_epoch = score, epoch
        return True

    def _blank(self, stage: Stage) -> dict[str, Any]:
        """Initial variables of a stage's model: the given ones, unless it is another model than the last stage's."""
        model = stage_model(self.model, stage)
        if model == self.model:
            return self.given
        return steps.init_variables(model, self._input_shape(), self.recipe.seed)

    def _input_shape(self) -> tuple[int, ...]:
        if self.preprocessing is None:
            return self.dataset.splits["train"].values.shape[1:]  # type: ignore[attr-defined]
        return (*self.preprocessing.input_size, 3)

    def _started(self, stage: Stage, before: dict[str, Any] | None) -> dict[str, Any]:
        """What a stage begins with; `before` is what the stage before has left."""
        if before is None and stage.start == "continue":
            return self._blank(stage)
        return TRANSITIONS[stage.start](
            Transition(
                self.stage_model,
                self._blank(stage) if before is None else before,
                self.recipe.seed,
                self._training_latents,
            )
        )

    def _training_latents(self, variables: dict[str, Any]) -> np.ndarray:
        """The codes of the training data, float32 [N, latent]."""
        objective = OBJECTIVES["autoencoder"](self.stage_model)
        step = self.devices.compile_eval_step(steps.make_eval_step(objective, self.preprocessing))
        outputs = run_outputs(step, self.devices.replicate(variables), self._batches_of("train"))
        return outputs["latent"]

    def _blank_state(self, stage: Stage) -> steps.TrainState:
        self.variables = self._blank(stage)
        return self._fresh_state(stage)

    def _fresh_state(self, stage: Stage) -> steps.TrainState:
        num_steps = stage.epochs * steps_per_epoch(
            len(self.dataset.splits["train"]) * stage.augment.crops_per_image,
            self.recipe.batch_size,
            keep_tail=self.recipe.keep_tail,
            multiple_of=len(self.devices),
        )
        self.optimizer = build_optimizer(stage.optimizer, num_steps)
        self.frozen = frozen_paths(self.variables["params"], stage.freeze)
        return steps.init_state(self.variables, self.optimizer, self.frozen, ema=stage.ema > 0)

    def _run_stage(self, stage: Stage, restored: Any) -> None:
        position, recipe = self.position, self.recipe
        fresh = self._fresh_state(stage)
        self.state = self.devices.replicate(fresh if restored is None else restored)
        if self.frozen:
            total = len(jax.tree.leaves(self.variables["params"]))
            cli.say(f"frozen: {len(self.frozen)} of {total} arrays of parameters")
        model, options = self.devices.synchronised(self.stage_model), {}
        if stage.objective == "classification":
            options["label_smoothing"] = stage.label_smoothing
        self.objective = OBJECTIVES[stage.objective](model, **options)
        self._look_at(self.dataset.splits, self.preprocessing)
        if position.stopped or position.stage_epoch >= stage.epochs:
            return  # this stage had ended when the run was resumed
        if position.step == 0 and recipe.pretrained:  # from here on their file may go
            self._save()
        place = self._cut(stage)
        if place is not None:
            self.objective = classification_from_features(model, place, stage.label_smoothing)
            self._look_at(self._cached_features(stage, place), None)
        weights = None
        if stage.balance == "class_weights":
            labels = self.splits["train"].labels
            weights = balanced_weights(labels, len(self.dataset.class_names))
        train_step = steps.make_train_step(
            self.objective,
            self.optimizer,
            self.view,
            stage.augment,
            self.frozen,
            weights,
            stage.ema,
        )
        self.eval_step = self.devices.compile_eval_step(
            steps.make_eval_step(self.objective, self.view)
        )
        geometry = None
        if self.view is not None:
            geometry = training_geometry(self.view, stage.augment, recipe.decoder)
        batches = TrainBatches(
            self.splits["train"],
            batch_size=recipe.batch_size,
            geometry=geometry,
            seed=recipe.seed,
            keep_tail=recipe.keep_tail,
            num_epochs=stage.epochs,
            multiple_of=len(self.devices),
            repeats=stage.augment.crops_per_image,
            balanced=stage.balance == "sampling",
        )
        self.steps_per_epoch = batches.steps_per_epoch
        plateau = ReduceOnPlateau(
            stage.plateau,
            _or_infinity(position.plateau_best),
            position.plateau_wait,
            position.plateau_scale,
        )
        early = EarlyStopping(
            stage.early_stop, _or_infinity(position.stop_best), position.stop_wait
        )

        self.feed = self._make_feed(batches, train_step)
        self._compile()
        while position.stage_epoch < stage.epochs and not position.stopped:
            self._train_epoch(stage)
            began = time.monotonic()
            validation = self._validate()
            position.epoch += 1
            position.stage_epoch += 1
            monitor = self.objective.monitor
            score = validation["accuracy"] if monitor == "accuracy" else -validation["loss"]
            # Also when its weights were written before the process was killed, and it is run again.
            is_best = (
                self._take_best(score, position.epoch) or position.best_epoch == position.epoch
            )
            if is_best:
                host = jax.device_get(self.state.variables())
                facts: dict[str, Any] = {"epoch": position.epoch, "step": position.step}
                facts |= {"monitor": monitor}
                facts |= {f"val_{name}": value for name, value in validation.items()}
                self.save_best(host, facts, stage)
            position.seconds += time.monotonic() - began
            position.train_seconds += time.monotonic() - began
            self._report_epoch(stage, validation, is_best)

            scale = plateau.update(validation["loss"])
            position.stopped = early.update(validation["loss"])
            if scale != position.plateau_scale:
                self.state = self.state.replace(
                    opt_state=set_plateau_scale(self.state.opt_state, scale)
                )
            position.plateau_best, position.plateau_wait = _finite(plateau.best), plateau.wait
            position.plateau_scale = scale
            position.stop_best, position.stop_wait = _finite(early.best), early.wait
            position.start_epoch()
            self._save_epoch(stage)
            if position.stopped:
                cli.say(
                    f"early stop: the validation loss has not fallen for {stage.early_stop.patience} epochs"
                )
            elif self.stop.requested and position.stage_epoch < stage.epochs:
                self._interrupt()

    def _cut(self, stage: Stage) -> Cut | None:
        """Where the frozen part of the model ends, if what it gives is the same at every visit of an image."""
        unchanged = dataclasses.replace(stage.augment, crops_per_image=1) == Augmentation()
        if not (self.frozen and unchanged and stage.objective == "classification"):
            return None
        if self.preprocessing is None:
            return None
        shape = (*self.preprocessing.input_size, 3)
        return cut(self.stage_model, self.variables, shape, self.frozen)

    def _cached_features(self, stage: Stage, place: Cut) -> dict[str, Split]:
        """What the frozen part gives for each training and validation image."""
        assert self.preprocessing is not None
        began = time.monotonic()
        step = self.devices.compile_eval_step(
            make_feature_step(self.stage_model, place, self.preprocessing)
        )
        train = training_geometry(self.preprocessing, stage.augment, self.recipe.decoder)
        found: dict[str, Split] = {}
        for part, geometry in (
            ("train", train),
            ("validation", evaluation_geometry(self.preprocessing)),
        ):
            split = self.dataset.splits[part]
            size = self.recipe.batch_size
            batches = eval_batches(split, batch_size=size, geometry=geometry)
            shown = self.progress.follow(batches, f"features of {part} images", len(split), size)
            outputs = run_outputs(step, self.state.variables(), shown)
            found[part] = VectorSplit(split, outputs["features"])
        elapsed = time.monotonic() - began
        self.position.train_seconds += elapsed
        cli.say(
            f"features: what is frozen was computed once for each image, in {cli.duration(elapsed)}"
        )
        return found

    def _clock(self) -> steps.Clock:
        return steps.Clock(np.uint32(self.recipe.seed), np.int32(self.position.epoch))

    def _make_feed(self, batches: TrainBatches, train_step: Callable) -> Stepwise | Resident:
        """Batch by batch, or from the devices' memory, where training and validation images then stay."""
        if self.feeding == "stepwise":
            return Stepwise(batches, self.devices, train_step)
        data = (batches.geometry, self.splits["train"])
        if self.resident is None or self.resident[0] != data:
            self.resident = None  # what another stage has used makes room
            arrays = load_arrays(self.splits["train"], batches.geometry)
            self.resident = data, *self.devices.replicate(arrays)
        if self.validation is None:
            self.validation = [
                batch | self.devices.split({"image": batch["image"]})
                for batch in self._batches_of("validation")
            ]
        return Resident(batches, self.devices, train_step, *self.resident[1:])

    def _look_at(
        self, splits: Mapping[str, Split], preprocessing: zoo.Preprocessing | None
    ) -> None:
        """What the stage trains on and is judged by."""
        if self.splits is not splits:
            self.validation = None
        self.splits, self.view = splits, preprocessing

    def _batches_of(self, part: str) -> Iterable[dict[str, np.ndarray]]:
        return eval_batches(
            self.splits[part],
            batch_size=self.recipe.batch_size,
            geometry=None if self.view is None else evaluation_geometry(self.view),
        )

    def _compile(self) -> None:
        """Compile every shape that the stage needs, outside the clocks."""
        began = time.monotonic()
        cli.say("compiling the training step ...")
        self.feed.compile(self.state, self._clock())
        first = next(iter(self._batches_of("validation")))
        self.eval_step(self.state.variables(), {"image": first["image"]})
        cli.say(f"compiled in {time.monotonic() - began:.1f} s")

    def _train_epoch(self, stage: Stage) -> None:
        position = self.position
        done = position.stage_step - position.stage_epoch * self.steps_per_epoch
        last = (stage.epochs - position.stage_epoch) * self.steps_per_epoch  # of the stage
        self.progress.start(f"epoch {position.epoch + 1}", self.steps_per_epoch, done)
        last_save = time.monotonic()
        pending: Chunk | None = None  # read one chunk late, so that the devices never wait
        chunks = self.feed.epoch(self.state, position.stage_step, self._clock())
        while done < self.steps_per_epoch:
            began = time.monotonic()
            chunk = next(chunks)
            self.state = chunk.state
            done += len(chunk.sizes)
            if pending is not None:
                self._take(stage, pending)
            pending = chunk
            is_last = done == self.steps_per_epoch
            if is_last or self.stop.requested or time.monotonic() - last_save > CHECKPOINT_SECONDS:
                self._take(stage, pending)
                pending = None
            position.wait_seconds += chunk.waited
            elapsed = time.monotonic() - began
            position.seconds += elapsed
            position.train_seconds += elapsed
            note = f"loss {self.log[-1]['loss']:.4f}" if self.log else ""
            self.progress.update(done, note, last - done)
            if self.stop.requested and not is_last:
                self._interrupt()
            if pending is None and not is_last:
                self._save()
                last_save = time.monotonic()

    def _take(self, stage: Stage, chunk: Chunk) -> None:
        """Log the metrics of a chunk's steps, and stop when they are no longer numbers."""
        position = self.position
        metrics = {k: np.atleast_1d(v) for k, v in jax.device_get(chunk.metrics).items()}
        for index, size in enumerate(chunk.sizes):
            position.step += 1
            position.stage_step += 1
            step = position.step
            values = {name: float(each[index]) for name, each in metrics.items()}
            self.log.append(
                {"step": step, "epoch": position.epoch + 1, "stage": stage.name, **values}
            )
            if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
                self._flush()
                raise cli.Diverged(
                    step,
                    f"loss {values['loss']}, gradient norm {values['grad_norm']};"
                    f" try a lower --lr than {values['learning_rate']:g}. The last good checkpoint is kept",
                )
            position.loss_sum += values["loss"] * size
            position.accuracy_sum += values.get("accuracy", math.nan) * size
            position.examples += size

    def _validate(self) -> dict[str, float]:
        batches = self._batches_of("validation") if self.validation is None else self.validation
        outputs = run_outputs(self.eval_step, self.state.variables(), batches)
        self._watch_clusters(outputs)
        return self.objective.scores(outputs)

    def _watch_clusters(self, outputs: dict[str, np.ndarray]) -> None:
        """Say it when clusters have collapsed, once, and log what the terms cannot show."""
        if "cluster_log_probabilities" not in outputs or self.collapsed:
            return
        log_probabilities = outputs["cluster_log_probabilities"]
        shares = occupancy(log_probabilities.argmax(axis=1), log_probabilities.shape[1])
        warning = collapse_warning(shares, len(self.dataset.class_names))
        if warning:
            self.collapsed = True
            self.progress.stop()
            cli.say(f"warning: epoch {self.position.epoch + 1}: {warning}")

    def _report_epoch(self, stage: Stage, validation: dict[str, float], is_best: bool) -> None:
        position = self.position
        train_loss = position.loss_sum / position.examples
        train_accuracy = position.accuracy_sum / position.examples
        if math.isnan(train_accuracy) and "accuracy" in validation:  # clusters: matched afterwards
            batches = self._batches_of("train")
            outputs = run_outputs(self.eval_step, self.state.variables(), batches)
            train_accuracy = self.objective.scores(outputs)["accuracy"]
        rate = self.log[-1]["learning_rate"]
        row = {
            "epoch": position.epoch,
            "step": position.step,
            "stage": stage.name,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": validation["loss"],
            "val_accuracy": validation.get("accuracy", math.nan),
            "learning_rate": rate,
            "seconds": round(position.seconds, 3),
            "images_per_second": round(position.examples / position.seconds, 2),
            "data_wait_share": round(position.wait_seconds / position.seconds, 4),
            "is_best": int(is_best),
        }
        self._flush()
        self.run.append_summary(row)
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
            if not math.isnan(row[name]):
                self.board.add_scalar(f"epoch/{name}", row[name], position.step)
        self.board.flush()
        self.progress.stop()
        where = f"{stage.name}, " if len(self.recipe.stages) > 1 else ""
        cli.say(
            f"{where}epoch {position.stage_epoch}/{stage.epochs}"
            f"  train loss {train_loss:.4f}{_accuracy(train_accuracy)}"
            f"  val loss {validation['loss']:.4f}{_accuracy(row['val_accuracy'])}"
            f"  lr {rate:.2g}  {row['images_per_second']:.0f} images/s  {cli.duration(position.seconds)}"
            f"{'  *' if is_best else ''}"
        )

    def _flush(self) -> None:
        """Write the steps that were logged since the last time."""
        self.run.append_metrics(self.log)
        for line in self.log:
            for name, value in line.items():
                if name not in ("step", "epoch", "stage"):
                    self.board.add_scalar(f"step/{name}", value, line["step"])
        self.log = []

    def _save_epoch(self, stage: Stage) -> None:
        """A checkpoint, unless epochs take so short that it would take longer than what it saves."""
        ended = self.position.stopped or self.position.stage_epoch >= stage.epochs
        if ended or self.stop.requested or time.monotonic() - self.saved > SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        self.saved = time.monotonic()
        self._flush()
        self.checkpoints.save(self.position.step, self.state, dataclasses.asdict(self.position))

    def _interrupt(self) -> None:
        self._save()
        self.checkpoints.wait()
        self.progress.stop()
        raise cli.Interrupted(
            f"interrupted at step {self.position.step}, saved in {self.run.path};"
            f" to go on: python -m train.run --workdir {self.run.path}"
        )


def stage_model(model: nn.Module, stage: Stage) -> nn.Module:
    """The model as a stage has it."""
    return model.clone(**parse_options(stage.model_options))


def _comparable(before: Stage, stage: Stage) -> bool:
    """Whether the scores of two stages in a row are of the same thing."""
    return (
        stage.start == "continue"
        and stage.objective == before.objective
        and stage.model_options == before.model_options
    )


def _accuracy(value: float) -> str:
    return "" if math.isnan(value) else f" acc {value:.2%}"


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
