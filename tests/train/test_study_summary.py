"""What a study shows, from run directories with known predictions."""

import csv
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests.train.test_compare import CLASSES, IDS, make_run
from train.analysis import statistics
from train.comparison import sources
from train.record.directory import SUMMARY_COLUMNS
from train.studies import figures, page, scores, summary, words
from train.studies.importance import importance, is_grid
from train.studies.results import RunResult, Setting, StudyResults

LR, DECAY = "stages.0.lr", "stages.0.weight_decay"


def make_study(folder, wrong, *, values=None, folds=0, seeds=1, validation=None, **fields):
    """Write the runs of a study; `wrong` are the images that all runs of each setting have wrong.

    `validation` maps (setting, fold) to a score; default: the share of right images of the setting.
    """
    published = fields.setdefault("has_test_split", False)
    values = values or [{LR: 10.0**-i} for i in range(len(wrong))]
    runs = []
    for number, bad in enumerate(wrong):
        for fold in range(folds) if folds else [None]:
            for seed in range(seeds):
                parts = [f"{number:03d}", *([f"fold{fold}"] if folds else []), f"seed{seed}"]
                directory = make_run(
                    folder / "runs" / "/".join(parts),
                    bad,
                    ids=IDS if fold is None else IDS[fold::folds],
                    seed=seed,
                    split="validation" if published else "test",
                )
                score = (validation or {}).get((number, fold), 1 - len(bad) / len(IDS))
                runs.append(
                    RunResult("/".join(parts), number, fold, seed, "done", "", directory, score)
                )
    fields = {"name": "pets", "metric": "accuracy"} | fields
    settings = tuple(Setting(number, v) for number, v in enumerate(values))
    return StudyResults(
        settings=settings, runs=tuple(runs), num_folds=folds, seeds=tuple(range(seeds)), **fields
    )


def replaced(results, name, **changes):
    """Change the runs whose names start with `name`."""
    runs = [
        dataclasses.replace(run, **changes) if run.name.startswith(name) else run
        for run in results.runs
    ]
    assert runs != list(results.runs)
    return dataclasses.replace(results, runs=tuple(runs))


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(page, "_figures", lambda summary: iter(()))


# Scores and tests.


def test_scores_of_folds_by_hand(tmp_path):
    """Five folds of eight images; the first setting has one error in each of the first three."""
    results = make_study(tmp_path, [(0, 1, 2), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)], folds=5)
    found = scores.summarize(results)
    first = found.of(0)
    sd = math.sqrt((3 * 0.05**2 + 2 * 0.075**2) / 4)
    assert (first.mean, first.sd) == (pytest.approx(0.925), pytest.approx(sd))
    estimate = first.estimate
    assert estimate.by_fold == pytest.approx((7 / 8, 7 / 8, 7 / 8, 1, 1))
    assert estimate.pooled == pytest.approx(37 / 40)
    assert estimate.interval == pytest.approx(statistics.wilson_interval(37, 40))
    # 24 training images for 8 test images: the variance is s²(1/5 + 1/3).
    half = float(stats.t.ppf(0.975, 4)) * sd * math.sqrt(1 / 5 + 1 / 3)
    assert 0.925 + half > 1
    assert estimate.runs_interval == pytest.approx((0.925 - half, min(0.925 + half, 1)))
    # Two errors per fold more for the second setting in all folds but the first three, one in those.
    (difference,) = found.of(1).differences
    expected = statistics.compare_folds((7 / 8, 7 / 8, 7 / 8, 1, 1), (6 / 8,) * 5, 1 / 3)
    assert difference == expected
    (sentence,) = words.test_sentences(found)
    text = statistics.sentence("000 (lr 1)", "001 (lr 0.1)", expected)
    assert sentence == f"accuracy: {text} (Nadeau-Bengio corrected t-test)"
    assert ", 5 folds" in sentence


def test_two_runs_are_compared_by_mcnemars_test_and_one_seed_is_said(tmp_path):
    results = make_study(tmp_path, [(0, 1), range(10, 22)])
    found = scores.summarize(results)
    (sentence,) = words.test_sentences(found)
    assert "000 (lr 1) is better than 001 (lr 0.1) by 25.0 points" in sentence
    assert "p = 0.013, 40 images (McNemar's test)" in sentence
    assert any(
        note.startswith("one seed: intervals and tests cover") for note in words.notes(found)
    )
    assert found.of(0).estimate.runs_interval is None
    seeds = make_study(tmp_path / "seeds", [(0, 1), range(10, 22)], seeds=2)
    assert not any("one seed" in note for note in words.notes(scores.summarize(seeds)))


