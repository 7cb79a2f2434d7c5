"""The ledger: what a document prints beside what we measured, and what follows.

Pure functions over plain data. `python -m train.reproduce` makes the runs and writes what `build` returns.

Judged are runs of the document's setting on the document's data only: a score is reproduced when the mean over
the seeds is at least what is printed, less the larger of one point and two standard deviations. Times and losses
are shown, since they depend on hardware and on how they are counted; numbers of parameters depend on no data and
are judged in any case.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from train.reproduce.claims import TIMES, Document, Grid, Ordering, Row

FORMAT = 1
SIZES = ("parameters", "total_parameters")
POINT = 0.01  # what a reproduction may lack in any case
ROUNDING = 1e-9  # of binary fractions

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
CONTRADICTS = "the document contradicts itself"
STAND_IN, SHORTENED, SMOKE = "stand-in", "shortened", "smoke"
DIVERGED, FAILED, NOT_RUN = "diverged", "failed", "not run"
SHOWN, NOT_MEASURED = "shown", "not measured"
HOLDS, HOLDS_NOT = "holds", "does not hold"
# What the record keeps of each run; `train_loss` has a number an epoch, null where it was none.
RECORDED = (
    *("directory", "commit", "epochs_run", "best_epoch", "remark"),
    *("train_loss", "effective_clusters"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What became of one run: a row with one seed."""

    seed: int
    state: Literal["done", "diverged", "failed", "unfinished"]
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)  # numbers of test.json
    text: str = ""  # "diverged at step 7", why it failed, how far it got
    on_document: bool = False  # on the data that the document has
    short: bool = False  # with the row's `short` settings
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # see `describe_data`
    # setting, commit, dirty, hardware, versions, epochs_run, best_epoch, directory, remark
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is known of a row."""

    runs: Sequence[Run] = ()
    sizes: Mapping[str, int] | None = None  # parameters and total_parameters
    setting: str = ""  # in a line
    command: str = ""  # that runs the row
    needs: str = ""  # what a run of it needs
    problem: str = ""  # why a run was tried and did not begin


@dataclasses.dataclass(frozen=True)
class FoundGrid:
    """What is known of a grid: its points that were run, as in `points_table`."""

    points: Sequence[Mapping[str, Any]] = ()
    command: str = ""
    problem: str = ""


# Data.


def describe_data(
    manifest: Mapping[str, Any],
    dataset: str,
    published: Mapping[str, int] | None,
    *,
    fewer_on_purpose: bool = False,
) -> dict[str, Any]:
    """What a run's splits.json tells of its data, beside the document's.

    `dataset` is the name of the document's data, `published` the sizes of its parts (train and validation count
    together, since few documents have a validation part). `fewer_on_purpose`: the recipe itself takes a part of
    the training images. `is_documents` is False, and `why` says so, unless all are as published.
    """
    images = {part: len(ids) for part, ids in manifest["splits"].items()}
    why = _why_other_data(manifest, images, dataset, published, fewer_on_purpose)
    return {
        "name": manifest["dataset"],
        "fingerprint": manifest["fingerprint"],
        "synthetic": bool(manifest.get("synthetic")),
        "images": images,
        "is_documents": not why,
        "why": why,
    }


def _why_other_data(
    manifest: Mapping[str, Any],
    images: Mapping[str, int],
    dataset: str,
    published: Mapping[str, int] | None,
    fewer_on_purpose: bool,
) -> str:
    if manifest.get("synthetic"):
        return f"synthetic images in place of {dataset}"
    if manifest["dataset"] != dataset:
        return f"in place of {dataset}"
    if any("lossy copy" in note for note in manifest.get("notes", ())):
        return "a lossy copy (JPEG) of the published images"
    first = next(iter(manifest["splits"]["train"]), "")
    if dataset == "cifar10" and "." in first:  # the published batches have no file an image
        return "image files, not the published batches"
    if published is None:
        return ""

    def learning(sizes: Mapping[str, int]) -> int:
        return sizes.get("train", 0) + sizes.get("validation", 0)

    ours, theirs = (learning(images), images["test"]), (learning(published), published["test"])
    if ours[1] == theirs[1] and (ours[0] == theirs[0] or fewer_on_purpose):
        return ""
    kind = "subset" if ours[0] <= theirs[0] and ours[1] <= theirs[1] else "other edition"
    return (
        f"{kind}: {ours[0]:,} of {theirs[0]:,} training images (with validation),"
        f" {ours[1]:,} of {theirs[1]:,} test images"
    )


# Verdicts.


def kind_of(column: str) -> Literal["time", "loss", "size", "score"]:
    """What a column's numbers are: milliseconds, a loss, a number of parameters, or a share."""
    if column in TIMES:
        return "time"
    if column in SIZES:
        return "size"
    return "loss" if column == "loss" or column.endswith("_loss") else "score"


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of a sample; of fewer than two values there is none."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def column_verdict(
    column: str,
    printed: float | None,
    values: Sequence[float],
    *,
    failure: bool = False,
    misprint: bool = False,
    judged: bool = True,
) -> str:
    """The verdict of one number, from the values of all seeds.

    `failure`: what is printed is a failure, so that better is not reproduced either. `judged`: the runs are the
    document's setting on the document's data.
    """
    if misprint:
        return CONTRADICTS
    mean, sd = mean_and_sd(values)
    if mean is None:
        return NOT_MEASURED
    kind = kind_of(column)
    if printed is None or kind in ("time", "loss") or column == "train_accuracy":
        return SHOWN  # a high training accuracy can be fitting or overfitting: neither reproduces anything
    if kind == "size":
        within = 500 if printed % 1000 == 0 else 0.5  # printed in thousands, or to the last digit
        return REPRODUCED if abs(mean - printed) < within else NOT_REPRODUCED
    if not judged:
        return SHOWN
    slack = max(POINT, 2 * (sd or 0.0)) + ROUNDING
    reached = abs(mean - printed) <= slack if failure else mean >= printed - slack
    return REPRODUCED if reached else NOT_REPRODUCED


