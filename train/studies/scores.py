"""Scores of a study's settings with their intervals, the tests between them, and the score of the chosen one."""

import dataclasses
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from train.analysis import statistics
from train.analysis.statistics import Difference, Interval, Unit
from train.comparison import results as comparison
from train.comparison import sources
from train.comparison.sources import Candidate, Pooled, Run
from train.errors import InputError
from train.record.directory import RunDir
from train.studies.results import RETRIED, RunResult, Setting, StudyResults

# Metrics of a study that need only the predictions.
PREDICTED: Mapping[str, statistics.Metric] = {"accuracy": "accuracy", "macro_f1": "f1"}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The score of a setting over all its runs, or of a choice, and its intervals."""

    mean: float  # over the runs
    sd: float | None  # over the runs
    pooled: float | None  # of the images of all folds together; the mean over the seeds
    interval: Interval | None  # of `pooled`, over images or groups
    unit: Unit  # images or groups
    units: int  # their number; 0 if the predictions of the images are unknown
    by_fold: tuple[float, ...]  # means over the seeds; one value without cross-validation
    by_seed: tuple[float, ...]  # means over the folds
    seeds: tuple[int, ...]
    test_share: float  # see `train.analysis.statistics.mean_interval`
    is_fraction: bool  # between 0 and 1

    @property
    def runs_unit(self) -> Literal["folds", "seeds"]:
        """Unit of `runs_interval`."""
        return "folds" if len(self.by_fold) > 1 else "seeds"

    @property
    def runs_interval(self) -> Interval | None:
        """Interval of the mean over folds (Nadeau and Bengio), or else over seeds; None for one run."""
        if len(self.by_fold) > 1:
            found = statistics.mean_interval(self.by_fold, self.test_share)
        else:
            found = statistics.mean_interval(self.by_seed)
        # Student's t is unbounded.
        return (max(found[0], 0.0), min(found[1], 1.0)) if found and self.is_fraction else found


@dataclasses.dataclass(frozen=True)
class SettingScore:
    """Scores and tests of one setting."""

    setting: Setting
    complete: bool
    finished: int  # runs
    planned: int  # runs
    validation: float | None  # mean score on the validation images
    mean: float | None  # of the finished runs
    sd: float | None
    estimate: Estimate | None  # of a complete setting
    differences: tuple[
        Difference, ...
    ] = ()  # the best setting minus this one; the first is the main test
    candidate: Candidate | None = None
    losses: np.ndarray | None = (
        None  # of the candidate's images, float [R, N]; only for the metric loss
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """Score of the setting chosen on validation images, on images that were not used to choose it."""

    how: Literal["published", "nested"]  # on the published test split, or on each outer fold
    settings: tuple[int, ...]  # chosen: one per fold with "nested", else one
    estimate: Estimate | None
    missing: str = ""  # why there is no estimate


@dataclasses.dataclass(frozen=True)
class Summary:
    """Scores and tests of a study."""

    results: StudyResults  # unreadable runs count as failed
    scores: tuple[SettingScore, ...]  # best validation score first; then the incomplete settings
    best: int | None  # the setting that all others are tested against
    best_by: Literal["validation", "score"]
    choice: Choice
    untested: tuple[str, ...] = ()  # why settings could not be tested

    def of(self, setting: int) -> SettingScore:
        """Return the scores of a setting."""
        return next(s for s in self.scores if s.setting.number == setting)


@dataclasses.dataclass(frozen=True)
class _Scored:
    """A finished run, as read from its directory."""

    value: float  # NaN if it is not finite
    run: Run | None  # None without class predictions, only for the metric loss
    losses: dict[str, float] | None = None  # of each image


def summarize(results: StudyResults) -> Summary:
    """Compute the scores of a study. Runs that cannot be read count as failed."""
    scored: dict[str, _Scored] = {}
    runs = []
    for run in results.runs:
        if run.is_finished:
            try:
                scored[run.name] = _read(run, results.metric)
            except InputError as error:
                run = dataclasses.replace(run, state="failed", text=f"cannot be read: {error}")
        runs.append(run)
    results = dataclasses.replace(results, runs=tuple(runs))
    scores = [_setting_score(results, setting, scored) for setting in results.settings]
    best, best_by = results.choose(), "validation"
    if best is None:
        best_by = "score"
        best = results.best(
            {s.setting.number: s.mean for s in scores if s.complete and _known(s.mean)}
        )
    untested: list[str] = []
    if best is not None:
        scores = _tested(scores, best, results, untested)
    sign = 1 if results.direction == "minimize" else -1

    def order(s: SettingScore) -> tuple[Any, ...]:
        ranked = s.validation if best_by == "validation" else s.mean
        return not s.complete, not _known(ranked), sign * (ranked or 0.0), s.setting.number

    choice = _published(results, scored) if results.has_test_split else _nested(results, scored)
    return Summary(
        results,
        tuple(sorted(scores, key=order)),
        best,
        "validation" if best_by == "validation" else "score",
        choice,
        tuple(untested),
    )


def _known(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


# Reading runs.


def _read(run: RunResult, metric: str, published: bool = False) -> _Scored:
    folder = run.published_test if published else run.directory
    assert folder is not None
    if metric in PREDICTED:
        found = sources.read_run(run.directory, folder)
        classes = len(found.images.class_names)
        value = statistics.score(found.images.labels, found.predicted, PREDICTED[metric], classes)
        return _Scored(value, found)
    loss = RunDir(folder).read_json(RunDir(folder).test).get("loss")
    value = float(loss) if isinstance(loss, int | float) else math.nan
    try:
        found = sources.read_run(run.directory, folder)
    except InputError:  # an autoencoder
        return _Scored(value, None)
    losses = _image_losses(RunDir(folder))
    return _Scored(value, found, losses)


def _image_losses(run: RunDir) -> dict[str, float] | None:
    """Compute the cross-entropy of each image; None without the probabilities of all classes."""
    try:
        with np.load(run.predictions, allow_pickle=False) as saved:
            if "probabilities" not in saved.files:
                return None
            labels, ids = saved["labels"], saved["ids"].tolist()
            chosen = saved["probabilities"][np.arange(len(labels)), labels]
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
        return None
    losses = -np.log(np.maximum(chosen, np.finfo(np.float32).tiny))
    return dict(zip(ids, losses.astype(float).tolist(), strict=True))


# One setting.


def _setting_score(
    results: StudyResults, setting: Setting, scored: Mapping[str, _Scored]
) -> SettingScore:
    number = setting.number
    runs = results.runs_of(number)
    done = [run for run in runs if run.is_finished]
    values = [scored[run.name].value for run in done]
    mean, sd = (
        statistics.mean_and_sd(values) if all(map(math.isfinite, values)) else (math.nan, None)
    )
    score = SettingScore(
        setting,
        results.is_complete(number),
        len(done),
        max(len(runs), max(results.num_folds, 1) * len(results.seeds)),
        results.validation_mean(number),
        mean,
        sd,
        None,
    )
    if not score.complete or not _known(mean):
        return score
    try:
        estimate, candidate, losses = _estimate(results, f"{number:03d}", done, scored)
    except InputError:  # for example, if the data are split differently for each seed
        return score
    return dataclasses.replace(score, estimate=estimate, candidate=candidate, losses=losses)


def _estimate(
    results: StudyResults, name: str, runs: Sequence[RunResult], scored: Mapping[str, _Scored]
) -> tuple[Estimate, Candidate | None, np.ndarray | None]:
    """Estimate the score of runs with all folds and seeds. Raises InputError if they cannot be pooled."""
    table = {(run.fold, run.seed): scored[run.name].value for run in runs}
    folds = sorted({run.fold for run in runs}, key=lambda fold: fold or 0)
    seeds = sorted({run.seed for run in runs})
    values = np.array([[table[fold, seed] for fold in folds] for seed in seeds])
    read = [scored[run.name].run for run in runs]
    candidate = None
    if all(read):
        candidate = sources.candidate(name, [run for run in read if run is not None])
    pooled, interval, units, losses = None, None, 0, None
    unit: Unit = "images"
    share = 1 / (len(folds) - 1) if len(folds) > 1 else 0.0
    if candidate is not None:
        images = candidate.pooled.images
        share = candidate.pooled.test_share
        if results.metric in PREDICTED:
            found = comparison.score(candidate.pooled, PREDICTED[results.metric])
            pooled, interval = found.value, found.interval
            unit, units = statistics.count_units(candidate.pooled.groups, len(images))
        else:
            losses = _losses(candidate.pooled, [scored[run.name] for run in runs])
        if losses is not None:
            pooled = float(losses.mean())
            interval = statistics.values_interval(losses, candidate.pooled.groups)
            unit, units = statistics.count_units(candidate.pooled.groups, len(images))
    mean, sd = statistics.mean_and_sd(values.ravel().tolist())
    assert mean is not None
    estimate = Estimate(
        mean,
        sd,
        pooled,
        interval,
        unit,
        units,
        tuple(values.mean(axis=0).tolist()),
        tuple(values.mean(axis=1).tolist()),
        tuple(seeds),
        share,
        results.metric in PREDICTED,
    )
    return estimate, candidate, losses


def _losses(pooled: Pooled, runs: Sequence[_Scored]) -> np.ndarray | None:
    """Pool the losses of the images as `pooled` pools predictions: [R, N]."""
    by_seed: dict[int, dict[str, float]] = {seed: {} for seed in pooled.seeds}
    for scored in runs:
        if scored.losses is None or scored.run is None:
            return None
        by_seed[scored.run.seed] |= scored.losses
    return np.array([[by_seed[seed][i] for i in pooled.images.ids] for seed in pooled.seeds])


# Two settings.


def _tested(
    scores: Sequence[SettingScore], best: int, results: StudyResults, untested: list[str]
) -> list[SettingScore]:
    """Test the best setting against each other complete one; adjust the main tests by Holm's method."""
    reference = next(s for s in scores if s.setting.number == best)
    found: dict[int, list[Difference]] = {}
    for score in scores:
        number = score.setting.number
        if number == best or not score.complete:
            continue
        if reference.estimate is None or score.estimate is None:
            untested.append(f"{number:03d} is not tested: its runs cannot be pooled")
            continue
        try:
            found[number] = _differences(reference, score, results)
        except InputError as error:
            untested.append(
                f"{number:03d} is not tested: {error}".replace(", or use --no-tests", "")
            )
    tests = {number: differences for number, differences in found.items() if differences}
    adjusted = statistics.with_holm([differences[0] for differences in tests.values()])
    main = dict(zip(tests, adjusted, strict=True))
    return [
        dataclasses.replace(s, differences=(main[s.setting.number], *tests[s.setting.number][1:]))
        if s.setting.number in main
        else s
        for s in scores
    ]


