"""What the command asks of workers while they work: save now, or save and stop.

The command posts a number on the board: the count of its requests, doubled, plus 1 if it is to stop. It only grows, so
that the highest that any worker has seen is what all agree on.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
import torch.distributed as dist


class Asked(Enum):
    NOTHING = 0
    SAVE = 1
    STOP = 2  # after saving


class Requests:
    """Requests as all workers of a group see them, at the same step.

    Args:
        reporter: whose `asked()`, if it has one, gives the number that the board has; it does not wait.
        rank, world: of the group, all workers of which make one of these and call `take` as often. Only rank 0 looks at
            the board.
    """

    def __init__(self, reporter: Any, rank: int = 0, world: int = 1) -> None:
        self._known = getattr(reporter, "asked", lambda: 0) if rank == 0 else lambda: 0
        # A group of its own, of the CPU: no step waits for a number from the device.
        self._group: Any = dist.new_group(backend="gloo") if world > 1 else None
        self._number = torch.zeros((), dtype=torch.int64)
        self._work: Any = None
        self._done = 0

    def take(self) -> Asked:
        """What was asked since the last call. Of several workers it comes a step later than the first of them knows it:
        the exchange goes on beside the step."""
        number = self._known()
        if self._group is not None:
            known, number = number, self._agreed()
            self._number.fill_(known)
            self._work = dist.all_reduce(self._number, dist.ReduceOp.MAX, group=self._group, async_op=True)
        if number <= self._done:
            return Asked.NOTHING
        self._done = number
        return Asked.STOP if number % 2 else Asked.SAVE

    def _agreed(self) -> int:
        if self._work is None:
            return 0
        work, self._work = self._work, None
        work.wait()
        return int(self._number)

    def close(self) -> None:
        """The last step is done: nothing of this is on its way any more."""
        self._agreed()
