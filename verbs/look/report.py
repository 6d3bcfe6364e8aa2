"""`fourmill report`: the HTML report of a run."""

from __future__ import annotations

import argparse

from .. import arguments

ORDER = 40
HELP = "write the HTML report of a run"
EXAMPLES = ("fourmill report recipe.yaml", "fourmill report recipe.yaml --out report.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe_or_root(parser)
    parser.add_argument("--out", default=None, metavar="FILE", help="the page (default: ROOT/report.html)")


def main(args: argparse.Namespace) -> int:
    from .. import pages

    print(pages.write_report(arguments.load_to_look(args), args.out))
    return 0
