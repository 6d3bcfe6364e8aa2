"""`fourmill scenes`: rendered scenes with exact truth, or a landscape of sensors, as WebDataset shards."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from ..summary import Summary, show

if TYPE_CHECKING:
    from ...pipelines.scenes import shards

ORDER = 15
HELP = "render scenes with exact truth, or a landscape of sensors without photos, into shards"
EXAMPLES = (
    "fourmill scenes --count 2000 --val 200 --out scenes",
    "fourmill scenes --count 10000 --val 1000 --seed 7 --size 224 --clutter cluttered --out s3://bucket/scenes",
    "fourmill scenes --sensors --count 8000 --val 512 --out landscape",
    "fourmill scenes --sensors --parallel --count 8000 --val 512 --out landscape",
)
SIDE, TILE = 96, 64  # pixels, unless --size says others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--count", type=int, required=True, metavar="N", help="training images, or tiles of a landscape"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the shards go: a folder or any fsspec URL")
    numbers = (
        ("--val", 0, "N", "validation images, of other scenes or places"),
        ("--seed", 0, "S", "another seed gives other scenes"),
        ("--shard-size", 1000, "N", "images of a shard"),
    )
    for option, default, metavar, text in numbers:
        parser.add_argument(option, type=int, default=default, metavar=metavar, help=f"{text} (default: {default})")
    text = f"side of an image in pixels (default: {SIDE}, with --sensors {TILE})"
    parser.add_argument("--size", type=int, metavar="PX", help=text)
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    text = "plain (1 or 2 things of four shapes, no patterns, no walls), simple (1 to 3 things), medium (3 to 6), "
    text += "cluttered (8 to 14), or a number of things (default: medium)"
    parser.add_argument("--clutter", metavar="LEVEL", help=text)
    text = "tiles of a landscape without photos: six bands, radar, heights, land cover, NDVI, a spectrum and biomass"
    parser.add_argument("--sensors", action="store_true", help=text)
    text = "with --sensors: tars of its own for each instrument, below DIR/S2, DIR/S1, DIR/DEM and DIR/REST"
    parser.add_argument("--parallel", action="store_true", help=text)


def main(args: argparse.Namespace) -> int:
    from ...infra import storage
    from ...pipelines.scenes import shards
    from .. import machines

    start = time.monotonic()
    out = storage.absolute(args.out)
    counts = {"train": args.count, "val": args.val}
    maker = _maker(args)
    workers = machines.here().cores if args.workers is None else args.workers
    written = shards.write(out, maker, counts, args.shard_size, workers)
    summary = Summary("scenes", made=len(written.made), seconds=time.monotonic() - start)
    summary.existed = sum(map(len, written.shards.values())) - summary.made
    summary.notes.append(f"{args.count} training and {args.val} validation {maker.unit} of {maker.size} px in {out}")
    if args.sensors:
        from ...pipelines.scenes.landscape import tile

        sums = list(written.sums.values())
        summary.notes.append(
            f"biomass: rasters explain at most {tile.explainable(sums):.1%} of its variance; the rest is noise "
            f"({out}/{maker.record})"
        )
        if (heights := tile.explained_heights(sums)) is not None:
            summary.notes.append(
                f"heights: a linear fit on signs in bands and radar explains {heights:.1%} of the variance among places"
            )
    status = show([summary])
    print(f"\nTry next:\n  {next_command(out, args.val, maker)}")
    return status


def _maker(args: argparse.Namespace) -> shards.Maker:
    """What is made. ValueError for options of the other kind."""
    from ...pipelines.scenes.landscape import tile
    from ...pipelines.scenes.sample import Options

    if not args.sensors:
        if args.parallel:
            raise ValueError("--parallel: it goes with --sensors, whose instruments may have tars of their own")
        return Options(args.seed, SIDE if args.size is None else args.size, args.clutter or "medium")
    if args.clutter:
        raise ValueError("--clutter: a landscape has none; leave it out, or --sensors")
    return tile.Options(args.seed, TILE if args.size is None else args.size, args.parallel)


def next_command(out: str, val: int, maker: shards.Maker) -> str:
    """What makes a recipe of the shards."""

    def named(split: str) -> str:
        return " ".join(f"{of}='{out}/{of}/{split}-*.tar'" for of in maker.sets) or f"'{out}/{split}-*.tar'"

    validation = f" --val {named('val')}" if val else ""
    return f"fourmill init --samples {named('train')}{validation} --root out > recipe.yaml"
