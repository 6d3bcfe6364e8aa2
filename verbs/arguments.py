"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..project import Project
    from ..recipe import Recipe


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """RECIPE and --set."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file; `fourmill init` writes one")
    add_set(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """--set, of verbs that take a recipe."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a field, e.g. train.steps=100"
    )


def add_stage(parser: argparse.ArgumentParser) -> None:
    """RECIPE, --set and --update, of verbs that make a recipe's outputs."""
    add_recipe(parser)
    add_update(parser)


def add_update(parser: argparse.ArgumentParser) -> None:
    text = "also make again what older versions of specialists, codecs or fits have made (`status` says what and why)"
    parser.add_argument("--update", action="store_true", help=text)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    text = "the checkpoint of this step (default: the finished model, or the newest checkpoint of a run in progress)"
    parser.add_argument("--checkpoint", type=int, default=None, metavar="STEP", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def is_recipe(place: str) -> bool:
    """Whether what a verb is given is a recipe, rather than the folder of a run or a model's name."""
    return place.endswith((".yaml", ".yml")) or Path(place).is_file()


def load_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of `add_recipe`, with its overrides. RecipeError for a mistake in either."""
    from .. import recipe

    return recipe.load(args.recipe, args.set)


def load_project(args: argparse.Namespace) -> Project:
    """The same recipe, resolved. RecipeError if it cannot be run."""
    from ..project import Project

    return Project(load_recipe(args), getattr(args, "update", False), getattr(args, "checkpoint", None))
