"""Results of a study, which its engine passes to `train.studies.summary`.

Imports only the standard library.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Metric = Literal["accuracy", "macro_f1", "loss"]
FINISHED = ("done", "reused")
RETRIED = ("failed", "not run")  # by the next call


@dataclasses.dataclass(frozen=True)
class Setting:
    """One combination of values of the varied recipe fields."""

    number: int
    values: Mapping[str, Any]  # by path, such as {"stages.0.lr": 0.1}; empty if nothing is varied


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One run of a study, finished or not."""

    name: str  # its folder below runs/: "003/fold1/seed0", "003/seed0" without folds
    setting: int  # number
    fold: int | None  # None without cross-validation
    seed: int
    state: str  # of `train.jobs.State`, or "pruned"
    text: str = ""  # "diverged at step 7", "pruned after 3 epochs", or why it failed
    directory: Path = Path()  # run directory
    # Score of the tested weights on the run's validation images, by the study's metric; see `choose`. None if unknown.
    validation: float | None = None
    # Published test split, chosen setting only: a folder with the run's test.json and predictions.npz for that split.
    published_test: Path | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run was trained and tested."""
        return self.state in FINISHED


@dataclasses.dataclass(frozen=True)
class StudyResults:
    """All settings of a study, and all its runs, planned or finished.

    Without a published test split, a run's predictions are those of its test split (with folds, the fold). With one,
    they are those of its validation split, which is the fold (`"split": "validation"` in test.json), and the published
    images are used once, for the chosen setting: `RunResult.published_test`.
    """

    name: str
    metric: Metric
    settings: tuple[Setting, ...]
    runs: tuple[RunResult, ...]
    num_folds: int  # 0 without cross-validation
    seeds: tuple[int, ...]
    has_test_split: bool  # published
    command: str = ""  # command that started the study, for the page
    notes: tuple[str, ...] = ()  # remarks, for example on an interruption, for terminal and page

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether a higher or a lower score is better."""
        return "minimize" if self.metric == "loss" else "maximize"

    @property
    def varied(self) -> tuple[str, ...]:
        """Paths of the varied fields."""
        return tuple(dict.fromkeys(path for setting in self.settings for path in setting.values))

    def runs_of(self, setting: int) -> tuple[RunResult, ...]:
        """Return the runs of a setting, by fold and seed."""
        runs = [run for run in self.runs if run.setting == setting]
        return tuple(sorted(runs, key=lambda r: (-1 if r.fold is None else r.fold, r.seed)))

    def is_complete(self, setting: int) -> bool:
        """Whether all folds and seeds of a setting are finished."""
        finished = {(run.fold, run.seed) for run in self.runs_of(setting) if run.is_finished}
        return len(finished) == max(self.num_folds, 1) * len(self.seeds)

    def validation_mean(self, setting: int, fold: int | None = None) -> float | None:
        """Return the mean validation score of a setting's finished runs, of all folds or of one.

        None if it is not known for all of them, or not finite.
        """
        scores = [
            run.validation
            for run in self.runs_of(setting)
            if run.is_finished and fold in (None, run.fold)
        ]
        known = [score for score in scores if score is not None and math.isfinite(score)]
        return statistics.fmean(known) if known and len(known) == len(scores) else None

    def best(self, scores: Mapping[int, float | None]) -> int | None:
        """Return the setting with the best score, the first of several equal ones; None without a score."""
        sign = 1 if self.direction == "minimize" else -1
        known = [(sign * score, number) for number, score in scores.items() if score is not None]
        return min(known)[1] if known else None

    @property
    def is_settled(self) -> bool:
        """Whether no run is left to do or to try again: only then is the choice of a setting final."""
        return all(run.state not in RETRIED for run in self.runs)

    def choose(self, fold: int | None = None) -> int | None:
        """Return the complete setting with the best validation score, over all folds or within one.

        The engine uses a published test split for the chosen setting's runs only, once the choice is settled.
        """
        complete = [s.number for s in self.settings if self.is_complete(s.number)]
        return self.best({number: self.validation_mean(number, fold) for number in complete})
