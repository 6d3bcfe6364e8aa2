"""`fourmill submit`: a stage of a recipe as a job of a Ray cluster, submitted from outside and followed to its end."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...infra.secrets import hide, public
from .. import arguments

if TYPE_CHECKING:
    from ...infra.submission.jobs import Jobs
    from ..submission import Submission

ORDER = 45
HELP = "run a recipe as a job of a Ray cluster, from outside of it"
EXAMPLES = (
    "fourmill submit recipe.yaml --address http://head:8265",
    "fourmill submit recipe.yaml --stage label --address http://head:8265 --detach",
    "fourmill submit recipe.yaml --set train.steps=2000 --address https://ray.example.org",
    "fourmill submit recipe.yaml --manifest kuberay --for h100x8 --nodes 1:4 --out rayjob.yaml",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_stage(parser)
    text = "run, download, label, fit, tokenize, train, generate or evaluate (default: run)"
    parser.add_argument("--stage", default="run", metavar="STAGE", help=text)
    arguments.add_address(parser)
    parser.add_argument("--detach", action="store_true", help="submit it and end, instead of showing its log")
    text = "also send this file or folder of the working folder; may be given several times"
    parser.add_argument("--with", action="append", default=[], dest="others", metavar="PATH", help=text)
    files = parser.add_argument_group("instead of a submission, a file that starts a cluster")
    text = "kuberay (a RayJob), kuberay-cluster (a RayCluster to submit to) or slurm (a script for sbatch)"
    files.add_argument("--manifest", choices=list(MANIFESTS), metavar="KIND", help=text)
    files.add_argument("--out", metavar="FILE", help="where it is written; it must be new (default: stdout)")
    text = "what each node is: h100x8, l4x1, cpux16, ... as of `plan` (default: as large as the recipe asks for)"
    files.add_argument("--for", dest="machine", metavar="NAMExN", help=text)
    text = "how many nodes; with autoscaling MIN:MAX (default: what engine.actors, fit and train ask for)"
    files.add_argument("--nodes", metavar="N", help=text)
    files.add_argument("--image", help="of the nodes (default: fourmill with its version, made by infra/Dockerfile)")
    files.add_argument("--secret", default="fourmill", help="from which nodes get credentials (default: fourmill)")
    files.add_argument("--queue", default="", help="of Kueue, which admits the job")
    files.add_argument("--spot", action="store_true", help="nodes may be machines that the cloud takes back")


MANIFESTS = ("kuberay", "kuberay-cluster", "slurm")


def main(args: argparse.Namespace) -> int:
    from .. import jobs, manifests, submission

    if args.stage not in submission.STAGES:
        raise ValueError(f"--stage: got {args.stage!r}, expected one of {', '.join(submission.STAGES)}")
    if args.manifest:
        return manifests.write(args)
    cluster = jobs.connected(args.address)
    prepared = submission.prepare(args.recipe, args.set, args.stage, args.others)
    if (status := _made_already(prepared, args)) is not None:
        return status
    for line in jobs.of_root(cluster, prepared.recipe.root):
        print(line, file=sys.stderr)
    name = _submit(cluster, prepared, args.update)
    begins = f"job {name}: {args.stage} of {args.recipe}"
    if args.detach:
        print(begins)
        print(f"`fourmill jobs logs {name} --follow --address {public(cluster.address)}` follows it")
        return 0
    return jobs.follow(cluster, name, begins)


def _made_already(prepared: Submission, args: argparse.Namespace) -> int | None:
    """The exit status of a stage that has nothing to do, after its closing table; None if there is something, or the
    root cannot be looked at from here."""
    from .. import submission
    from . import fit, generate, label, run, tokenize, train

    project, why = submission.seen_from_here(prepared.recipe, args.update)
    notes = list(prepared.notes)
    if project is None:
        notes.append(f"root and samples are looked at by the job alone, since they cannot be from here: {why}")
    for note in notes:
        print(hide(note), file=sys.stderr)
    if project is None or not submission.nothing_to_do(prepared.stage, project):
        return None
    from ..summary import show

    print(f"{prepared.stage} has nothing to do: no job is submitted", flush=True)
    makers = {"label": label.make, "fit": fit.make, "tokenize": tokenize.make, "train": train.make}
    if prepared.stage == "run":
        return run.close(project, run.make(project))
    return show([{**makers, "generate": generate.make}[prepared.stage](project)])


def _submit(cluster: Jobs, prepared: Submission, update: bool) -> str:
    from ... import __version__
    from ...infra.submission import package, ready

    name = prepared.job
    options = " --update" if update and prepared.stage != "download" else ""
    # Said by Python alone first, since without its dependencies fourmill could not say what is missing.
    command = f"python -m {ready.__name__} && exec python -m fourmill.cli {prepared.stage} recipe.yaml{options}"
    root = public(prepared.recipe.root)
    about = {"fourmill": __version__, "stage": prepared.stage, "root": root}
    with tempfile.TemporaryDirectory(prefix="fourmill-") as scratch:
        folder = Path(scratch)
        package.lay_out(folder, prepared.sent)
        (folder / "recipe.yaml").write_text(prepared.text, encoding="utf-8")
        cluster.submit(name, command, scratch, {ready.NAMES: ",".join(prepared.variables)}, about)
    return name
