"""The board: an actor to which the workers of a training job post, and which the command reads and asks by.

Ray starts a process for it, so this module imports nothing that is slow to import (torch takes 2 s).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

BOARD_SECONDS = 10.0  # how long a worker or the command waits for the board before it goes on without an answer
REQUEST_SECONDS = 1.0  # between two looks for requests
NOTHING: Mapping[str, float] = MappingProxyType({})
BEAT_SECONDS = 5.0  # between two words of a worker on what it is at


class Stopped(Exception):
    """Workers stop, since the command was asked to; what they did is saved."""


def number_of(saves: int, stop: bool) -> int:
    """Requests as one number, see requests.py."""
    return 2 * saves + stop


@dataclass
class Beat:
    """What a worker was at when it was last heard of, by the clock of the board: since when, and when that was."""

    at: str
    since: float
    heard: float


@dataclass
class BoardState:
    """The last message of each worker, how often worker 0 began, and the final errors. now: of the board's clock."""

    last: dict[int, dict[str, Any]] = field(default_factory=dict)
    attempts: int = 0
    failure: str = ""
    saves: int = 0  # requests to save, and whether the last one is to stop as well, see requests.py
    stop: bool = False
    beats: dict[int, Beat] = field(default_factory=dict)
    now: float = 0.0

    @property
    def in_steps(self) -> bool:
        """Whether some worker is at work that can be saved."""
        return any(one["unit"] == "steps" and one["done"] < one["total"] for one in self.last.values())


class BoardActor:
    """The actor to which workers post. If its node is lost, Ray restarts it empty, and the next messages fill it."""

    def __init__(self) -> None:
        self.state = BoardState()

    def begin(self, rank: int) -> str:
        self.state.attempts += rank == 0
        self.state.last.pop(rank, None)
        if rank == 0:  # of an attempt that may have had more workers
            self.state.beats.clear()
        return self.state.failure or ("stopped" if self.state.stop else "")

    def post(self, rank: int, message: dict[str, Any]) -> None:
        self.state.last[rank] = message

    def beat(self, rank: int, at: str, seconds: float) -> None:
        now = time.monotonic()
        self.state.beats[rank] = Beat(at, now - seconds, now)

    def fail(self, failure: str) -> None:
        # Workers of a group all report the same error; workers that fit different tokenizers each have their own.
        if failure not in self.state.failure:
            self.state.failure = "; ".join(filter(None, (self.state.failure, failure)))

    def ask(self, stop: bool) -> None:
        self.state.saves, self.state.stop = self.state.saves + 1, self.state.stop or stop

    def asked(self) -> int:
        return number_of(self.state.saves, self.state.stop)

    def read(self) -> BoardState:
        self.state.now = time.monotonic()
        return self.state


class Reporter:
    """Posts to the board. Posting does not wait for an answer, and no failure of the board fails a training step."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._asked = 0
        self._asking: threading.Thread | None = None
        self._at = ("", 0.0)
        self._beating: threading.Thread | None = None

    def asked(self) -> int:
        """The number of the command's requests (requests.py) as of a second ago; does not wait."""
        if self._asking is None:
            self._asking = threading.Thread(target=self._ask_on, name="requests", daemon=True)
            self._asking.start()
        return self._asked

    def _ask_on(self) -> None:
        while True:
            self._asked = max(self._asked, ask(self._board.asked) or 0)
            time.sleep(REQUEST_SECONDS)

    def tell(self, at: str) -> None:
        """What this worker is at from now on; the board hears of it, and how long it has been, every few seconds."""
        self._at = at, time.monotonic()
        if self._beating is None:
            from ray import train

            rank = train.get_context().get_world_rank()
            self._beating = threading.Thread(target=self._beat_on, args=[rank], name="beats", daemon=True)
            self._beating.start()

    def _beat_on(self, rank: int) -> None:
        while True:
            at, since = self._at
            self._board.beat.remote(rank, at, time.monotonic() - since)
            time.sleep(BEAT_SECONDS)

    def begin(self) -> str:
        """Called by every worker first. Returns the final error of an earlier attempt, "" if there is work to do."""
        from ray import train

        return ask(self._board.begin, train.get_context().get_world_rank()) or ""

    def post(
        self,
        *,
        stage: str,
        done: float,
        total: float,
        unit: str,
        notes: str = "",
        values: Mapping[str, float] = NOTHING,
    ) -> None:
        """Post the progress of this worker.

        Args:
            values: of its log, which become metrics of Ray.
        """
        from ray import train

        message = {"stage": stage, "done": done, "total": total, "unit": unit, "notes": notes, "values": dict(values)}
        self._board.post.remote(train.get_context().get_world_rank(), message)

    def fail(self, failure: str) -> None:
        """Post the error that another attempt would meet again; returns when the board has it."""
        ask(self._board.fail, failure)


def ask(method: Any, *arguments: Any) -> Any:
    """The answer of the board, or None while it is lost: it only shows progress, and must not fail the work."""
    import ray

    try:
        return ray.get(method.remote(*arguments), timeout=BOARD_SECONDS)
    except ray.exceptions.RayError:
        return None
