"""The columns of a run: the numbers in its test.json, and other quantities stated in the papers."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.reproduce.verdicts import ROUNDING, RowResult, comparable, hardware_of, values_of

CONVERGED = 0.01  # one point of validation accuracy, see `curve_columns`
TIME, SAVED = "test_time_ms", "test_time_saved"


def values(test: Mapping[str, Any], summary: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the columns of a finished run by name, without those that are not finite.

    Args:
      test: content of test.json.
      summary: rows of summary.csv, one per epoch.

    Columns besides the numbers in test.json: `train_loss` and `validation_loss` of the best epoch; `convergence_epoch`
    and `loss_fluctuation` (see `curve_columns`); support-weighted averages, if test.json lacks them; `above_chance`
    (the accuracy minus the fraction of the largest class); and for up to ten classes the fraction of each class's
    images predicted as each class: `correct: dogs`, `confused: dogs as cats`.
    """
    found = {n: v for n, v in test.items() if _is_number(v)}
    best = next((row for row in summary if row["epoch"] == test.get("best_epoch")), None)
    if best is not None:
        found = {"train_loss": best["train_loss"], "validation_loss": best["val_loss"]} | found
    found |= curve_columns(summary)
    per_class = test.get("per_class") or {}
    for name in ("precision", "recall", "f1"):
        support = sum(scores["support"] for scores in per_class.values())
        if support:
            average = sum(s[name] * s["support"] for s in per_class.values()) / support
            found.setdefault(f"weighted_{name}", average)
    largest = max((scores["support"] for scores in per_class.values()), default=0)
    if largest and "accuracy" in found:
        total = sum(scores["support"] for scores in per_class.values())
        found["above_chance"] = found["accuracy"] - largest / total
    if len(per_class) <= 10 and "confusion_matrix" in test:
        for true, counts in zip(per_class, test["confusion_matrix"], strict=True):
            for label, count in zip(per_class, counts, strict=True):
                name = f"correct: {true}" if true == label else f"confused: {true} as {label}"
                found[name] = count / max(sum(counts), 1)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def curve_columns(summary: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how fast and how smoothly the last stage of a run converged.

    convergence_epoch: the first epoch, counted from 1, such that it and all later epochs have a validation accuracy
      within one point (inclusive) of the last epoch's, the final level. A peak that is lost again does not count.
      Absent if the last accuracy is not finite.
    loss_fluctuation: the increases of the validation loss from one epoch to the next, summed and divided by the number
      of such steps, in nats per epoch; 0 for a loss that never rises. Absent for fewer than two epochs, or if a loss is
      not finite.
    """
    rows = [row for row in summary if row["stage"] == summary[-1]["stage"]]
    found: dict[str, float] = {}
    accuracies = [row["val_accuracy"] for row in rows]
    if accuracies and math.isfinite(accuracies[-1]):
        at_level = [abs(v - accuracies[-1]) <= CONVERGED + ROUNDING for v in accuracies]
        away = [epoch for epoch, level in enumerate(at_level, 1) if not level]
        found["convergence_epoch"] = 1 + max(away, default=0)
    losses = [row["val_loss"] for row in rows]
    if len(losses) > 1 and all(map(math.isfinite, losses)):
        rises = [max(0.0, after - before) for before, after in itertools.pairwise(losses)]
        found["loss_fluctuation"] = sum(rises) / len(rises)
    return found


def with_time_saved(result: RowResult, reference: RowResult) -> RowResult:
    """Add the column `test_time_saved`: 1 - test time / test time of the reference with the same seed.

    It is not added if the two rows were run on different hardware.
    """
    if len(hardware_of([*comparable(result.runs), *comparable(reference.runs)])) > 1:
        return result
    times = values_of(TIME, comparable(reference.runs))

    def extended(run: Any) -> Any:
        other = times.get(run.seed)
        if not other or TIME not in run.values:
            return run
        saved = 1 - run.values[TIME] / other
        return dataclasses.replace(run, values={**run.values, SAVED: saved})

    return dataclasses.replace(result, runs=[extended(run) for run in result.runs])
