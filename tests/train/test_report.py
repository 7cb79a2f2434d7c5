"""Figures and the page."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from train.report import figures
from train.report.html import write_report
from train.results import sample_of_classes

NAMES = ["cats", "a class with a long name", "<script>alert(1)</script>", "猪", "$x$ & co"]


def row(epoch, best=0, **changed):
    values = {"train_loss": 1.0, "val_loss": 2.0, "train_accuracy": 0.5, "val_accuracy": 0.4}
    return {"epoch": epoch, "stage": "train", "is_best": best} | values | changed


def pixels(path):
    """Int [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def test_curves_of_one_epoch_and_of_lost_values(tmp_path):
    figures.learning_curves([row(1, 1, val_loss=float("nan"))], tmp_path / "one.png")
    figures.learning_curves(
        [row(i, i == 3) for i in range(1, 6)], tmp_path / "five.png", "title $x"
    )
    assert pixels(tmp_path / "one.png").shape == pixels(tmp_path / "five.png").shape


def test_curves_of_stages_are_told_apart(tmp_path):
    for name, second in (("one", row(2)), ("two", row(2, stage="mixture"))):
        figures.learning_curves([row(1), second], tmp_path / f"{name}.png")
    one, two = (pixels(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert (one[:60] != two[:60]).any()  # their names stand above


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_curves_without_accuracy_are_of_the_loss_alone(tmp_path, nothing):
    rows = [row(i, i == 2, train_accuracy=nothing, val_accuracy=nothing) for i in (1, 2, 3)]
    for rows_, name in ((rows, "loss.png"), ([*rows, row(4)], "both.png")):
        figures.learning_curves(rows_, tmp_path / name)
        figures.curves_of_runs({"run": rows_}, ("loss", "accuracy"), tmp_path / f"runs-{name}")
    assert pixels(tmp_path / "loss.png").shape[1] < 0.7 * pixels(tmp_path / "both.png").shape[1]
    alone, both = (pixels(tmp_path / f"runs-{name}.png").shape[0] for name in ("loss", "both"))
    assert alone < 0.7 * both


def test_curves_of_runs_have_a_colour_each(tmp_path):
    runs = {f"run {i} $x": [row(e, val_loss=i + e) for e in (1, 2)] for i in range(3)}
    figures.curves_of_runs(runs, ("loss",), tmp_path / "three.png", "title")
    assert has_colours(tmp_path / "three.png", figures.STRONG, 3)
    runs["lost"] = [row(1, val_loss=float("nan"), train_loss=None)]
    figures.curves_of_runs(runs, ("loss", "accuracy"), tmp_path / "lost.png")
    many = {f"run {i}": [row(1), row(2)] for i in range(30)}  # more than colours and line styles
    figures.curves_of_runs(many, ("accuracy",), tmp_path / "many.png")


@pytest.mark.parametrize("total", [1, 3, 7, 40])
def test_embedding_shows_each_class_in_its_colour(tmp_path, total):
    labels = np.repeat(np.arange(total), 12)
    points = np.random.default_rng(0).normal(size=(len(labels), 3)) + 9 * np.eye(total, 3)[labels]
    path = tmp_path / "tsne.png"
    figures.tsne_figure(points, labels, (NAMES * 8)[:total], path, "title")
    assert has_colours(path, figures.PALETTE, total)


def test_embedding_of_classes_without_examples(tmp_path):
    path = tmp_path / "tsne.png"
    figures.tsne_figure(np.eye(3), np.array([0, 2, 2]), NAMES, path)
    assert has_colours(path, [figures.PALETTE[0]], 1) and has_colours(path, [figures.PALETTE[2]], 1)
    assert not has_colours(path, [figures.PALETTE[1]], 1)


def test_box_plot_shows_every_seed(tmp_path):
    def drawn(scores):
        figures.seed_boxplot(scores, tmp_path / "box.png", "title", "clustering accuracy")
        return np.sum(near(tmp_path / "box.png", figures.STRONG[0], 130))

    one, five = drawn({"vade": [0.9]}), drawn({"vade": [0.1, 0.3, 0.5, 0.7, 0.9]})
    assert 4 * one < five < 6 * one
    pictures = []
    for scores in ([0.8, 0.9], [0.8, float("nan"), 0.9]):
        drawn({"vade": scores})
        pictures.append(pixels(tmp_path / "box.png"))
    np.testing.assert_array_equal(*pictures)
    drawn({NAMES[i % 5] + str(i): [0.5, 0.6] for i in range(14)} | {"none": []})
    assert pixels(tmp_path / "box.png").shape[1] < 1500


def test_timing_bars_are_as_long_as_the_times(tmp_path):
    times = {"AlexNet $": {"16": 1000.0, "64": 500.0}, "VGG": {"64": 250.0}}
    figures.timing_bars(times, tmp_path / "bars.png", "title")
    slow, fast = (near(tmp_path / "bars.png", colour, 5) for colour in figures.STRONG[:2])
    rows = slow.sum(axis=1).max(), *(half.sum(axis=1).max() for half in np.array_split(fast, 2))
    assert rows[0] == pytest.approx(2 * rows[1], rel=0.02)
    assert rows[0] == pytest.approx(4 * rows[2], rel=0.02)


def near(path, colour, most):
    """Whether pixels have a colour, bool [H, W], to `most` grey levels in all."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(pixels(path) - wanted).sum(axis=2) <= most


def has_colours(path, palette, count):
    """Whether the first `count` colours are in the picture, in more than a few pixels each."""
    return all(near(path, colour, 40).sum() > 10 for colour in palette[:count])


def test_equal_data_give_equal_files(tmp_path):
    for name in ("a.png", "b.png"):
        figures.learning_curves([row(1), row(2, 1)], tmp_path / name, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("total", [1, 2, 5, 60])
def test_confusion_matrix_of_any_number_of_classes(tmp_path, total):
    names = (NAMES * 12)[:total]
    figures.confusion_matrix(np.eye(total, dtype=int).tolist(), names, tmp_path / "m.png", "title")
    height, width, _ = pixels(tmp_path / "m.png").shape
    assert 300 < height < 2000 and width < 2200


@pytest.mark.parametrize("total", [1, 4, 20])
def test_grid_shows_errors_in_red(tmp_path, total):
    def red_pixels(predicted):
        grey = [np.full((9, 7, 3), 128, np.uint8)] * total
        figures.prediction_grid(
            grey, [0] * total, predicted, [0.5] * total, NAMES, tmp_path / "g.png"
        )
        red, green, _ = pixels(tmp_path / "g.png").transpose(2, 0, 1)
        return np.sum(red - green > 100)

    assert red_pixels([0] * total) == 0
    assert red_pixels([*[0] * (total - 1), 3]) > 20


def test_page_holds_everything_in_one_file(small_run):
    page = (small_run / "report.html").read_text(encoding="utf-8")
    test = json.loads((small_run / "test.json").read_text())
    assert f"{test['accuracy']:.2%}" in page
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="?(?!data:)[^" >]', page)  # nothing is fetched
    for text in (
        "sam_alexnet_tiny on pens",
        "model_options.norm_momentum",
        "Confusion matrix",
        "72 train",
    ):
        assert text in page
    assert "synthetic images" not in page


def test_synthetic_data_are_labelled(small_run, tmp_path):
    run = copy_with(small_run, tmp_path, "splits.json", lambda d: d | {"synthetic": True})
    assert "synthetic images" in write_report(run).read_text(encoding="utf-8")


def test_names_cannot_become_markup(small_run, tmp_path):
    def rename(test):
        return test | {"per_class": {NAMES[2]: next(iter(test["per_class"].values()))}}

    page = write_report(copy_with(small_run, tmp_path, "test.json", rename)).read_text(
        encoding="utf-8"
    )
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_unfinished_run_has_a_page_too(small_run, tmp_path):
    run = copy_with(small_run, tmp_path, "test.json", lambda d: d)
    for name in ("test.json", "predictions.npz", "env.json", "summary.csv"):
        (run / name).unlink()
    shutil.rmtree(run / "figures")
    assert "has not been tested yet" in write_report(run).read_text(encoding="utf-8")


def copy_with(small_run, tmp_path, name, change):
    run = tmp_path / "run"
    shutil.copytree(small_run, run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    path = run / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return run


@pytest.mark.parametrize(
    ("labels", "count", "chosen"),
    [
        ([0, 1, 2] * 4, 6, [0, 9, 1, 10, 2, 11]),
        ([0, 0, 0, 1, 1, 1], 3, [0, 2, 3]),
        ([0, 1, 1, 1], 4, [0, 1, 3]),  # a class of one is shown once
        ([4, 3, 2, 1, 0], 2, [4, 0]),  # more classes than room
        ([7], 20, [0]),
    ],
)
def test_grid_shows_every_class_alike(labels, count, chosen):
    assert sample_of_classes(np.array(labels), count).tolist() == chosen
