"""What every fetcher does: rows in, a picture or a failure for each of them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .failures import Failure
from .pictures import Picture

# (held, wanted, pauses) -> (granted, waiting), as `Limiter.ask` without the worker's name; may take a while.
Ask = Callable[
    [Mapping[str, int], Mapping[str, int], Mapping[str, float]], tuple[Mapping[str, int], Mapping[str, float]]
]
Done = Callable[[int, Picture | Failure], None]


@dataclass(frozen=True)
class Row:
    """index: within its slice. sha: MD5, SHA-1 or SHA-256 that the bytes must have, "" for any."""

    index: int
    url: str
    sha: str = ""


class Fetcher(Protocol):
    def fetch(self, rows: Sequence[Row], done: Done) -> None:
        """Fetch all rows. May be called by two threads at once.

        Args:
            done: called once for each row, in any order, from any thread, before this returns.
        """

    def close(self) -> None:
        """End what it has started."""
