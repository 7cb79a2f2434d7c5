"""Recipes: validation, JSON, command-line syntax, and the settings of papers."""

import dataclasses
import json
import typing

import numpy as np
import pytest

import zoo
from datasets.pipeline import steps_per_epoch
from train import recipes, run
from train.engine.optimizers import EarlyStopping, ReduceOnPlateau, rate_schedule
from train.recipe import (
    LIMITS,
    Augmentation,
    EarlyStop,
    InputError,
    JobWeights,
    ModelOptions,
    NetFeatures,
    Optimizer,
    Pixels,
    Plateau,
    Probe,
    Recipe,
    RunFeatures,
    Stage,
    differences,
    parse_features,
    with_values,
)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_are_valid_and_survive_json(name):
    recipe = recipes.RECIPES[name]
    recipe.validate()
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_has_a_recipe_with_valid_options(name):
    recipe = recipes.recipe_for(name)
    assert recipe.model == name
    zoo.create_model(name, **recipe.model_options)


@pytest.mark.parametrize(
    ("name", "images", "steps"),
    [
        ("pig_faces", 684, 43),  # 42.75 batches of 16; Keras trains on the smaller last batch
        ("cats_dogs", 7_936, 62),  # 8,005 less the 69 that are held out; the paper states 62 steps
        ("cifar10", 50_000, 2_343),  # "expanded 6 times to 300,000": 2,343.75 batches of 128
        ("afhq_resnet50", 12_904, 806),  # 80% of 16,130 images, 806.5 batches of 16
    ],
)
def test_steps_per_epoch_for_the_papers_image_counts(name, images, steps):
    recipe = recipes.RECIPES[name]
    (stage,) = recipe.stages
    samples = images * stage.augment.crops_per_image
    assert steps_per_epoch(samples, recipe.batch_size, drop_last=recipe.drop_last) == steps


@pytest.mark.parametrize(
    ("improves", "rates"),
    [
        (True, [1e-4] * 100),  # at most 100 epochs
        # x 0.9 after 5 epochs without improvement (the first epoch always improves); early stopping after 15.
        (False, [1e-4] * 6 + [0.9e-4] * 5 + [0.81e-4] * 5),
    ],
)
def test_learning_rate_per_epoch_in_pig_faces(improves, rates):
    (stage,) = recipes.RECIPES["pig_faces"].stages
    plateau, early_stop, scale = ReduceOnPlateau(), EarlyStopping(), 1.0
    found = []
    for epoch in range(stage.epochs):
        found.append(stage.optimizer.learning_rate * scale)
        val_loss = -float(epoch) if improves else 1.0
        scale = plateau.update(val_loss, stage.plateau)
        if early_stop.update(val_loss, stage.early_stop):
            break
    np.testing.assert_allclose(found, rates)


@pytest.mark.parametrize(
    ("name", "steps", "rates"),
    [
        # Keras's decay of 1e-6 per update; 201 full batches of 64 from 12,904 images.
        ("afhq_vgg16", 201, {0: 1e-4, 50: 1e-4 / 1.01005, 100: 1e-4 / 1.0201}),
        # Cosine decay to 0 at the end of epoch 120.
        ("cifar10", 2_343, {0: 1e-3, 60: 5e-4, 120: 0.0}),
    ],
)
def test_learning_rate_schedules_at_epochs(name, steps, rates):
    (stage,) = recipes.RECIPES[name].stages
    schedule = rate_schedule(stage.optimizer, stage.epochs * steps)
    found = [schedule(np.int32(epoch * steps)) for epoch in rates]
    # atol is for the rate 0: float32 rounds cos(pi) + 1.
    np.testing.assert_allclose(found, list(rates.values()), rtol=1e-6, atol=1e-9)


def test_animals10_trains_for_50_epochs_in_total():
    assert sum(stage.epochs for stage in recipes.RECIPES["animals10"].stages) == 50


def test_quick_recipe_differs_only_in_epochs_and_momentum():
    changed = differences(
        recipes.recipe_for("sam_alexnet", quick=True), recipes.recipe_for("sam_alexnet")
    )
    assert [difference.path for difference in changed] == [
        ("name",),
        ("model_options",),
        ("stages", 0, "epochs"),
    ]


def test_user_defined_models_get_the_default_recipe():
    recipe = recipes.recipe_for("my_package.my_file:my_variant")
    assert (recipe.name, recipe.model_options) == ("default", {})


