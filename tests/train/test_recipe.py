import dataclasses
import json
import typing

import pytest

import zoo
from train import recipes, run
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
def test_every_model_has_a_recipe_whose_options_it_knows(name):
    recipe = recipes.recipe_for(name)
    assert recipe.model == name
    zoo.create_model(name, **recipe.model_options)


def test_pig_faces_is_stated_in_full():
    """pig_faces: Adam 1e-4, batch 16, at most 100 epochs, rate x 0.9 after 5 epochs; patience 15 is ours."""
    recipe = recipes.recipe_for("sam_alexnet")
    (stage,) = recipe.stages
    assert (recipe.batch_size, recipe.keep_tail, stage.epochs) == (16, True, 100)
    assert stage.optimizer == Optimizer("adam", 1e-4, 0.9, 0.999, 1e-7)
    assert (stage.plateau.factor, stage.plateau.patience, stage.plateau.min_delta) == (0.9, 5, 1e-4)
    assert stage.early_stop.patience == 15
    model = zoo.create_model("sam_alexnet", **recipe.model_options)
    assert (model.dropout_rate, model.norm_momentum) == (0.4, 0.99)


def test_quick_form_differs_in_epochs_and_momentum_only():
    changed = differences(
        recipes.recipe_for("sam_alexnet", quick=True), recipes.recipe_for("sam_alexnet")
    )
    assert [difference.path for difference in changed] == [
        ("name",),
        ("model_options",),
        ("stages", 0, "epochs"),
    ]


def test_cats_dogs_is_stated_in_full():
    """cats_dogs: SGD 0.1, batch 128, rotation 5 degrees, shifts 10 %, horizontal flip, 100 epochs."""
    recipe = recipes.recipe_for("alexnet")
    (stage,) = recipe.stages
    assert (recipe.batch_size, recipe.keep_tail, stage.epochs) == (128, False, 100)
    assert (stage.optimizer.name, stage.optimizer.learning_rate) == ("sgd", 0.1)
    assert stage.augment == Augmentation(rotation=5.0, shift_x=0.1, shift_y=0.1, flip=True)


def test_models_of_ones_own_get_the_default_recipe():
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


def test_an_existing_path_is_no_model_and_source(tmp_path):
    path = tmp_path / "a=b"
    path.mkdir()
    assert parse_features(str(path)) == RunFeatures(str(path))


