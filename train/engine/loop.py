"""The one training loop: it owns the side effects around the pure step.

Epochs of steps, validation, Keras's two epoch-end rules, best weights, logs, checkpoints; it stops on
request and goes on exactly where it stopped.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

import zoo
from datasets import Dataset
from datasets.images import Geometry
from datasets.pipeline import TrainBatches, eval_batches, load_arrays, steps_per_epoch
from train import cli
from train.analysis.metrics import loss_and_accuracy
from train.engine import steps
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
from train.recipe import InputError, Recipe, Stage
from train.rundir import RunDir

CHECKPOINT_SECONDS = 300.0  # between checkpoints inside a long epoch


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
    # The best epoch.
    best_accuracy: float = -1.0
    best_epoch: int = 0

    def start_epoch(self) -> None:
        """Forget the sums of the epoch before."""
        self.loss_sum = self.accuracy_sum = self.seconds = self.wait_seconds = 0.0
        self.examples = 0

    def start_stage(self, stage: int) -> None:
        """Move to a stage's beginning."""
        fresh = Position()
        for name in ("stage_epoch", "stage_step", "stopped", *_RULE_FIELDS):
            setattr(self, name, getattr(fresh, name))
        self.stage = stage
        self.start_epoch()


_RULE_FIELDS = ("plateau_best", "plateau_wait", "plateau_scale", "stop_best", "stop_wait")


