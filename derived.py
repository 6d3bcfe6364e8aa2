"""Settings that follow from what a recipe names: those of a published model that training begins with, and the sizes of
finished tokenizers."""

from __future__ import annotations

from .recipe import Recipe, parse
from .train.tokenizers import adopt


def complete(recipe: Recipe) -> Recipe:
    """The recipe with these settings. RecipeError if what it names is not there, or fits nothing."""
    return _with_finished_tokenizers(_with_model_of_init(recipe))


def _with_model_of_init(recipe: Recipe) -> Recipe:
    """By a convention of published models, the recipe with the model's settings of `train.init`."""
    model = recipe.train.model
    # One that was resolved before says all of it, and its model may be gone.
    if (
        recipe.convention is None
        or recipe.train.init is None
        or model.model_fields_set >= type(model).model_fields.keys()
    ):
        return recipe
    from .train.pretrain import initial  # loads torch

    return recipe.model_copy(update={"train": initial.with_model_of_init(recipe.train)})


def _with_finished_tokenizers(recipe: Recipe) -> Recipe:
    """The recipe with the sizes of the finished tokenizers that it names, and their paths absolute."""
    own = recipe.tokenizers
    each = adopt.resolve(own, recipe.tokenizers_needed, recipe.images.size, recipe.class_lists)
    text = adopt.resolve_text(own.text, recipe.modalities, recipe.class_lists) if recipe.has_text else own.text
    if each == own.each and text == own.text:
        return recipe
    data = recipe.model_dump(mode="json")
    data["tokenizers"] |= {"each": each, "text": text.model_dump(mode="json")}
    return parse(data)
