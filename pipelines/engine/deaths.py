"""What follows from the deaths of workers at one task: it is narrowed down to the sample that kills.

1. Of the first death nothing is known but the task. It is done again with care: one call after the other, each noted in
   the root before it (calls.py).
2. The next death has a call. In the next attempt its samples come in smaller calls first, at most `PIECES` of them,
   whose values are thrown away: the death of one of these has fewer samples, in the end a single one.
3. A sample that was alone with two workers when they died is a killer, at that specialist: from then on something empty
   takes its slot, and it is a reject.
4. Samples of which each comes back alone, while all of them together kill two workers, are labelled one by one.

A death of the machine (a node that was lost or taken back) is none of these. A task is given up when its deaths tell
nothing, and when too many of its samples kill.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .calls import Call, Spot
from .job import Care, Sign

PIECES = 32  # of a call in which a worker died
ALONE = 2  # workers that a sample kills alone, until it is a killer
TOGETHER = 2  # workers that samples kill together and not alone, until they are labelled one by one
STEPS = 3  # deaths beyond `engine.attempts` that narrowing down may take: in a call, in a piece of it, alone
MOST_KILLERS = 16  # of one task


@dataclass
class Deaths:
    """The deaths at one task.

    allowed: deaths in a row that tell nothing. spots: of calls in which workers died. apart: those whose samples are
    labelled one by one. killers: samples that kill, and how many workers each has killed.
    """

    allowed: int
    spots: list[Spot] = field(default_factory=list)
    apart: list[Spot] = field(default_factory=list)
    killers: dict[Sign, int] = field(default_factory=dict)
    total: int = 0
    _at: Counter[tuple[Spot, bool]] = field(default_factory=Counter)
    _unclear: int = 0  # since something was found
    _since: int = 0  # all of them

    def add(self, call: Call | None) -> None:
        """A worker died.

        Args:
            call: in which it did, if that is known.
        """
        self.total += 1
        self._since += 1
        if call is None:
            self._unclear += 1
            return
        spot, tried = call.spot, call.tried and call.spot.size > 1
        self._at[spot, tried] += 1
        if spot.size == 1 and self._at[spot, tried] >= ALONE:
            self.killers[spot.name, spot.key] = self._since - self._unclear
        elif tried and self._at[spot, tried] >= TOGETHER and spot not in self.apart:
            self.apart.append(spot)
        else:
            if spot not in self.spots:
                self.spots.append(spot)
            return
        self._unclear = self._since = 0

    def why_hopeless(self, reason: str) -> str:
        """Why the task is given up, "" if it is not.

        Args:
            reason: of the last death.
        """
        if len(self.killers) >= MOST_KILLERS:
            (name, key), _ = list(self.killers.items())[-1]
            return f"{len(self.killers)} of its samples kill their worker, the last: {name}, key {key}: {reason}"
        if self._unclear >= self.allowed or self._since >= self.allowed + STEPS:
            return f"its worker died {self.total} times: {reason}"
        return ""

    def care(self, attempt: str) -> Care:
        """How the next attempt is made.

        Args:
            attempt: a name for it.
        """
        return Care(attempt, tuple(self.spots), tuple(self.apart), tuple(self.killers.items()))

    def __str__(self) -> str:
        """What is known so far."""
        if self._since == 0 and self.killers:
            (name, key), count = list(self.killers.items())[-1]
            return f"{name}: the sample {key} has killed {count} workers and is left out"
        if self._since == 0 and self.apart:
            return f"{self.apart[-1].name}: {self.apart[-1].size} samples kill together and are labelled one by one"
        if self.spots:
            last = self.spots[-1]
            if last.size == 1:
                return f"{last.name}: it had the sample {last.key} alone; another actor tries it again"
            return f"{last.name}: it had {last.size} samples from {last.key} on, which are tried in smaller calls"
        return "it is done again with care, to find out where"
