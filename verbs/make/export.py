"""`fourmill export`: the token store of a root as folders that apple/ml-4m's training reads."""

from __future__ import annotations

import argparse

ORDER = 160
HELP = "write a root's tokens as folders that apple/ml-4m trains on"
EXAMPLES = (
    "fourmill export out --to ml4m --out for-ml-4m",
    "fourmill export s3://bucket/out --to ml4m --out s3://bucket/for-ml-4m --modalities tok_rgb,tok_depth,caption",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="a root with tokens; any URL")
    parser.add_argument("--to", choices=("ml4m",), required=True, help="whose layout is written")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write, new or of an export; any URL")
    text = "these alone, with commas between them (default: all that ml-4m can read)"
    parser.add_argument("--modalities", default=None, metavar="NAMES", help=text)


def main(args: argparse.Namespace) -> int:
    from ...runs.exchange import exporting
    from ..summary import Summary, show

    dest = args.out.rstrip("/")
    asked = exporting.plan(args.root, args.modalities)
    exporting.check_dest(dest, args.root)
    summary, lacking = Summary("export"), 0
    folders: dict[str, None] = {}
    for _, outcome in exporting.write(asked, dest):
        summary.made += not outcome.existed
        summary.existed += outcome.existed
        summary.samples += outcome.samples
        lacking += outcome.lacking
        folders |= dict.fromkeys(outcome.folders)
    if lacking:
        summary.notes.append(
            f"{lacking} samples lack one of the modalities and are left out, as ml-4m cannot read them"
        )
    summary.notes += [f"left out: {one}" for one in asked.left_out]
    summary.notes.append(f"ml-4m's data_path: {dest}/[{','.join(folders)}]/SHARDS.tar")
    return show([summary])
