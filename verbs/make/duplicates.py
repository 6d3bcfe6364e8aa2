"""`fourmill duplicates`: which samples are copies of earlier ones, over the whole set, and a page that shows pairs."""

from __future__ import annotations

import argparse

from .. import arguments
from ..summary import Summary, show

ORDER = 55
HELP = "find copies of images over the whole set, and show them side by side"
EXAMPLES = ("fourmill duplicates recipe.yaml", "fourmill duplicates recipe.yaml --pairs 40 --out pairs.html")

PAIRS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_stage(parser)
    text = f"pairs on the page, the least alike first (default: {PAIRS})"
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=text)
    parser.add_argument("--out", metavar="FILE", help="where the page goes (default: ROOT/duplicates.html)")


def main(args: argparse.Namespace) -> int:
    from ...modalities import DUPLICATE
    from .. import duplicates, pages, stage

    if args.pairs < 1:
        raise ValueError(f"--pairs: got {args.pairs}, expected at least 1")
    pages.check_place(args.out)
    project = arguments.load_project(args)
    output = project.label_outputs.get(f"labels/{DUPLICATE}")
    if output is None:
        raise ValueError(f"the recipe keeps no {DUPLICATE}; add it to labels.keep")
    wanted = project.specialists[DUPLICATE].needs
    labels = {name: one for name, one in project.label_outputs.items() if one.label in wanted}
    compared = stage.process_shards("label", project, labels)
    found: Summary = duplicates.make(project)
    status = show([compared, found])
    print(f"pairs: {duplicates.write_page(project, args.pairs, args.out)}")
    return status
