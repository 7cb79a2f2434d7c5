"""`python -m train.compare` on run directories with known predictions."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from train import compare
from train.analysis import statistics
from train.comparison import page, results, sources
from train.recipe import Recipe
from train.record.directory import SUMMARY_COLUMNS

CLASSES = ["cat", "dog"]
TOTAL = 40
IDS = [f"{CLASSES[i % 2]}/{i}.png" for i in range(TOTAL)]


def make_run(
    path, wrong=(), *, ids=IDS, seed=0, digests=None, groups=None, data="pets", split="test"
):
    """Write the files of a finished run that is wrong for the images at these indices of IDS.

    Its training images are three times as many as the scored ones, those of `split`.
    """
    labels = np.array([CLASSES.index(i.partition("/")[0]) for i in ids])
    bad = np.isin(ids, [IDS[i] for i in wrong])
    path.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(model="resnet_tiny", dataset=str(data), seed=seed).to_json()
    (path / "config.json").write_text(json.dumps({"format": 4, "recipe": recipe}))
    manifest = {
        "format": 3,
        "dataset": "pets",
        "class_names": CLASSES,
        "splits": {
            "train": {f"cat/t{i}.png": 0 for i in range(3 * len(ids))},
            "validation": {},
            "test": {"dog/published.png": 1},
            split: dict(zip(ids, labels.tolist(), strict=True)),
        },
        "sha256": digests or {i: f"digest of {i}" for i in ids},
        "groups": groups or {},
    }
    (path / "splits.json").write_text(json.dumps(manifest))
    (path / "test.json").write_text(json.dumps({"split": split}))
    predicted = np.where(bad, 1 - labels, labels).astype(np.int32)
    arrays = {"labels": labels, "predictions": predicted, "ids": ids, "class_names": CLASSES}
    np.savez(path / "predictions.npz", **arrays)
    rows = [f"{e},{e},train,{1 / e},0.5,{1 / e},0.6,0.1,1,9,0,0" for e in (1, 2, 3)]
    (path / "summary.csv").write_text("\n".join([",".join(SUMMARY_COLUMNS), *rows]) + "\n")
    return path


def make_folds(path, wrong, folds=5, seeds=1, split="test"):
    """Write the runs of a cross-validation; `wrong` lists the images that each seed has wrong."""
    for fold in range(folds):
        for seed in range(seeds):
            own = IDS[fold::folds]
            make_run(path / f"fold{fold}/seed{seed}", wrong[seed], ids=own, seed=seed, split=split)
    return path


@pytest.fixture(autouse=True)
def curves(monkeypatch):
    """Drawing takes a second: only the tests of the page draw."""
    draw = page._curves
    monkeypatch.setattr(page, "_curves", lambda candidates: "")
    return lambda: monkeypatch.setattr(page, "_curves", draw)


@pytest.fixture
def pair(tmp_path):
    """Two runs that are wrong for 2 images, and for 12 others."""
    return make_run(tmp_path / "good", (0, 1)), make_run(tmp_path / "bad", range(10, 22))


def test_two_runs(pair, tmp_path, call, curves):
    curves()
    out = tmp_path / "page.html"
    status, stdout, stderr = call(compare, *pair, "--out", out)
    assert status == 0, stderr
    # 2 and 12 images differ: the binomial test of 2 in 14.
    assert "good is better than bad by 25.0 points, 95% " in stdout
    assert "p = 0.013, 40 images (McNemar's test)" in stdout
    assert "with one seed each" in stdout
    low, high = (100 * bound for bound in statistics.wilson_interval(38, 40))
    row = next(line for line in stdout.splitlines() if line.startswith("good "))
    assert re.search(rf"resnet_tiny +pets +1 seed +40 +95.00% +{low:.1f} to {high:.1f}", row)
    text = out.read_text("utf-8")
    assert "good right, bad wrong: 12 images" in text
    assert "bad right, good wrong: 2 images" in text
    caption = "<span>true: cat</span><span>good: cat</span><span>bad: dog</span>"
    assert text.count(f"{caption}<small>{IDS[10]}<") == 1
    assert "<td class=n>26</td>" in text  # both right
    assert not re.search(r'(src|href)="?(?!data:)[^" >]', text)
    assert "Images are not shown: " in text  # there is no data set
    assert text.count("data:image/png;base64,") == 1  # the curves


def test_images_are_shown(tmp_path, call):
    rng = np.random.default_rng(0)
    colors = {}
    for name in IDS:
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        colors[name] = rng.integers(0, 256, 3)
        pixels = np.broadcast_to(colors[name], (200, 300, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file)
    # The other images of the data set: those that the runs were trained on.
    for index in range(3 * TOTAL):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pets" / f"cat/t{index}.png")
    Image.fromarray(pixels).save(tmp_path / "pets/dog/t.png")
    from datasets import load_dataset

    whole = load_dataset(tmp_path / "pets").manifest()
    data = {"digests": whole["sha256"], "data": tmp_path / "pets"}
    runs = make_run(tmp_path / "a", (), **data), make_run(tmp_path / "b", (4,), **data)
    splits = json.loads((runs[0] / "splits.json").read_text())["splits"]
    splits["validation"]["cat/t0.png"] = splits["train"].pop("cat/t0.png")
    splits["train"]["dog/t.png"] = 1
    manifest = whole | {"splits": splits}
    for run in runs:
        (run / "splits.json").write_text(json.dumps(manifest))
    out = tmp_path / "page.html"
    status, _, stderr = call(compare, *runs, "--out", out)
    assert status == 0, stderr
    text = out.read_text("utf-8")
    assert "not shown" not in text
    (found,) = re.findall(r'alt="(\S+)" src="data:image/jpeg;base64,([^"]+)"', text)
    assert found[0] == IDS[4]
    shown = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert max(shown.size) == 128
    np.testing.assert_allclose(np.asarray(shown).mean(axis=(0, 1)), colors[IDS[4]], atol=4)


def test_the_order_of_the_images_does_not_matter(pair, tmp_path):
    again = make_run(tmp_path / "reversed", range(10, 22), ids=IDS[::-1])
    for other in (pair[1], again):
        (found,) = results.compare(sources.find([pair[0], other]), "accuracy")
        assert found.differences[0].value == pytest.approx(0.25)
        assert found.only_first.tolist() == list(range(10, 22))
        assert found.only_second.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ids": IDS[:-2]}, "2 only in good (cat/38.png, dog/39.png)"),
        ({"ids": [*IDS, "cat/40.png"]}, "1 only in other (cat/40.png)"),
        (
            {"digests": dict.fromkeys(IDS[:5], "x")},
            "5 with different content (cat/0.png, dog/1.png, cat/2.png, ...)",
        ),
    ],
)
def test_different_test_images_are_refused_and_named(pair, tmp_path, call, change, text):
    other = make_run(tmp_path / "other", (), **change)
    out = tmp_path / "page.html"
    status, stdout, stderr = call(compare, pair[0], other, "--out", out)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert text in stderr and "--no-tests" in stderr
    assert not out.exists()
    status, stdout, _ = call(compare, pair[0], other, "--out", out, "--no-tests")
    assert status == 0 and "better" not in stdout and "other " in stdout


def test_three_runs_have_adjusted_p_values(pair, tmp_path, call):
    third = make_run(tmp_path / "third", range(10, 16))
    out = tmp_path / "page.html"
    status, stdout, _ = call(compare, *pair, third, "--out", out)
    assert status == 0
    candidates = sources.find([*pair, third])
    plain = [
        statistics.compare_predictions(
            candidates[i].pooled.images.labels,
            candidates[i].pooled.predicted,
            candidates[j].pooled.predicted,
        ).p
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    found = [pair.differences[0].p for pair in results.compare(candidates, "accuracy")]
    assert found == pytest.approx(statistics.holm(plain)) and found != pytest.approx(plain)
    assert stdout.count("McNemar's test") == 3 and "3 main tests are adjusted by Holm" in stdout


def test_seeds_of_a_row(tmp_path, call):
    """A paper's row: its seeds are averaged, and compared pairwise, too."""
    rows = [
        [make_run(tmp_path / row / f"seed{s}", range(s, s + n), seed=s) for s in range(3)]
        for row, n in (("one", 4), ("two", 12))
    ]
    unfinished = rows[0][0].with_name("seed3")
    unfinished.mkdir()
    (unfinished / "config.json").write_text((rows[0][0] / "config.json").read_text())
    paths = tmp_path / "one", tmp_path / "two"
    status, stdout, _ = call(compare, *paths, "--out", tmp_path / "page.html")
    assert status == 0
    assert "one is better than two by 20.0 points" in stdout
    assert "40 images (randomization test)" in stdout
    assert "3 seeds (paired t-test, undefined for equal differences)" in stdout
    assert re.search(r"3 seeds +40 +90.00% ± 0.00 ", stdout)
    status, _, stderr = call(compare, tmp_path, paths[0])
    assert status == 2
    assert f"several runs or rows: name some of them ({paths[0]}, {paths[1]})" in stderr


