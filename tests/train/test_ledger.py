"""Verdicts, comparisons and tables, checked against hand-computed cases."""

import dataclasses
import json
import math

import pytest

from train.recipe import Recipe
from train.reproduce import data, formatting, ledger, verdicts
from train.reproduce.data import describe_data
from train.reproduce.ledger import GridResult
from train.reproduce.markdown import markdown
from train.reproduce.schema import Comparison, Grid, Paper, Row
from train.reproduce.verdicts import RowResult, Run

RECIPE = Recipe(model="sam_alexnet_tiny", dataset="digits")
DATA = {"name": "digits", "fingerprint": "f", "synthetic": False, "images": {"test": 9}, "why": ""}


def runs(*accuracies, column="accuracy", **changes):
    """Return finished runs on the paper's data, one per accuracy."""
    on_papers_data = changes.pop("on_papers_data", True)
    data = DATA | {"is_documents": on_papers_data, "why": "" if on_papers_data else "subset"}
    return [
        dataclasses.replace(
            Run(seed, "done", {column: value}, on_papers_data=on_papers_data, data=data), **changes
        )
        for seed, value in enumerate(accuracies)
    ]


def row(name="a", reported=None, **changes):
    return Row(name, "Table 1", name.upper(), RECIPE, reported or {"accuracy": 0.9}, **changes)


def built(rows, found, **changes):
    return ledger.build(Paper("doc", "A paper", tuple(rows), **changes), found)


def verdict(item, found):
    (result,) = built([item], {item.name: found})["rows"]
    return result["verdict"], result["text"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.95], "reproduced"),
        ([0.89], "reproduced"),  # exactly one point less
        ([0.8899], "not reproduced"),
        ([0.88, 0.90], "reproduced"),  # mean 0.89
        # Mean 0.86, standard deviation 0.02: 0.90 - 0.04 is reached exactly.
        ([0.84, 0.86, 0.88], "reproduced"),
        ([0.83, 0.85, 0.87], "not reproduced"),
        ([], "not measured"),
    ],
)
def test_a_score_may_fall_short_by_one_point_or_two_standard_deviations(values, expected):
    assert verdicts.column_verdict("accuracy", 0.90, values) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.355, "reproduced"), (0.34, "not reproduced"), (0.93, "not reproduced")],
)
def test_a_failure_is_reproduced_by_an_equally_bad_result(value, expected):
    assert verdicts.column_verdict("accuracy", 0.3507, [value], failure=True) == expected


@pytest.mark.parametrize(
    ("column", "reported", "value", "expected"),
    [
        ("total_parameters", 586000, 585610, "reproduced"),
        ("total_parameters", 586000, 585499, "not reproduced"),
        ("parameters", 58289538, 58289538, "reproduced"),
        ("parameters", 58289538, 58289539, "not reproduced"),
        ("test_time_ms", 5123, 900000, "shown"),
        ("loss", 0.1, 9.0, "shown"),
        ("accuracy", None, 0.5, "shown"),
    ],
)
def test_parameter_counts_are_judged_up_to_rounding_times_and_losses_are_not_judged(
    column, reported, value, expected
):
    assert verdicts.column_verdict(column, reported, [value]) == expected


def test_typos_are_not_judged():
    assert verdicts.column_verdict("f1", 0.98, [0.99], typo=True) == verdicts.CONTRADICTS
    item = row(reported={"accuracy": 0.9, "f1": 0.98}, typos=("f1",), note="too high")
    (result,) = built([item], {"a": RowResult(runs(0.91))})["rows"]
    assert result["text"] == "reproduced; the paper contradicts itself (F1)"
    assert result["reading"] == "too high"


def test_rows_on_the_papers_data():
    assert verdict(row(), RowResult(runs(0.95))) == ("reproduced", "reproduced")
    assert verdict(row(), RowResult(runs(0.5))) == (
        "not reproduced",
        "not reproduced: accuracy 50.00%, reported 90.00%",
    )


