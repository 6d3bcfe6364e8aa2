"""`fourmill init`: print a starter recipe, after a look into the first shard."""

from __future__ import annotations

import argparse

ORDER = 20
HELP = "print a starter recipe, after a look into the first shard"
EXAMPLES = (
    "fourmill init --samples 'data/{00000..00009}.tar' --root out > recipe.yaml",
    "fourmill init --samples s3://bucket/cc12m/ --val s3://bucket/val/ --root s3://bucket/out",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "training shards: URL, brace pattern, glob or folder; may be given several times"
    parser.add_argument("--samples", required=True, action="append", metavar="URL", help=text)
    parser.add_argument("--val", action="append", default=[], metavar="URL", help="validation shards, likewise")
    parser.add_argument("--root", required=True, metavar="URL", help="where outputs go")


def main(args: argparse.Namespace) -> int:
    from .. import starter

    print(starter.recipe_text(args.samples, args.val, args.root), end="")
    return 0
