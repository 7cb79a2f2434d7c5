"""Figures and report.html."""

import errno
import inspect
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from datasets.dataset import Split
from train import results
from train.report import figures, mistakes, optional, plotting
from train.report.html import _epochs, _headline, write_report
from train.results import class_balanced_indices

pytestmark = pytest.mark.figures

NAMES = ["cats", "a class with a long name", "<script>alert(1)</script>", "猪", "$x$ & co"]


def row(epoch, best=0, **changed):
    values = {"train_loss": 1.0, "val_loss": 2.0, "train_accuracy": 0.5, "val_accuracy": 0.4}
    return {"epoch": epoch, "stage": "train", "is_best": best} | values | changed


TIMES = {"learning_rate": 0.1, "images_per_second": 1.0, "seconds": 1.0}
EPOCHS = [row(1, 1, **TIMES), row(2, 1, **TIMES), row(3, **TIMES)]


def pixels(path):
    """Read an image as int [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def test_curves_with_one_epoch_and_missing_values(tmp_path):
    figures.learning_curves([row(1, 1, val_loss=float("nan"))], tmp_path / "one.png")
    figures.learning_curves(
        [row(i, i == 3) for i in range(1, 6)], tmp_path / "five.png", "title $x"
    )
    assert pixels(tmp_path / "one.png").shape == pixels(tmp_path / "five.png").shape


def test_the_tested_epoch_is_marked(tmp_path, monkeypatch):
    """The best one, or the last if the recipe scores the last."""
    marks = []
    monkeypatch.setattr(
        Axes, "axvline", lambda panel, x, **style: marks.append((x, style["label"]))
    )
    rows = [row(1), row(2, 1), row(3)]
    figures.learning_curves(rows, tmp_path / "best.png")
    figures.learning_curves(rows, tmp_path / "last.png", score="last")
    assert marks == [(2, "best: 2")] * 2 + [(3, "last: 3")] * 2
    for score, marked in (("best", ["1", "2"]), ("last", ["3"])):
        heading, *lines = re.findall("<tr>.*?</tr>", _epochs(EPOCHS, score))
        assert f">{score}</th>" in heading
        assert [line[8] for line in lines if ">*</td>" in line] == marked
    test = {"accuracy": 0.5, "loss": 1.0, "test_time_ms": 1, "train_time_ms": 1, "num_examples": 1}
    test |= {"scored_by": "classification", "epochs_run": 3, "best_epoch": 3}
    assert "<b>3</b>last epoch" in _headline(test, "last")


def test_curves_label_the_stages(tmp_path):
    for name, second in (("one", row(2)), ("two", row(2, stage="mixture"))):
        figures.learning_curves([row(1), second], tmp_path / f"{name}.png")
    one, two = (pixels(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert (one[:60] != two[:60]).any()  # stage names are above the panels


@pytest.mark.slow
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_curves_without_accuracy_show_only_the_loss(tmp_path, missing):
    rows = [row(i, i == 2, train_accuracy=missing, val_accuracy=missing) for i in (1, 2, 3)]
    for rows_, name in ((rows, "loss.png"), ([*rows, row(4)], "both.png")):
        figures.learning_curves(rows_, tmp_path / name)
        figures.curves_of_runs({"run": rows_}, ("loss", "accuracy"), tmp_path / f"runs-{name}")
    assert pixels(tmp_path / "loss.png").shape[1] < 0.7 * pixels(tmp_path / "both.png").shape[1]
    loss, both = (pixels(tmp_path / f"runs-{name}.png").shape[0] for name in ("loss", "both"))
    assert loss < 0.7 * both


@pytest.mark.slow
def test_each_run_has_its_color(tmp_path):
    runs = {f"run {i} $x": [row(e, val_loss=i + e) for e in (1, 2)] for i in range(3)}
    figures.curves_of_runs(runs, ("loss",), tmp_path / "three.png", "title")
    assert has_colors(tmp_path / "three.png", figures.STRONG, 3)
    runs["lost"] = [row(1, val_loss=float("nan"), train_loss=None)]
    figures.curves_of_runs(runs, ("loss", "accuracy"), tmp_path / "lost.png")
    many = {f"run {i}": [row(1), row(2)] for i in range(30)}  # more than colors and line styles
    figures.curves_of_runs(many, ("accuracy",), tmp_path / "many.png")


@pytest.mark.slow
@pytest.mark.parametrize("total", [1, 3, 7, 40])
def test_embedding_has_one_color_per_class(tmp_path, total):
    labels = np.repeat(np.arange(total), 12)
    points = np.random.default_rng(0).normal(size=(len(labels), 3)) + 9 * np.eye(total, 3)[labels]
    path = tmp_path / "tsne.png"
    figures.tsne_figure(points, labels, (NAMES * 8)[:total], path, "title")
    assert has_colors(path, figures.PALETTE, total)


def test_embedding_with_an_empty_class(tmp_path):
    path = tmp_path / "tsne.png"
    figures.tsne_figure(np.eye(3), np.array([0, 2, 2]), NAMES, path)
    assert has_colors(path, [figures.PALETTE[0]], 1) and has_colors(path, [figures.PALETTE[2]], 1)
    assert not has_colors(path, [figures.PALETTE[1]], 1)


@pytest.mark.slow
def test_box_plot_shows_every_seed(tmp_path):
    def colored_pixels(scores):
        figures.seed_boxplot(scores, tmp_path / "box.png", "title", "clustering accuracy")
        return np.sum(near(tmp_path / "box.png", figures.STRONG[0], 130))

    one = colored_pixels({"vade": [0.9]})
    five = colored_pixels({"vade": [0.1, 0.3, 0.5, 0.7, 0.9]})
    assert 4 * one < five < 6 * one
    plots = []
    for scores in ([0.8, 0.9], [0.8, float("nan"), 0.9]):
        colored_pixels({"vade": scores})
        plots.append(pixels(tmp_path / "box.png"))
    np.testing.assert_array_equal(*plots)
    colored_pixels({NAMES[i % 5] + str(i): [0.5, 0.6] for i in range(14)} | {"none": []})
    assert pixels(tmp_path / "box.png").shape[1] < 1500


def test_timing_bars_are_proportional_to_the_times(tmp_path):
    times = {"AlexNet $": {"16": 1000.0, "64": 500.0}, "VGG": {"64": 250.0}}
    figures.timing_bars(times, tmp_path / "bars.png", "title")
    slow, fast = (near(tmp_path / "bars.png", color, 5) for color in figures.STRONG[:2])
    rows = slow.sum(axis=1).max(), *(half.sum(axis=1).max() for half in np.array_split(fast, 2))
    assert rows[0] == pytest.approx(2 * rows[1], rel=0.02)
    assert rows[0] == pytest.approx(4 * rows[2], rel=0.02)


def near(path, color, tolerance):
    """Mask of pixels within `tolerance` gray levels (summed over channels) of a color, bool [H, W]."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return np.abs(pixels(path) - rgb).sum(axis=2) <= tolerance


