"""The source documents, a file each: what they claim, and the recipes by name.

`DOCUMENTS` is what `python -m train.reproduce` runs, `RECIPES` what `--from-recipe` knows, `recipe_for` says which one
a model gets when none is named.
"""

import dataclasses
import difflib

import zoo
from train.papers import afhq, animals10, cats_dogs, cifar10, pig_faces
from train.recipe import Augmentation, InputError, Optimizer, Plateau, Recipe, Stage, with_values
from train.reproduce.claims import Document

# Digits written by hand lean and move; halving the learning rate settles what a constant one leaves noisy.
DIGITS = Recipe(
    name="digits",
    model="sam_alexnet_tiny",
    model_options=("norm_momentum=0.9", "dropout_rate=0.1"),
    dataset="digits",
    batch_size=32,
    stages=(
        Stage(
            epochs=20,
            optimizer=Optimizer(learning_rate=1e-3),
            plateau=Plateau(factor=0.5, patience=2),
            augment=Augmentation(rotation=10, shift_x=0.08, shift_y=0.08),
        ),
    ),
)
# For models without a document of their own: Keras's Adam.
DEFAULT = dataclasses.replace(
    DIGITS,
    name="default",
    model_options=(),
    stages=(Stage(epochs=10, optimizer=Optimizer(learning_rate=1e-3)),),
)
# The methods of document 4 on digits, which need no download: the stand-ins of its rows.
DIGITS_VADE = with_values(afhq.VADE, {"name": "digits_vade", **afhq.DIGITS_NET})
DIGITS_GMVAE = with_values(afhq.GMVAE, {"name": "digits_gmvae", **afhq.DIGITS_NET})
DIGITS_CAE = with_values(afhq.CAE, {"name": "digits_cae", **afhq.DIGITS_CAE})

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
        DIGITS,
        DIGITS_VADE,
        DIGITS_GMVAE,
        DIGITS_CAE,
        DEFAULT,
    )
}

DOCUMENTS: dict[str, Document] = {
    module.DOCUMENT.name: module.DOCUMENT
    for module in (pig_faces, animals10, cifar10, afhq, cats_dogs)
}

_RECIPE_OF_MODEL = {
    "sam_alexnet": "pig_faces",
    "pig_alexnet": "pig_faces",
    "mobilenet_v2": "animals10",
    "cifar_alexnet_1": "cifar10",
    "cifar_alexnet_2": "cifar10",
    "deconv_alexnet_1": "cifar10",
    "deconv_alexnet_2": "cifar10",
    "deconv_alexnet_1_factored": "cifar10",
    "deconv_alexnet_2_factored": "cifar10",
    "resnet50": "afhq_resnet50",
    "vgg16": "afhq_vgg16",
    "vade": "afhq_vade",
    "gmvae": "afhq_gmvae",
    "conv_autoencoder": "afhq_cae",
    "alexnet": "cats_dogs",
    "sam_alexnet_tiny": "digits",
    "vade_tiny": "digits_vade",
    "gmvae_tiny": "digits_gmvae",
    "conv_autoencoder_tiny": "digits_cae",
}


def get_recipe(name: str) -> Recipe:
    """A recipe by name; InputError offers the nearest ones."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(RECIPES)}"
        raise InputError(f"unknown recipe {name!r}: {hint}")
    return RECIPES[name]


def recipe_for(model: str, *, quick: bool = False) -> Recipe:
    """A model's own recipe, or the default one; `quick` asks for its short form.

    Raises InputError when the model's recipe has no short form, and zoo.InputError when there is no such model.
    """
    name = _RECIPE_OF_MODEL.get(model, "default")
    if quick:
        if f"{name}_quick" not in RECIPES:
            zoo.get_entry(model)  # a misspelt name is reported first
            raise InputError(f"{model} has no quick form: lower --epochs instead")
        name = f"{name}_quick"
    return dataclasses.replace(RECIPES[name], model=model)