def test_the_best_setting_is_tested_against_each_other_one_with_holm(tmp_path):
    wrong = [range(10, 22), (0, 1), range(20, 26), range(8)]
    found = scores.summarize(make_study(tmp_path, wrong))
    assert found.best == 1
    assert [s.setting.number for s in found.scores] == [1, 2, 3, 0]  # by validation
    pairs = [
        statistics.compare_predictions(
            found.of(n).candidate.pooled.images.labels,
            found.of(1).candidate.pooled.predicted,
            found.of(n).candidate.pooled.predicted,
        ).p
        for n in (0, 2, 3)
    ]
    adjusted = [found.of(n).differences[0].p for n in (0, 2, 3)]
    assert adjusted == pytest.approx(statistics.holm(pairs)) and adjusted != pytest.approx(pairs)
    text = "\n".join(words.test_sentences(found))
    assert text.count("McNemar's test") == 3
    assert "p-values of the 3 main tests are adjusted by Holm's method" in text
    one = scores.summarize(make_study(tmp_path / "one", wrong[:2]))
    assert "Holm" not in "\n".join(words.test_sentences(one))


def test_the_validation_score_decides_not_the_test_score(tmp_path):
    results = make_study(tmp_path, [(0,), range(9)], validation={(0, None): 0.6, (1, None): 0.7})
    found = scores.summarize(results)
    assert found.best == 1 and found.choice.settings == (1,)
    assert found.choice.estimate.pooled == pytest.approx(31 / 40)
    assert "001 (lr 0.1) is chosen by validation accuracy" in words.choice_sentence(found)
    unknown = scores.summarize(replaced(results, "", validation=None))
    assert (unknown.best, unknown.best_by) == (0, "score")
    assert unknown.choice.estimate is None
    assert any("its lead is optimistic" in note for note in words.notes(unknown))


def test_nested_choice_by_hand(tmp_path):
    """Folds 0 and 1 choose the second setting, the others the first one."""
    validation = {(1, 0): 0.99, (1, 1): 0.99, (1, 2): 0.1, (1, 3): 0.1, (1, 4): 0.1}
    results = make_study(tmp_path, [(0, 1, 2), range(10)], folds=5, validation=validation)
    choice = scores.summarize(results).choice
    assert choice.settings == (1, 1, 0, 0, 0)
    # The second setting errs twice in each fold, the first one once in fold 2 only of those left.
    assert choice.estimate.by_fold == pytest.approx((6 / 8, 6 / 8, 7 / 8, 1, 1))
    assert choice.estimate.pooled == pytest.approx(35 / 40)
    sentence = words.choice_sentence(scores.summarize(results))
    assert "000 (lr 1) in 3 folds, 001 (lr 0.1) in 2 folds" in sentence
    low, high = (100 * bound for bound in statistics.wilson_interval(35, 40))
    assert f"87.50% (95% {low:.1f} to {high:.1f} over 40 images; 95% " in sentence
    assert " over 5 folds)" in sentence


def test_published_test_images_are_used_for_the_chosen_setting_alone(tmp_path):
    results = make_study(tmp_path, [range(9), (0, 1, 2)], folds=5, has_test_split=True)
    assert results.choose() == 1
    waiting = scores.summarize(results).choice
    assert waiting.settings == (1,) and "not yet been tested" in waiting.missing
    published = [f"dog/published{i}.png" for i in range(20)]
    for fold in range(5):
        name = f"001/fold{fold}/seed0"
        folder = tmp_path / "runs" / name / "published"
        folder.mkdir()
        predicted = np.ones(20, int)
        predicted[: fold + 1] = 0  # 1 to 5 errors
        arrays = {"labels": np.ones(20, int), "predictions": predicted, "ids": published}
        np.savez(folder / "predictions.npz", class_names=CLASSES, **arrays)
        (folder / "test.json").write_text(json.dumps({"split": "test"}))
        results = replaced(results, name, published_test=folder)
    found = scores.summarize(results)
    assert found.choice.estimate.pooled == pytest.approx(1 - 3 / 20)
    assert found.choice.estimate.interval == pytest.approx(statistics.wilson_interval(17, 20))
    sentence = words.choice_sentence(found)
    assert "published test images, which no other setting is tested on: 85.00% (95% " in sentence
    assert "over 20 images; mean of 5 runs, standard deviation 7.91 points)" in sentence
    heading, _ = words.settings_table(found, found.scores)
    assert "validation" in heading and "test" not in heading