OPTIONS = ("a=0.9", "b=(1, 2)", "c=bfloat16", "d = True", "e=None")
TYPED = ModelOptions(a=0.9, b=(1, 2), c="bfloat16", d=True, e=None)


def test_options_are_parsed_on_the_command_line():
    stage = ["--stages.0.model-options", "f=[1]"]
    recipe = run.parse(["--model-options", *OPTIONS, *stage]).recipe
    assert recipe.model_options == TYPED
    assert recipe.stages[0].model_options == {"f": [1]}
    kept = run.parse(["--from-recipe", "digits", "--epochs", "1"]).recipe.model_options
    assert kept == recipes.RECIPES["digits"].model_options
    assert run.parse(["--from-recipe", "digits", "--model-options"]).recipe.model_options == {}


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("pixels", Pixels()),
        ("resnet50=torchvision", NetFeatures("resnet50", "torchvision")),
        ("runs/a", RunFeatures("runs/a")),
        ("None", None),
    ],
)
def test_features_are_parsed_on_the_command_line(text, features):
    recipe = run.parse(["--model", "vade", "--features", text]).recipe
    assert recipe.features == features
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_an_existing_path_with_an_equals_sign_is_a_run(tmp_path):
    path = tmp_path / "a=b"
    path.mkdir()
    assert parse_features(str(path)) == RunFeatures(str(path))


def test_configs_of_format_1_are_read():
    """Version 0.1 stored options and features as text."""
    stage = {"name": "only", "model_options": ["bottleneck=None"]}
    old = {"model_options": list(OPTIONS), "features": "resnet50=torchvision", "stages": [stage]}
    recipe = Recipe.from_json(old)
    assert recipe.model_options == TYPED
    assert recipe.features == NetFeatures("resnet50", "torchvision")
    assert recipe.stages[0].model_options == {"bottleneck": None}
    assert Recipe.from_json({"features": "runs/a/best"}).features == RunFeatures("runs/a/best")
    with pytest.raises(InputError, match="recipe.model_options must be an object, not 3"):
        Recipe.from_json({"model_options": 3})