def test_folds(tmp_path, call):
    """Five folds of eight images: errors of each fold by hand, with two seeds."""
    first = make_folds(tmp_path / "first", [(0, 1, 2), (0, 1, 2)], seeds=2)
    second = make_folds(tmp_path / "second", [range(10), (0, 1, 2, 3, 4)], seeds=2)
    status, stdout, _ = call(compare, first, second, "--out", tmp_path / "page.html")
    assert status == 0
    accuracy = np.array([1 - np.array([1, 1, 1, 0, 0]) / 8, 1 - np.full(5, 1.5) / 8])
    expected = statistics.compare_folds(*accuracy.tolist(), 1 / 3)
    assert statistics.sentence("first", "second", expected) in stdout
    assert re.search(r"first +resnet_tiny +pets +5 folds x 2 seeds +40 +92.50% ± ", stdout)
    (found,) = results.compare(sources.find([first, second]), "accuracy")
    assert found.differences == (expected,)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_images_that_a_run_does_not_use_are_no_training_images(tmp_path, split):
    """With a published test split, the validation images are the fold."""
    make_folds(tmp_path / "row", [()], split=split)
    (found,) = sources.find([tmp_path / "row"])
    assert found.pooled.test_share == pytest.approx(1 / 3)


def test_folds_must_be_the_same(tmp_path, call):
    first = make_folds(tmp_path / "first", [()])
    second = make_folds(tmp_path / "second", [()], folds=4)
    status, _, stderr = call(compare, first, second, "--out", tmp_path / "page.html")
    assert status == 2 and "different folds of the same images" in stderr