def has_colors(path, palette, count):
    """Whether each of the first `count` colors appears in more than 10 pixels."""
    return all(near(path, color, 40).sum() > 10 for color in palette[:count])


def test_equal_data_give_identical_files(tmp_path):
    for name in ("a.png", "b.png"):
        figures.learning_curves([row(1), row(2, 1)], tmp_path / name, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("total", [1, 2, 5, 60])
def test_confusion_matrix_size_is_limited(tmp_path, total):
    names = (NAMES * 12)[:total]
    figures.confusion_matrix(np.eye(total, dtype=int).tolist(), names, tmp_path / "m.png", "title")
    height, width, _ = pixels(tmp_path / "m.png").shape
    assert 300 < height < 2000 and width < 2200


@pytest.mark.slow
@pytest.mark.parametrize("total", [1, 4, 20])
def test_grid_shows_errors_in_red(tmp_path, total):
    def red_pixels(predicted):
        gray = [np.full((9, 7, 3), 128, np.uint8)] * total
        figures.prediction_grid(
            gray, [0] * total, predicted, [0.5] * total, NAMES, tmp_path / "g.png"
        )
        red, green, _ = pixels(tmp_path / "g.png").transpose(2, 0, 1)
        return np.sum(red - green > 100)

    assert red_pixels([0] * total) == 0
    assert red_pixels([*[0] * (total - 1), 3]) > 20


def test_report_is_one_self_contained_file(small_run):
    page = (small_run / "report.html").read_text(encoding="utf-8")
    test = json.loads((small_run / "test.json").read_text())
    assert f"{test['accuracy']:.2%}" in page
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="?(?!data:)[^" >]', page)  # no external resources
    for text in (
        "small_net on pens",
        "model_options.norm_momentum",
        "Confusion matrix",
        "72 train",
    ):
        assert text in page
    assert "synthetic images" not in page


