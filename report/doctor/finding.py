"""What the doctor finds: one thing of a recipe, how it stands, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread
from time import monotonic
from typing import TypeVar

from ...infra import faults

T = TypeVar("T")


class State(StrEnum):
    GOOD = "good"
    KNOW = "know"  # it works, and the user should know something of it
    UNASKED = "not asked"  # what would say it is out of reach
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """what: of the recipe or the machine. why: how it stands. do: what to do, "" if there is nothing."""

    state: State
    what: str
    why: str
    do: str = ""

    def as_json(self) -> dict[str, str]:
        return {"what": self.what, "why": self.why, "do": self.do}


def wrong(what: str, why: str, do: str) -> Finding:
    return Finding(State.WRONG, what, why, do)


def know(what: str, why: str, do: str = "") -> Finding:
    return Finding(State.KNOW, what, why, do)


def unasked(what: str, why: str, do: str = "") -> Finding:
    return Finding(State.UNASKED, what, why, do)


def sentence(what: str, text: str) -> Finding:
    """What is wrong, from a sentence of which the part behind the last semicolon says what to do."""
    why, semicolon, do = text.rpartition("; ")
    return wrong(what, why, do) if semicolon else wrong(what, text, "")


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each reason once, with all that it concerns."""
    groups: dict[tuple[State, str, str], list[str]] = {}
    for one in findings:
        groups.setdefault((one.state, one.why, one.do), []).append(one.what)
    return [Finding(state, ", ".join(dict.fromkeys(whats)), why, do) for (state, why, do), whats in groups.items()]


def answers(asked: Mapping[str, Callable[[], T]], seconds: float) -> dict[str, T | Exception | None]:
    """What each call returns or raises, None if it is not done after so many seconds in all.

    Calls run side by side. One that never ends is left behind: its thread does not keep the process. Errors that are
    neither of a place nor of a value are raised.
    """
    found: dict[str, T | Exception | None] = dict.fromkeys(asked)

    def run(name: str, call: Callable[[], T]) -> None:
        try:
            found[name] = call()
        except Exception as error:
            found[name] = error

    threads = [Thread(target=run, args=one, daemon=True) for one in asked.items()]
    end = monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    for one in found.values():
        if isinstance(one, Exception) and not isinstance(one, ValueError | OSError | ImportError):
            if not faults.of_place(one):
                raise one
    return dict(found)


def plain_size(size: float | None) -> str:
    """Bytes for people: 599 MB."""
    if size is None:
        return "?"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"
