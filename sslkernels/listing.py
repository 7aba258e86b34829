# SPDX-License-Identifier: Apache-2.0
"""Lists methods and recipes: ``sslkernels methods``, and the rows of docs/methods.md."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sslkernels.arguments import check_choice
from sslkernels.recipes import MODALITIES, RECIPES, Recipe, all_recipes, find

AFTER_ABSTRACT = "†"


class Row(NamedTuple):
    """A method or recipe in the list."""

    name: str
    paper: str
    arxiv: str
    family: str
    modalities: tuple[str, ...]
    needs: tuple[str, ...]
    data: str
    after_abstract: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Row:
        """A method runs on every modality that has its kind of backbone; a recipe is for one."""
        kinds = [name for name, each in MODALITIES.items() if recipe.method.encoder in each.encoders]
        return cls(
            recipe.name,
            recipe.paper,
            recipe.arxiv,
            recipe.method.family.name,
            tuple(kinds) if recipe.name not in RECIPES else (recipe.modality.name,),
            recipe.needs,
            recipe.data,
            recipe.after_abstract,
        )

    @property
    def marked_paper(self) -> str:
        """The paper, with a dagger where the recipe follows its abstract."""
        return self.paper + (f" {AFTER_ABSTRACT}" if self.after_abstract else "")


def rows(family: str | None = None, modality: str | None = None) -> list[Row]:
    """The rows of all methods and recipes, or of those of a family of ops or for a modality."""
    found = [Row.of(recipe) for recipe in all_recipes()]
    if family is not None:
        check_choice("methods", "--family", family, sorted({row.family for row in found}))
    if modality is not None:
        check_choice("methods", "--modality", modality, list(MODALITIES))
    return [row for row in found if family in (None, row.family) and (modality is None or modality in row.modalities)]


def print_methods(method: str | None, family: str | None, modality: str | None) -> None:
    """Print the list, or one of its entries with the settings that ``--set`` takes."""
    console = Console()
    if method is not None:
        _print_one(find(method, modality), console)
        return
    table = Table(
        caption=f"sslkernels methods METHOD lists the settings of one · {AFTER_ABSTRACT} follows the paper's abstract, "
        "with numbers of our own"
    )
    for name in ("method", "paper", "arXiv", "family", "modalities", "needs"):
        table.add_column(name, no_wrap=name in ("method", "arXiv"))
    for row in rows(family, modality):
        everywhere = len(row.modalities) == len(MODALITIES) > 1
        kinds = "all" if everywhere else ", ".join(row.modalities)
        table.add_row(row.name, escape(row.marked_paper), row.arxiv, row.family, kinds, ", ".join(row.needs) or "–")
    console.print(table)


def _print_one(recipe: Recipe, console: Console) -> None:
    console.print(f"[bold]{recipe.name}[/]: {escape(recipe.paper)}, arXiv {recipe.arxiv}", highlight=False)
    console.print(escape(_purpose(recipe.method)), highlight=False)
    if recipe.term is not None:
        console.print(f"with the term {recipe.term.__name__}: {escape(_purpose(recipe.term))}", highlight=False)
    if recipe.after_abstract:
        console.print("It follows the paper's abstract, and its numbers are ours.", highlight=False)
    small, paper = recipe.numbers(paper=False), recipe.numbers(paper=True)
    table = Table(caption="--set NAME=VALUE changes one; --paper takes the last column")
    for name in ("setting", "default", "small", "paper"):
        table.add_column(name, no_wrap=True)
    settings = recipe.settings
    # Numbers of the run itself come first: those that every recipe has, and others where it has them.
    for name in dict.fromkeys(
        ("epochs", "batch_size", "lr", *(each for each in paper if each not in settings), *settings)
    ):
        default = settings[name].default if name in settings else None
        known = default is not None and default is not inspect.Parameter.empty
        table.add_row(name, str(default) if known else "", *(str(each.get(name, "")) for each in (small, paper)))
    console.print(table)


def _purpose(kind: type) -> str:
    """The first sentence of the docstring, in one line."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
