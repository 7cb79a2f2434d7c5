"""Judge a recorded ledger again, or add runs to it: its stored runs, with the rows and verdicts of this version.

    ledger = judge_again(PAPERS[recorded["document"]], recorded)
    ledger = merge(PAPERS[recorded["document"]], recorded, new)

Ledgers of formats 1 and 2 do not say which runs follow version 0.1's reading of the paper. Only version 0.1 recorded
these formats, so all of their runs do, if the reading has changed since.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from train.reproduce import ledger, settings
from train.reproduce.folders import Folders
from train.reproduce.results import Results
from train.reproduce.schema import Grid, Paper, Row
from train.reproduce.verdicts import Run

FIRST_FORMAT_WITH_READINGS = 3


def judge_again(paper: Paper, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Build the ledger of a paper from the runs of a recorded one.

    New rows, and columns that were not recorded, count as not measured.
    """
    result = _Recorded(paper, recorded).ledger()
    before = _by_name(recorded["rows"])
    for row in result["rows"]:
        if old := before.get(row["name"]):
            # Recorded per row, not per run.
            row |= {key: old[key] for key in ("ran", "commits", "hardware", "versions", "others")}
    return result


def merge(paper: Paper, recorded: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Add the runs and trials of a new ledger to a recorded one.

    A new run replaces the recorded one with its seed, and all recorded runs of the row that are not comparable with it:
    on other data, shortened, or with another reading of the paper. The same applies to the trials of a grid.
    """
    result = _Merged(paper, recorded, new).ledger()
    before, added = _by_name(recorded["rows"]), _by_name(new["rows"])
    for row in result["rows"]:
        of_new, of_old = added.get(row["name"], {}), before.get(row["name"], {})
        new_seeds = {run["seed"] for run in of_new.get("runs", ())}
        kept_seeds = {run["seed"] for run in row["runs"]} - new_seeds
        sources = [of_new] * bool(new_seeds) + [of_old] * bool(kept_seeds)
        for key in ("ran", "commits", "hardware", "versions"):
            row[key] = _unique(value for source in sources for value in source[key])
        row["dirty"] = any(source["dirty"] for source in sources)
        row["others"] = next(iter([s["others"] for s in (*sources, of_new, of_old) if s]), [])
    return result


class _Recorded(Results):
    """The results in a recorded ledger."""

    def __init__(self, paper: Paper, recorded: Mapping[str, Any]) -> None:
        super().__init__(Folders(paper, Path(), "smoke" if recorded["smoke"] else "full"))
        self.problems = {r["name"]: r["problem"] for r in recorded["rows"] if r["problem"]}
        self._rows = _by_name(recorded["rows"])
        self._grids = _by_name(recorded["grids"])
        self._has_readings = recorded["format"] >= FIRST_FORMAT_WITH_READINGS

    def runs(self, row: Row) -> list[Run]:
        """Read the runs of a row."""
        old = self._rows.get(row.name)
        return [self._recorded_run(row, old, run) for run in old["runs"]] if old else []

    def _recorded_run(self, row: Row, old: Mapping[str, Any], run: Mapping[str, Any]) -> Run:
        data, seed = old["data"], str(run["seed"])
        earlier = old["earlier"] if self._has_readings else self._reading_differs(row, old)
        facts = {name: run.get(name) for name in ledger.RUN_FACTS}
        return Run(
            seed=run["seed"],
            state=run["state"],
            values={c["column"]: c["values"][seed] for c in old["columns"] if seed in c["values"]},
            text=run["text"],
            on_papers_data=data["is_documents"],
            short=old["shortened"],
            earlier=earlier,
            data=data,
            facts=facts
            | {
                "setting": next(iter(old["ran"]), ""),
                "dirty": old["dirty"],
                "hardware": self._hardware(old),
                "versions": next(iter(old["versions"]), {}),
            },
        )

    @staticmethod
    def _hardware(old: Mapping[str, Any]) -> str:
        """Hardware of a run. With several machines it is unknown, and never matches the paper's or another row's."""
        names = old["hardware"]
        return f"one of {len(names)} machines ({old['name']})" if len(names) > 1 else "".join(names)

    def _reading_differs(self, row: Row, old: Mapping[str, Any]) -> bool:
        """Whether version 0.1 had a different recipe for the row on these data."""
        return any(
            expected.earlier
            and expected.short == old["shortened"]
            and expected.recipe.dataset == old["data"]["name"]
            for expected in settings.expected(row, self.folders.scale, {})
        )

    def trials(self, grid: Grid) -> list[dict[str, Any]]:
        """Read the trials of a grid."""
        old = self._grids.get(grid.name)
        differs = grid.earlier is not None and not self._has_readings
        return [{"earlier": differs, **trial} for trial in old["points"]] if old else []


class _Merged(_Recorded):
    """The results in a recorded ledger, and those in a new one."""

    def __init__(self, paper: Paper, recorded: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        super().__init__(paper, recorded)
        self._new = _Recorded(paper, new)
        self.problems |= self._new.problems

    def runs(self, row: Row) -> list[Run]:
        """Read the runs of a row."""
        new, old = self._new.runs(row), super().runs(row)
        seeds = {run.seed for run in new}
        alike = {_kind(run.earlier, run.short, run.data) for run in new}
        kept = [
            run
            for run in old
            if run.seed not in seeds
            and (not new or _kind(run.earlier, run.short, run.data) in alike)
        ]
        return sorted([*new, *kept], key=lambda run: run.seed)

    def trials(self, grid: Grid) -> list[dict[str, Any]]:
        """Read the trials of a grid."""
        new, old = self._new.trials(grid), super().trials(grid)
        indices = {trial["index"] for trial in new}
        alike = {_kind(t.get("earlier"), t["short"], t["data"]) for t in new}
        kept = [
            t
            for t in old
            if t["index"] not in indices
            and (not new or _kind(t.get("earlier"), t["short"], t["data"]) in alike)
        ]
        return sorted([*new, *kept], key=lambda trial: trial["index"])


def _kind(earlier: Any, short: bool, data: Mapping[str, Any]) -> tuple[bool, bool, str]:
    """Return what must be equal for runs to be comparable."""
    return bool(earlier), short, str(data.get("fingerprint", ""))


def _unique(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values, in order."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _by_name(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in items}
