"""`fourmill inspect`: show what a file or folder of fourmill's holds."""

from __future__ import annotations

import argparse

from .. import arguments

ORDER = 20
HELP = "show what a shard, column, label, ledger, tokenizer, checkpoint, run or root holds"
EXAMPLES = (
    "fourmill inspect data/00000.tar",
    "fourmill inspect out/tokens/caption/00000.parquet --row 3",
    "fourmill inspect out --json",
    "fourmill inspect out --key 000012345",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file or folder, local or any fsspec URL")
    parser.add_argument("--row", type=int, default=0, help="which sample to show (default: 0)")
    text = "of a root: the sample of this key, where it comes from, its URL and licence as far as its JSON has them"
    parser.add_argument("--key", help=text)
    arguments.add_trust(parser)
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    from ...report.inspect import inspect

    if args.trust:
        arguments.trust(args.path)
    return inspect.show(args.path, row=args.row, as_json=args.json, key=args.key)