def test_weights_of_jobs_survive_json():
    weights = JobWeights("first")
    recipe = Recipe(pretrained=weights, features=RunFeatures(weights))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_values_are_set_by_path():
    recipe = with_values(
        Recipe(stages=(Stage(), Stage("second"))),
        {"stages.*.epochs": 2, "stages.1.optimizer.b1": 0.5, "model_options.width": 0.35},
    )
    assert [s.epochs for s in recipe.stages] == [2, 2]
    assert [s.optimizer.b1 for s in recipe.stages] == [0.9, 0.5]
    assert recipe.model_options == {"width": 0.35}
    assert Recipe().model_options == {}  # the default is not shared


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(batch_size=0), "--batch-size is 0: use at least 1"),
        (Recipe(seed=-1), "--seed is -1"),
        (Recipe(image_size=0), "--image-size is 0"),
        (Recipe(validation_fraction=0.0), "--validation-fraction is 0.0"),
        (Recipe(test_fraction=0.6, validation_fraction=0.5), "leave nothing to train on"),
        (Recipe(group="("), "--group '\\(' is not a valid regular expression: missing"),
        (Recipe(folds=1), "--folds is 1: use 2 or more, or 0 for none"),
        (Recipe(folds=-2), "--folds is -2"),
        (Recipe(fold=2), "--fold is 2: use --folds as well"),
        (Recipe(folds=2, fold=2), "--fold is 2: use 0 to 1"),
        (Recipe(folds=2, fold=-1), "--fold is -1: use 0 to 1"),
        (Recipe(folds=2, splits="splits.json"), "--splits and --folds are mutually exclusive"),
        (Recipe(stages=()), "has no stages"),
        (Recipe(stages=(Stage(epochs=0),)), "--stages.0.epochs is 0: use at least 1"),
        (
            Recipe(stages=(Stage(optimizer=Optimizer(learning_rate=0.0)),)),
            "--stages.0.optimizer.learning-rate is 0.0: use a value above 0",
        ),
        (
            Recipe(stages=(Stage(optimizer=Optimizer(learning_rate=float("nan"))),)),
            "learning-rate is nan",
        ),
        (Recipe(stages=(Stage(optimizer=Optimizer(momentum=1.0)),)), "momentum is 1.0: use at"),
        (Recipe(stages=(Stage(optimizer=Optimizer(accumulate=0)),)), "accumulate is 0: use at"),
        (Recipe(stages=(Stage(optimizer=Optimizer(l2=-1.0)),)), r"optimizer.l2 is -1.0"),
        (
            Recipe(stages=(Stage(optimizer=Optimizer("sgd", nesterov=True)),)),
            "nesterov needs a momentum",
        ),
        (Recipe(stages=(Stage(), Stage("b", ema=1.0))), "--stages.1.ema is 1.0: use at least 0"),
        (Recipe(stages=(Stage(), Stage())), "stages 0 and 1 are both called 'train'.*each its own"),
        (Recipe(stages=(Stage(label_smoothing=1.0),)), "--stages.0.label-smoothing is 1.0"),
    ],
)
def test_invalid_values_are_rejected(recipe, message):
    with pytest.raises(InputError, match=message):
        recipe.validate()


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("resize", (0, -3), "at least 1 pixel"),
        ("crops_per_image", (0,), "at least 1"),
        ("rotation", (-1.0, 181.0, float("nan")), "degrees from 0 to 180"),
        ("shift_x", (-0.1, 1.5), "a fraction from 0 to 1"),
        ("shift_y", (-0.1, 1.5), "a fraction from 0 to 1"),
        ("zoom", (-0.1, 1.0), "a fraction of at least 0 and below 1"),
        ("aspect", (-0.1, float("inf")), "at least 0"),
        ("crop_area", (0.0, 1.1), "a fraction above 0, at most 1"),
        ("brightness", (-0.1, 1.1), "a fraction from 0 to 1"),
        ("contrast", (-0.1, 1.1), "a fraction from 0 to 1"),
        ("noise_share", (-0.05, 5.0), "a fraction from 0 to 1"),
        ("noise_sigma", (-1.0, float("nan")), "gray levels of at least 0"),
        ("cutout", (-0.1, 16.0), "a fraction from 0 to 1"),
        ("cutout_fill", (-1, 256), "a gray level from 0 to 255"),
    ],
)
def test_invalid_augmentation_is_rejected(field, values, message):
    for value in values:
        stages = (Stage(), Stage("second", augment=Augmentation(**{field: value})))
        flag = f"--stages.1.augment.{field.replace('_', '-')} is {value}: use {message}"
        with pytest.raises(InputError, match=flag):
            Recipe(stages=stages).validate()


# Fields whose limits are in `datasets.dataset.Options`.
DATA_OPTIONS = {"split_seed", "validation_fraction", "test_fraction", "folds", "max_bad", "fold"}


@pytest.mark.parametrize(
    "kind", [Recipe, Probe, Stage, Optimizer, Plateau, EarlyStop, Augmentation]
)
def test_every_numeric_field_has_a_limit(kind):
    numeric = {
        name
        for name, hint in typing.get_type_hints(kind).items()
        if {int, float} & {hint, *typing.get_args(hint)}
    }
    assert numeric - DATA_OPTIONS == set(LIMITS[kind])


@pytest.mark.parametrize(
    "data",
    [
        {"modl": "x"},
        {"seed": "1"},
        {"seed": True},
        {"dtype": "float16"},
        {"stages": [{"epochs": 1.5}]},
        [],
    ],
)
def test_a_damaged_config_is_an_input_error(data):
    with pytest.raises(InputError, match="recipe"):
        Recipe.from_json(data)


def test_differences_name_nested_fields():
    first = Recipe(seed=1)
    stage = dataclasses.replace(first.stages[0], optimizer=Optimizer(learning_rate=0.5))
    second = dataclasses.replace(first, seed=2, stages=(stage,))
    assert differences(first, first) == []
    assert [str(difference) for difference in differences(first, second)] == [
        "seed: 1, not 2",
        "stages.0.optimizer.learning_rate: 0.001, not 0.5",
    ]


def test_unknown_names_get_suggestions():
    with pytest.raises(InputError, match="did you mean pig_faces"):
        recipes.get_recipe("pig_face")
    with pytest.raises(InputError, match="alexnet has no quick recipe"):
        recipes.recipe_for("alexnet", quick=True)
    with pytest.raises(zoo.InputError, match="did you mean .*sam_alexnet"):
        recipes.recipe_for("sam_alexnt", quick=True)
