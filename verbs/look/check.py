"""`fourmill check`: every sum of a root, and what belongs to nothing."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from .. import arguments, summary

if TYPE_CHECKING:
    from ...report.check.check import Checked

ORDER = 15
HELP = "whether every file of a root is what its record says, and what belongs to nothing"
EXAMPLES = ("fourmill check out", "fourmill check s3://bucket/out --json", "fourmill check out --repair")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="the root of a recipe, local or any fsspec URL")
    text = "remove what is broken or belongs to nothing, after saying so: the next run makes it again, and only that"
    parser.add_argument("--repair", action="store_true", help=text)
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    from ...infra import storage
    from ...report.check import check

    checked = check.check(storage.absolute(args.root))
    if not args.json:
        show(checked, args.repair)
    removed = check.repair(checked) if args.repair else []
    if args.json:
        print(json.dumps(check.as_json(checked, removed), indent=1, ensure_ascii=False))
    elif removed:
        print(f"{len(removed)} files removed; `fourmill run` makes again what they were")
    gone = set(removed)
    return 1 if any(not args.repair or not gone & set(finding.remove) for finding in checked.broken) else 0


def show(checked: Checked, repair: bool) -> None:
    """Print what was found, and what `--repair` removes."""
    out = summary.console(120)
    for title, findings in (
        ("broken", checked.broken),
        ("left over, or worth a look", [one for one in checked.findings if not one.broken]),
    ):
        if findings:
            out.print(summary.reasons(title, "what", {one.what: one.why for one in findings}))
    looked = ", ".join(f"{count:,} {name}" for name, count in checked.counts.items())
    out.print(summary.text(f"{checked.root}: {len(checked.broken)} broken; looked at {looked}"), soft_wrap=True)
    paths = list(dict.fromkeys(path for finding in checked.findings for path in finding.remove))
    if paths and repair:
        out.print(summary.text("removed are:"))
        for path in [*paths, *(one.path for one in checked.uploads)]:
            out.print(summary.text(f"  {path}"), soft_wrap=True)
    elif paths:
        out.print(summary.text(f"`fourmill check {checked.root} --repair` removes {len(paths)} files"), soft_wrap=True)