def comparable(runs: Iterable[Run]) -> list[Run]:
    """Of a row's finished runs those that go together: of one length, on the same data; the document's data and
    setting where there are such."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.state in ("done", "diverged"):
            key = (run.on_document, not run.short, str(run.data.get("fingerprint", "")))
            groups.setdefault(key, []).append(run)
    if not groups:
        return []
    return max(groups.items(), key=lambda item: (item[0][:2], len(item[1]), item[0][2]))[1]


def values_of(column: str, found: Found, runs: Sequence[Run]) -> dict[int, float]:
    """A column's values by seed."""
    return {
        run.seed: float(run.values[column])
        for run in runs
        if run.state == "done" and column in run.values
    }


def build(
    document: Document,
    found: Mapping[str, Found],
    grids: Mapping[str, FoundGrid] | None = None,
    *,
    smoke: bool = False,
) -> dict[str, Any]:
    """The ledger of a document as JSON-able data, from what is known of its rows and grids by name."""
    known = {row.name: found.get(row.name, Found()) for row in document.rows}
    chosen = {name: comparable(item.runs) for name, item in known.items()}
    orderings = [_ordering(o, document, known, chosen, smoke) for o in document.orderings]
    return {
        "format": FORMAT,
        "document": document.name,
        "title": document.title,
        "smoke": smoke,
        "rows": [
            _row(row, known[row.name], chosen[row.name], document.orderings, orderings, smoke)
            for row in document.rows
        ],
        "orderings": orderings,
        "grids": [_grid(g, (grids or {}).get(g.name, FoundGrid()), smoke) for g in document.grids],
    }


def _row(
    row: Row,
    found: Found,
    runs: Sequence[Run],
    claims: Sequence[Ordering],
    orderings: Sequence[Mapping[str, Any]],
    smoke: bool,
) -> dict[str, Any]:
    on_document = bool(runs) and runs[0].on_document and not smoke
    short = bool(runs) and runs[0].short
    columns = [
        _column(row, name, found, runs, judged=on_document and not short)
        for name in _columns(row, claims, runs)
    ]
    mine = [o for o in orderings if row.name in (o["higher"], o["lower"])]
    verdict, text = _row_verdict(row, found, runs, columns, mine, smoke)
    facts = [run.facts for run in runs]
    return {
        "name": row.name,
        "table": row.table,
        "label": row.label,
        "model": row.recipe.model,
        "batch_size": row.recipe.batch_size,
        "failure": row.failure,
        "printed": bool(row.printed),  # or a row of ours, that the document's are compared with
        "verdict": verdict,
        "text": text,
        "columns": columns,
        "reading": row.reading,
        "setting": found.setting,
        "ran": _different(fact.get("setting") for fact in facts),  # stand-ins may have other models
        "command": found.command,
        "needs": found.needs,
        "problem": found.problem,
        "data": dict(runs[0].data) if runs else None,
        "shortened": short,
        "commits": _different(fact.get("commit") for fact in facts),
        "dirty": any(fact.get("dirty") for fact in facts),
        "hardware": _different(fact.get("hardware") for fact in facts),
        "versions": _different(fact.get("versions") for fact in facts),
        "runs": [
            {
                "seed": run.seed,
                "state": run.state,
                "text": run.text,
                **{k: run.facts.get(k) for k in RECORDED},
            }
            for run in runs
        ],
        # Runs in the same folders that do not go together with these: unfinished, failed, other data.
        "others": [
            {"seed": run.seed, "state": run.state, "text": run.text}
            for run in found.runs
            if run not in runs
        ],
    }


