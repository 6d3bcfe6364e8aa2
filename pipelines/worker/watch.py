"""Calls of an attempt at a shard at which a worker died: one at a time, each noted before it.

What is called, and with which samples, is the same as without a watch: values come out byte for byte as in any other
attempt, but for samples that are known to kill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ..engine.calls import Call, Calls, Spot
from ..engine.deaths import PIECES
from ..engine.job import Care
from ..reject import Reject
from ..specialists.base import Item

Run = Callable[[Sequence[Any]], list[Any]]


class Watch:
    """The calls of one attempt.

    Args:
        calls: where they are noted.
        care: what earlier deaths have shown.
    """

    def __init__(self, calls: Calls, care: Care) -> None:
        self._calls, self._care = calls, care
        self._turn = threading.Lock()
        self._tried: set[Spot] = set()
        self._worked: set[str] = set()
        self.killers = {(name, key): f"{name}: killed its worker {count} times" for (name, key), count in care.killers}

    def over(self, name: str, run: Run) -> Run:
        """`run`, watched: a sample that kills is a Reject, and in its place comes an empty one, or none.

        Args:
            name: of the specialist or codec.
            run: gives one value for each item.
        """

        def watched(items: Sequence[Any]) -> list[Any]:
            with self._turn:
                sound = [item for item in items if (name, item.key) not in self.killers]
                made = iter(self._made(name, run, items, sound) if sound else ())
                self._worked |= {name} if sound else set()
                return [
                    Reject(self.killers[name, item.key]) if (name, item.key) in self.killers else next(made)
                    for item in items
                ]

        return watched

    def is_apart(self, name: str, items: Sequence[Any]) -> bool:
        """Whether these samples are called one by one, since they, or some of them, kill together."""
        return bool({spot.key for spot in self._care.apart if spot.name == name} & {item.key for item in items})

    def _made(self, name: str, run: Run, items: Sequence[Any], sound: Sequence[Any]) -> list[Any]:
        """The values of the samples that do not kill."""
        if self.is_apart(name, items):
            return [self._alone(name, run, item) for item in sound]
        for piece in self._pieces(name, sound):
            self._note(name, piece)
            with suppress(Exception):  # what fails and does not kill fails again below, where it is looked at
                run([_copy(item) for item in piece])
                self._worked.add(name)
        self._note(name, sound)
        if len(sound) == len(items):
            return run(items)
        kept = {item.key for item in sound}
        slots = [item if item.key in kept else _empty(item, sound[0]) for item in items]
        filled = [item for item in slots if item is not None]
        try:
            values = run(filled)
        except Exception:  # perhaps for what is empty
            return run(sound)
        return [value for item, value in zip(filled, values, strict=True) if item.key in kept]

    def _pieces(self, name: str, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Of the spots among these samples smaller parts, once in an attempt: single samples first."""
        keys = [item.key for item in items]
        for spot in sorted(self._care.spots, key=lambda spot: spot.size):
            if spot.name != name or spot.key not in keys or spot in self._tried:
                continue
            self._tried.add(spot)
            start = keys.index(spot.key)
            part = items[start : start + spot.size]
            size = -(-len(part) // PIECES)
            if len(part) < len(items) or size < len(part):  # else it is the call itself
                yield from (part[at : at + size] for at in range(0, len(part), size))

    def _alone(self, name: str, run: Run, item: Any) -> Any:
        self._note(name, [item])
        try:
            return run([item])[0]
        except Exception as error:
            return error

    def _note(self, name: str, items: Sequence[Any]) -> None:
        spot = Spot(name, items[0].key, len(items))
        self._calls.note(self._care.attempt, Call(spot, spot in self._tried, name in self._worked))


def _copy(item: Any) -> Any:
    """An item that may be given away: specialists leave each other something in it."""
    return replace(item, shared=dict(item.shared), labels=dict(item.labels)) if isinstance(item, Item) else item


def _empty(item: Any, beside: Any) -> Any:
    """What takes the slot of a sample, so that others are still seen together as they were: a black image of its size,
    with all else of another sample. None where there is no slot to keep: what a codec takes."""
    if not isinstance(item, Item):
        return None
    if item.image is None:
        return replace(beside, key=item.key, labels=dict(beside.labels), shared={})
    black = np.zeros_like(item.image)
    labels = item.labels | ({"rgb": black} if "rgb" in item.labels else {})
    return replace(
        item, image=black, caption=beside.caption, info=beside.info, members=beside.members, labels=labels, shared={}
    )
