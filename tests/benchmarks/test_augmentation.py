import pytest

from benchmarks import augmentation
from train.recipe import Augmentation, Recipe, Stage


def test_what_is_timed_is_documents_windows_and_everything():
    asked = augmentation.settings(28)
    assert list(asked) == ["none", "windows, flip", "all"]
    assert asked["none"] == Augmentation()
    assert augmentation.changed(asked["windows, flip"]) == {"resize": 32, "flip": True}
    assert set(augmentation.changed(asked["all"])) >= {"rotation", "zoom", "noise_share", "cutout"}
    Recipe(stages=tuple(Stage(name, augment=a) for name, a in asked.items())).validate()


@pytest.mark.slow
def test_steps_take_turns_and_shares_are_of_the_bare_step(capsys):
    found = augmentation.measure("deconv_alexnet_tiny", 8, rounds=3, seconds=0.01)
    assert {name: len(times) for name, times in found["step_ms"].items()} == {
        "none": 3,
        "windows, flip": 3,
        "all": 3,
    }
    assert set(found["alone_ms"]) == set(found["shares"]) == {"windows, flip", "all"}
    bare = sorted(found["step_ms"]["none"])[1]
    for name, shares in found["shares"].items():
        # Shares are rounded to four digits behind the point, which is a per cent of small ones.
        alone = sorted(found["alone_ms"][name])[1] / bare
        assert shares["alone_share"] == pytest.approx(alone, rel=1e-2, abs=1e-4)
        assert shares["share"] > -1
    augmentation.show({"model": "m", "batch_size": 8, "environment": {"backend": "cpu"}, **found})
    assert "windows, flip" in capsys.readouterr().out


def test_what_cannot_be_timed_meets_one_line(call):
    for flags in (["--rounds", "0"], ["--seconds", "0"], ["--model", "alexnut"]):
        status, _, stderr = call(augmentation, *flags)
        assert status == 2 and stderr.count("\n") == 1
