"""`fourmill view`: a static HTML gallery of samples, labels, crops and decoded tokens; or what a model says of a room
that is known."""

from __future__ import annotations

import argparse

from .. import arguments

ORDER = 30
HELP = "write a static HTML gallery of samples, labels, crops and decoded tokens"
EXAMPLES = (
    "fourmill view recipe.yaml",
    "fourmill view recipe.yaml --samples 200 --out gallery.html",
    "fourmill view s3://bucket/out --out gallery.html",
    "fourmill view recipe.yaml --probe normals",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe_or_root(parser)
    text = "how many samples, evenly from all shards (default: 60)"
    parser.add_argument("--samples", type=int, default=60, help=text)
    text = (
        "instead of a gallery: what the recipe's model says of a rendered room whose walls are known, and which frame "
        "or direction the recipe should state"
    )
    parser.add_argument("--probe", choices=("normals", "depth"), help=text)
    text = "the page (default: ROOT/gallery.html, or ROOT/probe-normals.html)"
    parser.add_argument("--out", default=None, metavar="FILE", help=text)


def main(args: argparse.Namespace) -> int:
    from .. import pages

    if not 1 <= args.samples <= 2000:
        raise ValueError(f"--samples: got {args.samples}, expected 1 to 2,000; a page of 300 is about 40 MB")
    if args.probe:
        return _probe(args)
    if root := arguments.root_of(args):
        print(pages.write_stored(root, args.samples, args.out))
    else:
        print(pages.write_gallery(arguments.load_to_look(args), args.samples, args.out))
    return 0


def _probe(args: argparse.Namespace) -> int:
    """Exit status 1 if the recipe should state something else."""
    from .. import pages

    if root := arguments.root_of(args):
        raise ValueError(f"--probe runs a recipe's model: name the recipe in the place of the root {root}")
    probed, url = pages.write_probe(arguments.load_to_look(args), args.probe, args.out)
    for name, measured, true in probed.rows:
        print(f"{name:12} {measured:24} true {true}")
    print(f"{url}\n{probed.sentence}")
    return 0 if probed.agrees else 1