def test_a_single_setting_is_no_choice(tmp_path):
    found = scores.summarize(make_study(tmp_path, [(0, 1)], values=[{}], seeds=2))
    assert words.choice_sentence(found).startswith("test accuracy: 95.00% (95% ")
    assert words.test_sentences(found) == []
    assert words.label(found.results, 0) == "000"
    values = [{"images_per_class": 10}, {"images_per_class": None}]
    results = make_study(tmp_path / "images", [(), ()], values=values)
    assert words.label(results, 1) == "001 (images_per_class all)"


def test_images_in_groups(tmp_path):
    results = make_study(tmp_path, [(), range(12)])
    for run in results.runs:
        file = run.directory / "splits.json"
        groups = {name: f"animal {i // 4}" for i, name in enumerate(IDS)}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"groups": groups}))
    found = scores.summarize(results)
    assert (found.of(1).estimate.unit, found.of(1).estimate.units) == ("groups", 10)
    heading, _ = words.settings_table(found, found.scores)
    assert "95% over groups" in heading


def test_the_interval_of_a_mean_is_that_of_an_accuracy():
    rng = np.random.default_rng(0)
    right, groups = rng.random(60) < 0.8, [f"{i // 5}" for i in range(60)]
    labels = np.zeros(60, int)
    expected = statistics.score_interval(labels, np.where(right, 0, 1), "accuracy", groups)
    assert statistics.values_interval(right.astype(float), groups) == pytest.approx(expected)
    low, high = statistics.values_interval(right.astype(float))
    assert low < right.mean() < high
    assert statistics.values_interval(np.ones(9)) is None


def with_losses(results, losses):
    """Give each run the probability exp(-loss) of the true class, for all of its images."""
    for run in results.runs:
        with np.load(run.directory / "predictions.npz") as saved:
            data = dict(saved)
        loss = losses[run.setting] + 0.01 * np.arange(len(data["ids"]))
        p = np.exp(-loss)
        probabilities = np.stack([1 - p, 1 - p], axis=1)
        probabilities[np.arange(len(p)), data["labels"]] = p
        np.savez(run.directory / "predictions.npz", **data, probabilities=probabilities)
        file = run.directory / "test.json"
        file.write_text(json.dumps({"split": "test", "loss": float(loss.mean())}))
    return results


def test_a_loss_is_minimized(tmp_path):
    results = make_study(tmp_path, [(), ()], metric="loss", validation={(0, None): 2, (1, None): 1})
    found = scores.summarize(with_losses(results, (0.5, 0.3)))
    assert found.best == 1
    estimate = found.of(1).estimate
    assert estimate.pooled == pytest.approx(0.3 + 0.01 * 19.5)
    assert estimate.interval[0] < estimate.pooled < estimate.interval[1]
    (difference,) = found.of(0).differences
    assert difference.value == pytest.approx(-0.2) and difference.interval is None
    folds = make_study(tmp_path / "folds", [(), ()], folds=4, metric="loss")
    found = scores.summarize(with_losses(folds, (0.5, 0.3)))
    assert found.of(0).estimate.by_fold == pytest.approx((0.545,) * 4)
    assert "%" not in words.settings_table(found, found.scores)[1][0][3]


def test_an_autoencoder_has_a_loss_without_predictions(tmp_path):
    results = with_losses(make_study(tmp_path, [(), ()], seeds=3, metric="loss"), (0.5, 0.3))
    for run in results.runs:
        (run.directory / "predictions.npz").unlink()
    found = scores.summarize(results)
    assert found.of(0).estimate.interval is None and found.of(0).mean == pytest.approx(0.695)
    assert summary.lines(found)


# Runs without a result.


def test_runs_without_a_result_are_counted_and_named(tmp_path, no_figures):
    results = make_study(tmp_path, [(0, 1), (0,), range(5)], seeds=2)
    results = replaced(results, "001/seed0", state="diverged", text="diverged at step 7")
    results = replaced(results, "002/seed1", state="pruned", text="pruned after 3 epochs")
    (tmp_path / "runs/002/seed0/predictions.npz").write_bytes(b"PK")
    lines = summary.write(tmp_path, results)
    assert lines[0] == (
        "study pets: 3 settings x 2 seeds, 6 runs: 3 finished, 1 diverged, 1 failed, 1 pruned"
    )
    assert "001/seed0: diverged: diverged at step 7" in lines
    assert "002/seed1: pruned: pruned after 3 epochs" in lines
    assert any(line.startswith("002/seed0: failed: cannot be read: ") for line in lines)
    assert re.search(r"^001 +0.1 +1 of 2 ", "\n".join(lines), re.M)
    text = (tmp_path / "study.html").read_text("utf-8")
    assert "Runs without a result: 3" in text and "pruned after 3 epochs" in text
    # Only the first setting is complete: nothing to test, and it is the choice.
    study = json.loads((tmp_path / "study.json").read_text("utf-8"))
    assert [s["number"] for s in study["settings"] if s["complete"]] == [0]
    assert study["best"] == 0 and study["choice"]["settings"] == [0]