def _columns(row: Row, claims: Sequence[Ordering], runs: Sequence[Run]) -> list[str]:
    """What is printed, what an ordering speaks of, and for rows without either the accuracy."""
    names = dict.fromkeys(row.printed)
    names |= dict.fromkeys(o.column for o in claims if row.name in (o.higher, o.lower))
    return list(names) or ["accuracy"]


def _column(
    row: Row, name: str, found: Found, runs: Sequence[Run], *, judged: bool
) -> dict[str, Any]:
    number = row.printed.get(name)
    printed = None if number is None or not math.isfinite(number) else number
    if kind_of(name) == "size":
        by_seed: dict[int, float] = {}
        values = [float(found.sizes[name])] if found.sizes and name in found.sizes else []
    else:
        by_seed = values_of(name, found, runs)
        values = list(by_seed.values())
    mean, sd = mean_and_sd(values)
    return {
        "column": name,
        "printed": printed,
        "printed_not_finite": number is not None and printed is None,
        "mean": mean,
        "sd": sd,
        "n": len(by_seed),
        "values": {str(seed): value for seed, value in by_seed.items()},
        "verdict": column_verdict(
            name,
            printed,
            values,
            failure=row.failure,
            misprint=name in row.misprints,
            judged=judged,
        ),
    }


def _row_verdict(
    row: Row,
    found: Found,
    runs: Sequence[Run],
    columns: Sequence[Mapping[str, Any]],
    orderings: Sequence[Mapping[str, Any]],
    smoke: bool,
) -> tuple[str, str]:
    """A word for the row, and a line."""
    if not runs:
        return _verdict_without_runs(row, found, columns)
    diverged = [run for run in runs if run.state == "diverged"]
    if smoke:
        return SMOKE, "; ".join([SMOKE, *(run.text for run in diverged[:1])])
    share = f" in {len(diverged)} of {len(runs)} runs" if len(diverged) < len(runs) else ""
    divergence = f"{diverged[0].text}{share}" if diverged else ""
    first = runs[0]
    if not first.on_document or first.short:
        words = [STAND_IN] * (not first.on_document) + [SHORTENED] * first.short
        text = " and ".join(words)
        if divergence:
            text += f": {divergence}"
        elif not first.on_document and orderings:
            text += f"; {_how_many_hold(orderings)}"
        return words[0], text + _about_sizes(columns)
    if diverged:
        printed_so = any(not math.isfinite(value) for value in row.printed.values())
        if printed_so and not share:
            return REPRODUCED, f"{REPRODUCED}: diverges ({diverged[0].text})"
        return DIVERGED, f"{NOT_REPRODUCED}: {divergence}"
    return _verdict_of(columns)


