"""`fourmill export`: the token store of a root in the formats of other programs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...runs.exchange.tables.selected import Selected

ORDER = 160
HELP = "write a root's tokens and labels for other programs: Lance, Hugging Face, WebDataset, apple/ml-4m"
EXAMPLES = (
    "fourmill export out --to hf --out for-the-hub",
    "fourmill export out --to lance --out tokens --columns tok_rgb,caption,labels/depth",
    "fourmill export out --to hf --out curated --select 'aesthetic > 5 and not duplicate'",
    "fourmill export s3://bucket/out --to webdataset --out s3://bucket/tars --licence CC-BY-4.0",
    "fourmill export out --to ml4m --out for-ml-4m --modalities tok_rgb,tok_depth,caption",
)
ML4M = "ml4m"
FORMATS = ("lance", "hf", "webdataset", ML4M)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="a root with tokens; any URL")
    parser.add_argument("--to", choices=FORMATS, required=True, help="the format")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write, new or of an export; any URL")
    text = "these alone, with commas between them: tok_rgb, labels/depth (default: all columns of tokens)"
    parser.add_argument("--columns", default=None, metavar="NAMES", help=text)
    text = "the licence of the images, for the card (default: what the JSON of the samples states)"
    parser.add_argument("--licence", default="", metavar="NAME", help=text)
    text = "export samples of these alone: an expression, in place of the recipe's train.select; implies --selected"
    parser.add_argument("--select", default=None, metavar="EXPRESSION", help=text)
    text = (
        "of training shards export what train.select selects, and no column `selected` (default: all, with the column)"
    )
    parser.add_argument("--selected", action="store_true", help=text)
    text = "with --to ml4m: these alone, with commas between them (default: all that ml-4m can read)"
    parser.add_argument("--modalities", default=None, metavar="NAMES", help=text)


def main(args: argparse.Namespace) -> int:
    if args.to == ML4M:
        if args.columns is not None or args.licence:
            raise ValueError("--columns and --licence are of the other formats; --modalities chooses for ml-4m")
        return _for_ml4m(args)
    if args.modalities is not None:
        raise ValueError("--modalities is of --to ml4m; --columns chooses columns and labels")
    return _as_tables(args)


def _as_tables(args: argparse.Namespace) -> int:
    from ...runs.exchange.tables import datasets
    from ..summary import Summary, show

    dest = args.out.rstrip("/")
    only = args.selected or args.select is not None
    asked = datasets.plan(args.root, args.to, args.columns, args.licence, args.select, only)
    datasets.check_dest(dest, args.root)
    summary = Summary("export")
    for _, written in datasets.write(asked, dest):
        summary.made += not written.existed
        summary.existed += written.existed
        summary.samples += written.rows
    summary.notes += _said(asked.selected)
    summary.notes += [f"left out: {one}" for one in asked.left_out]
    summary.notes += [f"to be known before use, {name}: {'; '.join(why)}" for name, why in asked.restrictions.items()]
    summary.notes.append(f"{summary.samples:,} samples; the card is {dest}/README.md")
    return show([summary])


def _for_ml4m(args: argparse.Namespace) -> int:
    from ...runs.exchange import exporting
    from ..summary import Summary, show

    dest = args.out.rstrip("/")
    asked = exporting.plan(args.root, args.modalities, args.select, args.selected or args.select is not None)
    exporting.check_dest(dest, args.root)
    summary, lacking = Summary("export"), 0
    folders: dict[str, None] = {}
    for _, outcome in exporting.write(asked, dest):
        summary.made += not outcome.existed
        summary.existed += outcome.existed
        summary.samples += outcome.samples
        lacking += outcome.lacking
        folders |= dict.fromkeys(outcome.folders)
    summary.notes += _said(asked.selected)
    if lacking:
        summary.notes.append(
            f"{lacking} samples lack one of the modalities and are left out, as ml-4m cannot read them"
        )
    summary.notes += [f"left out: {one}" for one in asked.left_out]
    summary.notes.append(f"ml-4m's data_path: {dest}/[{','.join(folders)}]/SHARDS.tar")
    return show([summary])


def _said(selected: Selected | None) -> list[str]:
    """How many samples are selected, for people."""
    if selected is None:
        return []
    left, of = selected.count
    how = "are selected" if selected.only else "are true in the column `selected`"
    return [f"{left:,} of {of:,} training samples {how}: {selected.text}"]
