"""Verdicts, comparisons and tables, checked against hand-computed cases."""

import dataclasses
import json
import math

import pytest

from datasets import dataset_info
from train.recipe import Recipe, Stage
from train.reproduce import columns, data, formatting, ledger, verdicts
from train.reproduce.data import describe_data
from train.reproduce.ledger import GridResult
from train.reproduce.markdown import markdown
from train.reproduce.schema import Claim, Comparison, EarlierReading, Grid, Paper, Row
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
        # Standard deviation 0.018; two standard errors are 2 * 0.018 / sqrt(3) = 0.0208, more than two points.
        ([0.862, 0.88, 0.898], "reproduced"),
        ([0.852, 0.87, 0.888], "not reproduced"),
        # Two standard errors are 2 * 0.013 / sqrt(3) = 0.015.
        ([0.873, 0.886, 0.899], "reproduced"),
        ([0.871, 0.884, 0.897], "not reproduced"),
        # However widely the seeds scatter, the slack is at most two points.
        ([0.60, 0.97, 0.60], "not reproduced"),
        ([], "not measured"),
    ],
)
def test_a_score_may_fall_short_by_two_standard_errors_from_one_to_two_points(values, expected):
    assert verdicts.column_verdict("accuracy", 0.90, values) == expected


def test_slack():
    """One seed: one point. Two standard errors, 2 * 0.0141 / sqrt(4), lie between the limits. Then two points."""
    assert verdicts.slack_of("accuracy", 0.9, [0.5]) == 0.01
    assert verdicts.slack_of("accuracy", 0.9, [0.90, 0.90, 0.92, 0.92]) == pytest.approx(
        2 * 0.01 * math.sqrt(4 / 3) / 2
    )
    assert verdicts.slack_of("accuracy", 0.9667, [0.60, 0.97, 0.60]) == 0.02
    assert verdicts.slack_of("loss", 0.134, [2.3]) == pytest.approx(0.0134)
    assert verdicts.slack_of("loss", 0.134, [0.1, 2.3]) == pytest.approx(0.0268)


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
        ("fc_share", 0.116, 0.1167, "reproduced"),  # truncated in the paper
        ("fc_share", 0.116, 0.1171, "not reproduced"),
        ("test_time_ms", 5123, 900000, "different hardware"),
        ("test_time_saved", 0.0199, -3.0, "not reproduced"),  # a relative time is judged
        ("test_time_saved", 0.1031, 0.094, "reproduced"),
        ("train_loss", 0.2, 9.0, "shown"),
        ("accuracy", None, 0.5, "shown"),
    ],
)
def test_parameter_counts_are_judged_up_to_rounding_and_times_by_hardware(
    column, reported, value, expected
):
    assert verdicts.column_verdict(column, reported, [value]) == expected


def test_times_are_judged_on_the_papers_hardware():
    """Up to 10% longer, with one seed. On proxy data nothing is judged, on any hardware."""
    item = row(reported={"test_time_ms": 100.0})
    for hardware, on_papers_data, value, expected in (
        ("1 x NVIDIA GeForce GTX TITAN", True, 109.0, "reproduced"),
        ("1 x NVIDIA GeForce GTX TITAN", True, 111.0, "not reproduced"),
        ("1 x NVIDIA H100", True, 50.0, "different hardware"),
        ("1 x NVIDIA GeForce GTX TITAN X", True, 50.0, "different hardware"),
        ("", True, 50.0, "different hardware"),
        ("1 x NVIDIA H100", False, 50.0, "shown"),
    ):
        found = runs(
            value,
            column="test_time_ms",
            on_papers_data=on_papers_data,
            facts={"hardware": hardware},
        )
        paper = Paper("doc", "D", (item,), hardware="GeForce GTX TITAN")
        result = ledger.build(paper, {"a": RowResult(found)})["rows"][0]
        assert result["columns"][0]["verdict"] == expected, (hardware, value)


@pytest.mark.parametrize(
    ("column", "reported", "value", "expected"),
    [
        ("loss", 0.134, 0.0, "reproduced"),
        ("loss", 0.134, 0.147, "reproduced"),  # 10% more
        ("loss", 0.134, 0.148, "not reproduced"),
        ("loss", 0.134, 2.3, "not reproduced"),
        ("validation_loss", 0.5, 0.6, "not reproduced"),
        ("confused: dogs as cats", 0.11, 0.12, "reproduced"),
        ("confused: dogs as cats", 0.11, 0.13, "not reproduced"),
        ("correct: dogs", 0.89, 0.87, "not reproduced"),
    ],
)
def test_losses_and_confusions_are_judged(column, reported, value, expected):
    assert verdicts.column_verdict(column, reported, [value]) == expected


