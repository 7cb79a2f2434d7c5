"""Reading and pooling what can be compared: runs, settings of a study, rows of a paper."""

import dataclasses
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import InputError
from train.record.directory import RunDir
from zoo.common.commands import typed

STUDY = "study.json"
RUNS = "runs"  # folder of a study's runs
# Run folders of one setting: ROW/seed0 in a paper's results, 003/fold1/seed0 in a study.
RUN_FOLDER = re.compile(r"(seed|fold)\d+")


@dataclasses.dataclass(frozen=True)
class Images:
    """The N images that a run was tested on."""

    ids: tuple[str, ...]
    digests: tuple[str, ...]  # sha256 of the content; "" if unknown
    groups: tuple[str, ...]  # "" for none
    labels: np.ndarray  # int [N]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run and its predictions."""

    directory: RunDir
    model: str
    dataset: str
    seed: int
    images: Images
    predicted: np.ndarray  # int [N]
    rows: list[dict[str, Any]]  # of summary.csv
    training_images: int  # images used for training or to select the epoch or setting


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The predictions of all runs of a setting: one per image and seed, for R seeds."""

    images: Images
    predicted: np.ndarray  # int [R, N]
    folds: np.ndarray  # int [N], the fold of each image; all 0 without cross-validation
    seeds: tuple[int, ...]
    test_share: float  # n_test/n_train of a run, see `train.analysis.statistics.mean_interval`

    @property
    def num_folds(self) -> int:
        """Number of folds, 1 without cross-validation."""
        return int(self.folds.max()) + 1

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Groups of the images, None if there are none."""
        return self.images.groups if any(self.images.groups) else None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One item of a comparison: a run, or all runs of a setting or row."""

    name: str
    runs: tuple[Run, ...]
    pooled: Pooled


# Finding runs.


def find(paths: Iterable[str | os.PathLike[str]], settings: int = 5) -> list[Candidate]:
    """Read candidates from paths: run directories, studies, settings of studies, rows of a paper.

    A study yields its `settings` best complete settings. Raises InputError if nothing at a path can be compared.
    """
    found: list[tuple[Path, str, list[Path]]] = []
    for path in map(Path, paths):
        found += _folders(path, settings)
    folders = [folder.resolve() for folder, _, _ in found]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise InputError(f"{found[number][0]} is named twice: name different runs")
    names = short_names(folders)
    return [
        candidate(f"{name}{label}", [read_run(run) for run in runs])
        for name, (_, label, runs) in zip(names, found, strict=True)
    ]


def _folders(path: Path, settings: int) -> list[tuple[Path, str, list[Path]]]:
    """List the (folder, label, run directories) of each candidate that a path names."""
    if not path.exists():
        raise InputError(f"{path} does not exist: name run directories, studies or rows of a paper")
    if RunDir(path).exists():
        return [(path, "", [path])]
    if (path / STUDY).is_file():
        return study_settings(path, settings)
    runs = _runs_below(path)
    if runs:
        return [(path, "", runs)]
    inside = sorted(path.iterdir()) if path.is_dir() else []
    named = [p for p in inside if p.is_dir() and (RunDir(p).exists() or _runs_below(p))]
    if named:
        names = ", ".join(f"{p}" for p in named[:3]) + (", ..." if len(named) > 3 else "")
        raise InputError(f"{path} contains several runs or rows: name some of them ({names})")
    if (path / "definition.json").is_file():
        raise InputError(
            f"no run of the study {path} is finished: continue it with python -m train.study {path}"
        )
    raise InputError(
        f"{path} contains no finished run: name run directories, studies or rows of a paper"
    )


def _runs_below(path: Path) -> list[Path]:
    """List the finished runs in a setting's seed and fold folders."""
    found: list[Path] = []
    if path.is_dir():
        for child in sorted(path.iterdir(), key=lambda p: (len(p.name), p.name)):
            if RUN_FOLDER.fullmatch(child.name):
                is_done = RunDir(child).exists() and RunDir(child).test.exists()
                found += [child] if is_done else _runs_below(child)
    return found