def _differences(
    first: SettingScore, second: SettingScore, results: StudyResults
) -> list[Difference]:
    if results.metric in PREDICTED:
        assert first.candidate is not None and second.candidate is not None
        pair = comparison.compare_pair(
            [first.candidate, second.candidate], 0, 1, PREDICTED[results.metric]
        )
        return list(pair.differences)
    one, other = first.estimate, second.estimate
    assert one is not None and other is not None
    if len(one.by_fold) > 1:
        return [statistics.compare_folds(one.by_fold, other.by_fold, one.test_share)]
    if len(one.by_seed) > 1:
        return [statistics.compare_seeds(one.by_seed, other.by_seed)]
    return _compare_losses(first, second)


def _compare_losses(first: SettingScore, second: SettingScore) -> list[Difference]:
    """Compare single runs by the losses of their images, if they are known."""
    if first.losses is None or second.losses is None:
        return []
    assert first.candidate is not None and second.candidate is not None
    one, other = first.candidate.pooled, second.candidate.pooled
    order = sources.match(one.images, other.images, first.candidate.name, second.candidate.name)
    gaps = first.losses[0] - second.losses[0][order]
    interval = statistics.values_interval(gaps, one.groups)
    unit, count = statistics.count_units(one.groups, len(gaps))
    return [Difference(float(gaps.mean()), interval, None, count, unit, "paired bootstrap")]