def fit(
    recipe: Recipe,
    model: nn.Module,
    variables: dict[str, Any],
    preprocessing: zoo.Preprocessing,
    dataset: Dataset,
    run: RunDir,
    devices: Devices,
    *,
    save_best: Callable[[dict[str, Any], dict[str, Any]], None],
    stop: cli.StopRequest,
) -> Position:
    """Train through the recipe's stages, from the run directory's newest checkpoint if it has one.

    Args:
      recipe: what to do.
      model: a Linen module, without an axis name.
      variables: initial `params` and `batch_stats`.
      preprocessing: geometry for the host, arithmetic for the step.
      dataset: with `train` and `validation` splits.
      run: where logs and checkpoints go.
      devices: what to train on.
      save_best: called with the variables (on the host) and facts of each new best epoch.
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
    preprocessing: zoo.Preprocessing
    dataset: Dataset
    run: RunDir
    devices: Devices
    save_best: Callable[[dict[str, Any], dict[str, Any]], None]
    stop: cli.StopRequest

    def run_all(self) -> Position:
        """Go through the stages."""
        from tensorboardX import SummaryWriter

        self.position = Position()
        self.progress = cli.Progress()
        self.checkpoints = Checkpoints(self.run.checkpoints)
        self.feeding = self._choose_feeding()
        self.resident: tuple[Geometry, jax.Array, jax.Array] | None = None
        self.validation: list[dict[str, Any]] | None = None  # on the devices, where it stays
        restored = None
        if self.run.exists():
            restored = self._restore()
        self.board = SummaryWriter(str(self.run.tensorboard), purge_step=self.position.step)
        self.log: list[dict[str, Any]] = []
        try:
            for index in range(self.position.stage, len(self.recipe.stages)):
                if restored is None:
                    self.position.start_stage(index)
                self._run_stage(self.recipe.stages[index], restored)
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
        sizes = [training_geometry(self.preprocessing, s.augment).size for s in self.recipe.stages]
        train, validation = (len(self.dataset.splits[part]) for part in ("train", "validation"))
        pixels = train * max(map(math.prod, sizes)) + validation * math.prod(
            self.preprocessing.input_size
        )
        num_bytes = 3 * pixels
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
            lambda position: self._fresh_state(self.recipe.stages[position["stage"]]),
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
        if (
            info.get("step", 0) > self.position.step
            and info["val_accuracy"] > self.position.best_accuracy
        ):
            self.position.best_accuracy = info["val_accuracy"]
            self.position.best_epoch = info["epoch"]

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
        model, options = self._synchronised(self.model), {}
        if stage.objective == "classification":
            options["label_smoothing"] = stage.label_smoothing
        objective = OBJECTIVES[stage.objective](model, **options)
        weights = None
        if stage.balance == "class_weights":
            labels = self.dataset.splits["train"].labels
            weights = balanced_weights(labels, len(self.dataset.class_names))
        train_step = steps.make_train_step(
            objective,
            self.optimizer,
            self.preprocessing,
            stage.augment,
            self.frozen,
            weights,
            stage.ema,
        )
        self.eval_step = self.devices.compile_eval_step(
            steps.make_eval_step(objective, self.preprocessing)
        )
        batches = TrainBatches(
            self.dataset.splits["train"],
            batch_size=recipe.batch_size,
            geometry=training_geometry(self.preprocessing, stage.augment, recipe.decoder),
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

        if position.stopped or position.stage_epoch >= stage.epochs:
            return  # this stage had ended when the run was resumed
        if position.step == 0 and recipe.pretrained:  # from here on their file may go
            self._save()
        self.feed = self._make_feed(batches, train_step)
        self._compile()
        while position.stage_epoch < stage.epochs and not position.stopped:
            self._train_epoch(stage)
            began = time.monotonic()
            validation = self._validate()
            position.epoch += 1
            position.stage_epoch += 1
            is_best = validation["accuracy"] > position.best_accuracy
            if is_best:
                position.best_accuracy, position.best_epoch = validation["accuracy"], position.epoch
                host = jax.device_get(self.state.variables())
                facts: dict[str, Any] = {"epoch": position.epoch, "step": position.step}
                facts |= {f"val_{name}": value for name, value in validation.items()}
                self.save_best(host, facts)
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
            self._save()
            if position.stopped:
                cli.say(
                    f"early stop: the validation loss has not fallen for {stage.early_stop.patience} epochs"
                )
            elif self.stop.requested and position.stage_epoch < stage.epochs:
                self._interrupt()

    def _synchronised(self, model: nn.Module) -> nn.Module:
        """The model with batch-norm statistics averaged over the devices, if it has any."""
        return model.clone(axis_name=steps.AXIS) if hasattr(model, "axis_name") else model

    def _clock(self) -> steps.Clock:
        return steps.Clock(np.uint32(self.recipe.seed), np.int32(self.position.epoch))

    def _make_feed(self, batches: TrainBatches, train_step: Callable) -> Stepwise | Resident:
        """Batch by batch, or from the devices' memory, where training and validation images then stay."""
        if self.feeding == "stepwise":
            return Stepwise(batches, self.devices, train_step)
        if self.resident is None or self.resident[0] != batches.geometry:
            self.resident = None  # what another stage has used makes room
            arrays = load_arrays(self.dataset.splits["train"], batches.geometry)
            self.resident = batches.geometry, *self.devices.replicate(arrays)
        if self.validation is None:
            self.validation = [
                batch | self.devices.split({"image": batch["image"]})
                for batch in self._validation_batches()
            ]
        return Resident(batches, self.devices, train_step, *self.resident[1:])

    def _validation_batches(self) -> Iterable[dict[str, np.ndarray]]:
        return eval_batches(
            self.dataset.splits["validation"],
            batch_size=self.recipe.batch_size,
            geometry=evaluation_geometry(self.preprocessing),
        )

    def _compile(self) -> None:
        """Compile every shape that the stage needs, outside the clocks."""
        began = time.monotonic()
        cli.say("compiling the training step ...")
        self.feed.compile(self.state, self._clock())
        height, width = self.preprocessing.input_size
        self.eval_step(
            self.state.variables(),
            {"image": np.zeros((self.recipe.batch_size, height, width, 3), np.uint8)},
        )
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
                raise cli.RunError(
                    f"diverged at step {step}: loss {values['loss']}, gradient norm {values['grad_norm']};"
                    f" try a lower --lr than {values['learning_rate']:g}. The last good checkpoint is kept"
                )
            position.loss_sum += values["loss"] * size
            position.accuracy_sum += values["accuracy"] * size
            position.examples += size

    def _validate(self) -> dict[str, float]:
        batches = self._validation_batches() if self.validation is None else self.validation
        outputs = run_outputs(self.eval_step, self.state.variables(), batches)
        loss, accuracy = loss_and_accuracy(outputs["label"], outputs["logits"])
        return {"loss": loss, "accuracy": accuracy}

    def _report_epoch(self, stage: Stage, validation: dict[str, float], is_best: bool) -> None:
        position = self.position
        train_loss = position.loss_sum / position.examples
        train_accuracy = position.accuracy_sum / position.examples
        rate = self.log[-1]["learning_rate"]
        row = {
            "epoch": position.epoch,
            "step": position.step,
            "stage": stage.name,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": validation["loss"],
            "val_accuracy": validation["accuracy"],
            "learning_rate": rate,
            "seconds": round(position.seconds, 3),
            "images_per_second": round(position.examples / position.seconds, 2),
            "data_wait_share": round(position.wait_seconds / position.seconds, 4),
            "is_best": int(is_best),
        }
        self._flush()
        self.run.append_summary(row)
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
            self.board.add_scalar(f"epoch/{name}", row[name], position.step)
        self.board.flush()
        self.progress.stop()
        cli.say(
            f"epoch {position.stage_epoch}/{stage.epochs}"
            f"  train loss {train_loss:.4f} acc {train_accuracy:.2%}"
            f"  val loss {validation['loss']:.4f} acc {validation['accuracy']:.2%}"
            f"  lr {rate:.2g}  {row['images_per_second']:.0f} images/s  {cli.duration(position.seconds)}"
            f"{'  *' if is_best else ''}"
        )

    def _flush(self) -> None:
        """Write the steps that were logged since the last time."""
        self.run.append_metrics(self.log)
        for line in self.log:
            for name in ("loss", "accuracy", "learning_rate", "grad_norm"):
                self.board.add_scalar(f"step/{name}", line[name], line["step"])
        self.log = []

    def _save(self) -> None:
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


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