def study_settings(path: Path, limit: int) -> list[tuple[Path, str, list[Path]]]:
    """List the best complete settings of a study, as (folder, label, run directories).

    study.json has `settings` (number, values, complete, validation_mean), `runs` (name, setting, state) and
    `direction`; the runs are in the study's `runs/` folder, by name.
    """
    study = RunDir(path).read_json(path / STUDY)
    try:
        sign = 1 if study["direction"] == "minimize" else -1
        complete = [s for s in study["settings"] if s["complete"]]
        complete.sort(key=lambda s: sign * s["validation_mean"])
        found = []
        for setting in complete[:limit]:
            number = setting["number"]
            runs = [r for r in study["runs"] if r["setting"] == number and r["state"] == "done"]
            folder = path / RUNS / f"{number:03d}"
            folders = [path / RUNS / run["name"] for run in runs]
            found.append((folder, _label(setting["values"]), folders))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path / STUDY} is not a valid study file (missing or invalid: {error}): restore it"
        ) from None
    if not found:
        raise InputError(f"study {path} has no complete setting yet: resume it first")
    return found


def _label(values: dict[str, Any]) -> str:
    shown = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in values.items())
    return f" ({shown})" if shown else ""


def short_names(folders: Sequence[Path]) -> list[str]:
    """Shorten distinct absolute paths to the fewest trailing components that keep them distinct."""
    count = 1
    while len({folder.parts[-count:] for folder in folders}) < len(folders):
        count += 1
    return ["/".join(folder.parts[-count:]) for folder in folders]


# Reading runs.


