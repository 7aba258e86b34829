# SPDX-License-Identifier: Apache-2.0
"""Modalities and recipes: a file for each modality, tables to read.

A file ``recipes/NAME.py`` has ``MODALITY``, what a run on such samples takes, and ``RECIPES``, papers that change the
data, the views, the numbers, or add a known part to a method. A method's own name is a recipe too: the plain one, or
one of these, for a method that the usual data does not suit.
"""

from __future__ import annotations

from collections.abc import Iterator

from sslkernels import methods
from sslkernels.arguments import came
from sslkernels.discovery import modules_of
from sslkernels.methods import METHODS
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.recipe import Recipe

_MODULES, BROKEN = modules_of(__name__, __path__)

MODALITIES = {name: module.MODALITY for name, module in _MODULES.items() if hasattr(module, "MODALITY")}
RECIPES = {recipe.name: recipe for module in _MODULES.values() for recipe in getattr(module, "RECIPES", ())}


def available() -> list[str]:
    """Names of methods and recipes, as ``sslkernels train`` takes them.

    >>> import sslkernels.recipes
    >>> {"byol", "direct_pred"} <= set(sslkernels.recipes.available())
    True
    """
    return sorted({*METHODS, *RECIPES})


def find(name: object, modality: str | None = None) -> Recipe:
    """Find the recipe ``name``. Where none has a method's own name, it is the plain recipe, on samples of ``modality``
    (default: images).

    Raises:
        ValueError: there is no such name, its file cannot be imported, or it is made for another modality.
    """
    for package, broken in (("methods", methods.BROKEN), ("recipes", BROKEN)):
        if isinstance(name, str) and name in broken:
            raise ValueError(f"train: {package}/{name}.py cannot be imported ({broken[name]}); repair the file.")
    if not isinstance(name, str) or name not in available():
        raise ValueError(f"train: method is {came(name)}; accepted are {', '.join(available())}.")
    if name in RECIPES:
        recipe = RECIPES[name]
        if modality is not None and modality != recipe.modality.name:
            raise ValueError(
                f"train: {name} is a recipe for {recipe.modality.name} and --data has {modality}; pass other --data, "
                f"or leave it out for {recipe.data}."
            )
        return recipe
    kind = modality or "images"
    if kind not in MODALITIES:
        raise ValueError(
            f"train: recipes/{kind}.py cannot be imported ({BROKEN.get(kind, 'it is missing')}); repair it."
        )
    return Recipe.plain(name, METHODS[name], MODALITIES[kind])


def all_recipes() -> Iterator[Recipe]:
    """Every method as its plain recipe, each followed by the recipes that are made of it, the oldest paper first."""
    for name, method in sorted(METHODS.items(), key=lambda entry: entry[1].arxiv):
        kinds = [each for each in MODALITIES.values() if method.encoder in each.encoders]
        first = MODALITIES["images"] if MODALITIES["images"] in kinds else kinds[0]
        yield RECIPES.get(name) or Recipe.plain(name, method, first)
        yield from (recipe for recipe in RECIPES.values() if recipe.method is method and recipe.name != name)


__all__ = ["MODALITIES", "RECIPES", "Encoder", "Modality", "Recipe", "all_recipes", "available", "find"]
