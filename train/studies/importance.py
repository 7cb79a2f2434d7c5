"""Importance of each varied field for the scores of a study's settings."""

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

SEED = 0  # of the random forest
LOG_RATIO = 10  # positive values that span this factor or more are compared on a log scale


@dataclasses.dataclass(frozen=True)
class Importance:
    """Shares of the variance of the settings' scores, by path, largest first."""

    shares: dict[str, float]
    rest: float | None  # interactions of fields, and noise; None if unknown
    method: str


def importance(
    settings: Sequence[tuple[Mapping[str, Any], float]],
) -> Importance | None:
    """Compute the importance of each field that varies; None if it cannot be computed.

    For a full grid, the shares are the exact main effects: the variance of the means over all other fields. For other
    settings, such as random ones, Optuna's fANOVA estimates them with a random forest.

    `settings` are pairs of values by path and a finite score.
    """
    fields = [
        path
        for path in dict.fromkeys(path for values, _ in settings for path in values)
        if len({key(values.get(path)) for values, _ in settings}) > 1
    ]
    scores = [score for _, score in settings]
    if not fields or len(settings) < 3 or statistics.pvariance(scores) == 0:
        return None
    if is_grid([values for values, _ in settings], fields):
        shares = {path: _main_effect(settings, path) for path in fields}
        method = "main effects in the grid, as shares of the variance of the settings' scores"
        return Importance(_sorted(shares), max(1 - sum(shares.values()), 0.0), method)
    return _fanova(settings, fields)


def key(value: Any) -> str:
    """Return a value as text that distinguishes types."""
    return json.dumps(value, default=str)


def is_grid(settings: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> bool:
    """Whether the settings are all combinations of the fields' values, each once."""
    found = [tuple(key(values.get(path)) for path in fields) for values in settings]
    whole = itertools.product(*(sorted(set(column)) for column in zip(*found, strict=True)))
    return sorted(found) == sorted(whole)


def _main_effect(settings: Sequence[tuple[Mapping[str, Any], float]], path: str) -> float:
    groups: dict[str, list[float]] = {}
    for values, score in settings:
        groups.setdefault(key(values[path]), []).append(score)
    means = [statistics.fmean(group) for group in groups.values()]
    return statistics.pvariance(means) / statistics.pvariance([score for _, score in settings])


def _sorted(shares: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _fanova(
    settings: Sequence[tuple[Mapping[str, Any], float]], fields: Sequence[str]
) -> Importance | None:
    """Let Optuna estimate the importance of the fields that all settings have."""
    import optuna

    fields = [path for path in fields if all(path in values for values, _ in settings)]
    if not fields:
        return None
    columns = {path: _column([values[path] for values, _ in settings]) for path in fields}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise Optuna reports the new study
    try:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED))
    finally:
        optuna.logging.set_verbosity(verbosity)
    for number, (_, score) in enumerate(settings):
        params = {path: column[number] for path, (column, _) in columns.items()}
        distributions = {path: distribution for path, (_, distribution) in columns.items()}
        study.add_trial(
            optuna.create_trial(params=params, distributions=distributions, value=score)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
    try:
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except RuntimeError:  # no tree of the forest finds a split
        return None
    method = (
        "fANOVA with a random forest, as shares of the variance that it explains; estimated from"
        f" {len(settings)} settings"
    )
    return Importance(_sorted(shares), None, method)


def _column(values: Sequence[Any]) -> tuple[list[Any], Any]:
    """Return the values in a form that Optuna accepts, and their distribution."""
    from optuna import distributions

    if is_numeric(values):
        log = is_log(values)
        numbers = [float(value) for value in values]
        return numbers, distributions.FloatDistribution(min(numbers), max(numbers), log=log)
    texts = [key(value) for value in values]
    return texts, distributions.CategoricalDistribution(sorted(set(texts)))


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all values are finite numbers."""
    return all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def is_log(values: Sequence[Any]) -> bool:
    """Whether numbers span a range wide enough to be compared on a log scale."""
    return min(values) > 0 and max(values) >= LOG_RATIO * min(values)