def test_typos_are_not_judged():
    assert verdicts.column_verdict("f1", 0.98, [0.99], typo=True) == verdicts.CONTRADICTS
    item = row(reported={"accuracy": 0.9, "f1": 0.98}, typos=("f1",), note="too high")
    (result,) = built([item], {"a": RowResult(runs(0.91))})["rows"]
    assert result["text"] == "reproduced (1 seed); the paper contradicts itself (F1)"
    assert result["reading"] == "too high"


def test_rows_on_the_papers_data():
    assert verdict(row(), RowResult(runs(0.95))) == (
        "reproduced",
        "reproduced (1 seed)",
    )
    assert verdict(row(), RowResult(runs(0.5, 0.5))) == (
        "not reproduced",
        "not reproduced (2 seeds): accuracy 50.00%, reported 90.00%",
    )


def test_a_proxy_never_reproduces():
    found = RowResult(runs(0.99, on_papers_data=False))
    assert verdict(row(), found) == ("proxy data", "proxy data")
    result = built(
        [row("a"), row("b")],
        {"a": found, "b": RowResult(runs(0.98, on_papers_data=False))},
        comparisons=(Comparison("accuracy", "a", "b", "a wins"),),
    )
    assert result["rows"][0]["text"] == "proxy data; 1 of 1 comparison is undecided"
    assert [c["verdict"] for c in result["rows"][0]["columns"]] == ["shown"]


