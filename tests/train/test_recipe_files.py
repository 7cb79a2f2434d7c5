"""Recipes in TOML and Python files, and their flags."""

import pytest

from train import recipe_files, recipes, run
from train.recipe import InputError, ModelOptions, Recipe, Stage, with_values


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_survive_a_file(name, tmp_path):
    path = tmp_path / "my.toml"
    recipe_files.write(recipes.RECIPES[name], path)
    assert recipe_files.read(path) == recipes.RECIPES[name]


def test_none_and_tuples_in_model_options_survive_a_file(tmp_path):
    options = ModelOptions(a=None, b=(1, (2.0, None)), c="text")
    recipe = Recipe(model_options=options, stages=(Stage(model_options=options),))
    recipe_files.write(recipe, tmp_path / "my.toml")
    assert recipe_files.read(tmp_path / "my.toml") == recipe


def test_what_a_file_leaves_out_has_its_default(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('model = "vade"\nfeatures = "pixels"\n[[stages]]\n[stages.optimizer]\nl2 = 1\n')
    expected = with_values(Recipe(model="vade"), {"stages.0.optimizer.l2": 1.0})
    read = recipe_files.read(path)
    assert read == with_values(expected, {"features": read.features})
    assert isinstance(read.stages[0].optimizer.l2, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_sze = 3", r"my.toml: recipe has an unknown field 'batch_sze': did you mean batch_size"),
        (
            "[[stages]]\n[stages.optimizer]\nrate = 3",
            r"my.toml: recipe.stages\[0\].optimizer has an unknown field 'rate': did you mean",
        ),
        ('batch_size = "32"', r"recipe.batch_size is '32': use a whole number"),
        ("batch_size = true", "recipe.batch_size is True: use a whole number"),
        ("image_size = true", "recipe.image_size is True: use a whole number"),
        ('drop_last = "yes"', "recipe.drop_last is 'yes': use true or false"),
        ('dtype = "half"', "recipe.dtype is 'half': use float32 or bfloat16"),
        ("stages = 3", "recipe.stages is 3: use a list"),
        ("probe = 3", "recipe.probe must be an object, not 3"),
        ("batch_size =", "my.toml is not valid TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_with_file_and_field(text, message, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as at:
        recipe_files.read(path)
    assert str(path) in str(at.value) and "\n" not in str(at.value)


@pytest.mark.parametrize(
    "text",
    ["from train.recipe import Recipe\nrecipe = Recipe(model='vade')", "import train.recipe\n"
     "def recipe():\n    return train.recipe.Recipe(model='vade')"],
)  # fmt: skip
def test_a_python_file_defines_a_recipe(text, tmp_path):
    path = tmp_path / "my.py"
    path.write_text(text)
    assert recipe_files.read(path) == Recipe(model="vade")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nrecipe = 1 / 0", "my.py, line 2: ZeroDivisionError"),
        ("x = (", "my.py, line 1: SyntaxError"),
        ("recipe = 3", "my.py defines no recipe"),
        ("", "my.py defines no recipe"),
        ("import sys; sys.exit(3)", "my.py, line 1: SystemExit: 3"),
    ],
)
def test_a_wrong_python_file_names_the_line(text, message, tmp_path):
    path = tmp_path / "my.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        recipe_files.read(path)


def test_a_saved_recipe_is_used_and_flags_override_it(tmp_path, call):
    path = tmp_path / "my.toml"
    flags = ["--model", "vade_tiny", "--probe.gamma", "0.5"]
    status, out, err = call(run, *flags, "--save-recipe", path)
    assert (status, out) == (0, "") and f"written: {path}" in err
    assert run.parse(["--recipe", str(path)]).recipe == run.parse(flags).recipe
    changed = run.parse(["--recipe", str(path), "--seed", "3", "--model", "gmvae_tiny"]).recipe
    assert (changed.seed, changed.model, changed.probe.gamma) == (3, "gmvae_tiny", 0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "missing.toml"], "missing.toml does not exist"),
        (["--recipe", "my.json"], "neither a .toml nor a .py file"),
        (
            ["--recipe", "my.toml", "--from-recipe", "digits"],
            "--from-recipe and --recipe each name",
        ),
        (["--save-recipe", "my.json"], "does not end in .toml"),
        (["--save-recipe", "nowhere/my.toml"], "its folder does not exist"),
        (["--batch-size", "0", "--save-recipe", "my.toml"], "--batch-size is 0"),
    ],
)
def test_wrong_flags_of_recipe_files(flags, message, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(run, *flags)
    assert status == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
