"""Named recipes: one file per source document, and which recipe a model gets when none is named."""

import dataclasses
import difflib

from train.papers import cats_dogs, pig_faces
from train.recipe import InputError, Optimizer, Recipe, Stage

# For models without a document of their own: small images, Keras's Adam.
DIGITS = Recipe(
    name="digits",
    model="sam_alexnet_tiny",
    model_options=("norm_momentum=0.9",),
    dataset="digits",
    batch_size=32,
    stages=(Stage(epochs=10, optimizer=Optimizer(learning_rate=1e-3)),),
)
DEFAULT = dataclasses.replace(DIGITS, name="default", model_options=())

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        pig_faces.PIG_FACES,
        pig_faces.PIG_FACES_QUICK,
        cats_dogs.CATS_DOGS,
        DIGITS,
        DEFAULT,
    )
}

_RECIPE_OF_MODEL = {
    "sam_alexnet": "pig_faces",
    "pig_alexnet": "pig_faces",
    "alexnet": "cats_dogs",
    "sam_alexnet_tiny": "digits",
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

    Raises InputError when the model's recipe has no short form.
    """
    name = _RECIPE_OF_MODEL.get(model, "default")
    if quick:
        if f"{name}_quick" not in RECIPES:
            raise InputError(f"{model} has no quick form: lower --epochs instead")
        name = f"{name}_quick"
    return dataclasses.replace(RECIPES[name], model=model)
