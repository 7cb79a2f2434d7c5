"""Names, runs and `best/` folders of version 0.1 still work."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import train
import zoo
from train import evaluate, flags, run, setup
from train.recipe import InputError, ModelOptions, Probe, Recipe, Stage, parse_option
from train.record.directory import RunDir


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


def write(path, data):
    path.write_text(json.dumps(data))


def test_an_old_run_keeps_the_published_splits_that_are_pooled_today(tmp_path):
    for dataset, expected in (("afhq", "keep"), ("cats_dogs", "auto"), ("photos.zip", "auto")):
        run_dir = RunDir(tmp_path / dataset)
        run_dir.path.mkdir()
        recipe = Recipe(model="vgg16", dataset=dataset).to_json()
        for version, found in ((2, expected), (3, "auto")):
            write(run_dir.config, {"format": version, "recipe": recipe})
            assert run_dir.read_recipe().published_splits == found


def test_the_options_of_an_old_stage_are_converted(tmp_path):
    """Without the defaults of the whole net, which the recipe's options have."""
    stages = (Stage(name="a", model_options=ModelOptions(norm=False)), Stage(name="b"))
    recipe = Recipe(model="sam_alexnet", stages=stages).to_json()
    write(tmp_path / "config.json", {"format": 2, "recipe": recipe})
    found = RunDir(tmp_path).read_recipe()
    assert found.model_options == {"norm_layers": (1, 2, 3, 4, 5), "attention_norm": True}
    assert [stage.model_options for stage in found.stages] == [
        {"norm_layers": (), "attention_norm": False},
        {},
    ]


def test_an_old_run_is_read_before_jax_starts(tmp_path):
    """JAX must start after `cli.prepare_environment`."""
    write(tmp_path / "config.json", {"format": 2, "recipe": Recipe(model="pig_alexnet").to_json()})
    code = (
        "import sys; from train.record.directory import RunDir;"
        f" print(RunDir({str(tmp_path)!r}).read_recipe().model_options['head_widths']);"
        " assert not {'jax', 'flax', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(4096, 4096)\n"), done.stderr


def test_the_start_settings_of_an_old_run(tmp_path):
    """Options of the net are converted; a damaged file is one line."""
    preprocessing = zoo.Preprocessing(zoo.ResizeRule((64, 64)))
    start = {"preprocessing": preprocessing.to_json(), "options": {"norm": False}, "pretrained": {}}
    run_dir = RunDir(tmp_path)
    write(run_dir.start, start)
    for version, options in (
        (2, {"norm_layers": (), "attention_norm": False}),
        (3, {"norm": False}),
    ):
        write(run_dir.config, {"format": version, "recipe": Recipe().to_json()})
        assert setup._start_settings(run_dir, "sam_alexnet") == (preprocessing, options, {})
    for damaged in (
        {k: v for k, v in start.items() if k != "options"},
        start | {"pretrained": None},
        start | {"preprocessing": {"size": 64}},
    ):
        write(run_dir.start, damaged)
        with pytest.raises(InputError, match=r"start\.json is incomplete \(missing or invalid: "):
            setup._start_settings(run_dir, "sam_alexnet")


@pytest.fixture
def old_run(tmp_path, image_folder):
    """A run of version 0.1 of sam_alexnet_tiny: formats 2 and 1, and an option that has since been replaced."""
    options = {"norm": True, "norm_momentum": 0.5}
    new = zoo.options_of_version_0_1("sam_alexnet_tiny", options)
    recipe = Recipe(
        model="sam_alexnet_tiny",
        dataset=str(image_folder),
        batch_size=16,
        model_options=ModelOptions(new),
        stages=(train.recipe.Stage(epochs=1),),
    )
    workdir = tmp_path / "old"
    run.run(recipe, workdir, figures=False)
    config = json.loads((workdir / "config.json").read_text())
    old = config["recipe"] | {"model_options": options}
    for field in ("score", "normalization", "published_splits"):
        del old[field]
    for field in ("monitor", "batch_size", "all_splits"):
        del old["stages"][0][field]
    write(workdir / "config.json", {"format": 2, "recipe": old})
    best = json.loads((workdir / "best" / "model.json").read_text())
    old_options = {**best["options"], **options}
    for option in ("norm_layers", "attention_norm"):
        del old_options[option]
    write(workdir / "best" / "model.json", best | {"format": 1, "options": old_options})
    return workdir


@pytest.mark.slow
def test_an_old_run_is_evaluated_resumed_and_predicts(old_run, tmp_path, call):
    recipe = RunDir(old_run).read_recipe()
    assert recipe.model_options["norm_layers"] == (1, 2, 3, 4, 5)
    assert (recipe.published_splits, recipe.score) == ("auto", "best")
    before = json.loads((old_run / "test.json").read_text())
    status, out, stderr = call(evaluate, old_run)
    assert status == 0, stderr
    assert json.loads(out)["loss"] == pytest.approx(before["loss"], rel=1e-6)
    moved = shutil.copytree(old_run / "best", tmp_path / "moved")
    logits = train.load_run(moved).logits([np.zeros((64, 64, 3), np.uint8)])
    assert np.isfinite(logits).all()

    status, _, stderr = call(run, "--workdir", old_run, "--epochs", 2)
    assert status == 0, stderr
    assert "resuming after epoch 1" in stderr
    assert "note: this run of version 0.1 keeps its reading of the paper" in stderr
    assert "norm_layers=(1, 2, 3, 4, 5)" in stderr
    assert json.loads((old_run / "config.json").read_text())["format"] == 3
