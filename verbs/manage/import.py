"""`fourmill import`: tokens that apple/ml-4m's scripts made, into the token store of a root."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...pipelines.exchange.bring import Outcome

ORDER = 150
HELP = "bring tokens that were made elsewhere into a root"
EXAMPLES = (
    "fourmill import cc12m --from ml4m --root out",
    "fourmill import s3://bucket/cc12m --from ml4m --root s3://bucket/out --set tokenizers.text.weights=text.json",
    "fourmill import tokens --from ml4m --root out --map rgb_dvae_224=tok_rgb --modalities tok_rgb,tok_depth",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="DIR", help="folders by modality, of tars or of folders of files; any URL")
    parser.add_argument("--from", dest="source", choices=("ml4m",), required=True, help="whose layout it is in")
    parser.add_argument("--root", required=True, help="the root whose token store they go to; new, or of an import")
    text = "what a folder holds that is not called as its modality, e.g. rgb_dvae_224=tok_rgb"
    parser.add_argument("--map", action="append", default=[], metavar="FOLDER=MODALITY", help=text)
    text = "these alone, with commas between them (default: all that are there)"
    parser.add_argument("--modalities", default=None, metavar="NAMES", help=text)
    arguments.add_set(parser)


def main(args: argparse.Namespace) -> int:
    from ...project import Project
    from ...recipe import parse
    from ...runs.exchange import importing, shape
    from ..make import fit

    found = shape.look(args.place, args.map, args.modalities)
    recipe = parse(importing.recipe(args.root, found, args.set), "import")
    project = Project(recipe)
    stage.prepare_root(project)
    fitted = fit.make(project)
    if fitted.missing:
        return show([fitted])
    summary = Summary("import")
    for outcome in importing.bring(project, found):
        _add(summary, outcome)
    summary.notes += [f"left out: {one}" for one in found.left_out]
    summary.notes.append(f"its recipe is {importing.url(project.root)}: copy it, and train")
    return show([summary])


def _add(summary: Summary, outcome: Outcome) -> None:
    from ...infra.explain import reason_class

    summary.made += outcome.made
    summary.existed += outcome.existed
    summary.samples += outcome.samples
    summary.missing |= outcome.missing
    summary.notes += outcome.notes
    summary.rejects.update(reason_class(one) for one in outcome.rejects)