def test_report_shows_intervals_and_what_they_cover(small_run, tmp_path):
    def page(**intervals):
        run = copy_with(
            small_run,
            tmp_path / str(len(list(tmp_path.iterdir()))),
            "test.json",
            lambda test: test | {"intervals": intervals, "accuracy": 0.9},
        )
        return write_report(run).read_text(encoding="utf-8")

    text = page(over="images", units=9, accuracy=[0.571, 0.98], f1=[0.5, 0.9])
    assert "<b>90.00%</b>test accuracy, 95%: 57.1 to 98.0<" in text
    assert "95% intervals over the test images only, from one seed.<" in text
    text = page(over="groups", units=3, accuracy=[0.571, 0.98], f1=None)
    assert "over the 3 groups of test images only, from one seed; none for macro-F1" in text


def test_synthetic_images_are_labeled(small_run, tmp_path):
    run = copy_with(small_run, tmp_path, "splits.json", lambda d: d | {"synthetic": True})
    assert "synthetic images" in write_report(run).read_text(encoding="utf-8")


def test_class_names_are_escaped(small_run, tmp_path):
    def rename(test):
        return test | {"per_class": {NAMES[2]: next(iter(test["per_class"].values()))}}

    page = write_report(copy_with(small_run, tmp_path, "test.json", rename)).read_text(
        encoding="utf-8"
    )
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_an_unfinished_run_has_a_report(small_run, tmp_path):
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


def test_mistakes_show_their_images(small_run, tmp_path):
    """The most confident first, at most 20, each with a small copy of its image in the page."""
    run = copy_with(small_run, tmp_path, "test.json", lambda d: d)
    with np.load(run / "predictions.npz") as saved:
        data = dict(saved)
    data["predictions"] = (data["labels"] + 1) % 3
    data["probabilities"] = np.linspace(0.4, 0.9, 27, dtype=np.float32).reshape(9, 3)
    data = {k: v if k == "class_names" else np.repeat(v, 3, axis=0) for k, v in data.items()}
    np.savez(run / "predictions.npz", **data)
    found = mistakes.find_mistakes(data)
    assert len(found) == 27 and found[0].index == 24 and found[0].confidence == np.float32(0.9)
    images = [np.full((300, 200, 3), i, np.uint8) for i in range(27)]
    split = Split(data["ids"].tolist(), data["labels"], lambda i: images[i])
    mistakes.save_thumbnails(run / "figures" / "mistakes", split, found)
    with Image.open(run / "figures" / "mistakes" / "24.jpg") as image:
        assert image.size == (107, 160)
        assert image.getpixel((50, 50)) == (24, 24, 24)
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == page.count("<li><img") == 20
    assert "Mistakes: 27 of 27 test images, the 20 most confident" in page
    assert page.index(str(data["ids"][24])) < page.index(str(data["ids"][9]))
    assert "true: <b>red</b>" in page


