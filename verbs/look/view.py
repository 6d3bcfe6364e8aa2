"""`fourmill view`: a static HTML gallery of samples, labels, crops and decoded tokens."""

from __future__ import annotations

import argparse

from .. import arguments

ORDER = 30
HELP = "write a static HTML gallery of samples, labels, crops and decoded tokens"
EXAMPLES = (
    "fourmill view recipe.yaml",
    "fourmill view recipe.yaml --samples 200 --out gallery.html",
    "fourmill view s3://bucket/out --out gallery.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe_or_root(parser)
    text = "how many samples, evenly from all shards (default: 60)"
    parser.add_argument("--samples", type=int, default=60, help=text)
    parser.add_argument("--out", default=None, metavar="FILE", help="the page (default: ROOT/gallery.html)")


def main(args: argparse.Namespace) -> int:
    from .. import pages

    if not 1 <= args.samples <= 2000:
        raise ValueError(f"--samples: got {args.samples}, expected 1 to 2,000; a page of 300 is about 40 MB")
    if root := arguments.root_of(args):
        print(pages.write_stored(root, args.samples, args.out))
    else:
        print(pages.write_gallery(arguments.load_to_look(args), args.samples, args.out))
    return 0