def test_a_study_without_any_result(tmp_path, no_figures):
    results = replaced(make_study(tmp_path, [(), ()]), "", state="not run")
    lines = summary.write(tmp_path, results)
    assert "no score for the chosen setting: no complete setting has validation scores" in lines
    assert lines[0].endswith("2 runs: 2 not run")


def test_a_setting_on_other_images_is_not_tested(tmp_path):
    results = make_study(tmp_path, [(), (0,)])
    directory = make_run(tmp_path / "other", (0,), ids=IDS[:-2])
    found = scores.summarize(replaced(results, "001", directory=directory))
    (line,) = words.test_sentences(found)
    assert line.startswith("001 is not tested: 000 and 001 have different test images")
    assert "--no-tests" not in line


# Files.


def test_study_json_is_what_compare_reads(tmp_path, no_figures):
    wrong = [range(8), (0, 1), range(5)]
    results = make_study(tmp_path, wrong, seeds=2)
    results = replaced(results, "000", state="reused")
    summary.write(tmp_path, replaced(results, "002/seed1", state="failed"))
    found = sources.find([tmp_path])
    assert [c.name for c in found] == ["001 (lr 0.1)", "000 (lr 1.0)"]
    assert all(len(c.runs) == 2 for c in found)


def test_a_loss_that_is_not_finite_is_null_and_said(tmp_path, no_figures):
    results = with_losses(make_study(tmp_path, [(), ()], seeds=2, metric="loss"), (0.5, 0.3))
    file = results.runs[0].directory / "test.json"
    file.write_text(json.dumps({"split": "test", "loss": None}))
    lines = summary.write(tmp_path, results)

    def refuse(text):
        raise AssertionError(text)

    study = json.loads((tmp_path / "study.json").read_text("utf-8"), parse_constant=refuse)
    assert [s["mean"] for s in study["settings"] if s["number"] == 0] == [None]
    assert any("not finite" in line for line in lines)


def test_study_csv_has_a_row_per_run(tmp_path, no_figures):
    results = make_study(tmp_path, [(0, 1), range(10)], folds=5)
    results = replaced(results, "001/fold4", state="failed", text="ValueError: a, b")
    summary.write(tmp_path, results)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "study.csv").read_text("utf-8"))))
    assert len(rows) == 10
    assert (rows[0]["run"], rows[0][LR], rows[0]["fold"]) == ("000/fold0/seed0", "1.0", "0")
    assert rows[0]["validation_accuracy"] == "0.95" and rows[0]["split"] == "test"
    assert (rows[9]["state"], rows[9]["text"], rows[9]["split"]) == (
        "failed",
        "ValueError: a, b",
        "",
    )


# Names.


def test_short_names_tell_fields_apart():
    assert words.short_names((LR, DECAY)) == {LR: "lr", DECAY: "weight_decay"}
    paths = ("stages.0.lr", "stages.1.lr", "model")
    assert list(words.short_names(paths).values()) == ["0.lr", "1.lr", "model"]


# Importance.


def test_importance_in_a_grid_by_hand():
    """Scores 0, 1, 3, 4: the variance is 2.5; means over the other field give 2.25 and 0.25."""
    grid = [({"a": a, "b": b}, 3.0 * a + b) for a in (0, 1) for b in (0, 1)]
    found = importance(grid)
    assert found.shares == {"a": pytest.approx(0.9), "b": pytest.approx(0.1)}
    assert found.rest == pytest.approx(0)
    crossed = [({"a": a, "b": b}, float(a == b)) for a in (0, 1) for b in (0, 1)]
    assert importance(crossed).rest == pytest.approx(1)
    assert importance([(v, 1.0) for v, _ in grid]) is None  # nothing varies
    assert importance(grid[:2]) is None