def test_shortened_runs_are_marked_and_full_runs_preferred():
    assert verdict(row(), RowResult(runs(0.99, short=True))) == ("shortened", "shortened")
    assert verdict(row(), RowResult(runs(0.99, short=True, on_papers_data=False)))[1] == (
        "proxy data and shortened"
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
        "proxy data",
        "proxy data: diverged at step 7",
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


def comparison(higher, lower, column="accuracy", **changes):
    results = {"a": RowResult(higher), "b": RowResult(lower)}
    stated = Comparison(column, "a", "b", "a wins", **changes)
    (result,) = built([row("a"), row("b")], results, comparisons=(stated,))["orderings"]
    return result


def test_comparisons_are_paired_by_seed():
    result = comparison(runs(0.90, 0.80, 0.99), runs(0.88, 0.76))
    # Differences 0.02 and 0.04: mean 0.03, standard deviation 0.01414, t(1) = 12.706.
    assert (result["verdict"], result["n"], result["paired"]) == ("undecided", 2, True)
    assert result["difference"] == pytest.approx(0.03)
    assert result["sd"] == pytest.approx(0.02 / math.sqrt(2))
    assert result["interval"] == pytest.approx([0.03 - 0.12706, 0.03 + 0.12706], abs=1e-5)
    assert formatting.describe_comparison(result) == (
        "undecided, +3.00 points, 95% -9.71 to +15.71 over 2 seeds"
    )


@pytest.mark.parametrize(
    ("higher", "expected"),
    [
        # Differences 0.02, 0.03, 0.04: mean 0.03, half of the interval 4.3027 * 0.01 / sqrt(3) = 0.0248.
        ((0.82, 0.83, 0.84), "holds"),
        ((0.76, 0.77, 0.78), "does not hold"),
        # Mean 0.02, the same interval.
        ((0.81, 0.82, 0.83), "undecided"),
        ((0.83,), "undecided"),  # one seed
    ],
)
def test_a_comparison_holds_if_the_interval_of_the_difference_excludes_zero(higher, expected):
    assert comparison(runs(*higher), runs(*(0.80,) * len(higher)))["verdict"] == expected


def test_comparisons_without_common_seeds():
    """By Welch: variances 0.02 / 2 + 0.02 / 2 with 2 degrees of freedom."""
    lower = [dataclasses.replace(run, seed=run.seed + 5) for run in runs(0.6, 0.8)]
    result = comparison(runs(0.5, 0.7), lower)
    assert (result["verdict"], result["paired"]) == ("undecided", False)
    assert result["difference"] == pytest.approx(-0.1)
    assert result["sd"] == pytest.approx(math.hypot(0.02**0.5, 0.02**0.5))
    half = 4.30265 * math.sqrt(0.02)
    assert result["interval"] == pytest.approx([-0.1 - half, -0.1 + half], abs=1e-5)


def test_a_tie_is_undecided():
    assert comparison(runs(0.5, 0.5), runs(0.5, 0.5))["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("higher", "expected"),
    [
        ((0.830, 0.831, 0.832), "holds"),  # 0.031 +- 0.0025, within 0.015 to 0.045
        ((0.860, 0.861, 0.862), "does not hold"),
        ((0.82, 0.83, 0.84), "undecided"),  # 0.03 +- 0.0248
        ((0.83,), "undecided"),
    ],
)
def test_stated_magnitudes_are_judged(higher, expected):
    lower = runs(*(0.80,) * len(higher))
    result = comparison(runs(*higher), lower, magnitude=0.03)
    assert result["magnitude_verdict"] == expected
    assert f"stated size 3 points: {expected}" in formatting.describe_comparison(result)


@pytest.mark.parametrize(
    ("higher", "lower", "expected"),
    [
        # Ratio of variances 100; the 97.5% quantile of F(2, 2) is 39.
        ((0.5, 0.6, 0.7), (0.79, 0.8, 0.81), "holds"),
        ((0.79, 0.8, 0.81), (0.5, 0.6, 0.7), "does not hold"),
        ((0.5, 0.6, 0.7), (0.75, 0.8, 0.85), "undecided"),  # ratio 4
        ((0.5, 0.6), (0.8,), "undecided"),
    ],
)
def test_spreads_over_seeds_are_compared(higher, lower, expected):
    assert comparison(runs(*higher), runs(*lower), statistic="sd")["verdict"] == expected


def test_times_are_compared_too():
    result = comparison(
        runs(900.0, column="test_time_ms"), runs(400.0, column="test_time_ms"), "test_time_ms"
    )
    assert formatting.describe_comparison(result) == "undecided, +500 ms, 1 seed"


def test_times_on_different_hardware_are_not_compared():
    for column, verdict in (("test_time_ms", "not measured"), ("accuracy", "undecided")):
        first, second = (
            runs(value, column=column, facts={"hardware": hardware})
            for value, hardware in ((0.9, "a GPU"), (0.4, "a CPU"))
        )
        result = comparison(first, second, column)
        assert result["verdict"] == verdict
    result = comparison(first, runs(0.4, facts={"hardware": "a GPU"}))
    assert result["verdict"] == "undecided"
    times = [
        runs(v, column="test_time_ms", facts={"hardware": h}) for v, h in ((1.0, "x"), (2.0, "y"))
    ]
    assert (
        comparison(*times, "test_time_ms")["note"] == "the two rows were run on different hardware"
    )
    saved = columns.with_time_saved(*map(RowResult, times))
    assert "test_time_saved" not in saved.runs[0].values


def test_parameters_are_compared_without_seeds():
    results = {n: RowResult(parameters={"parameters": v}) for n, v in (("a", 9), ("b", 7))}
    stated = Comparison("parameters", "a", "b", "a is larger")
    (result,) = built([row("a"), row("b")], results, comparisons=(stated,))["orderings"]
    assert formatting.describe_comparison(result) == "holds, +2"


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
    assert (result["verdict"], result["n"], result["note"]) == ("undecided", 1, note)


# The reading of version 0.1.

EARLIER = EarlierReading("no crops", {"score": "last", "stages.0.all_splits": False})


def test_runs_with_an_earlier_reading_are_never_reproduced():
    """However good they are, and on the paper's data."""
    found = RowResult(runs(0.99, earlier=True))
    item = row(earlier=EARLIER)
    (result,) = built([item], {"a": found})["rows"]
    assert (result["verdict"], result["earlier"]) == ("earlier reading", True)
    assert result["text"] == "run with the earlier reading of version 0.1: no crops"
    assert [c["verdict"] for c in result["columns"]] == ["shown"]
    found = RowResult(runs(0.99, earlier=True, short=True, on_papers_data=False))
    assert verdict(item, found)[1] == (
        "run with the earlier reading of version 0.1: no crops; proxy data and shortened"
    )
    diverges = row(reported={"loss": math.nan}, failure=True, earlier=EARLIER)
    assert verdict(diverges, RowResult([diverged(earlier=True)]))[0] == "earlier reading"


def test_runs_of_this_versions_reading_are_preferred():
    old = runs(0.99, 0.98, earlier=True)
    new = [dataclasses.replace(r, seed=5) for r in runs(0.95, short=True, on_papers_data=False)]
    (result,) = built([row(earlier=EARLIER)], {"a": RowResult([*old, *new])})["rows"]
    assert ([r["seed"] for r in result["runs"]], result["earlier"]) == ([5], False)


def test_comparisons_and_claims_name_the_earlier_reading():
    result = comparison(runs(0.9, earlier=True), runs(0.8))
    assert (result["verdict"], result["note"]) == ("undecided", "earlier reading")
    claim = Claim("accuracy", "a", "high", 0.9)
    found = {"a": RowResult(runs(0.95, 0.96, earlier=True))}
    assert built([row()], found, claims=(claim,))["claims"][0]["note"] == "earlier reading"


def test_the_earlier_reading_says_whether_a_row_is_transductive():
    stage = Stage(objective="autoencoder", all_splits=True)
    recipe = dataclasses.replace(RECIPE, stages=(stage,))
    item = dataclasses.replace(row(earlier=EARLIER), recipe=recipe)
    for earlier in (True, False):
        (result,) = built([item], {"a": RowResult(runs(0.95, earlier=earlier))})["rows"]
        assert result["transductive"] != earlier
        assert (formatting.TRANSDUCTIVE in result["text"]) != earlier


def test_trials_with_an_earlier_reading_are_not_ranked_with_others():
    trials = [
        trial(0, 1.0, 0.9, earlier=True),
        trial(1, 0.1, 0.8),
        trial(2, 0.01, 0.5, earlier=True),
    ]
    for some, indices, text in (
        (trials, [1], "1 of 3 trials run (proxy data), 2 on other data or with another reading"),
        (trials[::2], [0, 2], "2 of 3 trials run (earlier reading, proxy data); best"),
    ):
        found = [t | {"data": DATA | {"is_documents": False}} for t in some]
        paper = Paper("doc", "D", (), grids=(GRID,))
        result = ledger.build(paper, {}, {"g": GridResult(found)})["grids"][0]
        assert [t["index"] for t in result["points"]] == indices
        assert formatting.describe_grid(result).startswith(text)


# Claims.


def test_claims_name_the_runs_they_exclude():
    claim = Claim("accuracy", "a", "high", 0.9)
    found = {"a": RowResult([*runs(0.95), diverged(1)])}
    (result,) = built([row()], found, claims=(claim,))["claims"]
    assert result["note"] == "without 1 of 2 runs of a, which diverged"
    assert result["note"] in formatting.describe_claim(result)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((8.0, 8.0, 9.0), "holds"),  # 8.33 +- 1.43
        ((9.0, 10.0, 9.0), "undecided"),  # 9.33 +- 1.43
        ((30.0, 31.0, 30.0), "does not hold"),
        ((3.0,), "undecided"),
    ],
)
def test_a_claim_holds_if_the_interval_of_the_mean_is_in_its_range(values, expected):
    column = "convergence_epoch"
    claim = Claim(column, "a", "converges within 10 epochs", at_most=10)
    found = {"a": RowResult(runs(*values, column=column))}
    result = built([row(reported={"accuracy": 0.9})], found, claims=(claim,))
    assert result["claims"][0]["verdict"] == expected
    assert [c["column"] for c in result["rows"][0]["columns"]] == ["accuracy", column]
    assert f"converges within 10 epochs: {expected}" in markdown(result)


