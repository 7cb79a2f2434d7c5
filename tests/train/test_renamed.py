"""Names of version 0.1 still work in run directories, `best/` folders and flags."""

import pytest

import zoo
from train import flags, run
from train.recipe import ModelOptions, Probe, Recipe, parse_option


def test_a_config_with_old_names_is_the_same_recipe():
    recipe = Recipe(
        drop_last=False,
        feed="cached",
        feature_scaling="standardize",
        probe=Probe(standardize=False),
        model_options=ModelOptions(variant="keras"),
    )
    old = recipe.to_json()
    old["keep_tail"] = not old.pop("drop_last")
    old |= {"feed": "resident", "feature_scaling": "standardise"}
    old["probe"]["standardise"] = old["probe"].pop("standardize")
    old["model_options"] = {"dialect": "keras"}
    assert Recipe.from_json(old) == recipe


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--keep-tail"], ["--no-drop-last"]),
        (["--no-keep-tail"], ["--drop-last"]),
        (["--keep_tail"], ["--no-drop-last"]),
        (["--feed", "resident"], ["--feed", "cached"]),
        (["--feed=stepwise"], ["--feed=streamed"]),
        (["--probe.standardise"], ["--probe.standardize"]),
        (
            ["--feature-scaling", "standardise", "--epochs", "3"],
            ["--feature-scaling", "standardize", "--epochs", "3"],
        ),
    ],
)
def test_old_flags_equal_their_new_names(old, new):
    assert run.parse(old) == run.parse(new)
    assert flags.with_current_names(new) == new


def test_a_value_is_renamed_only_for_its_own_flag():
    words = ["--dataset", "resident", "--name=stepwise"]
    assert flags.with_current_names(words) == words


def test_an_old_model_option_equals_its_new_name():
    assert parse_option("dialect=keras") == ("variant", "keras")
    old, new = (
        zoo.create_model("vgg16", dialect="keras"),
        zoo.create_model("vgg16", variant="keras"),
    )
    assert old == new
