import json

import pytest

from benchmarks import table1
from train.reproduce.papers import pig_faces


def test_defaults_are_the_papers():
    default = table1.Arguments()
    assert (default.train_images, default.validation_images, default.test_images) == (684, 77, 254)
    rows = {(model, batch) for model in default.models for batch in default.batch_sizes}
    names = {key: model for key, (model, _) in pig_faces.MODELS.items()}
    assert rows == {(names[line[0]], line[1]) for line in pig_faces.TABLE_1}


def test_comparisons_match_the_reported_times():
    """With the paper's times, all its comparisons of times hold; with negated times, none does."""

    def rows(sign):
        return [
            {"row": row.name, **{name: sign * row.reported[name] for name in table1.TIMES}}
            for row in pig_faces.PAPER.rows
        ]

    assert [o["holds"] for o in table1.comparisons(rows(1))] == [True] * 5
    assert [o["holds"] for o in table1.comparisons(rows(-1))] == [False] * 5
    assert table1.comparisons(rows(1)[:2]) == []


@pytest.mark.slow
def test_a_test_and_an_epoch_are_timed(tmp_path, call, small_net):
    """With a smaller last batch, on the suite's four devices."""
    out = tmp_path / "table1.json"
    words = ["--models", "small_net", "--batch-sizes", "8", "--train-images", "21"]
    words += ["--validation-images", "4", "--test-images", "10", "--rounds", "2", "--out", out]
    status, text, err = call(table1, *words)
    assert status == 0, err
    record = json.loads(out.read_text())
    [row] = record["results"]
    assert len(row["test_ms"]) == len(row["epoch_ms"]) == 2
    assert row["train_time_ms"] == pytest.approx(100 * row["epoch_time_ms"], abs=0.1)
    assert row["printed"] is None and record["orderings"] == []
    assert record["test_images"] == 10 and "10 test, 21 training" in text
    assert out.with_suffix(".png").exists()


def test_an_epoch_uses_every_image_once(monkeypatch, small_net):
    arguments = table1.Arguments(
        models=("small_net",), train_images=21, validation_images=4, test_images=10
    )
    case = table1.Case("small_net", 8, arguments, {})
    seen = []

    def step(state, batch, clock):
        seen.append(batch["index"].ravel().tolist())
        return state, {}

    monkeypatch.setattr(case, "train_step", step)
    monkeypatch.setattr(case, "_score", lambda split: {})
    case.epoch()
    # Of the 5 images of the last batch, 4 can be split over four devices.
    assert [len(indices) for indices in seen] == [8, 8, 4]
    assert len(set(sum(seen, []))) == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "sam_alexnut"], "unknown model 'sam_alexnut'"),
        (["--models", "conv_autoencoder"], "conv_autoencoder is not a classifier"),
        (["--rounds", "0"], "--rounds is 0: use at least 1"),
        (["--batch-sizes", "700"], "--batch-sizes has 700: use 1 to --train-images (684)"),
        (["--out", "x.txt"], "--out x.txt: use a file that ends in .json"),
    ],
)
def test_bad_flags_are_reported_in_one_line(call, words, message):
    status, out, err = call(table1, *words)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