def test_groups_are_tested_as_wholes(tmp_path):
    groups = {name: f"animal {i // 4}" for i, name in enumerate(IDS)}
    paths = [
        make_run(tmp_path / name, wrong, groups=groups)
        for name, wrong in (("a", ()), ("b", range(12)))
    ]
    (found,) = results.compare(sources.find(paths), "accuracy")
    assert (found.differences[0].unit, found.differences[0].n) == ("groups", 10)
    assert found.differences[0].p == pytest.approx(2 / 2**3)


def make_study(path, **changes):
    runs = []
    for number, count in enumerate((8, 2, 5)):
        for seed in range(2):
            name = f"{number:03d}/seed{seed}"
            make_run(path / "runs" / name, range(count), seed=seed)
            runs.append({"name": name, "setting": number, "seed": seed, "state": "done"})
    settings = [
        {"number": i, "values": {"stages.0.lr": i / 10}, "complete": i < 2, "validation_mean": v}
        for i, v in enumerate((0.8, 0.9, 0.99))
    ]
    study = {"direction": "maximize", "settings": settings, "runs": runs} | changes
    (path / "study.json").write_text(json.dumps(study))
    return path


def test_a_study_stands_for_its_best_settings(tmp_path, call):
    study = make_study(tmp_path / "study")
    names = [c.name for c in sources.find([study])]
    assert names == ["001 (lr 0.1)", "000 (lr 0.0)"]  # the third is not complete
    status, stdout, _ = call(compare, study, "--out", tmp_path / "page.html")
    assert status == 0 and "001 (lr 0.1) is better than 000 (lr 0.0) by 15.0 points" in stdout
    status, _, stderr = call(compare, study, "--settings", "1")
    assert status == 2 and "nothing to compare with" in stderr
    assert [c.name for c in sources.find([study / "runs/002", study / "runs/000"])] == [
        "002",
        "000",
    ]
    make_study(tmp_path / "low", direction="minimize")
    assert [c.name for c in sources.find([tmp_path / "low"])][0] == "000 (lr 0.0)"
    make_study(tmp_path / "broken", settings=[{"number": 1}])
    status, _, stderr = call(compare, tmp_path / "broken")
    assert (
        status == 2
        and "study.json is not a valid study file (missing or invalid: 'complete')" in stderr
    )


