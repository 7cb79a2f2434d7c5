"""State of the training loop: exactly the content of a checkpoint."""

import dataclasses
import math
from typing import Any

from train.engine.optimizers import EarlyStopping, ReduceOnPlateau
from train.engine.steps import TrainState


@dataclasses.dataclass
class EpochSums:
    """Sums over the samples of the current epoch, and its time."""

    loss: float = 0.0
    accuracy: float = 0.0
    samples: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0  # time that the devices waited for data
    learning_rate: float = 0.0  # of the last step


@dataclasses.dataclass
class Best:
    """The best epoch among stages with comparable scores."""

    score: float | None = None  # validation accuracy, or the negative validation loss
    epoch: int = 0

    def update(self, score: float, epoch: int) -> bool:
        """Record the score of an epoch. Returns whether it is finite and strictly better than all before."""
        if not math.isfinite(score) or (self.score is not None and score <= self.score):
            return False
        self.score, self.epoch = score, epoch
        return True


@dataclasses.dataclass
class LoopState:
    """State of the training loop: arrays on the devices, and plain data."""

    train: TrainState | None = None  # None before the first stage
    stage: int = 0
    epoch: int = 0  # complete epochs of all stages
    stage_epoch: int = 0  # complete epochs of this stage
    step: int = 0  # steps of all stages
    stage_step: int = 0  # steps of this stage; the index of its next batch
    stopped: bool = False  # whether this stage was stopped early
    warned: bool = False  # whether the objective's warning was shown; it is shown once
    train_seconds: float = 0.0  # without compilation
    sums: EpochSums = dataclasses.field(default_factory=EpochSums)
    plateau: ReduceOnPlateau = dataclasses.field(default_factory=ReduceOnPlateau)
    early_stop: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    best: Best = dataclasses.field(default_factory=Best)

    def start_stage(self, stage: int, train: TrainState, *, comparable: bool) -> None:
        """Start a stage. Resets the best score unless the scores of this stage are `comparable` with it."""
        self.train, self.stage, self.stage_epoch, self.stage_step = train, stage, 0, 0
        self.stopped = False
        self.sums, self.plateau, self.early_stop = EpochSums(), ReduceOnPlateau(), EarlyStopping()
        if not comparable:
            self.best.score = None

    def start_epoch(self) -> None:
        """Reset the sums of the previous epoch."""
        self.sums = EpochSums()

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain data; infinity is represented by None."""
        plain = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "train"
        }
        for name, value in plain.items():
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                fields = dataclasses.asdict(value)
                plain[name] = {k: None if v == math.inf else v for k, v in fields.items()}
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any], train: TrainState) -> "LoopState":
        """The inverse of `to_json`. Also reads checkpoints of version 0.1."""
        data = _from_version_0_1(data) if "plateau_best" in data else dict(data)
        for name in ("plateau", "early_stop"):
            data[name] = data[name] | {"best": _or_infinity(data[name]["best"])}
        return cls(
            train=train,
            sums=EpochSums(**data.pop("sums")),
            plateau=ReduceOnPlateau(**data.pop("plateau")),
            early_stop=EarlyStopping(**data.pop("early_stop")),
            best=Best(**data.pop("best")),
            **data,
        )


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


def _from_version_0_1(old: dict[str, Any]) -> dict[str, Any]:
    """Convert from version 0.1, which stored all fields in one flat dict."""
    same = ("stage", "epoch", "stage_epoch", "step", "stage_step", "stopped", "train_seconds")
    return {name: old[name] for name in same} | {
        "sums": {
            "loss": old["loss_sum"],
            "accuracy": old["accuracy_sum"],
            "samples": old["examples"],
            "seconds": old["seconds"],
            "wait_seconds": old["wait_seconds"],
        },
        "plateau": {
            "best": old["plateau_best"],
            "wait": old["plateau_wait"],
            "scale": old["plateau_scale"],
        },
        "early_stop": {"best": old["stop_best"], "wait": old["stop_wait"]},
        "best": {"score": old["best_score"], "epoch": old["best_epoch"]},
    }
