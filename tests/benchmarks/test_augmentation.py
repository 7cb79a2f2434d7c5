import pytest

from benchmarks import augmentation
from train.recipe import Augmentation, Recipe, Stage


def test_timed_variants():
    variants = augmentation.variants(28)
    assert list(variants) == ["none", "windows, flip", "all"]
    assert variants["none"] == Augmentation()
    assert augmentation.changed(variants["windows, flip"]) == {"resize": 32, "flip": True}
    changed = augmentation.changed(variants["all"])
    assert set(changed) >= {"rotation", "zoom", "noise_share", "cutout"}
    Recipe(stages=tuple(Stage(name, augment=a) for name, a in variants.items())).validate()


@pytest.mark.slow
def test_overhead_is_relative_to_the_step_without_augmentation(small_net, capsys):
    found = augmentation.measure("small_net", 8, rounds=3, seconds=0.01)
    assert {name: len(times) for name, times in found["step_ms"].items()} == {
        "none": 3,
        "windows, flip": 3,
        "all": 3,
    }
    assert set(found["alone_ms"]) == set(found["shares"]) == {"windows, flip", "all"}
    bare = sorted(found["step_ms"]["none"])[1]
    for name, shares in found["shares"].items():
        # Rounding to four decimals changes small values by up to a percent.
        alone = sorted(found["alone_ms"][name])[1] / bare
        assert shares["alone_share"] == pytest.approx(alone, rel=1e-2, abs=1e-4)
        assert shares["share"] > -1
    augmentation.show({"model": "m", "batch_size": 8, "environment": {"backend": "cpu"}, **found})
    assert "windows, flip" in capsys.readouterr().out


def test_bad_flags_are_reported_in_one_line(call):
    for flags in (["--rounds", "0"], ["--seconds", "0"], ["--model", "alexnut"]):
        status, _, stderr = call(augmentation, *flags)
        assert status == 2 and stderr.count("\n") == 1
