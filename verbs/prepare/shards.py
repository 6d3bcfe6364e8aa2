"""`fourmill shards`: a data set in its usual layout, as WebDataset shards with the truth beside each image."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from ..summary import Summary, show

if TYPE_CHECKING:
    from ...pipelines.datasets.shards import Written

ORDER = 17
HELP = "turn COCO, DIODE, NYUv2 or ImageNet in its usual layout into shards with the truth"
EXAMPLES = (
    "fourmill shards coco data/coco --out coco",
    "fourmill shards diode data/diode --split val --out s3://bucket/diode",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("layout", choices=("coco", "diode", "imagenet", "nyuv2"), help="how the folder is laid out")
    parser.add_argument("folder", metavar="DIR", help="the local folder of the data set")
    parser.add_argument("--out", required=True, metavar="URL", help="where the shards go: a folder or any fsspec URL")
    text = "of the data set (default: val2017 of coco, val of diode and imagenet, test of nyuv2)"
    parser.add_argument("--split", default="", metavar="NAME", help=text)
    text = "samples of a shard (default: about a gigabyte at most)"
    parser.add_argument("--shard-size", type=int, default=0, metavar="N", help=text)


def main(args: argparse.Namespace) -> int:
    from ...infra import storage
    from ...pipelines.datasets import shards

    start = time.monotonic()
    out = storage.absolute(args.out)
    folder = str(storage.local_path(args.folder).expanduser())
    written = shards.write(args.layout, folder, out, args.split, args.shard_size)
    summary = Summary("shards", made=written.made, seconds=time.monotonic() - start)
    summary.existed = len(written.shards) - written.made
    summary.rejects.update(written.left_out.values())
    summary.notes += written.notes
    if written.left_out:
        summary.notes.append(f"{len(written.left_out)} samples were left out; {shards.RECORD} says which and why")
    status = show([summary])
    print(f"\nIn the recipe that is evaluated:\n{part_of_recipe(written)}")
    return status


def part_of_recipe(written: Written) -> str:
    """What reads the shards as validation samples, in YAML."""
    import yaml

    pattern = written.shards[0].rpartition("-")[0] + "-*.tar"
    part = {"samples": {"val": [pattern]}, "evaluate": {"truth": written.truth}}
    return yaml.safe_dump(part, sort_keys=False, default_flow_style=None, width=200).rstrip()
