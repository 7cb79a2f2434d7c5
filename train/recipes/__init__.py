"""Named recipes: one file per paper, and `proxy_data.py` for proxy data and the default.

`RECIPES` lists the names that `--from-recipe` accepts; `recipe_for` returns the recipe of a model if none is named.
Imports only the standard library.
"""

import dataclasses

import zoo
from train.recipe import InputError, Recipe
from train.recipes import afhq, animals10, cats_dogs, cifar10, pig_faces, proxy_data
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
        proxy_data.DIGITS,
        proxy_data.DIGITS_VADE,
        proxy_data.DIGITS_GMVAE,
        proxy_data.DIGITS_CAE,
        proxy_data.DEFAULT,
    )
}
DEFAULT = proxy_data.DEFAULT

# A line to print when a run starts, by recipe name.
NOTES: dict[str, str] = {pig_faces.PIG_FACES_QUICK.name: pig_faces.QUICK_NOTE}

_QUICK_RECIPES = {pig_faces.PIG_FACES.name: pig_faces.PIG_FACES_QUICK}

_BY_MODEL = {
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
    "sam_alexnet_tiny": proxy_data.DIGITS,
    "vade_tiny": proxy_data.DIGITS_VADE,
    "gmvae_tiny": proxy_data.DIGITS_GMVAE,
    "conv_autoencoder_tiny": proxy_data.DIGITS_CAE,
}


def get_recipe(name: str) -> Recipe:
    """Return a recipe by name. Raises InputError with the closest names if there is none."""
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES, f"choose from {', '.join(RECIPES)}")
        raise InputError(f"unknown recipe {name!r}: {hint}")
    return RECIPES[name]


def quick_recipe(name: str) -> Recipe | None:
    """Return the quick variant of a recipe, with few epochs; None if there is none."""
    return _QUICK_RECIPES.get(name)


def recipe_for(model: str, *, quick: bool = False) -> Recipe:
    """Return a model's own recipe, or the default (also for a model from another package, `package.module:name`).

    With `quick`, returns its quick variant. Raises InputError if there is no quick variant, or no such model.
    """
    recipe = _BY_MODEL.get(model, DEFAULT)
    if quick:
        quick_variant = quick_recipe(recipe.name)
        if quick_variant is None:
            zoo.get_entry(model)  # report a misspelled name first
            raise InputError(f"{model} has no quick recipe: lower --epochs instead")
        recipe = quick_variant
    return dataclasses.replace(recipe, model=model)
