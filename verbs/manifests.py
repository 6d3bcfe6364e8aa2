"""Manifests of a recipe: which nodes its stages ask for, and the file that starts them (`submit --manifest`)."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..infra import storage
from ..infra.secrets import hide
from ..infra.submission import credentials, manifests, package
from ..infra.submission.manifests import Group, Wanted
from . import machines, submission

if TYPE_CHECKING:
    from ..recipe import Recipe
    from .machines import Machine
    from .submission import Submission

CORES, MEMORY_A_CORE = 8, 4  # of a node without a GPU; GiB
MOST_GPUS = 8  # of a node


def groups(recipe: Recipe, stage: str, machine: Machine | None, nodes: tuple[int, int] | None) -> list[Group]:
    """The groups of nodes for one stage, or for all of `run`.

    Args:
        machine: of each node; one of the size that the recipe asks for if None.
        nodes: (least, most) of the first group; as many as the recipe asks for if None.
    """
    asked = list(_asked(recipe, submission.OF_RUN if stage == "run" else (stage,)))
    gpus = max(math.ceil(workers * gpus) for workers, _, gpus in asked)
    cpus = max(math.ceil(workers * cpus) for workers, cpus, _ in asked)
    if machine is None:
        each = min(gpus, MOST_GPUS)
        cores = each * machines.CORES_A_GPU if each else CORES
        memory = each * machines.MEMORY_A_GPU if each else CORES * MEMORY_A_CORE
    else:
        each, cores, memory = machine.gpus, machine.cores, machine.memory
    # Of GPU nodes the cores do the work of stages that ask for no GPU.
    count = math.ceil(gpus / each) if gpus and each else math.ceil(cpus / cores)
    least, most = nodes or (max(count, 1), max(count, 1))
    return [Group("gpu" if each else "cpu", least, most, cores, int(memory), each)]


def _asked(recipe: Recipe, stages: Sequence[str]) -> Iterator[tuple[int, float, float]]:
    """(workers, CPUs of each, GPUs of each) of the stages; (1, 1, 0) at least."""
    yield 1, 1.0, 0.0
    if {"label", "tokenize"} & set(stages):
        yield recipe.engine.actors or 1, *_actor(recipe, "tokenize" in stages)
    for name in ("fit", "train"):
        if name in stages:
            section = getattr(recipe, name)
            workers = section.workers if isinstance(section.workers, int) else section.workers[1]
            yield workers, section.cpus or 1.0, section.gpus or 0.0


def _actor(recipe: Recipe, tokenizes: bool) -> tuple[float, float]:
    """CPUs and GPUs of an actor where there are GPUs; see `pipelines.worker.job.Job.demand`."""
    from ..pipelines.specialists import registry

    made = registry.build(recipe.made, recipe.labels, recipe.modules, recipe.class_lists).values()
    cpus = recipe.engine.cpus or max((one.cpus for one in made), default=1.0)
    gpus = max((one.gpus for one in made), default=0.0)
    return cpus, gpus if recipe.engine.gpus is None else recipe.engine.gpus


def write(args: argparse.Namespace) -> int:
    """Print the file that `submit --manifest` asks for, or write it to `--out`; returns the exit status."""
    prepared = submission.prepare(args.recipe, args.set, args.stage, args.others)
    machine = machines.named(args.machine) if args.machine else None
    in_pods = args.manifest != "slurm"
    wanted = Wanted(
        name=_object_name(args.stage, prepared.recipe.root),
        command=[args.stage, *(["--update"] if args.update else [])],
        groups=groups(prepared.recipe, args.stage, machine, _nodes(args.nodes)),
        image=args.image or f"fourmill:{__version__}",
        ray=importlib.metadata.version("ray"),
        files=_texts(prepared) if in_pods else {},
        variables=[name for name in prepared.variables if not in_pods or name not in credentials.OF_FILES],
        secret=args.secret,
        queue=args.queue,
        spot=args.spot,
    )
    if in_pods:
        text = (manifests.ray_job if args.manifest == "kuberay" else manifests.ray_cluster)(wanted)
        for note in [*prepared.notes, *_unseen(prepared)]:
            print(hide(note), file=sys.stderr)
    else:
        text = manifests.slurm(wanted, args.recipe, args.set)
    if not args.out:
        print(text, end="")
        return 0
    try:
        with open(args.out, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(f"--out {args.out}: it exists; name a new file, or delete it") from None
    print(args.out)
    return 0


def _unseen(prepared: Submission) -> Iterator[str]:
    """Notes on what pods do not have."""
    recipe = prepared.recipe
    for name in sorted(credentials.OF_FILES.intersection(prepared.variables)):
        yield f"{name} speaks of a file of this machine: mount it in the pods, and set it there"
    for name, places in (("root", [recipe.root]), ("samples", recipe.samples.places)):
        for place in [place for place in places if storage.is_local(place)][:1]:
            yield f"{name}: {place} is on a disk; pods see it only where a volume is mounted there"


def _object_name(stage: str, root: str) -> str:
    """Of an object of Kubernetes: at most 40 characters, since KubeRay adds some and takes 47."""
    return f"fourmill-{stage}-{submission.last_folder(root)}".lower()[:40].rstrip("-")


def _texts(prepared: Submission) -> dict[str, str]:
    """The files of a job by their paths. ValueError for one that is no text."""
    found = {"recipe.yaml": prepared.text}
    for name, path in prepared.sent.items():
        for file in package.below(path):
            at = f"{name}/{file.relative_to(path)}" if path.is_dir() else name
            try:
                found[at] = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"--manifest: {at} is no text; put it into the image") from None
    return found


def _nodes(text: str | None) -> tuple[int, int] | None:
    """ValueError for what is neither N nor MIN:MAX."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if most < 1 or least > most:
        raise ValueError(f"--nodes: got {text!r}, expected how many nodes there are, or MIN:MAX with autoscaling (0:4)")
    return least, most