def test_many_classes_are_shortened_in_the_report(small_run, tmp_path):
    def many(test):
        rows = {
            f"c{i}": {"precision": 1, "recall": 1, "f1": i / 300, "support": 2} for i in range(300)
        }
        del test["confusion_matrix"]
        return test | {"per_class": rows, "confusions": [[0, 0, 9], [1, 2, 1], [3, 4, 5]]}

    page = write_report(copy_with(small_run, tmp_path, "test.json", many)).read_text("utf-8")
    assert (
        "the 200 with the lowest F1, of 300" in page
        and "<td>c199<" in page
        and "<td>c200<" not in page
    )
    assert page.index("<td>c3</td><td>c4</td><td>5<") < page.index("<td>c1</td><td>c2</td><td>1<")
    assert "<td>c0</td><td>c0<" not in page


def test_figures_do_not_depend_on_the_users_settings(tmp_path):
    """Nor change them. `text.usetex` would need LaTeX."""
    figures.learning_curves([row(1, 1)], tmp_path / "a.png")
    theirs = {"text.usetex": True, "axes.facecolor": "red", "savefig.dpi": 30, "font.size": 30}
    with plotting.matplotlib.rc_context(theirs):
        figures.learning_curves([row(1, 1)], tmp_path / "b.png")
        assert plotting.matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_every_figure_has_default_settings():
    public = [f for n, f in inspect.getmembers(figures, inspect.isfunction) if n[0] != "_"]
    own = [f for f in public if inspect.unwrap(f).__module__ == figures.__name__]
    assert len(own) >= 10
    assert all(hasattr(f, "__wrapped__") for f in own)


@pytest.mark.parametrize(
    "setting", ["module://matplotlib_inline.backend_inline", "TkAgg", "no-such-backend"]
)
def test_the_backend_of_a_notebook_is_no_error(setting, command_environment):
    code = "from train.report import figures; import os; print(os.environ['MPLBACKEND'])"
    environment = command_environment | {"MPLBACKEND": setting}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, setting), done.stderr


def test_a_figure_that_fails_costs_a_warning(small_run, tmp_path, monkeypatch, capsys):
    """All others are written, and its file of an earlier test is removed."""
    from train.predictor import load_run
    from train.record.directory import RunDir
    from train.setup import resolve

    run = RunDir(copy_with(small_run, tmp_path, "test.json", lambda d: d))
    experiment = resolve(run.read_recipe(), train=False)
    broken = mock_failing(ValueError("no\nlatex"))
    monkeypatch.setattr(figures, "confusion_matrix", broken)
    monkeypatch.setattr("train.results.save_thumbnails", broken)
    (run.figures / "mistakes").mkdir(parents=True, exist_ok=True)
    (run.figures / "mistakes" / "of_an_earlier_test.jpg").touch()
    monkeypatch.setattr("train.report.html.write_report", broken)
    facts = {"train_time_ms": 1.0, "epochs_run": 2}
    found = results.finish(run, load_run(run.path), experiment, facts)
    assert found["num_examples"] == 9 and json.loads(run.test.read_text()) == found
    assert {p.name for p in run.figures.iterdir()} >= {"curves.png", "predictions.png"}
    assert not (run.figures / "confusion_matrix.png").exists() and not run.report.exists()
    warnings = capsys.readouterr().err.splitlines()
    assert not (run.figures / "mistakes").exists()
    assert f"warning: {run.figures / 'confusion_matrix.png'} could not be written" in warnings[-3]
    assert warnings[-3].endswith("(ValueError: no latex)")
    assert "mistakes could not be written" in warnings[-2] and "report.html" in warnings[-1]


def mock_failing(error):
    def fail(*arguments):
        raise error

    return fail


def test_a_full_disk_is_an_error():
    with pytest.raises(OSError), optional("x.png"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("labels", "count", "chosen"),
    [
        ([0, 1, 2] * 4, 6, [0, 9, 1, 10, 2, 11]),
        ([0, 0, 0, 1, 1, 1], 3, [0, 2, 3]),
        ([0, 1, 1, 1], 4, [0, 1, 3]),  # a class with one image appears once
        ([4, 3, 2, 1, 0], 2, [4, 0]),  # more classes than images to show
        ([7], 20, [0]),
    ],
)
def test_prediction_grid_shows_all_classes_equally_often(labels, count, chosen):
    assert class_balanced_indices(np.array(labels), count).tolist() == chosen
