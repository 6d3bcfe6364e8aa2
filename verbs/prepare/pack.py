"""`fourmill pack`: rasters, arrays and tables of one's own, cut into tiles of all layers, as WebDataset shards."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...modalities import height_width, size_text
from .. import arguments
from ..summary import Summary, console, show, text

if TYPE_CHECKING:
    from ...pipelines.packing.pack import Packed
    from ...pipelines.packing.plan import Plan
    from ...pipelines.packing.settings import Pack

ORDER = 19
HELP = "cut rasters, arrays and tables of your own into aligned tiles, as shards, split by place"
EXAMPLES = (
    "fourmill pack pack.yaml --plan",
    "fourmill pack pack.yaml",
    "fourmill pack pack.yaml --set size=96 --set split.val=0.2 --set out=s3://bucket/tiles",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "a YAML file: out, layers and their files, see docs/prepare/pack.md"
    parser.add_argument("description", metavar="DESCRIPTION", help=text)
    arguments.add_set(parser)
    parser.add_argument("--plan", action="store_true", help="look at the files, say what would be made, and stop")


def main(args: argparse.Namespace) -> int:
    from ...infra import configuration
    from ...pipelines.packing import pack as packing
    from ...pipelines.packing.packed import PART

    start = time.monotonic()
    data = configuration.load(Path(args.description), args.set, "write one as docs/prepare/pack.md shows")
    pack = packing.at(packing.check(data, args.description))
    if args.plan:
        plan, _ = packing.planned(pack)
        for line in described(pack, plan):
            print(text(line).plain)
        return 0
    packed = packing.make(pack)
    summary = _summary(pack, packed)
    summary.seconds = time.monotonic() - start
    status = show([summary])
    out = console(120)
    if packed.tiles:
        reads = f"\nA recipe reads them with `include: {pack.out}/{PART}`, or begins with:"
        out.print(text(f"{reads}\n  {_next(pack, packed)}"), soft_wrap=True)
    return status if packed.tiles else 1


def described(pack: Pack, plan: Plan) -> Iterator[str]:
    """What would be made, in lines."""
    tiles = f"{plan.tiles:,} tiles of {size_text(pack.size)} px"
    yield f"{len(plan.areas)} areas of {pack.reference}, {tiles}, in {pack.out}"
    for name, side in plan.sides.items():
        files = {info.url for area in plan.areas for info in area.files[name]}
        covered = sum(bool(area.files[name]) for area in plan.areas)
        pixels = " x ".join(map(str, height_width(side)))
        yield f"  {name}: {pixels} px a tile, {len(files)} files, of {covered} of {len(plan.areas)} areas"
    for split in ("train", "val", "test"):
        shards = [tiles for name, tiles in plan.shards.items() if name.startswith(split)]
        if shards:
            yield f"  {split}: {sum(map(len, shards)):,} tiles in {len(shards)} shards, those without values included"
    for reason, count in plan.left_out.items():
        yield f"  left out: {count:,} tiles, {reason}"
    yield from (f"  {note}" for note in plan.notes)


def _summary(pack: Pack, packed: Packed) -> Summary:
    summary = Summary("pack", packed.made, len(packed.stats) - packed.made, samples=packed.tiles)
    summary.missing = {f"shard {name}": why for name, why in packed.failures.items()}
    for split in ("train", "val", "test"):
        count = sum(one.tiles for name, one in packed.stats.items() if name.startswith(split))
        if count:
            summary.notes.append(f"{count:,} tiles of {split}")
    lost = packed.total("left_out")
    lost.update(packed.plan.left_out)
    summary.notes += [f"left out: {count:,} tiles, {reason}" for reason, count in lost.most_common()]
    absent = {
        name: count for name, count in packed.total("absent").items() if name.partition(":")[0] not in pack.needed
    }
    summary.notes += [f"{count:,} tiles lack {reason}" for reason, count in absent.items()]
    summary.notes += packed.plan.notes
    return summary


def _next(pack: Pack, packed: Packed) -> str:
    """What makes a recipe of the shards."""
    val = any(name.startswith("val") and one.tiles for name, one in packed.stats.items())
    given = f" --val '{pack.out}/val-*.tar'" if val else ""
    return f"fourmill init --samples '{pack.out}/train-*.tar'{given} --root out > recipe.yaml"
