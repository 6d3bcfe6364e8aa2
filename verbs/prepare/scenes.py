"""`fourmill scenes`: rendered scenes with exact truth, as WebDataset shards."""

from __future__ import annotations

import argparse
import time

from ..summary import Summary, show

ORDER = 15
HELP = "render scenes with exact depth, normals, classes, boxes and captions into shards"
EXAMPLES = (
    "fourmill scenes --count 2000 --val 200 --out scenes",
    "fourmill scenes --count 10000 --val 1000 --seed 7 --size 224 --clutter cluttered --out s3://bucket/scenes",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, required=True, metavar="N", help="training images")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the shards go: a folder or any fsspec URL")
    numbers = (
        ("--val", 0, "N", "validation images, of other scenes"),
        ("--seed", 0, "S", "another seed gives other scenes"),
        ("--size", 96, "PX", "side of an image in pixels"),
        ("--shard-size", 1000, "N", "images of a shard"),
    )
    for option, default, metavar, text in numbers:
        parser.add_argument(option, type=int, default=default, metavar=metavar, help=f"{text} (default: {default})")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    text = "plain (1 or 2 things of four shapes, no patterns, no walls), simple (1 to 3 things), medium (3 to 6), "
    text += "cluttered (8 to 14), or a number of things (default: medium)"
    parser.add_argument("--clutter", default="medium", metavar="LEVEL", help=text)


def main(args: argparse.Namespace) -> int:
    from ...infra import storage
    from ...pipelines.scenes import shards
    from ...pipelines.scenes.sample import Options
    from .. import machines

    start = time.monotonic()
    out = storage.absolute(args.out)
    counts = {"train": args.count, "val": args.val}
    options = Options(args.seed, args.size, args.clutter)
    workers = machines.here().cores if args.workers is None else args.workers
    written = shards.write(out, options, counts, args.shard_size, workers)
    summary = Summary("scenes", made=len(written.made), seconds=time.monotonic() - start)
    summary.existed = sum(map(len, written.shards.values())) - summary.made
    summary.notes.append(f"{args.count} training and {args.val} validation images of {args.size} px in {out}")
    status = show([summary])
    print(f"\nTry next:\n  {next_command(out, args.val)}")
    return status


def next_command(out: str, val: int) -> str:
    """What makes a recipe of the shards."""
    validation = f" --val '{out}/val-*.tar'" if val else ""
    return f"fourmill init --samples '{out}/train-*.tar'{validation} --root out > recipe.yaml"