def test_configs_of_format_1_are_read():
    """Version 0.1 wrote options and features as text."""
    stage = {"name": "only", "model_options": ["bottleneck=None"]}
    old = {"model_options": list(OPTIONS), "features": "resnet50=torchvision", "stages": [stage]}
    recipe = Recipe.from_json(old)
    assert recipe.model_options == TYPED
    assert recipe.features == NetFeatures("resnet50", "torchvision")
    assert recipe.stages[0].model_options == {"bottleneck": None}
    assert Recipe.from_json({"features": "runs/a/best"}).features == RunFeatures("runs/a/best")
    with pytest.raises(InputError, match="recipe.model_options should be an object, not 3"):
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
        (Recipe(batch_size=0), "--batch-size is 0: give at least 1"),
        (Recipe(seed=-1), "--seed is -1"),
        (Recipe(image_size=0), "--image-size is 0"),
        (Recipe(validation_fraction=0.0), "--validation-fraction is 0.0"),
        (Recipe(test_fraction=0.6, validation_fraction=0.5), "leave nothing to train on"),
        (Recipe(group="("), "--group '\\(' is not a valid regular expression: missing"),
        (Recipe(folds=1), "--folds is 1: give 2 or more, or 0 for none"),
        (Recipe(folds=-2), "--folds is -2"),
        (Recipe(fold=2), "--fold is 2: give --folds, too"),
        (Recipe(folds=2, fold=2), "--fold is 2: give 0 to 1"),
        (Recipe(folds=2, fold=-1), "--fold is -1: give 0 to 1"),
        (Recipe(folds=2, splits="splits.json"), "--splits leaves nothing to make --folds of"),
        (Recipe(stages=()), "has no stages"),
        (Recipe(stages=(Stage(epochs=0),)), "--stages.0.epochs is 0: give at least 1"),
        (
            Recipe(stages=(Stage(optimizer=Optimizer(learning_rate=0.0)),)),
            "--stages.0.optimizer.learning-rate is 0.0: give above 0",
        ),
        (
            Recipe(stages=(Stage(optimizer=Optimizer(learning_rate=float("nan"))),)),
            "learning-rate is nan",
        ),
        (Recipe(stages=(Stage(optimizer=Optimizer(momentum=1.0)),)), "momentum is 1.0: give at"),
        (Recipe(stages=(Stage(optimizer=Optimizer(accumulate=0)),)), "accumulate is 0: give at"),
        (Recipe(stages=(Stage(optimizer=Optimizer(l2=-1.0)),)), r"optimizer.l2 is -1.0"),
        (
            Recipe(stages=(Stage(optimizer=Optimizer("sgd", nesterov=True)),)),
            "nesterov needs a momentum",
        ),
        (Recipe(stages=(Stage(), Stage("b", ema=1.0))), "--stages.1.ema is 1.0: give at least 0"),
        (Recipe(stages=(Stage(), Stage())), "stages 0 and 1 are both called 'train'.*each its own"),
        (Recipe(stages=(Stage(label_smoothing=1.0),)), "--stages.0.label-smoothing is 1.0"),
    ],
)
def test_values_that_no_run_can_use(recipe, message):
    with pytest.raises(InputError, match=message):
        recipe.validate()


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("resize", (0, -3), "at least 1 pixel"),
        ("crops_per_image", (0,), "at least 1"),
        ("rotation", (-1.0, 181.0, float("nan")), "degrees from 0 to 180"),
        ("shift_x", (-0.1, 1.5), "a share from 0 to 1"),
        ("shift_y", (-0.1, 1.5), "a share from 0 to 1"),
        ("zoom", (-0.1, 1.0), "a share of at least 0 and below 1"),
        ("aspect", (-0.1, float("inf")), "at least 0"),
        ("crop_area", (0.0, 1.1), "a share above 0, at most 1"),
        ("brightness", (-0.1, 1.1), "a share from 0 to 1"),
        ("contrast", (-0.1, 1.1), "a share from 0 to 1"),
        ("noise_share", (-0.05, 5.0), "a share from 0 to 1"),
        ("noise_sigma", (-1.0, float("nan")), "grey levels of at least 0"),
        ("cutout", (-0.1, 16.0), "a share from 0 to 1"),
        ("cutout_fill", (-1, 256), "a grey level from 0 to 255"),
    ],
)
def test_augmentation_that_no_run_can_use(field, values, message):
    for value in values:
        stages = (Stage(), Stage("second", augment=Augmentation(**{field: value})))
        flag = f"--stages.1.augment.{field.replace('_', '-')} is {value}: give {message}"
        with pytest.raises(InputError, match=flag):
            Recipe(stages=stages).validate()


# Their limits are those of `datasets.dataset.Options`.
OF_DATA = {"split_seed", "validation_fraction", "test_fraction", "folds", "fold"}


@pytest.mark.parametrize(
    "part", [Recipe, Probe, Stage, Optimizer, Plateau, EarlyStop, Augmentation]
)
def test_every_number_has_its_limits(part):
    numbers = {
        name
        for name, hint in typing.get_type_hints(part).items()
        if {int, float} & {hint, *typing.get_args(hint)}
    }
    assert numbers - OF_DATA == set(LIMITS[part])


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
def test_damaged_config_meets_one_line(data):
    with pytest.raises(InputError, match="recipe"):
        Recipe.from_json(data)


def test_differences_name_nested_fields():
    ours = Recipe(seed=1)
    stage = dataclasses.replace(ours.stages[0], optimizer=Optimizer(learning_rate=0.5))
    theirs = dataclasses.replace(ours, seed=2, stages=(stage,))
    assert differences(ours, ours) == []
    assert [str(difference) for difference in differences(ours, theirs)] == [
        "seed: 1, not 2",
        "stages.0.optimizer.learning_rate: 0.001, not 0.5",
    ]


def test_unknown_recipe_offers_the_nearest():
    with pytest.raises(InputError, match="did you mean pig_faces"):
        recipes.get_recipe("pig_face")
    with pytest.raises(InputError, match="alexnet has no quick form"):
        recipes.recipe_for("alexnet", quick=True)
    with pytest.raises(zoo.InputError, match="did you mean .*sam_alexnet"):
        recipes.recipe_for("sam_alexnt", quick=True)
