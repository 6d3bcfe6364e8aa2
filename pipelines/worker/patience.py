"""What is made waits for a root that cannot be written: the job pauses, says why, and goes on when it is mended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ...infra import faults, storage
from ...infra.secrets import hide
from ..engine.job import StopJob

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between two attempts
SAY_SECONDS = 30.0  # between two lines of the log


class RootLost(StopJob):
    """The root could not be written for too long; nothing that is made could be kept."""


class Patience:
    """seconds: how long a root may refuse, from its first error on. waiting: why it is waited for now, "" if not."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.waiting = seconds, ""

    def keep(self, write: Callable[[], T]) -> T:
        """What `write` returns, once it can.

        Raises:
            RootLost: it failed for reasons of the place for too long. Other errors are raised at once.
        """
        start, pause, said = time.monotonic(), FIRST_PAUSE, 0.0
        try:
            while True:
                try:
                    return write()
                except Exception as error:
                    if not faults.of_place(error):
                        raise
                    now, why = time.monotonic(), hide(faults.sentence(error))
                    if now - start >= self.seconds:
                        raise RootLost(
                            f"the root could not be used for {now - start:.0f} s (engine.patience): {why}; then run "
                            "the same command again"
                        ) from error
                    self.waiting = f"the root cannot be used, waiting for it: {why}"
                    if not said or now - said >= SAY_SECONDS:
                        said = now
                        logger.warning("%s", self.waiting)
                    if faults.name(error) == "access":
                        storage.reconnect()  # credentials may have been renewed
                    time.sleep(max(0.0, min(pause, start + self.seconds - now)))
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self.waiting = ""
