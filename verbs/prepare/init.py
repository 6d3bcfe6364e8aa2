"""`fourmill init`: print a starter recipe for your shards and machine."""

from __future__ import annotations

import argparse

from .. import arguments

ORDER = 20
HELP = "print a starter recipe for your shards and machine"
EXAMPLES = (
    "fourmill init --samples 'data/{00000..00009}.tar' --root out > recipe.yaml",
    "fourmill init --samples data/*.tar --root out > recipe.yaml",
    "fourmill init --samples data/ --root out --borders bars.jpg > recipe.yaml",
    "fourmill init --samples optical=data/S2/ radar=data/S1/ dem=data/DEM/ --root out > recipe.yaml",
    "fourmill init --samples s3://bucket/cc12m/ --val s3://bucket/val/ --root s3://bucket/out --for h200x8",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = (
        "training shards: URLs, brace patterns, globs or folders; SET=URL where members of a sample lie in several tars"
    )
    parser.add_argument("--samples", required=True, nargs="+", action="extend", metavar="URL", help=text)
    text = "validation shards, likewise"
    parser.add_argument("--val", nargs="+", action="extend", default=[], metavar="URL", help=text)
    parser.add_argument("--root", required=True, metavar="URL", help="where outputs go")
    arguments.add_borders(parser)
    text = "the machine that it will run on, NAMExCOUNT: h200x8 is eight GPUs, cpux16 sixteen cores (default: this one)"
    parser.add_argument("--for", dest="machine", metavar="MACHINE", help=text)


def main(args: argparse.Namespace) -> int:
    from .. import bars, machines, starter

    if args.borders:
        bars.check(args.borders)

    machine = machines.named(args.machine) if args.machine else machines.here()
    print(starter.recipe_text(args.samples, args.val, args.root, machine, args.borders or ""), end="")
    return 0