def test_a_proxy_never_reproduces():
    found = RowResult(runs(0.99, on_papers_data=False))
    assert verdict(row(), found) == ("stand-in", "stand-in")
    result = built(
        [row("a"), row("b")],
        {"a": found, "b": RowResult(runs(0.98, on_papers_data=False))},
        comparisons=(Comparison("accuracy", "a", "b", "a wins"),),
    )
    assert result["rows"][0]["text"] == "stand-in; 1 of 1 ordering holds"
    assert [c["verdict"] for c in result["rows"][0]["columns"]] == ["shown"]


def test_shortened_runs_are_marked_and_full_runs_preferred():
    assert verdict(row(), RowResult(runs(0.99, short=True))) == ("shortened", "shortened")
    assert verdict(row(), RowResult(runs(0.99, short=True, on_papers_data=False)))[1] == (
        "stand-in and shortened"
    )
    both = [*runs(0.1, short=True), *(dataclasses.replace(r, seed=5) for r in runs(0.95))]
    (result,) = built([row()], {"a": RowResult(both)})["rows"]
    assert result["verdict"] == "reproduced"
    assert [r["seed"] for r in result["runs"]] == [5]
    assert [r["seed"] for r in result["others"]] == [0]


def diverged(seed=0, **changes):
    (run,) = runs(0.0, **changes)
    return dataclasses.replace(
        run, seed=seed, state="diverged", values={}, text="diverged at step 7"
    )


def test_divergence_is_a_result():
    assert verdict(row(), RowResult([diverged()])) == (
        "diverged",
        "not reproduced: diverged at step 7",
    )
    # A reported value that is not finite means that the paper's run diverged, too.
    failing = row(reported={"loss": math.nan, "accuracy": 0.35}, failure=True)
    assert verdict(failing, RowResult([diverged()])) == (
        "reproduced",
        "reproduced: diverges (diverged at step 7)",
    )
    some = [*runs(0.95), diverged(1)]
    for item in (failing, row(failure=True)):
        assert verdict(item, RowResult(some))[0] == "diverged"
    assert verdict(row(failure=True), RowResult([diverged()]))[0] == "diverged"
    assert verdict(row(), RowResult(some))[1] == "not reproduced: diverged at step 7 in 1 of 2 runs"
    assert verdict(row(failure=True), RowResult([diverged(on_papers_data=False)])) == (
        "stand-in",
        "stand-in: diverged at step 7",
    )


def test_rows_without_runs_state_their_requirements():
    assert verdict(row(), RowResult(needs="needs cats")) == ("not run", "not run: needs cats")
    assert verdict(row(), RowResult(needs="needs cats", problem="no net"))[1] == "not run: no net"
    failed = RowResult([Run(0, "failed", text="no space")])
    assert verdict(row(), failed) == ("failed", "failed: no space")
    assert verdict(row(), RowResult([Run(0, "unfinished", text="stopped after 2 epochs")]))[0] == (
        "not run"
    )


def test_parameters_are_judged_without_a_run():
    counts = {"parameters": 584202, "total_parameters": 585610}
    only = row(reported={"total_parameters": 586000})
    assert verdict(only, RowResult(parameters=counts)) == ("reproduced", "reproduced")
    more = row(reported={"total_parameters": 586000, "accuracy": 0.9})
    assert verdict(more, RowResult(parameters=counts)) == (
        "not run",
        "not run; total parameters reproduced",
    )


# Comparisons.


def comparison(higher, lower, column="accuracy"):
    results = {"a": RowResult(higher), "b": RowResult(lower)}
    (result,) = built(
        [row("a"), row("b")], results, comparisons=(Comparison(column, "a", "b", "a wins"),)
    )["orderings"]
    return result


