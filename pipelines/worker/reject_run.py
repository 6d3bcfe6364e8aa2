"""Rejects in a row: so many that something is wrong with the data or the specialist, and not with samples."""

from __future__ import annotations

from ..engine.job import StopJob


class RejectRun(StopJob):
    """So many rejects in a row that something is wrong with the data or the specialist, not with samples.

    output: that was rejected. run: how many in a row. shards: that the run went through.
    """

    def __init__(self, said: str, output: str = "", run: int = 0, shards: tuple[str, ...] = ()) -> None:
        super().__init__(said, output, run, shards)  # all of them, so that it can be pickled
        self.said, self.output, self.run, self.shards = said, output, run, shards

    def __str__(self) -> str:
        return self.said


class InARow:
    """Counts the rejects in a row of each output, and the shards that they went through.

    most: beyond which there is a `RejectRun`.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._counts: dict[str, int] = {}
        self._shards: dict[str, dict[str, None]] = {}

    def end(self, output: str) -> None:
        """A sample has a value."""
        self._counts.pop(output, None)
        self._shards.pop(output, None)

    def add(self, output: str, shard: str, last: str) -> None:
        """A sample has none; `last` says which, and why. RejectRun if these are too many."""
        count = self._counts[output] = self._counts.get(output, 0) + 1
        shards = self._shards.setdefault(output, {})
        shards[shard] = None
        if count >= self.most:
            said = f"{output}: {self.most} rejects in a row, the last at shard {shard}, {last}. "
            said += "If the data is really so, raise engine.max_reject_run"
            raise RejectRun(said, output, self.most, tuple(shards))
