"""Whether a machine has what a recipe asks for: memory for the weights, GPUs, packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...infra.secrets import public
from ...pipelines.specialists.base import Specialist
from ...recipe import Recipe
from ...train.tokenizers import on_cpus
from .finding import Finding, know, unasked, wrong
from .weights import Weights

GIB = 2**30
RAY_SHARE = 0.7  # of the memory: Ray leaves the rest to its object store
BESIDE = 0.1  # GiB that a model takes beyond its file
FEWER = "label in several runs: the labels of the largest ones in labels.keep first, then all others"
TRACKERS = {"wandb": "wandb", "mlflow": "mlflow"}


@dataclass(frozen=True)
class Has:
    """What a machine has. memory: GiB of main memory. gpu_memory: GiB of each GPU. cores: 0 if it is not known."""

    name: str
    memory: float
    gpus: int = 0
    gpu_memory: float = 0.0
    cores: int = 0


def memory(specialists: Mapping[str, Specialist], weights: Sequence[Weights], has: Has) -> list[Finding]:
    """Whether all specialists of an actor fit together, and each alone."""
    sizes = resident(specialists, weights)
    room = has.memory * RAY_SHARE
    on, room = ("a GPU of", has.gpu_memory) if has.gpus else ("", room)
    where = f"{on} {has.name}".strip()
    large = {label: size for label, size in sizes.items() if size > room}
    if large:
        named = ", ".join(f"{label} {size:.1f} GiB" for label, size in large.items())
        do = "name smaller weights in labels.specialists, or a larger machine (--for)"
        return [wrong("memory", f"{where} holds {room:.1f} GiB; alone too large: {named}", do)]
    if sum(sizes.values()) > room:
        first = sorted(sizes.items(), key=lambda item: -item[1])[:3]
        named = ", ".join(f"{label} {size:.1f}" for label, size in first)
        why = f"the weights of all labels are {sum(sizes.values()):.1f} GiB ({named}, ...), {where} holds {room:.1f}"
        return [wrong("memory", why, FEWER)]
    return []


def resident(specialists: Mapping[str, Specialist], weights: Sequence[Weights]) -> dict[str, float]:
    """GiB of each specialist; of those that share weights the first has them all."""
    known = {(one.need.weights, one.need.revision): one.size for one in weights}
    sizes: dict[str, float] = {}
    seen = set()
    for label, one in specialists.items():
        key = getattr(one, "weights", label), getattr(one, "revision", None)
        if key in seen:
            continue
        seen.add(key)
        size = known.get(key)
        sizes[label] = one.resident_gb() if size is None else size / GIB + BESIDE
    return sizes


def gpus(recipe: Recipe, has: Has, is_named: bool) -> list[Finding]:
    """Whether there are as many GPUs as the stages ask for.

    Args:
        is_named: the machine was named, and is not the one at hand.
    """
    train = recipe.train
    asked = {
        "engine.gpus": recipe.engine.gpus or 0.0,
        "fit.gpus": recipe.fit.gpus * recipe.fit.workers,
        "train.gpus": train.gpus * train.worker_range[0],
    }
    most = {field: number for field, number in asked.items() if number > has.gpus}
    if not most:
        return []
    named = ", ".join(f"{field} {number:g}" for field, number in most.items())
    why = f"{named} (with their workers) are asked for, and {has.name} has {has.gpus}"
    if recipe.engine.address and not is_named:
        address = public(str(recipe.engine.address))
        return [unasked("GPUs", f"{why}; the cluster at {address} is not asked", "name its machines with --for")]
    fields = " ".join(f"--set {field}=0" for field in most)
    return [wrong("GPUs", why, f"run it where there are some (engine.address), or on CPUs: {fields}")]


def fits_on_cpus(recipe: Recipe, names: Iterable[str], has: Has) -> list[Finding]:
    """Which of these tokenizers would never be fitted on the CPUs of a machine, in one finding."""
    if recipe.fit.gpus or not has.cores:
        return []
    settings = {name: recipe.tokenizer(name) for name in names}
    days = {name: on_cpus.days(name, one, recipe.images.size, has.cores) for name, one in settings.items()}
    long = {name: most for name, most in days.items() if most > on_cpus.LONGEST}
    if not long:
        return []
    each = [f"{name} {most:,.0f} days ({on_cpus.size_of(name, settings[name])})" for name, most in long.items()]
    return [know("fit", f"on {has.cores} CPU cores these take at least: {', '.join(each)}", on_cpus.ADVICE)]


def packages(recipe: Recipe, specialists: Mapping[str, Specialist]) -> list[Finding]:
    """Packages beyond fourmill's own that the recipe needs and that are not installed."""
    wanted: list[tuple[str, str, str]] = []
    for label, one in specialists.items():
        wanted += [(f"labels.specialists.{label}", name, what) for name, what in one.packages.items()]
    wanted += [("train.trackers", name, TRACKERS[name]) for name in recipe.train.trackers]
    found = []
    for where, name, what in wanted:
        if not _is_there(name):
            found.append(wrong(where, f"the package {name} is not installed", f"pip install '{what}'"))
    return found + [
        know(f"labels.specialists.{label}", f"{name} is under AGPL-3.0, which may bind what you build and serve")
        for label, one in specialists.items()
        for name in one.packages
        if name == "ultralytics"
    ]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