def test_rows_that_train_on_all_splits_are_transductive():
    stage = Stage(objective="autoencoder", all_splits=True)
    item = dataclasses.replace(row(), recipe=dataclasses.replace(RECIPE, stages=(stage,)))
    result, plain = built([item, row("b")], {"a": RowResult(runs(0.95))})["rows"]
    assert result["transductive"] and not plain["transductive"]
    assert result["text"] == f"reproduced (1 seed); {formatting.TRANSDUCTIVE}"


def test_other_columns_can_be_shown():
    item = row(also=("f1",))
    values = [dataclasses.replace(r, values={**r.values, "f1": 0.7}) for r in runs(0.95)]
    (result,) = built([item], {"a": RowResult(values)})["rows"]
    assert [(c["column"], c["mean"], c["verdict"]) for c in result["columns"]] == [
        ("accuracy", 0.95, "reproduced"),
        ("f1", 0.7, "shown"),
    ]


def test_a_claim_without_runs_is_not_measured():
    (result,) = built([row()], {}, claims=(Claim("accuracy", "a", "high", 0.9),))["claims"]
    assert (result["verdict"], result["note"]) == ("not measured", "a was not run")


# Columns.

SUMMARY = [
    {"epoch": e, "stage": s, "train_loss": 0.5, "val_loss": loss, "val_accuracy": accuracy}
    for e, s, loss, accuracy in (
        (1, "first", 9.0, 0.99),
        (2, "last", 1.0, 0.5),
        (3, "last", 0.4, 0.795),
        (4, "last", 0.6, 0.8),
    )
]


