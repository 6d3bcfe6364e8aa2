"""What `doctor` looks at, as `plan` says it in its first lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import machines, summary

if TYPE_CHECKING:
    from rich.table import Table

    from ..project import Project
    from ..recipe import Recipe
    from ..report.doctor.doctor import Report
    from ..report.doctor.machine import Has
    from .machines import Machine

PLAN_SECONDS = 6.0  # `plan` waits no longer for a hub or a bucket


def examine(recipe: Recipe, machine: str | None = None, seconds: float | None = None) -> Report:
    """Look at all that a recipe needs, on a named machine or on this one; see `report.doctor.doctor.examine`."""
    from ..report.doctor import doctor

    has = _has(machines.named(machine) if machine else machines.here())
    return doctor.examine(recipe, has, machine is not None, doctor.SECONDS if seconds is None else seconds)


def _has(machine: Machine) -> Has:
    from ..report.doctor.machine import Has

    gpu_memory = machine.gpu.memory if machine.gpu else 0.0
    return Has(machine.name, machine.memory, machine.gpus, gpu_memory, machine.cores)


def endless_fits(project: Project, machine: Machine | None = None) -> list[str]:
    """Why the fits that are missing would not end on a machine, this one unless named; [] on a cluster elsewhere."""
    from ..modalities import TEXT
    from ..report.doctor.machine import fits_on_cpus

    if project.recipe.engine.address and machine is None:
        return []
    names = [name for name in project.unfitted if name != TEXT]
    if not names:  # where there are GPUs, looking at the machine loads torch
        return []
    found = fits_on_cpus(project.recipe, names, _has(machine or machines.here()))
    return [f"{one.what}: {one.why}; {one.do}" for one in found]


def refuse_endless_fits(project: Project) -> None:
    """ValueError if a fit would not end on this machine."""
    if found := endless_fits(project):
        raise ValueError("\n".join(found))


def verdict(report: Report) -> str:
    """In one line how a recipe stands."""
    from ..report.doctor.finding import State

    wrong, unasked, know = (len(report.of(one)) for one in (State.WRONG, State.UNASKED, State.KNOW))
    more = f"; {know} to know" if know else ""
    if report.is_good:
        return f"all that the recipe needs is there, or can be fetched{more}"
    parts = [f"{wrong} to be mended"] if wrong else []
    parts += [f"{unasked} could not be asked"] if unasked else []
    return ", ".join(parts) + more


def lines(report: Report) -> list[str]:
    """The first lines of a plan: what is wrong or not known, and how the recipe stands."""
    from ..report.doctor.finding import State

    found = report.of(State.WRONG, State.UNASKED)
    said = [f"{one.what}: {one.why}{'; ' if one.do else ''}{one.do}" for one in found]
    hint = " (`fourmill doctor` says more)" if found or report.of(State.KNOW) else ""
    return [*said, f"{verdict(report)}{hint}"]


def fits_table(machine: str, fits: Sequence[Mapping[str, Any]]) -> Table:
    """What fits on a GPU, from the values of a report's `fits`."""
    rows = [
        (fit["stage"], str(fit["samples"]), f"{fit['gib']:g}", f"{fit['most']:,}")
        if fit["samples"]
        else (fit["stage"], ": ".join(["weights alone", *filter(None, [fit.get("why")])]), f"{fit['gib']:g}", "")
        for fit in fits
    ]
    columns = ("stage", "samples at a time", "GiB of these", "most that fit")
    return summary.table(f"on a GPU of {machine}, by counted bytes", columns, rows)
