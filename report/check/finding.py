"""What `fourmill check` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    what: where, as a path below the root. why: what is wrong with it.
    broken: it counts against the root; else it is left over, or worth a look.
    remove: paths below the root that `--repair` deletes, in this order, so that the next run makes again what they
        were; () if that is for people to decide.
    """

    what: str
    why: str
    broken: bool = True
    remove: tuple[str, ...] = ()