def read_run(path: str | os.PathLike[str], results: str | os.PathLike[str] | None = None) -> Run:
    """Read a finished run. Raises InputError if it is unfinished or damaged, or predicts no classes.

    `results` is a folder whose test.json and predictions.npz are read in place of those of the run directory.
    """
    run, tested = RunDir(path), RunDir(path if results is None else results)
    config, manifest = run.read_json(run.config).get("recipe", {}), run.read_json(run.splits)
    if not tested.test.exists() or not tested.predictions.exists():
        raise InputError(
            f"{tested.path} is not finished (no {run.test.name}): resume it with"
            f" {typed('train.run')} --workdir {run.path}"
        )
    try:
        # Opened here because np.load does not close a file that is not an archive.
        with open(tested.predictions, "rb") as file, np.load(file, allow_pickle=False) as saved:
            data = {name: saved[name] for name in saved.files if name in _ARRAYS}
        if "predictions" not in data:
            raise InputError(
                f"{run.path} predicts no classes (an autoencoder without --probe): compare classifiers"
            )
        ids = tuple(data["ids"].tolist())
        sizes = {len(ids), len(data["labels"]), len(data["predictions"])}
        if len(sizes) != 1 or not ids:
            raise ValueError("arrays of different lengths")
        hashes, groups = manifest.get("sha256", {}), manifest.get("groups", {})
        images = Images(
            ids,
            tuple(hashes.get(i, "") for i in ids),
            tuple(groups.get(i, "") for i in ids),
            data["labels"],
            tuple(data["class_names"].tolist()),
        )
        # In a study of data with a published test split, runs are scored on their validation images.
        unused = {"test", tested.read_json(tested.test).get("split")}
        splits = manifest["splits"]
        return Run(
            run,
            config["model"],
            manifest["dataset"],
            int(config["seed"]),
            images,
            data["predictions"],
            run.read_summary(),
            sum(len(splits[name]) for name in splits.keys() - unused),
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise InputError(
            f"{run.path} is damaged ({reason}): test it again with {typed('train.run')} --workdir {run.path}"
        ) from None


_ARRAYS = ("ids", "labels", "predictions", "class_names")


# Pooling runs.


def candidate(name: str, runs: Sequence[Run]) -> Candidate:
    """Pool runs of one setting into a candidate. Raises InputError if they cannot be pooled."""
    if not runs:
        raise InputError(f"{name} has no finished run")
    return Candidate(name, tuple(runs), pool(name, runs))


def pool(name: str, runs: Sequence[Run]) -> Pooled:
    """Pool the predictions of a setting's runs: for each seed, concatenate those of all folds.

    Runs on the same test images count as seeds of one fold; seeds that lack a fold are left out. Raises InputError if
    the test images of two folds overlap, or if no seed has all folds.
    """
    folds: dict[frozenset[str], int] = {}
    by_seed: dict[int, dict[int, Run]] = {}
    for run in runs:
        fold = folds.setdefault(frozenset(run.images.ids), len(folds))
        if fold in by_seed.setdefault(run.seed, {}):
            raise InputError(
                f"{name} has two runs with seed {run.seed} on the same test images: name them separately"
            )
        by_seed[run.seed][fold] = run
    if sum(map(len, folds)) != len(frozenset().union(*folds)):
        raise InputError(
            f"the test sets of {name}'s runs differ but overlap, as random splits do: compare single runs"
        )
    complete = {seed: found for seed, found in by_seed.items() if len(found) == len(folds)}
    if not complete:
        raise InputError(f"no seed of {name} has all {len(folds)} folds: finish it first")
    first, *others = complete.values()
    parts = [first[fold].images for fold in range(len(folds))]
    images = Images(
        tuple(name for part in parts for name in part.ids),
        tuple(digest for part in parts for digest in part.digests),
        tuple(group for part in parts for group in part.groups),
        np.concatenate([part.labels for part in parts]),
        parts[0].class_names,
    )
    predicted = [np.concatenate([first[fold].predicted for fold in range(len(folds))])]
    for found in others:
        aligned = []
        for fold in range(len(folds)):
            order = match(first[fold].images, found[fold].images, name, name)
            aligned.append(found[fold].predicted[order])
        predicted.append(np.concatenate(aligned))
    shares = [len(run.images) / max(run.training_images, 1) for run in first.values()]
    sizes = [len(part) for part in parts]
    return Pooled(
        images,
        np.stack(predicted),
        np.repeat(np.arange(len(parts)), sizes),
        tuple(complete),
        float(np.mean(shares)),
    )


def match(first: Images, second: Images, first_name: str, second_name: str) -> list[int]:
    """Return the index in `second` of each image of `first`.

    Raises InputError if images or classes differ; the message names images that differ by name or content.
    """
    where = {name: index for index, name in enumerate(second.ids)}
    missing = [name for name in first.ids if name not in where]
    known = set(first.ids)
    extra = [name for name in second.ids if name not in known]
    pairs = [(i, where[name]) for i, name in enumerate(first.ids) if name in where]
    changed = [
        first.ids[i]
        for i, j in pairs
        if first.digests[i] and second.digests[j] and first.digests[i] != second.digests[j]
    ]
    relabeled = [
        first.ids[i]
        for i, j in pairs
        if first.class_names[first.labels[i]] != second.class_names[second.labels[j]]
    ]
    facts = [
        (missing, f"only in {first_name}"),
        (extra, f"only in {second_name}"),
        (changed, "with different content"),
        (relabeled, "with a different label"),
    ]
    if found := [f"{len(ids)} {text} ({_some(ids)})" for ids, text in facts if ids]:
        raise InputError(
            f"{first_name} and {second_name} have different test images, {'; '.join(found)}: compare runs on the same"
            " test images, or use --no-tests"
        )
    if first.class_names != second.class_names:
        raise InputError(
            f"{first_name} and {second_name} have different classes, or the same in a different order: compare runs on"
            " the same data set, or use --no-tests"
        )
    return [j for _, j in pairs]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