def _verdict_without_runs(
    row: Row, found: Found, columns: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    failed = [run for run in found.runs if run.state == "failed"]
    if failed:
        return FAILED, f"{FAILED}: {_brief(failed[0].text)}{_about_sizes(columns)}"
    printed = [c for c in columns if c["column"] in row.printed]
    if printed and all(kind_of(c["column"]) == "size" and c["mean"] is not None for c in printed):
        return _verdict_of(columns)
    unfinished = [run for run in found.runs if run.state == "unfinished"]
    if unfinished:
        return NOT_RUN, f"{NOT_RUN} to its end: {unfinished[0].text}"
    why = _brief(found.problem or found.needs)
    return NOT_RUN, (f"{NOT_RUN}: {why}" if why else NOT_RUN) + _about_sizes(columns)


def _about_sizes(columns: Sequence[Mapping[str, Any]]) -> str:
    """Numbers of parameters have their verdict without a run, too."""
    judged = [
        c
        for c in columns
        if kind_of(c["column"]) == "size" and None not in (c["printed"], c["mean"])
    ]
    return "".join(f"; {title_of(c['column'])} {c['verdict']}" for c in judged)


def _verdict_of(columns: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """From the verdicts of a row's numbers, measured in the document's setting on its data."""
    missed = [c for c in columns if c["verdict"] == NOT_REPRODUCED]
    contradictions = [c for c in columns if c["verdict"] == CONTRADICTS]
    beside = ""
    if contradictions:
        names = ", ".join(title_of(c["column"]) for c in contradictions)
        beside = f"; {CONTRADICTS} ({names})"
    if missed:
        worst = max(missed, key=lambda c: abs(c["mean"] - c["printed"]))
        ours, theirs = (show(worst["column"], worst[k]) for k in ("mean", "printed"))
        return (
            NOT_REPRODUCED,
            f"{NOT_REPRODUCED}: {title_of(worst['column'])} {ours}, printed {theirs}{beside}",
        )
    lacking = [
        c
        for c in columns
        if c["verdict"] == NOT_MEASURED
        and c["printed"] is not None
        and kind_of(c["column"]) != "size"
    ]
    if any(c["verdict"] == REPRODUCED for c in columns):
        if lacking:
            beside += f"; {', '.join(title_of(c['column']) for c in lacking)} {NOT_MEASURED}"
        return REPRODUCED, f"{REPRODUCED}{beside}"
    if contradictions:
        return CONTRADICTS, beside.removeprefix("; ")
    return (NOT_MEASURED, NOT_MEASURED) if lacking else (SHOWN, SHOWN)


def _how_many_hold(orderings: Sequence[Mapping[str, Any]]) -> str:
    measured = [o for o in orderings if o["verdict"] != NOT_MEASURED]
    holding = sum(o["verdict"] == HOLDS for o in measured)
    if not measured:
        return "its orderings are not measured"
    return f"{holding} of {len(measured)} {'ordering holds' if len(measured) == 1 else 'orderings hold'}"


# Orderings.


def _ordering(
    ordering: Ordering,
    document: Document,
    known: Mapping[str, Found],
    chosen: Mapping[str, Sequence[Run]],
    smoke: bool,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "text": ordering.text,
        "column": ordering.column,
        "higher": ordering.higher,
        "lower": ordering.lower,
        "verdict": NOT_MEASURED,
        "difference": None,
        "sd": None,
        "n": 0,
        "paired": False,
        "note": "",
    }
    pair = (ordering.higher, ordering.lower)
    if kind_of(ordering.column) == "size":
        sizes = [(known[name].sizes or {}).get(ordering.column) for name in pair]
        if None not in sizes:
            return result | _difference({0: float(sizes[0] or 0)}, {0: float(sizes[1] or 0)})
        return result
    runs = [chosen[name] for name in pair]
    lost = []
    for name, mine in zip(pair, runs, strict=True):
        if not mine:
            return result | {"note": f"{name} was not run"}
        diverged = [run for run in mine if run.state == "diverged"]
        if len(diverged) == len(mine):
            return result | {"note": f"{name} {diverged[0].text}"}
        if diverged:
            lost.append(f"without {len(diverged)} of {len(mine)} runs of {name}, which diverged")
    higher, lower = (
        values_of(ordering.column, known[name], mine) for name, mine in zip(pair, runs, strict=True)
    )
    if not higher or not lower:
        return result | {"note": f"no {title_of(ordering.column)} in {pair[bool(higher)]}"}
    first, second = runs[0][0], runs[1][0]
    same_claim = document.row(pair[0]).recipe.dataset == document.row(pair[1]).recipe.dataset
    other_data = first.data.get("fingerprint") != second.data.get("fingerprint")
    if first.on_document != second.on_document or (same_claim and other_data):
        return result | {"note": "the two rows were run on different data"}
    words = [STAND_IN] * (not first.on_document) + [SHORTENED] * (first.short or second.short)
    note = SMOKE if smoke else ", ".join(words + lost)
    return result | _difference(higher, lower) | {"note": note}


def _difference(higher: Mapping[int, float], lower: Mapping[int, float]) -> dict[str, Any]:
    """Of two rows' values by seed: paired where seeds are the same, since these share data order and draws."""
    seeds = [seed for seed in higher if seed in lower]
    if seeds:
        mean, sd = mean_and_sd([higher[seed] - lower[seed] for seed in seeds])
        count = len(seeds)
    else:
        (mean_h, sd_h), (mean_l, sd_l) = (mean_and_sd(list(v.values())) for v in (higher, lower))
        mean = (mean_h or 0.0) - (mean_l or 0.0)
        sd = None if sd_h is None or sd_l is None else math.hypot(sd_h, sd_l)
        count = min(len(higher), len(lower))
    return {
        "verdict": HOLDS if mean is not None and mean > 0 else HOLDS_NOT,
        "difference": mean,
        "sd": sd,
        "n": count,
        "paired": bool(seeds),
    }


# Grids.


def points_table(points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points sorted by validation accuracy, the best first; those that diverged last, in their order.

    A point has `index`, `point` (the axes' values), `state`, `text`, `data`, `short`, `dirty`, and where it is
    done `validation_accuracy`, and `accuracy` and `loss` of the test images.
    """

    def key(point: Mapping[str, Any]) -> tuple[bool, float, int]:
        value = point.get("validation_accuracy")
        return value is None, -(value or 0.0), point["index"]

    return [dict(point) for point in sorted(points, key=key)]


def _grid(grid: Grid, found: FoundGrid, smoke: bool) -> dict[str, Any]:
    there = points_table(found.points)
    # Points on the document's data and on a stand-in, or on two stand-ins, have no common best.
    groups = collections.Counter(_data_key(point) for point in there)
    chosen = max(groups, key=lambda key: (key[0], groups[key], key), default=None)
    points = [point for point in there if _data_key(point) == chosen]
    done = [p for p in points if p.get("validation_accuracy") is not None]
    rank = next((i for i, p in enumerate(done, 1) if _is_at(p["point"], grid.best)), None)
    return {
        "name": grid.name,
        "table": grid.table,
        "size": len(grid),
        "axes": {path: list(values) for path, values in grid.axes.items()},
        "reading": grid.reading,
        "command": found.command,
        "problem": found.problem,
        "smoke": smoke,
        "data": points[0].get("data") if points else None,
        "shortened": any(p.get("short") for p in points),
        "documents_best": dict(grid.best),
        "documents_best_rank": rank,  # among ours by validation accuracy, from 1 on
        "best": done[0] if done else None,
        "diverged": sum(p["state"] == "diverged" for p in points),
        "dirty": any(p.get("dirty") for p in points),
        "left_out": len(there) - len(points),  # on other data
        "points": points,
    }


def _data_key(point: Mapping[str, Any]) -> tuple[bool, str]:
    data = point.get("data") or {}
    return bool(data.get("is_documents")), str(data.get("fingerprint", ""))


def _is_at(point: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    return bool(best) and all(point.get(path) == value for path, value in best.items())


# Words.


def title_of(column: str) -> str:
    """A column's name for readers."""
    return {"f1": "F1"}.get(column, column.removesuffix("_ms").replace("_", " "))


def show(column: str, value: float | None, sd: float | None = None) -> str:
    """A number of a column with its unit, and its spread."""
    if value is None:
        return "not measured"
    kind = kind_of(column)
    if kind == "time":
        return f"{value:,.0f}{f' ± {sd:,.0f}' if sd is not None else ''} ms"
    if kind == "size":
        return f"{value:,.0f}"
    if kind == "loss":
        return f"{value:.4f}{f' ± {sd:.4f}' if sd is not None else ''}"
    return f"{value:.2%}{f' ± {100 * sd:.2f}' if sd is not None else ''}"


def show_printed(column: Mapping[str, Any]) -> str:
    """What the document prints."""
    if column["printed_not_finite"]:
        return "NaN"
    return "not printed" if column["printed"] is None else show(column["column"], column["printed"])


def show_difference(ordering: Mapping[str, Any]) -> str:
    """By how much, in points or in the column's own unit, with the spread over seeds."""
    value, sd, column = ordering["difference"], ordering["sd"], ordering["column"]
    if value is None:
        return ""
    if kind_of(column) == "score":
        spread = f" ± {100 * sd:.2f}" if sd is not None else ""
        return f"{100 * value:+.2f}{spread} points"
    sign = "+" if value >= 0 else ""
    return sign + show(column, value, sd)


def show_data(row: Mapping[str, Any]) -> str:
    """The data of a row, and whose they are."""
    data = row["data"]
    if data is None:
        return ""
    theirs = "the document's" if row["printed"] else "as published"
    if data["is_documents"]:
        return f"{data['name']}, {theirs}"
    return f"{data['name']}, stand-in: {data['why']}"


def seeds_of(row: Mapping[str, Any]) -> str:
    """How many runs the row's numbers come from."""
    count = len(row["runs"])
    return f"{count} seed{'' if count == 1 else 's'}" if count else ""


def describe_ordering(ordering: Mapping[str, Any]) -> str:
    """The verdict of an ordering with its numbers, as a line."""
    parts = [ordering["verdict"]]
    if ordering["difference"] is not None:
        spread = f" over {ordering['n']} seeds" if ordering["n"] > 1 else ""
        parts.append(f"{show_difference(ordering)}{spread}")
    return ", ".join(parts) + (f" ({ordering['note']})" if ordering["note"] else "")


def describe_grid(grid: Mapping[str, Any]) -> str:
    """A grid's outcome as a line."""
    text = f"{len(grid['points'])} of {grid['size']} points run"
    words = [] if not grid["data"] or grid["data"]["is_documents"] else [STAND_IN]
    words += [SHORTENED] * grid["shortened"]
    text += f" ({', '.join(words)})" if words else ""
    if grid["diverged"]:
        text += f", {grid['diverged']} diverged"
    if grid.get("left_out"):
        text += f", {grid['left_out']} on other data left out"
    best = grid["best"]
    if best is None:
        return text
    text += f"; best {show_point(best['point'])}: validation {best['validation_accuracy']:.2%}"
    if best.get("accuracy") is not None:
        text += f", test {best['accuracy']:.2%}"
    if not grid["documents_best"]:
        return text
    theirs, rank = show_point(grid["documents_best"]), grid["documents_best_rank"]
    where = f"is number {rank} here" if rank else "was not run to its end"
    return f"{text}; the document's best ({theirs}) {where}"


def show_point(point: Mapping[str, Any]) -> str:
    """A combination of a grid in a line, with the last names of its paths."""
    return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in point.items())


def markdown(ledger: Mapping[str, Any], link: str = "") -> str:
    """The ledger as Markdown: the rows with something printed or measured, then what is said of them together.
    `link`: where the whole of it is, with the commands of what was not run."""
    record = f" ([record]({link}))" if link else ""
    smoke = " Smoke runs: nothing below is a result." if ledger["smoke"] else ""
    lines = [f"**{ledger['document']}**: {ledger['title']}{record}.{smoke}", ""]
    lines += ["| row | printed | ours | data | verdict |", "| --- | --- | --- | --- | --- |"]
    for row in ledger["rows"]:
        if row["verdict"] == NOT_RUN and not row["printed"]:
            continue
        printed = [
            f"{title_of(c['column'])} {show_printed(c)}"
            for c in row["columns"]
            if c["printed"] is not None or c["printed_not_finite"]
        ]
        ours = [
            f"{title_of(c['column'])} {show(c['column'], c['mean'], c['sd'])}"
            for c in row["columns"]
            if c["mean"] is not None
        ]
        seeds = f" ({seeds_of(row)})" if ours and seeds_of(row) else ""
        cells = (
            f"{row['table']}: {row['label']}",
            ", ".join(printed),
            ", ".join(ours) + seeds,
            show_data(row),
            NOT_RUN if row["verdict"] == NOT_RUN else row["text"],
        )
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    orderings = [o for o in ledger["orderings"] if o["verdict"] != NOT_MEASURED]
    grids = [g for g in ledger["grids"] if g["points"]]
    for heading, all_of, items in (
        ("Orderings", "orderings", [f"{o['text']}: {describe_ordering(o)}" for o in orderings]),
        ("Grids", "grids", [f"{g['table']}, {g['name']}: {describe_grid(g)}" for g in grids]),
    ):
        rest = len(ledger[all_of]) - len(items)
        items += [f"{rest} {'more ' if items else ''}{NOT_MEASURED}"] if rest else []
        if items:
            lines += ["", f"{heading}:", "", *(f"- {_cell(item)}" for item in items)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _brief(text: str, longest: int = 160) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _different(values: Iterable[Any]) -> list[Any]:
    """Values without repetitions, in order."""
    found: list[Any] = []
    for value in values:
        if value and value not in found:
            found.append(value)
    return found
