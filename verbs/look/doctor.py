"""`fourmill doctor`: whether everything that a recipe needs is there: weights, data, disks, memory, GPUs, packages."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from .. import arguments, checkup, summary

if TYPE_CHECKING:
    from ...report.doctor.doctor import Report
    from ...report.doctor.finding import Finding
    from ...report.doctor.weights import Weights

ORDER = 5
HELP = "whether all that a recipe needs is there: weights, data, disks, memory, packages"
EXAMPLES = (
    "fourmill doctor recipe.yaml",
    "fourmill doctor recipe.yaml --for h200x8",
    "fourmill doctor recipe.yaml --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    text = "the machine that it will run on, as of `fourmill init` (default: this one)"
    parser.add_argument("--for", dest="machine", metavar="MACHINE", help=text)
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    report = checkup.examine(arguments.load_recipe(args), args.machine)
    if args.json:
        print(json.dumps(report.as_json(), indent=1, ensure_ascii=False))
    else:
        show(report, args.machine or "this machine")
    return 0 if report.is_good else 1


def show(report: Report, machine: str) -> None:
    """Print the weights and what fits on a GPU, then what is wrong and what to do, then what else is worth knowing."""
    from ...report.doctor.finding import State

    console = summary.console(140)
    if report.weights:
        rows = [_weights_row(one) for one in report.weights]
        columns = ("for", "weights", "revision", "format", "size", "licence", "state")
        console.print(summary.table("weights", columns, rows))
    if report.fits:
        console.print(checkup.fits_table(machine, [one.as_json() for one in report.fits]))
    for title, state in (
        ("what to do", State.WRONG),
        ("what could not be asked", State.UNASKED),
        ("what to know", State.KNOW),
    ):
        if found := report.of(state):
            console.print(summary.table(title, ("what", "why", "do"), [_row(one) for one in found]))
    for fact in report.facts:
        console.print(summary.text(fact), soft_wrap=True)
    console.print(summary.text(checkup.verdict(report)), soft_wrap=True)


def _row(one: Finding) -> tuple[str, ...]:
    return one.what, one.why, one.do


def _weights_row(one: Weights) -> tuple[str, ...]:
    from ...report.doctor.finding import plain_size

    size = "" if one.size is None else plain_size(one.size)
    revision = (one.revision or one.need.revision or "")[:12]
    where = one.need.where.replace("labels.specialists.", "")
    return where, one.need.weights, revision, one.format, size, one.licence or "?", one.state