def test_a_grid_has_all_combinations_once():
    grid = [{"a": a, "b": b} for a in (0, 1) for b in ("x", None)]
    assert is_grid(grid, ["a", "b"])
    assert not is_grid(grid[:3], ["a", "b"]) and not is_grid([*grid, grid[0]], ["a", "b"])


@pytest.mark.slow
def test_importance_of_random_settings_is_optunas():
    pytest.importorskip("optuna")
    rng = np.random.default_rng(0)
    drawn = [
        {"lr": 10 ** rng.uniform(-4, -1), "flip": bool(rng.random() < 0.5), "unused": rng.random()}
        for _ in range(40)
    ]
    settings = [(v, -((math.log10(v["lr"]) + 2) ** 2) + 0.1 * v["flip"]) for v in drawn]
    found = importance(settings)
    assert found.rest is None and "fANOVA" in found.method
    assert list(found.shares)[0] == "lr" and found.shares["lr"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)


# Page and figures.


def rows_of(run, epochs):
    lines = [f"{e},{e},train,{1 / e},0.5,{1 / e},0.6,0.1,1,9,0,0" for e in range(1, epochs + 1)]
    (run / "summary.csv").write_text("\n".join([",".join(SUMMARY_COLUMNS), *lines]) + "\n")


@pytest.mark.slow
def test_the_page(tmp_path):
    values = [{LR: lr, "images_per_class": n} for lr in (0.1, 0.01) for n in (10, None)]
    results = make_study(tmp_path, [range(9), (0, 1), range(12), range(4)], values=values, folds=2)
    summary.write(tmp_path, results)
    text = (tmp_path / "study.html").read_text("utf-8")
    for title in (
        "Result",
        "Settings: accuracy",
        "Tests",
        "Score by training images per class",
        "Importance of each field",
        "Score by field",
        "Parallel coordinates",
        "Learning curves",
    ):
        assert f"<h2>{title}</h2>" in text
    assert text.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="?(?!data:)[^" >]', text)
    prose = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text)
    assert "95.00%" in prose and not re.search(r"\b0\.\d{3,}", re.sub(r"p [=<] 0\.\d+", "", prose))
    assert "1 tests" not in prose and "1 folds" not in prose


def test_images_per_class_have_a_line_per_combination_of_the_others(tmp_path):
    values = [{LR: lr, "images_per_class": n} for lr in (0.1, 0.01) for n in (None, 10)]
    wrong = [(0, 1), range(9), range(4), range(12)]
    found = scores.summarize(make_study(tmp_path, wrong, values=values))
    lines, unit = page.images_per_class_lines(found)
    assert list(lines) == ["lr 0.1", "lr 0.01"] and unit == "images"
    ten, every = lines["lr 0.1"]
    assert (ten[0], ten[1]) == (10, pytest.approx(31 / 40))
    assert ten[2:] == pytest.approx(statistics.wilson_interval(31, 40))
    assert (every[0], every[1]) == (None, pytest.approx(38 / 40))
    assert page.images_per_class_lines(
        scores.summarize(make_study(tmp_path / "other", [(), (0,)]))
    ) == ({}, "")


def test_curves_are_means_over_the_runs():
    rows = [
        [{"epoch": 1, "val_loss": 1.0}, {"epoch": 2, "val_loss": 3.0}],
        [{"epoch": 1, "val_loss": 2.0}],
        [{"epoch": 1, "val_loss": math.nan}],
    ]
    assert page.mean_curve(rows, "val_loss") == [(1, 1.5), (2, 3.0)]


def colored(path, color):
    """Count the pixels of a color above the legend."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    pixels = pixels[: int(0.85 * len(pixels))]
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=-1) < 8).sum())


def test_one_epoch_is_visible(tmp_path):
    path = tmp_path / "curves.png"
    curves = {"accuracy": {"a": [(1, 0.5)], "b": [(1, 0.7)]}}
    figures.validation_curves(curves, path)
    assert colored(path, figures.STRONG[0]) > 20
    assert colored(path, figures.STRONG[1]) > 20


def test_lines_of_parallel_coordinates_are_dark_enough(tmp_path):
    for share in (0, 0.5, 1):
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in figures.DARK(share)[:3]
        )
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert 1.05 / (luminance + 0.05) >= 2.5  # contrast with white
    path = tmp_path / "lines.png"
    figures.parallel_coordinates(
        {"lr": [0.1, 0.01], "flip": [True, None]}, [0.5, 0.7], 1, "test accuracy", path
    )
    assert colored(path, figures.VALIDATION) > 500
