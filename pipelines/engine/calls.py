"""Calls of workers that are done with care, each noted in the root before it begins: a death then says where it was.

ROOT/ledger/calls/ATTEMPT.json is the call that one attempt at a task is in. The worker writes it, the driver reads it
when the worker has died, and deletes it when the attempt has ended.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ...infra import storage

logger = logging.getLogger(__name__)

FOLDER = "calls"


class Spot(NamedTuple):
    """Samples that a worker has in one call: `size` of them from `key` on, in the order of their task.

    name: of the specialist (its label), the codec (its output), or what decodes images.
    """

    name: str
    key: str
    size: int


@dataclass(frozen=True)
class Call:
    """A call at a spot.

    tried: all of its samples have come back in this worker before, in smaller calls. worked: a call of this name has.
    """

    spot: Spot
    tried: bool = False
    worked: bool = False


@dataclass(frozen=True)
class Calls:
    """The notes of a root; "" for none: then nothing is known of a worker that died."""

    root: str = ""

    def note(self, attempt: str, call: Call) -> None:
        """OSError if the root cannot be written."""
        storage.put(self._url(attempt), json.dumps(asdict(call)).encode())

    def read(self, attempt: str) -> Call | None:
        """The call that an attempt was in at last; None if it made none with care, or that cannot be said."""
        if not self.root or not attempt:
            return None
        try:
            raw = json.loads(storage.read_bytes(self._url(attempt)))
            name, key, size = raw["spot"]
            return Call(Spot(str(name), str(key), int(size)), bool(raw["tried"]), bool(raw["worked"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("what the attempt %s was at cannot be said: %s", attempt, error)
            return None

    def forget(self, attempt: str) -> None:
        """The attempt has ended."""
        if not self.root or not attempt:
            return
        try:
            storage.delete(self._url(attempt))
        except OSError as error:  # `fourmill check` names it
            logger.warning("the note of the attempt %s cannot be removed: %s", attempt, error)

    def _url(self, attempt: str) -> str:
        return storage.join(self.root, "ledger", FOLDER, f"{attempt}.json")