def test_comparisons_are_paired_by_seed():
    result = comparison(runs(0.90, 0.80, 0.99), runs(0.88, 0.76))
    # Differences 0.02 and 0.04: mean 0.03, standard deviation 0.01414.
    assert (result["verdict"], result["n"], result["paired"]) == ("holds", 2, True)
    assert result["difference"] == pytest.approx(0.03)
    assert result["sd"] == pytest.approx(0.02 / math.sqrt(2))
    assert formatting.describe_comparison(result) == "holds, +3.00 ± 1.41 points over 2 seeds"


def test_comparisons_without_common_seeds():
    lower = [dataclasses.replace(run, seed=run.seed + 5) for run in runs(0.6, 0.8)]
    result = comparison(runs(0.5, 0.7), lower)
    assert (result["verdict"], result["paired"]) == ("does not hold", False)
    assert result["difference"] == pytest.approx(-0.1)
    assert result["sd"] == pytest.approx(math.hypot(0.02**0.5, 0.02**0.5))


def test_a_tie_does_not_hold():
    assert comparison(runs(0.5), runs(0.5))["verdict"] == "does not hold"


def test_times_are_compared_too():
    result = comparison(
        runs(900.0, column="test_time_ms"), runs(400.0, column="test_time_ms"), "test_time_ms"
    )
    assert formatting.describe_comparison(result) == "holds, +500 ms"


@pytest.mark.parametrize(
    ("lower", "note"),
    [
        ([], "b was not run"),
        ([diverged()], "b diverged at step 7"),
        (runs(0.1, on_papers_data=False), "the two rows were run on different data"),
        (runs(0.1, column="f1"), "no accuracy in b"),
    ],
)
def test_rows_that_cannot_be_compared_are_not_measured(lower, note):
    result = comparison(runs(0.9), lower)
    assert (result["verdict"], result["note"]) == ("not measured", note)


def test_comparisons_name_the_runs_they_exclude():
    result = comparison([*runs(0.9), diverged(1)], runs(0.8, 0.8))
    note = "without 1 of 2 runs of a, which diverged"
    assert (result["verdict"], result["n"], result["note"]) == ("holds", 1, note)


def test_a_training_accuracy_reproduces_nothing():
    assert verdicts.column_verdict("train_accuracy", 0.9, [0.99]) == "shown"


def test_smoke_runs_are_not_judged():
    paper = Paper("d", "D", (row("a"), row("b")), (Comparison("accuracy", "a", "b", "a wins"),))
    found = {"a": RowResult(runs(0.95)), "b": RowResult(runs(0.5))}
    result = ledger.build(paper, found, smoke=True)
    assert [r["verdict"] for r in result["rows"]] == ["smoke", "smoke"]
    assert result["orderings"][0]["note"] == "smoke"
    assert "nothing below is a result" in markdown(result)


# Data.


def manifest(train=80, validation=10, test=10, name="digits", **changes):
    sizes = {"train": train, "validation": validation, "test": test}
    splits = {split: {f"{split}/x/{i}": 0 for i in range(n)} for split, n in sizes.items()}
    return {"dataset": name, "fingerprint": "f", "splits": splits, "notes": []} | changes


PUBLISHED = {"train": 70, "validation": 20, "test": 10}


def test_data_with_the_published_split_sizes_are_the_papers():
    found = describe_data(manifest(), "digits", PUBLISHED)
    assert (found["is_documents"], found["why"]) == (True, "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"train": 20}, "subset: 30 of 90 training images (with validation), 10 of 10 test images"),
        ({"test": 11}, "other edition: 90 of 90 training images (with validation), 11 of 10 test"),
        ({"name": "pens"}, "in place of digits"),
        ({"synthetic": True}, "synthetic images in place of digits"),
    ],
)
def test_other_data_are_a_proxy(changes, why):
    found = describe_data(manifest(**changes), "digits", PUBLISHED)
    assert not found["is_documents"] and why in found["why"]


