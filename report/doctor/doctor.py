"""`examine`: everything that a recipe needs, looked at side by side, with all that is wrong at once.

Nothing is fetched but headers, and no weight is loaded: what a network takes of a GPU is counted without them. What
gives no answer in time is said to be so, and keeps nothing else waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from ...derived import complete
from ...infra import hub, storage
from ...infra.secrets import hidden
from ...pipelines.specialists import pins, registry
from ...pipelines.specialists.base import Specialist
from ...recipe import Recipe
from . import fits, machine, places
from .finding import Finding, State, answers, merged, plain_size, sentence, wrong
from .fits import Fit
from .machine import Has
from .places import Disk, Samples
from .weights import Need, Weights, look, needs

SECONDS = 20.0  # that all of it may take
_SHARE = 0.4  # of that, for one request to the hub


@dataclass
class Report:
    """What was found. fits: on a GPU, if there is one. facts: what was looked at and is as it should be, in words."""

    root: str
    findings: list[Finding]
    weights: list[Weights] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def of(self, *states: State) -> list[Finding]:
        return [one for one in self.findings if one.state in states]

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong and nothing could not be asked."""
        return not self.of(State.WRONG, State.UNASKED)

    def as_json(self) -> dict[str, Any]:
        said = {
            "root": self.root,
            "good": self.is_good,
            "problems": [one.as_json() for one in self.of(State.WRONG)],
            "not_asked": [one.as_json() for one in self.of(State.UNASKED)],
            "warnings": [one.as_json() for one in self.of(State.KNOW)],
            "weights": [one.as_json() for one in self.weights],
            "disks": [one.as_json() for one in self.disks],
            "fits": [one.as_json() for one in self.fits],
        }
        return cast("dict[str, Any]", hidden(said))


def examine(recipe: Recipe, has: Has, is_named: bool = False, seconds: float = SECONDS) -> Report:
    """Look at all that a recipe needs.

    Args:
        has: the machine that it will run on. is_named: it is another one than this.
        seconds: after which what has not answered is left.
    """
    specialists, findings = _specialists(recipe)
    if storage.is_local(recipe.root):  # what a bucket has pinned is not worth waiting for
        pins.apply(recipe.root, specialists.values())
    asked = needs(recipe, specialists)
    calls: dict[str, Callable[[], Any]] = {
        "samples": partial(places.samples, recipe),
        "root": partial(places.root, recipe),
        "train": partial(places.others, recipe),
    }
    calls |= {f"{number}": partial(look, need, _SHARE * seconds) for number, need in enumerate(asked)}
    if has.gpus:
        calls["sizes"] = partial(complete, recipe)
    found = answers(calls, seconds)
    samples = _of_samples(found["samples"], findings, seconds)
    for name in ("root", "train"):
        _add(name, found[name], findings, seconds)
    weights = [_of_weights(need, found[f"{number}"], seconds) for number, need in enumerate(asked)]
    findings += [finding for one in weights for finding in one.findings]
    disks = places.disks(recipe, samples, sum(one.fetch for one in weights))
    findings += [finding for disk in disks for finding in places.room(disk)]
    if not recipe.engine.address or is_named:
        findings += machine.memory(specialists, weights, has)
        findings += machine.fits_on_cpus(recipe, recipe.tokenizers_needed, has)
    findings += machine.gpus(recipe, has, is_named) + machine.packages(recipe, specialists)
    # Sizes that cannot be read are the recipe's own; why they cannot, the rows of their weights say.
    sized = whole if isinstance(whole := found.get("sizes"), Recipe) else recipe
    resident = sum(machine.resident(specialists, weights).values())
    fitting, too_large = fits.look(sized, has, resident, specialists, quick=seconds < SECONDS)
    return Report(
        recipe.root, merged(findings + too_large), weights, disks, fitting, _facts(samples, weights, disks, has)
    )


def _specialists(recipe: Recipe) -> tuple[dict[str, Specialist], list[Finding]]:
    """Those that can be built from their options, and what is wrong with the others."""
    made, errors = registry.build_each(recipe.made, recipe.labels, recipe.modules, recipe.class_lists)
    findings = []
    for error in errors:
        for line in str(error).splitlines():
            where, colon, why = line.strip().partition(": ")
            findings.append(wrong(where if colon else "labels", why or line, "change it in the recipe"))
    for label, one in made.items():
        if why := one.why_not(made):
            findings.append(sentence(f"labels.specialists.{label}", why))
    return made, findings


def _add(what: str, found: Any, findings: list[Finding], seconds: float) -> None:
    if found is None:
        findings.append(places.late(what, seconds))
    elif isinstance(found, Exception):
        findings.append(wrong(what, str(found) or type(found).__name__, "look at the field of the recipe"))
    else:
        findings += found


def _of_samples(found: Any, findings: list[Finding], seconds: float) -> Samples:
    if isinstance(found, Samples):
        findings += found.findings
        return found
    _add("samples", found, findings, seconds)
    return Samples()


def _of_weights(need: Need, found: Any, seconds: float) -> Weights:
    if isinstance(found, Weights):
        return found
    what = f"{need.where}: {need.id}"
    if found is None:
        return Weights(need, "not asked", findings=(places.late(what, seconds),))
    return Weights(need, "not asked", findings=(wrong(what, str(found), "look at the field of the recipe"),))


def _facts(samples: Samples, weights: list[Weights], disks: list[Disk], has: Has) -> list[str]:
    facts = []
    if samples.shards:
        count = f", about {samples.count:,.0f} samples" if samples.count else ""
        facts.append(f"{samples.shards:,} shards of {plain_size(samples.bytes)}{count}")
    if weights:
        fetch = sum(one.fetch for one in weights)
        there = sum(one.state == "there" for one in weights)
        rest = f", {plain_size(fetch)} to be fetched" if fetch else ""
        facts.append(f"{there} of {len(weights)} weights are here{rest}")
    if any(not one.need.is_local for one in weights):
        facts.append(f"{hub.endpoint()} is asked {'with' if hub.token() else 'without'} a token")
    facts += [f"{plain_size(disk.free)} free on the disk of {disk.path}" for disk in disks]
    gpus = f", {has.gpus} GPUs of {has.gpu_memory:.0f} GiB" if has.gpus else ", no GPU"
    return [*facts, f"{has.name}: {has.memory:.0f} GiB of memory{gpus}"]