# The choice.


def _published(results: StudyResults, scored: Mapping[str, _Scored]) -> Choice:
    """Score the chosen setting on the published test split: all of its runs on the same images."""
    chosen = results.choose()
    if chosen is None:
        return Choice("published", (), None, "no complete setting has a validation score")
    tested = [r for r in results.runs_of(chosen) if r.is_finished and r.published_test is not None]
    if not tested:
        missing = "the chosen setting has not yet been tested on the published test images"
        earlier = [r.setting for r in results.runs if r.published_test is not None]
        if earlier:
            missing = f"the published test images are used once, and were used for an earlier choice, {earlier[0]:03d}"
        elif not results.is_settled:
            count = sum(r.state in RETRIED for r in results.runs)
            missing = (
                f"{count} of {len(results.runs)} runs failed or were not run; the published test images are used when"
                " all are done: run the same command again"
            )
        return Choice("published", (chosen,), None, missing)
    # Here folds are repeated runs on the same images, as seeds are.
    runs = [dataclasses.replace(r, fold=None, seed=i) for i, r in enumerate(tested)]
    found: dict[str, _Scored] = {}
    try:
        for run in runs:
            item = _read(run, results.metric, published=True)
            read = None if item.run is None else dataclasses.replace(item.run, seed=run.seed)
            found[run.name] = dataclasses.replace(item, run=read)
        estimate, _, _ = _estimate(results, f"{chosen:03d}", runs, found)
    except InputError as error:
        return Choice("published", (chosen,), None, f"{error}")
    return Choice("published", (chosen,), estimate)


def _nested(results: StudyResults, scored: Mapping[str, _Scored]) -> Choice:
    """Choose a setting within each outer fold, and score the choices on the pooled folds."""
    folds = range(results.num_folds) if results.num_folds else (None,)
    chosen, runs = [], []
    for fold in folds:
        number = results.choose(fold)
        if number is None:
            missing = "no complete setting has validation scores"
            return Choice("nested", (), None, missing)
        chosen.append(number)
        runs += [r for r in results.runs_of(number) if r.fold == fold and r.is_finished]
    try:
        if not all(math.isfinite(scored[run.name].value) for run in runs):
            return Choice("nested", tuple(chosen), None, "its loss is not finite")
        estimate, _, _ = _estimate(results, "the choice", runs, scored)
    except InputError as error:
        return Choice("nested", tuple(chosen), None, f"{error}")
    return Choice("nested", tuple(chosen), estimate)