@pytest.mark.parametrize(
    ("edition", "why"),
    [("lossy copy", "a lossy copy (JPEG)"), ("repacked", "image files, not the published batches")],
)
def test_other_editions_are_a_proxy(monkeypatch, edition, why):
    monkeypatch.setattr(data, "edition_of", lambda manifest: edition)
    found = describe_data(manifest(), "digits", PUBLISHED)
    assert not found["is_documents"] and why in found["why"]


def test_a_recipe_that_limits_training_images_still_uses_the_papers_data():
    found = describe_data(manifest(20), "digits", PUBLISHED, fewer_on_purpose=True)
    assert found["is_documents"]


# Grids and Markdown.


def trial(index, rate, validation=None, **changes):
    state = {"state": "done" if validation else "diverged", "text": ""}
    values = {"validation_accuracy": validation, "accuracy": validation, "data": DATA}
    return {"index": index, "point": {"lr": rate}, **state, **values, "short": False} | changes


GRID = Grid("g", "Table 2", RECIPE, {"lr": (1.0, 0.1, 0.01)}, {"lr": 0.1})


def test_trials_are_sorted_and_the_papers_best_is_ranked():
    trials = [trial(0, 1.0, text="diverged at step 2"), trial(1, 0.1, 0.5), trial(2, 0.01, 0.7)]
    trials = [t | {"data": DATA | {"is_documents": True}} for t in trials]
    result = ledger.build(Paper("doc", "D", (), grids=(GRID,)), {}, {"g": GridResult(trials)})[
        "grids"
    ][0]
    assert [t["index"] for t in result["points"]] == [2, 1, 0]
    assert (result["documents_best_rank"], result["diverged"]) == (2, 1)
    assert formatting.describe_grid(result) == (
        "3 of 3 trials run, 1 diverged; best lr 0.01: validation 70.00%, test 70.00%;"
        " the paper's best (lr 0.1) ranks 2 here"
    )


def test_trials_on_other_data_are_not_ranked():
    trials = [trial(0, 1.0, 0.9), trial(1, 0.1, 0.8), trial(2, 0.01, 0.5)]
    trials[2]["data"] = DATA | {"is_documents": True, "fingerprint": "the paper's"}
    result = ledger.build(Paper("doc", "D", (), grids=(GRID,)), {}, {"g": GridResult(trials)})[
        "grids"
    ][0]
    assert ([t["index"] for t in result["points"]], result["best"]["index"]) == ([2], 2)
    text = formatting.describe_grid(result)
    assert text.startswith("1 of 3 trials run, 2 on other data excluded")


def test_markdown():
    item = row("a", {"accuracy": 0.9, "test_time_ms": 5123.0, "loss": math.nan})
    values = [
        dataclasses.replace(r, values={**r.values, "test_time_ms": 80.0}) for r in runs(0.95, 0.93)
    ]
    other = row("b|", proxy={"dataset": "synthetic_pigs"})
    found = {
        "a": RowResult(values),
        "b|": RowResult(needs="needs cats", command="python -m train.reproduce doc --rows b"),
    }
    # A row of our own is omitted if it was not run.
    own = dataclasses.replace(row("c"), reported={})
    result = built(
        [item, other, own], found, comparisons=(Comparison("accuracy", "a", "b|", "a wins"),)
    )
    assert markdown(result, "x.json") == (
        "**doc**: A paper ([record](x.json)).\n"
        "\n"
        "| row | reported | our run | data | verdict |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| Table 1: A | accuracy 90.00%, test time 5,123 ms, loss NaN |"
        " accuracy 94.00% ± 1.41, test time 80 ± 0 ms (2 seeds) | digits, the paper's | reproduced |\n"
        "| Table 1: B\\| | accuracy 90.00% |  |  | not run |\n"
        "\n"
        "Comparisons:\n"
        "\n"
        "- 1 not measured\n"
    )


def test_the_ledger_is_json_without_nan():
    item = row(reported={"loss": math.nan, "accuracy": 0.9}, failure=True)
    result = built([item], {"a": RowResult([diverged()])})
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result
    assert markdown(json.loads(text)) == markdown(result)