def test_the_metric_can_be_macro_f1(pair, tmp_path, call):
    status, stdout, _ = call(
        compare, *pair, "--metric", "macro_f1", "--out", tmp_path / "page.html"
    )
    assert status == 0 and "macro-F1: good is better than bad by " in stdout
    assert "(randomization test)" in stdout


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda run: (run / "test.json").unlink(), "bad is not finished (no test.json): resume it"),
        (lambda run: (run / "predictions.npz").write_bytes(b"PK\x03\x04"), "bad is damaged"),
        (lambda run: (run / "predictions.npz").write_bytes(b""), "bad is damaged"),
        (lambda run: (run / "splits.json").write_text("{"), "splits.json"),
        (
            lambda run: np.savez(run / "predictions.npz", ids=IDS, labels=np.zeros(TOTAL, int)),
            "bad predicts no classes",
        ),
        (
            lambda run: np.savez(
                run / "predictions.npz", ids=IDS, labels=[0], predictions=[0], class_names=CLASSES
            ),
            "bad is damaged (arrays of different lengths)",
        ),
    ],
)
def test_an_unusable_run_is_one_line(pair, tmp_path, call, spoil, text):
    spoil(pair[1])
    status, stdout, stderr = call(compare, *pair, "--out", tmp_path / "page.html")
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert text in stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["{good}"], "name at least two runs"),
        (["{good}", "good"], "good is named twice"),
        (["{good}", "nowhere"], "nowhere does not exist"),
        (["{good}", "{empty}"], "empty contains no finished run"),
        (["{good}", "{bad}", "--out", "page.pdf"], "does not end in .html"),
        (["{good}", "{bad}", "--out", "no/page.html"], "its folder does not exist"),
        (["{good}", "{bad}", "--settings", "0"], "use at least 1"),
    ],
)
def test_wrong_flags_are_one_line(pair, tmp_path, call, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    paths = {"good": pair[0], "bad": pair[1], "empty": tmp_path / "empty"}
    status, _, stderr = call(compare, *(word.format(**paths) for word in words))
    assert (status, stderr.count("\n")) == (2, 1) and text in stderr
    assert not list(tmp_path.glob("*.html"))


def test_overlapping_test_sets_of_one_setting_are_refused(tmp_path):
    for seed, ids in enumerate((IDS[:30], IDS[10:])):
        make_run(tmp_path / f"row/seed{seed}", ids=ids, seed=seed)
    with pytest.raises(sources.InputError, match="overlap, as random splits do"):
        sources.find([tmp_path / "row"])
