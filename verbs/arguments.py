"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..project import Project
    from ..recipe import Recipe

DEEPEST = 4  # ROOT/runs/NAME/FINGERPRINT/model lies so many folders below its root


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


def add_address(parser: argparse.ArgumentParser) -> None:
    text = "the dashboard of the cluster's head, http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS)"
    parser.add_argument("--address", metavar="URL", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_borders(parser: argparse.ArgumentParser) -> None:
    text = "write a picture of images that have bars of one colour, a line around what images.trim_borders leaves"
    parser.add_argument("--borders", metavar="FILE", help=text)


def add_recipe_or_root(parser: argparse.ArgumentParser) -> None:
    """RECIPE|ROOT, --set and --trust, of verbs that look."""
    text = "a YAML file, or the folder of a root, of which no code is run"
    parser.add_argument("recipe", metavar="RECIPE|ROOT", help=text)
    add_set(parser)
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    text = "run the code that the recipe of a root or run asks for (`modules`); otherwise none of it is run"
    parser.add_argument("--trust", action="store_true", help=text)


def is_recipe(place: str) -> bool:
    """Whether what a verb is given is a recipe, rather than the folder of a run or a model's name."""
    return place.endswith((".yaml", ".yml")) or Path(place).is_file()


def load_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of `add_recipe`, with its overrides. RecipeError for a mistake in either."""
    from .. import recipe

    return recipe.load(args.recipe, args.set)


def root_of(args: argparse.Namespace) -> str | None:
    """The root that `add_recipe_or_root` was given, None for a recipe."""
    from ..infra import storage

    place = storage.absolute(args.recipe).rstrip("/")
    if is_recipe(args.recipe) or not storage.list_names(place):
        return None
    if args.set:
        raise ValueError("--set changes a recipe; name the recipe in the place of the root")
    if args.trust:
        trust(place)
    return place


def trust(place: str) -> None:
    """Run the code that the recipe of a root or run asks for.

    Args:
        place: the recipe, or a folder that holds it or lies up to four folders below.
    """
    from .. import recipe
    from ..infra import configuration, storage
    from ..modalities import import_modules

    folder = storage.absolute(place).rstrip("/")
    if not folder.endswith((".yaml", ".yml")):
        folders = [folder]
        while len(folders) <= DEEPEST and posixpath.dirname(folders[-1]) not in ("", folders[-1]):
            folders.append(posixpath.dirname(folders[-1]))
        found = (storage.join(one, "recipe.yaml") for one in folders)
        folder = next((url for url in found if storage.exists(url)), "")
    if folder:
        code = recipe.code_of(configuration.parse_yaml(storage.read_bytes(folder)))
        import_modules(dict.fromkeys(name.partition(":")[0] for name in code))


def load_to_look(args: argparse.Namespace) -> Project:
    """What `add_recipe_or_root` names, resolved. A recipe that lies in a root is that root's, and may be anybody's.

    RecipeError if it cannot be run, or asks for code of its own, which is not run.
    """
    from .. import recipe
    from ..infra import configuration, storage
    from ..project import Project

    root = root_of(args)
    path = storage.join(root, "recipe.yaml") if root else storage.absolute(args.recipe)
    lies_in_root = bool(storage.list_names(storage.join(posixpath.dirname(path), "ledger")))
    if not lies_in_root or not storage.exists(path):
        return load_project(args)
    if args.trust:
        trust(path)
    data = configuration.parse_yaml(storage.read_bytes(path))
    if code := recipe.code_of(data):
        raise recipe.RecipeError(
            f"{path}: it lies in a root, and asks for code of its own ({', '.join(code)}), which is not run; name your "
            f"own recipe, or say --trust. `fourmill view {posixpath.dirname(path)}` shows what is stored"
        )
    return Project(recipe.parse(data | {"root": root}, path)) if root else load_project(args)


def load_project(args: argparse.Namespace) -> Project:
    """The same recipe, resolved. RecipeError if it cannot be run."""
    from ..project import Project

    return Project(load_recipe(args), getattr(args, "update", False), getattr(args, "checkpoint", None))
