"""`fourmill prune`: what a root holds that no recipe of it asks for."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .. import arguments, summary

if TYPE_CHECKING:
    from ...project import Project

ORDER = 130
HELP = "name columns, labels, tokenizers and runs that no recipe asks for, and delete them on demand"
EXAMPLES = (
    "fourmill prune out",
    "fourmill prune out --recipe other.yaml",
    "fourmill prune out --delete",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="a root; what the recipe in it asks for is kept")
    text = "another recipe of this root, of which all that it asks for is kept as well; may be given several times"
    parser.add_argument("--recipe", action="append", default=[], metavar="FILE", help=text)
    parser.add_argument("--delete", action="store_true", help="delete what is named")
    arguments.add_trust(parser)
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    from ...report import prune

    projects = projects_of(args)
    unasked = prune.unasked(projects)
    if args.delete:
        for one in unasked.found:
            prune.delete(projects[0].root, one)
    return show(projects[0].root, unasked, args.delete, args.json)


def projects_of(args: argparse.Namespace) -> list[Project]:
    """The recipes of the root: its own, and those that are given.

    ValueError if there is none in the root; RecipeError if it asks for code, which is not run.
    """
    from ... import recipe
    from ...infra import storage
    from ...project import Project

    root = storage.absolute(args.root).rstrip("/")
    if not storage.exists(storage.join(root, "recipe.yaml")):
        raise ValueError(f"{args.root}: there is no recipe.yaml in it, and nothing says what it should hold")
    look = argparse.Namespace(recipe=args.root, set=[], trust=args.trust)
    projects = [arguments.load_to_look(look)]
    for path in args.recipe:
        given = recipe.load(path, [f"root={json.dumps(root)}"])
        projects.append(Project(given))
    return projects


def show(root: str, unasked: Any, deleted: bool, as_json: bool) -> int:
    """Print what was found. Returns 0."""
    if as_json:
        rows = [{"what": one.what, "why": one.why, "files": one.files, "bytes": one.bytes} for one in unasked.found]
        print(json.dumps({"root": root, "unasked": rows, "notes": unasked.notes, "deleted": deleted}, indent=1))
        return 0
    from rich.table import Table

    console = summary.console(120)
    if unasked.found:
        title = "deleted" if deleted else "no recipe asks for these; --delete deletes them"
        table = Table(title=summary.text(f"{root}: {title}"), title_justify="left")
        for column in ("what", "files", "bytes", "why"):
            table.add_column(column, justify="right" if column in ("files", "bytes") else "left", overflow="fold")
        for one in unasked.found:
            table.add_row(summary.text(one.what), f"{one.files:,}", f"{one.bytes:,}", summary.text(one.why))
        console.print(table)
    total = sum(one.bytes for one in unasked.found)
    console.print(
        f"{len(unasked.found)} things, {total:,} bytes" if unasked.found else "all that is there is asked for"
    )
    for note in unasked.notes:
        console.print(summary.text(note))
    return 0