def test_columns_of_a_run():
    scores = {name: {"precision": p, "recall": r, "f1": 0.5, "support": n} for name, p, r, n in (
        ("cats", 1.0, 0.5, 4), ("dogs", 0.5, 1.0, 6))}  # fmt: skip
    test = {"accuracy": 0.8, "loss": math.nan, "best_epoch": 4, "per_class": scores}
    found = columns.values(test | {"confusion_matrix": [[3, 1], [2, 4]]}, SUMMARY)
    assert found == pytest.approx(
        {
            "accuracy": 0.8,
            "above_chance": 0.2,  # six of ten images are dogs
            "best_epoch": 4,
            "train_loss": 0.5,
            "validation_loss": 0.6,
            "convergence_epoch": 2,  # of the last stage, within a point of 0.8
            "loss_fluctuation": 0.1,  # (0 + 0.2) / 2
            "weighted_precision": 0.7,
            "weighted_recall": 0.8,
            "weighted_f1": 0.5,
            "correct: cats": 0.75,
            "confused: cats as dogs": 0.25,
            "confused: dogs as cats": 1 / 3,
            "correct: dogs": 2 / 3,
        }
    )


def curve(accuracies, losses=None):
    losses = losses or [1.0] * len(accuracies)
    rows = [
        {"stage": "train", "val_accuracy": accuracy, "val_loss": loss}
        for accuracy, loss in zip(accuracies, losses, strict=True)
    ]
    return columns.curve_columns(rows)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.5, 0.7, 0.89, 0.9, 0.9), 3),  # exactly one point below the final level
        ((0.5, 0.9, 0.7, 0.9, 0.9), 4),  # at the level, but not to stay
        ((0.5, 0.95, 0.7, 0.7, 0.7), 3),  # the peak is lost again
        ((0.7, 0.7), 1),
        ((0.7,), 1),
        ((0.5, 0.7, 0.5, 0.7), 4),  # not yet converged
        ((0.7, math.nan, 0.7), 3),
        ((0.7, math.nan), None),
    ],
)
def test_a_run_has_converged_once_it_stays_at_its_final_level(accuracies, expected):
    assert curve(accuracies).get("convergence_epoch") == expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((3.0, 1.0, 0.5), 0.0),  # falls
        ((1.0, 1.5, 1.0, 1.25), 0.25),  # (0.5 + 0 + 0.25) / 3
        ((1.0, math.nan), None),
        ((1.0,), None),
    ],
)
def test_only_rises_of_the_loss_are_fluctuations(losses, expected):
    assert curve([0.5] * len(losses), losses).get("loss_fluctuation") == expected


def test_the_time_saved_is_relative_to_another_row_with_the_same_seed():
    own, other = runs(90.0, 50.0, column="test_time_ms"), runs(100.0, column="test_time_ms")
    result = columns.with_time_saved(RowResult(own), RowResult(other))
    assert [r.values.get("test_time_saved") for r in result.runs] == [pytest.approx(0.1), None]


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


def test_the_papers_images_in_another_split_are_no_other_edition():
    """Such as AFHQ's published splits, where the paper pools them."""
    found = describe_data(manifest(train=85, test=5), "digits", PUBLISHED)
    assert not found["is_documents"]
    assert found["why"] == (
        "split differently: 95 training images (with validation) and 5 test images, not 90 and 10"
    )
    afhq = describe_data(
        manifest(train=13167, validation=1463, test=1500, name="afhq"),
        "afhq",
        dataset_info("afhq").split_sizes,
    )
    assert afhq["why"].startswith(
        "split differently: 14,630 training images (with validation) and 1,500"
    )


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
    assert text.startswith("1 of 3 trials run, 2 on other data or with another reading excluded")


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
        "| row | reported | measured | data | verdict |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| Table 1: A | accuracy 90.00%, test time 5,123 ms, loss NaN |"
        " accuracy 94.00% ± 1.41, test time 80 ± 0 ms (2 seeds) | digits, the paper's | reproduced (2 seeds) |\n"
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
