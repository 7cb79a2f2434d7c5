"""Settings by name: those of papers, one file each, and ours.

`RECIPES` is what `--from-recipe` accepts, `recipe_for` the recipe of a model when none is named. Imports the standard
library only.
"""

import dataclasses

import zoo
from train.recipe import InputError, Recipe
from train.recipes import afhq, animals10, cats_dogs, cifar10, ours, pig_faces
from zoo.common.names import did_you_mean

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        pig_faces.PIG_FACES,
        pig_faces.PIG_FACES_QUICK,
        animals10.ANIMALS10,
        cifar10.CIFAR10,
        afhq.RESNET,
        afhq.VGG,
        afhq.VADE,
        afhq.GMVAE,
        afhq.CAE,
        cats_dogs.CATS_DOGS,
        ours.DIGITS,
        ours.DIGITS_VADE,
        ours.DIGITS_GMVAE,
        ours.DIGITS_CAE,
        ours.DEFAULT,
    )
}
DEFAULT = ours.DEFAULT

# By a recipe's name: what the user should know about it when a run starts, in a line.
NOTES: dict[str, str] = {pig_faces.PIG_FACES_QUICK.name: pig_faces.QUICK_NOTE}

_QUICK_FORMS = {pig_faces.PIG_FACES.name: pig_faces.PIG_FACES_QUICK}

_OF_MODEL = {
    "sam_alexnet": pig_faces.PIG_FACES,
    "pig_alexnet": pig_faces.PIG_FACES,
    "mobilenet_v2": animals10.ANIMALS10,
    "cifar_alexnet_1": cifar10.CIFAR10,
    "cifar_alexnet_2": cifar10.CIFAR10,
    "deconv_alexnet_1": cifar10.CIFAR10,
    "deconv_alexnet_2": cifar10.CIFAR10,
    "deconv_alexnet_1_factored": cifar10.CIFAR10,
    "deconv_alexnet_2_factored": cifar10.CIFAR10,
    "resnet50": afhq.RESNET,
    "vgg16": afhq.VGG,
    "vade": afhq.VADE,
    "gmvae": afhq.GMVAE,
    "conv_autoencoder": afhq.CAE,
    "alexnet": cats_dogs.CATS_DOGS,
    "sam_alexnet_tiny": ours.DIGITS,
    "vade_tiny": ours.DIGITS_VADE,
    "gmvae_tiny": ours.DIGITS_GMVAE,
    "conv_autoencoder_tiny": ours.DIGITS_CAE,
}


def get_recipe(name: str) -> Recipe:
    """Return a recipe by name; InputError offers the nearest ones."""
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES, f"there are: {', '.join(RECIPES)}")
        raise InputError(f"unknown recipe {name!r}: {hint}")
    return RECIPES[name]


def quick_form(name: str) -> Recipe | None:
    """Return the short form of a recipe, for a first look; None where it has none."""
    return _QUICK_FORMS.get(name)


def recipe_for(model: str, *, quick: bool = False) -> Recipe:
    """Return a model's own recipe, or the default one (also for a model of another package, `package.module:name`).

    With `quick`, its short form. Raises InputError when there is none, or no such model.
    """
    recipe = _OF_MODEL.get(model, DEFAULT)
    if quick:
        short = quick_form(recipe.name)
        if short is None:
            zoo.get_entry(model)  # a misspelled name is reported first
            raise InputError(f"{model} has no quick form: lower --epochs instead")
        recipe = short
    return dataclasses.replace(recipe, model=model)
